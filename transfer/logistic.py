"""L2 logistic regression on frozen features, its weight decay chosen on a validation split."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from converters.errors import InputError, unknown
from transfer.decay_path import MAX_ITERATIONS, fit_path

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

# Ericsson et al. 2021 (linusericsson/ssl-transfer, linear.py): 45 values, a factor of 10^(1/4) apart.
WEIGHT_DECAYS = tuple(float(value) for value in np.logspace(-6, 5, 45))
VALIDATION_SHARE = 0.2
VALIDATION_SEED = 0
# our path, or the published procedure, kept as an oracle
SOLVERS = ("path", "sklearn")
# on the largest entry of the mean loss's gradient, scikit-learn's default.
SKLEARN_SOLVER = "lbfgs"
SKLEARN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Fit:
    """Outcome of the selection and the final fit.

    Attributes:
        weight_decay: the chosen one.
        validation_accuracy: with it, in 0..1.
        num_unconverged: fits of the sweep that reached `MAX_ITERATIONS`.
        converged: whether the final fit did not.
        predicted: classes of the test examples, (M,).
    """

    weight_decay: float
    validation_accuracy: float
    num_unconverged: int
    converged: bool
    predicted: Labels


def fit_and_predict(
    train: Features,
    labels: Labels,
    test: Features,
    *,
    solver: str = SOLVERS[0],
    max_iterations: int = MAX_ITERATIONS,
    device: torch.device | str = "cpu",
) -> Fit:
    """Choose the weight decay on a fifth of the training examples, refit on all of them, and predict the test examples.

    Minimises sum CE(X w + b, y) + wd/2 |w|^2 with an unpenalised intercept (Ericsson et al. 2021). Of equally good
    decays the smallest is chosen, which is the reference's choice.

    Args:
        train: features, (N, D).
        labels: classes, (N,).
        test: features, (M, D).
        solver: ``"path"``, or ``"sklearn"``: the reference's procedure, which leaves many fits unconverged.
        max_iterations: of each fit.
        device: where ``"path"`` computes.

    Raises:
        InputError: the solver is unknown, or features are not finite.
    """
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    classes, targets = np.unique(labels, return_inverse=True)
    fitted, held_out = validation_split(len(labels))
    sweep = _sweep_sklearn if solver == "sklearn" else partial(_sweep_path, device=device)
    try:
        predicted, converged = sweep(train[fitted], targets[fitted], train[held_out], WEIGHT_DECAYS, max_iterations)
        scores = (predicted == targets[held_out]).mean(axis=1)
        best = int(np.argmax(scores))  # the first, so the smallest decay
        # the final fit has time to converge; along a few stronger decays it is there sooner
        final = WEIGHT_DECAYS[best::4] if solver == "path" else WEIGHT_DECAYS[best : best + 1]
        outcome, final_converged = sweep(train, targets, test, final, 10 * max_iterations)
    except ValueError as error:
        raise InputError(str(error)) from error
    return Fit(
        WEIGHT_DECAYS[best], float(scores[best]), int((~converged).sum()), bool(final_converged[0]), classes[outcome[0]]
    )


def _sweep_path(
    train: Features,
    targets: Labels,
    test: Features,
    decays: Sequence[float],
    max_iterations: int,
    *,
    device: torch.device | str,
) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Classes of the test examples under every decay, (P, M), and whether each fit converged, (P,)."""
    present, found = np.unique(targets, return_inverse=True)  # a class may be missing in a fold
    path = fit_path(train, found, decays, max_iterations=max_iterations, device=device)
    logits = (path.logits(index, test)[:, 0] for index in range(len(decays)))
    rows = [(x[:, 0] > 0).astype(np.int64) if x.shape[1] == 1 else x.argmax(axis=1) for x in logits]
    return present[np.stack(rows)], path.converged[:, 0]


def _sweep_sklearn(
    train: Features, targets: Labels, test: Features, decays: Sequence[float], max_iterations: int
) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """The same by scikit-learn, in the reference's order: from the weakest decay on, each from where the last ended."""
    model = LogisticRegression(
        solver=SKLEARN_SOLVER, tol=SKLEARN_TOLERANCE / len(targets), max_iter=max_iterations, warm_start=True
    )
    rows, converged = [], []
    for decay in decays:
        converged.append(_fit(model, train, targets, decay))
        rows.append(model.predict(test).astype(np.int64))
    return np.stack(rows), np.array(converged)


def validation_split(num_examples: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows to fit on and rows held out: NumPy's legacy generator seeded with 0, the first fifth is held out.

    Ericsson et al. 2021 (linusericsson/ssl-transfer, linear.py).

    Args:
        num_examples: N; floor(N / 5) of them are held out.
    """
    order = np.arange(num_examples)
    np.random.RandomState(VALIDATION_SEED).shuffle(order)
    num_held_out = int(np.floor(VALIDATION_SHARE * num_examples))
    return order[num_held_out:], order[:num_held_out]


def _fit(model: LogisticRegression, features: Features, labels: Labels, decay: float) -> bool:
    """Fit in place; returns whether it converged."""
    model.set_params(C=1 / decay)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features, labels)
    stopped = [warning for warning in caught if _says_not_converged(warning)]
    for warning in caught:
        # a line search that had to be repeated says nothing about the end; SciPy's category for it is private
        if warning not in stopped and warning.category.__name__ != "LineSearchWarning":
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return not stopped


def _says_not_converged(warning: warnings.WarningMessage) -> bool:
    """Out of iterations, or no step left that improves."""
    return issubclass(warning.category, ConvergenceWarning) or "Line Search failed" in str(warning.message)
