"""What a segmentation run is going to do: read and checked before there is a segmentor, and printed."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from converters.distributed import Ranks
from converters.errors import InputError
from converters.reading import request_from
from transfer import sample_data, segmentation_data
from transfer.results import protocol_hash
from transfer.segmentation_config import Plan, build_plan
from transfer.segmentation_data import LabelData
from transfer.segmentation_packages import find_mmsegmentation
from transfer.starting_weights import FILE, Weights, choose
from transfer.training_arguments import default_output
from transfer.training_folder import IDENTITY


@dataclass(frozen=True)
class Run:
    """What a run works on.

    Attributes:
        args: of the command.
        ranks: this process among its peers.
        output: its folder.
        data: the images and labels.
        weights: that it starts from.
        plan: MMEngine's configuration.
        console: of the main process.
    """

    args: argparse.Namespace
    ranks: Ranks
    output: Path
    data: LabelData
    weights: Weights
    plan: Plan
    console: Console

    def named(self, iterations: int) -> tuple[str, dict[str, Any]]:
        """The protocol's name with all that a user changed, and its settings.

        Both tell a number of the protocol from one that was trained on an excerpt, or not to the end.

        Args:
            iterations: that are finished.
        """
        name, settings, total = self.plan.protocol, self.plan.settings, self.plan.iterations
        if self.processes > 1 and self.plan.norms_differ_between_processes:
            name += f", {self.processes} processes"
            settings |= {"processes": self.processes}
        if self.args.excerpt:
            name += ", excerpt"
            settings |= {"excerpt": [each.fingerprint for each in (self.data.train, self.data.validation)]}
        if iterations < total:
            name += f", unfinished: iteration {iterations} of {total}"
            settings |= {"iterations": iterations}
        return name, settings

    @property
    def processes(self) -> int:
        """That train the segmentor; a finished one may be validated by another number."""
        path = self.output / IDENTITY
        if self.args.eval_only and path.is_file():
            return int(json.loads(path.read_text(encoding="utf-8"))["processes"])
        return self.ranks.world_size

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what the run computes."""
        representation = self.weights.representation
        return {
            **self.plan.identity,
            "seed": self.args.seed,
            "checkpoint": representation.sha256 or representation.label,
            "reading": representation.reading,
            "data": [each.fingerprint for each in (self.data.train, self.data.validation)],
            "processes": self.ranks.world_size,
        }


def prepare(args: argparse.Namespace, ranks: Ranks, output: Path) -> Run:
    """Read and check everything that does not need a segmentor.

    Args:
        args: of `transfer.segmentation`.
        ranks: this process among its peers.
        output: the run's folder.

    Raises:
        InputError: data, checkpoint, protocol, options or machine will not do.
    """
    console = Console(highlight=False, soft_wrap=True, quiet=not ranks.is_main)
    data = _data(args, ranks)
    images = [str(path) for path in data.train.images]
    weights = choose(args.ckpt, request_from(args), args.seed, images, ranks.device)
    plan = build_plan(
        args.dataset,
        args.protocol,
        weights.checkpoint,
        output / FILE,
        data.train.root,
        data.train.classes,
        data.train.palette,
        world_size=ranks.world_size,
        batch_size=args.batch_size,
        amp=args.amp,
        tta=args.tta,
        options=args.cfg_options,
    )
    _check_machine(plan, ranks)
    return Run(args, ranks, output, data, weights, plan, console)


def choose_dataset(args: argparse.Namespace, ranks: Ranks) -> None:
    """Fill in the data set, the protocol and the folder that the user has left out: ADE20K where it is found.

    Args:
        args: of `transfer.segmentation`, changed in place.
        ranks: this process among its peers.
    """
    if args.dataset is None and args.data_root is None and segmentation_data.find_root(None) is None:
        args.dataset = "sample"
        if ranks.is_main:
            print(
                "ADE20K NOT FOUND in data/: the SAMPLE SCENES in its place, whose numbers say nothing about ADE20K "
                "(--data-root names the folder that holds ADEChallengeData2016)",
                flush=True,
            )
    args.dataset = args.dataset or "ade20k"
    args.protocol = args.protocol or ("sample" if args.dataset == "sample" else "csail")
    args.output = args.output or default_output("segmentation", args.dataset, args.protocol)


def _data(args: argparse.Namespace, ranks: Ranks) -> LabelData:
    if args.dataset == "sample":
        if args.excerpt:
            raise InputError("--excerpt belongs to --dataset ade20k; the sample has one size")
        return segmentation_data.sample(sample_data.sample_root("ade20k", args.data_root or sample_data.FOLDER), ranks)
    root = segmentation_data.find_root(args.data_root)
    if root is None:
        raise InputError("ADE20K not found: expected data/ADEChallengeData2016; set --data-root, or --dataset sample")
    return segmentation_data.ade20k(root, ranks, check_sizes=not args.excerpt)


def _check_machine(plan: Plan, ranks: Ranks) -> None:
    """Refuse what this machine cannot compute before hours are spent on it."""
    if ranks.device.type != "cuda" and plan.amp:
        raise InputError(f"--amp needs a GPU, and this run is on {ranks.device}; leave it out")
    if ranks.device.type != "cuda" and ranks.world_size > 1 and "SyncBN" in str(plan.config.model):
        raise InputError(
            f"SyncBN trains on GPUs only, and this run has {ranks.world_size} processes on {ranks.device}; use one"
        )


def print_plan(this: Run) -> None:
    """Say on what, from what, how and where to the run is going to be."""
    say, plan, data = this.console.print, this.plan, this.data
    for name, version in find_mmsegmentation().items():
        say(f"{name} {version}", markup=False)
    for each in (data.train, data.validation):
        say(f"{each.name} {each.split}: {len(each.names)} images, {len(each.classes)} classes", markup=False)
        for note in each.notes:
            say(f"  {note}", markup=False)
    representation = this.weights.representation
    say(f"{representation.label}{f': {representation.path}' if representation.path else ''}", markup=False)
    if representation.origin:
        say(f"  read as {representation.origin}", markup=False)
    name, settings = this.named(plan.iterations)
    say(f"protocol: {name} ({protocol_hash(settings)})", markup=False)
    for change in plan.changes:
        say(f"  changed: {change}", markup=False)
    passes = plan.iterations * plan.batch_size / len(data.train.names)
    optimizer = plan.config.optim_wrapper.optimizer
    say(
        f"  {plan.iterations} iterations of {plan.batch_size} images on {this.ranks.world_size} "
        f"{this.ranks.device.type} process(es), {passes:.1f} passes over {len(data.train.names)} images",
        markup=False,
    )
    scales = "several scales" if plan.tests_at_several_scales else "one scale"
    say(f"  {optimizer.type}, rate {optimizer.lr:g}; validation at {scales}", markup=False)
    if this.ranks.world_size == 1 and "SyncBN" in str(plan.config.model):
        say("  SyncBN is BN in a single process", markup=False)
    say(f"to {this.args.output}", markup=False)
