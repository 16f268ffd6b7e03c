"""A file of any supported origin as a `Checkpoint`: recognised by its keys, never by a guess between two readings."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters import __version__, files, sources
from converters.backbones import COUNTER, expected_tensors
from converters.checkpoint import Checkpoint, Pixels, Source, from_header, numeric_problems, sha256
from converters.errors import InputError, first_few, unknown
from converters.sources import BRANCHES, Reading

# this project's own files say themselves what they are
OWN = "gsg_transfer"


def certificate_path(path: Path) -> Path:
    """Where the certificate of a converted file lies."""
    return path.with_name(path.name + ".certificate.json")


@dataclass(frozen=True)
class Request:
    """How a user wants a file to be read.

    Attributes:
        source: name of the origin, or ``"auto"`` to recognise it.
        branch: ``"online"`` or ``"target"``, where a file holds both; None if there is no choice.
        unsafe_pickle: see `converters.files.read`.
        mean: in place of the origin's, per channel, of pixels in 0..1.
        std: likewise.
    """

    source: str = "auto"
    branch: str | None = None
    unsafe_pickle: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            InputError: an unknown source or branch, or mean and std that are not a pair of pixels in 0..1.
        """
        if self.source not in ("auto", *sources.names()):
            raise unknown("source", self.source, ("auto", *sources.names()))
        if self.branch not in (None, *BRANCHES):
            raise unknown("branch", str(self.branch), BRANCHES)
        if (self.mean is None) != (self.std is None):
            raise InputError("expected --mean and --std together, got one of them")
        if self.mean and self.std:
            try:
                Pixels(224, self.mean, self.std)
            except ValueError as error:
                raise InputError(f"--mean and --std: {error}") from error


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that reads files of any origin."""
    parser.add_argument("--source", default="auto", help="origin of the file (default: recognised by its keys)")
    parser.add_argument("--branch", help="online or target, where a file holds both networks")
    parser.add_argument(
        "--unsafe-pickle", action="store_true", help="unpickle in a child process: only files you trust"
    )
    for name in ("mean", "std"):
        parser.add_argument(f"--{name}", nargs=3, type=float, help=f"{name} of the training images, pixels in 0..1")


def request_from(args: argparse.Namespace) -> Request:
    """The request that the options make.

    Raises:
        InputError: see `Request`.
    """
    mean, std = (None if values is None else tuple(values) for values in (args.mean, args.std))
    return Request(args.source, args.branch, args.unsafe_pickle, mean, std)


@dataclass(frozen=True)
class Read:
    """A checkpoint with the account of how it was read.

    Attributes:
        checkpoint: the backbone and its facts.
        sources: names of the origins that write such a file; more than one where they write the same.
        evidence: by what it was recognised, in words.
        notes: what was filled in or converted on the way.
        dropped: keys that were left out.
    """

    checkpoint: Checkpoint
    sources: tuple[str, ...]
    evidence: str
    notes: tuple[str, ...]
    dropped: tuple[str, ...]


def read_checkpoint(path: Path, request: Request = Request()) -> Read:
    """Read a file of any supported origin.

    Args:
        path: the file.
        request: how.

    Raises:
        InputError: it cannot be read, is of no known form, can be read in two ways, or its images' normalisation is
            not known.
    """
    content = files.read(path, unsafe_pickle=request.unsafe_pickle)
    header = _own_header(path, content)
    if header is not None and request.source not in ("auto", OWN):
        raise InputError(f"{path} is this project's own file, which says itself what it is; leave out --source")
    if header is not None:
        origins = [OWN]
    elif request.source != "auto":
        origins = [request.source]
    else:
        origins = [name for name in sources.names() if name != OWN and sources.find(name).ORIGIN.recognised]
    attempts = list(sources.readings(content, origins))
    if not attempts:
        raise InputError(f"{path}: {_nothing(content, request)}")
    fits = _choose(path, attempts, request if origins != [OWN] else replace(request, branch=None))
    reading = fits[0]
    backbone, notes = _backbone(path, reading, content)
    if reading.source == OWN:
        checkpoint = from_header(path, header or _no_header(path), backbone)
        if request.branch not in (None, checkpoint.source.branch):
            raise InputError(f"{path} holds no {request.branch} network, only: {checkpoint.source.branch}")
    else:
        source = Source(
            method=reading.source if len(fits) == 1 else "unknown",
            branch=reading.form.branch if len({fit.form.branch for fit in fits}) == 1 else "unknown",
            dataset=None,
            epochs=_epochs(reading, content),
            seed=None,
            sha256=sha256(path),
            version=__version__,
        )
        checkpoint = Checkpoint(reading.arch, backbone, _pixels(path, reading, request), source)
    if request.mean and request.std:
        checkpoint = replace(checkpoint, pixels=replace(checkpoint.pixels, mean=request.mean, std=request.std))
        notes += [f"mean {request.mean} and std {request.std} as asked for"]
    names = tuple(fit.source for fit in fits)
    return Read(checkpoint, names, reading.evidence, tuple(notes), reading.dropped)


def _own_header(path: Path, content: dict[str, Any]) -> str | None:
    """The facts that this project put into a file, or into the certificate beside it where a file has no room."""
    for place in (content.get("__metadata__"), content, content.get("meta")):
        header = place.get("checkpoint") if isinstance(place, dict) else None
        if isinstance(header, str) and header.startswith("{"):
            return header
    beside = certificate_path(path)
    if not beside.is_file():
        return None
    try:
        certificate = json.loads(beside.read_text(encoding="utf-8"))
        found = certificate["checkpoint"] if certificate["output"]["sha256"] == sha256(path) else None
    except (OSError, UnicodeDecodeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{beside} is no certificate ({error!r}); remove it, or convert again") from error
    return None if found is None else str(found)


def _no_header(path: Path) -> str:
    raise InputError(f"{path}: its header does not describe a checkpoint of this project; name its --source")


def _choose(path: Path, attempts: list[Reading], request: Request) -> list[Reading]:
    """The readings that fit; all of them come to the same tensors, images and branch.

    Raises:
        InputError: none fits, or several differ.
    """
    fits = [attempt for attempt in attempts if not attempt.problems]
    if not fits:
        raise InputError(f"{path}: {_nearest(attempts, request)}")
    same: dict[Any, list[Reading]] = {}
    for fit in fits:
        same.setdefault((fit.arch, fit.pixels, fit.form.wrapper, tuple(fit.keys.items())), []).append(fit)
    kinds = list(same.values())
    if request.branch is not None:
        kinds = [kind for kind in kinds if any(fit.form.branch == request.branch for fit in kind)]
        if not kinds:
            branches = sorted({fit.form.branch for fit in fits})
            raise InputError(f"{path} holds no {request.branch} network, only: {', '.join(branches)}")
    if len(kinds) > 1:
        raise InputError(f"{path} can be read in several ways: {_ways(kinds)}")
    if request.branch is None:
        _check_twins(path, kinds[0], attempts)
    return list({fit.source: fit for fit in kinds[0]}.values())


def _check_twins(path: Path, chosen: Sequence[Reading], attempts: Sequence[Reading]) -> None:
    """Refuse to take one network of an origin without being asked where the other one is there, and damaged."""
    origins, branches = {fit.source for fit in chosen}, {fit.form.branch for fit in chosen}
    for other in attempts:
        whole = len(expected_tensors(other.arch))
        if other.source in origins and other.form.branch not in branches and len(other.tensors) > whole / 2:
            raise InputError(
                f"{path} holds a whole {chosen[0].form.branch} network, and at {other.form.place} one that is not "
                f"({first_few(other.problems)}); to take the whole one, say --branch {chosen[0].form.branch}"
            )


def _ways(readings: Sequence[Sequence[Reading]]) -> str:
    """The readings that differ, and the flags by which they can be told apart."""
    ways = [
        f"{' or '.join(dict.fromkeys(fit.source for fit in same))}, {same[0].form.branch}: {same[0].evidence}"
        for same in readings
    ]
    flags = []
    for flag, kinds in (
        ("--branch", [{fit.form.branch for fit in same} for same in readings]),
        ("--source", [{fit.source for fit in same} for same in readings]),
    ):
        if any(kind != kinds[0] for kind in kinds):
            flags.append(f"{flag} {'|'.join(dict.fromkeys(name for kind in kinds for name in sorted(kind)))}")
    return f"{'; '.join(ways)}; {'choose by ' + ' and '.join(flags) if flags else 'save the one you mean alone'}"


def _nothing(content: dict[str, Any], request: Request) -> str:
    kind = "a known origin" if request.source == "auto" else request.source
    found = first_few([name for name, _ in files.tensors(content)]) or "no tensor at all"
    return f"expected a backbone of {kind}, got {found}; --list shows what is supported"


def _nearest(attempts: Sequence[Reading], request: Request) -> str:
    asked = "" if request.source == "auto" else f" of {request.source}"
    # the most tensors, and of those the fewest problems
    best = max(attempts, key=lambda attempt: (len(attempt.tensors), -len(attempt.problems)))
    problems = first_few(best.problems)
    closest = f"closest is {best.source} ({best.evidence})"
    return f"not exactly a backbone{asked}; {closest}, but {problems}; --list shows what is supported"


def _backbone(path: Path, reading: Reading, content: dict[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in torchvision's order, float32, with a counter for every batch norm, and notes on the changes.

    Raises:
        InputError: numbers that float32 cannot hold, or that are not finite.
    """
    counters = _own_counters(path, content) if reading.source == OWN else {}
    backbone, inexact = {}, []
    for name in expected_tensors(reading.arch):
        found = reading.tensors.get(name)
        if found is None:
            found = torch.tensor(counters.get(name, 0))
        counter = name.endswith(COUNTER)
        if found.is_complex() or found.is_floating_point() == counter:
            raise InputError(f"{path}: {name} is {found.dtype}; expected {'an integer' if counter else 'real'} numbers")
        backbone[name] = found.to(torch.int64 if counter else torch.float32).contiguous()
        if not torch.equal(backbone[name].to(found.dtype).nan_to_num(), found.nan_to_num()):
            inexact.append(f"{name} is {found.dtype}")
    problems = inexact + numeric_problems(backbone)
    if problems:
        raise InputError(f"{path} does not hold finite float32 numbers: {first_few(problems)}; save such weights")
    kinds = {str(x.dtype) for x in reading.tensors.values() if x.is_floating_point()} - {"torch.float32"}
    notes = [f"{', '.join(sorted(kinds))} widened to float32"] if kinds else []
    if reading.counters_missing and not counters:
        notes.append("num_batches_tracked is not in the file and was set to 0")
    return backbone, notes


def _own_counters(path: Path, content: dict[str, Any]) -> dict[str, int]:
    """Counters of our files for Detectron2, whose frozen batch norms have none.

    Raises:
        InputError: they are no counters.
    """
    counters = content.get(COUNTER, {})
    if not isinstance(counters, dict) or not all(type(count) is int and count >= 0 for count in counters.values()):
        raise InputError(f"{path}: its {COUNTER} are no counters; convert it again")
    return counters


def _pixels(path: Path, reading: Reading, request: Request) -> Pixels:
    pixels = reading.pixels
    if request.mean and request.std:
        usual = 32 if "_cifar" in reading.arch else 224
        return Pixels(pixels.size if pixels else usual, request.mean, request.std)
    if pixels is None:
        raise InputError(
            f"{path}: such files of {reading.source} do not say how their images were normalised; give it: "
            "--mean R G B --std R G B"
        )
    return pixels


def _epochs(reading: Reading, content: dict[str, Any]) -> int | None:
    key = sources.find(reading.source).ORIGIN.epochs
    epochs = content.get(key) if key else None
    return epochs if isinstance(epochs, int) else None
