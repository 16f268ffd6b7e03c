"""L2 logistic regression on frozen features, its weight decay chosen on a validation split."""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

# Ericsson et al. 2021 (linusericsson/ssl-transfer, linear.py): 45 values, a factor of 10^(1/4) apart.
WEIGHT_DECAYS = tuple(float(value) for value in np.logspace(-6, 5, 45))
VALIDATION_SHARE = 0.2
VALIDATION_SEED = 0
MAX_ITERATIONS = 100  # as the same reference; what does not converge until then is counted
# At tolerance 1e-5, 0.6 of L-BFGS's time for 2,200 x 512 features and 0.8 for 2,200 x 3,072 pixels (one run each).
SOLVER = "newton-cg"
TOLERANCE = 1e-4  # on the largest entry of the mean loss's gradient: the reference's, and scikit-learn's default
_SMALL = 10_000_000  # values


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


def fit_and_predict(train: Features, labels: Labels, test: Features, *, max_iterations: int = MAX_ITERATIONS) -> Fit:
    """Choose the weight decay on a fifth of the training examples, refit on all of them, and predict the test examples.

    Minimises sum CE(X w + b, y) + wd/2 |w|^2 with an unpenalised intercept (Ericsson et al. 2021), by scikit-learn's
    Newton-CG. The sweep goes from the strongest decay to the weakest, each fit starting from the one before. Of
    equally good decays the smallest is chosen, which is the reference's choice.

    Args:
        train: features, (N, D).
        labels: classes, (N,).
        test: features, (M, D).
        max_iterations: of each fit.
    """
    # second threads only wait for the first on matrices that fit its cache
    with threadpool_limits(1 if train.size < _SMALL else None):
        return _sweep(train, labels, test, max_iterations)


def _sweep(train: Features, labels: Labels, test: Features, max_iterations: int) -> Fit:
    train, test, scale = centre_and_scale(train, test)
    fitted, held_out = validation_split(len(labels))
    fitted_features, held_out_features = train[fitted], train[held_out]
    model = LogisticRegression(solver=SOLVER, tol=TOLERANCE, max_iter=max_iterations, warm_start=True)
    best_decay, best_accuracy, num_unconverged = WEIGHT_DECAYS[-1], -1.0, 0
    for decay in reversed(WEIGHT_DECAYS):
        num_unconverged += not _fit(model, fitted_features, labels[fitted], decay / scale**2)
        validation_accuracy = float(np.mean(model.predict(held_out_features) == labels[held_out]))
        if validation_accuracy >= best_accuracy:  # not strict: decays come in descending order
            best_decay, best_accuracy = decay, validation_accuracy
    final = LogisticRegression(solver=SOLVER, tol=TOLERANCE, max_iter=10 * max_iterations)
    converged = _fit(final, train, labels, best_decay / scale**2)
    return Fit(best_decay, best_accuracy, num_unconverged, converged, final.predict(test).astype(np.int64))


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


def centre_and_scale(train: Features, test: Features) -> tuple[Features, Features, float]:
    """Features about their training mean, and all of them divided by one number, so that they are of order 1.

    The intercept takes up the shift, and a weight decay divided by scale^2 the scale: the solution is the same. The
    solver's tolerance is on a gradient in the units of the features, and means the same for every backbone this way.

    Args:
        train: features, (N, D).
        test: features, (M, D).

    Returns:
        Both, and the number; 1 where the training features do not vary.
    """
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = train - mean
    scale = float(np.sqrt(np.mean(np.square(centred, dtype=np.float64)))) or 1.0
    return centred / np.float32(scale), (test - mean) / np.float32(scale), scale


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
