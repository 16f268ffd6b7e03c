"""The lock of a run's folder, so that two live runs do not write into one."""

import fcntl
import os
from pathlib import Path
from typing import IO

from converters.errors import InputError


def lock(folder: Path) -> IO[str]:
    """Make a folder if it is missing, and lock it until the file that is returned is closed or the process dies.

    Raises:
        InputError: it cannot be written, or another process has locked it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / "run.lock").open("a")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another --output") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process dies
    except BlockingIOError as error:
        held.close()
        raise InputError(f"{folder} is in use by a live run; choose another --output") from error
    os.register_at_fork(after_in_child=held.close)  # else a loader's worker would keep the lock of a killed run
    return held
