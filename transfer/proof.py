"""What a run on a trained backbone shows before its first iteration, whatever framework trains it."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from converters import verify
from converters.checkpoint import Checkpoint
from converters.devices import explained_lack_of_memory
from converters.errors import InputError

# convolutions of the stem and of the four stages, their shortcuts included: He et al. 2016, table 1
_CONVOLUTIONS = {18: (1, 4, 5, 5, 5), 34: (1, 6, 9, 13, 7), 50: (1, 10, 13, 19, 10), 101: (1, 10, 13, 70, 10)}


def num_trainable(depth: int, frozen: int, *, norms: bool) -> int:
    """How many tensors of a ResNet train: 53, 52, 42, 29, 10, 0 of a ResNet-50 with 0..5 parts frozen.

    Args:
        depth: 18, 34, 50 or 101.
        frozen: parts that do not train: 0 none, 1 the stem, 2 the first stage too, ..., 5 everything.
        norms: whether the batch norms of the other parts train; each convolution has one, of a scale and a shift.
    """
    return sum(_CONVOLUTIONS[depth][frozen:]) * (3 if norms else 1)


@torch.no_grad()
def compare_stages(checkpoint: Checkpoint, stages: Callable[[Path], Sequence[Tensor]]) -> float:
    """How far the stages of a framework's backbone are from those of the checkpoint in torchvision.

    Args:
        checkpoint: the backbone and its pixel conventions.
        stages: the four stages' outputs for a picture's file, in float32 on the CPU.

    Returns:
        The largest relative difference, of two photographs.

    Raises:
        InputError: it is more than rounding explains.
    """
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        pictures = list(verify.write_pictures(Path(folder)))
        for picture, expected in zip(pictures, verify.expected_stages(checkpoint, pictures)["float32"], strict=True):
            for found, theirs in zip(stages(picture), expected, strict=True):
                worst = max(worst, verify.relative_difference(found, theirs))
    if not worst < verify.TOLERANCE["float32"]:
        raise InputError(
            f"the network's backbone does not compute what the checkpoint does (a stage's output differs by "
            f"{worst:.1e}); expected its pixels, {checkpoint.pixels}; leave pixels and backbone out of the options"
        )
    return worst


@dataclass(frozen=True)
class Cost:
    """What a trial of one iteration took.

    Attributes:
        seconds: of an iteration.
        memory: bytes at its largest: on a GPU allocated, without the optimiser's momentum; on a CPU of the whole
            process.
    """

    seconds: float
    memory: int


def measure_cost(model: nn.Module, losses: Iterable[Callable[[], Tensor]], advice: str) -> Cost:
    """Time and memory of an iteration, from forward and backward passes that leave no trace in the network.

    Args:
        model: in training mode.
        losses: forward passes, each to a loss; the first ones, in which sizes come for the first time, take longer, so
            the last one is timed.
        advice: what to do without enough memory.

    Raises:
        InputError: there is not enough memory.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = next(model.parameters()).device
    with explained_lack_of_memory(advice):
        for loss in losses:
            seconds = _pass(model, loss)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    if device.type == "cuda":
        return Cost(seconds, torch.cuda.max_memory_allocated(device))
    return Cost(seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _pass(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    started = time.monotonic()
    total = loss()
    total.backward()  # type: ignore[no-untyped-call]
    total.item()  # waits for the device
    model.zero_grad(set_to_none=True)
    return time.monotonic() - started


def count_values(tensors: Mapping[str, Tensor]) -> int:
    """How many numbers some tensors hold."""
    return sum(tensor.numel() for tensor in tensors.values())


def rounded(values: Sequence[float]) -> list[float]:
    """To three digits, for a sentence."""
    return [round(value, 3) for value in values]
