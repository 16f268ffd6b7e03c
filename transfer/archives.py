"""NumPy archives that runs leave: read whole, or refused in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import InputError, printable


def read_archive(path: Path, what: str, advice: str) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an archive, by their names.

    Args:
        path: of the file.
        what: it should hold, for errors.
        advice: what to do if it does not.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise InputError(f"{path} not found; expected {what}: {advice}") from error
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is truncated or no NumPy archive ({printable(str(error))}); {advice}") from error
