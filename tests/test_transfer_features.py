"""Frozen features: every image once, the backbone untouched, batch-norm statistics of the data."""

import pytest
import torch
from torch import Tensor, nn

from converters.backbones import build_backbone
from converters.checkpoint import Pixels
from converters.images import prepare
from transfer import features
from transfer.features import calibrate_batch_norm, extract_features, pixel_features

CPU = torch.device("cpu")
PIXELS = Pixels(size=32)


def _images(num: int = 11, size: int = 32) -> Tensor:
    return torch.randint(256, (num, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _backbone() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet18")


class Drifting(nn.Module):
    """Counts its calls in a buffer, in evaluation mode too."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean(dim=(2, 3))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_BATCH", 4)  # 11 images: two batches and a partial one


def test_features_equal_a_loop_over_single_images() -> None:
    images, backbone = _images(), _backbone()
    with torch.no_grad():
        backbone.eval()
        expected = torch.cat([backbone(prepare(image[None], PIXELS)) for image in images])
    computed = torch.from_numpy(extract_features(backbone, images, PIXELS, CPU))
    assert computed.shape == (11, 512)
    assert computed.dtype == torch.float32
    torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-5)


def test_frozen_probe_leaves_backbone_bit_identical() -> None:
    backbone = _backbone()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    extract_features(backbone.train(), _images(), PIXELS, CPU)
    after = backbone.state_dict()
    assert all(before[name].equal(after[name]) for name in before)
    assert before.keys() == after.keys()


def test_backbone_that_changes_in_evaluation_is_noticed() -> None:
    with pytest.raises(AssertionError, match="frozen backbone changed"):
        extract_features(Drifting(), _images(), PIXELS, CPU)


def test_batch_norm_statistics_are_the_datas() -> None:
    images, backbone = _images(num=8), _backbone()  # two batches of four: the plain average is exact
    calibrate_batch_norm(backbone, images, PIXELS, CPU)
    with torch.no_grad():
        first = backbone.conv1(prepare(images, PIXELS))  # type: ignore[operator]
    batches = first.split(4)
    norm = backbone.bn1
    assert isinstance(norm, nn.BatchNorm2d)
    mean = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    variance = torch.stack([batch.transpose(0, 1).flatten(1).var(dim=1) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    assert not backbone.training


def test_calibration_forgets_the_statistics_it_finds() -> None:
    images, backbone = _images(num=8), _backbone()
    calibrate_batch_norm(backbone, images, PIXELS, CPU)
    once = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    extract_features(backbone, images, PIXELS, CPU)
    calibrate_batch_norm(backbone, 255 - images, PIXELS, CPU)
    calibrate_batch_norm(backbone, images, PIXELS, CPU)
    assert all(once[name].equal(tensor) for name, tensor in backbone.state_dict().items())


def test_calibration_changes_no_parameter() -> None:
    backbone = _backbone()
    before = {name: parameter.clone() for name, parameter in backbone.named_parameters()}
    calibrate_batch_norm(backbone, _images(), PIXELS, CPU)
    assert all(before[name].equal(parameter) for name, parameter in backbone.named_parameters())


def test_pixel_features_are_the_pixels_in_zero_to_one() -> None:
    images = _images()
    computed = torch.from_numpy(pixel_features(images, 32))
    torch.testing.assert_close(computed, images.flatten(1) / 255)


def test_pixel_features_of_larger_images_are_averages() -> None:
    uniform = torch.full((5, 3, 64, 64), 51, dtype=torch.uint8)
    computed = torch.from_numpy(pixel_features(uniform, 32))
    torch.testing.assert_close(computed, torch.full((5, 3 * 32 * 32), 0.2))
