"""Settings of the protocols of ours that measure what published numbers measured: python tests/published_settings.py.

Writes configs/published_settings.json, which a change of such a protocol makes out of date: a test says so.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
from typing import Any

from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, Source
from transfer import detection_config, segmentation_config, segmentation_data, tasks
from transfer.evaluation import nearest_neighbours, sgd_probe
from transfer.probe_config import load_probe_config, probe_config_path
from transfer.protocols import ERICSSON, NATIVE, settings
from transfer.published import SETTINGS

VOC = (("voc_2007_trainval", "voc_2012_trainval"), ("voc_2007_test",), 20)
COCO = (("coco_2017_train",), ("coco_2017_val",), 80)


def current() -> dict[str, Any]:
    """By task and name as in results, all settings, in JSON's types."""
    found = {f"linear: ericsson-{solver}": settings(ERICSSON, solver) for solver in ("sklearn", "path")}
    for name in ("imagenet", "cifar10"):
        probe = sgd_probe(name, load_probe_config(probe_config_path(name), []), Path())
        evaluations = [nearest_neighbours(NATIVE, each) for each in tasks.find(name).KNN]
        found |= {f"{each.kind}: {each.protocol}": each.settings for each in (probe, *evaluations)}
    checkpoint = Checkpoint(
        "resnet50",
        build_backbone("resnet50").state_dict(),
        Pixels(224),
        Source("simsiam", "online", None, None, None, None, "0"),
    )
    found["detection: published, VOC07+12"] = _detector("voc", checkpoint, *VOC)
    found["detection: published"] = _detector("coco", checkpoint, *COCO)
    found["segmentation: csail"] = _segmentor(checkpoint)
    content: dict[str, Any] = json.loads(json.dumps(found))
    return content


def _detector(
    dataset: str, checkpoint: Checkpoint, train: tuple[str, ...], test: tuple[str, ...], num_classes: int
) -> dict[str, Any]:
    run = {"DATASETS.TRAIN": train, "DATASETS.TEST": test, "MODEL.ROI_HEADS.NUM_CLASSES": num_classes}
    return detection_config.build_plan(dataset, "published", checkpoint, Path("backbone.pth"), run).settings


def _segmentor(checkpoint: Checkpoint) -> dict[str, Any]:
    classes, palette = segmentation_data.CLASSES, segmentation_data.PALETTE
    plan = segmentation_config.build_plan(
        "ade20k", "csail", checkpoint, Path("backbone.pth"), Path("data"), classes, palette
    )
    return plan.settings


if __name__ == "__main__":
    SETTINGS.write_text(json.dumps(current(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {SETTINGS}")
