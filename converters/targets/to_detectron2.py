"""Detectron2: a backbone under ``backbone.bottom_up.``, as its FPN detectors name it, and their configuration."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from converters.backbones import COUNTER
from converters.checkpoint import Checkpoint, to_header
from converters.keys import DETECTRON2, detectron2_modules, rename, resnet_modules, rules_between
from converters.targets import Loaded, plain_resnet_only, quiet, scaled

SUFFIX, FACTS_SUFFIX = ".pth", ".yaml"

PREFIX = "backbone.bottom_up."
_STAGES = ("res2", "res3", "res4", "res5")

_NAMES = rules_between(resnet_modules(), detectron2_modules())


def refusal(checkpoint: Checkpoint) -> str | None:
    """Why Detectron2's ResNet cannot hold a checkpoint."""
    return plain_resnet_only("Detectron2", checkpoint.arch)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """A file of tensors and text that loads by exact names, without Detectron2's heuristics.

    Its frozen batch norms have no counters, so these stand beside the model.
    """
    counters = {name: int(tensor) for name, tensor in checkpoint.backbone.items() if name.endswith(COUNTER)}
    others = {name: tensor for name, tensor in checkpoint.backbone.items() if name not in counters}
    model = {PREFIX + name: tensor for name, tensor in rename(others, _NAMES).values.items()}
    torch.save(
        {
            "model": model,
            "__author__": "gsg-transfer",
            "matching_heuristics": False,
            "checkpoint": to_header(checkpoint),
            COUNTER: counters,
        },
        path,
    )


def facts(checkpoint: Checkpoint, path: Path) -> str:
    """A configuration to put under ``_BASE_:`` of a detector's, or to merge into it."""
    depth = int(checkpoint.arch.removeprefix("resnet"))
    pixels = checkpoint.pixels
    return f"""\
# How Detectron2 must use {path.name}: any other value gives other features, most of them without a message.
MODEL:
  WEIGHTS: {json.dumps(str(path.absolute()))}
  PIXEL_MEAN: {[scaled(value) for value in pixels.mean]}
  PIXEL_STD: {[scaled(value) for value in pixels.std]}
  BACKBONE:
    NAME: build_resnet_fpn_backbone
  RESNETS:
    DEPTH: {depth}
    NORM: FrozenBN
    STRIDE_IN_1X1: False
    STEM_OUT_CHANNELS: 64
    RES2_OUT_CHANNELS: {64 if depth < 50 else 256}
    OUT_FEATURES: {list(_STAGES)}
  FPN:
    IN_FEATURES: {list(_STAGES)}
INPUT:
  FORMAT: {pixels.order}
"""


def load(path: Path, checkpoint: Checkpoint) -> Loaded:
    """Detectron2's FPN backbone, loaded by its own checkpointer; of it, the part that the weights are for."""
    with quiet():
        import detectron2
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.config import get_cfg
        from detectron2.data.detection_utils import read_image
        from detectron2.modeling import build_backbone

        config = get_cfg()
        config.merge_from_file(str(path.with_suffix(FACTS_SUFFIX)))
        config.MODEL.DEVICE = "cpu"
        if Path(config.MODEL.WEIGHTS).name != path.name:
            raise ValueError(f"MODEL.WEIGHTS names {config.MODEL.WEIGHTS} instead of {path.name}")
        detector = nn.Module()
        detector.backbone = build_backbone(config)
        DetectionCheckpointer(detector).load(str(path))
    backbone = detector.get_submodule(PREFIX.rstrip("."))
    backbone.eval()

    def read(picture: Path, dtype: torch.dtype) -> Tensor:
        pixels = torch.as_tensor(read_image(str(picture), config.INPUT.FORMAT).copy()).permute(2, 0, 1).to(dtype)
        mean, std = (
            torch.tensor(x, dtype=dtype).view(-1, 1, 1) for x in (config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD)
        )
        return ((pixels - mean) / std)[None]

    def stages(batch: Tensor) -> list[Tensor]:
        outputs = backbone(batch)
        return [outputs[name] for name in _STAGES]

    tensors = rename(dict(backbone.state_dict()), DETECTRON2).values
    return Loaded(backbone, tensors, read, stages, {"detectron2": detectron2.__version__})
