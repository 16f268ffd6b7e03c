"""What a training starts from: a checkpoint of any origin with its certificate, or an untrained control."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from converters import __version__, verify
from converters.checkpoint import Checkpoint, Source, sha256
from converters.errors import InputError, first_few
from converters.reading import Request, certificate_path
from transfer.representations import Representation, newest_checkpoint, random_initialisation, trained

FILE = "backbone.pth"

_CALIBRATION_IMAGES = 256  # enough for the means of channels, and seconds on a CPU


@dataclass(frozen=True)
class Weights:
    """What a run starts from.

    Attributes:
        representation: where it comes from.
        checkpoint: the backbone and its pixel conventions.
    """

    representation: Representation
    checkpoint: Checkpoint


def choose(name: str | None, request: Request, seed: int, images: Sequence[str], device: torch.device) -> Weights:
    """The weights of a ``--ckpt`` option.

    Args:
        name: a file of any supported origin, ``random:ARCH`` for the control, or None for the newest pretraining run's.
        request: how the file is to be read.
        seed: of the control.
        images: files of training images, for the control's batch-norm statistics.
        device: where these are computed.

    Raises:
        InputError: the file cannot be read, or there is no such architecture.
    """
    if name is not None and name.startswith("random:"):
        return _control(name.removeprefix("random:"), seed, images, device)
    path = Path(name) if name is not None else newest_checkpoint(Path("runs"))
    representation = trained(path, request)
    assert representation.read is not None, "of a file"
    return Weights(representation, representation.read.checkpoint)


def certify(weights: Weights, request: Request, target: str, path: Path, *, allow_unverified: bool) -> list[str]:
    """Write the weights for a framework, with the proof that it computes with them what the original computes.

    Args:
        weights: to be written; of a control there is no original, and nothing to be proven but what the run proves.
        request: how the original is to be read once more.
        target: the framework, one of `converters.targets`.
        path: of the file; its facts and its certificate come to lie beside it.
        allow_unverified: go on without a certificate that has passed.

    Returns:
        What there is to say about it, a sentence each.

    Raises:
        InputError: the certificate that lies beside the original is another file's, or a new one does not pass.
    """
    original = weights.representation.path
    verify.write(weights.checkpoint, target, path, path)
    if original is None:
        return ["no certificate: this is a control and has no original"]
    problems = _stale(original)
    certificate = verify.certify(original, request, path, target, frameworks=())
    certificate_path(path).write_text(certificate.to_json(), encoding="utf-8")
    problems += certificate.failures + certificate.unchecked
    if problems and not allow_unverified:
        raise InputError(
            f"{original}: no valid certificate ({first_few(problems)}); --allow-unverified starts all the same"
        )
    if problems:
        return [f"WITHOUT a valid certificate, as asked for: {first_few(problems)}"]
    part = certificate.parts[0]
    assert part.differences is not None, "it passed"
    worst = max(part.differences["float32"].values())
    return [f"certificate: {part.tensors[0]} tensors equal the original's, its four stages differ by {worst:.1e}"]


def _stale(original: Path) -> list[str]:
    """Why the certificate that lies beside a file speaks of another one."""
    beside = certificate_path(original)
    if not beside.is_file():
        return []
    try:
        content: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        certified = content["output"]["sha256"]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, json.JSONDecodeError) as error:
        return [f"{beside} is none ({error!r})"]
    return [] if certified == sha256(original) else [f"it was changed after {beside.name} was written"]


def _control(arch: str, seed: int, images: Sequence[str], device: torch.device) -> Weights:
    """An untrained backbone whose frozen batch norms have the statistics of the training images."""
    representation = random_initialisation(arch, seed, device)
    step = max(1, len(images) // _CALIBRATION_IMAGES)
    module, pixels = representation.backbone(tuple(map(Path, images[::step])), None)
    state = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
    return Weights(
        representation, Checkpoint(arch, state, pixels, Source("random", "unknown", None, 0, seed, None, __version__))
    )
