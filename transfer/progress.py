"""Progress over images: a bar on a terminal, else a line now and then."""

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


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.0f} images/s")
