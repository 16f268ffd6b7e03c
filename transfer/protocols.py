"""Protocols of linear transfer: where the published code and the text of the papers differ, and what a hash covers."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from transfer import decay_path, logistic, reference
from transfer.metrics import Labels


@dataclass(frozen=True)
class Protocol:
    """How images become a number, apart from the solver.

    Attributes:
        name: of the protocol.
        size: side of the images that the backbone sees, in pixels; None for the size of its training views.
        strict_splits: Caltech-101 by the papers' text, 30 different images of each class, instead of by the lists that
            come with the code.
        difficult_absent: an object that is marked "difficult" counts as absent (the code) instead of not at all (the
            VOC devkit).
        reference_curve: see `transfer.metrics.mean_average_precision`.
        binary_penalty: on a class's binary problem; the code fits a softmax of two classes, which halves it.
    """

    name: str
    size: int | None
    strict_splits: bool
    difficult_absent: bool
    reference_curve: bool
    binary_penalty: float

    def labels(self, labels: Labels) -> Labels:
        """Labels as the protocol counts them: 1, 0 and, left out, -1 of a multi-label set; classes stay as they are."""
        return np.where(labels == -1, 0, labels) if self.difficult_absent and labels.ndim == 2 else labels


# linusericsson/ssl-transfer, linear.py and datasets/, with its quirks, but for the labels of SUN397: see its task
ERICSSON = Protocol("ericsson", 224, False, True, True, 0.5)
# the text of Ericsson et al. 2021 and of the data sets' papers
STRICT = Protocol("strict", 224, True, False, False, 1.0)
# the same at the size of the backbone's training views: for small images, and for backbones of such
NATIVE = Protocol("native", None, True, False, False, 1.0)
PROTOCOLS = {protocol.name: protocol for protocol in (ERICSSON, STRICT, NATIVE)}


def settings(protocol: Protocol, solver: str) -> dict[str, Any]:
    """All that a number of logistic regression depends on, apart from data, checkpoint and versions."""
    return {
        **asdict(protocol),
        "preprocessing": "short side bicubic, centre crop, the checkpoint's mean and std; controls: pixels at 32 px, "
        "random initialisation with batch norm calibrated on training images, at the images' own size if none is set",
        "features": "pooled, neither normalised nor standardised",
        "objective": "sum of cross-entropy + wd/2 |w|^2, intercept unpenalised",
        "weight_decays": [f"{decay:.6g}" for decay in logistic.WEIGHT_DECAYS],
        "ties": "to the smallest decay",
        "validation": [logistic.VALIDATION_SHARE, logistic.VALIDATION_SEED, "or as given"],
        **_SOLVERS[solver],
    }


_SOLVERS = {
    "path": {
        "solver": ["L-BFGS along the path", decay_path.TOLERANCE, decay_path.MAX_ITERATIONS],
        "order": "from the strongest decay on; refit likewise, ten times the iterations",
    },
    "sklearn": {
        "solver": [reference.SOLVER, reference.TOLERANCE, decay_path.MAX_ITERATIONS],
        "order": "from the weakest decay on, warm start; refit from where the strongest ended",
    },
}
