"""What is measured: a representation on a task, whose features are computed when they are first asked for."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from converters import __version__
from converters.checkpoint import Pixels
from converters.distributed import Ranks
from transfer import tasks
from transfer.features import Features, frozen_features, identify
from transfer.protocols import Protocol
from transfer.representations import Representation
from transfer.results import protocol_hash
from transfer.tasks import Split, Splits


@dataclass(frozen=True)
class Task:
    """A labelled data set that was read.

    Attributes:
        name: of its file in `transfer.tasks`.
        metric: one of `transfer.tasks.METRICS`.
        splits: images and labels.
    """

    name: str
    metric: str
    splits: Splits

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may show several classes."""
        return self.splits.test.labels.ndim == 2

    @cached_property
    def data(self) -> str:
        """Twelve hexadecimal digits that change with every label, and with every image: see `identify`."""
        digest = hashlib.sha256(json.dumps(self.splits.classes).encode())
        for split in (self.splits.train, self.splits.val, self.splits.test):
            if split is not None:
                digest.update(split.labels.numpy().tobytes())
                for part in identify(split.images, times=False):
                    digest.update(part)
        return digest.hexdigest()[:12]


def open_task(name: str, root: Path, protocol: Protocol) -> Task:
    """Read the lists of a data set.

    Args:
        name: of the data set.
        root: the data root.
        protocol: by which it is divided.

    Raises:
        InputError: it is unknown, missing, incomplete or damaged.
    """
    module = tasks.find(name)
    read = getattr(module, "strict_splits", module.splits) if protocol.strict_splits else module.splits
    splits: Splits = read(root)
    return Task(name, module.METRIC, splits)


@dataclass(frozen=True)
class TaskFeatures:
    """Features of a task's splits, each (N, D), in the order of its images."""

    train: Features
    val: Features | None
    test: Features


@dataclass(frozen=True)
class Subject:
    """A representation on a task.

    Attributes:
        task: the task.
        representation: the representation.
        size: side of the images that the backbone sees; None for its own.
        ranks: this process among its peers.
        folder: of the remembered features.
        workers: see `transfer.features.frozen_features`.
    """

    task: Task
    representation: Representation
    size: int | None
    ranks: Ranks
    folder: Path
    workers: int | None

    @cached_property
    def network(self) -> tuple[nn.Module, Pixels]:
        """The backbone, and what it expects.

        Raises:
            InputError: an image that a control is calibrated on cannot be decoded.
        """
        return self.representation.backbone(self.task.splits.train.images, self.size)

    @cached_property
    def features(self) -> TaskFeatures:
        """The frozen features; with several processes, all must ask for them.

        Raises:
            InputError: see `transfer.features.frozen_features`.
        """
        splits = self.task.splits
        val = None if splits.val is None else self._features(splits.val)
        return TaskFeatures(self._features(splits.train), val, self._features(splits.test))

    def cell(self, protocol: str) -> str:
        """Twelve hexadecimal digits that tell this subject's number by a protocol's hash from all others."""
        who = self.representation
        return protocol_hash(
            {
                "who": [who.sha256 or who.label, who.seed, who.reading],
                "what": [self.task.name, self.task.data],
                "how": [protocol, __version__],
            }
        )

    def alone(self) -> "Subject":
        """The same for a process that goes on without its peers."""
        return replace(self, ranks=Ranks(0, 1, self.ranks.device))

    def _features(self, split: Split) -> Features:
        backbone, pixels = self.network
        return frozen_features(
            backbone, split.images, pixels, ranks=self.ranks, folder=self.folder, workers=self.workers
        )
