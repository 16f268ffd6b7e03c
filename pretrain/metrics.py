"""Where the numbers of a run go: metrics.jsonl, TensorBoard, and the terminal."""

import json
import math
import time
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from converters import distributed
from pretrain.state import RunFolder


class Averages:
    """Scalars of the steps since the last look, left on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.scalars: list[dict[str, Tensor]] = []

    def add(self, step: int, scalars: dict[str, Tensor]) -> None:
        """Remember the scalars of a step."""
        self.steps.append(step)
        self.scalars.append(scalars)

    def take(self) -> tuple[dict[str, float], int | None]:
        """Means over steps and ranks, and the first step whose loss is not finite on any rank; starts afresh.

        A scalar that some steps lack is the mean over the others.
        """
        places = [(index, name) for index, row in enumerate(self.scalars) for name in row]
        values = torch.stack([self.scalars[index][name].detach().float() for index, name in places])
        by_place = dict(zip(places, distributed.mean_over_ranks(values).tolist(), strict=True))
        rows = [{name: by_place[index, name] for name in row} for index, row in enumerate(self.scalars)]
        broken = (step for step, row in zip(self.steps, rows, strict=True) if not math.isfinite(row["loss"]))
        first_broken = next(broken, None)
        self.steps, self.scalars = [], []
        return {name: _mean([row[name] for row in rows if name in row]) for name in rows[-1]}, first_broken


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


class MetricsLog:
    """Writes the run's numbers; does nothing on ranks other than the main one.

    Args:
        folder: of the run; None on the other ranks.
        num_steps: of the whole run, for the progress bar.
        num_images: source images per step, for the speed.
        first_step: finished steps when the run starts or resumes.
    """

    def __init__(self, folder: RunFolder | None, num_steps: int, num_images: int, first_step: int):
        self.folder, self.num_images, self.first_step = folder, num_images, first_step
        self.console = Console(highlight=False)
        self.started = time.monotonic()
        if folder is None:
            return
        folder.forget_metrics_after(first_step)
        self.file = folder.metrics.open("a", buffering=1)
        self.board = SummaryWriter(str(folder.path), purge_step=first_step + 1)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.bar = self.progress.add_task("starting", total=num_steps, completed=first_step, speed="")

    def __enter__(self) -> "MetricsLog":
        if self.folder:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.folder:
            self.progress.stop()
            self.file.close()
            self.board.close()

    def images_per_second(self, step: int) -> float:
        """Source images per second since the run started or resumed."""
        return (step - self.first_step) * self.num_images / (time.monotonic() - self.started)

    def write(self, step: int, epoch: int, numbers: dict[str, float]) -> None:
        """One line of metrics.jsonl.

        Args:
            step: finished optimiser steps.
            epoch: finished epochs.
            numbers: by name; one that is not finite is written as null, since JSON has no other word for it.
        """
        if self.folder is None:
            return
        line = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        self.file.write(json.dumps({"step": step, "epoch": epoch, **line}) + "\n")
        for key, value in numbers.items():
            self.board.add_scalar(key, value, step)

    def show(self, step: int, text: str) -> None:
        """Move the progress bar."""
        if self.folder:
            speed = f"{self.images_per_second(step):.0f} images/s"
            self.progress.update(self.bar, completed=step, description=text, speed=speed)

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.folder:
            self.console.print(text, markup=False, soft_wrap=True)
