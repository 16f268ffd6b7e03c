"""What a detection run is going to do: read and checked before there is a detector, and printed."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from converters.distributed import Ranks
from converters.errors import InputError
from converters.reading import request_from
from converters.targets import quiet
from transfer import detection_data, sample_data
from transfer.detection_boxes import BoxSet, Record
from transfer.detection_config import Plan, build_plan
from transfer.detection_data import BoxData
from transfer.results import protocol_hash
from transfer.starting_weights import FILE, Weights, choose

with quiet():
    import detectron2
    from detectron2.config import CfgNode
    from detectron2.data.build import filter_images_with_only_crowd_annotations


@dataclass(frozen=True)
class Run:
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
    def sets(self) -> tuple[BoxSet, ...]:
        """All sets of boxes."""
        return *self.data.train, *self.data.test

    def named(self, iterations: int) -> tuple[str, dict[str, Any]]:
        """The protocol's name with all that a user changed, and its settings.

        Both tell a number of the protocol from one that was trained on an excerpt, or not to the end.

        Args:
            iterations: that are finished.
        """
        name, settings, total = self.plan.protocol, self.plan.settings, self.config.SOLVER.MAX_ITER
        if self.args.dataset == "voc":
            name += f", VOC{self.args.voc_train}"
        if self.args.excerpt:
            name += ", excerpt"
            settings |= {"excerpt": [each.fingerprint for each in self.sets]}
        if iterations < total:
            name += f", unfinished: iteration {iterations} of {total}"
            settings |= {"iterations": iterations}
        return name, settings

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what the run computes."""
        representation = self.weights.representation
        return {
            **self.plan.identity,
            "checkpoint": representation.sha256 or representation.label,
            "reading": representation.reading,
            "data": {each.name: each.fingerprint for each in self.sets},
            "processes": self.ranks.world_size,
        }


def prepare(args: argparse.Namespace, ranks: Ranks, output: Path) -> Run:
    """Read and check everything that does not need a detector.

    Args:
        args: of `transfer.detection`.
        ranks: this process among its peers.
        output: the run's folder.

    Raises:
        InputError: data, checkpoint, protocol, options or machine will not do.
    """
    console = Console(highlight=False, soft_wrap=True, quiet=not ranks.is_main)
    data = _data(args)
    detection_data.register(data)
    records = [record for each in data.train for record in each.dicts]
    images = [record["file_name"] for record in records]
    weights = choose(args.ckpt, request_from(args), args.seed, images, ranks.device)
    settings = {
        "DATASETS.TRAIN": tuple(each.name for each in data.train),
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
    if plan.config.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    return Run(args, ranks, output, data, records, weights, plan, console)


def _data(args: argparse.Namespace) -> BoxData:
    if args.dataset == "sample":
        folder = args.data_root or sample_data.FOLDER
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


def print_plan(this: Run) -> None:
    """Say on what, from what, how and where to the run is going to be."""
    say, solver = this.console.print, this.config.SOLVER
    say(f"Detectron2 {detectron2.__version__} of {Path(detectron2.__file__).parent}", markup=False)
    for use, sets in (("train", this.data.train), ("test", this.data.test)):
        for each in sets:
            sizes = f"{len(each.dicts)} images, {len(each.truth.label)} boxes, {len(each.classes)} classes"
            say(f"{use}: {each.name}, {sizes}", markup=False)
            for note in each.notes:
                say(f"  {note}", markup=False)
    representation = this.weights.representation
    say(f"{representation.label}{f': {representation.path}' if representation.path else ''}", markup=False)
    if representation.origin:
        say(f"  read as {representation.origin}", markup=False)
    name, settings = this.named(solver.MAX_ITER)
    say(f"protocol: {name} ({protocol_hash(settings)})", markup=False)
    for change in this.plan.changes:
        say(f"  changed: {change}", markup=False)
    steps = "/".join(map(str, solver.STEPS))
    passes = solver.MAX_ITER * solver.IMS_PER_BATCH / len(this.records)
    say(
        f"  {solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images on {this.ranks.world_size} "
        f"{this.ranks.device.type} process(es), {passes:.1f} passes over {len(this.records)} images with boxes",
        markup=False,
    )
    say(
        f"  rate {solver.BASE_LR:g}, divided by {1 / solver.GAMMA:g} at {steps}, warm-up {solver.WARMUP_ITERS}",
        markup=False,
    )
    say(f"to {this.args.output}", markup=False)
