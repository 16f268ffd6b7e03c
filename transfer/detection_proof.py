"""What a detection run proves before its first iteration, on the very detector that it is going to train."""

import copy
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.errors import InputError, first_few
from converters.targets import quiet
from transfer.proof import Cost, compare_stages, count_values, measure_cost, num_trainable, rounded

with quiet():
    from detectron2.config import CfgNode
    from detectron2.data import DatasetMapper
    from detectron2.data.detection_utils import read_image
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.utils.events import EventStorage

_STAGES = ("res2", "res3", "res4", "res5")


def check_trainable(model: GeneralizedRCNN, config: CfgNode) -> list[str]:
    """Which tensors are going to train, counted against the protocol.

    Args:
        model: the detector.
        config: that it was built from.

    Returns:
        Two lines: of the backbone, and of what stands on it.

    Raises:
        InputError: more or fewer train than FREEZE_AT says.
    """
    prefix = "backbone.bottom_up."
    trainable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    inside = {name.removeprefix(prefix): tensor for name, tensor in trainable.items() if name.startswith(prefix)}
    resnet = config.MODEL.RESNETS
    freeze_at = config.MODEL.BACKBONE.FREEZE_AT
    expected = num_trainable(resnet.DEPTH, freeze_at, norms=resnet.NORM != "FrozenBN")
    if len(inside) != expected:
        raise InputError(
            f"FREEZE_AT {freeze_at}: expected {expected} tensors of the backbone to train, got {len(inside)} "
            f"({first_few(list(inside)) or 'none'}); this Detectron2 freezes something else"
        )
    stages = list(dict.fromkeys(name.split(".")[0] for name in inside)) or ["nothing"]
    others = {name: tensor for name, tensor in trainable.items() if not name.startswith(prefix)}
    return [
        f"trains of the backbone: {', '.join(stages)} ({len(inside)} tensors, {count_values(inside):,} values, "
        f"FREEZE_AT {freeze_at}, {resnet.NORM})",
        f"trains on it: FPN, RPN and box head ({len(others)} tensors, {count_values(others):,} values)",
    ]


def check_features(model: GeneralizedRCNN, config: CfgNode, checkpoint: Checkpoint) -> str:
    """That the detector's own backbone, behind its own reading and normalisation, computes what the checkpoint does.

    Args:
        model: the detector with its weights loaded.
        config: that it was built from.
        checkpoint: what it was loaded with.

    Returns:
        What was found, in a sentence.

    Raises:
        InputError: a stage's output for a photograph differs.
    """
    detector = copy.deepcopy(model).cpu().eval()  # in full precision, whatever the device does

    def stages(picture: Path) -> list[Tensor]:
        image = torch.as_tensor(read_image(str(picture), config.INPUT.FORMAT).copy()).permute(2, 0, 1).float()
        found = detector.backbone.bottom_up(((image - detector.pixel_mean) / detector.pixel_std)[None])
        return [found[stage] for stage in _STAGES]

    worst = compare_stages(checkpoint, stages)
    return (
        f"pixels: {checkpoint.pixels.order}, mean {rounded(config.MODEL.PIXEL_MEAN)}, deviation "
        f"{rounded(config.MODEL.PIXEL_STD)} of 0..255; the detector's four stages differ from the checkpoint's by "
        f"{worst:.1e}"
    )


def trial(model: GeneralizedRCNN, config: CfgNode, dicts: Sequence[dict[str, Any]], batch: int) -> Cost:
    """Memory of an iteration at the largest of the training sizes, and its time at the middle one.

    Args:
        model: the detector, in training mode; it is left as it was.
        config: that it was built from.
        dicts: of training images; the first are taken.
        batch: images of an iteration in this process.

    Raises:
        InputError: there is not enough memory.
    """
    sizes = sorted(config.INPUT.MIN_SIZE_TRAIN)
    largest, middle = sizes[-1], sizes[len(sizes) // 2]
    advice = f"{batch} images of {largest} px in a process: lower --batch-size, or use more GPUs"
    losses = (partial(_loss, model, config, _batch(config, dicts, batch, size)) for size in (largest, middle, middle))
    return measure_cost(model, losses, advice)


def _loss(model: GeneralizedRCNN, config: CfgNode, batch: list[dict[str, Any]]) -> Tensor:
    with EventStorage(0), torch.autocast(model.pixel_mean.device.type, enabled=config.SOLVER.AMP.ENABLED):
        losses: dict[str, Tensor] = model(batch)
        return torch.stack(list(losses.values())).sum()


def _batch(config: CfgNode, dicts: Sequence[dict[str, Any]], batch: int, size: int) -> list[dict[str, Any]]:
    config = config.clone()
    config.defrost()
    config.INPUT.MIN_SIZE_TRAIN = (size,)
    mapper = DatasetMapper(config, True)
    return [mapper(record) for record in islice(cycle(dicts), batch)]
