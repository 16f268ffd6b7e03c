"""Where every number of a report comes from, and the line that repeats it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer.report_records import Record
from transfer.report_rows import Row


@dataclass(frozen=True)
class Number:
    """A result line, in words.

    Attributes:
        what: it is a number of.
        protocol: name and hash.
        value: in per cent.
        seeds: of pretraining, and of the training on top of it where there is one.
        checkpoint: the first digits of its sha256.
        seconds: that it took.
        machine: letter of the machine.
        versions: number of the set of versions.
        command: that was typed.
        place: of the line.
    """

    what: str
    protocol: str
    value: str
    seeds: str
    checkpoint: str
    seconds: str
    machine: str
    versions: str
    command: str
    place: str


@dataclass(frozen=True)
class Origin:
    """A method: what is known of its checkpoints, and its numbers."""

    title: str
    facts: tuple[str, ...]
    numbers: tuple[Number, ...]


@dataclass
class Provenance:
    """All methods, and the machines and versions that their numbers refer to."""

    rows: list[Origin] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


def provenance_of(rows: Sequence[Row]) -> Provenance:
    """Where the numbers of all methods come from."""
    found = Provenance()
    machines, versions = dict[str, str](), dict[str, str]()
    for row in rows:
        numbers = tuple(_number(record, machines, versions) for record in row.records)
        found.rows.append(Origin(row.title, tuple(_facts(row)), numbers))
    found.machines = [f"{letter}: {machine}" for machine, letter in machines.items()]
    found.versions = [f"{number}: {each}" for each, number in versions.items()]
    return found


def _facts(row: Row) -> list[str]:
    """Each checkpoint once: digest, file, how it was read, and what it says of itself."""
    facts = dict[str, str]()
    for record in row.records:
        details, sha256 = record.result.details, record.result.checkpoint_sha256
        if not sha256 or sha256 in facts:
            continue
        source = details.get("source") or {}
        own = ", ".join(f"{key} {value}" for key, value in source.items() if value is not None)
        parts = [f"sha256 {sha256}", details.get("file"), details.get("origin"), own or None]
        facts[sha256] = "; ".join(str(part) for part in parts if part)
    return list(facts.values()) or ["a control without a checkpoint"]


def _number(record: Record, machines: dict[str, str], versions: dict[str, str]) -> Number:
    result, details = record.result, record.result.details
    machine, set_of_versions = _machine(details), ", ".join(f"{k} {v}" for k, v in result.versions.items())
    if machine not in machines:
        machines[machine] = _letter(len(machines))
    number = versions.setdefault(set_of_versions, str(len(versions) + 1))
    seeds = [each for each in (result.seed, details.get("run_seed")) if each is not None]
    return Number(
        what=f"{result.dataset} {result.split}: {result.task}, {result.metric}",
        protocol=f"{result.protocol} ({result.protocol_hash})",
        value=f"{100 * result.value:.2f}",
        seeds=" / ".join(map(str, seeds)),
        checkpoint=(result.checkpoint_sha256 or "")[:12],
        seconds=f"{result.seconds:.0f}",
        machine=machines[machine],
        versions=number,
        command=_command(details),
        place=record.place,
    )


def _command(details: Mapping[str, Any]) -> str:
    """What was typed; under torchrun with the number of processes."""
    command = details.get("command")
    if not isinstance(command, str):
        return "not recorded: written by an earlier version"
    processes = details.get("processes", 1)
    if isinstance(processes, int) and processes > 1 and "--num-gpus" not in command:
        program = command.removeprefix("python ") if command.startswith("python ") else f"--no-python {command}"
        return f"torchrun --nproc-per-node {processes} {program}"
    return command


def _machine(details: Mapping[str, Any]) -> str:
    machine = details.get("machine")
    if not isinstance(machine, dict):
        return "not recorded: written by an earlier version"
    return ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in machine.items()
    )


def _letter(index: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
