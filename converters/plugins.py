"""Packages whose modules are found by file name: to add a method, a data set or an origin, add a file."""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

from converters.errors import unknown


def plugins(package: str, kind: str) -> tuple[Callable[[], list[str]], Callable[[str], ModuleType]]:
    """Two functions: the names of a package's modules, and the module of a name.

    Args:
        package: its dotted name.
        kind: what a module of it is, for the `InputError` that the second function raises for an unknown name.
    """

    def names() -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))

    def find(name: str) -> ModuleType:
        if name not in names():
            raise unknown(kind, name, names())
        return importlib.import_module(f"{package}.{name}")

    return names, find
