"""Key maps: from an origin's names of tensors to torchvision's, total and one to one, or an error that says why not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from converters.errors import InputError, first_few

Value = TypeVar("Value")

# what PyTorch's batch norms hold
LEAF = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


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


def resnet_rules(conv1: str, bn1: str, layers: Sequence[str], shortcut: str = "downsample") -> tuple[Rule, ...]:
    r"""Rules for networks with torchvision's blocks under other names.

    Args:
        conv1: the stem's convolution, as a regular expression.
        bn1: its batch norm, likewise.
        layers: the four stages, likewise.
        shortcut: what torchvision's blocks call ``downsample``.
    """
    rules = [Rule(rf"{conv1}\.weight", "conv1.weight"), Rule(rf"{bn1}\.{LEAF}", r"bn1.\1")]
    for number, layer in enumerate(layers, 1):
        rules.append(Rule(rf"{layer}\.(\d+)\.(conv[1-3])\.weight", rf"layer{number}.\1.\2.weight"))
        rules.append(Rule(rf"{layer}\.(\d+)\.(bn[1-3])\.{LEAF}", rf"layer{number}.\1.\2.\3"))
        rules.append(Rule(rf"{layer}\.(\d+)\.{shortcut}\.0\.weight", rf"layer{number}.\1.downsample.0.weight"))
        rules.append(Rule(rf"{layer}\.(\d+)\.{shortcut}\.1\.{LEAF}", rf"layer{number}.\1.downsample.1.\2"))
    return tuple(rules)


_NAMED_LAYERS = ("layer1", "layer2", "layer3", "layer4")

# torchvision.models.resnet.ResNet
NAMED = resnet_rules("conv1", "bn1", _NAMED_LAYERS)
NAMED_SHORTCUT = resnet_rules("conv1", "bn1", _NAMED_LAYERS, "shortcut")
# nn.Sequential(*resnet.children()): 2 and 3 are the ReLU and the max-pool, which hold no tensors
SEQUENTIAL = resnet_rules("0", "1", ("4", "5", "6", "7"))
# without these two, as networks for CIFAR are written
SEQUENTIAL_CIFAR = resnet_rules("0", "1", ("2", "3", "4", "5"))
SEQUENTIAL_CIFAR_SHORTCUT = resnet_rules("0", "1", ("2", "3", "4", "5"), "shortcut")


# backbones of Detectron2, below the prefix of the detector
DETECTRON2 = (
    Rule(r"stem\.conv1\.weight", "conv1.weight"),
    Rule(rf"stem\.conv1\.norm\.{LEAF}", r"bn1.\1"),
    *(
        rule
        for number in range(1, 5)
        for rule in (
            Rule(rf"res{number + 1}\.(\d+)\.conv([1-3])\.weight", rf"layer{number}.\1.conv\2.weight"),
            Rule(rf"res{number + 1}\.(\d+)\.conv([1-3])\.norm\.{LEAF}", rf"layer{number}.\1.bn\2.\3"),
            Rule(rf"res{number + 1}\.(\d+)\.shortcut\.weight", rf"layer{number}.\1.downsample.0.weight"),
            Rule(rf"res{number + 1}\.(\d+)\.shortcut\.norm\.{LEAF}", rf"layer{number}.\1.downsample.1.\2"),
        )
    ),
)


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
