"""Files of weights as their origins wrote them: nested dicts of tensors and plain values, read without running code."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from converters.arrays import STAND_INS, Array, load_arrays
from converters.checkpoint import read_safetensors
from converters.errors import InputError, printable

UNPICKLE_TIMEOUT_S = 600

# How deep a file may nest; the deepest known, VISSL's, has seven levels.
_DEEPEST = 20

# More than any checkpoint has; a list that holds another list many times over can stand for any number.
_MOST_VALUES = 1_000_000


def read(path: Path, *, unsafe_pickle: bool = False) -> dict[str, Any]:
    """What a file of weights holds: safetensors, PyTorch's formats, or a pickle of NumPy arrays.

    Args:
        path: the file.
        unsafe_pickle: let a file that needs it run its own code, in a child process that has no more than the file.

    Returns:
        Nested dicts and lists of tensors and plain values, tensors on the CPU. A safetensors file's metadata stands
        under ``"__metadata__"``, as in its header.

    Raises:
        InputError: the file is missing, truncated, claims more than it holds, is no file of weights, or needs
            unpickling and `unsafe_pickle` is not set.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"cannot read {path}: it is no file; name a file of weights")
        with path.open("rb") as file:
            content = _read(path, file, unsafe_pickle)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {path} not found; name a file of weights") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; name a file of weights") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no state dict but {type(content).__name__}; save model.state_dict()")
    plain: dict[str, Any] = _Plain(path, size).of(content)
    return plain


def tensors(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested dicts, by its path with dots between."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from tensors(value, f"{prefix}{key}.")


def _read(path: Path, file: BinaryIO, unsafe_pickle: bool) -> Any:
    start = file.read(9)
    file.seek(0)
    if start[:4] == b"PK\x03\x04":
        _check_archive(path, file)
    elif start[8:9] == b"{":
        found, metadata = read_safetensors(path)
        return {**found, "__metadata__": metadata}
    elif start[:1] != b"\x80":  # the first byte of every pickle that is not older than protocol 2
        raise InputError(
            f"{path} is no file of weights: expected safetensors, a file of torch.save or a pickle, got "
            f"{'an empty file' if not start else f'one that begins with {start!r}'}"
        )
    try:
        return _read_pickle(file)
    except Exception as error:  # a damaged pickle can raise anything
        refused = _refused(error)
        if refused is None or _is_cut(file):
            raise InputError(f"{path} is truncated or damaged ({_one_line(error)}); fetch or write it again") from error
        if not unsafe_pickle:
            raise InputError(
                f"{path} holds {refused}, which only unpickling can load; a pickle can run any code as you, so only if "
                "you trust its origin: --unsafe-pickle reads it in a child process"
            ) from error
    return _unpickle(path, file)


def _is_cut(file: BinaryIO) -> bool:
    """Whether the end of a file cut the name short at which reading it failed."""
    position = file.tell()
    if _is_torch(file):
        return position >= os.fstat(file.fileno()).st_size
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"."  # with which a pickle ends


def _refused(error: Exception) -> str | None:
    """What of a pickle was not loaded since it could run code; None if the error is another one."""
    name = re.search(r"GLOBAL ([^\s.]+(?:\.[^\s.]+)*)", str(error))
    operand = re.search(r"Unsupported operand (\d+)", str(error))
    if name is not None:
        return printable(name[1], 160)
    return f"pickle's instruction {operand[1]}" if operand else None


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Refuse archives that unpack to more than they are, or that torch.save did not write."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            fits = sum(entry.file_size for entry in entries) <= os.fstat(file.fileno()).st_size
            damaged = archive.testzip() if stored and fits else None  # torch does not look at the checksums
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path} is truncated or damaged ({_one_line(error)}); fetch or write it again") from error
    names = [entry.filename for entry in entries]
    if not stored:
        raise InputError(f"{path} is a compressed archive, which torch.save never writes; unpack it first")
    if not fits:
        raise InputError(f"{path} claims more bytes than it has; it is damaged or made to fill the memory")
    if damaged is not None:
        raise InputError(f"{path} is damaged: {printable(damaged)} has another checksum; fetch or write it again")
    if any(name.endswith("/constants.pkl") for name in names):
        raise InputError(f"{path} is a TorchScript archive; load it with torch.jit and save its state_dict()")
    if not any(name.endswith("/data.pkl") for name in names):
        raise InputError(f"{path} is an archive without data.pkl, so not a file of torch.save; unpack it first")
    file.seek(0)


def _read_pickle(file: BinaryIO) -> Any:
    if not _is_torch(file):
        return load_arrays(file)
    stand_ins: list[Any] = [Array, *((stand_in, name) for name, stand_in in STAND_INS.items())]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on protocols and layouts: what matters is an error here
        return torch.load(file, map_location="cpu", weights_only=True)


def _is_torch(file: BinaryIO) -> bool:
    """Whether torch.save wrote a file: a zip archive, and before 1.6 a stream that begins with its magic number."""
    file.seek(0)
    start = file.read(256)
    file.seek(0)
    return start[:2] == b"PK" or _TORCH_MAGIC in start


_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def _unpickle(path: Path, file: BinaryIO) -> Any:
    """Load by the file's own code, in a child that gets the file's bytes, an empty folder and no environment."""
    file.seek(0)
    script = Path(__file__).with_name("unpickle.py")
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-I", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        ) as child,
    ):
        try:
            output, errors = child.communicate(file.read(), timeout=UNPICKLE_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            took = f"unpickling took over {UNPICKLE_TIMEOUT_S} s; is it what it claims?"
            raise InputError(f"{path}: {took}") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # with everything that it may have started
    if child.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        reason = printable(lines[-1]) if lines else f"exit code {child.returncode}"
        raise InputError(f"{path} could not be unpickled ({reason}); install what it names, or fetch it again")
    try:
        return torch.load(io.BytesIO(output), map_location="cpu", weights_only=True)
    except Exception as error:  # the child ran foreign code: it may have written anything
        raise InputError(f"{path}: unpickling handed back no plain tensors ({_one_line(error)})") from error


class _Plain:
    """Makes what a file holds plain: dicts with text for keys, lists, tensors, numbers, text, and nothing else.

    Args:
        path: of the file, for errors.
        size: of the file in bytes.
    """

    def __init__(self, path: Path, size: int):
        self._path, self._size = path, size
        self._left = _MOST_VALUES

    def of(self, value: Any, name: str = "", depth: int = 0) -> Any:
        """The plain form of a value.

        Raises:
            InputError: it nests too deep, unfolds to too much, has two keys of one text, or claims what it has not.
        """
        self._left -= 1
        if depth > _DEEPEST:
            raise InputError(f"{self._path} nests deeper than {_DEEPEST} levels; it is no checkpoint")
        if self._left < 0:
            raise InputError(f"{self._path} unfolds to more than {_MOST_VALUES} values; it is no checkpoint")
        if isinstance(value, Mapping):
            plain = {str(key): self.of(item, f"{name}{key}.", depth + 1) for key, item in value.items()}
            if len(plain) < len(value):
                twice = next(key for key, count in Counter(map(str, value)).items() if count > 1)
                raise InputError(f"{self._path} has two keys '{printable(twice)}' in one dict; save it with other keys")
            return plain
        if isinstance(value, list | tuple):
            return [self.of(item, f"{name}{i}.", depth + 1) for i, item in enumerate(value)]
        if isinstance(value, Array):
            return f"an array of {printable(value.code)}" if value.values is None else torch.from_numpy(value.values)
        if isinstance(value, Tensor):
            return self._tensor(value.detach(), name.rstrip("."))
        known = value is None or isinstance(value, str | int | float)
        return value if known else f"an object of {type(value).__module__}.{type(value).__qualname__}"

    def _tensor(self, tensor: Tensor, name: str) -> Any:
        if tensor.layout != torch.strided or tensor.is_quantized:
            return f"a tensor in the layout {tensor.layout}"
        if tensor.device.type != "cpu":
            raise InputError(
                f"{self._path}: {printable(name)} is a {tensor.device} tensor, without values; save the weights"
            )
        # an expanded tensor claims any size at the price of one number
        claimed = tensor.numel() * tensor.element_size()
        if claimed > self._size:
            raise InputError(
                f"{self._path}: {printable(name)} claims {claimed} bytes, and the file has {self._size}; it is "
                "damaged or made to fill the memory"
            )
        return tensor


def _one_line(error: Exception) -> str:
    return printable(str(error), 160) or type(error).__name__
