"""Every default of the linear probe trained by SGD, as a dataclass that OmegaConf checks: one file per protocol."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from converters.errors import InputError, unknown

_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "linear"
_PREFIX = "sgd_"


@dataclass
class ProbeConfig:
    """A linear layer on a frozen backbone, trained by stochastic gradient descent.

    What has no default must be given; the defaults are what the published probes on ImageNet (simsiam, main_lincls.py)
    and on CIFAR-10 (Lee & Lee 2023, 5.1) have in common, or torchvision's own where both are silent.

    Attributes:
        batch_size: images per optimiser step, over all processes and accumulated parts.
        optimizer: ``sgd``, or ``lars``, which scales each tensor's gradient by .001 |w| / |gradient|.
        lr: learning rate at the start, for this batch: no rule scales it.
        epochs: passes over the training images; the last batch of each is smaller where they don't divide.
        momentum: without Nesterov.
        weight_decay: on weight and bias.
        schedule: ``cosine`` to zero, constant within an epoch.
        accumulate: parts into which each process's share of a batch is divided to save memory.
        augment: crop and flip the training images anew in each epoch; False trains on features of unaugmented images,
            which is a protocol of its own.
        size: side of the training crops and of the test images in pixels; None for the checkpoint's own.
        crop_scale: range of the training crop's share of the image's area.
        crop_ratio: range of the crop's width over height, drawn log-uniformly.
        flip_p: probability of a horizontal flip of a training image.
        test_resize: short side of the test images before their central crop; None for `size`.
        seed: of the layer's first weights, the order of the images, and the crops and flips.
    """

    batch_size: int
    optimizer: str
    lr: float
    epochs: int = 90
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    accumulate: int = 1
    augment: bool = True
    size: int | None = None
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_p: float = 0.5
    test_resize: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Turn the lists that YAML gives into tuples, and refuse what no probe can mean.

        Raises:
            InputError: an unknown choice, or a number out of range.
        """
        for key, choices in (("optimizer", ("lars", "sgd")), ("schedule", ("cosine",))):
            if getattr(self, key) not in choices:
                raise unknown(key, getattr(self, key), choices)
        for key, most in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            setattr(self, key, _checked_range(key, getattr(self, key), most))
        for key in ("batch_size", "epochs", "accumulate", "size", "test_resize"):
            _check_least(key, getattr(self, key), 1)
        for key in ("lr", "momentum", "weight_decay", "flip_p", "seed"):
            _check_least(key, getattr(self, key), 0)
        if self.flip_p > 1:
            raise InputError(f"flip_p: expected 0 to 1, got {self.flip_p:g}")


def probe_config_path(task: str) -> Path:
    """The file of a task's probe.

    Args:
        task: name of a labelled data set.

    Raises:
        InputError: there is none for that task.
    """
    path = _FOLDER / f"{_PREFIX}{task}.yaml"
    if not path.is_file():
        tasks = sorted(each.stem.removeprefix(_PREFIX) for each in _FOLDER.glob(f"{_PREFIX}*.yaml"))
        raise InputError(
            f"there is no SGD probe for '{task}'; choose from: {', '.join(tasks)}"
            if tasks
            else f"configurations of the probes not found: expected {path}; run from a checkout"
        )
    return path


def load_probe_config(path: Path, overrides: Sequence[str] = ()) -> ProbeConfig:
    """Read a probe's configuration file over the defaults, then overrides over both.

    Args:
        path: a YAML file.
        overrides: ``key=value``, as typed on the command line.

    Raises:
        InputError: the file is missing or no YAML, a key is unknown or missing, or a value has the wrong type.
    """
    if not path.is_file():
        raise InputError(f"configuration {path} not found; see configs/linear/ for those that exist")
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise InputError(f"expected key=value, got '{override}'; see --help")
    schema = OmegaConf.structured(ProbeConfig)
    try:
        given = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        return cast(ProbeConfig, OmegaConf.to_object(OmegaConf.merge(schema, given)))
    except ConfigKeyError as error:
        raise _unknown_key(path, str(error.full_key), schema) from error
    except (OmegaConfBaseException, YAMLError) as error:
        key = f"{path}: {getattr(error, 'full_key', None) or 'configuration'}"
        raise InputError(f"{key}: {str(error).splitlines()[0]}") from error


def as_dict(config: ProbeConfig) -> dict[str, Any]:
    """The resolved configuration in plain types, as written into every state file."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config), resolve=True))


def _unknown_key(path: Path, key: str, schema: DictConfig) -> InputError:
    return unknown(f"key in {path}", key, [str(choice) for choice in schema])


def _checked_range(key: str, values: Sequence[float], most: float) -> tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= most:
        raise InputError(f"{key}: expected two numbers, 0 < low <= high <= {most:g}, got {list(values)}")
    return values[0], values[1]


def _check_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not least <= value < math.inf:
        raise InputError(f"{key}: expected {least:g} or more, got {value:g}")
