"""What is watched during training: k-NN accuracy on labelled images, and whether the projections collapse."""

import os
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate
from torchvision.transforms import v2

from converters import distributed
from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError, unknown
from converters.folder import class_labels, open_folder
from converters.images import NAMES, load_images, prepare
from converters.neighbours import knn_predict
from pretrain.config import MonitorConfig

_BATCH = 256

# Of `spread`; this project's choice, a tenth of what evenly spread directions have.
COLLAPSED_SPREAD = 0.1
# Of `effective_rank`; this project's choice: on the sample, SimSiam without stop-gradient or predictor falls to 2.4 to
# 2.6 within 24 steps of 32 images, while healthy runs stay above 11.
COLLAPSED_RANK = 3.0


def spread(z: Tensor) -> Tensor:
    """Deviation of the normalised projections per dimension, times sqrt(d): 1 when spread evenly, 0 when collapsed.

    Chen & He 2021, Figure 2 (middle).

    Args:
        z: projections, (N, D), N > 1.
    """
    directions = nn.functional.normalize(z.float(), dim=1)
    return cast(Tensor, directions.std(dim=0).mean() * z.shape[1] ** 0.5)


def effective_rank(z: Tensor) -> Tensor:
    """RankMe: exponential of the entropy of the singular values, from 1 to min(N, D).

    Garrido et al. 2023, "RankMe", eq. 1.

    Args:
        z: projections, (N, D).
    """
    singular = torch.linalg.svdvals(z.float())
    share = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return cast(Tensor, (-(share * share.log()).sum()).exp())


class CollapseWatch:
    """Says once that the projections collapsed, to one point or to one direction.

    Args:
        announced: whether it was said before the run was resumed.
    """

    def __init__(self, *, announced: bool = False):
        self.announced = announced

    def check(self, *, spread: float | None = None, rank: float | None = None, full_rank: int = 2**31) -> str | None:
        """What to announce, if anything.

        Args:
            spread: see `spread`.
            rank: see `effective_rank`.
            full_rank: the most that it can be, min(N, D): few images have few directions without any collapse.
        """
        lowest_rank = max(min(COLLAPSED_RANK, full_rank / 2), 1.05)  # one direction is always too few
        signs = []
        if spread is not None and spread < COLLAPSED_SPREAD:
            signs.append(f"the projections' spread is {spread:.3f}, below {COLLAPSED_SPREAD}")
        if rank is not None and rank < lowest_rank:
            signs.append(f"the projections' effective rank is {rank:.2f}, below {lowest_rank:g}")
        if not signs or self.announced:
            return None
        self.announced = True
        return " and ".join(signs)


class Split:
    """Labelled images with the test transform, in batches.

    Args:
        dataset: yields (image, label): uint8 (3, H, W) if `pixels` is given, otherwise transformed already.
        pixels: how images are prepared.
        workers: processes that decode.
    """

    def __init__(self, dataset: Dataset[Any], pixels: Pixels | None, workers: int):
        self.dataset, self.pixels = dataset, pixels
        self.workers = min(workers, os.cpu_count() or 1)  # torch warns of more
        self.num_images = len(cast(Sized, dataset))

    def batches(self, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's share: every world_size-th image, (B, 3, size, size), with the labels, (B,).

        Raises:
            InputError: an image cannot be decoded.
        """
        share = Subset(self.dataset, range(rank, self.num_images, world_size))
        for batch in DataLoader(share, batch_size=_BATCH, num_workers=self.workers, collate_fn=_collate):
            if isinstance(batch, InputError):
                raise batch
            images, labels = batch
            yield (prepare(images, self.pixels) if self.pixels else images), labels


def _collate(examples: list[Any]) -> Any:
    """A batch, or the first error: raised in a worker, it would arrive as a page of traceback."""
    return next((each for each in examples if isinstance(each, InputError)), None) or default_collate(examples)


class _LabelledFolder(Dataset[Any]):
    """Images in class folders, listed once and remembered as the training images are.

    Args:
        root: class folders as ImageNet's.
        transform: of the PIL image.

    Raises:
        InputError: there is no image, one outside the class folders, or a class folder without one.
    """

    def __init__(self, root: Path, transform: Callable[[Image.Image], Tensor]):
        self.folder, self.transform = open_folder(root), transform
        try:
            self.classes, self.labels = class_labels(self.folder)
        except InputError as error:
            raise InputError(f"monitor.root: {error}") from error

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | InputError:
        path = self.folder.path(index)
        try:
            with Image.open(path) as image:
                return self.transform(image), int(self.labels[index])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's, of damaged files
            return InputError(f"{path} cannot be decoded ({error}); remove it from the monitor's folder")


class KnnMonitor:
    """k-NN accuracy of the backbone's features on a labelled split, shared among the ranks.

    Args:
        config: which labelled data, k and temperature.
        pixels: what the backbone expects.
        ranks: this process among its peers; each computes the features of its share.
        workers: processes that decode a folder's images.

    Raises:
        InputError: the labelled data cannot be found, or is smaller than k.
    """

    def __init__(self, config: MonitorConfig, pixels: Pixels, ranks: Ranks, workers: int):
        self.k, self.temperature = config.k, config.temperature
        self.pixels, self.ranks = pixels, ranks
        self.bank, self.queries, self.num_classes = open_labelled(config, pixels, workers)
        if self.k > self.bank.num_images:
            raise InputError(f"monitor.k: expected at most {self.bank.num_images}, the labelled images; got {self.k}")

    @torch.no_grad()
    def accuracy(self, backbone: nn.Module) -> float:
        """Share of the queries whose class the neighbours in the bank vote for; every query counts exactly once.

        Args:
            backbone: images (B, 3, H, W) to features (B, D); left in training mode.
        """
        backbone.eval()
        bank, bank_labels = self._features(backbone, self.bank)
        queries, labels = self._features(backbone, self.queries)
        backbone.train()
        mine = slice(self.ranks.rank, None, self.ranks.world_size)
        predicted = knn_predict(queries[mine], bank, bank_labels, self.num_classes, self.k, self.temperature)
        correct = (predicted == labels[mine]).sum().double()
        return float(distributed.mean_over_ranks(correct) * self.ranks.world_size / len(labels))

    def _features(self, backbone: nn.Module, split: Split) -> tuple[Tensor, Tensor]:
        device = self.ranks.device
        parts = [
            (backbone(images.to(device)).float(), labels.to(device))
            for images, labels in split.batches(self.ranks.rank, self.ranks.world_size)
        ]
        features = torch.cat([features for features, _ in parts])
        labels = torch.cat([labels for _, labels in parts])
        return (
            distributed.gather_shards(features, split.num_images),
            distributed.gather_shards(labels, split.num_images),
        )


def open_labelled(config: MonitorConfig, pixels: Pixels, workers: int) -> tuple[Split, Split, int]:
    """The bank, the queries, and the number of classes.

    Raises:
        InputError: unknown, missing, or of differing classes.
    """
    root = Path(config.root).expanduser() if config.root else None
    if config.labelled in NAMES:
        train, test = (load_images(str(config.labelled), split, root) for split in ("train", "test"))
        bank, queries = (Split(TensorDataset(x.images, x.labels), pixels, workers=0) for x in (train, test))
        return bank, queries, len(train.classes)
    if config.labelled != "folder":
        raise unknown("monitor.labelled", str(config.labelled), (*NAMES, "folder"))
    if root is None or not all((root / split).is_dir() for split in ("train", "val")):
        raise InputError(f"monitor.labelled=folder: expected train/ and val/ in monitor.root, got {root}")
    return _open_folder(root, pixels, workers)


def _open_folder(root: Path, pixels: Pixels, workers: int) -> tuple[Split, Split, int]:
    transform = v2.Compose(
        [
            v2.RGB(),
            # the short side of 256 for a crop of 224, as in every ImageNet evaluation, and alike for other sizes
            v2.Resize(round(pixels.size * 256 / 224)),
            v2.CenterCrop(pixels.size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(pixels.mean, pixels.std),
        ]
    )
    train, val = _LabelledFolder(root / "train", transform), _LabelledFolder(root / "val", transform)
    if train.classes != val.classes:
        raise InputError(f"{root}: expected the same class folders in train/ and val/, got two different lists")
    return Split(train, None, workers), Split(val, None, workers), len(train.classes)
