"""Sources: one file per origin of weights, found by its file name.

A file holds ``ORIGIN``, an `Origin`. To add an origin, add a file.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from converters.backbones import ARCHITECTURES, COUNTER, check_tensors, expected_tensors
from converters.checkpoint import Pixels
from converters.keys import NAMED, KeyMapError, Renamed, Rule, rename
from converters.plugins import plugins

ONLINE, TARGET = BRANCHES = ("online", "target")

names, find = plugins(__name__, "source")

IMAGENET_STEM = ("resnet18", "resnet34", "resnet50", "resnet101")
ANY_STEM = ARCHITECTURES

# top-level entries with tensors that are no networks
_OPTIMISER = re.compile(r"optim\w*|.*optimizer\w*|scaler|amp\w*|lr_scheduler\w*|scheduler\w*|loops|callbacks")


@dataclass(frozen=True)
class Form:
    """One way in which an origin writes its files, for one network in them.

    Attributes:
        prefix: of the backbone's keys, with the dot.
        wrapper: keys that lead from the file's content to the state dict.
        branch: ``"online"`` or ``"target"`` (momentum encoder, teacher, average).
        rules: for what follows the prefix; None takes the tensors by their order, whatever they are called.
        drop: regular expressions of whole keys of the state dict that are no part of the backbone.
        copies: prefixes under which the same tensors stand again; they must be equal, bit for bit.
        alone: nothing stands beside the wrapper in such a file.
        beside: a prefix of keys that such a file also has; what the backbone is called depends on them.
        architectures: what it may be.
        pixels: how the weights want their images; None where the files of an origin differ and do not say.
        small_pixels: likewise for the small stem of CIFAR.
        arrange: a tensor under torchvision's name, in torchvision's layout.
    """

    prefix: str = ""
    wrapper: tuple[str, ...] = ()
    branch: str = ONLINE
    rules: tuple[Rule, ...] | None = NAMED
    drop: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    alone: bool = False
    beside: str = ""
    architectures: tuple[str, ...] = IMAGENET_STEM
    pixels: Pixels | None = Pixels(224)  # noqa: RUF009 - frozen
    small_pixels: Pixels | None = None
    arrange: Callable[[str, Tensor], Tensor] = field(default=lambda name, tensor: tensor, repr=False)

    @property
    def place(self) -> str:
        """Where the backbone stands in a file, for people."""
        return " > ".join([*self.wrapper, f"{self.prefix}*"])


@dataclass(frozen=True)
class Origin:
    """Where weights may come from.

    Attributes:
        title: in words, with its paper or repository.
        forms: of its files.
        epochs: key of the number of finished epochs, where the files hold it (many hold the last one's index).
        recognised: whether its files can be told from others; else it must be named.
        note: what a user should know.
    """

    title: str
    forms: tuple[Form, ...]
    epochs: str | None = None
    recognised: bool = True
    note: str = ""


@dataclass(frozen=True)
class Reading:
    """A file, read as one form of one origin.

    Attributes:
        source: name of the origin.
        form: of the file.
        arch: architecture that the tensors fit best.
        tensors: the backbone in torchvision's names and layout, otherwise as it stands in the file.
        keys: the file's key of every tensor.
        dropped: keys of the state dict that are no part of the backbone.
        problems: why the file is not exactly this; empty if it is.
    """

    source: str
    form: Form
    arch: str
    tensors: dict[str, Tensor] = field(repr=False)
    keys: dict[str, str] = field(repr=False)
    dropped: tuple[str, ...] = field(repr=False)
    problems: tuple[str, ...]

    @property
    def counters_missing(self) -> bool:
        """Whether no batch norm has its counter: Detectron2's files, and those from before PyTorch 0.4.1."""
        return not any(name.endswith(COUNTER) for name in self.tensors)

    @property
    def pixels(self) -> Pixels | None:
        """How the weights want their images; None if the file does not say."""
        return self.form.small_pixels if "_cifar" in self.arch else self.form.pixels

    @property
    def evidence(self) -> str:
        """By what it was recognised, for people."""
        dropped = f", {len(self.dropped)} others left out" if self.dropped else ""
        return f"{len(self.tensors)} tensors at {self.form.place}{dropped}"


def readings(content: Mapping[str, Any], sources: Iterable[str]) -> Iterator[Reading]:
    """Every attempt to read a file that finds at least one of the backbone's tensors.

    Args:
        content: of the file, from `converters.files.read`.
        sources: names of the origins to try.
    """
    content = {key: value for key, value in content.items() if key != "__metadata__"}
    for source in sources:
        for form in find(source).ORIGIN.forms:
            state = _descend(content, form.wrapper)
            if state is None or (form.alone and len(content) > 1):
                continue
            leaves = dict(_leaves(state))
            if not all(any(key.startswith(start) for key in leaves) for start in (form.prefix, form.beside)):
                continue
            others = _other_networks(content, form, find(source).ORIGIN)
            reading = _read(source, form, leaves, [*_contradiction(content, form), *others])
            if reading.tensors:
                yield reading


def _other_networks(content: Mapping[str, Any], form: Form, origin: Origin) -> list[str]:
    """Top-level entries that hold convolutions and that the origin does not know."""
    known = {other.wrapper[0] for other in origin.forms if other.wrapper}
    if not form.wrapper:
        return []
    return [
        f"it also holds a network at {key}, which this origin does not write"
        for key, value in content.items()
        if key not in known and not _OPTIMISER.fullmatch(key) and any(_is_convolution(x) for _, x in _leaves(value))
    ]


def _is_convolution(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _contradiction(content: Mapping[str, Any], form: Form) -> list[str]:
    """What the file says about itself that is not so for any architecture of the form."""
    arch = content.get("arch")
    names = {each.partition("_")[0] for each in form.architectures}
    wrong = isinstance(arch, str) and "net" in arch.lower() and arch.lower() not in names
    return [f"it says that it is {arch}"] if wrong else []


def _read(source: str, form: Form, state: dict[str, Any], contradictions: list[str]) -> Reading:
    copies = tuple(key for key in state if key.startswith(form.copies))
    own = {key: value for key, value in state.items() if key not in set(copies)}
    problems = contradictions + [
        f"{key} differs from {twin}" for key, twin in _twins(form, copies) if not _same(state, key, twin)
    ]
    try:
        renamed = _by_order(form, own) if form.rules is None else rename(own, _prefixed(form), form.drop)
    except KeyMapError as error:
        renamed = error.partial
        problems.append(str(error))
    tensors = {name: form.arrange(name, value) for name, value in renamed.values.items() if isinstance(value, Tensor)}
    arch = min(form.architectures, key=lambda arch: len(_misfits(arch, tensors)))
    problems += _misfits(arch, tensors)
    return Reading(source, form, arch, tensors, renamed.keys, renamed.dropped, tuple(problems))


def _misfits(arch: str, tensors: dict[str, Tensor]) -> list[str]:
    """As `check_tensors`, but batch norms may lack their counters, if all of them do."""
    without = not any(name.endswith(COUNTER) for name in tensors)
    problems = check_tensors(arch, tensors)
    return [text for text in problems if not (without and text.startswith("missing") and text.endswith(COUNTER))]


def _prefixed(form: Form) -> list[Rule]:
    return [Rule(re.escape(form.prefix) + rule.pattern, rule.name) for rule in form.rules or ()]


def _by_order(form: Form, state: dict[str, Any]) -> Renamed[Any]:
    """Names by position, for networks whose modules stand in torchvision's order under other names.

    Raises:
        KeyMapError: as many tensors as no architecture has.
    """
    dropped = [key for key in state if any(re.fullmatch(pattern, key) for pattern in form.drop)]
    kept = {key: value for key, value in state.items() if key not in set(dropped)}
    for arch in form.architectures:
        expected = list(expected_tensors(arch))
        if len(expected) == len(kept):
            values, keys = (dict(zip(expected, each, strict=True)) for each in (kept.values(), kept))
            odd = [key for name, key in keys.items() if key.rpartition(".")[2] != name.rpartition(".")[2]]
            if odd:
                raise KeyMapError(f"{odd[0]} is not where a tensor of that name belongs", Renamed(values, keys, ()))
            return Renamed(values, keys, tuple(dropped))
    raise KeyMapError(f"{len(kept)} tensors at {form.place}, as no architecture has", Renamed({}, {}, ()))


def _twins(form: Form, copies: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for key in copies:
        prefix = next(prefix for prefix in form.copies if key.startswith(prefix))
        yield key, form.prefix + key.removeprefix(prefix)


def _same(state: dict[str, Any], key: str, twin: str) -> bool:
    value, other = state[key], state.get(twin)
    return isinstance(value, Tensor) and isinstance(other, Tensor) and torch.equal(value, other)


def _descend(content: Any, wrapper: tuple[str, ...]) -> Any:
    for key in wrapper:
        inner = content.get(key) if isinstance(content, Mapping) else None
        if not isinstance(inner, Mapping | list):
            return None
        content = inner
    return content


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts and lists, by its path with dots between."""
    if isinstance(content, Mapping | list):
        for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, content
