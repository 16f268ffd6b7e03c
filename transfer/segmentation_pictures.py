"""Pictures of segmentation runs: image, truth and predictions, as Figure 7 of the GSG paper, and training's curves."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from converters.checkpoint import atomic_write
from converters.errors import InputError, printable

Labels = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Colour = tuple[int, int, int]

_DPI = 100
_WIDTH, _HIGHEST = 3.0, 2.4  # inches of a cell: as wide as every picture may be, portraits as high as this
_GAP = 0.06  # inches between cells
_TITLE_SIZE, _NAME_SIZE = 9, 8  # points
_TITLE_CHARACTERS = 36  # in a line: as many as a cell is wide
_LINE = 0.2  # inches of a line of text with the space around it
_NAME_WIDTH = 1.75  # inches: ADE20K's longest is "television receiver"
_MOST_NAMES = 24
_WHITE = (255, 255, 255)
_SHORTEST_WINDOW, _WINDOWS = 9, 25  # of a curve's running median: points, and how many of them fit into a long curve


@dataclass(frozen=True)
class Shown:
    """The pictures that a run shows, for itself and beside others.

    Attributes:
        names: of the pictures.
        images: their files.
        annotations: files of their labels: 0 unlabelled, 1 the first of `classes`.
        classes: names.
        palette: colours of the classes, RGB.
    """

    names: tuple[str, ...]
    images: tuple[str, ...]
    annotations: tuple[str, ...]
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]

    def first(self, number: int) -> "Shown":
        """The same with no more than the first pictures."""
        parts = self.names[:number], self.images[:number], self.annotations[:number]
        return Shown(*parts, self.classes, self.palette)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Shown":
        """Read what `write` has written.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            palette = tuple((r, g, b) for r, g, b in content.pop("palette"))
            shown = cls(**{name: tuple(values) for name, values in content.items()}, palette=palette)
        except FileNotFoundError as error:
            raise InputError(f"{path} not found; expected the folder of a finished segmentation run") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, printable(str(error))) from error
        counts = [len(each) for each in (shown.names, shown.images, shown.annotations, shown.classes, shown.palette)]
        if not counts[0] == counts[1] == counts[2] > 0 or counts[3] != counts[4]:
            raise _damaged(path, f"names, images, annotations, classes and colours are {counts}")
        return shown


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is damaged ({reason}); validate that run again with --eval-only")


@dataclass(frozen=True)
class Row:
    """A picture with its labels, all of one size.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        truth: 0 unlabelled, 1 the first class, uint8 (H, W).
        predictions: of each column, from 1 on, uint8 (H, W).
    """

    image: npt.NDArray[np.uint8]
    truth: Labels
    predictions: tuple[Labels, ...]


def draw_segmentations(shown: Shown, predictions: Mapping[str, Path], path: Path) -> None:
    """The figure of `draw_rows` from files.

    Args:
        shown: the pictures.
        predictions: by the title of a column, the folder that holds NAME.png of each picture, labelled as in `shown`.
        path: of the PNG.

    Raises:
        InputError: a file is missing, damaged, or of another size than its picture.
    """
    rows = []
    for name, image, annotation in zip(shown.names, shown.images, shown.annotations, strict=True):
        picture = _read(Path(image), "RGB")
        size, highest = picture.shape[:2], len(shown.classes)
        truth = _labels(Path(annotation), size, 0, highest)
        predicted = tuple(_labels(folder / f"{name}.png", size, 1, highest) for folder in predictions.values())
        rows.append(Row(picture, truth, predicted))
    draw_rows(rows, list(predictions), shown.classes, shown.palette, path)


def draw_rows(
    rows: Sequence[Row], titles: Sequence[str], classes: Sequence[str], palette: Sequence[Colour], path: Path
) -> None:
    """A row for each picture: the picture, its labels, and predictions beside them; unlabelled pixels are white.

    Args:
        rows: the pictures, at least one.
        titles: of the columns of predictions.
        classes: names; those that occur are below the pictures.
        palette: their colours.
        path: of the PNG or PDF, which depends on the arguments alone.
    """
    names = legend(_pixels(rows), classes, palette)
    headers = [textwrap.fill(printable(title), _TITLE_CHARACTERS) for title in ("image", "truth", *titles)]
    figure, axes = _grid(rows, headers, len(names))
    colours = np.array([_WHITE, *palette], np.uint8)
    for cells, row in zip(axes, rows, strict=True):
        cells[0].imshow(row.image)
        for cell, labels in zip(cells[1:], (row.truth, *row.predictions), strict=True):
            cell.imshow(colours[labels], interpolation="nearest")  # between two classes there is no third
    for cell, header in zip(axes[0], headers, strict=True):
        cell.set_title(header, fontsize=_TITLE_SIZE, parse_math=False)
    patches = [_patch(name, colour) for name, colour in names]
    figure.legend(handles=patches, loc="lower center", ncols=_columns(len(headers)), fontsize=_NAME_SIZE, frameon=False)
    kind = path.suffix.removeprefix(".")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind, metadata={"CreationDate": None} if kind == "pdf" else {})


def _pixels(rows: Sequence[Row]) -> Counts:
    """How many there are of each label in the figure, (256,)."""
    maps = [labels for row in rows for labels in (row.truth, *row.predictions)]
    pixels: Counts = np.sum([np.bincount(labels.ravel(), minlength=256) for labels in maps], axis=0)
    return pixels


def legend(pixels: Counts, classes: Sequence[str], palette: Sequence[Colour]) -> list[tuple[str, Colour | None]]:
    """Names and colours of the classes in a figure, the largest first, and of what is unlabelled.

    Args:
        pixels: with each of the labels, unlabelled ones first.
        classes: names of the others.
        palette: their colours.

    Returns:
        At most 24 classes; without a colour, how many more there are; and "unlabelled" where something is.
    """
    order = np.argsort(-pixels[1 : len(classes) + 1], kind="stable")
    seen = [int(label) for label in order if pixels[label + 1]]
    entries: list[tuple[str, Colour | None]] = [(classes[label], palette[label]) for label in seen[:_MOST_NAMES]]
    if len(seen) > _MOST_NAMES:
        entries.append((f"and {len(seen) - _MOST_NAMES} more", None))
    if pixels[0]:
        entries.append(("unlabelled", _WHITE))
    return entries


def _patch(name: str, colour: Colour | None) -> Patch:
    if colour is None:
        return Patch(facecolor="none", edgecolor="none", label=name)
    red, green, blue = (part / 255 for part in colour)
    return Patch(facecolor=(red, green, blue), edgecolor="black", linewidth=0.3, label=name)


def _grid(rows: Sequence[Row], headers: Sequence[str], num_names: int) -> tuple[Figure, Any]:
    """A figure with a cell for every picture, as wide as all, as high as the row's picture, and its axes."""
    heights = [min(_WIDTH * row.image.shape[0] / row.image.shape[1], _HIGHEST) for row in rows]
    top = _LINE * (1 + max(header.count("\n") for header in headers) + 0.5)
    bottom = _LINE * (-(-num_names // _columns(len(headers))) + 1)
    width = (_WIDTH + _GAP) * len(headers) + _GAP
    height = top + bottom + sum(heights) + _GAP * (len(rows) - 1)
    figure = Figure((width, height), dpi=_DPI)
    place = {"left": _GAP / width, "right": 1 - _GAP / width, "bottom": bottom / height, "top": 1 - top / height}
    gaps = {"wspace": _GAP / _WIDTH, "hspace": _GAP / (sum(heights) / len(heights))}  # of the mean cell
    axes = figure.subplots(len(rows), len(headers), squeeze=False, height_ratios=heights, gridspec_kw={**place, **gaps})
    for cell in axes.flat:
        cell.set(xticks=[], yticks=[])
    return figure, axes


def _columns(num_headers: int) -> int:
    """Of names, below so many columns of pictures."""
    return int(_WIDTH * num_headers / _NAME_WIDTH)


def _read(path: Path, mode: str | None = None) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read {path} ({error}), which a run shows; put it back, or validate again") from error


def _labels(path: Path, shape: tuple[int, ...], lowest: int, highest: int) -> Labels:
    labels = _read(path)
    if labels.shape != shape or labels.min() < lowest or labels.max() > highest:
        raise InputError(
            f"{path}: expected labels from {lowest} to {highest} of {shape[1]} x {shape[0]} pixels, as its picture "
            f"has, got shape {labels.shape} and {labels.min()} to {labels.max()}; validate that run again with "
            "--eval-only"
        )
    return labels


def draw_curves(metrics: Path, path: Path) -> None:
    """Loss, accuracy of the training pixels and learning rate of a run.

    Args:
        metrics: with a line of JSON every few iterations.
        path: of the PNG.
    """
    lines = _lines(metrics)
    figure = Figure(figsize=(11, 3.6), dpi=_DPI, layout="constrained")
    losses, accuracies, rates = figure.subplots(1, 3)
    _noisy(losses, lines, "loss")
    _noisy(accuracies, lines, "acc_seg")
    rates.plot(*_points(lines, "lr"))
    for axes, name in (
        (losses, "loss"),
        (accuracies, "accuracy of the training pixels, per cent"),
        (rates, "learning rate"),
    ):
        axes.set(xlabel="iteration", ylabel=name)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _lines(metrics: Path) -> list[dict[str, Any]]:
    """All lines but a last one that a kill has cut off."""
    *whole, _ = metrics.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in whole]


def _points(lines: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Iterations and values; a head need not tell its accuracy."""
    return [line["iteration"] for line in lines if name in line], [line[name] for line in lines if name in line]


def _noisy(axes: Axes, lines: Sequence[dict[str, Any]], name: str) -> None:
    """A faint curve, and its running median over it."""
    iterations, values = _points(lines, name)
    window = max(_SHORTEST_WINDOW, len(values) // _WINDOWS // 2 * 2 + 1)
    axes.plot(iterations, values, color="tab:blue", alpha=0.3, linewidth=1)
    axes.plot(iterations, running_median(values, window), color="tab:blue", label=f"median of {window} points")
    axes.legend(fontsize=_NAME_SIZE)


def running_median(values: Sequence[float], window: int) -> list[float]:
    """The median of every value and those around it, fewer at the ends.

    Args:
        values: any number of them.
        window: how many, an odd number.
    """
    half = window // 2
    return [float(np.median(values[max(0, at - half) : at + half + 1])) for at in range(len(values))]
