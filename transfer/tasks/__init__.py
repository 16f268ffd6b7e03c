"""Labelled data sets to evaluate on: one file each, found by its file name.

A file holds ``KNN``, a tuple of `Neighbours`, and ``load(root)``, which returns the training and test splits. To add a
data set, add a file.
"""

from typing import NamedTuple

from converters.plugins import plugins


class Neighbours(NamedTuple):
    """A setting of the k-NN classifier.

    Attributes:
        k: number of neighbours.
        temperature: of the weights exp(similarity / temperature); None for a majority vote.
    """

    k: int
    temperature: float | None


names, find = plugins(__name__, "data set")
