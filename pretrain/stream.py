"""Views of a folder's images from worker processes, the same whatever the number of workers."""

import math
import os
from collections.abc import Iterator

import cv2
import torch
from cv2.typing import MatLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from converters.errors import InputError
from converters.folder import Folder
from converters.randomness import generator
from pretrain.config import ViewConfig
from pretrain.decode import load_views
from pretrain.views import view_recipes

_CHUNK = 16  # images that a worker hands over at a time: some megabytes, while a whole batch may be hundreds

_Key = tuple[int, list[int]]  # epoch, indices of images
_Chunk = tuple[list[Tensor], int]  # views, each uint8 (n, size, size, 3); images that had to be replaced


class Stream:
    """Views of any images of a folder, in the order in which they are asked for.

    Args:
        folder: the images.
        views: the distribution of the views.
        num_views: independent views of each image, beside the small crops that `views` names.
        batch_size: images per batch of this process.
        seed: of the views.
        device: where the views are wanted.

    Attributes:
        num_skipped: images that could not be decoded and were replaced by the next one in the folder, since the last
            call of `batches`.
    """

    def __init__(
        self, folder: Folder, views: ViewConfig, num_views: int, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.num_skipped = 0
        self._device = device
        self._batch_size = batch_size
        self._sizes = [recipe.size for recipe in view_recipes(views, num_views)]
        # repeated along a line of pixels: much faster than three values at a time
        mean, std = (255 * torch.tensor(values, device=device) for values in (views.mean, views.std))
        self._norms = {size: (mean.repeat(size), 1 / std.repeat(size)) for size in set(self._sizes)}
        self._keys = _Keys()
        self._loader = _build_loader(_Views(folder, views, num_views, seed), self._keys, batch_size, device)

    def batches(self, epoch: int, start: int, batches: Tensor) -> Iterator[list[Tensor]]:
        """Views of batches of images.

        Args:
            epoch: decides the views.
            start: position of the first batch in the epoch; an image's views don't depend on it.
            batches: indices of images, (num_batches, batch_size).

        Yields:
            For each batch, its views: float32 (batch_size, 3, size, size), normalised, then its small crops.

        Raises:
            InputError: an image cannot be decoded, and the folder does not say to skip such.
        """
        self.num_skipped = 0
        self._keys.epoch, self._keys.batches = epoch, batches
        chunks = iter(self._loader)
        for _ in batches:
            yield self._assemble(chunks)

    def _assemble(self, chunks: Iterator[_Chunk | InputError]) -> list[Tensor]:
        lines = [torch.empty(self._batch_size, size, 3 * size, device=self._device) for size in self._sizes]
        done = 0
        while done < self._batch_size:
            chunk = next(chunks)
            if isinstance(chunk, InputError):
                raise chunk
            views, num_skipped = chunk
            for view, pixels, size in zip(lines, views, self._sizes, strict=True):
                part = view[done : done + len(pixels)].copy_(pixels.flatten(2).to(self._device, non_blocking=True))
                mean, scale = self._norms[size]
                part.sub_(mean).mul_(scale)
            done += len(views[0])
            self.num_skipped += num_skipped
        return [view.view(*view.shape[:2], -1, 3).permute(0, 3, 1, 2) for view in lines]


class _Keys(Sampler[_Key]):
    """What the workers are to do; changed from epoch to epoch, while the workers stay."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches = torch.empty(0, 0, dtype=torch.int64)

    def __iter__(self) -> Iterator[_Key]:
        return ((self.epoch, part.tolist()) for batch in self.batches for part in batch.split(_CHUNK))


class _Views(Dataset[_Chunk | InputError]):
    """Lives in the workers. An error is returned: raised, it would arrive as a page of traceback."""

    def __init__(self, folder: Folder, views: ViewConfig, num_views: int, seed: int) -> None:
        self.folder = folder
        self.views = views
        self.num_views = num_views
        self.seed = seed

    def __getitem__(self, key: _Key) -> _Chunk | InputError:
        epoch, indices = key
        try:
            images = [self._load(epoch, index) for index in indices]
        except InputError as error:
            return error
        # default_collate writes into memory that the main process shares
        return default_collate([views for views, _ in images]), sum(replaced for _, replaced in images)

    def _load(self, epoch: int, wanted: int) -> tuple[list[MatLike], bool]:
        """Views of an image, or of the next one that can be decoded, and whether it had to be another."""
        for attempt in range(len(self.folder)):
            path = self.folder.path((wanted + attempt) % len(self.folder))
            try:
                views = load_views(path, self.views, self.num_views, generator(self.seed, "views", epoch, wanted))
            except InputError:
                if not self.folder.skip_corrupt:
                    raise
            else:
                return views, attempt > 0
        raise InputError(f"no image in {self.folder.root} can be decoded; set data.root to a folder of images")


def _build_loader(
    dataset: _Views, keys: _Keys, batch_size: int, device: torch.device
) -> DataLoader[_Chunk | InputError]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(dataset.folder.workers, cores)  # more would only take memory
    # two batches ahead, so that the workers do not stand still during a step
    ahead = math.ceil(2 * batch_size / (_CHUNK * workers)) if workers else None
    return DataLoader(
        dataset,
        sampler=keys,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead,
        persistent_workers=workers > 0,
        worker_init_fn=_begin_worker,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # of its own: it would draw from the global one
    )


def _begin_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the processes are the parallelism
