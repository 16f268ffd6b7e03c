"""The only training loop."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from converters import __version__
from converters.checkpoint import Checkpoint, Pixels, Source, save, settings_hash
from converters.distributed import Ranks, mean_over_ranks
from converters.errors import InputError
from converters.randomness import generator
from converters.run_folder import method_name, recipe_of
from pretrain.config import Config, as_dict
from pretrain.data import Loader
from pretrain.metrics import Averages, MetricsLog
from pretrain.monitor import CollapseWatch, KnnMonitor, effective_rank, spread
from pretrain.objectives import Objective
from pretrain.optim import build_optimizer, set_lr
from pretrain.state import RunFolder, State, save_state


class CollapseError(Exception):
    """The projections collapsed, and the run was asked to stop then."""


@dataclass
class Run:
    """What `train` works on.

    Attributes:
        config: of the run.
        ranks: this process among its peers.
        objective: on the device; `train` changes it.
        loader: of the views.
        monitor: of the k-NN accuracy, or None.
        output: the run's folder.
        folder: the same, locked for writing; None on ranks other than the main one.
        state: to resume from, or None.
    """

    config: Config
    ranks: Ranks
    objective: Objective
    loader: Loader
    monitor: KnnMonitor | None
    output: Path
    folder: RunFolder | None = None
    state: State | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what the run computes: the configuration, and what it was found to mean here."""
        return {**as_dict(self.config), "num_images": self.loader.num_images, "processes": self.ranks.world_size}

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; what is left of the data is dropped."""
        return len(self.loader) // self.config.accumulate

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs


def train(run: Run) -> None:
    """Train to the end, from the start or from `run.state`.

    Raises:
        InputError: the loss is not finite; the last state that was saved is finite.
        CollapseError: the projections collapsed and the configuration says to stop.
    """
    step = run.state.step if run.state else 0
    with MetricsLog(run.folder, run.num_steps, run.config.batch_size, step) as log:
        _Training(run, log, step).to_the_end()


class _Training:
    """The loop with what changes while it runs: weights, step, and the time of the last save."""

    def __init__(self, run: Run, log: MetricsLog, step: int):
        self.run, self.config, self.log, self.step = run, run.config, log, step
        self.optimizer = build_optimizer(run.config, run.objective)
        self.watch = CollapseWatch(announced=bool(run.state and run.state.collapsed))
        if run.state:
            run.objective.load_state_dict(run.state.objective)
            self.optimizer.load_state_dict(run.state.optimizer)
        self.model = _wrap(run)
        self.averages = Averages()
        self.saved_at = time.monotonic()

    def to_the_end(self) -> None:
        if self.watch.announced and self.config.monitor.on_collapse == "stop":
            raise CollapseError(f"collapse was announced before step {self.step}, where this run is resumed")
        if self.step == 0:
            self._save()  # the first state to fall back on, and proof that there is room for the others
        for epoch in range(self.step // self.run.steps_per_epoch, self.config.epochs):
            self._train_epoch(epoch)
            self._measure(epoch + 1)
            self._save_if_due()
        self._save()
        if self.run.folder:
            save(self._checkpoint(), self.run.folder.checkpoint)

    def _train_epoch(self, epoch: int) -> None:
        done = self.step % self.run.steps_per_epoch
        batches = self.run.loader.epoch(epoch, start=done * self.config.accumulate)
        for _ in range(done, self.run.steps_per_epoch):
            rate = set_lr(self.optimizer, self.config, epoch, self.step, self.run.num_steps)
            is_read = (self.step + 1) % self.config.log_every == 0 or (self.step + 1) % self.run.steps_per_epoch == 0
            self.run.objective.is_read = is_read
            self.averages.add(self.step + 1, self._optimizer_step(islice(batches, self.config.accumulate)))
            self.step += 1
            self.run.objective.after_step(self.step / self.run.num_steps)
            if is_read:
                self._look(epoch, rate)

    def _optimizer_step(self, parts: Iterator[list[Tensor]]) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for index, views in enumerate(parts):
            scalars = self._backward(views, index)
            sums = {name: sums.get(name, 0) + value.detach() for name, value in scalars.items()}
        self.run.objective.before_step()
        self.optimizer.step()
        return {name: value / self.config.accumulate for name, value in sums.items()}

    def _backward(self, views: list[Tensor], part: int) -> dict[str, Tensor]:
        if self.config.channels_last:
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        randomness = generator(self.config.seed, "objective", self.step, part)
        if isinstance(self.model, nn.parallel.DistributedDataParallel):
            # gradients cross the network once per optimiser step
            self.model.require_backward_grad_sync = part == self.config.accumulate - 1
        with torch.autocast(self.run.ranks.device.type, torch.bfloat16, enabled=self.config.bf16):
            scalars: dict[str, Tensor] = self.model(views, randomness)
        (scalars["loss"] / self.config.accumulate).backward()  # type: ignore[no-untyped-call]
        assert self.run.objective.projections is not None
        return {**scalars, "spread": spread(self.run.objective.projections)}

    def _look(self, epoch: int, rate: float) -> None:
        """Read the numbers since the last look, and act on them."""
        means, first_broken = self.averages.take()
        if first_broken is not None:
            raise InputError(
                f"loss is not finite at step {first_broken} (rate {rate:g}, batch {self.config.batch_size}); "
                f"last finite state: {self.run.output / 'state.pt'}; lower optim.base_lr"
            )
        self.log.write(self.step, epoch, {"lr": rate, **means, "images_per_s": self.log.images_per_second(self.step)})
        self.log.show(self.step, f"epoch {epoch + 1}/{self.config.epochs}  loss {means['loss']:.3f}")
        self._check_collapse(self.watch.check(spread=means["spread"]))
        # at an epoch's end its measurement comes first, or a resumed run would lack it
        if self.step % self.run.steps_per_epoch:
            self._save_if_due()

    def _measure(self, epochs: int) -> None:
        """The numbers of an epoch's end."""
        assert self.run.objective.projections is not None
        # averaged, so that all ranks come to the same conclusion
        numbers = {"effective_rank": float(mean_over_ranks(effective_rank(self.run.objective.projections)))}
        if skipped := self._count_skipped():
            numbers["skipped"] = skipped
            self.log.say(f"skipped {skipped} image{'s' if skipped > 1 else ''} that cannot be decoded")
        if self.run.monitor and (epochs % self.config.monitor.every_epochs == 0 or epochs == self.config.epochs):
            numbers["knn"] = self.run.monitor.accuracy(self.run.objective.backbone)
        self.log.write(self.step, epochs, numbers)
        text = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        self.log.say(
            f"epoch {epochs}/{self.config.epochs}: {text}, {self.log.images_per_second(self.step):.0f} images/s"
        )
        full_rank = min(self.run.objective.projections.shape)
        self._check_collapse(self.watch.check(rank=numbers["effective_rank"], full_rank=full_rank))

    def _count_skipped(self) -> int:
        mine = torch.tensor(float(self.run.loader.num_skipped), device=self.run.ranks.device)
        return round(float(mean_over_ranks(mine)) * self.run.ranks.world_size)

    def _check_collapse(self, announcement: str | None) -> None:
        if announcement is None:
            return
        line = f"collapse at step {self.step}: {announcement}"
        if self.config.monitor.on_collapse == "stop":
            self._save()
            raise CollapseError(line)
        self.log.say(f"warning: {line}")

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved_at > 60 * self.config.save_minutes:
            self._save()

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.run.folder is None:
            return
        objective = self.run.objective.state_dict()
        # a finite loss says nothing about the update that followed it
        if not all(tensor.isfinite().all() for tensor in objective.values()):
            raise InputError(
                f"weights are not finite after step {self.step} (batch {self.config.batch_size}); "
                f"last finite state: {self.run.folder.state}; lower optim.base_lr"
            )
        state = State(self.run.identity, self.step, objective, self.optimizer.state_dict(), self.watch.announced)
        save_state(state, self.run.folder.state)

    def _checkpoint(self) -> Checkpoint:
        views = self.config.views
        return Checkpoint(
            arch=self.config.arch,
            backbone=self.run.objective.backbone.state_dict(),
            pixels=Pixels(size=views.size, mean=views.mean, std=views.std),
            source=Source(
                method=method_label(self.config),
                branch="online",
                dataset=self.config.data.source,
                epochs=self.step // self.run.steps_per_epoch,
                seed=self.config.seed,
                sha256=None,
                version=__version__,
                batch_size=self.config.batch_size,
                recipe=settings_hash(recipe_of(self.run.identity)),
            ),
        )


def method_label(config: Config) -> str:
    """How results name the method, e.g. ``simsiam-guided-4views``."""
    return method_name(as_dict(config))


def _wrap(run: Run) -> nn.Module:
    """The objective as the loop calls it: compiled and distributed as the configuration and the ranks say."""
    if run.config.compile:
        for module in run.objective.modules():
            if isinstance(module, torchvision.models.ResNet):
                module.compile()
    if run.ranks.world_size == 1:
        return run.objective
    if run.ranks.device.type == "cpu":
        return nn.parallel.DistributedDataParallel(run.objective)
    return nn.parallel.DistributedDataParallel(run.objective, device_ids=[run.ranks.device])
