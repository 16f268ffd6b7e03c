"""Pictures of segmentation runs: image, truth and predictions, as Figure 7 of the GSG paper, and training's curves."""

import json
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
from converters.errors import InputError

Labels = npt.NDArray[np.uint8]

_DPI = 100
_CELL = 2.4, 1.8  # inches: pictures are 4:3 more often than not
_MOST_NAMES = 24
_WINDOW = 9  # points of a curve that are averaged


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
    palette: tuple[tuple[int, int, int], ...]

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
            palette = tuple(tuple(colour) for colour in content.pop("palette"))
            return cls(**{name: tuple(values) for name, values in content.items()}, palette=palette)
        except FileNotFoundError as error:
            raise InputError(f"{path} not found; expected the folder of a finished segmentation run") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}); validate that run again with --eval-only") from error


def draw_segmentations(shown: Shown, predictions: Mapping[str, Path], path: Path) -> None:
    """A row for each picture: the picture, its labels, and what each run says; unlabelled pixels are white.

    Args:
        shown: the pictures.
        predictions: by the title of a column, the folder that holds NAME.png of each picture, labelled as in `shown`.
        path: of the PNG.

    Raises:
        InputError: a file is missing, damaged, or of another size than its picture.
    """
    titles = ("image", "truth", *predictions)
    folders = predictions.values()
    colours = np.array([(255, 255, 255), *shown.palette], np.uint8)
    height = _CELL[1] * len(shown.names)
    names_at_bottom = 0.25 * -(-min(_MOST_NAMES + 1, len(shown.classes)) // _columns(len(titles))) + 0.4
    figure = Figure((_CELL[0] * len(titles), height + names_at_bottom), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(shown.names), len(titles), squeeze=False)
    pixels = np.zeros(256, np.int64)
    for row, name, image, annotation in zip(axes, shown.names, shown.images, shown.annotations, strict=True):
        picture = _read(Path(image), "RGB")
        _show(row[0], picture)
        files = Path(annotation), *(folder / f"{name}.png" for folder in folders)
        for cell, file in zip(row[1:], files, strict=True):
            labels = _labels(file, picture.shape[:2], len(shown.classes))
            pixels += np.bincount(labels.ravel(), minlength=256)
            _show(cell, colours[labels])
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=9, wrap=True)
    patches = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor="black", linewidth=0.3, label=name)
        for name, colour in legend(pixels, shown.classes, shown.palette)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=_columns(len(titles)), fontsize=8, frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def legend(
    pixels: npt.NDArray[np.int64], classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of what can be seen, the largest first, and how many are not named.

    Args:
        pixels: with each of the labels, unlabelled ones first.
        classes: names of the others.
        palette: their colours.
    """
    order = np.argsort(-pixels[1 : len(classes) + 1], kind="stable")
    seen = [int(label) for label in order if pixels[label + 1]]
    entries = [(classes[label], palette[label]) for label in seen[:_MOST_NAMES]]
    more = len(seen) - len(entries)
    return [*entries, (f"and {more} more", (255, 255, 255))] if more else entries


def _columns(num_titles: int) -> int:
    """Of names below so many columns of pictures."""
    return 2 * num_titles


def _read(path: Path, mode: str | None = None) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read {path} ({error}), which a run shows; put it back, or validate again") from error


def _labels(path: Path, shape: tuple[int, ...], num_classes: int) -> Labels:
    labels = _read(path)
    if labels.shape != shape or labels.max() > num_classes:
        raise InputError(
            f"{path}: expected labels up to {num_classes} of {shape[1]} x {shape[0]} pixels, as its picture has, got "
            f"shape {labels.shape} and {labels.max()}; validate that run again with --eval-only"
        )
    return labels


def _show(axes: Axes, picture: npt.NDArray[np.uint8]) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def draw_curves(metrics: Path, path: Path) -> None:
    """Loss, accuracy of the training pixels and learning rate of a run.

    Args:
        metrics: with a line of JSON every few iterations.
        path: of the PNG.
    """
    lines: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(11, 3.6), dpi=_DPI, layout="constrained")
    names = {"loss": "loss", "acc_seg": "accuracy of the training pixels, per cent", "lr": "learning rate"}
    for axes, (key, label) in zip(figure.subplots(1, len(names)), names.items(), strict=True):
        iterations, values = ([line[name] for line in lines] for name in ("iteration", key))
        axes.plot(iterations, values, color="tab:blue", alpha=0.35 if key != "lr" else 1)
        if key != "lr":
            axes.plot(iterations, _running_median(values), color="tab:blue")
        axes.set(xlabel="iteration", ylabel=label)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _running_median(values: Sequence[float]) -> list[float]:
    half = _WINDOW // 2
    return [float(np.median(values[max(0, at - half) : at + half + 1])) for at in range(len(values))]
