"""A detection run from its plan to its numbers, the same in one process and in many."""

import argparse
import contextlib
import logging
import time
import warnings

import torch

from converters import distributed
from converters.distributed import Ranks
from converters.randomness import position_seed
from converters.reading import request_from
from converters.targets import quiet
from transfer.detection_evaluation import detect, match, write_detections
from transfer.detection_pictures import draw_curves, draw_detections
from transfer.detection_plan import Run, prepare, print_plan
from transfer.detection_proof import check_features, check_trainable, trial
from transfer.detection_results import RESULTS, detections_file, matches_file, print_results, results
from transfer.detection_training import METRICS, load_trained, logged_to, train
from transfer.progress import duration
from transfer.results import append_new
from transfer.starting_weights import FILE, certify
from transfer.training_folder import read_proof, run_folder, take, write_proof

with quiet():
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import GeneralizedRCNN, build_model


def run(args: argparse.Namespace, ranks: Ranks) -> int:
    """Do what the command was asked for; returns its exit code.

    Args:
        args: of `transfer.detection`.
        ranks: this process among its peers.

    Raises:
        InputError: a user's mistake; nothing was overwritten.
    """
    _silence()
    with contextlib.ExitStack() as stack:
        output = run_folder(args.output, ranks, stack, dry=args.dry_run)
        this = distributed.together(ranks, lambda: prepare(args, ranks, output))
        print_plan(this)
        if not args.dry_run:
            config = "config.yaml", this.config.dump()
            free = ("processes",) if args.eval_only else ()  # which only share the images then
            take(output, this.identity, config, ranks, stack, begun=args.resume or args.eval_only, free=free)
        distributed.together(ranks, lambda: stack.enter_context(logged_to(output, ranks.rank)))
        torch.manual_seed(position_seed(args.seed, "heads"))
        model = build_model(this.config)
        if args.eval_only:
            iterations = distributed.together(ranks, lambda: load_trained(model, output))
            distributed.together(ranks, lambda: read_proof(output))  # before hours of testing
        else:
            _prove(this, model)
            iterations = this.config.SOLVER.MAX_ITER
        if not args.dry_run:
            if iterations and not args.eval_only:  # none: the untrained detector is tested
                train(model, this.config, this.records, args.seed, ranks, resume=args.resume)
            _measure(this, model, iterations)
        distributed.together(ranks, lambda: None)  # before the main process removes what it has lent to the others
    return 0


def _silence() -> None:
    """Of what Detectron2 makes torch complain about, nothing is wrong or could be mended here."""
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # its anchors mean the default
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # by a name that torch 2.6 lacks
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # it asks whether it is being traced


def _prove(this: Run, model: GeneralizedRCNN) -> None:
    """Load the weights, and show that the detector is the one that the protocol means."""
    args, path = this.args, this.output / FILE
    request = request_from(args)

    def written() -> list[str]:
        return certify(this.weights, request, "detectron2", path, allow_unverified=args.allow_unverified)

    def proven() -> list[str]:
        DetectionCheckpointer(model).load(str(path))
        return [*check_trainable(model, this.config), check_features(model, this.config, this.weights.checkpoint)]

    lines = distributed.together(this.ranks, lambda: written() if this.ranks.is_main else [])
    lines += distributed.together(this.ranks, proven)
    for line in lines:
        this.console.print(line, markup=False)
    if this.ranks.is_main:
        write_proof(this.output, lines)
    if this.config.SOLVER.MAX_ITER:
        batch = this.config.SOLVER.IMS_PER_BATCH // this.ranks.world_size
        cost = distributed.together(this.ranks, lambda: trial(model, this.config, this.records, batch))
        seconds = cost.seconds * this.config.SOLVER.MAX_ITER
        this.console.print(
            f"expected: {cost.memory / 2**30:.1f} GiB in a process for an iteration of {cost.seconds:.2f} s, "
            f"{duration(seconds)} in all, without tests",
            markup=False,
        )


def _measure(this: Run, model: GeneralizedRCNN, iterations: int) -> None:
    """Test the detector, and record what it finds and how good that is."""
    new = []
    for index, boxes in enumerate(this.data.test):
        started = time.monotonic()
        detections = detect(model, this.config, boxes, this.ranks)
        if detections is None:
            continue
        write_detections(boxes, detections, this.output / detections_file(this, boxes, iterations))
        matches = match(boxes, detections)
        matches.save(this.output / matches_file(this, boxes, iterations))
        new += list(results(this, boxes, matches, iterations, started))
        if index == 0:
            draw_detections(boxes, detections, this.output / "detections.png")
    if this.ranks.is_main:
        if (this.output / METRICS).is_file():
            draw_curves(this.output / METRICS, this.output / "curves.png")
        print_results(this, append_new(new, this.output / RESULTS))
