"""What the backbone gets to see: decoding, the published transform, and threads that do both ahead of its need."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from converters.checkpoint import Pixels
from converters.errors import InputError

Images = tuple[Path, ...] | Tensor
"""Files in order, or uint8 (N, 3, H, W), RGB."""

Array = npt.NDArray[np.uint8]
Groups = Sequence[Sequence[int]]

_AHEAD = 2  # batches that are being decoded while one is computed


def open_image(path: Path) -> Image.Image:
    """Decode an image file as RGB.

    An orientation tag is ignored, as by the published code, and so is transparency: what counts is the colour below it.
    A JPEG is decoded at its full size: at a reduced one, libjpeg averages blocks of pixels before the bicubic filter
    sees them, which is another transform.

    Args:
        path: of the file.

    Raises:
        InputError: the file cannot be read or decoded, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                raise ValueError(f"expected 8 bits per channel, got mode {image.mode}")  # Pillow would clip at 255
            # the same colours as at once, without Pillow's warning
            has_transparent_index = image.mode == "P" and "transparency" in image.info
            return (image.convert("RGBA") if has_transparent_index else image).convert("RGB")
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"cannot decode the image {path} ({error}); put the original file in its place") from error


def resize_and_crop(image: Image.Image, size: int) -> Array:
    """The shorter side to `size`, bicubic, then the centre: Ericsson et al. 2021 (ssl-transfer, linear.py).

    Equal to torchvision's Resize and CenterCrop on PIL images, whose rounding of sides and corners it follows.

    Args:
        image: RGB, of any size.
        size: of the result.

    Returns:
        uint8 (size, size, 3), RGB.
    """
    width, height = image.size
    shorter = min(width, height)
    width, height = size * width // shorter, size * height // shorter
    resized = image.resize((width, height), Image.Resampling.BICUBIC)  # a copy where the size is right already
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@contextmanager
def prepared(images: Images, groups: Groups, size: int, workers: int | None = None) -> Iterator[Iterator[Tensor]]:
    """Groups of images, decoded, resized and cropped, in order, for as long as the block lasts.

    The workers are threads: Pillow decodes and resizes without Python's global lock. Unlike processes they start at
    once, share the images and cannot be left over; nor do they call PyTorch, whose threads are the backbone's.

    Args:
        images: from which the groups are taken.
        groups: indices of the images of each batch.
        size: of the result.
        workers: threads; None for one per core of this process's share, 0 to decode only when a batch is asked for.

    Yields:
        An iterator over, for each group, uint8 (B, size, size, 3), RGB; it raises `InputError` where an image cannot be
        read or decoded.
    """
    Image.init()  # threads that find Pillow's formats half loaded would not know theirs
    prepare = partial(_prepare, images if isinstance(images, tuple) else images.numpy(), size)
    workers = num_workers() if workers is None else workers
    if not workers:
        yield (_stack([prepare(index) for index in group]) for group in groups)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        yield _ahead(pool, prepare, groups)
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(pool: ThreadPoolExecutor, prepare: Callable[[int], Array], groups: Groups) -> Iterator[Tensor]:
    pending: deque[list[Future[Array]]] = deque()
    for group in groups:
        pending.append([pool.submit(prepare, index) for index in group])
        if len(pending) > _AHEAD:
            yield _stack([future.result() for future in pending.popleft()])
    for futures in pending:
        yield _stack([future.result() for future in futures])


def normalise(batch: Tensor, pixels: Pixels, device: torch.device) -> Tensor:
    """Divide by 255, and subtract and divide by what the backbone expects, on the device and in float32.

    Args:
        batch: uint8 (B, H, W, 3).
        pixels: mean and standard deviation.
        device: where the backbone is.

    Returns:
        float32 (B, 3, H, W), channels last in memory.
    """
    if device.type == "cuda":
        batch = batch.pin_memory()
    images = batch.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    return images.div_(255).sub_(mean).div_(std)


def name_of(images: Images, index: int) -> str:
    """How a message names an image: its path, or its index."""
    return str(images[index]) if isinstance(images, tuple) else f"image {index}"


def _prepare(images: tuple[Path, ...] | Array, size: int, index: int) -> Array:
    if isinstance(images, tuple):
        return resize_and_crop(open_image(images[index]), size)
    image = np.ascontiguousarray(images[index].transpose(1, 2, 0))
    return image if image.shape[:2] == (size, size) else resize_and_crop(Image.fromarray(image), size)


def _stack(images: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.stack(images))


def num_workers() -> int:
    """This process's share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # processes that torchrun started here
