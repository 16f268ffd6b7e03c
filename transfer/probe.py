"""The linear probe of the papers' tables: a linear layer on the frozen backbone, trained by SGD.

Lee & Lee 2023, 5.1; on ImageNet facebookresearch/simsiam, main_lincls.py. The protocols are configs/linear/sgd_*.yaml.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F

from converters import distributed
from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError
from converters.randomness import generator
from transfer.features import Features, identify
from transfer.inference import fingerprint
from transfer.probe_config import ProbeConfig, as_dict
from transfer.probe_data import CachedFeatures, FeatureSource, gather_features, image_sources
from transfer.probe_state import Epoch, Predictions, ProbeFolder, State
from transfer.tasks import Splits

_TRUST = 0.001  # simsiam, main_lincls.py: LARC(trust_coefficient=.001, clip=False)
_INIT_STD = 0.01  # likewise, of the layer's weight; its bias starts at 0

_DIGEST_ROWS = 1000  # enough to tell one data set from another


@dataclass(frozen=True)
class ProbeOutcome:
    """What a probe found.

    Attributes:
        accuracy: on the test images after each epoch, in 0..1.
        loss: mean cross-entropy of the training images in each epoch.
        best_epoch: the first epoch of the highest accuracy, counted from 1. It is chosen on the test images, as
            main_lincls.py does, and so flatters the backbone.
        last: predictions on the test images after the last epoch.
        best: the same after the best one.
        seconds: of training and testing, over all starts.
    """

    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    best_epoch: int
    last: Predictions
    best: Predictions
    seconds: float


def train_probe(
    backbone: nn.Module,
    splits: Splits,
    pixels: Pixels,
    config: ProbeConfig,
    *,
    ranks: Ranks,
    folder: Path,
    resume: bool,
    workers: int | None = None,
    features: tuple[Features, Features] | None = None,
) -> ProbeOutcome:
    """Train the layer on the training split and test it after every epoch on the test split.

    With several processes each call does its share, and all return the same. A run that is killed and resumed ends bit
    for bit like an unbroken one with as many processes and parts of a batch; with another number, equal to rounding.

    Args:
        backbone: images (B, 3, H, W) to features (B, D); moved to the device, in channels-last format and evaluation
            mode, otherwise unchanged, which is asserted at the end.
        splits: single-label; a validation split is not used.
        pixels: what the backbone expects.
        config: the protocol.
        ranks: this process among its peers.
        folder: of this probe alone: state.pt after each epoch, and metrics.jsonl.
        resume: continue what the folder holds; a finished probe is returned at once.
        workers: processes that decode and augment; None for this process's share of the cores.
        features: of the training and test images, (N, D) each, given if and only if `config.augment` is False.

    Raises:
        InputError: the folder holds a probe and is not to be resumed, or holds another one; an image cannot be decoded;
            or the loss is not finite.
        ValueError: the features don't fit the configuration or the splits.
    """
    _check_data(splits, config, features)
    backbone = backbone.to(ranks.device).to(memory_format=torch.channels_last).eval()
    before = fingerprint(backbone)
    protocol = as_dict(config)
    # how a batch is divided changes the rounding and no more: who runs out of memory may go on with more parts
    del protocol["accumulate"]
    identity = {
        **protocol,
        "pixels": asdict(pixels),
        "backbone": before,
        "data": _data_digest(splits, features),
    }
    probe_folder = ProbeFolder(folder, identity, is_main=ranks.is_main)
    state = probe_folder.open(resume=resume)
    if state is None or len(state.history) < config.epochs:
        data = _open_data(backbone, splits, pixels, config, ranks, workers, features)
        state = _Training(config, ranks, data, probe_folder, state).to_the_end()
    assert fingerprint(backbone) == before, "the frozen backbone changed while its probe was trained"
    return _outcome(state)


def learning_rate(config: ProbeConfig, epoch: int) -> float:
    """The rate in an epoch, counted from 0: half a cosine over all epochs, as main_lincls.py has it."""
    return config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))


def build_optimizer(config: ProbeConfig, linear: nn.Linear) -> torch.optim.Optimizer:
    """The optimiser of a linear layer."""
    lr, momentum, decay = config.lr, config.momentum, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(linear.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    from timm.optim.lars import Lars  # here, since it takes seconds to import

    # always_adapt: else tensors without weight decay are not adapted, while the published LARC adapts every one
    return Lars(
        linear.parameters(), lr=lr, momentum=momentum, weight_decay=decay, trust_coeff=_TRUST, always_adapt=True
    )


@dataclass(frozen=True)
class _Data:
    """What a probe is trained and tested on.

    Attributes:
        train: features of the training images.
        train_labels: (N,), on the device.
        test: features of this process's test images, every world_size-th, (m, D).
        test_labels: of all test images, (M,), on the CPU.
        num_classes: of the labels.
    """

    train: FeatureSource
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    num_classes: int


def _open_data(
    backbone: nn.Module,
    splits: Splits,
    pixels: Pixels,
    config: ProbeConfig,
    ranks: Ranks,
    workers: int | None,
    features: tuple[Features, Features] | None,
) -> _Data:
    train: FeatureSource
    test: FeatureSource
    if features:
        train, test = (CachedFeatures(each, ranks.device) for each in features)
    else:
        train, test = image_sources(backbone, splits, pixels, config, ranks, workers)
    # once: the backbone and the test images are the same in every epoch
    mine = gather_features(test, torch.arange(ranks.rank, len(splits.test), ranks.world_size))
    return _Data(train, splits.train.labels.to(ranks.device), mine, splits.test.labels, len(splits.classes))


class _Training:
    """The loop over epochs, with what changes in it."""

    def __init__(
        self, config: ProbeConfig, ranks: Ranks, data: _Data, folder: ProbeFolder, state: State | None
    ) -> None:
        self.config, self.ranks, self.data, self.folder = config, ranks, data, folder
        self.linear = _new_layer(data.test.shape[1], data.num_classes, config.seed).to(ranks.device)
        self.optimizer = build_optimizer(config, self.linear)
        if state:
            self.linear.load_state_dict(state.linear)
            self.optimizer.load_state_dict(state.optimizer)
        self.state = state or State(self.linear.state_dict(), self.optimizer.state_dict(), [], None, None)
        self.steps_per_epoch = math.ceil(len(data.train_labels) / config.batch_size)
        self.announcer = _Announcer(config.epochs, self.steps_per_epoch, self.state, is_main=ranks.is_main)
        self.seconds_before = self.state.history[-1].seconds if self.state.history else 0.0
        self.started = time.monotonic()

    def to_the_end(self) -> State:
        if not self.state.history:
            self.folder.save(self.state)  # the first state to fall back on, and proof that the folder can be written
        with self.announcer:
            for epoch in range(len(self.state.history), self.config.epochs):
                self._finish_epoch(epoch, self._train_epoch(epoch))
                self.announcer.show(self.state.history[-1])
        return self.state

    def _train_epoch(self, epoch: int) -> float:
        """The mean loss of the epoch's images."""
        rate = learning_rate(self.config, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        num_images = len(self.data.train_labels)
        order = torch.randperm(num_images, generator=generator(self.config.seed, "order", epoch))
        batches = torch.split(order, self.config.batch_size)  # the last one is smaller where they don't divide
        shares = [self._share(batch) for batch in batches]
        features = self.data.train.parts(epoch, [part for share in shares for part in share])
        total = 0.0
        for step, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            loss = self._backward(len(batch), share, features)
            if not math.isfinite(loss):
                self._refuse(f"loss is {loss:g}", epoch * self.steps_per_epoch + step + 1, rate)
            self.optimizer.step()
            self.announcer.advance()
            total += loss * len(batch)
        return total / num_images

    def _share(self, batch: Tensor) -> list[Tensor]:
        """This process's part of a batch, in as many parts as it is accumulated from; few images leave some empty."""
        mine = batch.tensor_split(self.ranks.world_size)[self.ranks.rank]
        return [part for part in mine.tensor_split(self.config.accumulate) if len(part)]

    def _backward(self, batch_size: int, share: list[Tensor], features: Iterator[Tensor]) -> float:
        """Leave the gradient of the whole batch's mean loss in the parameters, in every process, and return the loss.

        Sums over images are divided by the number of all of them: a mean of the parts' means would weigh the images of
        a smaller part more.
        """
        parameters = list(self.linear.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        total = torch.zeros((), device=self.ranks.device)
        for part in share:
            labels = self.data.train_labels[part.to(self.ranks.device)]
            loss = F.cross_entropy(self.linear(next(features)), labels, reduction="sum") / batch_size
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return self._sum_over_ranks(total, [p.grad for p in parameters if p.grad is not None])

    def _sum_over_ranks(self, loss: Tensor, gradients: list[Tensor]) -> float:
        if self.ranks.world_size > 1:
            flat = torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)])
            sizes = [1, *(gradient.numel() for gradient in gradients)]
            loss, *totals = torch.split(distributed.mean_over_ranks(flat) * self.ranks.world_size, sizes)
            for gradient, total in zip(gradients, totals, strict=True):
                gradient.copy_(total.view_as(gradient))
        return float(loss)

    def _finish_epoch(self, epoch: int, loss: float) -> None:
        """Test, and save."""
        rate = learning_rate(self.config, epoch)
        if not all(parameter.isfinite().all() for parameter in self.linear.parameters()):
            # a finite loss says nothing about the update that followed it
            self._refuse("a weight is not finite", (epoch + 1) * self.steps_per_epoch, rate)
        predictions = self._predict()
        accuracy = int((predictions.classes == self.data.test_labels).sum()) / len(self.data.test_labels)
        seconds = self.seconds_before + time.monotonic() - self.started
        history = self.state.history
        is_best = not history or accuracy > max(each.accuracy for each in history)
        best = predictions if is_best else self.state.best
        history = [*history, Epoch(epoch + 1, rate, loss, accuracy, seconds)]
        self.state = State(self.linear.state_dict(), self.optimizer.state_dict(), history, predictions, best)
        self.folder.save(self.state)

    @torch.no_grad()
    def _predict(self) -> Predictions:
        """Of every test image, each exactly once."""
        confidence, classes = self.linear(self.data.test).softmax(1).max(1)
        num_total = len(self.data.test_labels)
        classes, confidence = (distributed.gather_shards(each, num_total) for each in (classes, confidence))
        return Predictions(classes.cpu(), confidence.cpu())

    def _refuse(self, what: str, step: int, rate: float) -> None:
        raise InputError(
            f"{what} at step {step} (rate {rate:g}, batch {self.config.batch_size}); last finite state: "
            f"{self.folder.state}; lower lr"
        )


class _Announcer:
    """A progress bar on a terminal, a line for each epoch elsewhere; nothing on ranks other than the main one."""

    def __init__(self, epochs: int, steps_per_epoch: int, state: State, *, is_main: bool) -> None:
        console = Console(stderr=True)
        self.epochs, self.lines = epochs, is_main and not console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not (is_main and console.is_terminal))
        done = len(state.history) * steps_per_epoch
        self.bar = self.progress.add_task("probe", total=epochs * steps_per_epoch, completed=done)

    def __enter__(self) -> "_Announcer":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def advance(self) -> None:
        """Count a step."""
        self.progress.advance(self.bar)

    def show(self, epoch: Epoch) -> None:
        """Say how an epoch ended."""
        text = f"loss {epoch.loss:.3f}, accuracy {100 * epoch.accuracy:.2f} %"
        self.progress.update(self.bar, description=text)
        if self.lines:
            print(f"probe, epoch {epoch.epoch}/{self.epochs}: {text}, {epoch.seconds:.0f} s", flush=True)


def _new_layer(num_features: int, num_classes: int, seed: int) -> nn.Linear:
    linear = nn.Linear(num_features, num_classes)
    nn.init.normal_(linear.weight, std=_INIT_STD, generator=generator(seed, "layer"))
    nn.init.zeros_(linear.bias)
    return linear


def _outcome(state: State) -> ProbeOutcome:
    assert state.last is not None
    assert state.best is not None
    accuracy = tuple(each.accuracy for each in state.history)
    loss = tuple(each.loss for each in state.history)
    best_epoch = accuracy.index(max(accuracy)) + 1
    return ProbeOutcome(accuracy, loss, best_epoch, state.last, state.best, state.history[-1].seconds)


def _check_data(splits: Splits, config: ProbeConfig, features: tuple[Features, Features] | None) -> None:
    if (features is None) != config.augment:
        given = "none" if features is None else "some"
        raise ValueError(f"expected cached features if and only if augment is off, got {given} with {config.augment=}")
    if splits.train.labels.ndim != 1:
        raise ValueError("expected one label for each image, got a multi-label set; its protocol is another")
    if features:
        expected, got = [len(splits.train), len(splits.test)], [len(each) for each in features]
        if expected != got:
            raise ValueError(f"expected features of {expected} training and test images, got {got}")


def _data_digest(splits: Splits, features: tuple[Features, Features] | None) -> str:
    """Tells data sets apart: all labels, all images by `identify`, and some of the features."""
    digest = hashlib.sha256()
    for split in (splits.train, splits.test):
        digest.update(split.labels.numpy().tobytes())
        for part in identify(split.images, times=False):
            digest.update(part)
    for each in features or ():
        digest.update(each[:: math.ceil(len(each) / _DIGEST_ROWS)].tobytes())
    return digest.hexdigest()
