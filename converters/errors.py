"""How every command treats a user's mistake: one line on stderr, exit code 2."""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import NoReturn


class InputError(ValueError):
    """A mistake of the user: the message says what was expected, what came, and what to do, in one sentence."""


def check_range(key: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside of [low, high].

    Args:
        key: what a user calls it.
        value: the number.
        low: smallest that is allowed.
        high: largest.

    Raises:
        InputError: it does not lie there.
    """
    if not low <= value <= high:
        raise InputError(f"{key}: expected {low:g} to {high:g}, got {value}")


def unknown(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """The error for a name that is not among the choices, with the closest one suggested.

    Args:
        kind: what the name stands for, e.g. ``"objective"``.
        name: what the user wrote.
        choices: every valid name.
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    suggestion = f"; did you mean '{close[0]}'?" if close else ";"
    return InputError(f"unknown {kind} '{name}'{suggestion} choose from: {', '.join(choices)}")


def printable(text: str, length: int = 300) -> str:
    """Text that came from a file, for a message: one line, no control characters, not long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())[:length]


def first_few(items: Sequence[str], count: int = 4) -> str:
    """The first of a list that may be long, and how many follow; items may come from a file."""
    more = f", and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(map(printable, items[:count])) + more


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, except that a wrong argument is an `InputError` instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; see --help")


def reports_input_errors(main: Callable[[], int]) -> Callable[[], int]:
    """Make a command print an `InputError` as one line and return 2; every other exception keeps its traceback."""

    @wraps(main)
    def command() -> int:
        try:
            return main()
        except InputError as error:
            report(error)
            return 2

    return command


def report(error: InputError) -> None:
    """Print a user's mistake as one line on stderr."""
    print(f"error: {printable(str(error), length=4000)}", file=sys.stderr, flush=True)
