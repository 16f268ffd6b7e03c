"""A segmentation run from its plan to its numbers, the same in one process and in many."""

import argparse
import contextlib
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from converters import distributed
from converters.devices import explained_lack_of_memory
from converters.distributed import Ranks
from converters.randomness import position_seed
from converters.reading import request_from
from converters.targets import quiet
from transfer.progress import duration
from transfer.results import append_new
from transfer.segmentation_evaluation import Segmented, build_dataset, segment, try_validation, write_predictions
from transfer.segmentation_files import CLASSES, CONFUSIONS, CURVES, METRICS, PICTURE, PREDICTIONS, RESULTS, SHOWN
from transfer.segmentation_options import explained_options
from transfer.segmentation_pictures import Shown, draw_curves, draw_segmentations
from transfer.segmentation_plan import Run, choose_dataset, prepare, print_plan
from transfer.segmentation_proof import check_features, check_loaded, check_trainable, trial
from transfer.segmentation_results import place, print_results, results, write_classes
from transfer.segmentation_training import load_trained, train
from transfer.starting_weights import FILE, certify
from transfer.training_folder import read_proof, run_folder, take, write_proof

with quiet():
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules


def run(args: argparse.Namespace, ranks: Ranks) -> int:
    """Do what the command was asked for; returns its exit code.

    Args:
        args: of `transfer.segmentation`.
        ranks: this process among its peers.

    Raises:
        InputError: a user's mistake; nothing was overwritten.
    """
    _silence()
    with quiet():
        register_all_modules()
    with contextlib.ExitStack() as stack:
        choose_dataset(args, ranks)
        output = run_folder(args.output, ranks, stack, dry=args.dry_run)
        this = distributed.together(ranks, lambda: prepare(args, ranks, output))
        print_plan(this)
        if not args.dry_run:
            config = "config.py", this.plan.config.pretty_text
            # processes only share the images then, and another way to validate is no other training
            free = ("processes", "test_dataloader", "tta_model") if args.eval_only else ()
            take(output, this.identity, config, ranks, stack, begun=args.resume or args.eval_only, free=free)
        model = distributed.together(ranks, lambda: _build(this))
        if args.eval_only:
            iterations = distributed.together(ranks, lambda: load_trained(model, output))
            distributed.together(ranks, lambda: read_proof(output))  # before hours of validation
        else:
            _prove(this, model)
            iterations = this.plan.iterations
        if not args.dry_run:
            if iterations and not args.eval_only:  # none: the untrained segmentor is tested
                dataset = build_dataset(this.plan.config.train_dataloader.dataset, this.data.train)
                with explained_lack_of_memory("continue with --resume on a larger device, or lower --batch-size"):
                    train(model, this.plan, dataset, args.seed, output, ranks, resume=args.resume)
            started = time.monotonic()
            with explained_lack_of_memory("validate on a larger device, such as --device cpu, by --eval-only"):
                found = segment(model, this.plan, this.data.validation, ranks)
            if found is not None:
                _record(this, found, iterations, started)
        distributed.together(ranks, lambda: None)  # before the main process removes what it has lent to the others
    return 0


def _silence() -> None:
    """Of what MMSegmentation warns of, nothing is wrong or could be mended here."""
    warnings.filterwarnings("ignore", message="The shape of value will convert")  # its own merged prediction


def _build(this: Run) -> nn.Module:
    """The segmentor with random weights, the same on every process.

    Raises:
        InputError: MMSegmentation does not accept the configuration.
    """
    _seed_heads(this)
    with quiet(), explained_options(this.args.cfg_options):
        model: nn.Module = MODELS.build(this.plan.config.model)
    if this.ranks.world_size == 1:
        with quiet():
            model = revert_sync_batchnorm(model)
    return model.to(this.ranks.device).train()


def _seed_heads(this: Run) -> None:
    """Make the heads' first weights a function of the seed: some are drawn when they are built, some afterwards."""
    torch.manual_seed(position_seed(this.args.seed, "heads"))


def _prove(this: Run, model: nn.Module) -> None:
    """Load the weights, and show that the segmentor is the one that the protocol means."""
    args, path, ranks = this.args, this.output / FILE, this.ranks
    request, checkpoint = request_from(args), this.weights.checkpoint

    def written() -> list[str]:
        return certify(this.weights, request, "mmseg", path, allow_unverified=args.allow_unverified)

    def proven() -> list[str]:
        _seed_heads(this)  # certificates draw numbers, which a control has none of
        with quiet():
            model.init_weights()  # type: ignore[operator]
        loaded = check_loaded(model, checkpoint)
        return [loaded, *check_trainable(model, this.plan), check_features(model, this.plan, checkpoint)]

    lines = distributed.together(ranks, lambda: written() if ranks.is_main else [])
    lines += distributed.together(ranks, proven)
    for line in lines:
        this.console.print(line, markup=False)
    if ranks.is_main:
        write_proof(this.output, lines)
    distributed.together(ranks, lambda: _try(this, model))


def _try(this: Run, model: nn.Module) -> None:
    """One iteration and one validation image, so that what breaks does so now."""
    plan, data = this.plan, this.data
    with explained_options(this.args.cfg_options):
        with explained_lack_of_memory("validate on a larger device, or at fewer scales"):
            try_validation(model, plan, data.validation)
        if not plan.iterations:
            return
        cost = trial(model, plan, data.train, plan.batch_size // this.ranks.world_size)
    this.console.print(
        f"expected: about {cost.memory / 2**30:.1f} GiB in a process for an iteration of {cost.seconds:.2f} s, "
        f"{duration(cost.seconds * plan.iterations)} in all, without the validation",
        markup=False,
    )


def _record(this: Run, found: Segmented, iterations: int, started: float) -> None:
    """Keep what was found, and say how good that is."""
    folder = this.output / place(this, iterations)
    folder.mkdir(exist_ok=True)
    found.confusions.save(folder / CONFUSIONS)
    write_classes(this, found.confusions, folder / CLASSES)
    numbers = append_new(list(results(this, found.confusions, iterations, started)), this.output / RESULTS)
    print_results(this, numbers, found.confusions)
    _draw(this, found, folder)


def _draw(this: Run, found: Segmented, folder: Path) -> None:
    """The first images as Figure 7 of the GSG paper shows them, and the curves of training."""
    labels, count = this.data.validation, len(found.first)
    write_predictions(found.first, labels, folder / PREDICTIONS)
    images, annotations = (
        tuple(str(path.absolute()) for path in paths[:count]) for paths in (labels.images, labels.annotations)
    )
    shown = Shown(labels.names[:count], images, annotations, labels.classes, labels.palette)
    shown.write(folder / SHOWN)
    draw_segmentations(shown, {this.weights.representation.label: folder / PREDICTIONS}, folder / PICTURE)
    if (this.output / METRICS).is_file():
        draw_curves(this.output / METRICS, this.output / CURVES)
