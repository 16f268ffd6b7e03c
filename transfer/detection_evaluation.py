"""What a detector finds in a test set, kept as COCO's result files, and the numbers of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from converters.checkpoint import atomic_write
from converters.distributed import Ranks
from converters.targets import quiet
from transfer.detection_boxes import BoxSet
from transfer.detection_curves import Matches
from transfer.detection_metrics import Detections, coco_matches, voc_matches
from transfer.progress import ImageBar

with quiet():
    from detectron2.config import CfgNode
    from detectron2.data import build_detection_test_loader
    from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.utils import comm


class _Collector(DatasetEvaluator):  # type: ignore[misc]
    """Detections of every image, on the main process in the order of the data set."""

    def __init__(self, boxes: BoxSet, bar: ImageBar) -> None:
        self._index = {record["image_id"]: index for index, record in enumerate(boxes.dicts)}
        self._bar = bar

    def reset(self) -> None:
        self._parts: list[Detections] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for record, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to(torch.device("cpu"))
            index = self._index[record["image_id"]]
            self._parts.append(
                Detections(
                    np.full(len(found), index),
                    found.pred_classes.numpy(),
                    found.scores.float().numpy(),
                    found.pred_boxes.tensor.float().numpy(),
                )
            )
        self._bar.advance(len(inputs))

    def evaluate(self) -> dict[str, Detections]:
        gathered = comm.gather(self._parts)
        return {"detections": _join([part for parts in gathered for part in parts])} if gathered else {}


def detect(model: GeneralizedRCNN, config: CfgNode, boxes: BoxSet, ranks: Ranks) -> Detections | None:
    """Run a detector over a test set that Detectron2 knows.

    Args:
        model: the detector.
        config: Detectron2's.
        boxes: the test set, registered.
        ranks: this process among its peers, which share the images.

    Returns:
        What it found, in the order of the data set; None on other processes than the main one.
    """
    loader = build_detection_test_loader(config, boxes.name)
    with ImageBar(f"testing on {boxes.name}", -(-len(boxes.dicts) // ranks.world_size), ranks) as bar:
        found: dict[str, Detections] = inference_on_dataset(model, loader, _Collector(boxes, bar))
    return found.get("detections")


def match(boxes: BoxSet, detections: Detections) -> Matches:
    """Which detections are right by the rules of the data set's layout."""
    return (voc_matches if boxes.layout == "voc" else coco_matches)(boxes.truth, detections)


def write_detections(boxes: BoxSet, detections: Detections, path: Path) -> None:
    """Keep detections as a result file of COCO's format: image, category, XYWH box in pixels, and score.

    The images of VOC have their names in place of numbers; its classes are numbered from 1 in the order of their names.

    Raises:
        InputError: the folder cannot be written.
    """
    ids = [record["image_id"] for record in boxes.dicts]
    xywh = np.concatenate([detections.box[:, :2], detections.box[:, 2:] - detections.box[:, :2]], axis=1)
    records = [
        {"image_id": ids[image], "category_id": boxes.category_ids[label], "bbox": box, "score": score}
        for image, label, box, score in zip(
            detections.image, detections.label, _shortest(xywh), _shortest(detections.score), strict=True
        )
    ]
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(records), encoding="utf-8")


def _shortest(values: npt.NDArray[np.floating]) -> list[Any]:
    """As lists of the shortest numbers that read as these in single precision."""
    rounded: list[Any] = values.astype(np.float32).astype(str).astype(np.float64).tolist()
    return rounded


def _join(parts: Sequence[Detections]) -> Detections:
    """Detections of several images as one."""
    image, label, score, box = (
        [getattr(part, name) for part in parts if len(part.score)] for name in ("image", "label", "score", "box")
    )
    if not image:
        return Detections(np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
    return Detections(*map(np.concatenate, (image, label, score, box)))
