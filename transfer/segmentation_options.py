"""``--cfg-options``: keys of MMEngine's configuration set by the user, refused where nothing would come of them."""

import argparse
import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from converters.errors import InputError, first_few, printable, unknown
from converters.targets import quiet

with quiet():
    from mmengine.config import Config, DictAction
    from mmengine.dataset import Compose
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import PARAM_SCHEDULERS
    from mmseg.utils import register_all_modules

# what a run acts upon
_OPEN = (
    *("model", "train_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler", "train_cfg"),
    *("default_hooks", "env_cfg"),
)

# names within the files, ours or MMSegmentation's, that are gone into other keys when a file is read
_NORMS = "model.backbone.norm_cfg and model.decode_head.norm_cfg"
_INSTEAD = {
    "norm": _NORMS,
    "norm_cfg": _NORMS,
    "loss": "model.decode_head.loss_decode",
    "scales": "train_dataloader.dataset.pipeline and test_dataloader.dataset.pipeline",
    "crop_size": "train_dataloader.dataset.pipeline and model.data_preprocessor.size",
    "train_pipeline": "train_dataloader.dataset.pipeline",
    "test_pipeline": "test_dataloader.dataset.pipeline",
    "tta_pipeline": "test_dataloader.dataset.pipeline, which --tta replaces",
    "data_preprocessor": "model.data_preprocessor",
    "optimizer": "optim_wrapper.optimizer",
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
    "data": "--data-root",
    "data_root": "--data-root",
    "train_dataloader.dataset.data_root": "--data-root",
    "test_dataloader.dataset.data_root": "--data-root",
    "model.pretrained": "--ckpt",
    "model.init_cfg": "--ckpt",
    "model.backbone.pretrained": "--ckpt",
    "model.backbone.init_cfg": "--ckpt",
    "model.backbone.depth": "--ckpt",
    "model.data_preprocessor.mean": "--mean",
    "model.data_preprocessor.std": "--std",
    "model.data_preprocessor.bgr_to_rgb": "--ckpt",
    "model.data_preprocessor.rgb_to_bgr": "--ckpt",
    "model.decode_head.in_channels": "--ckpt",
    "model.decode_head.num_classes": "--dataset",
    "model.auxiliary_head.in_channels": "--ckpt",
    "model.auxiliary_head.num_classes": "--dataset",
    "optim_wrapper.type": "--amp",
}

# what would change nothing here, or the order of images, or break the run
_CLOSED = (
    *("train_dataloader.sampler", "test_dataloader.sampler", "test_dataloader.batch_size", "train_cfg.type"),
    *("model.train_cfg", "default_scope", "tta_model"),
)

# parts whose unknown keys MMEngine would pass over in silence or stumble over late, and what they know
_LOADER = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "dataset")
_KNOWN = {
    "train_cfg": ("max_iters",),
    "env_cfg": ("cudnn_benchmark",),
    "default_hooks": ("checkpoint",),
    "default_hooks.checkpoint": ("interval", "max_keep_ckpts"),
    "train_dataloader": _LOADER,
    "test_dataloader": _LOADER,
    "train_dataloader.dataset": ("pipeline",),
    "test_dataloader.dataset": ("pipeline",),
    "optim_wrapper.clip_grad": ("type", "max_norm", "norm_type", "error_if_nonfinite", "clip_value", "foreach"),
    "optim_wrapper.paramwise_cfg": (
        *("norm_decay_mult", "bias_decay_mult", "flat_decay_mult", "dwconv_decay_mult", "bias_lr_mult", "custom_keys"),
        "bypass_duplicate",
    ),
    "model.data_preprocessor.test_cfg": ("size", "size_divisor"),
    "model.test_cfg": ("mode", "crop_size", "stride"),
}
_CUSTOM = "optim_wrapper.paramwise_cfg.custom_keys"  # by any part of a parameter's name

# what MMSegmentation can do without
_OPTIONAL = (
    *("model.auxiliary_head", "model.data_preprocessor.size", "model.data_preprocessor.test_cfg"),
    "optim_wrapper.paramwise_cfg",
)

_NEW = object()  # in place of a value: a key that the protocol's file leaves at its default


def use_options(config: Config, options: Sequence[str]) -> None:
    """Merge what the user says by MMEngine's own means, once every key is known to have an effect.

    Args:
        config: changed in place.
        options: ``key=value``, ..., as MMEngine takes them.

    Raises:
        InputError: a key that has no effect here, or a value of another type than it has.
    """
    for option in options:
        key, equals, _ = option.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"--cfg-options: expected key=value, got '{printable(option)}'")
        _check_name(key)
    values = _parse(options)
    for key, value in values.items():
        _check_value(key, _find(config, key), value)
    try:
        config.merge_from_dict(values)
    except (KeyError, TypeError, IndexError, ValueError, AssertionError) as error:
        raise _refused("read", options, error) from error


def try_options(config: Config, options: Sequence[str]) -> None:
    """Build what MMEngine would build only after the first minutes: transforms, loaders, optimizer and schedule.

    Args:
        config: with the options.
        options: to be named.

    Raises:
        InputError: MMEngine does not accept them.
    """
    with explained_options(options), quiet():
        register_all_modules()
        for loader in (config.train_dataloader, config.test_dataloader):
            Compose(copy.deepcopy(loader.dataset.pipeline))
            how = {key: value for key, value in loader.items() if key in _LOADER and key != "dataset"}
            DataLoader(TensorDataset(torch.ones(1)), **how)
        toy = nn.Linear(1, 1)
        settings = copy.deepcopy(config.optim_wrapper)
        settings.type = "OptimWrapper"  # mixed precision would need a GPU
        settings.pop("loss_scale", None)
        wrapper = build_optim_wrapper(toy, settings)
        for schedule in config.param_scheduler:
            PARAM_SCHEDULERS.build({**schedule, "optimizer": wrapper.optimizer})
        wrapper.update_params(toy(torch.ones(1, 1)).sum())  # clips gradients too


@contextlib.contextmanager
def explained_options(options: Sequence[str]) -> Iterator[None]:
    """Make it a user's mistake if MMSegmentation fails on a first try, where the user has changed its configuration.

    Args:
        options: ``key=value``, ...; where there are none, an error keeps its traceback.

    Raises:
        InputError: what stands in the block failed.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # MMSegmentation raises whatever the option happens to break
        if not options:
            raise
        raise _refused("use", options, error) from error


def _parse(options: Sequence[str]) -> dict[str, Any]:
    """Values by key, as MMEngine's own commands read them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="+", action=DictAction)
    try:
        values: dict[str, Any] = parser.parse_args(["--options", *options]).options
    except AssertionError as error:
        raise _refused("read", options, error) from error
    return values


def _refused(what: str, options: Sequence[str], error: Exception) -> InputError:
    reason = printable(str(error)) or type(error).__name__
    return InputError(f"--cfg-options: MMEngine cannot {what} {first_few(list(options))} ({reason}); look through them")


def _check_name(key: str) -> None:
    """Refuse a key that something else sets, or that nothing would read."""
    first, _, _ = key.partition(".")
    parent, _, last = key.rpartition(".")
    for name, flag in _FLAGS.items():
        if _within(key, name):
            raise InputError(f"--cfg-options: {key} is set by {flag}; use that")
    if first in _INSTEAD:
        raise InputError(f"--cfg-options: {first} is no key, only a name for a part of some; set {_INSTEAD[first]}")
    if any(_within(key, name) for name in _CLOSED):
        raise InputError(f"--cfg-options: {key} would change nothing here, or break the run; leave it out")
    if first not in _OPEN:
        raise unknown("key of --cfg-options", first, _OPEN)
    if last == "_delete_" and any(_within(name, parent) for name in (*_FLAGS, *_CLOSED)):
        raise InputError(f"--cfg-options: {key} would delete what other flags have set; delete a part of it")


def _within(key: str, part: str) -> bool:
    return f"{key}.".startswith(f"{part}.")


def _known(part: str) -> tuple[str, ...] | None:
    """The keys of a part without a constructor that would refuse others; None for any other part."""
    return ("lr_mult", "decay_mult") if part.rpartition(".")[0] == _CUSTOM else _KNOWN.get(part)


def _find(config: Config, key: str) -> Any:
    """The value that stands at a key, or `_NEW`."""
    path = key.split(".")
    for depth, name in enumerate(path):
        part = ".".join(path[:depth])
        known = _known(part)
        if known is not None and name not in known:
            raise unknown(f"key of {part}", name, known)
    node: Any = config
    for depth, name in enumerate(path):
        node = _step(node, ".".join(path[:depth]), name)
        if node is _NEW:
            break
    return node


def _step(node: Any, part: str, name: str) -> Any:
    """What a part holds under a name, or `_NEW`: a constructor refuses what it does not know, `_known` the rest."""
    if isinstance(node, Mapping | Config):
        return node.get(name, _NEW)
    if not _is_composed(node):
        raise InputError(f"--cfg-options: {part} is {node!r}, which has no {name}; set it as a whole")
    if not name.isdecimal() or int(name) >= len(node):
        raise InputError(f"--cfg-options: {part}.{name}: expected a number below {len(node)} in place of {name}")
    return node[int(name)]


def _is_composed(node: Any) -> bool:
    """Whether keys below a list can be set: whether it holds more than plain values."""
    return isinstance(node, list) and all(isinstance(each, Mapping | list) for each in node)


def _check_value(key: str, old: Any, new: Any) -> None:
    """Refuse what is no value for a key, as far as the value that it has tells."""
    if new is None and key in _OPTIONAL:
        return
    if isinstance(old, Mapping) or _is_composed(old) or key == _CUSTOM or _known(key) is not None:
        raise InputError(f"--cfg-options: {key} consists of parts; set those, by {key}.PART=value")
    if old is not _NEW and not _of_one_type(old, new):
        raise InputError(f"--cfg-options: {key} is {old!r}; expected a value of the same type, got {new!r}")


def _of_one_type(old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):
        return isinstance(old, bool) and isinstance(new, bool)
    if isinstance(old, float):
        return isinstance(new, int | float)
    return isinstance(new, list | tuple if isinstance(old, list | tuple) else type(old))
