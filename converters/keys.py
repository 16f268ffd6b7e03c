"""Key maps: from an origin's names of tensors to torchvision's, total and one to one, or an error that says why not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from converters.errors import InputError, first_few

Value = TypeVar("Value")


class Rule(NamedTuple):
    """How some of an origin's keys are called here.

    Attributes:
        pattern: regular expression that matches a whole key.
        name: torchvision's name for it, with groups as in `re.Match.expand`.
    """

    pattern: str
    name: str


@dataclass(frozen=True)
class Renamed(Generic[Value]):
    """A state dict under other names.

    Attributes:
        values: by new name.
        keys: the old key of every new name.
        dropped: old keys that a drop rule named.
    """

    values: dict[str, Value]
    keys: dict[str, str]
    dropped: tuple[str, ...]


class KeyMapError(InputError):
    """The keys of a file are not those that the rules describe.

    Args:
        problem: in words.
        partial: what the rules did describe.
    """

    def __init__(self, problem: str, partial: Renamed[Any]):
        super().__init__(problem)
        self.partial = partial


def rules_between(theirs: Iterable[str], ours: Iterable[str]) -> tuple[Rule, ...]:
    """Rules for modules that have another name, and the same tensors.

    Args:
        theirs: names of convolutions and batch norms in turn, ``#`` for a block's number.
        ours: what each of them is called here, likewise.
    """
    leaves = ("weight", "weight|bias|running_mean|running_var|num_batches_tracked")
    return tuple(
        Rule(
            rf"{re.escape(old).replace(re.escape('#'), '(?P<block>[0-9]+)')}\.(?P<leaf>{leaves[number % 2]})",
            new.replace("#", r"\g<block>") + r".\g<leaf>",
        )
        for number, (old, new) in enumerate(zip(theirs, ours, strict=True))
    )


def resnet_modules(
    conv1: str = "conv1",
    bn1: str = "bn1",
    layers: Sequence[str] = ("layer1", "layer2", "layer3", "layer4"),
    shortcut: str = "downsample",
) -> list[str]:
    """Convolutions and batch norms in turn, of a ResNet with torchvision's blocks, by torchvision's names or others.

    Args:
        conv1: the stem's convolution.
        bn1: its batch norm.
        layers: the four stages.
        shortcut: what torchvision's blocks call ``downsample``.
    """
    block = [f"{kind}{k}" for k in (1, 2, 3) for kind in ("conv", "bn")] + [f"{shortcut}.0", f"{shortcut}.1"]
    return [conv1, bn1, *(f"{layer}.#.{name}" for layer in layers for name in block)]


def detectron2_modules() -> list[str]:
    """The same in Detectron2's names, below the prefix of the detector."""
    block = [f"conv{k}{norm}" for k in (1, 2, 3) for norm in ("", ".norm")] + ["shortcut", "shortcut.norm"]
    stages = (f"res{number}.#.{name}" for number in (2, 3, 4, 5) for name in block)
    return ["stem.conv1", "stem.conv1.norm", *stages]


def resnet_rules(*names: Any, **more: Any) -> tuple[Rule, ...]:
    """Rules from the names of `resnet_modules` to torchvision's."""
    return rules_between(resnet_modules(*names, **more), resnet_modules())


# torchvision.models.resnet.ResNet
NAMED = resnet_rules()
NAMED_SHORTCUT = resnet_rules(shortcut="shortcut")
# nn.Sequential(*resnet.children()): 2 and 3 are the ReLU and the max-pool, which hold no tensors
SEQUENTIAL = resnet_rules("0", "1", ("4", "5", "6", "7"))
# without these two, as networks for CIFAR are written
SEQUENTIAL_CIFAR = resnet_rules("0", "1", ("2", "3", "4", "5"))
SEQUENTIAL_CIFAR_SHORTCUT = resnet_rules("0", "1", ("2", "3", "4", "5"), "shortcut")

DETECTRON2 = rules_between(detectron2_modules(), resnet_modules())


def rename(state: Mapping[str, Value], rules: Iterable[Rule], drop: Iterable[str] = ()) -> Renamed[Value]:
    """Give every key its new name; the first rule that matches counts.

    Args:
        state: by old key.
        rules: for the keys that are kept.
        drop: regular expressions of whole keys that are left out.

    Raises:
        KeyMapError: a key that no rule knows, or two keys for one name.
    """
    patterns = [(re.compile(rule.pattern, re.ASCII), rule.name) for rule in rules]
    dropping = [re.compile(pattern, re.ASCII) for pattern in drop]
    keys: dict[str, str] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    doubled: list[str] = []
    for key in state:
        match = next(((found, name) for pattern, name in patterns if (found := pattern.fullmatch(key))), None)
        if match is None:
            (dropped if any(pattern.fullmatch(key) for pattern in dropping) else unknown).append(key)
            continue
        name = match[0].expand(match[1])
        if name in keys:
            doubled.append(f"{keys[name]} and {key} both for {name}")
        keys.setdefault(name, key)
    renamed = Renamed({name: state[key] for name, key in keys.items()}, keys, tuple(dropped))
    if unknown or doubled:
        problems = ([f"no rule for {first_few(unknown)}"] if unknown else []) + doubled
        raise KeyMapError(first_few(problems), renamed)
    return renamed
