"""A child process of `converters.files`: unpickles its input, and writes tensors and plain values to its output.

It imports nothing of this project, and hands back a file that loads with `weights_only=True`.
"""

import codecs
import contextlib
import ctypes
import io
import os
import pickle
import resource
import signal
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

with contextlib.suppress(ImportError):
    import dill  # noqa: F401 - DeepMind's files refer to it; it cannot be imported once the folders are gone

TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # torch.save before version 1.6
_NEW_USER, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000  # linux/sched.h
_NO_NEW_PRIVILEGES, _CAPABILITY_VERSION = 38, 0x20080522  # linux/prctl.h, linux/capability.h (version 3)

_PYTHON_2_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Placeholder:
    """Stands for an object whose class is not installed; keeps what it was made of."""

    def __new__(cls, *arguments: Any, **named: Any) -> "Placeholder":
        """Keep the arguments, whatever the class would have done with them."""
        made = super().__new__(cls)
        made.__dict__["arguments"] = [*arguments, *named.values()]
        return made

    def __init__(self, *arguments: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[key] = value


class Unpickler(pickle.Unpickler):
    """Unpickles with the classes that are loaded already, and placeholders for the rest."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function, or a placeholder.

        Raises:
            pickle.UnpicklingError: one of dill's functions, and dill is not installed; nothing can stand for them.
        """
        module = _PYTHON_2_NAMES.get(module, module)
        if module.startswith("numpy.core."):  # before NumPy 2
            module = module.replace("core", "_core", 1)
        if module in sys.modules and module != "__main__" and hasattr(sys.modules[module], name.partition(".")[0]):
            return super().find_class(module, name)
        if module.partition(".")[0] == "dill":
            raise pickle.UnpicklingError("it was written by dill; install the package dill")
        return type(name, (Placeholder,), {"__module__": module})


def plain(value: Any, limit: int = sys.maxsize, seen: frozenset[int] = frozenset()) -> Any:
    """Nested dicts and lists of tensors and plain values; what is neither becomes its type's name.

    Args:
        value: what was unpickled.
        limit: bytes that a tensor may have; more can only be one number, expanded.
        seen: the objects that this one is a part of.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, torch.Tensor):
        # clone: a view would bring its whole storage
        return value.detach().cpu().clone() if value.numel() * value.element_size() <= limit else "too large a tensor"
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        usable = array.dtype.kind in "fiub" and array.nbytes <= limit
        return torch.from_numpy(np.array(array)) if usable else f"an array of {array.dtype}"
    if id(value) in seen:
        return "a cycle"
    seen |= {id(value)}
    if isinstance(value, Placeholder):
        return plain(contents(value), limit, seen)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(item, limit, seen) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, limit, seen) for item in value]
    return f"an object of {type(value).__module__}.{type(value).__qualname__}"


def contents(placeholder: Placeholder) -> Any:
    """What a placeholder was made of: the one thing there is, or all of them in a list."""
    parts = [part for part in placeholder.__dict__.values() if part not in ([], {}, None)]
    while isinstance(parts, list) and len(parts) == 1:
        parts = parts[0]
    return parts


def isolate() -> None:
    """Take from this process what it does not need, as far as the kernel and the container allow it.

    It goes on without the right to touch any file, and where possible in a process that sees no other process and no
    network, and has no privilege with which to come back; everything that it starts ends with it.

    Raises:
        PermissionError: neither of the two ways to be without files is allowed here.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error instead of death where a library tries to write
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    kernel = ctypes.CDLL(None)
    if kernel.unshare(_NEW_USER | _NEW_NETWORK | _NEW_PROCESSES) == 0:
        inside = os.fork()  # the first process of the new namespace: the kernel ends the others with it
        if inside:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]) % 256)
    alone = False
    with contextlib.suppress(PermissionError):
        os.chroot(".")  # the parent made an empty folder
        os.chdir("/")
        alone = True
    kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    kernel.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)())  # none of them
    if not forbid_files(kernel) and not alone:
        raise PermissionError("this system lets no process give up its files; do it in a container or as root")


def forbid_files(kernel: ctypes.CDLL) -> bool:
    """Give up, by Landlock, every right to open, make, rename or remove files; returns whether the kernel has it.

    Source: linux/landlock.h, version 1 of its interface: 13 rights to files and folders.
    """
    every_right = ctypes.c_uint64((1 << 13) - 1)
    rules = kernel.syscall(444, ctypes.byref(every_right), ctypes.c_size_t(8), 0)  # landlock_create_ruleset
    return bool(rules >= 0 and kernel.syscall(446, rules, 0) == 0)  # landlock_restrict_self


def write(content: Any) -> bytes:
    """A file of torch.save, read once to see that it can be."""
    result = io.BytesIO()
    torch.save(content, result)
    torch.load(io.BytesIO(result.getvalue()), weights_only=True)
    return result.getvalue()


def main() -> int:
    """Read, make plain, write."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")  # a pipe, which no limit of files concerns
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the file's code prints is no result
    source = io.BytesIO(sys.stdin.buffer.read())
    write(None)  # so that all that torch imports late is there before the folders are gone
    for encoding in ("ascii", "latin1", "utf-8"):  # of strings and bytes in pickles; likewise
        codecs.lookup(encoding)
    isolate()
    start = source.getvalue()[:256]
    if start[:2] == b"PK" or TORCH_MAGIC in start:
        pickling = ModuleType("pickling")
        pickling.__dict__.update(Unpickler=Unpickler, load=pickle.load)
        content = torch.load(source, map_location="cpu", weights_only=False, pickle_module=pickling)
    else:
        content = Unpickler(source, encoding="latin1").load()
    output.write(write(plain(content, limit=len(source.getvalue()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
