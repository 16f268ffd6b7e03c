"""Frozen features: what a backbone, or a control in its place, makes of a labelled image set."""

import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters.checkpoint import Pixels
from converters.images import prepare

Features = npt.NDArray[np.float32]

_BATCH = 256


@torch.inference_mode()
def extract_features(backbone: nn.Module, images: Tensor, pixels: Pixels, device: torch.device) -> Features:
    """Pooled features of every image, each exactly once, in order; neither normalised nor standardised.

    Args:
        backbone: images (B, 3, H, W) to features (B, D); put into evaluation mode, otherwise unchanged.
        images: uint8 (N, 3, H, H), RGB.
        pixels: what the backbone expects.
        device: where to compute.

    Returns:
        float32 (N, D).
    """
    backbone = backbone.to(device).to(memory_format=torch.channels_last).eval()
    before = _fingerprint(backbone)
    parts = [backbone(_prepared(batch, pixels, device)).float().cpu() for batch in torch.split(images, _BATCH)]
    assert _fingerprint(backbone) == before, "the frozen backbone changed while its features were computed"
    features: Features = torch.cat(parts).numpy()
    return features


@torch.no_grad()
def calibrate_batch_norm(backbone: nn.Module, images: Tensor, pixels: Pixels, device: torch.device) -> None:
    """Set the batch-norm statistics of a backbone to those of the images, averaged over batches.

    Without it a random initialisation in evaluation mode normalises with mean 0 and variance 1, which is a straw man.

    Args:
        backbone: changed in place.
        images: uint8 (N, 3, H, H), RGB.
        pixels: as for `extract_features`.
        device: where to compute.
    """
    backbone.to(device).to(memory_format=torch.channels_last).train()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average of all batches
    # batches of nearly equal size, since the average gives each the same weight
    for batch in torch.tensor_split(images, math.ceil(len(images) / _BATCH)):
        backbone(_prepared(batch, pixels, device))
    backbone.eval()


def pixel_features(images: Tensor, size: int) -> Features:
    """The images themselves as features: the control that needs no network.

    Args:
        images: uint8 (N, 3, H, H), RGB.
        size: side to which they are resized (antialiased bilinear).

    Returns:
        Values in 0..1, float32 (N, 3 * size * size).
    """
    parts = [F.interpolate(x.float(), size=size, mode="bilinear", antialias=True) for x in torch.split(images, _BATCH)]
    features: Features = (torch.cat(parts).flatten(1) / 255).numpy()
    return features


def _prepared(batch: Tensor, pixels: Pixels, device: torch.device) -> Tensor:
    return prepare(batch.to(device), pixels).contiguous(memory_format=torch.channels_last)


def _fingerprint(backbone: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in backbone.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
