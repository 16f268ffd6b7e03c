"""ADE20K and the sample scenes in its layout: found, and checked before training starts.

What is wrong in a file would else show itself after hours, by a traceback or only in the number.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from converters.distributed import Ranks
from converters.errors import InputError, first_few
from converters.targets import quiet
from transfer import sample_data
from transfer.progress import ImageBar

with quiet():
    from mmseg.datasets import ADE20KDataset

Split = Literal["training", "validation"]
Colour = tuple[int, int, int]
T = TypeVar("T")
R = TypeVar("R")

NAME = "ADEChallengeData2016"
SIZES: dict[Split, int] = {"training": 20210, "validation": 2000}  # Zhou et al. 2017, the challenge's benchmark

_CLASSES = tuple(name.strip() for name in ADE20KDataset.METAINFO["classes"])
_PALETTE: tuple[Colour, ...] = tuple(tuple(colour) for colour in ADE20KDataset.METAINFO["palette"])
_SAMPLE_PALETTE: tuple[Colour, ...] = (
    *((200, 200, 200), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)),
    *((145, 30, 180), (70, 240, 240), (240, 50, 230), (128, 128, 0), (0, 0, 128)),
)

_UNPACK_AGAIN = f"unpack {NAME}.zip again"
_EXIF_ORIENTATION = 0x0112
_COLOUR_TYPE, _PALETTED = 25, 3  # of a PNG: the place of the byte that says it, and what it says for a palette
_THREADS = 8  # decoding leaves Python's lock
_AHEAD = 4 * _THREADS  # maps that wait to be counted, so that memory stays small


@dataclass(frozen=True)
class LabelSet:
    """A split with what is known of its labels.

    Attributes:
        name: ``"ade20k"`` or ``"sample"``.
        split: also its folders' name.
        root: the folder ADEChallengeData2016.
        names: of the pictures, without suffix, in MMSegmentation's order.
        classes: of the files' labels 1, 2, ..., which are the network's 0, 1, ...
        palette: their colours, RGB.
        pixels: with each of the files' labels, unlabelled ones first, int64 (C + 1,).
        fingerprint: twelve hexadecimal digits that change with every name, size and label.
        left_out: names of pictures without any label, which are no part of the others.
    """

    name: str
    split: Split
    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    pixels: npt.NDArray[np.int64]
    fingerprint: str
    left_out: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """The pictures' files."""
        return tuple(self.root / "images" / self.split / f"{name}.jpg" for name in self.names)

    @property
    def annotations(self) -> tuple[Path, ...]:
        """The label maps' files."""
        return tuple(self.root / "annotations" / self.split / f"{name}.png" for name in self.names)

    @property
    def notes(self) -> list[str]:
        """What a user should know, a sentence each."""
        absent = [name for name, count in zip(self.classes, self.pixels[1:], strict=True) if not count]
        shares = self.pixels / self.pixels.sum()
        most = int(self.pixels[1:].argmax())
        frequent = f"{self.classes[most]} is most frequent, {shares[most + 1]:.1%}"
        notes = [f"{shares[0]:.1%} of the pixels unlabelled; {frequent}"]
        if absent:
            notes.append(f"{len(absent)} classes without a pixel: {first_few(absent)}")
        if self.left_out:
            notes.append(f"{len(self.left_out)} pictures without any label left out: {first_few(self.left_out)}")
        return notes


@dataclass(frozen=True)
class LabelData:
    """What a segmentor is trained on, and what it is validated on."""

    train: LabelSet
    validation: LabelSet


def find_root(argument: Path | None) -> Path | None:
    """The folder ADEChallengeData2016.

    Args:
        argument: that folder or the one that holds it; None for data/ and data/ade/, which is MMSegmentation's habit.

    Returns:
        It; None if there was no argument and it is in none of these.

    Raises:
        InputError: it is not where the argument says.
    """
    if argument is None:
        return next((root for root in (Path("data", NAME), Path("data", "ade", NAME)) if root.is_dir()), None)
    argument = argument.expanduser()
    for root in (argument / NAME, argument):
        if (root / "images").is_dir() or root.name == NAME:
            return root
    raise InputError(f"ADE20K not found: expected {argument / NAME}; set --data-root to the folder that holds {NAME}")


def ade20k(root: Path, ranks: Ranks, *, check_sizes: bool = True) -> LabelData:
    """ADE20K as the scene parsing benchmark has it: 150 classes, 20,210 pictures to train and 2,000 to validate.

    Args:
        root: see `find_root`.
        ranks: this process among its peers.
        check_sizes: False accepts an excerpt, and leaves out pictures without any label.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    return _read("ade20k", root, _CLASSES, _PALETTE, ranks, sizes=SIZES if check_sizes else None)


def sample(root: Path, ranks: Ranks) -> LabelData:
    """The sample scenes.

    Args:
        root: the folder that holds them in ADE20K's layout, see `sample_data.sample_root`.
        ranks: this process among its peers.

    Raises:
        InputError: they are incomplete or damaged.
    """
    return _read("sample", root / NAME, sample_data.ADE20K_CLASSES, _SAMPLE_PALETTE, ranks, sizes=None)


def _read(
    name: str,
    root: Path,
    classes: tuple[str, ...],
    palette: tuple[Colour, ...],
    ranks: Ranks,
    *,
    sizes: dict[Split, int] | None,
) -> LabelData:
    splits: tuple[Split, ...] = ("training", "validation")
    names = {split: _names(root, split, sizes[split] if sizes else None) for split in splits}
    common = sorted(set(names["training"]) & set(names["validation"]))
    if common:
        raise InputError(f"{root}: expected no picture in both splits, got {first_few(common)}; {_UNPACK_AGAIN}")
    train, validation = (
        _checked(LabelSet(name, split, root, names[split], classes, palette, np.zeros(0, np.int64), ""), ranks, sizes)
        for split in splits
    )
    return LabelData(train, validation)


def _names(root: Path, split: Split, size: int | None) -> tuple[str, ...]:
    """The names of a split, each with its picture and its annotation, in MMSegmentation's order."""
    found = {}
    for kind, suffix in (("images", ".jpg"), ("annotations", ".png")):
        folder = root / kind / split
        if not folder.is_dir():
            raise InputError(f"{folder} not found; set --data-root to the folder that holds {NAME}, or {_UNPACK_AGAIN}")
        found[kind] = {path.stem for path in folder.iterdir() if path.suffix == suffix}
    images, annotations = found["images"], found["annotations"]
    alone = (images - annotations, "annotation", "image"), (annotations - images, "image", "annotation")
    for missing, wanted, there in alone:
        if missing:
            raise InputError(
                f"{root}, {split}: expected an {wanted} for every {there}, got none for {first_few(sorted(missing))}; "
                f"{_UNPACK_AGAIN}"
            )
    if not images:
        raise InputError(f"{root / 'images' / split} holds no .jpg; {_UNPACK_AGAIN}")
    if size is not None and len(images) != size:
        raise InputError(
            f"{root}, {split}: expected {size} pictures, got {len(images)}; {_UNPACK_AGAIN}, or accept the number with "
            "--excerpt"
        )
    return tuple(path.removesuffix(".jpg") for path in sorted(f"{name}.jpg" for name in images))


def _checked(labels: LabelSet, ranks: Ranks, sizes: dict[Split, int] | None) -> LabelSet:
    """The split with its labels counted.

    Raises:
        InputError: a file is damaged, does not fit its partner, or holds labels that there are not.
    """
    digest = hashlib.sha256("\n".join(labels.names).encode())
    pixels = np.zeros(256, np.int64)
    void = []
    with ImageBar(f"checking {labels.name} {labels.split}", len(labels.names), ranks) as bar:
        pairs = list(zip(labels.images, labels.annotations, strict=True))
        for name, (counts, own) in zip(labels.names, _in_threads(_check_pair, pairs), strict=True):
            _check_labels(labels, name, counts)
            pixels += counts
            digest.update(own)
            if not counts[1:].any():
                void.append(name)
            bar.advance(1)
    if void and sizes is not None:
        raise InputError(
            f"{labels.root}, {labels.split}: expected a labelled pixel in every picture, got none in "
            f"{first_few(void)}; {_UNPACK_AGAIN}, or leave them out with --excerpt"
        )
    kept = tuple(name for name in labels.names if name not in set(void))
    if not kept:
        raise InputError(f"{labels.root}, {labels.split}: expected labelled pictures, got none; {_UNPACK_AGAIN}")
    return LabelSet(
        labels.name,
        labels.split,
        labels.root,
        kept,
        labels.classes,
        labels.palette,
        pixels[: len(labels.classes) + 1],
        digest.hexdigest()[:12],
        tuple(void),
    )


def _check_labels(labels: LabelSet, name: str, counts: npt.NDArray[np.int64]) -> None:
    highest = int(np.flatnonzero(counts)[-1])
    if highest > len(labels.classes):
        raise InputError(
            f"{labels.root / 'annotations' / labels.split / name}.png: expected labels 0 (unlabelled) to "
            f"{len(labels.classes)}, got {highest}; use the annotations of {NAME}, not those of the full ADE20K"
        )


def _check_pair(pair: tuple[Path, Path]) -> tuple[npt.NDArray[np.int64], bytes]:
    """How often each value occurs in a label map, int64 (256,), and a checksum of it, once picture and map fit."""
    image, annotation = pair
    size = _size_of_picture(image)
    labels = _read_labels(annotation)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise InputError(
            f"{annotation}: expected one channel of 8 bit with a class in each pixel, got {labels.dtype} of shape "
            f"{labels.shape}; {_UNPACK_AGAIN}"
        )
    if labels.shape[::-1] != size:
        raise InputError(
            f"{annotation}: expected the size of its picture, {size[0]} x {size[1]}, got {labels.shape[1]} x "
            f"{labels.shape[0]}; {_UNPACK_AGAIN}"
        )
    return np.bincount(labels.ravel(), minlength=256), hashlib.sha256(labels.tobytes() + str(size).encode()).digest()


def _read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """The values of a label map, as MMSegmentation reads them; by OpenCV, which is faster, where it gives the same."""
    data: npt.NDArray[np.uint8] = np.frombuffer(path.read_bytes(), np.uint8)
    if len(data) <= _COLOUR_TYPE:
        raise InputError(f"{path} is damaged; {_UNPACK_AGAIN}")
    try:
        labels: Any = None if data[_COLOUR_TYPE] == _PALETTED else cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if labels is None:  # colours in place of labels, or damaged: Pillow says how
            with Image.open(path) as image:
                labels = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} is damaged ({error}); {_UNPACK_AGAIN}") from error
    found: npt.NDArray[np.uint8] = labels
    return found


def _size_of_picture(path: Path) -> tuple[int, int]:
    """Width and height by the header."""
    try:
        with Image.open(path) as image:
            size = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1)
    except OSError as error:
        raise InputError(f"{path} is no picture ({error}); {_UNPACK_AGAIN}") from error
    if turned != 1:
        raise InputError(
            f"{path}: expected no EXIF orientation, got {turned}: the picture would be turned and its labels not; "
            "remove that tag"
        )
    return size


def _in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """What a function gives for some items, in their order, a few ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = deque(pool.submit(work, item) for item in items[:_AHEAD])
        for item in (*items[_AHEAD:], *[None] * min(_AHEAD, len(items))):
            done = waiting.popleft().result()
            if item is not None:
                waiting.append(pool.submit(work, item))
            yield done
