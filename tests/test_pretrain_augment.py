from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as published
import torchvision.transforms.v2.functional as reference
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from torch import Tensor

from converters.errors import InputError
from pretrain.augment import augment_batch
from pretrain.config import ViewConfig
from pretrain.decode import load_views
from pretrain.views import Parameters, draw_parameters

GRAY_LEVEL = 1 / 255
# torchvision's grey is .2989 R + .587 G + .114 B, whose weights add up to .9999
CLOSE = {"atol": 2e-4, "rtol": 0.0}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pictures(num: int, height: int, width: int) -> Tensor:
    """Smooth colourful pictures with saturated, dark and grey places, uint8 (num, 3, height, width)."""
    coarse = torch.rand(num, 3, 5, 6, generator=_generator()) * 1.6 - 0.3
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return smooth.mul(255).clamp(0, 255).byte()


def _plain(size: int, **changes: object) -> ViewConfig:
    """Views in 0..1 without normalisation."""
    return replace(ViewConfig(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), **changes)


def _identity(num: int, height: int, width: int) -> Parameters:
    never = torch.zeros(num, dtype=torch.bool)
    return Parameters(
        box=torch.tensor([[0, 0, height, width]]).repeat(num, 1),
        flip=never,
        jitter=never,
        factors=torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(num, 1),
        order=torch.arange(4).repeat(num, 1),
        gray=never,
        blur=never,
        sigma=torch.ones(num),
        solarize=never,
    )


def _one_by_one(image: Tensor, parameters: Parameters, row: int, config: ViewConfig) -> Tensor:
    """A transcription of the published pipeline for one view, with torchvision's float operations."""
    top, left, height, width = parameters.box[row].tolist()
    view = reference.resized_crop(image.float() / 255, top, left, height, width, [config.size] * 2, antialias=True)
    operations = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    if parameters.jitter[row]:
        for operation in parameters.order[row].tolist():
            view = operations[operation](view, float(parameters.factors[row, operation]))
    if parameters.gray[row]:
        view = reference.rgb_to_grayscale(view, num_output_channels=3)
    if parameters.blur[row]:
        view = _blurred(view, float(parameters.sigma[row]))
    if parameters.solarize[row]:
        view = reference.solarize(view, 0.5)
    if parameters.flip[row]:
        view = reference.horizontal_flip(view)
    return reference.normalize(view, list(config.mean), list(config.std))


def _blurred(view: Tensor, sigma: float, reach: int = 12) -> Tensor:
    """torchvision's blur, but with the border of PIL's, which repeats the last pixel."""
    padded = torch.nn.functional.pad(view[None], (reach,) * 4, mode="replicate")[0]
    return reference.gaussian_blur(padded, [2 * reach + 1] * 2, [sigma] * 2)[:, reach:-reach, reach:-reach]


def _published_boxes(height: int, width: int, config: ViewConfig, num: int) -> np.ndarray:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draw = published.RandomResizedCrop.get_params
    return np.array([draw(image, list(config.crop_scale), list(config.crop_ratio)) for _ in range(num)])


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(375, 500, (0.2, 1.0)), (32, 32, (0.08, 1.0)), (60, 400, (0.5, 1.0))]
)
def test_crops_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    config = ViewConfig(crop_scale=scale)
    expected = _published_boxes(height, width, config, 3000)
    drawn = draw_parameters(config, 3000, height, width, _generator()).box.numpy()
    quantities = {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
        "share of the room above": lambda box: box[:, 0] / np.maximum(height - box[:, 2], 1),
    }
    for name, quantity in quantities.items():
        assert ks_2samp(quantity(expected), quantity(drawn)).pvalue > 0.01, name


@pytest.mark.parametrize(("height", "width"), [(400, 60), (60, 400), (64, 60)])
def test_image_in_which_no_attempt_fits_gives_torchvisions_central_crop(height: int, width: int) -> None:
    config = ViewConfig(crop_scale=(1.0, 1.0))
    expected = _published_boxes(height, width, config, 1).tolist()
    assert draw_parameters(config, 1, height, width, _generator()).box.tolist() == expected


def test_earliest_fitting_attempt_is_taken() -> None:
    config = ViewConfig(crop_scale=(0.5, 1.0))
    boxes = draw_parameters(config, 300, 100, 100, _generator()).box
    uniform = torch.rand(300, 35, generator=_generator(), dtype=torch.float64)
    for row, (_, _, height, width) in zip(uniform.tolist(), boxes.tolist(), strict=True):
        areas = [1e4 * (0.5 + 0.5 * value) for value in row[:10]]
        ratios = [float(np.exp(np.log(3 / 4) + np.log(16 / 9) * value)) for value in row[10:20]]
        sizes = [(round((a / r) ** 0.5), round((a * r) ** 0.5)) for a, r in zip(areas, ratios, strict=True)]
        assert (height, width) == next((size for size in sizes if max(size) <= 100), (100, 100))


def test_colour_factors_are_distributed_as_torchvisions() -> None:
    config = ViewConfig(jitter=(0.4, 1.3, 0.4, 0.1))  # 1.3: the factor must not become negative
    torch.manual_seed(0)
    transform = published.ColorJitter(*config.jitter)
    ranges = (transform.brightness, transform.contrast, transform.saturation, transform.hue)
    expected = np.array([transform.get_params(*ranges)[1:] for _ in range(3000)])
    drawn = draw_parameters(config, 3000, 32, 32, _generator()).factors.numpy()
    for column in range(4):
        assert ks_2samp(expected[:, column], drawn[:, column]).pvalue > 0.01
    assert drawn.min(axis=0)[1] >= 0


def test_every_order_of_the_colour_operations_is_equally_likely() -> None:
    order = draw_parameters(ViewConfig(), 6000, 32, 32, _generator()).order.tolist()
    counts = Counter(map(tuple, order))
    assert set(counts) == set(permutations(range(4)))
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_blur_and_probabilities_are_as_configured() -> None:
    config = ViewConfig(flip_p=0.5, jitter_p=0.8, gray_p=0.2, blur_p=0.3)
    drawn = draw_parameters(config, 6000, 32, 32, _generator())
    for name in ("flip", "jitter", "gray", "blur"):
        probability = getattr(config, f"{name}_p")
        three_sigma = 3 * (probability * (1 - probability) / 6000) ** 0.5
        assert getattr(drawn, name).double().mean().item() == pytest.approx(probability, abs=three_sigma), name
    assert ks_2samp(drawn.sigma.numpy(), np.random.default_rng(0).uniform(0.1, 2.0, 6000)).pvalue > 0.01


def test_choices_are_independent_of_each_other() -> None:
    drawn = draw_parameters(ViewConfig(), 6000, 300, 400, _generator())
    single = [drawn.flip, drawn.jitter, drawn.gray, drawn.blur, drawn.sigma, drawn.box[:, 2] * drawn.box[:, 3]]
    columns = torch.stack([values.double() for values in single] + list(drawn.factors.double().T))
    off_diagonal = torch.corrcoef(columns) - torch.eye(len(columns))
    assert off_diagonal.abs().max() < 0.06  # 4.6 standard deviations


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (60, 40, 24), (30, 37, 48)])
def test_crop_and_resize_equal_torchvisions_antialiased_bilinear(height: int, width: int, size: int) -> None:
    images = _pictures(40, height, width)
    boxes = draw_parameters(ViewConfig(crop_scale=(0.02, 1.0)), 40, height, width, _generator()).box
    parameters = replace(_identity(40, height, width), box=boxes)
    views = augment_batch(images, parameters, _plain(size))
    expected = [_one_by_one(image, parameters, row, _plain(size)) for row, image in enumerate(images)]
    torch.testing.assert_close(views, torch.stack(expected), atol=1e-5, rtol=0)


def test_crop_and_resize_equal_pils_within_its_two_roundings() -> None:
    image = _pictures(1, 90, 120)
    for top, left, height, width in ((0, 0, 90, 120), (10, 20, 70, 33), (5, 100, 8, 20)):
        parameters = replace(_identity(1, 90, 120), box=torch.tensor([[top, left, height, width]]))
        cropped = reference.to_pil_image(image[0]).crop((left, top, left + width, top + height))
        expected = np.asarray(cropped.resize((32, 32), Image.Resampling.BILINEAR)) / 255
        view = augment_batch(image, parameters, _plain(32))[0].permute(1, 2, 0).numpy()
        assert np.abs(view - expected).max() <= 1.01 * GRAY_LEVEL


@pytest.mark.parametrize("operation", range(4), ids=["brightness", "contrast", "saturation", "hue"])
def test_colour_operation_equals_torchvisions(operation: int) -> None:
    images = _pictures(8, 32, 32)
    strengths = torch.tensor([0.0, 0.4, 0.9, 1.0, 1.1, 1.4, 2.0, 5.0])
    if operation == 3:
        strengths = torch.tensor([-0.5, -0.3, -0.1, 0.0, 0.05, 0.1, 0.3, 0.5])
    parameters = replace(_identity(8, 32, 32), jitter=torch.ones(8, dtype=torch.bool))
    parameters.factors[:, operation] = strengths
    views = augment_batch(images, parameters, _plain(32))
    expected = [_one_by_one(image, parameters, row, _plain(32)) for row, image in enumerate(images)]
    torch.testing.assert_close(views, torch.stack(expected), atol=5 * CLOSE["atol"], rtol=0)
    assert (views - images / 255).abs().amax() > 0.2  # the pictures do react to it


def test_hue_of_gray_black_and_white_pixels_is_harmless() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    parameters = replace(_identity(1, 16, 16), jitter=torch.tensor([True]))
    parameters.factors[:, 3] = 0.3
    torch.testing.assert_close(augment_batch(levels, parameters, _plain(16)), levels / 255, atol=1e-6, rtol=0)


def test_gray_has_equal_channels_of_pils_luma() -> None:
    images = _pictures(2, 32, 32)
    parameters = replace(_identity(2, 32, 32), gray=torch.tensor([False, True]))
    views = augment_batch(images, parameters, _plain(32))
    expected = np.asarray(reference.to_pil_image(images[1]).convert("L")) / 255
    assert np.abs(views[1].numpy() - expected).max() <= 1.01 * GRAY_LEVEL
    torch.testing.assert_close(views[0], images[0] / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [8, 32])
def test_blur_is_gaussian_with_repeated_border(size: int) -> None:
    images = _pictures(4, size, size)
    blurred = torch.tensor([True, True, False, True])
    parameters = replace(_identity(4, size, size), blur=blurred, sigma=torch.tensor([0.1, 0.7, 1.0, 2.0]))
    views = augment_batch(images, parameters, _plain(size))
    expected = [_one_by_one(image, parameters, row, _plain(size)) for row, image in enumerate(images)]
    torch.testing.assert_close(views, torch.stack(expected), **CLOSE)


def test_flip_mirrors_only_the_chosen_views() -> None:
    images = _pictures(2, 32, 32)
    parameters = replace(_identity(2, 32, 32), flip=torch.tensor([True, False]))
    views = augment_batch(images, parameters, _plain(32))
    torch.testing.assert_close(views, torch.stack([images[0].flip(-1), images[1]]) / 255, atol=1e-6, rtol=0)


def test_every_order_of_the_colour_operations_equals_the_composition_one_by_one() -> None:
    config = ViewConfig(size=24)
    images = _pictures(48, 40, 30)
    parameters = draw_parameters(config, 48, 40, 30, _generator())
    parameters.order[:] = torch.tensor(list(permutations(range(4))) * 2)
    parameters.jitter[:24] = True
    views = augment_batch(images, parameters, config)
    expected = [_one_by_one(image, parameters, row, config) for row, image in enumerate(images)]
    torch.testing.assert_close(views, torch.stack(expected), atol=2e-3, rtol=0)  # in standard deviations of ImageNet


def test_a_view_does_not_depend_on_the_batch_around_it() -> None:
    config = ViewConfig(size=24)
    images = _pictures(32, 40, 30)
    parameters = draw_parameters(config, 32, 40, 30, _generator())
    together = augment_batch(images, parameters, config)
    apart = [augment_batch(images[part], parameters[part], config) for part in (slice(0, 1), slice(1, 32))]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=0)


def test_batch_is_transformed_without_waiting_for_its_device() -> None:
    """A tensor without data cannot tell its values, and refuses to meet one of another device."""
    config = ViewConfig(size=24)
    images = _pictures(16, 40, 30).to("meta")
    views = augment_batch(images, draw_parameters(config, 16, 40, 30, _generator()), config)
    assert views.device.type == "meta"
    assert views.shape == (16, 3, 24, 24)


def _saved(image: Tensor, path: Path, **options: object) -> Path:
    reference.to_pil_image(image).save(path, **options)
    return path


def _stacked(views: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)


def test_image_at_a_time_equals_batch_but_for_rounding(tmp_path: Path) -> None:
    config = _plain(48, crop_scale=(0.08, 1.0))
    images = _pictures(6, 100, 140)
    for image in images:
        path = _saved(image, tmp_path / "a.png")
        views = _stacked(load_views(path, config, 24, _generator(1)))
        parameters = draw_parameters(config, 24, 100, 140, _generator(1))
        expected = augment_batch(image.expand(24, -1, -1, -1), parameters, config)
        difference = (views / 255 - expected).abs()
        # seven roundings of half a level; a strong contrast or saturation multiplies the ones before it
        assert difference.mean() < 0.6 * GRAY_LEVEL
        assert difference.max() < 8 * GRAY_LEVEL


def test_views_without_any_operation_are_the_image(tmp_path: Path) -> None:
    config = _plain(32, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_p=0, jitter_p=0, gray_p=0, blur_p=0)
    image = _pictures(1, 32, 32)[0]
    (view,) = load_views(_saved(image, tmp_path / "a.png"), config, 1, _generator())
    assert torch.equal(_stacked([view])[0], image)


def _crops_only(size: int, smallest: float) -> ViewConfig:
    return _plain(size, crop_scale=(smallest, 1.0), flip_p=0, jitter_p=0, gray_p=0, blur_p=0)


def _full_and_maybe_reduced(tmp_path: Path, config: ViewConfig) -> tuple[Tensor, Tensor]:
    noise = torch.randint(-20, 20, (3, 401, 603), generator=_generator())
    path = _saved((_pictures(1, 401, 603)[0] + noise).clamp(0, 255).byte(), tmp_path / "a.jpg", quality=95)
    with Image.open(path) as image:
        image.save(tmp_path / "a.png")
    full = _stacked(load_views(tmp_path / "a.png", config, 12, _generator()))
    return full.float(), _stacked(load_views(path, config, 12, _generator())).float()


def test_jpeg_is_reduced_while_decoding_where_all_crops_keep_enough_pixels(tmp_path: Path) -> None:
    full, reduced = _full_and_maybe_reduced(tmp_path, _crops_only(48, 0.5))
    difference = (full - reduced).abs()
    assert 0 < difference.mean() < 1.5  # grey levels
    shifted = (full[..., 1:] - reduced[..., :-1]).abs().mean()
    assert difference.mean() < 0.5 * shifted  # the crops are in the same place


def test_jpeg_is_decoded_whole_where_a_crop_would_lose_pixels(tmp_path: Path) -> None:
    full, whole = _full_and_maybe_reduced(tmp_path, _crops_only(224, 0.2))
    assert torch.equal(full, whole)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixels_decodes_to_rgb(mode: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(64, axis=0)
    image = Image.fromarray(ramp)
    image = Image.fromarray(ramp.astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    (view,) = load_views(path, _crops_only(64, 1.0), 1, _generator())
    assert view.shape == (64, 64, 3)
    assert view[:, :8].mean() < 30  # a mean, for bits are dithered
    assert view[:, -8:].mean() > 225
    assert np.ptp(view.mean(axis=(0, 1))) < 2


def test_palette_with_transparency_decodes_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((40, 40), 3, np.uint8), mode="P")
    image.putpalette([0] * 9 + [200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255, 255]))
    (view,) = load_views(tmp_path / "a.png", _crops_only(32, 1.0), 1, _generator())
    assert (view == (200, 100, 50)).all()


@pytest.mark.parametrize("content", ["nothing", "text", "half a jpeg", "half a png", "float tiff"])
def test_undecodable_image_is_named(content: str, tmp_path: Path) -> None:
    image = _pictures(1, 80, 80)[0]
    path = tmp_path / "broken.jpg"
    match content:
        case "nothing":
            path.write_bytes(b"")
        case "text":
            path.write_text("not an image")
        case "half a jpeg":
            path.write_bytes(_saved(image, tmp_path / "a.jpg").read_bytes()[:-1500])
        case "half a png":
            path.write_bytes(_saved(image, tmp_path / "a.png").read_bytes()[:1500])
        case "float tiff":
            Image.fromarray(np.ones((40, 40), np.float32)).save(path, format="TIFF")
    with pytest.raises(InputError, match=r"cannot decode the image .*broken\.jpg; remove it, or set data"):
        load_views(path, ViewConfig(size=32), 2, _generator())
