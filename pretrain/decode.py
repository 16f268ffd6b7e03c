"""Views of one image at a time: decoded once for all of them, in 8 bits. Runs in the worker processes of a folder."""

import io
import math
import struct
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from cv2.typing import MatLike
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from converters.errors import InputError
from pretrain.augment import BLUR_REACH, GRAY_WEIGHTS
from pretrain.config import ViewConfig
from pretrain.views import Parameters, draw_parameters, view_recipes

# what PIL and OpenCV raise for a broken or huge file
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError, cv2.error)
_REDUCTIONS = (8, 4, 2)  # by which libjpeg can shrink an image while it decodes


def load_views(path: Path, config: ViewConfig, num_views: int, random: torch.Generator) -> list[MatLike]:
    """Decode an image and draw its views.

    The transform is that of `pretrain.augment.augment_batch`, but each operation rounds to 8 bits, as in PIL's
    pipeline, and normalising is left to the device. An orientation tag is ignored, as by torchvision's ImageFolder.

    Args:
        path: of the image.
        config: the distribution of the views.
        num_views: views of the image, beside the small crops that `config` names.
        random: generator of their parameters.

    Returns:
        The views, each (size, size, 3), then the small crops.

    Raises:
        InputError: the image cannot be read or decoded.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
        with Image.open(io.BytesIO(encoded.data)) as image:
            drawn, sizes = [], []
            for recipe, alike in groupby(view_recipes(config, num_views)):
                num = len(list(alike))
                drawn.append(draw_parameters(recipe, num, image.height, image.width, random))
                sizes += [recipe.size] * num
            boxes = [box for parameters in drawn for box in parameters.box.tolist()]
            crops = iter(_crop(image, encoded, boxes, sizes))
    except _UNDECODABLE as error:
        raise InputError(f"cannot decode the image {path}; remove it, or set data.skip_corrupt=true") from error
    return [_recolour(next(crops), parameters, row) for parameters in drawn for row in range(len(parameters))]


def _crop(
    image: Image.Image, encoded: npt.NDArray[np.uint8], boxes: list[list[int]], sizes: list[int]
) -> list[MatLike]:
    """Crop and resize, antialiased bilinear; a JPEG at reduced size where every crop has pixels enough then."""
    smallest = min(min(box[2:]) / size for box, size in zip(boxes, sizes, strict=True))
    reduction = next((factor for factor in _REDUCTIONS if smallest >= factor), 1)
    if image.format == "JPEG" and reduction > 1:
        image.draft("RGB", (image.width // reduction, image.height // reduction))
        reduced = image.convert("RGB")
        return [_resize_reduced(reduced, np.array(b) / reduction, size) for b, size in zip(boxes, sizes, strict=True)]
    pixels = _decode(image, encoded)
    return [
        _resize(pixels[:, top : top + height, left : left + width], size)
        for (top, left, height, width), size in zip(boxes, sizes, strict=True)
    ]


def _resize_reduced(image: Image.Image, box: npt.NDArray[np.float64], size: int) -> MatLike:
    """PIL is the one that takes a crop between pixels; it is slower."""
    top, left, height, width = box
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return np.array(resized)


def _resize(crop: Tensor, size: int) -> MatLike:
    # channels last: torch's vectorised 8-bit path, three times as fast as PIL
    pixels = crop[None].contiguous(memory_format=torch.channels_last)
    resized: MatLike = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    return resized


def _decode(image: Image.Image, encoded: npt.NDArray[np.uint8]) -> Tensor:
    """An image as uint8 (3, H, W), RGB."""
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        # the same pixels as PIL's, without its copy from four bytes per pixel to three
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None:  # else it is truncated, and PIL says how
            return torch.from_numpy(pixels).permute(2, 0, 1)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # PIL's conversion clips at 255
    elif image.mode in ("I", "F"):
        raise ValueError(f"the range of pixels of mode {image.mode} is unknown")
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # else PIL warns of a palette's transparency
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _recolour(view: MatLike, parameters: Parameters, row: int) -> MatLike:
    """Everything that follows the crop."""
    if parameters.jitter[row]:
        for operation in parameters.order[row].tolist():
            view = _OPERATIONS[operation](view, float(parameters.factors[row, operation]))
    if parameters.gray[row]:
        view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if parameters.blur[row]:
        view = _blur(view, float(parameters.sigma[row]))
    if parameters.solarize[row]:
        view = np.where(view < 128, view, 255 - view)
    return cv2.flip(view, 1) if parameters.flip[row] else view


def _adjust_brightness(view: MatLike, factor: float) -> MatLike:
    return _blend(view, factor, np.zeros((3, 4)))


def _adjust_contrast(view: MatLike, factor: float) -> MatLike:
    mean_gray = np.dot(cv2.mean(view)[:3], GRAY_WEIGHTS)
    return _blend(view, factor, np.array([[0, 0, 0, mean_gray]] * 3))


def _adjust_saturation(view: MatLike, factor: float) -> MatLike:
    return _blend(view, factor, np.array([[*GRAY_WEIGHTS, 0]] * 3))


def _blend(view: MatLike, factor: float, anchor: npt.NDArray[np.float64]) -> MatLike:
    """Extend the way from an anchor to a view by a factor; the anchor is an affine map of the view, (3, 4)."""
    return cv2.transform(view, factor * np.eye(3, 4) + (1 - factor) * anchor)


def _shift_hue(view: MatLike, shift: float) -> MatLike:
    # in float: OpenCV's 8-bit hue is slower, and a grey level too dark on average
    hsv = cv2.cvtColor(view.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv = cv2.add(hsv, np.array([360 * (shift % 1), 0, 0, 0]), dst=hsv)  # OpenCV takes no negative hue
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv))  # rounds to 8 bits


def _blur(view: MatLike, sigma: float) -> MatLike:
    kernel = cv2.getGaussianKernel(2 * math.ceil(BLUR_REACH * sigma) + 1, sigma)
    return cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


_OPERATIONS = (_adjust_brightness, _adjust_contrast, _adjust_saturation, _shift_hue)  # by `Parameters.order`
