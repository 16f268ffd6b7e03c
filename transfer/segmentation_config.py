"""MMEngine's configuration of a run: a protocol's file, then what the checkpoint, the data and the user say."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.errors import InputError, unknown
from converters.targets import quiet, to_mmseg
from transfer.results import protocol_hash
from transfer.segmentation_options import try_options, use_options

with quiet():
    from mmengine.config import Config

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "segmentation"

_BASE, _SAMPLE = "upernet", "sample"

# what decides a number
_PARTS = ("model", "train_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")

# what decides where and how fast a run computes, and what belongs to the checkpoint instead of the protocol
_PLACE = ("data_root", "num_workers", "persistent_workers", "batch_size", "prefetch_factor", "pin_memory", "sampler")
_CHECKPOINT = {
    "data_preprocessor": ("mean", "std", "bgr_to_rgb"),
    "backbone": ("depth", "init_cfg"),
    "decode_head": ("in_channels",),
    "auxiliary_head": ("in_channels",),
}


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Attributes:
        config: MMEngine's, complete.
        protocol: name of its file, with what the user changed.
        changes: the same in sentences, one for each change.
        batch_size: images of an iteration, over all processes.
    """

    config: Config
    protocol: str
    changes: tuple[str, ...]
    batch_size: int

    @property
    def iterations(self) -> int:
        """Of the whole training."""
        return int(self.config.train_cfg.max_iters)

    @property
    def amp(self) -> bool:
        """Whether training is in mixed precision."""
        return bool(self.config.optim_wrapper.type == "AmpOptimWrapper")

    @property
    def norms_differ_between_processes(self) -> bool:
        """Whether batch norms train of which each process has statistics of its own."""
        model = self.config.model
        own = model.decode_head.norm_cfg.type == "BN"
        return bool(own or (model.backbone.norm_cfg.type == "BN" and not model.backbone.get("norm_eval", False)))

    @property
    def tests_at_several_scales(self) -> bool:
        """Whether validation averages over several views of an image."""
        return _at_several_scales(self.config)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the protocol, in plain types."""
        settings = self.identity
        for part, names in _CHECKPOINT.items():
            for name in names:
                (settings["model"].get(part) or {}).pop(name, None)
        return settings

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that changes a number, those of the checkpoint included, in plain types."""
        content = {name: self.config[name] for name in _PARTS}
        if self.tests_at_several_scales:
            content["tta_model"] = self.config.tta_model
        settings: dict[str, Any] = json.loads(json.dumps(content))
        for name in ("train_dataloader", "test_dataloader"):
            for place in _PLACE:
                settings[name].pop(place, None)
                settings[name]["dataset"].pop(place, None)
            settings[name]["dataset"].get("metainfo", {}).pop("palette", None)
        settings["model"]["backbone"].pop("init_cfg")
        return settings | {"batch_size": self.batch_size}

    @property
    def protocol_hash(self) -> str:
        """Of the settings: numbers of different hashes share no column."""
        return protocol_hash(self.settings)


def protocols(dataset: str) -> tuple[str, ...]:
    """The protocols of a data set, by the names of their files.

    Args:
        dataset: ``"ade20k"`` or ``"sample"``.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    return (_SAMPLE,) if dataset == "sample" else tuple(name for name in names if name not in (_BASE, _SAMPLE))


def read_protocol(dataset: str, protocol: str) -> Config:
    """The configuration of a file of `FOLDER`.

    Raises:
        InputError: there is no such protocol for this data set.
    """
    if protocol not in protocols(dataset):
        raise unknown(f"protocol of {dataset}", protocol, protocols(dataset))
    return Config.fromfile(str(FOLDER / f"{protocol}.py"))


def build_plan(
    dataset: str,
    protocol: str,
    checkpoint: Checkpoint,
    weights: Path,
    data_root: Path,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    world_size: int = 1,
    batch_size: int | None = None,
    amp: bool = False,
    tta: bool = False,
    options: Sequence[str] = (),
) -> Plan:
    """The configuration of a run.

    Args:
        dataset: ``"ade20k"`` or ``"sample"``.
        protocol: one of `protocols`.
        checkpoint: whose pixel conventions, depth and widths replace those of the file.
        weights: the file that MMEngine will load, in its names.
        data_root: the folder ADEChallengeData2016.
        classes: names of the network's labels.
        palette: their colours, RGB.
        world_size: number of processes, which share a batch.
        batch_size: images of an iteration in place of the protocol's; see `rescale`.
        amp: mixed precision.
        tta: validate at several scales and mirrored.
        options: ``key=value``, ..., as MMEngine takes them, after everything else.

    Raises:
        InputError: an unknown protocol, a checkpoint that MMSegmentation's ResNet cannot hold, a batch or an option
            that cannot be.
    """
    refusal = to_mmseg.refusal(checkpoint)
    if refusal is not None:
        raise InputError(f"no segmentor for this checkpoint: {refusal}; give one of ResNet-18, 34, 50 or 101")
    config = read_protocol(dataset, protocol)
    _use_checkpoint(config, checkpoint, weights)
    _use_data(config, data_root, classes, palette)
    changes = dict[str, list[str]]()  # by what marks the protocol's name
    total = int(config.auto_scale_lr.base_batch_size) if batch_size is None else batch_size
    changes[f"batch {total}"] = [] if batch_size is None else rescale(config, batch_size)
    _share_batch(config, total, world_size)
    if amp:
        changes["amp"] = _use_mixed_precision(config)
    if tta:
        changes["tta"] = _test_at_several_scales(config, protocol)
    if options:
        use_options(config, options)
        changes["options"] = [f"--cfg-options {' '.join(options)}", *_check_options(config, checkpoint)]
        try_options(config, options)
    _check_norms(config, world_size)
    marks = [mark for mark, told in changes.items() if told]
    return Plan(config, ", ".join([protocol, *marks]), tuple(chain(*changes.values())), total)


def rescale(config: Config, batch_size: int) -> list[str]:
    """Train on batches of another size by the linear rule: the rate follows the batch, the number of images stays.

    Goyal et al. 2017, section 2.1. The last rate of the schedule follows as well; iterations, the schedule's end and
    the period of states change with the batch's inverse.

    Args:
        config: changed in place.
        batch_size: images of an iteration, over all processes.

    Returns:
        What changed, a sentence each; nothing if the batch is the protocol's own.

    Raises:
        InputError: less than one image.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size: expected 1 or more, got {batch_size}")
    before = int(config.auto_scale_lr.base_batch_size)
    if batch_size == before:
        return []
    ratio = batch_size / before
    optimizer, loop, states = config.optim_wrapper.optimizer, config.train_cfg, config.default_hooks.checkpoint
    old = optimizer.lr, loop.max_iters, [schedule.eta_min for schedule in config.param_scheduler]
    optimizer.lr *= ratio
    loop.max_iters = max(1, round(loop.max_iters / ratio))
    states.interval = max(1, round(states.interval / ratio))
    for schedule in config.param_scheduler:
        schedule.eta_min *= ratio
        schedule.end = max(1, round(schedule.end / ratio))
    lasts = zip(old[2], config.param_scheduler, strict=True)
    ends = "".join(f" (at the end {rate:g} -> {schedule.eta_min:g})" for rate, schedule in lasts if rate)
    return [
        f"batch {before} -> {batch_size}, learning rate {old[0]:g} -> {optimizer.lr:g}{ends}, iterations {old[1]} -> "
        f"{loop.max_iters}"
    ]


def _use_checkpoint(config: Config, checkpoint: Checkpoint, weights: Path) -> None:
    """Pixel conventions, depth and widths of the weights. How batch norms train is the protocol's choice."""
    facts = Config.fromstring(to_mmseg.facts(checkpoint, weights), ".py").model
    model = config.model
    for name in ("mean", "std", "bgr_to_rgb"):
        model.data_preprocessor[name] = facts.data_preprocessor[name]
    for name in ("depth", "style", "deep_stem"):
        model.backbone[name] = facts.backbone[name]
    model.backbone.init_cfg = {**facts.backbone.init_cfg, "checkpoint": str(weights)}
    model.decode_head.in_channels = facts.decode_head.in_channels
    if "auxiliary_head" in model:
        model.auxiliary_head.in_channels = facts.decode_head.in_channels[model.auxiliary_head.in_index]


def _use_data(config: Config, root: Path, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset.data_root = str(root)
        if loader.dataset.type == "BaseSegDataset":  # ADE20K's own class has names and colours
            loader.dataset.metainfo = {"classes": list(classes), "palette": [list(colour) for colour in palette]}
    for head in ("decode_head", "auxiliary_head"):
        if head in config.model:
            config.model[head].num_classes = len(classes)


def _share_batch(config: Config, total: int, world_size: int) -> None:
    if total % world_size:
        raise InputError(
            f"expected a batch that {world_size} processes can share, got {total}; use a --batch-size that "
            f"{world_size} divides, or another number of processes"
        )
    config.train_dataloader.batch_size = total // world_size


def _check_norms(config: Config, world_size: int) -> None:
    """Refuse a batch norm of one image: UPerNet pools it to one pixel, which has no variance."""
    norm = config.model.decode_head.norm_cfg.type
    if config.train_dataloader.batch_size == 1 and (norm == "BN" or (norm == "SyncBN" and world_size == 1)):
        raise InputError(
            f"expected at least 2 images for a batch norm ({norm}) in {world_size} process(es), got 1; use a larger "
            "--batch-size, or SyncBN in several processes"
        )


def _use_mixed_precision(config: Config) -> list[str]:
    config.optim_wrapper.merge({"type": "AmpOptimWrapper", "loss_scale": "dynamic"})
    return ["mixed precision, which the protocol does not use"]


def _at_several_scales(config: Config) -> bool:
    return any(step.type == "TestTimeAug" for step in config.test_dataloader.dataset.pipeline)


def _test_at_several_scales(config: Config, protocol: str) -> list[str]:
    if _at_several_scales(config):
        raise InputError(f"--tta: {protocol} validates at several scales already; leave it out")
    if "tta_pipeline" not in config:
        raise InputError(f"--tta: {protocol} has no second way to validate; leave it out")
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    return ["validated at several scales and mirrored"]


def _check_options(config: Config, checkpoint: Checkpoint) -> list[str]:
    """Refuse or tell what only shows once all options are merged."""
    _check_backbone(config, checkpoint)
    iterations = config.train_cfg.max_iters
    if iterations < 0:
        raise InputError(f"--cfg-options: train_cfg.max_iters: expected 0 or more, got {iterations}")
    for loader in (config.train_dataloader, config.test_dataloader):
        if not loader.num_workers:  # torch refuses what means processes if there are none
            loader.persistent_workers = False
            loader.pop("prefetch_factor", None)
    ends = [each.end for each in config.param_scheduler if each.get("end", iterations) != iterations]
    return [f"the schedule of the rate ends at iteration {end}, training at {iterations}" for end in ends]


def _check_backbone(config: Config, checkpoint: Checkpoint) -> None:
    """Refuse a network that the checkpoint's tensors do not fill, which MMEngine would only warn of."""
    backbone = config.model.backbone
    deep = bool(backbone.get("deep_stem", False))
    if backbone.type != "ResNet" or deep:
        raise InputError(
            f"expected plain ResNet, got {backbone.type}{', deep_stem=True' if deep else ''}: the checkpoint has a 7x7 "
            f"stem ({checkpoint.arch}), in whose place three convolutions or others would stay random; leave "
            "model.backbone.type and model.backbone.deep_stem out of --cfg-options"
        )
