"""The folder of a detector's or segmentor's training: whose it is, so that the same run continues it and no other."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from converters import distributed
from converters.checkpoint import atomic_write
from converters.distributed import Ranks, agree, together
from converters.errors import InputError, printable
from converters.run_folder import lock

IDENTITY = "run.json"
_PROOF = "proof.json"

# what a start leaves that ended before the first iteration: nothing to keep
_LEFT_OVER = ("run.lock", IDENTITY, f".{IDENTITY}.", "config.", "backbone.", _PROOF, "log.txt")


class TrainingFolder:
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

    def __enter__(self) -> "TrainingFolder":
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
        ours, theirs = ({key: value for key, value in each.items() if key not in free} for each in (here, there))
        different = [f"{place} is {one!r} there and {other!r} here" for place, one, other in differing(theirs, ours)]
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


def differing(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Places where nested settings differ, with both values.

    Args:
        one: a value in JSON's types.
        other: another one.
        place: of both, as dotted keys.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differing(one.get(key), other.get(key), f"{place}.{key}" if place else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differing(*pair, f"{place}.{index}")
    elif one != other:
        yield place, one, other


def differences(one: Any, other: Any) -> list[str]:
    """The same in words, one for each place."""
    return [f"{place}: {printable(str(a), 60)} and {printable(str(b), 60)}" for place, a, b in differing(one, other)]


def write_proof(folder: Path, lines: list[str]) -> None:
    """Keep what was shown before the first iteration, for all results of the run."""
    (folder / _PROOF).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def read_proof(folder: Path) -> list[str]:
    """What `write_proof` has written.

    Raises:
        InputError: it is gone or damaged.
    """
    path = folder / _PROOF
    try:
        lines: list[str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"expected what was proven before training in {path}, got {error}; put it back") from error
    return lines


def run_folder(output: Path, ranks: Ranks, stack: contextlib.ExitStack, *, dry: bool) -> Path:
    """The folder of a run; of a dry one a temporary folder, the main rank's for all.

    Args:
        output: where a run is kept.
        ranks: this process among its peers.
        stack: removes a temporary folder when it is closed.
        dry: nothing is kept.
    """
    if not dry:
        return output
    temporary = distributed.from_main(stack.enter_context(tempfile.TemporaryDirectory()) if ranks.is_main else None)
    assert temporary is not None
    return Path(temporary)


def take(
    path: Path,
    identity: dict[str, Any],
    config: tuple[str, str],
    ranks: Ranks,
    stack: contextlib.ExitStack,
    *,
    begun: bool,
    free: Sequence[str] = (),
) -> None:
    """Let the main rank take a run's folder, and make sure that all ranks mean the same run and the same folder.

    Args:
        path: the folder.
        identity: see `TrainingFolder`.
        config: name and text of the configuration, which the folder keeps.
        ranks: this process among its peers.
        stack: holds the folder's lock.
        begun: see `TrainingFolder`.
        free: see `TrainingFolder`.

    Raises:
        SharedInputError: the folder cannot be taken, or the ranks differ.
    """

    def folder() -> None:
        if ranks.is_main:
            stack.enter_context(TrainingFolder(path, identity, begun=begun, free=free))
            name, text = config
            if not begun:
                (path / name).write_text(text, encoding="utf-8")

    together(ranks, folder)
    agree(ranks, json.dumps(identity), "the processes do not read the same data or weights; give all the same")
    seen = (path / IDENTITY).is_file()
    agree(ranks, str(seen), f"{path} is not seen by all machines; --output must be shared")


def forget_lines(path: Path, start: int) -> None:
    """Drop what a file of JSON lines says of iterations from `start` on, which a resumed run does again.

    A last line that a kill has cut off goes too. Nothing happens to a file that is not there.
    """
    if not path.is_file():
        return
    lines = [line for line in path.read_text().splitlines() if _is_before(line, start)]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))


def _is_before(line: str, start: int) -> bool:
    try:
        return bool(json.loads(line)["iteration"] < start)
    except json.JSONDecodeError:
        return False
