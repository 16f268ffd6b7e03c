"""What can be evaluated: a checkpoint's backbone, or a control in its place."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.backbones import build_backbone
from converters.checkpoint import Pixels, sha256
from converters.errors import InputError
from converters.reading import Read, Request, read_checkpoint
from transfer.features import Images, calibrate_batch_norm

_RAW = Pixels(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # 3,072 dimensions
_USUAL_SIZE = 224


@dataclass(frozen=True)
class Representation:
    """A way to turn images into features.

    Attributes:
        label: in words, for the table.
        seed: of its training or initialisation, if known.
        path: of the checkpoint file; None for a control.
        sha256: of that file.
        origin: how that file was read, in words.
        reading: as which origin's, architecture and network, and with which normalisation a file was read; empty for a
            control.
        size: side of its training views; None for a control, which has none.
        backbone: for some training images and at some size (None: its own), the module and what it expects.
        read: the file's content; None for a control.
    """

    label: str
    seed: int | None
    path: Path | None
    sha256: str | None
    origin: str
    reading: str
    size: int | None
    backbone: Callable[[Images, int | None], tuple[nn.Module, Pixels]]
    read: Read | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """What the details of a result say of the file that it was computed with; nothing for a control."""
        if self.read is None:
            return {}
        checkpoint = self.read.checkpoint
        source = {"arch": checkpoint.arch, **asdict(checkpoint.source)}
        return {"reading": self.reading, "origin": self.origin, "file": str(self.path), "source": source}


def raw_pixels() -> Representation:
    """The control that needs no network: the images themselves, at low resolution."""
    label = f"raw pixels, {_RAW.size} x {_RAW.size}"
    return Representation(label, None, None, None, "", "", None, lambda images, size: (nn.Flatten(), _RAW))


def random_initialisation(arch: str, seed: int, device: torch.device) -> Representation:
    """The control that was not trained, with batch-norm statistics of the training images.

    Raises:
        InputError: the architecture is unknown.
    """
    torch.manual_seed(seed)
    untouched = build_backbone(arch)

    def backbone(images: Images, size: int | None) -> tuple[nn.Module, Pixels]:
        own = images.shape[-1] if isinstance(images, Tensor) else _USUAL_SIZE
        pixels, calibrated = Pixels(size or own), copy.deepcopy(untouched)
        calibrate_batch_norm(calibrated, images, pixels, device)
        return calibrated, pixels

    return Representation(f"random initialisation, {arch}", seed, None, None, "", "", None, backbone)


def trained(path: Path, request: Request) -> Representation:
    """The backbone of a checkpoint of any supported origin.

    Args:
        path: the file.
        request: as what to read it.

    Raises:
        InputError: the file is missing, damaged, of no supported form, or can be read in several ways.
    """
    read = read_checkpoint(path, request)
    checkpoint = read.checkpoint
    module = build_backbone(checkpoint.arch)
    module.load_state_dict(checkpoint.backbone)

    def backbone(images: Images, size: int | None) -> tuple[nn.Module, Pixels]:
        return module, replace(checkpoint.pixels, size=size or checkpoint.pixels.size)

    source = checkpoint.source
    known = [f"{source.epochs} epochs of {source.dataset}"] if source.dataset else [f"{source.branch} of {path.name}"]
    label = ", ".join([source.method, checkpoint.arch, *known])
    origin = "; ".join([f"{' or '.join(read.sources)}, {source.branch}, by {read.evidence}", *read.notes])
    pixels = checkpoint.pixels
    reading = f"{'/'.join(read.sources)}, {checkpoint.arch}, {source.branch}, mean {pixels.mean}, std {pixels.std}"
    return Representation(label, source.seed, path, sha256(path), origin, reading, pixels.size, backbone, read)


def newest_checkpoint(runs: Path) -> Path:
    """The checkpoint that a pretraining run wrote last.

    Args:
        runs: folder of runs, searched with all below it.

    Raises:
        InputError: there is none.
    """
    found = sorted(runs.rglob("checkpoint.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"no pretraining run in {runs}/; start python pretrain/run.py first, or give --ckpt FILE")
    return found[-1]


def check_size(representation: Representation, size: int | None, advice: str) -> None:
    """Refuse to show a backbone images of another size than it was trained on without being asked.

    Args:
        representation: to be evaluated.
        size: of the protocol's images; None for the backbone's own.
        advice: the flag that shows them at the backbone's own.

    Raises:
        InputError: they differ.
    """
    if representation.size and size and representation.size != size:
        raise InputError(
            f"{representation.path}: trained on views of {representation.size} px, and the protocol shows {size} px; "
            f"use {advice}, or a checkpoint of that size"
        )
