"""A probe's folder: what a resumed probe needs, written atomically, and its numbers by epoch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters import distributed
from converters.checkpoint import atomic_write
from converters.errors import InputError

FORMAT = 1


@dataclass(frozen=True)
class Predictions:
    """What a probe says of the test images.

    Attributes:
        classes: the most probable class of each, int64 (M,).
        confidence: its probability, float32 (M,).
    """

    classes: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Epoch:
    """The numbers of a finished epoch.

    Attributes:
        epoch: counted from 1.
        lr: learning rate in it.
        loss: mean cross-entropy of its training images.
        accuracy: on the test images after it, in 0..1.
        seconds: from the probe's start to its end.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class State:
    """Where a probe stands. Randomness is a function of the position, so no generator is part of it.

    Attributes:
        linear: state dict of the layer.
        optimizer: state dict.
        history: the finished epochs.
        last: predictions after the last of them; None before the first.
        best: predictions after the best of them.
    """

    linear: dict[str, Any]
    optimizer: dict[str, Any]
    history: list[Epoch]
    last: Predictions | None
    best: Predictions | None


class ProbeFolder:
    """The folder of one probe; only the main process writes into it.

    Args:
        path: made if it is missing.
        identity: all that decides what the probe computes, by name, in plain types.
        is_main: whether this process writes.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, is_main: bool) -> None:
        self.state, self.metrics = path / "state.pt", path / "metrics.jsonl"
        self._path, self._identity, self._is_main = path, identity, is_main

    def open(self, *, resume: bool) -> State | None:
        """The state to resume from, or None for a new probe.

        Args:
            resume: whether the folder may hold a probe; without one, a new probe begins.

        Raises:
            InputError: the folder holds a probe and should not, holds another one, or cannot be written.
        """
        refusal = distributed.from_main(self._refusal(resume) if self._is_main else None)
        if refusal:
            raise InputError(refusal)
        # every process reads for itself what none writes before all have trained an epoch
        return self._load() if resume and self.state.is_file() else None

    def save(self, state: State) -> None:
        """Write a state file and the metrics; an interrupted write leaves older ones whole.

        Raises:
            InputError: the folder cannot be written.
        """
        if not self._is_main:
            return
        predictions = {name: vars(each) if (each := getattr(state, name)) else None for name in ("last", "best")}
        history = [asdict(epoch) for epoch in state.history]
        content = {"linear": state.linear, "optimizer": state.optimizer, "history": history, **predictions}
        with atomic_write(self.state) as temporary:
            torch.save({"format": FORMAT, "identity": self._identity, **content}, temporary)
        with atomic_write(self.metrics) as temporary:
            temporary.write_text("".join(f"{json.dumps(epoch)}\n" for epoch in history))

    def _refusal(self, resume: bool) -> str | None:
        """Why this probe cannot begin or go on here."""
        if self.state.is_file() and not resume:
            return f"{self._path} holds a probe already; resume it, or choose another folder"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"cannot write {self._path}: {error.strerror}; choose another --output"
        return None

    def _load(self) -> State:
        try:
            content = torch.load(self.state, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever the damaged byte happens to break
            reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
            raise InputError(
                f"{self.state} is truncated or no state file ({reason}); start again in another folder"
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(
                f"{self.state}: expected a probe's state of format {FORMAT}; start again in another folder"
            )
        self._check_identity(content["identity"])
        last, best = (Predictions(**content[name]) if content[name] else None for name in ("last", "best"))
        history = [Epoch(**epoch) for epoch in content["history"]]
        return State(content["linear"], content["optimizer"], history, last, best)

    def _check_identity(self, there: dict[str, Any]) -> None:
        here = self._identity
        different = [
            f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
            for key in sorted(here.keys() | there.keys())
            if here.get(key) != there.get(key)
        ]
        if different:
            raise InputError(f"{self.state} belongs to another probe: {'; '.join(different[:4])}")
