"""The one file at which pretraining and evaluation meet: safetensors, with the facts about it as JSON in the header."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from converters.backbones import ARCHITECTURES, check_tensors
from converters.errors import InputError, unknown

FORMAT = 1

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pixels:
    """What the backbone expects its input to be. A wrong value here costs several points of AP without a message.

    Attributes:
        size: side of the training views in pixels.
        mean: per channel, of pixels in 0..1, in the channel order below.
        std: per channel, likewise.
        order: channel order, always ``"RGB"`` in this format.
    """

    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    order: str = "RGB"


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    Attributes:
        method: the objective, e.g. ``"simsiam-guided"``.
        branch: which network of the method: ``"online"`` or ``"target"``.
        dataset: what it was trained on.
        epochs: passes over the data set that were finished.
        seed: of the run; None if unknown.
        sha256: of the file that the weights were converted from; None when trained here.
        version: of this project when the file was written.
    """

    method: str
    branch: str
    dataset: str
    epochs: int
    seed: int | None
    sha256: str | None
    version: str


@dataclass(frozen=True)
class Checkpoint:
    """A backbone with everything that is needed to use it rightly.

    Attributes:
        arch: one of `converters.backbones.ARCHITECTURES`.
        backbone: the state dict in torchvision's keys, without prefix and head; floating point tensors are float32.
        pixels: the input conventions.
        source: the origin.
    """

    arch: str
    backbone: dict[str, Tensor] = field(repr=False)
    pixels: Pixels
    source: Source


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, moved over it when the block ends well; else the old file stays whole.

    Args:
        path: the final file. Its folder must exist.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another --output") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())  # else a power cut can leave the new name with no content
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; an interrupted save leaves an older file whole.

    Raises:
        ValueError: the tensors are not exactly those of the architecture, or are not finite float32.
        InputError: the folder cannot be written.
    """
    problems = check_tensors(checkpoint.arch, checkpoint.backbone)
    problems += _numeric_problems(checkpoint.backbone)
    if problems:
        raise ValueError(f"not a {checkpoint.arch} backbone: {_first_few(problems)}")
    facts = {"arch": checkpoint.arch, "pixels": asdict(checkpoint.pixels), "source": asdict(checkpoint.source)}
    # one entry, since safetensors writes several in random order: equal checkpoints are equal files
    header = {"checkpoint": json.dumps({"format": FORMAT, **facts})}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.backbone.items()}
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, header)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, checking every tensor's name and shape.

    Raises:
        InputError: there is no such file, it is truncated, of another format, or not exactly one backbone.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} not found; expected a .safetensors file written by pretrain/run.py")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or no safetensors file ({error}); write it again") from error
    checkpoint = _assemble(path, metadata, tensors)
    problems = check_tensors(checkpoint.arch, tensors) + _numeric_problems(tensors)
    if problems:
        raise InputError(f"{path} does not hold exactly one {checkpoint.arch} backbone: {_first_few(problems)}")
    return checkpoint


def _assemble(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Checkpoint:
    if "checkpoint" not in metadata:
        raise InputError(
            f"{path}: its header does not describe a checkpoint of this project; convert foreign weights first"
        )
    try:
        facts: dict[str, Any] = json.loads(metadata["checkpoint"])
        version = facts["format"]
        pixels: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["pixels"].items()}
        checkpoint = Checkpoint(str(facts["arch"]), tensors, Pixels(**pixels), Source(**facts["source"]))
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: its header does not describe a checkpoint ({error!r}); write it again") from error
    if version != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT}, got {version!r}; it was written by another version")
    if checkpoint.pixels.order != "RGB":
        raise InputError(f"{path}: expected pixels in the order RGB, got {checkpoint.pixels.order!r}; convert it first")
    if checkpoint.arch not in ARCHITECTURES:
        raise InputError(f"{path}: {unknown('architecture', checkpoint.arch, ARCHITECTURES)}")
    return checkpoint


def _numeric_problems(tensors: dict[str, Tensor]) -> list[str]:
    expected = {name: torch.int64 if name.endswith("num_batches_tracked") else torch.float32 for name in tensors}
    problems = [
        f"{name} is {t.dtype} instead of {expected[name]}" for name, t in tensors.items() if t.dtype != expected[name]
    ]
    return problems + [f"{name} is not finite" for name, tensor in tensors.items() if not tensor.isfinite().all()]


def _first_few(problems: list[str], count: int = 4) -> str:
    more = f", and {len(problems) - count} more" if len(problems) > count else ""
    return ", ".join(problems[:count]) + more
