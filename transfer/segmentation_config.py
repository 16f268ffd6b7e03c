"""MMEngine's configuration of a run: a protocol's file, then what the checkpoint, the data and the user say."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.errors import InputError, first_few, unknown
from converters.targets import quiet, to_mmseg
from transfer.results import protocol_hash

with quiet():
    from mmengine.config import Config, DictAction

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "segmentation"

_BASE, _SAMPLE = "upernet", "sample"

# what a run acts upon; everything else of a file is a name for a part of these
_PARTS = ("model", "train_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")
_OPEN = (*_PARTS, "tta_model", "tta_pipeline", "default_hooks", "env_cfg")

# what decides where and how fast a run computes, and what belongs to the checkpoint instead of the protocol
_PLACE = ("data_root", "num_workers", "persistent_workers", "batch_size", "prefetch_factor", "pin_memory", "sampler")
_CHECKPOINT = {
    "data_preprocessor": ("mean", "std", "bgr_to_rgb"),
    "backbone": ("depth", "init_cfg"),
    "decode_head": ("in_channels",),
    "auxiliary_head": ("in_channels",),
}

# keys with a flag of their own, which does more than to set them
_FLAGS = {
    "work_dir": "--output",
    "randomness": "--seed",
    "load_from": "--ckpt",
    "resume": "--resume",
    "launcher": "torchrun",
    "auto_scale_lr": "--batch-size",
    "train_dataloader.batch_size": "--batch-size",
    "train_dataloader.dataset.data_root": "--data-root",
    "test_dataloader.dataset.data_root": "--data-root",
    "model.backbone.init_cfg": "--ckpt",
    "model.backbone.depth": "--ckpt",
    "model.decode_head.num_classes": "--dataset",
    "model.auxiliary_head.num_classes": "--dataset",
    "optim_wrapper.type": "--amp",
}

# what would change nothing here, or the order of images, or break the run
_CLOSED = ("train_dataloader.sampler", "test_dataloader.sampler", "test_dataloader.batch_size", "train_cfg.type")

# parts without a type, whose unknown keys MMEngine would pass over in silence, and what they know
_KNOWN = {
    "train_cfg": ("max_iters",),
    "env_cfg": ("cudnn_benchmark",),
    "default_hooks": ("checkpoint",),
    "default_hooks.checkpoint": ("interval", "max_keep_ckpts"),
    "optim_wrapper.paramwise_cfg": (
        *("norm_decay_mult", "bias_decay_mult", "flat_decay_mult", "dwconv_decay_mult", "bias_lr_mult", "custom_keys"),
        "bypass_duplicate",
    ),
    "model.test_cfg": ("mode", "crop_size", "stride"),
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
    def tests_at_several_scales(self) -> bool:
        """Whether validation averages over several views of an image."""
        return _at_several_scales(self.config)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the protocol, in plain types."""
        settings = self.identity
        for part, names in _CHECKPOINT.items():
            for name in names:
                settings["model"].get(part, {}).pop(name, None)
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
    total = int(config.auto_scale_lr.base_batch_size)
    changes = [] if batch_size is None else rescale(config, batch_size)
    marks = [f"batch {batch_size}"] if changes else []
    total = batch_size or total
    if total % world_size:
        raise InputError(
            f"expected a batch that {world_size} processes can share, got {total}; use a --batch-size that "
            f"{world_size} divides, or another number of processes"
        )
    config.train_dataloader.batch_size = total // world_size
    if amp:
        config.optim_wrapper.merge({"type": "AmpOptimWrapper", "loss_scale": "dynamic"})
        changes.append("mixed precision, which the protocol does not use")
        marks.append("amp")
    if tta:
        _test_at_several_scales(config, protocol)
        changes.append("validated at several scales and mirrored")
        marks.append("tta")
    if options:
        changes.append(f"--cfg-options {' '.join(options)}")
        marks.append("options")
        _use_options(config, options)
        _check_backbone(config, checkpoint)
    return Plan(config, ", ".join([protocol, *marks]), tuple(changes), total)


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
    rate, iterations = optimizer.lr, loop.max_iters
    optimizer.lr = rate * ratio
    loop.max_iters = max(1, round(iterations / ratio))
    states.interval = max(1, round(states.interval / ratio))
    for schedule in config.param_scheduler:
        schedule.eta_min *= ratio
        schedule.end = max(1, round(schedule.end / ratio))
    return [
        f"batch {before} -> {batch_size}, learning rate {rate:g} -> {optimizer.lr:g}, iterations {iterations} -> "
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


def _at_several_scales(config: Config) -> bool:
    return any(step.type == "TestTimeAug" for step in config.test_dataloader.dataset.pipeline)


def _test_at_several_scales(config: Config, protocol: str) -> None:
    if _at_several_scales(config):
        raise InputError(f"--tta: {protocol} validates at several scales already; leave it out")
    if "tta_pipeline" not in config:
        raise InputError(f"--tta: {protocol} has no second way to validate; leave it out")
    config.test_dataloader.dataset.pipeline = config.tta_pipeline


def _use_options(config: Config, options: Sequence[str]) -> None:
    """Merge what the user says by MMEngine's own means, once every key is known to have an effect."""
    for option in options:
        key, equals, _ = option.partition("=")
        if not equals or not key:
            raise InputError(f"--cfg-options: expected key=value, got '{option}'")
        _check_key(config, key)
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="+", action=DictAction)
    try:
        config.merge_from_dict(parser.parse_args(["--options", *options]).options)
    except (KeyError, TypeError, IndexError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--cfg-options: MMEngine cannot merge {first_few(list(options))} ({reason})") from error


def _check_key(config: Config, key: str) -> None:
    """Refuse a key that something else sets, or that nothing would read."""
    for name, flag in _FLAGS.items():
        if f"{key}.".startswith(f"{name}."):
            raise InputError(f"--cfg-options: {key} is set by {flag}; use that")
    path = key.split(".")
    if path[0] not in _OPEN:
        if path[0] in config:
            raise InputError(
                f"--cfg-options: {path[0]} is a name within the protocol's file; set the key that it stands for, below "
                f"{', '.join(_OPEN)}"
            )
        raise unknown("key of --cfg-options", key, _OPEN)
    if any(f"{key}.".startswith(f"{name}.") for name in _CLOSED):
        raise InputError(f"--cfg-options: {key} would change nothing here, or break the run; leave it out")
    node: Any = config
    for depth, name in enumerate(path):
        known = _KNOWN.get(".".join(path[:depth]))
        if known is not None and name not in known:
            raise unknown(f"key of {'.'.join(path[:depth])}", name, known)
        if isinstance(node, Mapping | Config):
            if name not in node:
                _check_new(node, path[:depth], name, known)
                return
            node = node[name]
        elif isinstance(node, list):
            if not name.isdigit() or int(name) >= len(node):
                raise InputError(f"--cfg-options: {key}: expected a number below {len(node)} after {path[depth - 1]}")
            node = node[int(name)]
        else:
            raise InputError(f"--cfg-options: {key}: {'.'.join(path[:depth])} is {node!r} and holds no {name}")


def _check_new(node: Any, path: list[str], name: str, known: Sequence[str] | None) -> None:
    """A key that is not in the file may stand where a constructor will refuse what it does not know."""
    if known is None and "type" not in node and path[-1] not in ("custom_keys", *_LOADERS):
        raise unknown(f"key of {'.'.join(path)}", name, node)


_LOADERS = ("train_dataloader", "test_dataloader")  # torch's DataLoader refuses what it does not know


def _check_backbone(config: Config, checkpoint: Checkpoint) -> None:
    """Refuse a network that the checkpoint's tensors do not fill, which MMEngine would only warn of."""
    backbone = config.model.backbone
    if backbone.type != "ResNet" or backbone.get("deep_stem", False):
        stem = ", deep_stem=True" if backbone.get("deep_stem", False) else ""
        raise InputError(
            f"expected the plain ResNet, got {backbone.type}{stem}: the checkpoint's stem is one 7x7 convolution, so "
            f"another one would stay random ({checkpoint.arch}); leave model.backbone.type and deep_stem alone"
        )
