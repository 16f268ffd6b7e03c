"""Decoding and the published transform against torchvision's own, on every kind of image file."""

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from converters.checkpoint import Pixels
from converters.errors import InputError
from transfer.preprocessing import name_of, normalise, open_image, prepared, resize_and_crop

CPU = torch.device("cpu")
SIZES = [(64, 64), (67, 40), (41, 90), (31, 33), (500, 33), (33, 500), (20, 9), (1, 7), (7, 1), (65, 64), (64, 65)]


def picture(width: int, height: int) -> Image.Image:
    """Smooth and noisy at once."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    slopes = np.stack([x * 190 // max(width, 2), y * 190 // max(height, 2), (x + y) * 95 // max(width, height)], axis=2)
    return Image.fromarray((slopes + noise).astype(np.uint8))


def published(path: Path, size: int) -> Tensor:
    """ImageFolder's loader and the transform of ssl-transfer's linear.py, up to uint8; (size, size, 3)."""
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # Pillow's, of a palette's transparency
        image = Image.open(file).convert("RGB")
    transform = Compose([Resize(size, interpolation=InterpolationMode.BICUBIC), CenterCrop(size)])
    return torch.from_numpy(np.asarray(transform(image)).copy())


def loaded(path: Path, size: int) -> Tensor:
    return torch.from_numpy(resize_and_crop(open_image(path), size).copy())


def save(kind: str, folder: Path) -> Path:
    image, path = picture(70, 51), folder / f"{kind}.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    transparent = np.random.default_rng(1).integers(0, 256, (51, 70)).astype(np.uint8)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(transparent))
    match kind:
        case "jpeg":
            image.save(path, "JPEG", quality=90)
        case "large jpeg":
            picture(640, 480).save(path, "JPEG", quality=85)
        case "progressive jpeg without subsampling":
            image.save(path, "JPEG", progressive=True, subsampling=0)
        case "rotated jpeg":
            image.save(path, "JPEG", exif=exif)
        case "cmyk jpeg":
            image.convert("CMYK").save(path, "JPEG")
        case "grey jpeg":
            image.convert("L").save(path, "JPEG")
        case "grey":
            image.convert("L").save(path)
        case "grey with transparent value":
            image.convert("L").save(path, transparency=100)
        case "grey with alpha":
            alpha.convert("LA").save(path)
        case "one bit":
            image.convert("1").save(path)
        case "rgb":
            image.save(path)
        case "rgb with transparent colour":
            image.save(path, transparency=(1, 2, 3))
        case "alpha":
            alpha.save(path)
        case "palette":
            image.convert("P").save(path)
        case "palette with transparent colours":
            image.convert("P").save(path, transparency=bytes(range(256)))
        case "palette with one transparent colour":
            image.convert("P").save(path, transparency=3)
        case "gif":
            image.save(path, "GIF", save_all=True, append_images=[picture(70, 51).rotate(180)])
        case "transparent gif":
            image.convert("P").save(path, "GIF", transparency=5)
        case "webp":
            alpha.save(path, "WEBP")
        case "bmp" | "tiff":
            image.save(path, kind.upper())
    return path


KINDS = [
    *("jpeg", "large jpeg", "progressive jpeg without subsampling", "rotated jpeg", "cmyk jpeg", "grey jpeg", "grey"),
    *("grey with transparent value", "grey with alpha", "one bit", "rgb", "rgb with transparent colour", "alpha"),
    *("palette", "palette with transparent colours", "palette with one transparent colour", "gif", "transparent gif"),
    *("webp", "bmp", "tiff"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_becomes_what_torchvision_makes_of_it(kind: str, tmp_path: Path) -> None:
    path = save(kind, tmp_path)
    for size in (32, 51, 80):  # smaller, as large as the shorter side, larger
        assert loaded(path, size).equal(published(path, size))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_sides_and_corners_are_rounded_as_torchvision_rounds_them(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    picture(width, height).save(path)
    for size in (32, 33, 64):
        assert loaded(path, size).equal(published(path, size))


def test_every_ratio_of_sides_leads_to_torchvisions_size(tmp_path: Path) -> None:
    for longer in range(37, 160):
        image = Image.new("RGB", (37, longer))
        assert Resize(32)(image).size == (32, 32 * longer // 37)
        assert resize_and_crop(image, 32).shape == (32, 32, 3)


def test_normalised_images_are_bit_for_bit_those_of_torchvision(tmp_path: Path) -> None:
    path, pixels = save("jpeg", tmp_path), Pixels(32)
    transform = Compose(
        [
            *(Resize(32, interpolation=InterpolationMode.BICUBIC), CenterCrop(32), ToTensor()),
            Normalize(list(pixels.mean), list(pixels.std)),
        ]
    )
    with Image.open(path) as image:
        expected = transform(image.convert("RGB"))
    batch = normalise(loaded(path, 32)[None], pixels, CPU)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch[0].equal(expected)


def test_images_in_memory_go_the_same_way(tmp_path: Path) -> None:
    images = torch.stack([torch.from_numpy(np.array(picture(20, 16).rotate(k))).permute(2, 0, 1) for k in (0, 180)])
    paths = tuple(tmp_path / f"{index}.png" for index in range(2))
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    with prepared(images, [[0, 1]], 24) as memory, prepared(paths, [[0, 1]], 24) as files:
        assert next(memory).equal(next(files))


def test_square_images_of_the_right_size_are_not_touched() -> None:
    grey = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8).expand(-1, 3, -1, -1)
    with prepared(grey, [[2, 0]], 8) as batches:
        assert next(batches).equal(grey[[2, 0]].permute(0, 2, 3, 1))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_keep_their_order_whatever_the_number_of_workers(workers: int) -> None:
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(-1, 3, 4, 4)
    groups = [range(7), [9, 8], range(10, 40), [0]]
    with prepared(images, groups, 4, workers) as batches:
        seen = [batch[:, 0, 0, 0].tolist() for batch in batches]
    assert seen == [list(group) for group in groups]


def test_no_more_than_two_batches_are_prepared_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    class Groups(list[list[int]]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for group in range(20):
                taken.append(group)
                yield [group]

    with prepared(torch.zeros(20, 3, 4, 4, dtype=torch.uint8), Groups(), 4, 1) as batches:
        for number, _ in enumerate(batches):
            assert len(taken) <= number + 3


def damaged(kind: str, folder: Path) -> Path:
    path = save("jpeg" if kind == "truncated jpeg" else "rgb", folder)
    content = path.read_bytes()
    match kind:
        case "truncated jpeg" | "truncated png":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("no image")
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "16 bits":
            Image.fromarray(np.full((40, 40), 30_000, np.uint16)).save(path)
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["truncated jpeg", "truncated png", "empty", "text", "missing", "folder", "16 bits"])
def test_image_that_cannot_be_decoded_is_named_and_no_thread_is_left(kind: str, workers: int, tmp_path: Path) -> None:
    good, bad = save("jpeg", tmp_path), tmp_path / "bad"
    bad.mkdir()
    path = damaged(kind, bad)
    images = (good, good, path, *[good] * 20)
    before = set(threading.enumerate())
    with (
        pytest.raises(InputError, match=f"^cannot decode the image {path} .*; put the original file in its place$"),
        prepared(images, [range(2), range(2, 23)], 32, workers) as batches,
    ):
        list(batches)
    assert set(threading.enumerate()) == before


def test_threads_end_with_a_block_that_is_left_early() -> None:
    before = set(threading.enumerate())
    with prepared(torch.zeros(90, 3, 40, 40, dtype=torch.uint8), [[k] for k in range(90)], 32, 2) as batches:
        next(batches)
        assert set(threading.enumerate()) != before
    assert set(threading.enumerate()) == before


def test_images_are_named_by_path_or_index() -> None:
    assert name_of((Path("a/b.jpg"), Path("c.jpg")), 1) == "c.jpg"
    assert name_of(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), 1) == "image 1"
