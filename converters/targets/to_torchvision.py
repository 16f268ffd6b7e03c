"""torchvision: a flat state dict of its ResNet without ``fc``."""

from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from converters.checkpoint import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, Pixels
from converters.targets import Loaded, plain_resnet_only, stages_by_hooks

SUFFIX, FACTS_SUFFIX = ".pth", None


def refusal(checkpoint: Checkpoint) -> str | None:
    """Why torchvision's own networks cannot hold a checkpoint, or a file without facts cannot describe it."""
    pixels = checkpoint.pixels
    if (pixels.mean, pixels.std) != (IMAGENET_MEAN, IMAGENET_STD):
        return f"a flat state dict cannot say that its images have mean {pixels.mean} and deviation {pixels.std}"
    return plain_resnet_only("torchvision", checkpoint.arch)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """A file that ``load_state_dict`` takes, and `torch.load` reads with ``weights_only=True``."""
    torch.save(dict(checkpoint.backbone), path)


def load(path: Path, checkpoint: Checkpoint) -> Loaded:
    """Build torchvision's network; the pixels' facts have no file here, so they are the checkpoint's."""
    backbone = getattr(torchvision.models, checkpoint.arch)()
    backbone.fc = nn.Identity()
    backbone.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return loaded(backbone, checkpoint.pixels)


def loaded(backbone: nn.Module, pixels: Pixels) -> Loaded:
    """A module in torchvision's manner, with pictures read by Pillow."""
    backbone.eval()

    def read(picture: Path, dtype: torch.dtype) -> Tensor:
        with Image.open(picture) as image:
            batch = pil_to_tensor(image.convert("RGB"))[None].to(dtype) / 255
        mean, std = (torch.tensor(values, dtype=dtype).view(3, 1, 1) for values in (pixels.mean, pixels.std))
        normalised: Tensor = (batch - mean) / std
        return normalised

    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return Loaded(backbone, backbone.state_dict(), read, stages_by_hooks(backbone), versions)
