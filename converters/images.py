"""Labelled image sets that fit in memory, read in their official layouts into one uint8 tensor each."""

import csv
import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image
from torch import Tensor

from converters.arrays import load_arrays
from converters.checkpoint import Pixels
from converters.errors import InputError, unknown

Split = Literal["train", "test"]

SAMPLE_ROOT = Path(__file__).resolve().parents[1] / "configs" / "demo" / "pictures"

_RESTORE = "restore the file from the repository"

_DATA_ROOT = Path("data")
_DEBIAN_FASHION_ROOT = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_SIZES = {
    "sample": {"train": 2_000, "test": 500},
    "cifar10": {"train": 50_000, "test": 10_000},  # Krizhevsky 2009, section 3
    "fashion_mnist": {"train": 60_000, "test": 10_000},  # Xiao et al. 2017, section 2
}
_TILE = 64  # pixels, of the sample's sheets


@dataclass(frozen=True)
class LabelledImages:
    """One split of a labelled image set.

    Attributes:
        images: uint8 (N, 3, H, W), RGB. Grey images are expanded from one channel without a copy: don't write to them.
            From `load_drawings` (N, 4, H, W), RGBA.
        labels: int64 (N,), indices into `classes`.
        classes: names, in the data set's own order.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def load_images(name: str, split: Split, root: Path | None = None, *, check_sizes: bool = True) -> LabelledImages:
    """Read a split of a labelled image set into memory; nothing is downloaded.

    Args:
        name: one of `NAMES`.
        split: ``"train"`` or ``"test"``, as the set's authors divided it.
        root: folder of the data: ``cifar10`` expects ``cifar-10-batches-py/`` in it and ``fashion_mnist``
            ``FashionMNIST/raw/`` (torchvision's layouts), or the files themselves; ``sample`` expects ``index.csv``.
            None means ``data/`` in the current folder, for ``fashion_mnist`` also where Debian's package puts it, and
            for ``sample`` the pictures of this checkout.
        check_sizes: False accepts an excerpt.

    Returns:
        The images in the order of the files.

    Raises:
        InputError: the set is unknown; a file is missing, truncated or corrupt; or there are not as many images as
            the set has.
    """
    if name not in _READERS:
        raise unknown("image set", name, NAMES)
    loaded = _READERS[name](split, root)
    num_images, num_classes = len(loaded.images), len(loaded.classes)
    if len(loaded.labels) != num_images or not set(loaded.labels.tolist()) <= set(range(num_classes)):
        raise InputError(
            f"{name}: expected {num_images} {split} labels below {num_classes}, got {len(loaded.labels)} from "
            f"{sorted(set(loaded.labels.tolist()))}; put the original files in place"
        )
    expected = _SIZES[name][split]
    if check_sizes and num_images != expected:
        raise InputError(
            f"{name}: expected {expected} {split} images, got {num_images}; put the original files in place"
        )
    return loaded


def load_drawings(split: Split, root: Path | None = None) -> LabelledImages:
    """Read the sample's drawings with their transparency, to be put on other paper than white.

    Args:
        split: ``"train"`` or ``"test"``.
        root: folder that holds ``index.csv`` and the sheets; None for the pictures of this checkout.

    Returns:
        The drawings in the order of the index, uint8 (N, 4, 64, 64), RGBA.

    Raises:
        InputError: a file is missing or damaged.
    """
    root = root or SAMPLE_ROOT
    index = root / "index.csv"
    if not index.is_file():
        raise InputError(
            f"sample pictures not found: expected {index}; they lie in configs/demo/pictures of a checkout and not in "
            "an installed package, so run from a checkout or set root (--data-root) to that folder"
        )
    try:
        with index.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        classes = tuple(sorted({row["class"] for row in rows}))
        rows = [row for row in rows if row["split"] == split]
        sheets = {name: _sheet(root / name) for name in dict.fromkeys(row["sheet"] for row in rows)}
        images = [sheets[row["sheet"]][int(row["tile"])] for row in rows]
    except (KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{index} does not describe the sheets beside it ({error}); {_RESTORE}") from error
    labels = torch.tensor([classes.index(row["class"]) for row in rows])
    return LabelledImages(torch.stack(images), labels, classes)


def prepare(images: Tensor, pixels: Pixels) -> Tensor:
    """The test transform: what a backbone with these conventions gets to see, without augmentation.

    Resizing is torchvision's antialiased bilinear one, which rounds to whole pixel values as PIL does.

    Args:
        images: uint8 (B, 3, H, H), RGB.
        pixels: size, mean and standard deviation.

    Returns:
        float32 (B, 3, pixels.size, pixels.size), normalised, on the device of `images`.

    Raises:
        ValueError: the images are not square, which this transform would distort.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(f"expected square images, got {height} x {width}; crop them first")
    if height != pixels.size:
        images = transforms.resize(images, [pixels.size, pixels.size], antialias=True)
    scaled = transforms.to_dtype(images, torch.float32, scale=True)
    normalised: Tensor = transforms.normalize(scaled, list(pixels.mean), list(pixels.std))
    return normalised


def _sample(split: Split, root: Path | None) -> LabelledImages:
    drawings = load_drawings(split, root)
    return replace(drawings, images=_on_white(drawings.images))


def _on_white(drawings: Tensor) -> Tensor:
    """Drawings on white paper, uint8: RGBA (N, 4, H, W) to RGB (N, 3, H, W)."""
    num_drawings, _, height, width = drawings.shape
    column = Image.fromarray(drawings.permute(0, 2, 3, 1).reshape(-1, width, 4).numpy())  # one below the other
    paper = Image.new("RGBA", column.size, "white")
    paper.alpha_composite(column)
    pixels = torch.from_numpy(np.array(paper.convert("RGB")))
    return pixels.view(num_drawings, height, width, 3).permute(0, 3, 1, 2).contiguous()


def _sheet(path: Path) -> Tensor:
    """The tiles of a sheet, uint8 (N, 4, 64, 64), RGBA, row by row."""
    try:
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGBA")))
    except OSError as error:  # Pillow's errors for files that are no images or are truncated are kinds of it
        raise InputError(f"cannot read {path} ({error}); {_RESTORE}") from error
    tiles = pixels.unfold(0, _TILE, _TILE).unfold(1, _TILE, _TILE)  # (rows, columns, 4, 64, 64)
    return tiles.flatten(0, 1)


def _cifar10(split: Split, root: Path | None) -> LabelledImages:
    root = root or _DATA_ROOT
    names = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    files = _find("CIFAR-10", [root / "cifar-10-batches-py", root], names)
    images, labels = zip(*map(_cifar10_batch, files), strict=True)
    return LabelledImages(torch.cat(images), torch.cat(labels), _CIFAR10_CLASSES)


def _cifar10_batch(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with path.open("rb") as file:
            # written by Python 2, whose strings are bytes
            batch = load_arrays(file, encoding="bytes")
        images = torch.from_numpy(batch[b"data"].values).reshape(-1, 3, 32, 32)
        labels = torch.tensor(batch[b"labels"])
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} is truncated or no batch of CIFAR-10 ({error}); unpack the archive again") from error
    return images, labels


def _fashion_mnist(split: Split, root: Path | None) -> LabelledImages:
    roots = [root] if root else [_DATA_ROOT, _DEBIAN_FASHION_ROOT]
    folders = [folder for root in roots for folder in (root / "FashionMNIST" / "raw", root)]
    start = "train" if split == "train" else "t10k"
    names = [f"{start}-images-idx3-ubyte", f"{start}-labels-idx1-ubyte"]
    images, labels = _find("Fashion-MNIST", folders, names, suffixes=("", ".gz"))
    grey = _idx(images, dimensions=3).unsqueeze(1)
    return LabelledImages(grey.expand(-1, 3, -1, -1), _idx(labels, dimensions=1).long(), _FASHION_CLASSES)


def _idx(path: Path, dimensions: int) -> Tensor:
    """A file of unsigned bytes in MNIST's IDX format, described on yann.lecun.com/exdb/mnist."""
    try:
        content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is truncated or corrupt ({error}); fetch it again") from error
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    magic = bytes((0, 0, 8, dimensions))  # 8 stands for unsigned bytes
    if content[:4] != magic or not math.prod(shape) or len(content) != start + math.prod(shape):
        raise InputError(
            f"{path} is truncated or corrupt: expected {dimensions} dimensions of bytes in IDX format, got "
            f"{len(content)} bytes that announce the shape {shape}; fetch it again"
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).reshape(shape)


def _find(title: str, folders: Sequence[Path], names: Sequence[str], suffixes: Sequence[str] = ("",)) -> list[Path]:
    """Every named file, with the first suffix that exists, in the folder that holds most of them."""

    def files(folder: Path) -> dict[str, Path]:
        paths = {name: [folder / (name + suffix) for suffix in suffixes] for name in names}
        return {name: path for name, choices in paths.items() for path in reversed(choices) if path.is_file()}

    folder = max(folders, key=lambda folder: len(files(folder)))
    found = files(folder)
    for name in names:
        if name not in found:
            expected = " or ".join(name + suffix for suffix in suffixes)
            raise InputError(
                f"{title} not found: expected {expected} in {folder}; put the original files there or set root "
                "(--data-root) to the folder that holds them"
            )
    return [found[name] for name in names]


_READERS: dict[str, Callable[[Split, Path | None], LabelledImages]] = {
    "sample": _sample,
    "cifar10": _cifar10,
    "fashion_mnist": _fashion_mnist,
}
NAMES = tuple(_READERS)
