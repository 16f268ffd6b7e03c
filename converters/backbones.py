"""Backbones by architecture name: the module, the tensors it must have, and the shape of what it computes."""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from converters.errors import unknown

# Width of the last stage; torchvision.models.resnet: 512 channels times the block's expansion (1 basic, 4 bottleneck).
_FEATURES = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet18_cifar": 512,
    "resnet18_cifar_pad2": 512,
    "resnet50_same": 2048,
}

ARCHITECTURES = tuple(_FEATURES)

# how many batches a batch norm has seen; without use here, and missing in some files
COUNTER = "num_batches_tracked"


def build_backbone(arch: str, *, zero_init_residual: bool = False) -> nn.Module:
    """A torchvision ResNet without its classifier: images (B, 3, H, W) in, pooled features (B, D) out.

    Args:
        arch: one of `ARCHITECTURES`. ``resnet18_cifar`` has a 3x3 stride-1 stem and no max-pool (Lee & Lee 2023, C.2),
            with torchvision's key names; ``resnet18_cifar_pad2`` pads that stem by 2, as solo-learn does (its
            solo/methods/base.py); ``resnet50_same`` pads as TensorFlow's "SAME" does, more on the right and below
            than on the left and above (DeepMind's BYOL).
        zero_init_residual: start the last batch norm of every block at 0 (Goyal et al. 2017), as the official SimSiam
            and GSG code does.

    Raises:
        InputError: the architecture is unknown.
    """
    if arch not in _FEATURES:
        raise unknown("architecture", arch, ARCHITECTURES)
    name, _, stem = arch.partition("_")
    # one class: torchvision wants at least one, and the classifier is replaced anyway
    backbone: nn.Module = getattr(torchvision.models, name)(num_classes=1, zero_init_residual=zero_init_residual)
    backbone.fc = nn.Identity()
    if stem == "same":
        _pad_as_tensorflow(backbone)
    elif stem:
        padding = 2 if stem == "cifar_pad2" else 1
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    return backbone


def _pad_as_tensorflow(backbone: nn.Module) -> None:
    """Give every layer with a stride TensorFlow's SAME padding; without a stride it is the same as PyTorch's."""
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and layer.stride in (2, (2, 2)):
            layer.padding = 0 if isinstance(layer, nn.MaxPool2d) else (0, 0)
            layer.register_forward_pre_hook(_pad_same)


def _pad_same(layer: nn.Conv2d | nn.MaxPool2d, inputs: tuple[Tensor]) -> tuple[Tensor]:
    kernel, stride = (_side(size) for size in (layer.kernel_size, layer.stride))
    before_and_after = []
    for length in reversed(inputs[0].shape[-2:]):  # F.pad begins with the last dimension
        total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
        before_and_after += [total // 2, total - total // 2]
    # what a maximum must never choose
    value = -math.inf if isinstance(layer, nn.MaxPool2d) else 0.0
    return (F.pad(inputs[0], before_and_after, value=value),)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, tuple) else size)


def feature_dim(arch: str) -> int:
    """Dimension of the pooled features.

    Raises:
        InputError: the architecture is unknown.
    """
    if arch not in _FEATURES:
        raise unknown("architecture", arch, ARCHITECTURES)
    return _FEATURES[arch]


@cache
def expected_tensors(arch: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of a backbone's state dict, batch-norm counters included.

    Raises:
        InputError: the architecture is unknown.
    """
    with torch.device("meta"):
        backbone = build_backbone(arch)
    return {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}


def check_tensors(arch: str, state: dict[str, Tensor]) -> list[str]:
    """What is wrong with a state dict for an architecture: missing, unexpected, misshapen; empty when it fits exactly.

    Raises:
        InputError: the architecture is unknown.
    """
    expected = expected_tensors(arch)
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    return problems
