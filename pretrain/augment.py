"""Random views of a whole batch of images at once, on any device.

Crop, resize, flip, colour jitter, grey, blur, solarise, normalise with torchvision's definitions, but without the
rounding to 8 bits after each step. `pretrain/decode.py` does the same for one image at a time.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.config import ViewConfig
from pretrain.views import CONTRAST, HUE, SATURATION, Parameters

BLUR_REACH = 4  # where the blur's kernel ends, in standard deviations: it leaves out 6e-5 of the weight
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601-2 luma, as PIL's convert("L")


def augment_batch(images: Tensor, parameters: Parameters, config: ViewConfig) -> Tensor:
    """The views of a batch of images, one each.

    Args:
        images: uint8 (N, 3, H, W), RGB, on any device.
        parameters: of N views.
        config: gives size, mean and standard deviation of the views.

    Returns:
        Normalised views, float32 (N, 3, size, size), on the images' device.
    """
    groups = _group_by_turn_of_hue(parameters)
    parameters = parameters[groups.rows]
    rows = groups.rows.to(images.device)
    views = _crop(images[rows], parameters, config.size)
    _jitter(views, parameters, groups.bounds)
    _drop_colour(views, parameters.gray)
    _blur(views, parameters)
    _solarize(views, parameters.solarize)
    mean, std = (views.new_tensor(values)[:, None, None] for values in (config.mean, config.std))
    normalised = torch.empty_like(views)
    normalised[rows] = views.sub_(mean).div_(std)
    return normalised


class _Groups(NamedTuple):
    rows: Tensor  # the batch in the order in which it is processed, (N,)
    bounds: list[int]  # where in it each group begins and ends: hue is the first, second, third, fourth, no operation


def _group_by_turn_of_hue(parameters: Parameters) -> _Groups:
    """Order a batch so that in each of the four steps of the jitter the images whose turn is hue are one slice."""
    turn = torch.where(parameters.jitter, (parameters.order == HUE).long().argmax(dim=1), 4)
    counts = turn.bincount(minlength=5)
    return _Groups(turn.argsort(stable=True), [0, *counts.cumsum(0).tolist()])


def _crop(images: Tensor, parameters: Parameters, size: int) -> Tensor:
    """Crop, resize (antialiased bilinear) and flip as two products with a matrix per image; values in 0..1."""
    box = parameters.box.to(images.device, torch.float32, non_blocking=True)
    flip = parameters.flip.to(images.device, non_blocking=True)
    rows = _resize_matrices(box[:, 0], box[:, 2], images.shape[2], size)
    columns = _resize_matrices(box[:, 1], box[:, 3], images.shape[3], size)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns) / 255
    return _filter(images.float(), rows, columns)


def _filter(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply each image by its own matrices: (N, 3, H, W) by (N, H', H) and (N, W', W) to (N, 3, H', W')."""
    across = torch.bmm(images.flatten(1, 2), columns.mT).view(*images.shape[:3], columns.shape[1])
    return torch.matmul(rows[:, None], across)


def _resize_matrices(start: Tensor, length: Tensor, num_in: int, num_out: int) -> Tensor:
    """PIL's antialiased bilinear weights of `num_in` pixels in each of `num_out`, (N, num_out, num_in).

    The filter is a triangle as wide as the step between output pixels, at least one input pixel, cut off at the crop.
    """
    scale = (length / num_out)[:, None, None]
    pixel = torch.arange(num_in, device=start.device, dtype=torch.float32) + 0.5
    centre = start[:, None, None] + scale * (torch.arange(num_out, device=start.device)[:, None] + 0.5)
    weights = (1 - (pixel - centre).abs_().div_(scale.clamp(min=1))).clamp_(min=0)
    inside = (pixel > start[:, None]) & (pixel < (start + length)[:, None])
    weights *= inside[:, None]
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _jitter(views: Tensor, parameters: Parameters, bounds: list[int]) -> None:
    """The four colour operations in place, in each view's own order; views grouped by the turn of hue."""
    factors = parameters.factors.gather(1, parameters.order)
    to_mean, to_gray = ((parameters.order == kind) * (1 - factors) for kind in (CONTRAST, SATURATION))
    steps = torch.stack([factors, to_mean, to_gray]).to(views.device, non_blocking=True)[..., None, None, None]
    for turn in range(4):
        begin, end = bounds[turn : turn + 2]
        for part in (slice(0, begin), slice(end, bounds[4])):
            _blend(views[part], *steps[:, part, turn])
        _shift_hue(views[begin:end], steps[0, begin:end, turn, 0])


def _blend(views: Tensor, keep: Tensor, to_mean: Tensor, to_gray: Tensor) -> None:
    """Brightness, contrast or saturation in place: a blend with black, with the mean grey, or with the view in grey.

    Args:
        views: (N, 3, H, W) in 0..1.
        keep: share of the view itself, which may exceed 1, (N, 1, 1, 1).
        to_mean: share of the mean grey, (N, 1, 1, 1).
        to_gray: share of the view in grey, (N, 1, 1, 1).
    """
    gray = _gray(views)
    mean = gray.mean(dim=(2, 3), keepdim=True)
    torch.addcmul(gray.mul_(to_gray).add_(mean * to_mean), views, keep, out=views).clamp_(0, 1)


def _gray(views: Tensor) -> Tensor:
    red, green, blue = GRAY_WEIGHTS
    return (views[:, 0:1] * red).add_(views[:, 1:2], alpha=green).add_(views[:, 2:3], alpha=blue)


def _shift_hue(views: Tensor, shifts: Tensor) -> None:
    """Turn hue in place, keeping value and saturation of the HSV hexcone.

    Args:
        views: (N, 3, H, W) in 0..1.
        shifts: in turns, (N, 1, 1).
    """
    red, green, blue = views.unbind(1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = largest - smallest
    # hue in sixths of a turn, times chroma: 0 red, 2 green, 4 blue
    hue = torch.where(largest == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4))
    hue = torch.where(largest == red, green - blue, hue)
    hue.div_(chroma.clamp(min=1e-12)).add_(shifts, alpha=6).remainder_(6)
    # each channel is a trapezium of hue: full for two sixths, rising and falling for one each
    torch.addcmul(smallest, chroma, (hue - 3).abs_().sub_(1).clamp_(0, 1), out=red)
    torch.addcmul(smallest, chroma, (hue - 2).abs_().neg_().add_(2).clamp_(0, 1), out=green)
    torch.addcmul(smallest, chroma, (hue - 4).abs_().neg_().add_(2).clamp_(0, 1), out=blue)


def _drop_colour(views: Tensor, chosen: Tensor) -> None:
    rows = chosen.nonzero()[:, 0].to(views.device, non_blocking=True)
    views[rows] = _gray(views[rows]).expand(-1, 3, -1, -1)


def _blur(views: Tensor, parameters: Parameters) -> None:
    """Gaussian blur of the chosen views in place, the border pixels repeated outwards as in PIL."""
    chosen = parameters.blur.nonzero()[:, 0]
    if not len(chosen):
        return
    sigma = parameters.sigma[chosen]
    reach = math.ceil(BLUR_REACH * float(sigma.max()))
    matrices = _blur_matrices(sigma.to(views.device, non_blocking=True), reach, views.shape[-1])
    rows = chosen.to(views.device, non_blocking=True)
    views[rows] = _filter(views[rows], matrices, matrices)


def _solarize(views: Tensor, chosen: Tensor) -> None:
    """Invert what is brighter than half, in place (PIL's ImageOps.solarize with its threshold of 128)."""
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        return
    rows = rows.to(views.device, non_blocking=True)
    bright = views[rows]
    views[rows] = torch.where(bright < 0.5, bright, 1 - bright)


def _blur_matrices(sigma: Tensor, reach: int, size: int) -> Tensor:
    """Weights of the pixels of a line in each blurred pixel, (N, size, size)."""
    source = torch.arange(-reach, size + reach, device=sigma.device, dtype=torch.float32)
    distance = source - source[reach : reach + size, None]
    weights = distance.square().mul(-0.5 / sigma.square()[:, None, None]).exp_()
    weights[:, :, reach] += weights[:, :, :reach].sum(dim=2)
    weights[:, :, -reach - 1] += weights[:, :, size + reach :].sum(dim=2)
    weights = weights[:, :, reach : reach + size]
    return weights / weights.sum(dim=2, keepdim=True)
