"""A detection run from its plan to its numbers, the same in one process and in many."""

import argparse
import contextlib
import json
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from converters import distributed
from converters.distributed import Ranks
from converters.errors import InputError
from converters.randomness import position_seed
from converters.reading import request_from
from converters.targets import quiet
from transfer import detection_data, sample_data
from transfer.detection_boxes import BoxSet, Record
from transfer.detection_config import Plan, build_plan
from transfer.detection_data import BoxData
from transfer.detection_evaluation import detect, match, write_detections
from transfer.detection_folder import IDENTITY, DetectionFolder
from transfer.detection_metrics import Detections
from transfer.detection_pictures import draw_curves, draw_detections
from transfer.detection_proof import check_features, check_trainable, measure_cost
from transfer.detection_training import METRICS, epochs, load_trained, logged_to, train
from transfer.detection_weights import FILE, Weights, certify, choose
from transfer.results import Result, append, current_versions, protocol_hash, read

with quiet():
    import detectron2
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import CfgNode
    from detectron2.data.build import filter_images_with_only_crowd_annotations
    from detectron2.modeling import GeneralizedRCNN, build_model

RESULTS = "results.jsonl"
PROOF = "proof.json"

_SCENES = Path("runs/scenes")


@dataclass(frozen=True)
class _Run:
    """What a run works on.

    Attributes:
        args: of the command.
        ranks: this process among its peers.
        output: its folder.
        data: the sets of boxes.
        records: Detectron2's, of the training images that show something.
        weights: that it starts from.
        plan: Detectron2's configuration.
        console: of the main process.
    """

    args: argparse.Namespace
    ranks: Ranks
    output: Path
    data: BoxData
    records: list[Record]
    weights: Weights
    plan: Plan
    console: Console

    @property
    def config(self) -> CfgNode:
        """Detectron2's configuration."""
        return self.plan.config

    @property
    def protocol(self) -> str:
        """Its name, with all that a user changed."""
        trained_on = f", VOC{self.args.voc_train}" if self.args.dataset == "voc" else ""
        return f"{self.plan.protocol}{trained_on}{', excerpt' if self.args.excerpt else ''}"

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what the run computes."""
        representation = self.weights.representation
        return {
            **self.plan.identity,
            "checkpoint": representation.sha256 or representation.label,
            "reading": representation.reading,
            "data": {each.name: each.fingerprint for each in (*self.data.train, *self.data.test)},
            "processes": self.ranks.world_size,
        }


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
        output = _output(args, ranks, stack)
        this = distributed.together(ranks, lambda: _prepare(args, ranks, output))
        _print_plan(this)
        if not args.dry_run:
            _open(this, stack)
        distributed.together(ranks, lambda: stack.enter_context(logged_to(output, ranks.rank)))
        torch.manual_seed(position_seed(args.seed, "heads"))
        model = build_model(this.config)
        if args.eval_only:
            iterations = distributed.together(ranks, lambda: load_trained(model, output))
        else:
            _prove(this, model)
            iterations = this.config.SOLVER.MAX_ITER
        if not args.dry_run:
            if iterations and not args.eval_only:  # none: the untrained detector is tested
                train(model, this.config, this.records, args.seed, ranks, resume=args.resume)
            _measure(this, model, iterations)
        distributed.together(ranks, lambda: None)  # before the main process removes what it has lent to the others
    return 0


def _output(args: argparse.Namespace, ranks: Ranks, stack: contextlib.ExitStack) -> Path:
    """The run's folder; for a dry run a temporary one, the main process's for all."""
    if not args.dry_run:
        return Path(args.output)
    temporary = distributed.from_main(stack.enter_context(tempfile.TemporaryDirectory()) if ranks.is_main else None)
    assert temporary is not None
    return Path(temporary)


def _silence() -> None:
    """Of what Detectron2 makes torch complain about, nothing is wrong or could be mended here."""
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # its anchors mean the default
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # by a name that torch 2.6 lacks
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # it asks whether it is being traced


def _prepare(args: argparse.Namespace, ranks: Ranks, output: Path) -> _Run:
    """Read and check everything that does not need a detector."""
    console = Console(highlight=False, soft_wrap=True, quiet=not ranks.is_main)
    data = _data(args)
    detection_data.register(data)
    names = [each.name for each in data.train]
    images = [record["file_name"] for each in data.train for record in each.dicts]
    weights = choose(args.ckpt, request_from(args), args.seed, images, ranks.device)
    settings = {
        "DATASETS.TRAIN": tuple(names),
        "DATASETS.TEST": tuple(each.name for each in data.test),
        "MODEL.ROI_HEADS.NUM_CLASSES": len(data.train[0].classes),
        "MODEL.DEVICE": str(ranks.device),
        "SEED": args.seed,
        "OUTPUT_DIR": str(output),
    }
    plan = build_plan(
        args.dataset,
        args.protocol,
        weights.checkpoint,
        output / FILE,
        settings,
        batch_size=args.batch_size,
        amp=args.amp,
        opts=args.opts,
    )
    _check_machine(plan.config, ranks)
    records = [record for each in data.train for record in each.dicts]
    if plan.config.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    return _Run(args, ranks, output, data, records, weights, plan, console)


def _data(args: argparse.Namespace) -> BoxData:
    if args.dataset == "sample":
        folder = args.data_root or _SCENES
        categories = dict(zip(sample_data.COCO_IDS, sample_data.CLASSES, strict=True))
        voc, coco = (sample_data.sample_root(layout, folder) for layout in ("voc", "coco"))
        return detection_data.sample(voc, coco, categories)
    root = detection_data.find_root(args.data_root)
    if args.dataset == "voc":
        return detection_data.voc(root, args.voc_train, check_sizes=not args.excerpt)
    return detection_data.coco(root, check_sizes=not args.excerpt)


def _check_machine(config: CfgNode, ranks: Ranks) -> None:
    """Refuse what this machine cannot compute before hours are spent on it."""
    batch = config.SOLVER.IMS_PER_BATCH
    if batch % ranks.world_size:
        raise InputError(
            f"expected a batch that {ranks.world_size} processes can share, got {batch}; use a --batch-size that "
            f"{ranks.world_size} divides, or another number of processes"
        )
    if ranks.device.type != "cuda" and config.SOLVER.AMP.ENABLED:
        raise InputError(f"--amp needs a GPU, and this run is on {ranks.device}; leave it out")
    if ranks.device.type != "cuda" and "SyncBN" in (config.MODEL.RESNETS.NORM, config.MODEL.FPN.NORM):
        raise InputError(f"SyncBN trains on GPUs only, and this run is on {ranks.device}; use --protocol published")


def _open(this: _Run, stack: contextlib.ExitStack) -> None:
    """Take the run's folder, and write the configuration into it."""

    def folder() -> None:
        if not this.ranks.is_main:
            return
        begun = this.args.resume or this.args.eval_only
        free = ("processes",) if this.args.eval_only else ()  # which only share the images then
        stack.enter_context(DetectionFolder(this.output, this.identity, begun=begun, free=free))
        (this.output / "config.yaml").write_text(this.config.dump(), encoding="utf-8")

    distributed.together(this.ranks, folder)
    distributed.agree(
        this.ranks, json.dumps(this.identity), "the processes do not read the same data or weights; give all the same"
    )
    seen = (this.output / IDENTITY).is_file()
    distributed.agree(this.ranks, str(seen), f"{this.output} is not seen by all machines; --output must be shared")


def _print_plan(this: _Run) -> None:
    say, solver = this.console.print, this.config.SOLVER
    say(f"Detectron2 {detectron2.__version__} of {Path(detectron2.__file__).parent}", markup=False)
    for each in (*this.data.train, *this.data.test):
        use = "train" if each in this.data.train else "test"
        say(
            f"{use}: {each.name}, {len(each.dicts)} images, {len(each.truth.label)} boxes, {len(each.classes)} classes",
            markup=False,
        )
        for note in each.notes:
            say(f"  {note}", markup=False)
    representation = this.weights.representation
    say(f"{representation.label}{f': {representation.path}' if representation.path else ''}", markup=False)
    if representation.origin:
        say(f"  read as {representation.origin}", markup=False)
    say(f"protocol: {this.protocol} ({this.plan.protocol_hash})", markup=False)
    for change in this.plan.changes:
        say(f"  changed: {change}", markup=False)
    steps = "/".join(map(str, solver.STEPS))
    say(
        f"  {solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images on {this.ranks.world_size} "
        f"{this.ranks.device.type} process(es), {epochs(this.config, len(this.records)):.1f} passes over "
        f"{len(this.records)} images with boxes; rate {solver.BASE_LR:g}, divided by {1 / solver.GAMMA:g} at {steps}, "
        f"warm-up {solver.WARMUP_ITERS}",
        markup=False,
    )
    say(f"to {this.args.output}", markup=False)


def _prove(this: _Run, model: GeneralizedRCNN) -> None:
    """Load the weights, and show that the detector is the one that the protocol means."""
    args, path = this.args, this.output / FILE
    request = request_from(args)

    def written() -> list[str]:
        return certify(this.weights, request, path, allow_unverified=args.allow_unverified)

    def proven() -> list[str]:
        DetectionCheckpointer(model).load(str(path))
        return [*check_trainable(model, this.config), check_features(model, this.config, this.weights.checkpoint)]

    lines = distributed.together(this.ranks, lambda: written() if this.ranks.is_main else [])
    lines += distributed.together(this.ranks, proven)
    for line in lines:
        this.console.print(line, markup=False)
    if this.ranks.is_main:
        (this.output / PROOF).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    if this.config.SOLVER.MAX_ITER:
        batch = this.config.SOLVER.IMS_PER_BATCH // this.ranks.world_size
        cost = distributed.together(this.ranks, lambda: measure_cost(model, this.config, this.records, batch))
        seconds = cost.seconds * this.config.SOLVER.MAX_ITER
        this.console.print(
            f"expected: {cost.memory / 2**30:.1f} GiB in a process for an iteration of {cost.seconds:.2f} s, "
            f"{_duration(seconds)} in all, without tests",
            markup=False,
        )


def _measure(this: _Run, model: GeneralizedRCNN, iterations: int) -> None:
    """Test the detector, and record what it finds and how good that is."""
    new = []
    for index, boxes in enumerate(this.data.test):
        started = time.monotonic()
        detections = detect(model, this.config, boxes, this.ranks)
        if detections is None:
            continue
        write_detections(boxes, detections, this.output / _detections_file(this, boxes, iterations))
        new += list(_results(this, boxes, detections, iterations, started))
        if index == 0:
            draw_detections(boxes, detections, this.output / "detections.png")
    if this.ranks.is_main:
        if (this.output / METRICS).is_file():
            draw_curves(this.output / METRICS, this.output / "curves.png")
        _print_results(this, _record(new, this.output / RESULTS))


def _results(this: _Run, boxes: BoxSet, detections: Detections, iterations: int, started: float) -> Iterator[Result]:
    matches = match(boxes, detections)
    values, intervals = matches.values(), matches.intervals()
    classes = {
        name: value
        for name, value in zip(boxes.classes, matches.per_class().tolist(), strict=True)
        if not math.isnan(value)
    }
    protocol, settings = _named(this, iterations)
    proof = json.loads((this.output / PROOF).read_text(encoding="utf-8"))
    dataset, split = boxes.name.rsplit("_", 1)
    representation = this.weights.representation
    for metric, value in values.items():
        if math.isnan(value):  # no object of this size
            continue
        yield Result(
            task="detection",
            dataset=dataset,
            split=split,
            protocol=protocol,
            protocol_hash=protocol_hash(settings),
            metric=metric,
            value=value,
            unit="share",
            num_examples=len(boxes.dicts),
            interval=intervals[metric],
            representation=representation.label,
            checkpoint_sha256=representation.sha256,
            seed=representation.seed,
            details={
                "rule": "11-point, IoU with whole pixels" if boxes.layout == "voc" else "COCO, 101 points",
                "iterations": iterations,
                "images_seen": iterations * this.config.SOLVER.IMS_PER_BATCH,
                "train": [each.name for each in this.data.train],
                "run_seed": this.args.seed,
                "processes": this.ranks.world_size,
                "device": _device_name(this.ranks.device),
                "opts": this.args.opts,
                "settings": settings,
                "data": boxes.fingerprint,
                "detections": _detections_file(this, boxes, iterations),
                "proof": proof,
                **({"reading": representation.reading} if representation.reading else {}),
                **({"per_class": classes} if metric == "AP" else {}),
            },
            seconds=round(time.monotonic() - started, 2),
            versions={**current_versions(), "detectron2": _detectron2_version()},
        )


def _named(this: _Run, iterations: int) -> tuple[str, dict[str, Any]]:
    """The protocol's name and settings, with what keeps a number from those of others: it is not whole."""
    name, settings = this.protocol, this.plan.settings
    if this.args.excerpt:
        settings |= {"excerpt": [each.fingerprint for each in (*this.data.train, *this.data.test)]}
    if iterations < this.config.SOLVER.MAX_ITER:
        name += f", unfinished: iteration {iterations} of {this.config.SOLVER.MAX_ITER}"
        settings |= {"iterations": iterations}
    return name, settings


def _detections_file(this: _Run, boxes: BoxSet, iterations: int) -> str:
    unfinished = f"_{iterations}" if iterations < this.config.SOLVER.MAX_ITER else ""
    return f"detections_{boxes.name}{unfinished}.json"


def _record(new: list[Result], path: Path) -> list[Result]:
    """Append what is not there, and return what is there now: a state is tested once."""

    def key(result: Result) -> tuple[Any, ...]:
        return result.dataset, result.split, result.metric, result.protocol_hash, result.details["iterations"]

    known = {key(result): result for result in (read(path)[0] if path.is_file() else [])}
    append([result for result in new if key(result) not in known], path)
    return [known.get(key(result), result) for result in new]


def _print_results(this: _Run, results: list[Result]) -> None:
    table = Table(title="per cent [95 % interval over the test images]", title_justify="left")
    for header in ("test set", "images", "metric", "", "interval"):
        table.add_column(header, justify="left" if header in ("test set", "metric") else "right")
    for result in results:
        low, high = (100 * bound for bound in result.interval)
        name = f"{result.dataset}_{result.split}"
        interval = f"[{low:.1f}, {high:.1f}]"
        table.add_row(name, str(result.num_examples), result.metric, f"{100 * result.value:.1f}", interval)
    this.console.print(table, soft_wrap=False)
    if this.args.dataset == "sample":
        this.console.print("The sample says that the pipeline works; it says nothing about any other data.")
    this.console.print(f"in {this.output}: {RESULTS}, detections_*.json, detections.png, curves.png", markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _detectron2_version() -> str:
    """Upstream's number, and that of the package where it is another's."""
    try:
        return f"{detectron2.__version__} (sal-detectron2 {version('sal-detectron2')})"
    except PackageNotFoundError:
        return str(detectron2.__version__)
