"""Backbones by architecture name: the module, the tensors it must have, and the shape of what it computes."""

from functools import cache

import torch
import torchvision
from torch import Tensor, nn

from converters.errors import unknown

# Width of the last stage; torchvision.models.resnet: 512 channels times the block's expansion (1 basic, 4 bottleneck).
_FEATURES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet18_cifar": 512}

ARCHITECTURES = tuple(_FEATURES)


def build_backbone(arch: str, *, zero_init_residual: bool = False) -> nn.Module:
    """A torchvision ResNet without its classifier: images (B, 3, H, W) in, pooled features (B, D) out.

    Args:
        arch: one of `ARCHITECTURES`. ``resnet18_cifar`` has a 3x3 stride-1 stem and no max-pool (Lee & Lee 2023, C.2),
            with torchvision's key names.
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
    if stem == "cifar":
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    return backbone


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
