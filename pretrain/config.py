"""Every default of pretraining, as dataclasses that OmegaConf checks: unknown keys and wrong types are refused."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from converters.backbones import feature_dim
from converters.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from converters.errors import InputError, check_range, unknown
from pretrain import objectives


@dataclass
class DataConfig:
    """Where the images come from.

    Attributes:
        source: ``sample`` (the pictures in configs/demo), ``folder`` (any tree of images, e.g. ImageNet's train/),
            ``cifar10`` or ``fashion_mnist``.
        root: folder of the data; None for where the data set usually lies.
        workers: processes that decode a folder's images, at most one per core; data sets in memory need none.
        skip_corrupt: count and skip images that cannot be decoded, instead of stopping at the first.
    """

    source: str = "sample"
    root: str | None = None
    workers: int = 8
    skip_corrupt: bool = False


@dataclass
class ViewConfig:
    """The distribution of an image's views; the defaults are MoCo v2's, which SimSiam and GSG use on ImageNet.

    Attributes:
        size: side of a view in pixels.
        crop_scale: range of the crop's share of the image's area.
        crop_ratio: range of the crop's width over height, drawn log-uniformly.
        flip_p: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation (factor 1 +- strength) and hue (shift in turns).
        jitter_p: probability of colour jitter.
        gray_p: probability of dropping colour.
        blur_p: probability of Gaussian blur.
        blur_sigma: range of the blur's standard deviation in pixels of the view.
        solarize_p: probability of inverting what is brighter than half (Grill et al. 2020, appendix B).
        second_blur_p: blur_p of the second view of each pair; None: as the first.
        second_solarize_p: likewise, of solarize_p.
        num_local: small crops beside the objective's views (multi-crop, Caron et al. 2020); None: not said, which means
            none, and is refused by methods whose published numbers differ by it.
        local_size: side of a small crop in pixels.
        local_scale: range of its share of the image's area (Caron et al. 2020; facebookresearch/swav).
        cutmix_p: probability that a step pastes a box of another image into every image of the online network, and
            mixes the targets by area (Yun et al. 2019).
        cutmix_alpha: of the Beta distribution of the share that is kept; 1 is uniform (Yun et al. 2019).
        mean: subtracted from pixels in 0..1.
        std: divides them then.
    """

    size: int = 224
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_p: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    second_blur_p: float | None = None
    second_solarize_p: float | None = None
    num_local: int | None = None
    local_size: int | None = None
    local_scale: tuple[float, float] = (0.05, 0.14)
    cutmix_p: float = 0.0
    cutmix_alpha: float = 1.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Turn the lists that YAML gives into tuples of the right length.

        Raises:
            InputError: a list of another length, or a number out of range.
        """
        lengths = {
            "crop_scale": 2,
            "crop_ratio": 2,
            "blur_sigma": 2,
            "local_scale": 2,
            "jitter": 4,
            "mean": 3,
            "std": 3,
        }
        for name, length in lengths.items():
            values = tuple(getattr(self, name))
            if len(values) != length:
                raise InputError(f"views.{name}: expected {length} numbers, got {list(values)}")
            setattr(self, name, values)
        check_range("views.size", self.size, 1, math.inf)
        probabilities = ("flip_p", "jitter_p", "gray_p", "blur_p", "solarize_p", "cutmix_p")
        for name in (*probabilities, "second_blur_p", "second_solarize_p"):
            if getattr(self, name) is not None:
                check_range(f"views.{name}", getattr(self, name), 0, 1)
        check_range("views.cutmix_alpha", self.cutmix_alpha, 1e-3, math.inf)
        self._check_local()
        ranges = {"crop_scale": 1.0, "local_scale": 1.0, "crop_ratio": math.inf, "blur_sigma": math.inf}
        for name, most in ranges.items():
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise InputError(f"views.{name}: expected 0 < low <= high <= {most:g}, got {low:g} and {high:g}")
        for value in self.std:
            check_range("views.std", value, 1e-6, math.inf)
        for value in self.jitter:
            check_range("views.jitter", value, 0, math.inf)
        check_range("views.jitter, hue", self.jitter[3], 0, 0.5)

    def _check_local(self) -> None:
        if self.num_local is not None:
            check_range("views.num_local", self.num_local, 0, math.inf)
        if self.local_size is not None:
            check_range("views.local_size", self.local_size, 1, math.inf)
        if self.local_size is not None and self.num_local is None:
            raise InputError(
                f"views.local_size is {self.local_size}, but views.num_local is missing: expected their number"
            )
        if self.num_local and self.local_size is None:
            raise InputError(
                f"views.num_local is {self.num_local}, but views.local_size is missing: expected the side of the "
                "small crops in pixels, e.g. 96 beside views of 224"
            )


@dataclass
class OptimConfig:
    """The optimiser and its schedule; the defaults are SimSiam's and GSG's on ImageNet.

    Attributes:
        name: ``sgd``, or ``lars``: SGD whose steps are as long as a share of each tensor's norm (You et al. 2017).
        lars_trust: that share of the norm.
        lars_clip: LARS's step is at most SGD's (LARC with clipping).
        base_lr: learning rate for a batch of 256.
        bias_lr: the same for biases and norms, i.e. every tensor of one dimension; None: base_lr.
        scale_lr: multiply rates by batch_size / 256 (Goyal et al. 2017); False takes them as they are.
        momentum: of SGD, without Nesterov.
        weight_decay: on every parameter, biases and batch norm included, as in the official code.
        exclude_1d: no weight decay on biases and norms, and no adaptation by LARS.
        schedule: ``cosine`` over the run, or ``constant``.
        schedule_by: the schedule moves once per ``epoch`` (the official code) or per ``step``.
        final_share: of the rate, where the cosine ends.
        warmup_epochs: in which the rate rises linearly; the cosine begins after them.
        warmup_from: share of the rate where it rises from.
        fix_predictor_lr: the predictor keeps the initial rate.
    """

    name: str = "sgd"
    lars_trust: float = 1e-3
    lars_clip: bool = False
    base_lr: float = 0.05
    bias_lr: float | None = None
    scale_lr: bool = True
    momentum: float = 0.9
    weight_decay: float = 1e-4
    exclude_1d: bool = False
    schedule: str = "cosine"
    schedule_by: str = "epoch"
    final_share: float = 0.0
    warmup_epochs: float = 0.0
    warmup_from: float = 0.0
    fix_predictor_lr: bool = True


@dataclass
class MonitorConfig:
    """What is watched during training.

    Attributes:
        labelled: data set for the k-NN accuracy: ``sample``, ``cifar10``, ``fashion_mnist``, ``folder`` (a root with
            train/CLASS/ and val/CLASS/, ImageNet's layout), or None for none.
        root: folder of that data set; None for where it usually lies.
        every_epochs: epochs between two measurements.
        k: number of neighbours.
        temperature: of the weights exp(similarity / temperature); None for a majority vote.
        on_collapse: ``warn``, or ``stop`` the run with exit code 3.
        gradients: log alignment, uniformity, and the gradient's two terms, see pretrain/gradients.py; of the step that
            is logged, whereas other numbers are means since the last one.
    """

    labelled: str | None = None
    root: str | None = None
    every_epochs: int = 1
    k: int = 200
    temperature: float | None = None
    on_collapse: str = "warn"
    gradients: bool = False


@dataclass
class Config:
    """A pretraining run.

    Attributes:
        arch: one of `converters.backbones.ARCHITECTURES`.
        zero_init_residual: start every residual block as the identity, as the official code does.
        epochs: passes over the data.
        batch_size: images per optimiser step, over all processes and accumulated parts.
        accumulate: parts into which a batch is divided to save memory; all that joins images sees one part at a time:
            batch norm, pairing, negatives, correlations, codes.
        seed: of every random choice.
        bf16: autocast to bfloat16.
        channels_last: memory format of images and convolutions.
        compile: torch.compile the backbones.
        log_every: optimiser steps between two lines of metrics.jsonl.
        save_minutes: time between two writes of the state; the end of the run writes it too.
        objective: name and options of the method, see its file in pretrain/objectives/.
    """

    arch: str = "resnet50"
    zero_init_residual: bool = True
    epochs: int = 100
    batch_size: int = 512
    accumulate: int = 1
    seed: int = 0
    bf16: bool = False
    channels_last: bool = True
    compile: bool = False
    log_every: int = 10
    save_minutes: float = 10.0
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    objective: Any = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        """Refuse what no run can mean.

        Raises:
            InputError: an unknown choice, or a number out of range.
        """
        feature_dim(self.arch)
        _check_choice("optim.name", self.optim.name, ("lars", "sgd"))
        _check_choice("optim.schedule", self.optim.schedule, ("cosine", "constant"))
        _check_choice("optim.schedule_by", self.optim.schedule_by, ("epoch", "step"))
        _check_choice("monitor.on_collapse", self.monitor.on_collapse, ("warn", "stop"))
        for name in ("epochs", "batch_size", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if min(self.monitor.every_epochs, self.monitor.k) < 1:
            raise InputError("monitor.every_epochs and monitor.k: expected 1 or more")
        for key, value in (
            ("seed", self.seed),
            ("data.workers", self.data.workers),
            ("save_minutes", self.save_minutes),
        ):
            check_range(key, value, 0, math.inf)
        for name in ("base_lr", "momentum", "weight_decay"):
            check_range(f"optim.{name}", getattr(self.optim, name), 0, math.inf)
        self._check_schedule()
        if self.monitor.temperature is not None:
            check_range("monitor.temperature", self.monitor.temperature, 1e-2, math.inf)
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")

    def _check_schedule(self) -> None:
        optim = self.optim
        check_range("optim.lars_trust", optim.lars_trust, 0, 1)
        if optim.bias_lr is not None:
            check_range("optim.bias_lr", optim.bias_lr, 0, math.inf)
            if not optim.base_lr:
                raise InputError("optim.base_lr: expected more than 0 beside optim.bias_lr, got 0")
        check_range("optim.warmup_epochs", optim.warmup_epochs, 0, self.epochs)
        for name in ("final_share", "warmup_from"):
            check_range(f"optim.{name}", getattr(optim, name), 0, 1)
        if optim.warmup_epochs and optim.schedule_by == "epoch":
            raise InputError(
                "optim.warmup_epochs: the rate would stand still within each epoch of the warm-up; set "
                "optim.schedule_by=step"
            )


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file over the defaults, then overrides over both.

    Args:
        path: a YAML file.
        overrides: ``key=value`` with dots for nested keys, as typed on the command line.

    Raises:
        InputError: the file is missing or no YAML, a key is unknown, or a value has the wrong type.
    """
    if not path.is_file():
        raise InputError(f"configuration {path} not found; see configs/pretrain/ for those that exist")
    try:
        given = OmegaConf.merge(OmegaConf.load(path), _parse_overrides(overrides))
    except (OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"{path}: {error}") from error
    predictor = OmegaConf.select(given, "objective.predictor")
    if isinstance(predictor, bool):  # as runs of earlier versions say it
        given.objective.predictor = "mlp" if predictor else "none"
    name = OmegaConf.select(given, "objective.name")
    if name is None:
        raise InputError(f"{path}: expected objective.name; choose from: {', '.join(objectives.names())}")
    schema = OmegaConf.structured(Config)
    schema.objective = OmegaConf.structured(objectives.find(str(name)).Config)
    OmegaConf.set_struct(schema, True)
    try:
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(schema, given)))
    except ConfigKeyError as error:
        key, file = str(error.full_key), OmegaConf.load(path)
        if OmegaConf.select(file, key) is not None and OmegaConf.select(file, "objective.name") != name:
            raise InputError(
                f"{path} is a recipe of {OmegaConf.select(file, 'objective.name')}, whose {key} {name} does not have; "
                f"choose a recipe of {name} from configs/pretrain/ with --config"
            ) from error
        raise _unknown_key(key, schema) from error
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key}: {str(error).splitlines()[0]}") from error


def as_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration in plain types, as written to config.yaml and into every state file."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config), resolve=True))


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise InputError(f"expected key=value, got '{override}'; see --help")
    return OmegaConf.from_dotlist(list(overrides))


def _unknown_key(key: str, schema: DictConfig) -> InputError:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(schema, parent) if parent else schema
    return unknown(f"key in {parent or 'the configuration'}", name, [str(choice) for choice in node])


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise unknown(key, value, choices)
