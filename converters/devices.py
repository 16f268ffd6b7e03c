"""Where a command computes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from converters.errors import InputError


def find_device(name: str | None) -> torch.device:
    """The device of a ``--device`` option, proven to work.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None for a GPU where there is one, else the CPU.

    Raises:
        InputError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used ({reason}); try --device cpu") from error
    return device


def device_name(device: torch.device) -> str:
    """The model of a GPU, or the kind of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextlib.contextmanager
def explained_lack_of_memory(advice: str) -> Iterator[None]:
    """Make it a user's mistake if memory cannot be had, in the words of Python, NumPy, or torch on any device.

    Args:
        advice: what to do then.

    Raises:
        InputError: there is not enough memory for what stands in the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise InputError(f"not enough memory ({str(error).strip() or 'no room'}); {advice}") from error


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where the system does not say.

    Args:
        device: a GPU, or the CPU, whose memory Linux tells.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    if not table.is_file():
        return None
    lines = dict(line.split(":") for line in table.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
