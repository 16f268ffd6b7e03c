"""A run's folder, and everything in it that a resumed run needs."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from converters.checkpoint import atomic_write
from converters.errors import InputError
from converters.run_folder import lock

FORMAT = 1

# Keys that change where or how fast a run computes, but not what: they may differ when it is resumed.
_FREE_KEYS = (
    "data.root",
    "data.skip_corrupt",
    "data.workers",
    "log_every",
    "monitor.on_collapse",
    "monitor.root",
    "save_minutes",
)


_OWN_FILES = ("run.lock", "config.yaml", "metrics.jsonl", "events.", ".state.pt.", ".config.yaml.", ".metrics.jsonl.")


@dataclass(frozen=True)
class State:
    """Where a run stands. Randomness is a function of the position, so no generator is part of it.

    Attributes:
        config: as by `config.as_dict`, and what else must be the same when the run is resumed.
        step: finished optimiser steps.
        objective: state dict, with heads and targets.
        optimizer: state dict.
        collapsed: whether collapse was announced already.
    """

    config: dict[str, Any]
    step: int
    objective: dict[str, Any]
    optimizer: dict[str, Any]
    collapsed: bool


def save_state(state: State, path: Path) -> None:
    """Write a state file; an interrupted write leaves an older one whole.

    Raises:
        InputError: the folder cannot be written.
    """
    with atomic_write(path) as temporary:
        torch.save({"format": FORMAT, **vars(state)}, temporary)


def load_state(path: Path, config: dict[str, Any]) -> State:
    """Read a state file of the same configuration, on the CPU.

    Args:
        path: written by `save_state`.
        config: of the run that is to be resumed, likewise.

    Raises:
        InputError: there is none, it is truncated or of another format, or of another configuration.
    """
    if not path.is_file():
        raise InputError(f"nothing to resume: expected {path}; start without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damaged byte happens to break
        reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
        raise InputError(f"{path} is truncated or no state file ({reason}); start again in another folder") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path}: expected a state file of format {FORMAT}; start again in another folder")
    try:
        state = State(**content)
    except TypeError as error:
        raise InputError(f"{path}: expected the entries of a state file, got {', '.join(content)}") from error
    different = [f"{k} is {b!r} there and {a!r} here" for k, a, b in _differences(config, state.config)]
    if different:
        raise InputError(f"{path} belongs to another configuration: {'; '.join(different[:4])}")
    return replace(state, config=config)


def _differences(here: dict[str, Any], there: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    a, b = _flatten(here), _flatten(there)
    keys = sorted((a.keys() | b.keys()) - set(_FREE_KEYS))
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class RunFolder:
    """The folder of one run, locked against a second live one until it is closed.

    Args:
        path: made if it is missing.
        resume: whether the folder must hold a run, or must not.

    Raises:
        InputError: it cannot be written, another process uses it, or it holds what the caller did not expect.
    """

    def __init__(self, path: Path, *, resume: bool):
        self.path = path
        self.state, self.checkpoint = path / "state.pt", path / "checkpoint.safetensors"
        self.config, self.metrics = path / "config.yaml", path / "metrics.jsonl"
        if resume and not self.state.is_file():
            raise InputError(f"nothing to resume: expected {self.state}; start without --resume")
        if not resume:
            self._refuse_content()
        self._lock = lock(path)

    def _refuse_content(self) -> None:
        names = sorted(x.name for x in self.path.iterdir()) if self.path.is_dir() else []
        if self.state.name not in names:  # then what a killed start may have left is nothing to keep
            names = [name for name in names if not name.startswith(_OWN_FILES)]
        if names:
            held = ", ".join(names[:3])
            raise InputError(
                f"{self.path} is not empty ({held}); add --resume to continue that run, or change --output"
            )

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the resolved configuration, which reproduces the run with --config."""
        with atomic_write(self.config) as temporary:
            temporary.write_text(OmegaConf.to_yaml(config))

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that the resumed run will do again."""
        if not self.metrics.is_file():
            return
        lines = [line for line in self.metrics.read_text().splitlines() if _is_before(line, step)]
        with atomic_write(self.metrics) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))


def _is_before(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except json.JSONDecodeError:  # a kill in mid-write truncates at most the last line
        return False
