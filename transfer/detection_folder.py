"""The folder of a detection run: whose it is, so that it is continued by the same run and by no other."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converters.checkpoint import atomic_write
from converters.errors import InputError
from converters.run_folder import lock

IDENTITY = "run.json"

# what a start leaves that ended before the first iteration: nothing to keep
_LEFT_OVER = ("run.lock", IDENTITY, f".{IDENTITY}.", "config.yaml", "backbone.", "proof.json", "log.txt")


class DetectionFolder:
    """A run's folder, locked against a second live run until it is closed.

    Args:
        path: made if it is missing.
        identity: all that decides what the run computes, by name, in plain types.
        begun: whether the folder must hold this run already (to resume or test it), or must hold nothing.
        free: names of the identity that may differ from those of the run in the folder.

    Raises:
        InputError: it holds something else, is in use, or cannot be written.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, begun: bool, free: Sequence[str] = ()) -> None:
        self._path = path
        if begun:
            self._check_identity(json.loads(json.dumps(identity)), free)
        else:
            self._refuse_content()
        self._lock = lock(path)
        if not begun:
            with atomic_write(path / IDENTITY) as temporary:
                temporary.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")

    def __enter__(self) -> "DetectionFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _check_identity(self, here: dict[str, Any], free: Sequence[str]) -> None:
        path = self._path / IDENTITY
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"no run in {self._path}: expected {path}; leave out --resume and --eval-only") from error
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path} is damaged ({error}); start again in another folder") from error
        different = [
            f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
            for key in sorted((here.keys() | there.keys()) - set(free))
            if here.get(key) != there.get(key)
        ]
        if different:
            raise InputError(f"{self._path} holds another run: {'; '.join(different[:4])}; choose another --output")

    def _refuse_content(self) -> None:
        names = sorted(each.name for each in self._path.iterdir()) if self._path.is_dir() else []
        held = [name for name in names if not name.startswith(_LEFT_OVER)]
        if held:
            raise InputError(
                f"{self._path} is not empty ({', '.join(held[:3])}); continue that run with --resume, test it with "
                "--eval-only, or choose another --output"
            )
