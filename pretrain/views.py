"""What is done to each view of an image, drawn with the published distributions; both transforms start from it."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretrain.config import ViewConfig

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # columns of `Parameters.factors`, values of `Parameters.order`

_CROP_ATTEMPTS = 10  # torchvision.transforms.RandomResizedCrop.get_params

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parameters:
    """What is done to each of N views; tensors on the CPU, one row per view.

    Attributes:
        box: top, left, height, width of the crop in pixels of the image, int64 (N, 4).
        flip: mirrored left to right, bool (N,).
        jitter: whether the colour operations are applied at all, bool (N,).
        factors: factors of brightness, contrast, saturation, and shift of hue in turns, float32 (N, 4).
        order: the colour operations in their order of application, int64 (N, 4).
        gray: whether colour is dropped, bool (N,).
        blur: whether the view is blurred, bool (N,).
        sigma: standard deviation of the blur in pixels of the view, float32 (N,).
        solarize: whether what is brighter than half is inverted, bool (N,).
    """

    box: Tensor
    flip: Tensor
    jitter: Tensor
    factors: Tensor
    order: Tensor
    gray: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, rows: slice | Tensor) -> "Parameters":
        return Parameters(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def view_recipes(config: ViewConfig, num_views: int) -> list[ViewConfig]:
    """The distribution of each view of an image: of the objective's views, then of the small crops.

    Args:
        config: of a run.
        num_views: views that the objective expects beside small crops; two make a pair.
    """
    blur_p = config.blur_p if config.second_blur_p is None else config.second_blur_p
    solarize_p = config.solarize_p if config.second_solarize_p is None else config.second_solarize_p
    second = replace(config, blur_p=blur_p, solarize_p=solarize_p)
    small = []
    if config.num_local:
        assert config.local_size is not None  # ViewConfig refuses that
        small = [replace(config, size=config.local_size, crop_scale=config.local_scale)] * config.num_local
    return [second if view % 2 else config for view in range(num_views)] + small


def draw_parameters(config: ViewConfig, num: int, height: int, width: int, generator: torch.Generator) -> Parameters:
    """Draw the parameters of `num` views with the distribution of torchvision's transforms.

    RandomResizedCrop (ten attempts, then the central crop of the nearest allowed ratio), RandomApply of ColorJitter,
    RandomGrayscale, RandomApply of GaussianBlur, RandomSolarize and RandomHorizontalFlip, each independent of the rest.

    Args:
        config: the distribution.
        num: number of views, N.
        height: of the images in pixels.
        width: of the images in pixels.
        generator: on the CPU; a fixed number of draws per view is taken from it, one more where views are solarised.
    """
    # NumPy from here on: for the few views of one image its calls cost less than half of torch's
    uniform = torch.rand(num, 2 * _CROP_ATTEMPTS + 15, generator=generator, dtype=torch.float64).numpy()
    crop, single = uniform[:, : 2 * _CROP_ATTEMPTS + 2], uniform[:, 2 * _CROP_ATTEMPTS + 2 :]
    brightness, contrast, saturation, hue = config.jitter
    lowest = np.array([*(max(0.0, 1 - strength) for strength in (brightness, contrast, saturation)), -hue])
    highest = np.array([1 + brightness, 1 + contrast, 1 + saturation, hue])
    drawn = {
        "box": _boxes(config, height, width, crop),
        "flip": single[:, 0] < config.flip_p,
        "jitter": single[:, 1] < config.jitter_p,
        "factors": (lowest + (highest - lowest) * single[:, 2:6]).astype(np.float32),
        "order": single[:, 6:10].argsort(axis=1),
        "gray": single[:, 10] < config.gray_p,
        "blur": single[:, 11] < config.blur_p,
        "sigma": np.interp(single[:, 12], (0, 1), config.blur_sigma).astype(np.float32),
        "solarize": np.zeros(num, dtype=bool),
    }
    if config.solarize_p:
        drawn["solarize"] = torch.rand(num, generator=generator, dtype=torch.float64).numpy() < config.solarize_p
    return Parameters(**{name: torch.from_numpy(values) for name, values in drawn.items()})


def _boxes(config: ViewConfig, height: int, width: int, uniform: _Array) -> npt.NDArray[np.int64]:
    areas, ratios, place = uniform[:, :_CROP_ATTEMPTS], uniform[:, _CROP_ATTEMPTS:-2], uniform[:, -2:]
    area = height * width * np.interp(areas, (0, 1), config.crop_scale)
    ratio = np.exp(np.interp(ratios, (0, 1), np.log(config.crop_ratio)))
    heights, widths = np.sqrt(area / ratio).round(), np.sqrt(area * ratio).round()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.argmax(axis=1)[:, None]  # the earliest True
    found = np.take_along_axis(fits, first, axis=1)
    size = np.concatenate([np.take_along_axis(sides, first, axis=1) for sides in (heights, widths)], axis=1)
    size = np.where(found, size, _central_size(config, height, width))
    room = np.array([height, width]) - size
    corner = np.where(found, place * (room + 1), room / 2)
    return np.concatenate([corner, size], axis=1).astype(np.int64)


def _central_size(config: ViewConfig, height: int, width: int) -> tuple[int, int]:
    narrow, wide = config.crop_ratio
    if width / height < narrow:
        return round(width / narrow), width
    if width / height > wide:
        return height, round(height * wide)
    return height, width
