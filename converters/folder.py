"""A folder of images as a list of names: read once, kept in one array, remembered between runs."""

import hashlib
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.checkpoint import atomic_write
from converters.errors import InputError, first_few

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")  # torchvision's ImageFolder

_FORMAT = 1  # of the remembered listing
_SETTLED_S = 2.0  # the coarsest time stamps of common file systems (FAT) tell two changes apart after this

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Folder:
    """The images below a folder, in the order of their names.

    A million Python strings would be copied to each worker process by the mere counting of references to them; an
    array is shared.

    Attributes:
        root: the folder.
        names: paths below it, each followed by a zero byte.
        ends: where each path's zero byte is.
        workers: processes that decode.
        skip_corrupt: replace an image that cannot be decoded by the next one.
    """

    root: Path
    names: Bytes
    ends: npt.NDArray[np.int64]
    workers: int
    skip_corrupt: bool

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, index: int) -> Path:
        """Where an image lies."""
        start = self.ends[index - 1] + 1 if index else 0
        return self.root / os.fsdecode(self.names[start : self.ends[index]].tobytes())


def open_folder(root: Path, workers: int = 0, skip_corrupt: bool = False) -> Folder:
    """List the images of a folder and all folders below it, hidden ones excepted.

    The listing is remembered in ``$XDG_CACHE_HOME/gsg-transfer`` (``~/.cache/gsg-transfer``), with the time of the last
    change of every folder in it: whoever adds, removes or renames a file changes the time of its folder. So a second
    run asks for a thousand folders' times instead of reading a million names.

    Args:
        root: class folders as ImageNet's, files alone, or any mixture.
        workers: see `Folder`.
        skip_corrupt: see `Folder`.

    Raises:
        InputError: the folder is missing or unreadable, or there are no images in it.
    """
    if not root.is_dir():
        raise InputError(f"image folder {root} not found; set data.root to a folder of images")
    root = root.resolve()
    memory = _cache_file(root)
    names = _remembered(root, memory)
    if names is None:
        names = _list_and_remember(root, memory)
    if not len(names):
        raise InputError(f"no images in {root}; expected files that end in {', '.join(EXTENSIONS)}")
    return Folder(root, names, np.flatnonzero(names == 0), workers, skip_corrupt)


def class_labels(folder: Folder) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """The classes of images in class folders, ImageNet's layout: an image's class is the first folder of its path.

    Args:
        folder: from `open_folder`.

    Returns:
        The names of the class folders, sorted, and each image's index into them, (N,).

    Raises:
        InputError: an image lies outside the class folders, or a class folder holds none.
    """
    names = np.array([name.partition(b"/")[0] for name in folder.names.tobytes().split(b"\0")[:-1]])
    found, labels = np.unique(names, return_inverse=True)
    classes = tuple(os.fsdecode(name) for name in found.tolist())
    with os.scandir(folder.root) as entries:
        folders = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    if set(classes) != folders:
        odd = first_few(sorted(set(classes) ^ folders))
        raise InputError(f"expected images in every class folder of {folder.root} and nowhere else: {odd}")
    return classes, labels


def _cache_file(root: Path) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", tempfile.gettempdir()), ".cache"))
    return caches / "gsg-transfer" / f"folder-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.npz"


def _remembered(root: Path, memory: Path) -> Bytes | None:
    """The names in a remembered listing, unless there is none, it is damaged, or a folder has changed since."""
    try:
        with memory.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            folders = [root / os.fsdecode(name) for name in saved["folders"].tobytes().split(b"\0")[:-1]]
            current = saved["format"] == _FORMAT and saved["times"].tolist() == [_time(path) for path in folders]
            return saved["names"] if current else None
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _list_and_remember(root: Path, memory: Path) -> Bytes:
    started = time.time_ns()
    times: dict[str, int] = {}
    names = _pack(_files(root, "", times, set()))
    # a file added in the same tick of the clock as an earlier change would go unnoticed
    if started - max(times.values()) > _SETTLED_S * 1e9:
        _remember(memory, names, times)
    return names


def _remember(memory: Path, names: Bytes, times: dict[str, int]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(memory) as temporary, temporary.open("wb") as file:
            np.savez(file, format=_FORMAT, names=names, folders=_pack(times), times=np.array(list(times.values())))
    except (OSError, InputError):
        return  # a home that cannot be written costs the next run some time, no more


def _files(root: Path, below: str, times: dict[str, int], visited: set[tuple[int, int]]) -> Iterator[str]:
    """Names of images in the order of folders and names; `times` and `visited` are filled on the way."""
    try:
        state = (root / below).stat()
        if (state.st_dev, state.st_ino) in visited:  # a symbolic link to a folder above
            return
        visited.add((state.st_dev, state.st_ino))
        times[below] = state.st_mtime_ns
        with os.scandir(root / below) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot list {root / below}: {error.strerror}; make it readable, or remove it") from error
    for name, is_folder in found:
        if is_folder:
            yield from _files(root, f"{below}{name}/", times, visited)
        elif name.lower().endswith(EXTENSIONS):
            yield below + name


def _time(folder: Path) -> int:
    return folder.stat().st_mtime_ns


def _pack(names: Iterator[str] | dict[str, int]) -> Bytes:
    return np.frombuffer(b"".join(os.fsencode(name) + b"\0" for name in names), dtype=np.uint8)
