"""What can be evaluated: a checkpoint's backbone, or a control in its place."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from converters.backbones import build_backbone
from converters.checkpoint import Pixels, sha256
from converters.errors import InputError
from converters.images import LabelledImages
from converters.reading import Request, read_checkpoint
from transfer.features import Features, calibrate_batch_norm, extract_features, pixel_features

_PIXEL_SIZE = 32  # side of the images whose pixels are the control: 3,072 dimensions


@dataclass(frozen=True)
class Representation:
    """A way to turn images into features.

    Attributes:
        label: in words, for the table.
        seed: of its training or initialisation, if known.
        path: of the checkpoint file; None for a control.
        sha256: of that file.
        origin: how that file was read, in words.
        features: of training and test images.
    """

    label: str
    seed: int | None
    path: Path | None
    sha256: str | None
    origin: str
    features: Callable[[LabelledImages, LabelledImages], tuple[Features, Features]]


def raw_pixels() -> Representation:
    """The control that needs no network: the images themselves, at low resolution."""

    def features(train: LabelledImages, test: LabelledImages) -> tuple[Features, Features]:
        return pixel_features(train.images, _PIXEL_SIZE), pixel_features(test.images, _PIXEL_SIZE)

    return Representation(f"raw pixels, {_PIXEL_SIZE} x {_PIXEL_SIZE}", None, None, None, "", features)


def random_initialisation(arch: str, seed: int, device: torch.device) -> Representation:
    """The control that was not trained, with batch-norm statistics of the training images, at their own size.

    Raises:
        InputError: the architecture is unknown.
    """
    torch.manual_seed(seed)
    backbone = build_backbone(arch)

    def features(train: LabelledImages, test: LabelledImages) -> tuple[Features, Features]:
        pixels = Pixels(size=train.images.shape[-1])
        calibrate_batch_norm(backbone, train.images, pixels, device)
        return (
            extract_features(backbone, train.images, pixels, device),
            extract_features(backbone, test.images, pixels, device),
        )

    return Representation(f"random initialisation, {arch}", seed, None, None, "", features)


def trained(path: Path, request: Request, device: torch.device) -> Representation:
    """The backbone of a checkpoint of any supported origin, at the size of its training views.

    Args:
        path: the file.
        request: as what to read it.
        device: where to compute.

    Raises:
        InputError: the file is missing, damaged, of no supported form, or can be read in several ways.
    """
    read = read_checkpoint(path, request)
    checkpoint = read.checkpoint
    backbone = build_backbone(checkpoint.arch)
    backbone.load_state_dict(checkpoint.backbone)

    def features(train: LabelledImages, test: LabelledImages) -> tuple[Features, Features]:
        return (
            extract_features(backbone, train.images, checkpoint.pixels, device),
            extract_features(backbone, test.images, checkpoint.pixels, device),
        )

    source = checkpoint.source
    known = [f"{source.epochs} epochs of {source.dataset}"] if source.dataset else [f"{source.branch} of {path.name}"]
    label = ", ".join([source.method, checkpoint.arch, *known])
    origin = "; ".join([f"{' or '.join(read.sources)}, {source.branch}, by {read.evidence}", *read.notes])
    return Representation(label, source.seed, path, sha256(path), origin, features)


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
