"""Pictures of a detection run: what was found beside what is there, and the curves of training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from transfer.detection_boxes import BoxSet
from transfer.detection_metrics import Detections

_NUM_IMAGES = 6
_DPI = 100
_LOSSES = ("total_loss", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc")


def draw_detections(boxes: BoxSet, detections: Detections, path: Path) -> None:
    """A grid of test images, evenly drawn from the set: the annotated boxes above, as many detections below.

    Args:
        boxes: the test set.
        detections: of all its images.
        path: of the PNG.
    """
    chosen = np.linspace(0, len(boxes.dicts) - 1, min(_NUM_IMAGES, len(boxes.dicts))).round().astype(int)
    figure = Figure(figsize=(3 * len(chosen), 6.2), dpi=_DPI, layout="constrained")
    axes = figure.subplots(2, len(chosen), squeeze=False)
    colours = matplotlib.colormaps["hsv"](np.linspace(0, 1, len(boxes.classes), endpoint=False))
    for column, index in enumerate(chosen):
        record = boxes.dicts[index]
        for row in axes[:, column]:
            _show(row, record["file_name"])
        annotated = _annotated(boxes, index)
        for label, box in annotated:
            _draw(axes[0, column], box, boxes.classes[label], colours[label])
        for label, box, score in _best(detections, index, len(annotated)):
            _draw(axes[1, column], box, f"{boxes.classes[label]} {score:.2f}", colours[label])
    axes[0, 0].set_title("annotated", loc="left", fontsize=10)
    axes[1, 0].set_title("found: as many, the best first", loc="left", fontsize=10)
    figure.savefig(path)


def draw_curves(metrics: Path, path: Path) -> None:
    """The losses and the learning rate of a run.

    Args:
        metrics: Detectron2's metrics.json, with a line of JSON every few iterations.
        path: of the PNG.
    """
    lines: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(9, 4), dpi=_DPI, layout="constrained")
    losses, rates = figure.subplots(1, 2, width_ratios=(2, 1))
    for name in _LOSSES:
        _curve(losses, lines, name)
    _curve(rates, lines, "lr")
    losses.set(xlabel="iteration", ylabel="loss", yscale="log")
    losses.legend(fontsize=8)
    rates.set(xlabel="iteration", ylabel="learning rate")
    figure.savefig(path)


def _curve(axes: Axes, lines: Sequence[dict[str, Any]], name: str) -> None:
    points = [(line["iteration"], line[name]) for line in lines if name in line]
    axes.plot([x for x, _ in points], [y for _, y in points], label=name)


def _show(axes: Axes, file: str) -> None:
    with Image.open(file) as image:
        axes.imshow(np.asarray(image.convert("RGB")))
    axes.set_axis_off()


def _draw(axes: Axes, box: Sequence[float], text: str, colour: npt.NDArray[np.floating]) -> None:
    left, top, right, bottom = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.5))
    background = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
    axes.text(left, top, text, fontsize=7, verticalalignment="top", bbox=background, clip_on=True)


def _annotated(boxes: BoxSet, index: int) -> list[tuple[int, list[float]]]:
    """Class and XYXY box, counted from 0, of every object of an image."""
    here = boxes.truth.image == index
    box = boxes.truth.box[here].copy()
    if boxes.layout == "voc":
        box[:, :2] -= 1
    else:
        box[:, 2:] += box[:, :2]
    return list(zip(boxes.truth.label[here].tolist(), box.tolist(), strict=True))


def _best(detections: Detections, index: int, count: int) -> list[tuple[int, list[float], float]]:
    """Class, XYXY box and score of the detections of an image that have the highest scores."""
    here = np.flatnonzero(detections.image == index)
    best = here[np.argsort(-detections.score[here], kind="stable")][:count]
    columns = (detections.label[best], detections.box[best], detections.score[best])
    return list(zip(*(column.tolist() for column in columns), strict=True))
