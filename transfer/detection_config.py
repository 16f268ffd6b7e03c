"""Detectron2's configuration of a run: a protocol's file, then what the checkpoint, the data and the user say."""

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from converters.checkpoint import Checkpoint
from converters.errors import InputError, first_few, unknown
from converters.targets import quiet, to_detectron2
from transfer.results import protocol_hash

with quiet():
    from detectron2.config import CfgNode, get_cfg

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "detection"

# what decides where and how fast a run computes
_PLACE = (
    *("OUTPUT_DIR", "VERSION", "VIS_PERIOD", "MODEL.DEVICE", "MODEL.WEIGHTS"),
    *("DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD"),
)

# what belongs to the checkpoint and the run instead of the protocol
_NO_PROTOCOL = (
    *_PLACE,
    *("SEED", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT"),
    *("MODEL.RESNETS.DEPTH", "MODEL.RESNETS.RES2_OUT_CHANNELS"),
)

# keys with a flag of their own, which does more than to set them
_FLAGS = {
    "OUTPUT_DIR": "--output",
    "SEED": "--seed",
    "MODEL.DEVICE": "--device",
    "MODEL.WEIGHTS": "--ckpt",
    "MODEL.ROI_HEADS.NUM_CLASSES": "--dataset",
    "DATASETS.TRAIN": "--dataset",
    "DATASETS.TEST": "--dataset",
    "SOLVER.AMP.ENABLED": "--amp",
}

# what a run here acts upon; what needs more than boxes is not among it, nor what would change the order of the images
_OPEN = (
    *("MODEL.", "INPUT.", "SOLVER.", "VIS_PERIOD", "DATALOADER.NUM_WORKERS", "DATALOADER.FILTER_EMPTY_ANNOTATIONS"),
    *("TEST.DETECTIONS_PER_IMAGE", "TEST.PRECISE_BN."),
)
_CLOSED = ("MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS", "SOLVER.REFERENCE_WORLD_SIZE")


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Attributes:
        config: Detectron2's, frozen.
        protocol: name of its file without the data set, e.g. ``"published"``, with what the user changed.
        changes: the same in sentences, one for each change.
    """

    config: CfgNode
    protocol: str
    changes: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the protocol, by its key."""
        return {key: value for key, value in flatten(self.config).items() if key not in _NO_PROTOCOL}

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that changes a number, those of the checkpoint and the seed included, by its key."""
        return {key: value for key, value in flatten(self.config).items() if key not in _PLACE}

    @property
    def protocol_hash(self) -> str:
        """Of the settings: numbers of different hashes share no column."""
        return protocol_hash(self.settings)


def protocols(dataset: str) -> tuple[str, ...]:
    """The protocols of a data set, by the names of their files.

    Args:
        dataset: ``"voc"``, ``"coco"`` or ``"sample"``.
    """
    return tuple(sorted(_files(dataset)))


def _files(dataset: str) -> dict[str, Path]:
    """By protocol: voc_published.yaml is ``"published"``, and sample.yaml ``"sample"``."""
    return {path.stem.removeprefix(f"{dataset}_"): path for path in FOLDER.glob(f"{dataset}*.yaml")}


def read_protocol(dataset: str, protocol: str) -> CfgNode:
    """The configuration of a file of `FOLDER`.

    Raises:
        InputError: there is no such protocol for this data set.
    """
    files = _files(dataset)
    if protocol not in files:
        raise unknown(f"protocol of {dataset}", protocol, files)
    config = get_cfg()
    config.merge_from_file(str(files[protocol]))
    return config


def build_plan(
    dataset: str,
    protocol: str,
    checkpoint: Checkpoint,
    weights: Path,
    run: Mapping[str, Any],
    *,
    batch_size: int | None = None,
    amp: bool = False,
    opts: Sequence[str] = (),
) -> Plan:
    """The configuration of a run.

    Args:
        dataset: ``"voc"``, ``"coco"`` or ``"sample"``.
        protocol: one of `protocols`.
        checkpoint: whose pixel conventions and depth replace those of the file.
        weights: the file that Detectron2 will load, in its names.
        run: by Detectron2's keys what the command has flags for: data sets, classes, device, seed, folder.
        batch_size: images of an iteration in place of the protocol's; see `rescale`.
        amp: mixed precision.
        opts: KEY VALUE KEY VALUE ..., as Detectron2 takes them, after everything else.

    Raises:
        InputError: an unknown protocol, a checkpoint that Detectron2's ResNet cannot hold, a batch or an option that
            cannot be.
    """
    refusal = to_detectron2.refusal(checkpoint)
    if refusal is not None:
        raise InputError(f"no detector for this checkpoint: {refusal}; give one of ResNet-18, 34, 50 or 101")
    config = read_protocol(dataset, protocol)
    _use_checkpoint(config, checkpoint, weights)
    for key, value in run.items():
        *path, last = key.split(".")
        # not by merge_from_list, which would read a folder named 0 as a number
        functools.reduce(operator.getitem, path, config)[last] = value
    changes = [] if batch_size is None else rescale(config, batch_size)
    marks = [f"batch {batch_size}"] if changes else []
    if amp:
        config.SOLVER.AMP.ENABLED = True
        changes.append("mixed precision, which the protocol does not use")
        marks.append("amp")
    if opts:
        changes.append(f"--opts {' '.join(opts)}")
        marks.append("opts")
        _use_options(config, opts)
    config.freeze()
    return Plan(config, ", ".join([protocol, *marks]), tuple(changes))


def rescale(config: CfgNode, batch_size: int) -> list[str]:
    """Train on batches of another size by the linear rule: the rate follows the batch, the number of images stays.

    Goyal et al. 2017, section 2.1, with the iterations divided as moco issue 11 reports it for detection. The warm-up
    is left alone, as the published VOC protocol left it. Learning rate, iterations, steps and period of states change.

    Args:
        config: changed in place.
        batch_size: images of an iteration, over all processes.

    Returns:
        What changed, a sentence each; nothing if the batch is the protocol's own.

    Raises:
        InputError: less than one image, or so many that the warm-up would last until the first step or the end.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size: expected 1 or more, got {batch_size}")
    solver, before = config.SOLVER, config.SOLVER.IMS_PER_BATCH
    if batch_size == before:
        return []
    ratio = batch_size / before
    old = solver.BASE_LR, solver.MAX_ITER, tuple(solver.STEPS)
    solver.IMS_PER_BATCH = batch_size
    solver.BASE_LR = solver.BASE_LR * ratio
    solver.MAX_ITER = round(solver.MAX_ITER / ratio)
    solver.STEPS = tuple(round(step / ratio) for step in solver.STEPS)
    solver.CHECKPOINT_PERIOD = max(1, round(solver.CHECKPOINT_PERIOD / ratio))
    if min((*solver.STEPS, solver.MAX_ITER)) <= solver.WARMUP_ITERS:
        raise InputError(
            f"--batch-size {batch_size}: expected the warm-up of {solver.WARMUP_ITERS} iterations to end before the "
            f"rate falls or the run ends, here after {min((*solver.STEPS, solver.MAX_ITER))}; use smaller batches"
        )
    return [
        f"batch {before} -> {batch_size}, learning rate {old[0]:g} -> {solver.BASE_LR:g}, iterations {old[1]} -> "
        f"{solver.MAX_ITER}, steps {_steps(old[2])} -> {_steps(solver.STEPS)}; warm-up of {solver.WARMUP_ITERS} "
        "iterations as before"
    ]


def flatten(config: CfgNode) -> dict[str, Any]:
    """Every leaf of a configuration by its dotted key, in plain types."""

    def leaves(node: dict[str, Any], prefix: str) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in node.items():
            flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return flat

    return leaves(yaml.safe_load(config.dump()), "")


def _use_checkpoint(config: CfgNode, checkpoint: Checkpoint, weights: Path) -> None:
    """Pixel conventions, depth and stride of the weights. How batch norms train is the protocol's choice."""
    norm = config.MODEL.RESNETS.NORM
    config.merge_from_other_cfg(CfgNode(yaml.safe_load(to_detectron2.facts(checkpoint, weights))))
    config.MODEL.RESNETS.NORM = norm


def _use_options(config: CfgNode, opts: Sequence[str]) -> None:
    known = flatten(config)
    if len(opts) % 2:
        raise InputError(f"--opts: expected KEY VALUE pairs, got {len(opts)} words: {first_few(list(opts))}")
    for key in opts[::2]:
        if key in _FLAGS:
            raise InputError(f"--opts: {key} is set by {_FLAGS[key]}; use that")
        if key not in known:
            raise unknown("key of --opts", key, known)
        if key in _CLOSED or not key.startswith(_OPEN):
            raise InputError(f"--opts: {key} would change nothing here, or break the run; leave it out")
    try:
        config.merge_from_list(list(opts))
    except (ValueError, AssertionError) as error:
        raise InputError(f"--opts: {error}; give a value of the same type") from error


def _steps(steps: Sequence[int]) -> str:
    return "/".join(map(str, steps))
