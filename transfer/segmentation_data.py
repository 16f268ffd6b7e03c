"""ADE20K and the sample scenes in its layout: found, and every file checked before training starts.

What is wrong in a file would else show itself after hours, by a traceback or only in the number: MMSegmentation lists
what lies in the folders, and takes what it finds.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from converters.distributed import Ranks
from converters.errors import InputError, first_few, printable
from converters.targets import quiet
from transfer import sample_data
from transfer.progress import ImageBar

with quiet():
    from mmseg.datasets import ADE20KDataset

Split = Literal["training", "validation"]
Palette = tuple[tuple[int, int, int], ...]

CLASSES = tuple(name.strip() for name in ADE20KDataset.METAINFO["classes"])  # 'bed ' ends with a blank
PALETTE: Palette = tuple((r, g, b) for r, g, b in ADE20KDataset.METAINFO["palette"])
SAMPLE_PALETTE: Palette = (
    *((128, 128, 128), (220, 40, 40), (40, 150, 60), (50, 90, 220), (240, 210, 40), (240, 130, 30)),
    *((140, 60, 180), (70, 210, 230), (240, 120, 200), (110, 70, 30), (180, 240, 130)),
)

_FOLDER = "ADEChallengeData2016"
_SIZES: dict[Split, int] = {
    "training": 20_210,
    "validation": 2_000,
}  # Zhou et al. 2017, scene parsing benchmark
# training images of the official archive whose annotation is 0 everywhere: CSAILVision/semantic-segmentation-pytorch,
# issue 298. Published protocols train on them: their loss is 0, and batch norms see them.
_EMPTY = frozenset(
    f"ADE_train_{number:08}"
    for number in (
        *(5149, 5150, 5152, 5333, 5905, 6510, 13298),
        *(14634, 14636, 14884, 15320, 15330, 15928, 19873),
    )
)
_UNPACK_AGAIN = "unpack the data set's archive again"


@dataclass(frozen=True)
class LabelSet:
    """One split of a data set of label maps.

    Attributes:
        name: of the data set, ``"ade20k"`` or ``"sample"``.
        split: ``"training"`` or ``"validation"``, the name of its folders too.
        root: the folder ``ADEChallengeData2016``.
        names: of the images without suffix, in the order in which MMSegmentation lists them.
        classes: names; labels 1, 2, ... in the files, 0, 1, ... for the network.
        palette: colours of the classes, RGB in 0..255.
        pixels: how many there are of each label in the files, the unlabelled ones first, int64 (C + 1,).
        fingerprint: 12 hexadecimal digits of a SHA-256 over classes, names, every image and every label.
        notes: what a user should know, one sentence each.
        left_out: names of images without a labelled pixel that an excerpt lacks; `names` doesn't have them.
    """

    name: str
    split: Split
    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]
    palette: Palette
    pixels: npt.NDArray[np.int64]
    fingerprint: str
    notes: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def images(self) -> tuple[Path, ...]:
        """The JPEG files."""
        return tuple(_image(self.root, self.split, name) for name in self.names)

    @property
    def annotations(self) -> tuple[Path, ...]:
        """The PNG files of labels."""
        return tuple(_annotation(self.root, self.split, name) for name in self.names)


@dataclass(frozen=True)
class LabelData:
    """What a segmentor is trained on, and what it is validated on."""

    train: LabelSet
    validation: LabelSet


class _Map(NamedTuple):
    """What is kept of an image and its label map: pixels of each label, (C + 1,), and a digest of both."""

    pixels: npt.NDArray[np.int64]
    digest: bytes

    @property
    def labelled(self) -> bool:
        """Whether any pixel shows a class."""
        return bool(self.pixels[1:].any())


def find_root(argument: Path | None) -> Path | None:
    """The folder ``ADEChallengeData2016``.

    Args:
        argument: that folder, or one that holds it, in ``ade/`` or not, as MMSegmentation's ``data/`` does; None for
            ``data/``.

    Returns:
        None if it isn't in ``data/``, where nobody said that it is.

    Raises:
        InputError: it isn't where the argument says.
    """
    given = (argument or Path("data")).expanduser()
    for folder in (given / _FOLDER, given / "ade" / _FOLDER):
        if folder.is_dir():
            return folder
    if argument is None:
        return None
    if (given / "images").is_dir() or given.resolve().name == _FOLDER:
        return given
    raise InputError(f"ADE20K not found: expected {given / _FOLDER}; set --data-root to the folder that holds it")


def ade20k(root: Path, ranks: Ranks, *, check_sizes: bool = True) -> LabelData:
    """ADE20K as its scene parsing benchmark has it: 150 classes, 20,210 training and 2,000 validation images.

    Args:
        root: the folder ``ADEChallengeData2016``, see `find_root`.
        ranks: this process among its peers; the main one shows progress.
        check_sizes: False accepts an excerpt, and leaves images without a labelled pixel out.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    return _read("ade20k", root, CLASSES, PALETTE, ranks, official=check_sizes)


def sample(root: Path, ranks: Ranks) -> LabelData:
    """The sample scenes, whose background is a class of its own.

    Args:
        root: from `sample_data.sample_root`.
        ranks: this process among its peers; the main one shows progress.

    Raises:
        InputError: the scenes are missing, incomplete or damaged.
    """
    return _read("sample", root / _FOLDER, sample_data.ADE20K_CLASSES, SAMPLE_PALETTE, ranks, official=False)


def _read(
    name: str, root: Path, classes: tuple[str, ...], palette: Palette, ranks: Ranks, *, official: bool
) -> LabelData:
    """Read both splits, what is cheap to check first."""
    listed = {split: (_listed(root, "images", split), _listed(root, "annotations", split)) for split in _SIZES}
    for split, (images, _) in listed.items():
        if official and len(images) != _SIZES[split]:
            raise InputError(
                f"{name} {split}: expected {_SIZES[split]} images, got {len(images)} in {root / 'images' / split}; "
                f"{_UNPACK_AGAIN}, or accept an excerpt by --excerpt"
            )
    for split, pair in listed.items():
        _check_pairs(root, split, *pair)
    names = {split: images for split, (images, _) in listed.items()}
    common = sorted(set(names["training"]) & set(names["validation"]))
    if common:
        raise InputError(f"{root}: expected no image in both splits, got {first_few(common)}; {_UNPACK_AGAIN}")
    with ImageBar("checking labels", sum(map(len, names.values())), ranks) as bar:
        maps = {split: _maps(root, split, names[split], len(classes), bar) for split in names}
    train, validation = (
        _label_set(name, split, root, names[split], classes, palette, maps[split], official=official) for split in names
    )
    return LabelData(train, validation)


def _image(root: Path, split: Split, name: str) -> Path:
    return root / "images" / split / f"{name}.jpg"


def _annotation(root: Path, split: Split, name: str) -> Path:
    return root / "annotations" / split / f"{name}.png"


def _listed(root: Path, kind: Literal["images", "annotations"], split: Split) -> list[str]:
    """Names of the files that MMSegmentation's data set finds in a folder, in its order, which counts the suffix."""
    folder = root / kind / split
    suffix = {"images": ".jpg", "annotations": ".png"}[kind]
    if not folder.is_dir():
        raise InputError(f"{root} is incomplete: expected {kind}/{split} in it; {_UNPACK_AGAIN}")
    with os.scandir(folder) as entries:
        files = {entry.name: entry.is_file() for entry in entries}
    others = sorted(name for name, is_file in files.items() if not is_file)
    if others:  # MMSegmentation would look into folders
        raise InputError(f"{folder}: expected files only, got {first_few(others)}, which is none; move it elsewhere")
    found = sorted(name for name in files if name.endswith(suffix) and not name.startswith("."))
    if not found:
        raise InputError(f"{folder}: expected files *{suffix}, got none of {len(files)} files; {_UNPACK_AGAIN}")
    return [name.removesuffix(suffix) for name in found]


def _check_pairs(root: Path, split: Split, images: Sequence[str], annotations: Sequence[str]) -> None:
    """Refuse an image without annotation, and the reverse."""
    for have, need, of_have, of_need in (
        (images, annotations, _image, _annotation),
        (annotations, images, _annotation, _image),
    ):
        alone = sorted(set(have) - set(need))
        if alone:
            raise InputError(
                f"{of_have(root, split, alone[0])}: expected {of_need(root, split, alone[0])} for it, which does not "
                f"exist ({len(alone)} of {len(have)} such files are missing); {_UNPACK_AGAIN}"
            )


def _maps(root: Path, split: Split, names: Sequence[str], num_classes: int, bar: ImageBar) -> list[_Map]:
    """Read every label map and check it against its image; of what is wrong, the first one is told."""
    maps, wrong = list[_Map](), list[str]()
    images = (_image(root, split, name) for name in names)
    annotations = (_annotation(root, split, name) for name in names)
    with ThreadPoolExecutor() as pool:
        for found in pool.map(_map_or_problem, images, annotations, repeat(num_classes)):
            bar.advance(1)
            maps.append(found) if isinstance(found, _Map) else wrong.append(found)
    if wrong:
        raise InputError(f"{wrong[0]} (of {len(names)} {split} images, {len(wrong)} are wrong)")
    return maps


def _map_or_problem(image: Path, annotation: Path, num_classes: int) -> _Map | str:
    try:
        size, picture = _picture(image)
        labels = _labels(annotation)
        if labels.size != size:
            sizes = [" x ".join(map(str, each)) for each in (size, labels.size)]
            raise InputError(
                f"{annotation}: expected {sizes[0]} pixels, the size of its image, got {sizes[1]}; {_UNPACK_AGAIN}"
            )
        pixels = np.array(labels.histogram())  # in less time than NumPy's bincount
        highest = int(np.flatnonzero(pixels).max())
        if highest > num_classes:
            raise InputError(f"{annotation}: expected labels from 0 to {num_classes}, got {highest}; {_UNPACK_AGAIN}")
    except InputError as error:
        return str(error)
    digest = hashlib.sha256(picture + str(size).encode() + labels.tobytes()).digest()
    return _Map(pixels[: num_classes + 1].copy(), digest)


def _picture(path: Path) -> tuple[tuple[int, int], bytes]:
    """Width and height of an image that OpenCV can decode, by which MMSegmentation reads it, and a digest of its file.

    Decoding to an eighth reads the whole file, and is quick.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            size, has_exif = image.size, "exif" in image.info
        pixels = np.frombuffer(content, dtype=np.uint8)
        seen = cv2.imdecode(pixels, cv2.IMREAD_REDUCED_COLOR_8)
        if seen is None:
            raise OSError("OpenCV cannot decode it")
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"cannot read {path} ({printable(str(error))}); {_UNPACK_AGAIN}") from error
    if has_exif:
        stored = cv2.imdecode(pixels, cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored is None or not np.array_equal(seen, stored):
            raise InputError(
                f"{path}: expected no EXIF orientation, got one by which OpenCV turns the image and not its labels; "
                "store it without"
            )
    return size, hashlib.sha256(content).digest()


def _labels(path: Path) -> Image.Image:
    """An annotation, decoded as MMSegmentation does it."""
    try:
        with Image.open(path) as labels:
            labels.load()
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"cannot read {path} ({printable(str(error))}); {_UNPACK_AGAIN}") from error
    if labels.mode not in ("L", "P"):
        raise InputError(
            f"{path}: expected one channel of 8 bits (mode L or P), got mode {labels.mode}; {_UNPACK_AGAIN}"
        )
    return labels


def _label_set(
    name: str,
    split: Split,
    root: Path,
    names: Sequence[str],
    classes: tuple[str, ...],
    palette: Palette,
    maps: Sequence[_Map],
    *,
    official: bool,
) -> LabelSet:
    """Put a split together; `official` is one whose images without a label are known."""
    void = [each for each, found in zip(names, maps, strict=True) if not found.labelled]
    strange = [each for each in void if each not in _EMPTY] if official else []
    if strange or len(void) == len(names):
        few = first_few([str(_annotation(root, split, each)) for each in strange or void])
        leave_out = ", or leave such images out by --excerpt" if official else ""
        raise InputError(
            f"{name} {split}: expected labelled pixels in every image, got none in {few}; {_UNPACK_AGAIN}{leave_out}"
        )
    left_out = () if official else tuple(void)
    kept = {each: found for each, found in zip(names, maps, strict=True) if official or found.labelled}
    pixels = np.sum([found.pixels for found in kept.values()], axis=0)
    digest = hashlib.sha256(json.dumps([classes, list(kept)]).encode())
    for found in kept.values():
        digest.update(found.digest)
    notes = tuple(_notes(classes, pixels, void, official=official))
    fingerprint = digest.hexdigest()[:12]
    return LabelSet(name, split, root, tuple(kept), classes, palette, pixels, fingerprint, notes, left_out)


def _notes(
    classes: Sequence[str], pixels: npt.NDArray[np.int64], void: Sequence[str], *, official: bool
) -> Iterable[str]:
    """What a user should know."""
    yield f"unlabelled pixels, which neither train nor count: {pixels[0] / pixels.sum():.1%}"
    absent = [name for name, count in zip(classes, pixels[1:].tolist(), strict=True) if not count]
    if absent:
        yield f"classes without a pixel: {first_few(absent)}"
    if void:
        what = "kept as in the published protocols" if official else "left out"
        yield f"images without a labelled pixel, {what}: {first_few(void)}"
