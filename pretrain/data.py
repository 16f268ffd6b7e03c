"""Image sources and their batches: a batch is a list of views, and a pure function of seed, epoch and position.

Images that fit in memory are one uint8 tensor on the training device and are augmented there in batches; a folder
streams through worker processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from converters.errors import InputError, unknown
from converters.folder import Folder, open_folder
from converters.images import NAMES, load_images
from converters.randomness import generator
from pretrain.augment import augment_batch
from pretrain.config import DataConfig, ViewConfig
from pretrain.stream import Stream
from pretrain.views import draw_parameters, view_recipes


@dataclass(frozen=True)
class Pool:
    """Images in memory.

    Attributes:
        images: uint8 (N, 3, H, W), RGB; grey images may be expanded from one channel.
    """

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Pool":
        """The same images on a device; grey ones stay expanded from one channel there."""
        if self.images.stride(1):
            return Pool(self.images.to(device))
        return Pool(self.images[:, :1].to(device).expand_as(self.images))


def open_source(config: DataConfig) -> Pool | Folder:
    """The unlabelled images that a configuration names.

    Raises:
        InputError: the source is unknown, or its files are missing or empty.
    """
    root = None if config.root is None else Path(config.root).expanduser()
    if config.source in NAMES:
        return Pool(load_images(config.source, "train", root).images)
    if config.source != "folder":
        raise unknown("data.source", config.source, (*NAMES, "folder"))
    if root is None:
        raise InputError("data.source=folder needs data.root, the folder of the images")
    return open_folder(root, config.workers, config.skip_corrupt)


class Loader:
    """Batches of views, the same for any number of processes and wherever an epoch is begun.

    Args:
        source: the images.
        views: the distribution of the views.
        num_views: independent views of each image, beside the small crops that `views` names.
        batch_size: images per batch over all processes.
        seed: of the order of the images and of the views.
        rank: of this process; it gets the rank-th contiguous part of every batch.
        world_size: number of processes.
        device: where the views are wanted.

    Raises:
        InputError: the batch is larger than the data, or cannot be divided among the processes.
    """

    def __init__(
        self,
        source: Pool | Folder,
        views: ViewConfig,
        num_views: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device,
    ) -> None:
        if batch_size > len(source):
            raise InputError(f"expected a batch of at most the {len(source)} images there are, got {batch_size}")
        if batch_size % world_size:
            raise InputError(f"batch_size {batch_size} is not a multiple of the {world_size} processes")
        share = batch_size // world_size
        self._num_images = len(source)
        self._batch_size = batch_size
        self._seed = seed
        self._share = slice(rank * share, (rank + 1) * share)
        self._source: _PoolViews | Stream
        if isinstance(source, Pool):
            self._source = _PoolViews(source.to(device), views, num_views, batch_size, self._share, seed)
        else:
            self._source = Stream(source, views, num_views, share, seed, device)

    def __len__(self) -> int:
        """Batches per epoch; the images left over are dropped, others in each epoch."""
        return self._num_images // self._batch_size

    @property
    def num_images(self) -> int:
        """Images of the source, those included that are left over."""
        return self._num_images

    @property
    def num_skipped(self) -> int:
        """Images of this process that could not be decoded and were replaced, in the last epoch that was begun."""
        return self._source.num_skipped

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Tensor]]:
        """The batches of an epoch.

        Args:
            epoch: from 0; decides the order of the images and their views.
            start: the first batch wanted; the ones before it are not computed.

        Returns:
            An iterator over lists of `num_views` normalised tensors, float32 (batch_size / world_size, 3, size, size),
            followed by those of the small crops, where there are any, of their own size.

        Raises:
            InputError: while iterating: an image cannot be decoded, and the configuration does not say to skip such.
        """
        order = torch.randperm(self._num_images, generator=generator(self._seed, "order", epoch))
        batches = order[: len(self) * self._batch_size].view(len(self), -1)[start:, self._share]
        return self._source.batches(epoch, start, batches)


class _PoolViews:
    """Views of images in memory; the parameters of a whole batch are drawn, those of this process's part used."""

    num_skipped = 0

    def __init__(self, pool: Pool, views: ViewConfig, num_views: int, batch_size: int, share: slice, seed: int) -> None:
        self._images = pool.images
        self._recipes = view_recipes(views, num_views)
        self._batch_size = batch_size
        self._share = share
        self._seed = seed

    def batches(self, epoch: int, start: int, batches: Tensor) -> Iterator[list[Tensor]]:
        """Views of batches of images, as `Stream.batches`."""
        for batch, rows in enumerate(batches.to(self._images.device), start):
            images = self._images[rows]
            yield [self._view(images, epoch, batch, view) for view in range(len(self._recipes))]

    def _view(self, images: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        random = generator(self._seed, "views", epoch, batch, view)
        recipe = self._recipes[view]
        parameters = draw_parameters(recipe, self._batch_size, images.shape[2], images.shape[3], random)
        return augment_batch(images, parameters[self._share], recipe)
