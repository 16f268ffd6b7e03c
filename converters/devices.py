"""Where a command computes."""

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
