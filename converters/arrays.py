"""NumPy's arrays in pickles, rebuilt from checked parts; NumPy's own functions for that trust whatever they are given.

A damaged or hostile state makes `numpy.dtype.__setstate__` crash the interpreter, so none of NumPy's is ever called.
"""

import math
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

_CODES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


class ArrayType:
    """Stands for `numpy.ndarray`, as an argument of what follows."""


class DType:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: Any, *_: Any):
        self.code = code.decode("latin1") if isinstance(code, bytes) else str(code)
        self.order = "="
        self.compound = False

    def __setstate__(self, state: Any) -> None:
        if (
            not isinstance(state, tuple)
            or len(state) < 5
            or state[1] not in ("<", ">", "=", "|", b"<", b">", b"=", b"|")
        ):
            raise pickle.UnpicklingError("an array's type is damaged")
        self.order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.compound = state[2:5] != (None, None, None)

    def numpy(self) -> np.dtype[Any] | None:
        """The type, if it is one of plain numbers."""
        return None if self.compound or self.code not in _CODES else np.dtype(self.order + self.code)


class Array:
    """Stands for an array.

    Attributes:
        values: its numbers; None if it holds something else.
        code: NumPy's code of what it holds.
    """

    def __init__(self) -> None:
        self.values: np.ndarray[Any, Any] | None = None
        self.code = "nothing"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array's state is damaged")
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype, shape, "F" if fortran is True else "C")

    def fill(self, content: Any, dtype: Any, shape: Any, order: str) -> None:
        """Take over the numbers.

        Raises:
            pickle.UnpicklingError: they do not fill the shape exactly.
        """
        if not isinstance(dtype, DType):
            raise pickle.UnpicklingError("an array's type is damaged")
        self.code, kind = dtype.code, dtype.numpy()
        if kind is None:
            return
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2's bytes
        sizes = shape if isinstance(shape, tuple) else (-1,)
        if not all(type(size) is int and size >= 0 for size in sizes) or not isinstance(content, bytes | bytearray):
            raise pickle.UnpicklingError("an array's shape is damaged")
        if math.prod(sizes) * kind.itemsize != len(content):
            raise pickle.UnpicklingError(f"an array claims the shape {sizes}, and has {len(content)} bytes")
        flat = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
        self.values = flat.reshape(sizes, order="F" if order == "F" else "C")


def _reconstruct(*_: Any) -> Array:
    return Array()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.fill(content, dtype, shape, order)
    return array


def _scalar(dtype: Any, content: Any = b"") -> Any:
    array = Array()
    array.fill(content, dtype, (), "C")
    return None if array.values is None else array.values.item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes.

    Raises:
        pickle.UnpicklingError: it does not write them so.
    """
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes are damaged")
    return text.encode("latin1")


# both names of NumPy's core, since version 2 moved it
STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": DType,
    "numpy.ndarray": ArrayType,
    "_codecs.encode": _encode,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
}


class _Unpickler(pickle._Unpickler):  # in Python: the one in C gives a large memo index all memory
    """Finds the stand-ins only: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in STAND_INS:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name} is no part of an array")
        return STAND_INS[f"{module}.{name}"]


def load_arrays(file: BinaryIO, encoding: str = "latin1") -> Any:
    """A pickle of plain values and arrays, the arrays as `Array`.

    Args:
        file: open for reading.
        encoding: of Python 2's strings, see `pickle.Unpickler`.

    Raises:
        pickle.UnpicklingError: it holds anything else; a damaged pickle can raise other errors.
    """
    return _Unpickler(file, encoding=encoding).load()
