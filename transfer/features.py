"""Frozen features: what a backbone, or a control in its place, makes of a set of images; computed once, then found."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from converters import distributed
from converters.checkpoint import Pixels, atomic_write
from converters.distributed import Ranks
from converters.errors import InputError
from transfer import preprocessing
from transfer.inference import NUM_PROOF, FrozenBackbone, fingerprint, full_precision
from transfer.preprocessing import name_of, normalise, prepared
from transfer.progress import ImageBar

Features = npt.NDArray[np.float32]
Images = preprocessing.Images

_FORMAT = 1  # of the cache: raise it when the same key would lead to other features
_CALIBRATION_IMAGES = 2048
_CALIBRATION_BATCH = 256
_DEAD_AFTER_S = 3600.0  # a run that lives writes more often into its unfinished file


def frozen_features(
    backbone: nn.Module, images: Images, pixels: Pixels, *, ranks: Ranks, folder: Path, workers: int | None = None
) -> Features:
    """Features of every image, each exactly once, in order; neither normalised nor standardised.

    They are kept in a file named for everything that they depend on: the backbone's structure and tensors, the pixels,
    and the images. Images in memory count by their content, files by name below their common folder, size and time of
    the last change: else every call would read gigabytes to find out that nothing is to be done.

    Args:
        backbone: images (B, 3, H, W) to features (B, D); left alone, in whatever mode it is.
        images: files or pixels, at least one.
        pixels: what the backbone expects; see `transfer.preprocessing` for how the images get there.
        ranks: this process among its peers, which all call this with the same arguments and share the work.
        folder: of the files; made if it is missing.
        workers: threads that decode; None for one per core of this process's share.

    Returns:
        float32 (N, D), mapped from the file, read-only.

    Raises:
        InputError: an image cannot be decoded or has features that are not finite, or the folder cannot be written.
        AssertionError: the features depend on how the backbone is computed; see `FrozenBackbone`.
    """
    assert len(images), "expected at least one image"
    path = Path(_on_main(ranks, lambda: str(_locate(backbone, images, pixels, folder))))
    if _on_main(ranks, lambda: "" if path.exists() else "missing"):
        _compute(backbone, images, pixels, ranks, path, workers)
    features: Features = np.load(path, mmap_mode="r")
    return features


@torch.no_grad()
def calibrate_batch_norm(
    backbone: nn.Module, images: Images, pixels: Pixels, device: torch.device, workers: int | None = None
) -> None:
    """Set the batch-norm statistics of a backbone to those of the images, averaged over batches.

    Without it a random initialisation in evaluation mode normalises with mean 0 and variance 1, which is a straw man.

    Args:
        backbone: changed in place.
        images: files or pixels, at least one; of more than 2,048, so many are drawn, always the same.
        pixels: as for `frozen_features`.
        device: where to compute.
        workers: as for `frozen_features`.

    Raises:
        InputError: an image cannot be decoded.
    """
    backbone.to(device).to(memory_format=torch.channels_last).train()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average of all batches
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:_CALIBRATION_IMAGES].sort().values
    # batches of nearly equal size, since the average gives each the same weight
    groups = [group.tolist() for group in drawn.tensor_split(math.ceil(len(drawn) / _CALIBRATION_BATCH))]
    with prepared(images, groups, pixels.size, workers) as batches, full_precision(deterministic=True):
        for batch in batches:
            backbone(normalise(batch, pixels, device))
    backbone.eval()


def _locate(backbone: nn.Module, images: Images, pixels: Pixels, folder: Path) -> Path:
    """Where the features are, or will be; a damaged file there is removed."""
    digest = hashlib.sha256(f"{_FORMAT} {fingerprint(backbone)} {asdict(pixels)} {len(images)} ".encode())
    for part in identify(images, times=True):
        digest.update(part)
    path = folder / f"{digest.hexdigest()}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _is_whole(path, len(images)):
            print(f"{path} is damaged; its features are computed again")
            path.unlink()
        for unfinished in folder.glob(".*.npy.*.part"):  # of runs that were killed
            if time.time() - unfinished.stat().st_mtime > _DEAD_AFTER_S:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def identify(images: Images, *, times: bool) -> Iterator[bytes]:
    """What tells these images from others, piece by piece: in memory their content, of files name and size.

    Args:
        images: in memory, or files.
        times: also when each file was changed last, which a copy of a data set does not share with it.

    Raises:
        InputError: a file is missing.
    """
    if isinstance(images, Tensor):
        yield f"{tuple(images.shape)} ".encode()
        yield from (part.contiguous().numpy().tobytes() for part in torch.split(images, 1024))
        return
    names = [os.path.abspath(image) for image in images]  # noqa: PTH100 - 4 times as fast as Path.absolute
    common = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120
    for name in names:
        try:
            status = os.stat(name)  # noqa: PTH116
        except OSError as error:
            raise InputError(f"cannot read the image {name}: {error.strerror}; put it in its place") from error
        changed = f" {status.st_mtime_ns}" if times else ""
        yield f"{name[len(common) :]}\0{status.st_size}{changed}\0".encode(errors="surrogateescape")


def _is_whole(path: Path, num_images: int) -> bool:
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return features.dtype == np.float32 and features.ndim == 2 and len(features) == num_images


def _compute(
    backbone: nn.Module, images: Images, pixels: Pixels, ranks: Ranks, path: Path, workers: int | None
) -> None:
    before = fingerprint(backbone)
    share = range(len(images))[_share(len(images), ranks)]
    network = distributed.together(ranks, lambda: _freeze(backbone, images, pixels, ranks.device, len(share)))
    with ExitStack() as stack:  # at whose end the main rank gives the file its name
        create = lambda: _create(stack.enter_context(atomic_write(path)), (len(images), network.dim))  # noqa: E731
        temporary = Path(_on_main(ranks, create))
        distributed.together(
            ranks, lambda: _write(temporary, share, _rows(network, images, share, pixels.size, ranks, workers))
        )
    assert fingerprint(backbone) == before, "the frozen backbone changed while its features were computed"
    distributed.together(ranks, lambda: None)  # until the file has its name


def _share(num_images: int, ranks: Ranks) -> slice:
    """This rank's images: as many as any other's, or one less."""
    return slice(*(num_images * rank // ranks.world_size for rank in (ranks.rank, ranks.rank + 1)))


def _freeze(
    backbone: nn.Module, images: Images, pixels: Pixels, device: torch.device, num_images: int
) -> FrozenBackbone:
    with prepared(images, [range(min(NUM_PROOF, len(images)))], pixels.size, workers=0) as batches:
        return FrozenBackbone(backbone, next(batches), pixels, device, num_images)


def _create(path: Path, shape: tuple[int, int]) -> str:
    try:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    except OSError as error:
        raise _unwritable(path, error) from error
    return str(path)


def _rows(
    network: FrozenBackbone, images: Images, share: range, size: int, ranks: Ranks, workers: int | None
) -> Iterator[Features]:
    """Features of this rank's images, batch after batch: only so much is ever in memory."""
    groups = [share[start : start + network.batch_size] for start in range(0, len(share), network.batch_size)]
    with prepared(images, groups, size, workers) as batches, ImageBar("features", len(share), ranks) as bar:
        for group, batch in zip(groups, batches, strict=True):
            features: Features = network(batch).numpy()
            wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
            if len(wrong):
                name = name_of(images, group[int(wrong[0])])
                raise InputError(f"features of {name} are not finite; look at that image and at the checkpoint")
            yield features
            bar.advance(len(batch))


def _write(path: Path, share: range, rows: Iterable[Features]) -> None:
    """Write rows where they belong. Not through a mapping: on a full disk, that would end the process."""
    mapped = np.load(path, mmap_mode="r")
    start, row_bytes = mapped.offset, mapped.itemsize * mapped.shape[1]
    try:
        with path.open("r+b") as file:
            file.seek(start + share.start * row_bytes)
            for features in rows:
                file.write(features.tobytes())
            assert file.tell() == start + share.stop * row_bytes, "expected each image to be computed exactly once"
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write features to {path.parent}: {error.strerror}; make room, or choose another folder")


def _on_main(ranks: Ranks, action: Callable[[], str]) -> str:
    """What an action gives on the main rank, on every rank."""
    result = distributed.together(ranks, lambda: action() if ranks.is_main else None)
    shared = distributed.from_main(result)
    assert shared is not None
    return shared
