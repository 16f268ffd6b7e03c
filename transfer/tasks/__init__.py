"""Labelled data sets to evaluate on: one file each, found by its file name.

A file holds ``KNN``, a tuple of `Neighbours`, and ``load(root)``, which returns the training and test splits. To add a
data set, add a file.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import NamedTuple

from converters.errors import unknown


class Neighbours(NamedTuple):
    """A setting of the k-NN classifier.

    Attributes:
        k: number of neighbours.
        temperature: of the weights exp(similarity / temperature); None for a majority vote.
    """

    k: int
    temperature: float | None


def names() -> list[str]:
    """Every task: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The module of a task.

    Raises:
        InputError: there is none of that name.
    """
    if name not in names():
        raise unknown("data set", name, names())
    return importlib.import_module(f"{__name__}.{name}")
