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

from converters.backbones import ARCHITECTURES, COUNTER, check_tensors
from converters.errors import InputError, first_few, unknown

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

    def __post_init__(self) -> None:
        """Check that these are numbers of pixels in 0..1.

        Raises:
            ValueError: they are not.
        """
        for values in (self.mean, self.std):
            if len(values) != 3 or not all(isinstance(x, int | float) and -1 <= x <= 1 for x in values):
                raise ValueError(f"expected three numbers of pixels in 0..1, got {values}; divide 0..255 by 255")
        if min(self.std) <= 0:
            raise ValueError(f"expected a positive deviation, got {self.std}")


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    Attributes:
        method: the objective, e.g. ``"simsiam-guided"``.
        branch: which network of the method: ``"online"`` or ``"target"``; ``"unknown"`` where a file does not say.
        dataset: what it was trained on; None if unknown.
        epochs: passes over the data set that were finished; None if unknown.
        seed: of the run; None if unknown.
        sha256: of the file that the weights were converted from; None when trained here.
        version: of this project when the file was written.
        batch_size: images of a step, over all processes; None if unknown.
        recipe: `settings_hash` of all that decided the training, but for the seed: runs of one recipe differ in nothing
            else; None if unknown.
    """

    method: str
    branch: str
    dataset: str | None
    epochs: int | None
    seed: int | None
    sha256: str | None
    version: str
    batch_size: int | None = None
    recipe: str | None = None


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


def settings_hash(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any of the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; an interrupted save leaves an older file whole.

    Raises:
        ValueError: the tensors are not exactly those of the architecture, or are not finite float32.
        InputError: the folder cannot be written.
    """
    problems = _problems(checkpoint)
    if problems:
        raise ValueError(f"not a {checkpoint.arch} backbone: {first_few(problems)}")
    # one entry, since safetensors writes several in random order: equal checkpoints are equal files
    header = {"checkpoint": to_header(checkpoint)}
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
    tensors, metadata = read_safetensors(path)
    if "checkpoint" not in metadata:
        raise InputError(
            f"{path}: its header does not describe a checkpoint of this project; convert foreign weights first: "
            "converters/convert.py"
        )
    return from_header(path, metadata["checkpoint"], tensors)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InputError: it is truncated or of another format.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no dict
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or no safetensors file ({error}); write it again") from error


def to_header(checkpoint: Checkpoint) -> str:
    """Everything but the tensors, as JSON."""
    facts = {"arch": checkpoint.arch, "pixels": asdict(checkpoint.pixels), "source": asdict(checkpoint.source)}
    return json.dumps({"format": FORMAT, **facts})


def from_header(path: Path, header: str, tensors: dict[str, Tensor]) -> Checkpoint:
    """The checkpoint of a header and its tensors, every name, shape and value checked.

    Args:
        path: where they stood, for errors.
        header: from `to_header`.
        tensors: the backbone, in torchvision's keys.

    Raises:
        InputError: the header is no such thing, or the tensors are not exactly one backbone of its architecture.
    """
    try:
        facts: dict[str, Any] = json.loads(header)
        version = facts["format"]
        pixels: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["pixels"].items()}
        checkpoint = Checkpoint(str(facts["arch"]), tensors, Pixels(**pixels), Source(**facts["source"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its header does not describe a checkpoint ({error!r}); write it again") from error
    if version != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT}, got {version!r}; it was written by another version")
    if checkpoint.pixels.order != "RGB":
        raise InputError(f"{path}: expected pixels in the order RGB, got {checkpoint.pixels.order!r}; convert it first")
    if checkpoint.source.branch not in ("online", "target", "unknown"):
        raise InputError(f"{path}: expected an online, target or unknown branch, got {checkpoint.source.branch!r}")
    if checkpoint.arch not in ARCHITECTURES:
        raise InputError(f"{path}: {unknown('architecture', checkpoint.arch, ARCHITECTURES)}")
    problems = _problems(checkpoint)
    if problems:
        raise InputError(f"{path} does not hold exactly one {checkpoint.arch} backbone: {first_few(problems)}")
    return checkpoint


def _problems(checkpoint: Checkpoint) -> list[str]:
    return check_tensors(checkpoint.arch, checkpoint.backbone) + numeric_problems(checkpoint.backbone)


def numeric_problems(tensors: dict[str, Tensor]) -> list[str]:
    """Which tensors are not float32 (counters: int64), or not finite."""
    expected = {name: torch.int64 if name.endswith(COUNTER) else torch.float32 for name in tensors}
    problems = [
        f"{name} is {t.dtype} instead of {expected[name]}" for name, t in tensors.items() if t.dtype != expected[name]
    ]
    return problems + [f"{name} is not finite" for name, tensor in tensors.items() if not tensor.isfinite().all()]
