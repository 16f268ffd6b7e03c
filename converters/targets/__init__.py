"""Targets: one file per kind of file that can be written, found by its file name, ``to_NAME.py``.

A module of this package holds

- ``SUFFIX`` of the weights' file, and ``FACTS_SUFFIX`` of the file beside it that says how to use them, or None;
- ``refusal(checkpoint)``: why the target cannot express it, or None;
- ``write(checkpoint, path)``: the weights;
- ``facts(checkpoint, path)``: the text of the file beside them, where there is one;
- ``load(path, checkpoint)``: the framework's own backbone with the weights that stand at `path`, built from the facts
  beside them, as a `Loaded`. It raises what the framework raises, an ImportError among them.

To add a target, add a file.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from converters.errors import unknown
from converters.plugins import plugins
from converters.sources import IMAGENET_STEM

STAGES = ("layer1", "layer2", "layer3", "layer4")

_module_names, _find = plugins(__name__, "target")


def names() -> list[str]:
    """Every target."""
    return [name.removeprefix("to_") for name in _module_names()]


def find(name: str) -> ModuleType:
    """The module of a target.

    Raises:
        InputError: there is no such target.
    """
    if name not in names():
        raise unknown("target", name, names())
    return _find(f"to_{name}")


@dataclass(frozen=True)
class Loaded:
    """A framework's backbone, ready to look at pictures.

    Attributes:
        backbone: the framework's own module, in eval mode.
        tensors: its state under torchvision's names.
        read: a picture's file as a batch of one, normalised as the framework does it, (1, 3, H, W), of a given dtype.
        stages: the outputs of the four stages for such a batch.
        versions: of the framework's packages.
    """

    backbone: nn.Module
    tensors: dict[str, Tensor]
    read: Callable[[Path, torch.dtype], Tensor]
    stages: Callable[[Tensor], list[Tensor]]
    versions: dict[str, str]


def plain_resnet_only(framework: str, arch: str) -> str | None:
    """Why a framework that has torchvision's networks only cannot hold an architecture; None if it can."""
    if arch in IMAGENET_STEM:
        return None
    return f"{framework}'s ResNet has a 7x7 stem with max-pool and PyTorch's padding only, this is {arch}"


def scaled(value: float) -> float:
    """0..1 to 0..255 without the digits that binary fractions add: 123.675, not 123.67499999999998."""
    return round(value * 255, 9)


def stages_by_hooks(backbone: nn.Module) -> Callable[[Tensor], list[Tensor]]:
    """The stages of a module that calls them as torchvision does, and returns something else."""
    outputs: dict[str, Tensor] = {}
    for name in STAGES:
        backbone.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs.__setitem__(name, output)
        )

    def stages(batch: Tensor) -> list[Tensor]:
        backbone(batch)
        return [outputs[name] for name in STAGES]

    return stages


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what frameworks print, log and warn of while they are imported and built; errors still come through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # none is about the weights: FutureWarnings of torch, optional operators of mmcv that a ResNet does not use
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(level)
