"""Views that differ within a pair, solarisation, and small crops beside them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from PIL import Image, ImageOps
from torch import Tensor

from converters.errors import InputError
from converters.folder import Folder, open_folder
from converters.randomness import generator
from pretrain.augment import augment_batch
from pretrain.config import ViewConfig
from pretrain.data import Loader, Pool
from pretrain.decode import load_views
from pretrain.views import draw_parameters, view_recipes

CPU = torch.device("cpu")
# in levels of 0 to 255
LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}
UNTOUCHED = {"flip_p": 0.0, "jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}
WHOLE = {**UNTOUCHED, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
BYOL = ViewConfig(size=16, blur_p=1.0, second_blur_p=0.1, solarize_p=0.0, second_solarize_p=0.2)
CROPS = ViewConfig(size=16, num_local=3, local_size=10)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listings of these tests are remembered in a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def randomness(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maps(num: int = 8, side: int = 100) -> np.ndarray:
    """Pictures whose red grows to the right and green downwards, so that a view says which crop it is."""
    ramp = np.linspace(0, 250, side)
    red, green = np.meshgrid(ramp, ramp)
    return np.stack([red, green, np.full_like(red, 128)], axis=-1).round().astype(np.uint8)[None].repeat(num, axis=0)


@pytest.fixture(params=["memory", "folder", "folder with a worker"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Pool | Folder:
    pictures = maps()
    if request.param == "memory":
        return Pool(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    (tmp_path / "pictures").mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{index}.png")
    return open_folder(tmp_path / "pictures", workers=int("worker" in request.param))


def epoch(
    source: Pool | Folder, views: ViewConfig, num_views: int = 2, batch_size: int = 8, **where: int
) -> list[Tensor]:
    """The only batch of a first epoch."""
    loader = Loader(source, views, num_views, batch_size, seed=3, device=CPU, **where)
    (batch,) = loader.epoch(0)
    return batch


def test_without_second_options_all_views_are_of_one_distribution() -> None:
    config = ViewConfig(size=16, blur_p=0.3, solarize_p=0.1)
    assert view_recipes(config, 4) == [config] * 4


def test_second_options_are_those_of_the_odd_views() -> None:
    first, second, third, fourth = view_recipes(BYOL, 4)
    assert (first.blur_p, first.solarize_p) == (third.blur_p, third.solarize_p) == (1.0, 0.0)
    assert (second.blur_p, second.solarize_p) == (fourth.blur_p, fourth.solarize_p) == (0.1, 0.2)
    assert replace(second, blur_p=1.0, solarize_p=0.0) == first


def test_second_option_of_zero_is_not_one_that_is_missing() -> None:
    _, second = view_recipes(ViewConfig(blur_p=0.5, solarize_p=0.5, second_blur_p=0.0, second_solarize_p=0.0), 2)
    assert (second.blur_p, second.solarize_p) == (0.0, 0.0)


def test_small_crops_follow_with_their_own_size_and_share() -> None:
    recipes = view_recipes(replace(CROPS, local_scale=(0.1, 0.2)), 2)
    assert [(recipe.size, recipe.crop_scale) for recipe in recipes] == [(16, (0.2, 1.0))] * 2 + [(10, (0.1, 0.2))] * 3
    assert recipes[2].jitter == CROPS.jitter


@pytest.mark.parametrize("num_local", [None, 0])
def test_no_number_of_small_crops_and_none_are_none(num_local: int | None) -> None:
    assert len(view_recipes(ViewConfig(num_local=num_local), 4)) == 4


@pytest.mark.parametrize("view", [0, 1, 2, 3])
def test_blur_and_solarisation_of_each_view_have_its_probabilities(view: int) -> None:
    recipe = view_recipes(replace(BYOL, solarize_p=0.3), 4)[view]
    drawn = draw_parameters(recipe, 6000, 32, 32, randomness(view))
    for chosen, probability in ((drawn.blur, (1.0, 0.1)[view % 2]), (drawn.solarize, (0.3, 0.2)[view % 2])):
        three_sigma = 3 * (probability * (1 - probability) / 6000) ** 0.5
        assert chosen.double().mean().item() == pytest.approx(probability, abs=three_sigma)


def test_solarisation_is_independent_of_the_other_choices() -> None:
    drawn = draw_parameters(replace(BYOL, blur_p=0.5, solarize_p=0.5), 6000, 32, 40, randomness())
    others = [drawn.flip, drawn.jitter, drawn.gray, drawn.blur, drawn.box[:, 2] * drawn.box[:, 3]]
    for other in others:
        assert torch.corrcoef(torch.stack([drawn.solarize.double(), other.double()]))[0, 1].abs() < 0.06


def test_views_that_are_never_solarised_take_the_draws_that_they_took_before() -> None:
    """A run of an older configuration has the same views, bit for bit."""
    config, after = ViewConfig(size=16), randomness()
    drawn = draw_parameters(config, 50, 40, 40, after)
    before = randomness()
    uniform = torch.rand(50, 35, generator=before, dtype=torch.float64)
    assert torch.equal(before.get_state(), after.get_state())
    single = uniform[:, 22:]
    assert torch.equal(drawn.flip, single[:, 0] < 0.5)
    assert torch.equal(drawn.jitter, single[:, 1] < 0.8)
    assert torch.equal(drawn.order, single[:, 6:10].argsort(dim=1))
    assert torch.equal(drawn.gray, single[:, 10] < 0.2)
    assert torch.equal(drawn.blur, single[:, 11] < 0.5)
    assert torch.equal(drawn.sigma, (0.1 + 1.9 * single[:, 12]).float())
    assert not drawn.solarize.any()


def test_solarisation_changes_no_other_draw_of_the_view() -> None:
    plain = draw_parameters(BYOL, 50, 40, 40, randomness())
    solarised = draw_parameters(replace(BYOL, solarize_p=1.0), 50, 40, 40, randomness())
    assert solarised.solarize.all()
    for name, value in vars(plain).items():
        assert name == "solarize" or torch.equal(value, getattr(solarised, name)), name


def test_views_in_memory_are_those_of_one_draw_per_view() -> None:
    pool, config = Pool(torch.from_numpy(maps()).permute(0, 3, 1, 2)), replace(CROPS, second_blur_p=0.0)
    order = torch.randperm(8, generator=generator(3, "order", 0))
    for view, (recipe, pixels) in enumerate(zip(view_recipes(config, 2), epoch(pool, config), strict=True)):
        parameters = draw_parameters(recipe, 8, 100, 100, generator(3, "views", 0, 0, view))
        assert torch.equal(pixels, augment_batch(pool.images[order], parameters, recipe))


def test_small_crops_and_second_options_change_no_views_before_them(tmp_path: Path) -> None:
    pool = Pool(torch.from_numpy(maps()).permute(0, 3, 1, 2))
    plain, with_crops = (epoch(pool, config) for config in (ViewConfig(size=16), CROPS))
    assert torch.equal(torch.stack(plain), torch.stack(with_crops[:2]))
    asymmetric = epoch(pool, replace(CROPS, num_local=0, second_blur_p=1.0, second_solarize_p=1.0))
    assert torch.equal(plain[0], asymmetric[0])
    assert not torch.equal(plain[1], asymmetric[1])
    Image.fromarray(maps()[0]).save(tmp_path / "a.png")
    views = [load_views(tmp_path / "a.png", config, 2, randomness()) for config in (ViewConfig(size=16), CROPS)]
    assert all(np.array_equal(x, y) for x, y in zip(views[0], views[1][:2], strict=True))


def test_one_image_at_a_time_takes_one_draw_for_all_views_that_are_alike(tmp_path: Path) -> None:
    picture, config = maps(1)[0], replace(CROPS, crop_scale=(0.5, 1.0), **UNTOUCHED)
    Image.fromarray(picture).save(tmp_path / "a.png")
    random = randomness()
    recipes = view_recipes(config, 4)
    drawn = [draw_parameters(recipe, num, 100, 100, random) for recipe, num in ((recipes[0], 4), (recipes[4], 3))]
    boxes = torch.cat([parameters.box for parameters in drawn]).tolist()
    for view, (top, left, height, width) in zip(
        load_views(tmp_path / "a.png", config, 4, randomness()), boxes, strict=True
    ):
        middle = view.mean(axis=(0, 1)) * 99 / 250
        assert middle[0] == pytest.approx(left + (width - 1) / 2, abs=0.5)
        assert middle[1] == pytest.approx(top + (height - 1) / 2, abs=0.5)


def noise(num: int = 4, side: int = 16) -> Tensor:
    return torch.randint(256, (num, 3, side, side), dtype=torch.uint8, generator=randomness())


def test_solarised_batch_equals_pils_and_torchvisions() -> None:
    images = noise()
    images[0, 0] = torch.arange(256, dtype=torch.uint8).view(16, 16)  # every level, the threshold's neighbours included
    config = ViewConfig(size=16, solarize_p=1.0, **WHOLE, **LEVELS)
    views = augment_batch(images, draw_parameters(config, 4, 16, 16, randomness()), config)
    for image, view in zip(images, views, strict=True):
        pil = reference.pil_to_tensor(ImageOps.solarize(reference.to_pil_image(image)))
        torch.testing.assert_close(view, pil.float(), atol=1e-3, rtol=0)
        torch.testing.assert_close(view, reference.solarize(image, 128).float(), atol=1e-3, rtol=0)


def test_solarised_image_equals_pils_bit_for_bit(tmp_path: Path) -> None:
    image = reference.to_pil_image(noise()[0])
    image.save(tmp_path / "a.png")
    (view,) = load_views(tmp_path / "a.png", ViewConfig(size=16, solarize_p=1.0, **WHOLE), 1, randomness())
    assert np.array_equal(view, np.asarray(ImageOps.solarize(image)))
    assert view.dtype == np.uint8


def test_only_chosen_views_of_a_batch_are_solarised() -> None:
    images, config = noise(40), ViewConfig(size=16, solarize_p=0.5, **WHOLE, **LEVELS)
    parameters = draw_parameters(config, 40, 16, 16, randomness())
    assert 0 < parameters.solarize.sum() < 40
    for image, view, chosen in zip(images, augment_batch(images, parameters, config), parameters.solarize, strict=True):
        expected = reference.solarize(image, 128) if chosen else image
        torch.testing.assert_close(view, expected.float(), atol=1e-3, rtol=0)


def test_solarisation_comes_after_the_blur(tmp_path: Path) -> None:
    """Grill et al. 2020, appendix B: an inverted bright half has no grey edge, which a later blur would give it."""
    half = np.zeros((16, 16, 3), np.uint8)
    half[:, 8:] = 255
    Image.fromarray(half).save(tmp_path / "a.png")
    config = ViewConfig(size=16, solarize_p=1.0, **{**WHOLE, "blur_p": 1.0}, blur_sigma=(2.0, 2.0), **LEVELS)
    images = torch.from_numpy(half).permute(2, 0, 1)[None]
    in_batch = augment_batch(images, draw_parameters(config, 1, 16, 16, randomness()), config)[0, 0, 8]
    (alone,) = load_views(tmp_path / "a.png", config, 1, randomness())
    for line in (in_batch, torch.from_numpy(alone[8, :, 0].copy()).float()):
        assert line.max() < 128
        assert line[[7, 8]].min() > 80  # the edge is the brightest place, and both ends are black
        assert line[[0, 15]].max() < 2


@pytest.mark.parametrize("num_views", [2, 4])
def test_odd_views_alone_are_solarised_in_every_source(source: Pool | Folder, num_views: int) -> None:
    config = ViewConfig(size=100, second_solarize_p=1.0, **WHOLE, **LEVELS)
    for view, pixels in enumerate(epoch(source, config, num_views)):
        assert pixels[:, 2].mean() == pytest.approx(127 if view % 2 else 128, abs=0.01)  # 128 is inverted to 127
        assert pixels[:, 0].max().item() == pytest.approx(127 if view % 2 else 250, abs=1.5)


def test_odd_views_alone_are_blurred_in_every_source(source: Pool | Folder) -> None:
    config = ViewConfig(size=100, second_blur_p=1.0, **WHOLE, blur_sigma=(2.0, 2.0), **LEVELS)
    first, second = epoch(source, config)
    # the border is repeated, so that a blurred ramp begins above its darkest level
    assert first[:, 0, :, 0].max() < 0.5
    assert second[:, 0, :, 0].min() > 1.5


def test_batch_is_the_views_then_the_small_crops(source: Pool | Folder) -> None:
    views = epoch(source, CROPS, num_views=4)
    assert [view.shape for view in views] == [(8, 3, 16, 16)] * 4 + [(8, 3, 10, 10)] * 3
    assert all(view.dtype == torch.float32 for view in views)
    assert not any(torch.equal(x, y) for x, y in pairwise(views[4:]))


def crop_shares(view: Tensor) -> Tensor:
    """Shares of the area of `maps`, estimated from the spans of red and green, (N,)."""
    spans = view[:, :2].amax(dim=(2, 3)) - view[:, :2].amin(dim=(2, 3))
    side = view.shape[-1]
    return (spans * side / (side - 1) / 250).prod(dim=1)  # from the outer pixels' centres to their edges


def test_small_crops_show_their_own_share_of_the_image(source: Pool | Folder) -> None:
    config = ViewConfig(
        size=32, crop_scale=(0.5, 0.9), num_local=6, local_size=16, local_scale=(0.05, 0.14), **UNTOUCHED, **LEVELS
    )
    views = epoch(source, config)
    large, small = (torch.cat([crop_shares(view) for view in part]) for part in (views[:2], views[2:]))
    assert 0.45 < large.min() < large.max() < 0.95
    assert 0.04 < small.min() < small.max() < 0.16
    assert small.max() - small.min() > 0.06  # they are spread over the range


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_see_the_small_crops_of_one(source: Pool | Folder, world_size: int) -> None:
    alone = epoch(source, CROPS)
    parts = [epoch(source, CROPS, rank=rank, world_size=world_size) for rank in range(world_size)]
    for view, of_ranks in zip(alone, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(of_ranks), view, atol=1e-5, rtol=0)


def test_workers_give_the_small_crops_that_the_process_itself_gives(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for index, picture in enumerate(maps()):
        Image.fromarray(np.roll(picture, 10 * index, axis=1)).save(tmp_path / "pictures" / f"{index}.png")
    config = replace(CROPS, second_blur_p=0.0, second_solarize_p=0.5)
    alone, helped = (epoch(open_folder(tmp_path / "pictures", workers), config) for workers in (0, 1))
    assert all(torch.equal(x, y) for x, y in zip(alone, helped, strict=True))


def plain_pictures(folder: Path) -> Iterator[Pool | Folder]:
    """Eight pictures of one colour each, in memory and in a folder."""
    colours = torch.randint(256, (8, 3, 1, 1), dtype=torch.uint8, generator=randomness()).expand(8, 3, 40, 40)
    yield Pool(colours)
    folder.mkdir()
    for index, colour in enumerate(colours):
        reference.to_pil_image(colour).save(folder / f"{index}.png")
    yield open_folder(folder)


def test_small_crops_are_normalised_as_the_views(tmp_path: Path) -> None:
    config = replace(CROPS, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), **UNTOUCHED)
    for source in plain_pictures(tmp_path / "pictures"):
        views = epoch(source, config)
        means = [view.mean(dim=(2, 3)) for view in views]
        for view, mean in zip(views, means, strict=True):
            torch.testing.assert_close(mean, means[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(view, mean[:, :, None, None].expand_as(view), atol=1e-5, rtol=1e-5)
        levels = means[-1] * torch.tensor(config.std) + torch.tensor(config.mean)
        assert torch.allclose(255 * levels, (255 * levels).round(), atol=1e-2)
        assert levels.min() >= 0
        assert levels.max() <= 1
        assert len(levels.unique(dim=0)) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_local": 6}, r"views\.num_local is 6, but views\.local_size is missing: expected the side"),
        ({"num_local": -1}, r"views\.num_local: expected 0 to inf, got -1"),
        ({"num_local": 2, "local_size": 0}, r"views\.local_size: expected 1 to inf, got 0"),
        ({"local_scale": (0.14, 0.05)}, r"views\.local_scale: expected 0 < low <= high <= 1, got 0\.14 and 0\.05"),
        ({"local_scale": (0.0, 0.5)}, r"views\.local_scale: expected 0 < low <= high <= 1, got 0 and 0\.5"),
        ({"local_scale": (0.5, 1.5)}, r"views\.local_scale: expected 0 < low <= high <= 1, got 0\.5 and 1\.5"),
        ({"local_scale": (0.5,)}, r"views\.local_scale: expected 2 numbers, got \[0\.5\]"),
        ({"solarize_p": 1.5}, r"views\.solarize_p: expected 0 to 1, got 1\.5"),
        ({"second_blur_p": -0.1}, r"views\.second_blur_p: expected 0 to 1, got -0\.1"),
        ({"second_solarize_p": 2.0}, r"views\.second_solarize_p: expected 0 to 1, got 2"),
        ({"cutmix_p": float("nan")}, r"views\.cutmix_p: expected 0 to 1, got nan"),
        ({"cutmix_alpha": 0.0}, r"views\.cutmix_alpha: expected 0\.001 to inf, got 0"),
    ],
)
def test_impossible_views_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ViewConfig(**options)


def test_no_small_crops_may_have_a_size() -> None:
    assert len(view_recipes(ViewConfig(num_local=0, local_size=96), 2)) == 2
