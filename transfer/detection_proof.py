"""What a detection run proves before its first iteration, on the very detector that it is going to train."""

import copy
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters import verify
from converters.checkpoint import Checkpoint
from converters.devices import explained_lack_of_memory
from converters.errors import InputError, first_few
from converters.targets import quiet

with quiet():
    from detectron2.config import CfgNode
    from detectron2.data import DatasetMapper
    from detectron2.data.detection_utils import read_image
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.utils.events import EventStorage

_STAGES = ("res2", "res3", "res4", "res5")

# convolutions of the stem and of the four stages, their shortcuts included: He et al. 2016, table 1
_CONVOLUTIONS = {18: (1, 4, 5, 5, 5), 34: (1, 6, 9, 13, 7), 50: (1, 10, 13, 19, 10), 101: (1, 10, 13, 70, 10)}


def num_trainable(depth: int, freeze_at: int, norm: str) -> int:
    """How many tensors of Detectron2's ResNet train: 53, 52, 42, 29, 10, 0 of a ResNet-50 under FREEZE_AT 0..5.

    Args:
        depth: 18, 34, 50 or 101.
        freeze_at: FREEZE_AT: 0 nothing, 1 the stem, 2 res2 too, ..., 5 everything is frozen.
        norm: RESNETS.NORM; every norm but FrozenBN has a scale and a shift for each convolution, which train as well.
    """
    return sum(_CONVOLUTIONS[depth][freeze_at:]) * (1 if norm == "FrozenBN" else 3)


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
    expected = num_trainable(resnet.DEPTH, freeze_at, resnet.NORM)
    if len(inside) != expected:
        raise InputError(
            f"FREEZE_AT {freeze_at}: expected {expected} tensors of the backbone to train, got {len(inside)} "
            f"({first_few(list(inside)) or 'none'}); this Detectron2 freezes something else"
        )
    stages = list(dict.fromkeys(name.split(".")[0] for name in inside)) or ["nothing"]
    others = {name: tensor for name, tensor in trainable.items() if not name.startswith(prefix)}
    return [
        f"trains of the backbone: {', '.join(stages)} ({len(inside)} tensors, {_count(inside):,} values, "
        f"FREEZE_AT {freeze_at}, {resnet.NORM})",
        f"trains on it: FPN, RPN and box head ({len(others)} tensors, {_count(others):,} values)",
    ]


@torch.no_grad()
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
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        pictures = list(verify.write_pictures(Path(folder)))
        for picture, expected in zip(pictures, verify.expected_stages(checkpoint, pictures)["float32"], strict=True):
            image = torch.as_tensor(read_image(str(picture), config.INPUT.FORMAT).copy()).permute(2, 0, 1).float()
            found = detector.backbone.bottom_up(((image - detector.pixel_mean) / detector.pixel_std)[None])
            for stage, theirs in zip(_STAGES, expected, strict=True):
                worst = max(worst, verify.relative_difference(found[stage], theirs))
    if not worst < verify.TOLERANCE["float32"]:
        raise InputError(
            f"the detector's backbone does not compute what the checkpoint does (a stage's output differs by "
            f"{worst:.1e}); expected its pixels, {checkpoint.pixels}; leave pixels and backbone out of --opts"
        )
    pixels = checkpoint.pixels
    return (
        f"pixels: {pixels.order}, mean {_round(config.MODEL.PIXEL_MEAN)}, deviation {_round(config.MODEL.PIXEL_STD)} "
        f"of 0..255; the detector's four stages differ from the checkpoint's by {worst:.1e}"
    )


@dataclass(frozen=True)
class Cost:
    """What a trial of one iteration took.

    Attributes:
        seconds: of an iteration at the middle of the training sizes.
        memory: bytes at the largest of them: on a GPU allocated, without the optimiser's momentum; on a CPU of the
            whole process.
    """

    seconds: float
    memory: int


def measure_cost(model: GeneralizedRCNN, config: CfgNode, dicts: Sequence[dict[str, Any]], batch: int) -> Cost:
    """Time and memory of an iteration, from forward and backward passes that leave no trace in the detector.

    Args:
        model: the detector, in training mode afterwards as before.
        config: that it was built from.
        dicts: of training images; the first are taken.
        batch: images of an iteration in this process.

    Raises:
        InputError: there is not enough memory.
    """
    sizes = sorted(config.INPUT.MIN_SIZE_TRAIN)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = next(model.parameters()).device
    largest, middle = sizes[-1], sizes[len(sizes) // 2]
    with explained_lack_of_memory(f"{batch} images of {largest} px in a process: lower --batch-size, or use more GPUs"):
        for size in (largest, middle, middle):  # a size takes longer when it comes for the first time
            seconds = _pass(model, _batch(config, dicts, batch, size), amp=config.SOLVER.AMP.ENABLED)
    memory = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return Cost(seconds, memory)


def _pass(model: GeneralizedRCNN, batch: list[dict[str, Any]], *, amp: bool) -> float:
    started = time.monotonic()
    with EventStorage(0), torch.autocast(model.pixel_mean.device.type, enabled=amp):
        losses: dict[str, Tensor] = model(batch)
        total = torch.stack(list(losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    total.item()  # waits for the device
    model.zero_grad(set_to_none=True)
    return time.monotonic() - started


def _batch(config: CfgNode, dicts: Sequence[dict[str, Any]], batch: int, size: int) -> list[dict[str, Any]]:
    config = config.clone()
    config.defrost()
    config.INPUT.MIN_SIZE_TRAIN = (size,)
    mapper = DatasetMapper(config, True)
    return [mapper(record) for record in islice(cycle(dicts), batch)]


def _count(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]
