"""Progress over images and iterations: a bar on a terminal, else a line now and then."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from converters.distributed import Ranks

_LINE_EVERY_S = 60.0  # where there is no terminal


class ImageBar:
    """Progress of the main rank; the others show none.

    Args:
        what: is being done.
        total: images of this rank.
        ranks: this process among its peers.
    """

    def __init__(self, what: str, total: int, ranks: Ranks):
        console = Console(stderr=True)
        self._lines = ranks.is_main and not console.is_terminal
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not (ranks.is_main and console.is_terminal))
        self._task = self._progress.add_task("", total=total)
        self._what, self._total, self._done = what, total, 0
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "ImageBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, num_images: int) -> None:
        """Count images that are done."""
        self._done += num_images
        self._progress.advance(self._task, num_images)
        now = time.monotonic()
        if self._lines and now - self._said > _LINE_EVERY_S:
            self._said = now
            speed = self._done / (now - self._started)
            print(f"{self._what}: {self._done} of {self._total}, {speed:.0f} images/s", flush=True)


class IterationBar:
    """Progress of a training, with its latest numbers.

    Args:
        total: iterations of the run.
        start: of them finished.
    """

    def __init__(self, total: int, start: int) -> None:
        console = Console(highlight=False)
        columns = (
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
            *(TextColumn("{task.fields[speed]}"), TimeRemainingColumn()),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._lines, self._start, self._total = not console.is_terminal, start, total
        self._task = self._progress.add_task("training", total=total, completed=start, speed="")
        self._progress.start()
        self._began = self._said = time.monotonic()

    def move(self, done: int, numbers: str) -> None:
        """Say how many iterations are finished.

        Args:
            done: iterations of the run.
            numbers: of the last one, in words.
        """
        now = time.monotonic()
        each = (now - self._began) / max(1, done - self._start)
        self._progress.update(self._task, completed=done, description=numbers, speed=f"{each:.2f} s/iteration")
        if self._lines and now - self._said > _LINE_EVERY_S:
            self._said = now
            left = duration(each * (self._total - done))
            print(f"iteration {done} of {self._total}: {numbers}, {each:.2f} s each, {left} left", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


def duration(seconds: float) -> str:
    """Seconds in words: ``"2 min 5 s"``, ``"31 h 4 min"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.0f} images/s")
