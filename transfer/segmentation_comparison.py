"""Finished segmentation runs side by side: their numbers with paired intervals, and their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from converters.errors import InputError
from transfer.results import Result, read
from transfer.segmentation_files import CONFUSIONS, PREDICTIONS, RESULTS, SHOWN
from transfer.segmentation_metrics import Confusions, Difference
from transfer.segmentation_pictures import Shown, draw_segmentations
from transfer.training_folder import IDENTITY

_PICTURE = Path("runs/segmentation/comparison.png")


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        folder: of the run.
        result: its mIoU.
        confusions: of the validation images.
        shown: its pictures.
    """

    folder: Path
    result: Result
    confusions: Confusions
    shown: Shown

    @property
    def title(self) -> str:
        """What it measured, in words."""
        return f"{self.result.representation} ({self.folder.name})"


def compare(folders: Sequence[Path], picture: Path | None) -> int:
    """Print the numbers of runs and their differences, and draw their pictures side by side.

    Args:
        folders: of the runs; the others are compared with the first.
        picture: the PNG to be drawn, which must not exist; None for runs/segmentation/comparison.png.

    Returns:
        The exit code.

    Raises:
        InputError: a folder is no finished run's, or two cannot be compared.
    """
    picture = picture or _PICTURE
    if picture.exists():
        raise InputError(f"{picture} exists; expected the name of a new picture: --output FILE.png")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"expected different runs, got {', '.join(map(str, folders))}")
    runs = [_finished(folder) for folder in folders]
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    differences = [run.confusions.difference(runs[0].confusions) for run in runs]
    console = Console(highlight=False)
    _print(console, runs, differences)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_segmentations(runs[0].shown, {run.title: run.folder / PREDICTIONS for run in runs}, picture)
    console.print(f"pictures: {picture}", markup=False, soft_wrap=True)
    return 0


def _finished(folder: Path) -> Finished:
    if not (folder / IDENTITY).is_file():
        raise InputError(f"{folder} is no folder of a segmentation run; expected one with {IDENTITY} and {RESULTS}")
    results = read(folder / RESULTS)[0] if (folder / RESULTS).is_file() else []
    whole = [each for each in results if each.metric == "mIoU" and each.details.get("confusions") == CONFUSIONS]
    if not whole:
        raise InputError(f"{folder} holds no finished segmentation run; finish it with --resume --output {folder}")
    return Finished(folder, whole[-1], Confusions.load(folder / CONFUSIONS), Shown.read(folder / SHOWN))


def _check_comparable(one: Finished, other: Finished) -> None:
    for what, ours, theirs in (
        ("data set", one.result.dataset, other.result.dataset),
        ("protocol", one.result.protocol, other.result.protocol),
        ("settings of the protocol", one.result.protocol_hash, other.result.protocol_hash),
    ):
        if ours != theirs:
            raise InputError(
                f"{one.folder} and {other.folder}: expected runs of one {what}, got {ours} and {theirs}; compare what "
                "was measured alike"
            )


def _print(console: Console, runs: Sequence[Finished], differences: Sequence[dict[str, Difference]]) -> None:
    first = runs[0].result
    title = f"{first.dataset} {first.split}, {first.protocol} ({first.protocol_hash}), per cent [95 % interval]"
    table = Table(title=title, title_justify="left")
    table.add_column("run")
    for name in runs[0].confusions.values():
        table.add_column(name, justify="right")
        if len(runs) > 1:
            table.add_column("to the first", justify="right")
    for run, difference in zip(runs, differences, strict=True):
        cells = [run.title]
        values, intervals = run.confusions.values(), run.confusions.intervals()
        for name, value in values.items():
            cells.append(f"{100 * value:.1f} {_words(intervals[name])}")
            if len(runs) > 1:
                delta, *interval = difference[name]
                cells.append("" if run is runs[0] else f"{100 * delta:+.1f} {_words(interval)}")
        table.add_row(*cells)
    console.print(table)
    console.print("Intervals are over the validation images; training is held fixed, and another seed may move more.")
    if first.dataset == "sample":
        console.print("The sample says that the pipeline works; it says nothing about any other data.")


def _words(interval: Sequence[float]) -> str:
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
