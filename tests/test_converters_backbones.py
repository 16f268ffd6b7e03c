"""Backbones against torchvision's own networks and the tensor counts of the architectures."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from converters.backbones import ARCHITECTURES, build_backbone, check_tensors, expected_tensors, feature_dim
from converters.errors import InputError

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)


def on_meta(arch: str) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(arch)


def with_statistics(backbone: nn.Module) -> nn.Module:
    """Batch-norm statistics that are not 0 and 1, as after training, so that a lost one shows."""
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return backbone


def test_architectures_are_the_announced_ones() -> None:
    assert sorted(ARCHITECTURES) == [
        "resnet101",
        "resnet18",
        "resnet18_cifar",
        "resnet18_cifar_pad2",
        "resnet34",
        "resnet50",
        "resnet50_same",
    ]


# counted in torchvision's state dicts; resnet18_cifar: 64 * 3 * (49 - 9) = 7,680 values fewer than resnet18
@pytest.mark.parametrize(
    ("arch", "tensors", "counters", "parameter_tensors", "parameter_values", "statistics", "dim"),
    [
        ("resnet18", 120, 20, 60, 11_176_512, 9_600, 512),
        ("resnet34", 216, 36, 108, 21_284_672, 17_024, 512),
        ("resnet50", 318, 53, 159, 23_508_032, 53_120, 2048),
        ("resnet101", 624, 104, 312, 42_500_160, 105_344, 2048),
        ("resnet18_cifar", 120, 20, 60, 11_168_832, 9_600, 512),
        ("resnet18_cifar_pad2", 120, 20, 60, 11_168_832, 9_600, 512),
        ("resnet50_same", 318, 53, 159, 23_508_032, 53_120, 2048),
    ],
)
def test_sizes_are_the_architectures(
    arch: str, tensors: int, counters: int, parameter_tensors: int, parameter_values: int, statistics: int, dim: int
) -> None:
    backbone = on_meta(arch)
    expected = expected_tensors(arch)
    parameters = list(backbone.parameters())
    assert len(expected) == tensors
    assert sum(name.endswith("num_batches_tracked") for name in expected) == counters
    assert len(parameters) == parameter_tensors
    assert sum(x.numel() for x in parameters) == parameter_values
    assert sum(x.numel() for name, x in backbone.named_buffers() if "running" in name) == statistics
    assert feature_dim(arch) == dim


@every_architecture
def test_expected_tensors_are_those_of_the_module_and_no_classifier(arch: str) -> None:
    state = on_meta(arch).state_dict()
    assert expected_tensors(arch) == {name: tuple(x.shape) for name, x in state.items()}
    assert not any(name.startswith("fc") for name in expected_tensors(arch))


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_names_and_shapes_are_torchvisions_without_fc(arch: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, arch)().state_dict()
    shapes = {name: tuple(x.shape) for name, x in state.items() if name not in ("fc.weight", "fc.bias")}
    assert expected_tensors(arch) == shapes


@every_architecture
def test_stem_is_7x7_or_the_small_3x3(arch: str) -> None:
    side = 3 if "_cifar" in arch else 7
    assert expected_tensors(arch)["conv1.weight"] == (64, 3, side, side)


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_features_equal_torchvisions_own_up_to_fc(arch: str) -> None:
    torch.manual_seed(0)
    backbone = with_statistics(build_backbone(arch)).eval()
    own = getattr(torchvision.models, arch)()
    own.load_state_dict({**backbone.state_dict(), "fc.weight": own.fc.weight, "fc.bias": own.fc.bias}, strict=True)
    images = torch.randn(2, 3, 64, 49)
    with torch.no_grad():
        features = backbone(images)
        expected = create_feature_extractor(own.eval(), ["flatten"])(images)["flatten"]
    assert features.shape == (2, feature_dim(arch))
    assert torch.equal(features, expected)


def small_stem_forward(backbone: nn.Module, images: Tensor, padding: int) -> Tensor:
    """Lee & Lee 2023, C.2: 3x3 convolution of stride and padding 1, no max-pool, then torchvision's four layers."""
    x = nn.functional.conv2d(images, backbone.conv1.weight, stride=1, padding=padding)
    x = backbone.bn1(x).relu()
    # padding 2, as solo-learn has it: 34, 17, 9, 5
    sides = (32, 16, 8, 4) if padding == 1 else (34, 17, 9, 5)
    for layer, side in zip((backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4), sides, strict=True):
        x = layer(x)
        assert x.shape[2:] == (side, side)
    return x.mean((2, 3))


@pytest.mark.parametrize(("arch", "padding"), [("resnet18_cifar", 1), ("resnet18_cifar_pad2", 2)])
def test_small_stem_keeps_the_resolution_of_32_pixel_images(arch: str, padding: int) -> None:
    torch.manual_seed(0)
    backbone = with_statistics(build_backbone(arch)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), small_stem_forward(backbone, images, padding))


def same(images: Tensor, kernel: int, value: float) -> Tensor:
    """TensorFlow's SAME at stride 2 by its definition: as few pixels as make ceil(n / 2) outputs, the odd one last."""
    padded = images
    for axis in (2, 3):
        length = images.shape[axis]
        outputs = -(-length // 2)
        total = max((outputs - 1) * 2 + kernel - length, 0)
        shape = list(padded.shape)
        shape[axis] = total // 2
        before = torch.full(shape, value)
        shape[axis] = total - total // 2
        padded = torch.cat([before, padded, torch.full(shape, value)], axis)
    return padded


def same_forward(backbone: nn.Module, images: Tensor) -> Tensor:
    """A bottleneck ResNet in which every layer of stride 2 pads as TensorFlow's SAME."""
    functional = nn.functional
    x = functional.conv2d(same(images, 7, 0), backbone.conv1.weight, stride=2)
    x = functional.max_pool2d(same(backbone.bn1(x).relu(), 3, -torch.inf), 3, 2)
    for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for block in layer:
            y = block.bn1(functional.conv2d(x, block.conv1.weight)).relu()
            if block.stride == 2:
                y = functional.conv2d(same(y, 3, 0), block.conv2.weight, stride=2)
            else:
                y = functional.conv2d(y, block.conv2.weight, padding=1)
            y = block.bn3(functional.conv2d(block.bn2(y).relu(), block.conv3.weight))
            x = (y + (x if block.downsample is None else block.downsample(x))).relu()
    return x.mean((2, 3))


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (50, 71)])
def test_same_padding_is_tensorflows(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = with_statistics(build_backbone("resnet50_same")).eval()
    plain = build_backbone("resnet50").eval()
    plain.load_state_dict(backbone.state_dict(), strict=True)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        features = backbone(images)
        torch.testing.assert_close(features, same_forward(backbone, images))
        # where all sides are odd, as 65 and 97 at every stage, both paddings are the same
        close = torch.allclose(features, plain(images), rtol=1e-4)
    assert close == (size == (65, 97))


def test_small_stem_is_initialised_as_torchvision_initialises_convolutions() -> None:
    # He et al. 2015, fan out: variance 2 / (64 * 9); 1,728 values have it within 20 %
    torch.manual_seed(0)
    assert build_backbone("resnet18_cifar").conv1.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.2)


@pytest.mark.parametrize(("arch", "blocks", "last"), [("resnet18_cifar", 8, "bn2"), ("resnet50", 16, "bn3")])
@pytest.mark.parametrize("zero", [False, True])
def test_last_norm_of_every_block_starts_at_zero_on_request_only(arch: str, blocks: int, last: str, zero: bool) -> None:
    parameters = dict(build_backbone(arch, zero_init_residual=zero).named_parameters())
    scales = {name: x for name, x in parameters.items() if name.endswith("weight") and x.ndim == 1}
    at_zero = [name for name, x in scales.items() if not x.any()]
    assert at_zero == ([name for name in scales if name.endswith(f"{last}.weight")] if zero else [])
    assert len(at_zero) == (blocks if zero else 0)


@pytest.mark.parametrize("function", [build_backbone, feature_dim, expected_tensors])
def test_unknown_architecture_is_refused_with_the_closest_name(function: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match=r"unknown architecture 'resnet5'; did you mean 'resnet50'\? choose from: .*r"):
        function("resnet5")


def test_exact_state_has_no_problems() -> None:
    assert check_tensors("resnet18", on_meta("resnet18").state_dict()) == []


def test_every_difference_is_named() -> None:
    state = on_meta("resnet18").state_dict()
    del state["bn1.weight"]
    state["fc.weight"] = torch.zeros(1)
    state["conv1.weight"] = state["conv1.weight"].transpose(0, 1)
    assert check_tensors("resnet18", state) == [
        "missing bn1.weight",
        "unexpected fc.weight",
        "conv1.weight has shape (3, 64, 7, 7) instead of (64, 3, 7, 7)",
    ]


@pytest.mark.parametrize(("arch", "other"), [("resnet18", "resnet18_cifar"), ("resnet18", "resnet34")])
def test_weights_of_another_architecture_do_not_fit(arch: str, other: str) -> None:
    state = on_meta(arch).state_dict()
    assert check_tensors(other, state)
    assert check_tensors(arch, state) == []
