"""Where a command computes."""

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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory could not be had, in the words of Python, NumPy, or torch on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
