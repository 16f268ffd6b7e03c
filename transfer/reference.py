"""The published procedure of fitting the regularisation path, by scikit-learn, kept as an oracle.

linusericsson/ssl-transfer, linear.py: one estimator with a warm start and at most 100 iterations per fit, from the
weakest decay on; the final fit starts where the strongest one ended, and each of several binary problems where the one
before ended. Most fits at weak decays do not converge, which the reference does not say.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from transfer.decay_path import MAX_ITERATIONS, DecayPath
from transfer.metrics import Labels, Scores

SOLVER = "lbfgs"
TOLERANCE = 1e-4  # scikit-learn's default, on the largest entry of the gradient

Matrix = npt.NDArray[np.floating]


class Reference:
    """scikit-learn's estimator, which remembers its last fit and starts the next one from there."""

    def __init__(self, max_iterations: int = MAX_ITERATIONS):
        self._max_iterations = max_iterations
        self._model = self._fresh()

    def fit_path(self, features: Matrix, targets: Labels, weight_decays: Sequence[float]) -> DecayPath:
        """Fit every weight decay in the order given; see `transfer.decay_path.fit_path` for the arguments.

        Raises:
            ValueError: features that are not finite.
        """
        columns = targets.T if targets.ndim == 2 else targets[None]
        fits = [[self._fit(features, column, decay) for column in columns] for decay in weight_decays]
        coefficients, intercepts, iterations, converged = (
            np.array([[fit[part] for fit in row] for row in fits]) for part in range(4)
        )
        certified = [
            [certify(features, column, fit[0], fit[1], decay) for column, fit in zip(columns, row, strict=True)]
            for decay, row in zip(weight_decays, fits, strict=True)
        ]
        objectives, gradient_norms = np.moveaxis(np.array(certified), -1, 0)
        return DecayPath(
            weight_decays=np.asarray(weight_decays, dtype=np.float64),
            coefficients=coefficients,
            intercepts=intercepts,
            objectives=objectives,
            gradient_norms=gradient_norms,
            iterations=iterations.sum(axis=1),
            converged=converged,
        )

    def _fresh(self) -> LogisticRegression:
        return LogisticRegression(solver=SOLVER, max_iter=self._max_iterations, warm_start=True)

    def _fit(self, features: Matrix, targets: Labels, decay: float) -> tuple[Matrix, Matrix, int, bool]:
        """Coefficients (K, D), intercepts (K,), iterations, and whether they were enough."""
        kept = targets >= 0
        features, targets = features[kept], targets[kept]
        num_outputs = 1 if targets.max() == 1 else targets.max() + 1
        if hasattr(self._model, "coef_") and self._model.coef_.shape != (num_outputs, features.shape[1]):
            self._model = self._fresh()  # a fold lacked a class
        # the tolerance was meant for the sum of the losses, and scikit-learn applies it to their mean
        self._model.set_params(C=1 / decay, tol=TOLERANCE / len(targets))
        converged = self._run(features, targets)
        return self._model.coef_.copy(), self._model.intercept_.copy(), int(self._model.n_iter_.max()), converged

    def _run(self, features: Matrix, targets: Labels) -> bool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._model.fit(features, targets)
        stopped = [warning for warning in caught if issubclass(warning.category, ConvergenceWarning)]
        for warning in caught:
            if warning not in stopped:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return not stopped


def certify(
    features: Matrix, targets: Labels, weights: Matrix, intercepts: Matrix, decay: float
) -> tuple[float, float]:
    """Objective of a fit, and the norm of its gradient over that at zero coefficients.

    Args:
        features: (N, D).
        targets: classes, (N,); -1 leaves the row out.
        weights: (K, D); K is 1 if there are two classes.
        intercepts: (K,).
        decay: weight decay.
    """
    kept = targets >= 0
    features, targets = features[kept], targets[kept]
    one_hot = (targets[:, None] == (np.arange(len(weights)) if len(weights) > 1 else 1)).astype(np.float64)
    logits = features @ weights.T + intercepts
    loss, residuals = _cross_entropy(logits, one_hot)
    gradient = residuals.T @ features + decay * weights
    at_zero = (one_hot.mean(axis=0) - one_hot).T @ features
    squares = np.square(gradient).sum() + np.square(residuals.sum(axis=0)).sum()
    return loss + decay / 2 * float(np.square(weights).sum()), float(np.sqrt(squares) / np.linalg.norm(at_zero))


def _cross_entropy(logits: Scores, one_hot: Scores) -> tuple[float, Scores]:
    """Sum over the examples, and its derivative by the logits; a single column is the logit of the class 1."""
    is_binary = logits.shape[1] == 1
    log_total = np.logaddexp(0, logits) if is_binary else np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return float(log_total.sum() - (one_hot * logits).sum()), np.exp(logits - log_total) - one_hot
