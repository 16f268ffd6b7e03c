"""Results: one JSON line per number, append only. Tables and reports read nothing else."""

import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from converters import __version__
from converters.checkpoint import settings_hash
from converters.devices import device_name
from converters.errors import InputError, printable

# a line is checked by them, since a table would show, or an average take, whatever stands there
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("task", "dataset", "split", "protocol", "protocol_hash", "metric", "unit", "representation"), str),
    **dict.fromkeys(("value", "seconds"), (int, float)),
    **dict.fromkeys(("checkpoint_sha256",), (str, NoneType)),
    **dict.fromkeys(("seed",), (int, NoneType)),
    "num_examples": int,
    "details": dict,
    "versions": dict,
}


# by which runs are told apart
_DETAILS: dict[str, type | tuple[type, ...]] = {
    "run_seed": (int, NoneType),
    "reading": (str, NoneType),
    "source": (dict, NoneType),
    "settings": (dict, NoneType),
}


@dataclass(frozen=True)
class Result:
    """A measured number with all that is needed to compare it, or to refuse to.

    Attributes:
        task: kind of evaluation: ``"linear"``, ``"knn"``, ``"probe"``, ``"detection"``, ``"segmentation"``.
        dataset: e.g. ``"cifar10"``.
        split: e.g. ``"test"``.
        protocol: name of the procedure.
        protocol_hash: of its every setting; numbers of different hashes share no column.
        metric: e.g. ``"accuracy"``.
        value: in `unit`.
        unit: ``"share"`` for a number in 0..1.
        num_examples: that the value is computed over.
        interval: 95 %, over test examples.
        representation: what was evaluated, in words.
        checkpoint_sha256: of the file; None for a control that has none.
        seed: of pretraining, or of a random initialisation; None if unknown or none.
        details: what the procedure found on its way, e.g. the chosen weight decay.
        seconds: that the evaluation took, features included.
        versions: of the packages that computed it.
    """

    task: str
    dataset: str
    split: str
    protocol: str
    protocol_hash: str
    metric: str
    value: float
    unit: str
    num_examples: int
    interval: tuple[float, float]
    representation: str
    checkpoint_sha256: str | None
    seed: int | None
    details: dict[str, Any]
    seconds: float
    versions: dict[str, str]


def append(results: Iterable[Result], path: Path) -> None:
    """Append results to a file, in one write, so that two processes do not mix their lines.

    A last line that a kill has cut off stays as it is; the results begin on a line of their own.

    Args:
        results: to be written, one line each.
        path: made if it is missing.
    """
    lines = "".join(json.dumps(asdict(result)) + "\n" for result in results).encode()
    with path.open("ab+", buffering=0) as file:
        if file.tell() and path.read_bytes()[-1:] != b"\n":
            lines = b"\n" + lines
        file.write(lines)


def append_new(results: list[Result], path: Path) -> list[Result]:
    """Append the results of a training that are not there yet, and return what is there: a state is tested once.

    Args:
        results: with the iteration of the tested state among their details.
        path: of the file.
    """

    def key(result: Result) -> tuple[Any, ...]:
        return result.dataset, result.split, result.metric, result.protocol_hash, result.details["iterations"]

    known = {key(result): result for result in (read(path)[0] if path.is_file() else [])}
    append([result for result in results if key(result) not in known], path)
    return [known.get(key(result), result) for result in results]


def read(path: Path) -> tuple[list[Result], list[str]]:
    """Every result of a file, in the order of writing, and one sentence for each line that is none.

    A kill or a full disk can cut a line off; the others are as good as before.

    Raises:
        InputError: the file is missing, or no text.
    """
    lines = [line for _, line in read_lines(path)]
    results = [line for line in lines if isinstance(line, Result)]
    return results, [line for line in lines if isinstance(line, str)]


def read_lines(path: Path) -> Iterator[tuple[int, Result | str]]:
    """Every line of a file, by its number from 1 on: a result, or a sentence that says why it is none.

    Raises:
        InputError: the file is missing, or no text.
    """
    if not path.is_file():
        raise InputError(f"results {path} not found; expected a results.jsonl of this project")
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; allow it, or name other folders") from error
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            yield number, _parse(line.decode())
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            shown = printable(line[:1000].decode(errors="replace"), 80)
            yield number, f"{path}, line {number}: {_problem(error)}, got {shown!r}"


def _problem(error: Exception) -> str:
    """Why a line is no result, in words."""
    if isinstance(error, _UnusableError):
        return str(error)
    return f"expected a result ({', '.join(field.name for field in fields(Result))})"


class _UnusableError(ValueError):
    """A line that is a result by its form, and cannot be used."""


def _parse(line: str) -> Result:
    record = json.loads(line)
    if "\\ud" in line.lower():
        json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    writer = record["versions"].get("gsg-transfer", __version__)
    if version_numbers(writer) > version_numbers(__version__):
        raise _UnusableError(
            f"written by gsg-transfer {writer}, expected {__version__} or earlier: update this project"
        )
    for name, kinds in _KINDS.items():
        if not isinstance(record[name], kinds) or isinstance(record[name], bool):
            raise TypeError(f"{name} is something else")
    for name, kinds in _DETAILS.items():
        if not isinstance(record["details"].get(name), kinds):
            raise TypeError(f"{name} is something else")
    for name in ("recipe", "batch_size"):
        if not isinstance((record["details"].get("source") or {}).get(name), str | int | None):
            raise TypeError(f"{name} is something else")
    low, high = record["interval"]
    result = Result(**{**record, "interval": (float(low), float(high))})
    if not math.isfinite(result.value):
        raise _UnusableError(f"expected a finite number as value, got {result.value}")
    if result.unit != "share":
        raise _UnusableError(f"expected the unit share, got {printable(result.unit, 40)}")
    if not 0 <= result.value <= 1:
        raise _UnusableError(f"expected a share in 0..1, got {result.value:g}")
    if result.num_examples < 1:
        raise _UnusableError(f"expected one example or more, got {result.num_examples}")
    if all(map(math.isfinite, result.interval)) and not 0 <= result.interval[0] <= result.interval[1] <= 1:
        raise _UnusableError(f"expected an interval of shares from low to high, got {result.interval}")
    return result


def version_numbers(version: str) -> tuple[int, ...]:
    """A version for comparison: 0.10.1 is later than 0.9."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def protocol_hash(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any setting of a protocol."""
    return settings_hash(settings)


def circumstances(device: torch.device) -> dict[str, Any]:
    """What a result's details say of how it came about: the command, as it was typed, and the machine.

    Args:
        device: where it was computed.
    """
    program, *arguments = sys.argv
    start = [] if Path(program).name.startswith("gsg-") else ["python"]
    return {
        "command": shlex.join([*start, Path(program).name if not start else program, *arguments]),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "machine": {
            "device": device_name(device),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
    }


def _processor() -> str:
    """The model of the CPU where Linux tells it, else what Python knows."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def current_versions() -> dict[str, str]:
    """Versions of the packages that a number may depend on."""
    names = ("torch", "torchvision", "scikit-learn", "numpy")
    return {"gsg-transfer": __version__, **{name: version(name) for name in names}}
