"""Finished segmentation runs side by side: their numbers with paired intervals, and their pictures."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from converters.errors import InputError, first_few, printable
from transfer.results import Result, read
from transfer.segmentation_files import CONFUSIONS, PREDICTIONS, RESULTS, SHOWN
from transfer.segmentation_metrics import Confusions
from transfer.segmentation_pictures import Shown, draw_segmentations
from transfer.training_folder import IDENTITY, differences

_PICTURE = Path("runs/segmentation/comparison.png")
_HEADERS = {"mIoU": "mIoU", "aAcc": "pixel accuracy", "mAcc": "mean class accuracy"}


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
        of_seed = "" if self.result.seed is None else f", seed {self.result.seed}"
        trained = f"trained with seed {self.result.details['run_seed']}"
        return printable(f"{self.result.representation}{of_seed}; {trained} ({self.folder.resolve().name})")


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
    _check_picture(picture)
    if not folders:
        raise InputError("--compare: expected the folders of finished segmentation runs, got none; name one or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"expected different runs, got {first_few(list(map(str, folders)))}; name each folder once")
    runs = [_finished(folder) for folder in folders]
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    console = Console(highlight=False, markup=False)
    _print(console, runs)
    columns = {f"{number}: {run.title}": run.folder / PREDICTIONS for number, run in enumerate(runs, 1)}
    draw_segmentations(runs[0].shown, columns, picture)
    console.print(f"pictures: {picture}", soft_wrap=True)
    return 0


def _check_picture(picture: Path) -> None:
    """Refuse to draw over a file that may be another's, and make the folder."""
    if picture.exists():
        raise InputError(f"{picture} exists; expected the name of a new picture: give another --output FILE.png")
    if picture.suffix.lower() != ".png":
        raise InputError(f"expected the name of a picture, got {picture}; give --output FILE.png")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {picture}: {error.strerror}; choose another --output") from error


def _finished(folder: Path) -> Finished:
    if not _is_segmentation(folder):
        raise InputError(
            f"{folder} is no folder of a segmentation run; expected one with its {IDENTITY} and {RESULTS}, as "
            "transfer/segmentation.py leaves it in --output"
        )
    results = read(folder / RESULTS)[0] if (folder / RESULTS).is_file() else []
    whole = [each for each in results if each.metric == "mIoU" and each.details.get("confusions") == CONFUSIONS]
    if not whole:
        raise InputError(
            f"{folder} holds no finished segmentation run; finish it with --resume, or with --eval-only if only its "
            "validation is missing"
        )
    return Finished(folder, whole[-1], Confusions.load(folder / CONFUSIONS), Shown.read(folder / SHOWN))


def _is_segmentation(folder: Path) -> bool:
    """Whether a folder's run has a segmentor; those of other commands have the same files."""
    path = folder / IDENTITY
    if not path.is_file():
        return False
    try:
        return "decode_head" in json.loads(path.read_text(encoding="utf-8"))["model"]
    except (KeyError, TypeError):
        return False
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); train that run again") from error


def _check_comparable(one: Finished, other: Finished) -> None:
    """Refuse numbers that share no column: of other classes, images or protocols."""
    ours, theirs = one.result, other.result
    if ours.dataset != theirs.dataset:
        raise _incomparable(one, other, "one data set", f"{ours.dataset} and {theirs.dataset}")
    if one.shown.classes != other.shown.classes:
        strange = sorted(set(one.shown.classes) ^ set(other.shown.classes))
        unlike = f"not in both: {first_few(strange)}" if strange else "their order differs"
        raise _incomparable(one, other, "the same classes", f"others ({unlike})")
    if ours.details["data"] != theirs.details["data"]:
        prints = " and ".join("/".join(each.details["data"]) for each in (ours, theirs))
        raise _incomparable(one, other, "the same training and validation images", f"the fingerprints {prints}")
    if ours.protocol_hash != theirs.protocol_hash:
        names = " and ".join(f"{each.protocol} ({each.protocol_hash})" for each in (ours, theirs))
        places = differences(ours.details["settings"], theirs.details["settings"])
        raise _incomparable(one, other, "one protocol", f"{names}, which differ in {first_few(places)}")


def _incomparable(one: Finished, other: Finished, expected: str, got: str) -> InputError:
    return InputError(
        f"{one.folder} and {other.folder}: expected {expected}, got {got}; compare what was measured alike"
    )


def _print(console: Console, runs: Sequence[Finished]) -> None:
    first = runs[0]
    of = f"{first.result.dataset} {first.result.split}, {first.result.protocol} ({first.result.protocol_hash})"
    table = Table(title=f"{of}, per cent [95 % interval]", title_justify="left")
    table.add_column("run", overflow="fold")
    for name in _HEADERS.values():
        table.add_column(name, justify="right")
    for number, run in enumerate(runs, 1):
        values, intervals = run.confusions.values(), run.confusions.intervals()
        table.add_row(f"{number}: {run.title}", *(_cell(values[name], *intervals[name], "") for name in _HEADERS))
        if run is not first:
            differences = run.confusions.difference(first.confusions)
            table.add_row(f"{number} less 1", *(_cell(*differences[name], "+") for name in _HEADERS))
        table.add_section()
    console.print(table)
    for number, run in enumerate(runs, 1):
        _print_outdated(console, number, run)
    console.print(
        "Intervals are over the validation images, with training held fixed; training with other seeds may move more.",
        soft_wrap=True,
    )
    if first.result.dataset == "sample":
        console.print("The sample says that the pipeline works; it says nothing about any other data.", soft_wrap=True)


def _cell(value: float, low: float, high: float, sign: str) -> str:
    """In per cent; the interval in a line of its own, which leaves room for the runs' names."""
    digits = 2 if sign else 1  # paired differences are known better than values
    return f"{100 * value:{sign}.{digits}f}\n[{100 * low:{sign}.{digits}f}, {100 * high:{sign}.{digits}f}]"


def _print_outdated(console: Console, number: int, run: Finished) -> None:
    """A run keeps its first number; matrices of a later validation on another machine may differ by rounding."""
    recorded, computed = run.result.value, run.confusions.values()["mIoU"]
    if not math.isclose(recorded, computed, rel_tol=1e-9):
        console.print(
            f"Run {number}: {RESULTS} says mIoU {100 * recorded:.4f}, its last validation, which counts here, "
            f"{100 * computed:.4f}.",
            soft_wrap=True,
        )
