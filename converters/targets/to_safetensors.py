"""This project's own file: every architecture, with all that is known about it in the header."""

from pathlib import Path

from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, save
from converters.checkpoint import load as load_checkpoint
from converters.targets import Loaded
from converters.targets.to_torchvision import loaded

SUFFIX, FACTS_SUFFIX = ".safetensors", None


def refusal(checkpoint: Checkpoint) -> str | None:
    """Nothing is refused."""
    return None


def write(checkpoint: Checkpoint, path: Path) -> None:
    """See `converters.checkpoint.save`."""
    save(checkpoint, path)


def load(path: Path, checkpoint: Checkpoint) -> Loaded:
    """The network that this project builds, with pixels as the file says."""
    written = load_checkpoint(path)
    backbone = build_backbone(written.arch)
    backbone.load_state_dict(written.backbone, strict=True)
    return loaded(backbone, written.pixels)
