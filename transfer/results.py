"""Results: one JSON line per number, append only. Tables and reports read nothing else."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from converters import __version__
from converters.errors import InputError


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
    if not path.is_file():
        raise InputError(f"results {path} not found; expected a results.jsonl of this project")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no results.jsonl ({error}); choose another --output") from error
    results, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            results.append(_parse(line))
        except (json.JSONDecodeError, KeyError, TypeError):
            expected = ", ".join(field.name for field in fields(Result))
            problems.append(f"{path}, line {number}: expected a result ({expected}), got {line[:80]!r}")
    return results, problems


def _parse(line: str) -> Result:
    record = json.loads(line)
    if not isinstance(record["details"], dict):
        raise TypeError("details are no object")
    return Result(**{**record, "interval": tuple(record["interval"])})


def protocol_hash(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any setting of a protocol."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def current_versions() -> dict[str, str]:
    """Versions of the packages that a number may depend on."""
    names = ("torch", "torchvision", "scikit-learn", "numpy")
    return {"gsg-transfer": __version__, **{name: version(name) for name in names}}
