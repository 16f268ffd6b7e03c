"""Features for the linear probe: of images that are cropped anew in each epoch, or of a cache, in any order asked for.

A sample's crop and flip are a function of seed, epoch and image, the same for any number of processes and workers and
in a resumed run.
"""

import math
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError
from converters.randomness import position_seed
from transfer.features import Features
from transfer.inference import full_precision
from transfer.preprocessing import Images, normalise, num_workers, open_image
from transfer.probe_config import ProbeConfig
from transfer.tasks import Splits

_CHUNK = 16  # images that a worker hands over at a time: some megabytes, while a whole batch may be hundreds
_TEST_BATCH = 256  # simsiam, main_lincls.py

_Key = tuple[int, list[int]]  # epoch, indices of images


class FeatureSource(Protocol):
    """Features of images by their index."""

    def parts(self, epoch: int, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Features of parts of the images, one after the other.

        Args:
            epoch: decides the augmentation, if there is any.
            parts: indices, each (n,).

        Yields:
            For each part, float32 (n, D), on the device, without gradient.

        Raises:
            InputError: an image cannot be decoded.
        """


class CachedFeatures:
    """Features that were computed before.

    Args:
        features: (N, D), in memory or on the disk.
        device: where they are wanted.
    """

    def __init__(self, features: Features, device: torch.device) -> None:
        self._features, self._device = features, device

    def parts(self, epoch: int, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """As `FeatureSource.parts`; the same in every epoch."""
        return (torch.from_numpy(np.asarray(self._features[part.numpy()])).to(self._device) for part in parts)


class BackboneFeatures:
    """What the frozen backbone makes of images, which worker processes decode and transform.

    Args:
        backbone: images (B, 3, H, W) to features (B, D); on the device and in evaluation mode.
        images: files, or uint8 (N, 3, H, W).
        transform: of a PIL image or a uint8 tensor, to uint8 (3, size, size).
        pixels: what the backbone expects.
        device: where to compute.
        workers: processes that decode; 0 decodes in this one.
        seed: of the transform's random choices.
        part_size: images that are asked for at a time, of which two portions are prepared in advance.
    """

    def __init__(
        self,
        backbone: nn.Module,
        images: Images,
        transform: v2.Transform,
        pixels: Pixels,
        device: torch.device,
        *,
        workers: int,
        seed: int,
        part_size: int,
    ) -> None:
        self._backbone, self._pixels, self._device = backbone, pixels, device
        self._keys = _Keys()
        self._loader = DataLoader(
            _Pictures(images, transform, seed),
            sampler=self._keys,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=math.ceil(2 * part_size / (_CHUNK * workers)) if workers else None,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # of its own: it would draw from the global one
        )

    def parts(self, epoch: int, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """As `FeatureSource.parts`."""
        self._keys.epoch, self._keys.parts = epoch, parts
        chunks = iter(self._loader)
        for part in parts:
            yield self._forward(list(islice(chunks, math.ceil(len(part) / _CHUNK))))

    @torch.no_grad()
    def _forward(self, chunks: list[Tensor | InputError]) -> Tensor:
        for chunk in chunks:
            if isinstance(chunk, InputError):
                raise chunk
        images = normalise(torch.cat(cast(list[Tensor], chunks)), self._pixels, self._device)
        with full_precision(deterministic=True):  # so that a resumed probe ends like an unbroken one
            features: Tensor = self._backbone(images)
        return features.float()


def crop_and_flip(config: ProbeConfig, size: int) -> v2.Transform:
    """The training transform (simsiam, main_lincls.py; bilinear, as torchvision's default).

    Args:
        config: the distribution of crops and flips.
        size: side of the crop in pixels.
    """
    crop = v2.RandomResizedCrop(size, scale=config.crop_scale, ratio=config.crop_ratio, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(config.flip_p), v2.PILToTensor()])


def resize_and_crop(config: ProbeConfig, size: int) -> v2.Transform:
    """The test transform, bilinear; images that are as large as wanted stay as they are.

    Args:
        config: the short side before the central crop.
        size: side of the crop in pixels.
    """
    return v2.Compose([v2.Resize(config.test_resize or size, antialias=True), v2.CenterCrop(size), v2.PILToTensor()])


def image_sources(
    backbone: nn.Module, splits: Splits, pixels: Pixels, config: ProbeConfig, ranks: Ranks, workers: int | None
) -> tuple[BackboneFeatures, BackboneFeatures]:
    """Features of the augmented training images, and of the test images.

    Args:
        backbone: see `BackboneFeatures`.
        splits: the images.
        pixels: what the backbone expects.
        config: of the probe.
        ranks: this process among its peers.
        workers: processes that decode; None for this process's share of the cores.
    """
    size = config.size or pixels.size
    options = {"workers": num_workers() if workers is None else workers, "seed": config.seed}
    part_size = math.ceil(config.batch_size / (ranks.world_size * config.accumulate))
    return (
        BackboneFeatures(
            backbone,
            splits.train.images,
            crop_and_flip(config, size),
            pixels,
            ranks.device,
            part_size=part_size,
            **options,
        ),
        BackboneFeatures(
            backbone,
            splits.test.images,
            resize_and_crop(config, size),
            pixels,
            ranks.device,
            part_size=_TEST_BATCH,
            **options,
        ),
    )


def gather_features(source: FeatureSource, indices: Tensor) -> Tensor:
    """Features of images in test batches, float32 (n, D).

    Args:
        source: of the features.
        indices: of the images, (n,).
    """
    return torch.cat(list(source.parts(0, torch.split(indices, _TEST_BATCH))))


class _Keys(Sampler[_Key]):
    """What the workers are to do; changed from epoch to epoch, while the workers stay."""

    def __init__(self) -> None:
        self.epoch = 0
        self.parts: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[_Key]:
        return ((self.epoch, chunk.tolist()) for part in self.parts for chunk in torch.split(part, _CHUNK))


class _Pictures(Dataset[Tensor | InputError]):
    """Images of a chunk, uint8 (n, size, size, 3). Lives in the workers.

    An error is returned: raised, it would arrive as a page of traceback.
    """

    def __init__(self, images: Images, transform: v2.Transform, seed: int) -> None:
        # one array: a million Python objects would be copied to each worker by the mere counting of references
        self._paths = None if isinstance(images, Tensor) else np.array([os.fsencode(path) for path in images])
        self._images = images if isinstance(images, Tensor) else None
        self._transform, self._seed = transform, seed

    def __getitem__(self, key: _Key) -> Tensor | InputError:
        epoch, indices = key
        try:
            return torch.stack([self._transformed(epoch, index).permute(1, 2, 0) for index in indices])
        except InputError as error:
            return error

    def _transformed(self, epoch: int, index: int) -> Tensor:
        image = self._open(index)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(position_seed(self._seed, "augmentation", epoch, index))
            transformed: Tensor = self._transform(image)
        return transformed

    def _open(self, index: int) -> Image.Image | Tensor:
        if self._images is not None:
            return self._images[index]
        assert self._paths is not None
        return open_image(Path(os.fsdecode(self._paths[index])))
