"""L2 logistic regression on frozen features, its weight decay chosen on a validation split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from converters.errors import InputError, unknown
from transfer.decay_path import MAX_ITERATIONS, DecayPath, fit_path
from transfer.metrics import Labels, Scores
from transfer.reference import Reference

Features = npt.NDArray[np.float32]

# Ericsson et al. 2021 (linusericsson/ssl-transfer, linear.py): 45 values, a factor of 10^(1/4) apart.
WEIGHT_DECAYS = tuple(float(value) for value in np.logspace(-6, 5, 45))
VALIDATION_SHARE = 0.2
VALIDATION_SEED = 0
# our path, or the published procedure, kept as an oracle
SOLVERS = ("path", "sklearn")


@dataclass(frozen=True)
class Examples:
    """Features with their labels.

    Attributes:
        features: (N, D).
        labels: classes, (N,); or 1 present, 0 absent, -1 left out, (N, C): one binary problem per class.
    """

    features: Features
    labels: Labels

    def rows(self, rows: npt.NDArray[np.integer]) -> "Examples":
        """Some of them."""
        return Examples(self.features[rows], self.labels[rows])

    def __add__(self, other: "Examples") -> "Examples":
        features, labels = (self.features, other.features), (self.labels, other.labels)
        return Examples(np.concatenate(features), np.concatenate(labels))


@dataclass(frozen=True)
class Solver:
    """How the fits are computed.

    Attributes:
        name: ``"path"``, or ``"sklearn"``: the reference's procedure, which leaves many fits unconverged.
        penalty: factor on every decay; 0.5 makes a binary problem the reference's two-class softmax, whose two rows of
            weights share the penalty.
        max_iterations: of each fit.
        memory: bytes that ``"path"`` may allocate; None for no bound.
        device: where ``"path"`` computes.

    Raises:
        InputError: the name is unknown.
    """

    name: str = SOLVERS[0]
    penalty: float = 1.0
    max_iterations: int = MAX_ITERATIONS
    memory: int | None = None
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.name not in SOLVERS:
            raise unknown("solver", self.name, SOLVERS)


@dataclass(frozen=True)
class Certificate:
    """How far fits came.

    Attributes:
        gradient_norms: of the objective, over that at zero coefficients; of several binary problems the largest, (P,).
        iterations: of several binary problems all together, (P,).
        converged: whether every problem met the solver's tolerance, (P,).
    """

    gradient_norms: npt.NDArray[np.float64]
    iterations: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fit:
    """Outcome of the selection and the final fit.

    Attributes:
        weight_decay: the chosen one.
        validation_scores: the metric under every decay, (45,).
        sweep: certificate of the fits under all decays.
        final: certificate of the fit on training and validation examples, of one entry.
        logits: of the test examples, (M, C); -inf for a class without training example.
    """

    weight_decay: float
    validation_scores: npt.NDArray[np.float64]
    sweep: Certificate
    final: Certificate
    logits: Scores


def select_and_fit(
    train: Examples,
    val: Examples | None,
    test: Features,
    metric: Callable[[Labels, Scores], float],
    solver: Solver = Solver(),
) -> Fit:
    """Choose the weight decay on validation examples, refit on training and validation examples, and score the test's.

    Minimises sum CE(X w + b, y) + wd/2 |w|^2 with an unpenalised intercept (Ericsson et al. 2021). Of equally good
    decays the smallest is chosen, which is the reference's choice.

    Args:
        train: training examples.
        val: validation examples; None for a seeded fifth of the training examples.
        test: features, (M, D).
        metric: of labels and logits, (N, C); the higher the better.
        solver: how the fits are computed.

    Raises:
        InputError: features are not finite, or the solver's memory does not suffice.
    """
    everything = train if val is None else train + val
    if val is None:
        fitted, held_out = validation_split(len(train.labels))
        train, val = train.rows(fitted), train.rows(held_out)
    fits = _Fits(solver, num_classes=int(everything.labels.max()) + 1)
    sweep = fits.sweep(train)
    scores = np.array([metric(val.labels, sweep.logits(index, val.features)) for index in range(len(WEIGHT_DECAYS))])
    best = int(np.argmax(scores))  # the first, so the smallest decay
    final = fits.final(everything, best)
    return Fit(WEIGHT_DECAYS[best], scores, sweep.certificate(), final.certificate(1), final.logits(0, test))


def fit_one(train: Examples, val: Examples | None, test: Features, index: int, solver: Solver) -> Scores:
    """Fit training and validation examples under one weight decay, and score the test's.

    Args:
        train: training examples.
        val: validation examples, if any.
        test: features, (M, D).
        index: of the decay in `WEIGHT_DECAYS`.
        solver: how the fit is computed; ``"sklearn"`` starts from zero.

    Returns:
        Logits, as `Fit` has them.

    Raises:
        InputError: as `select_and_fit`.
    """
    everything = train if val is None else train + val
    return _Fits(solver, num_classes=int(everything.labels.max()) + 1).final(everything, index).logits(0, test)


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


@dataclass(frozen=True)
class Classifiers:
    """The fits of a path as classifiers.

    Attributes:
        path: the fits.
        present: the classes that occurred, in order; None for binary problems, one per class.
        num_classes: those that did not occur included.
    """

    path: DecayPath
    present: Labels | None
    num_classes: int

    def logits(self, index: int, features: Features) -> Scores:
        """Of every class under one decay, (M, C); -inf for a class that did not occur."""
        outputs = self.path.logits(index, features)
        if self.present is None:
            return outputs[:, :, 0]
        outputs = outputs[:, 0]
        if outputs.shape[1] == 1:  # two classes: the logit of the second
            outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
        logits = np.full((len(features), self.num_classes), -np.inf, dtype=outputs.dtype)
        logits[:, self.present] = outputs
        return logits

    def certificate(self, num: int | None = None) -> Certificate:
        """Of the first fits, or of all."""
        norms, unmet = self.path.gradient_norms[:num], ~self.path.converged[:num]
        return Certificate(norms.max(axis=1), self.path.iterations[:num], unmet.sum(axis=1) == 0)


class _Fits:
    """The fits of one selection, by one solver."""

    def __init__(self, solver: Solver, num_classes: int):
        self._solver, self._num_classes = solver, num_classes
        self._reference = Reference(solver.max_iterations) if solver.name == "sklearn" else None

    def sweep(self, examples: Examples) -> Classifiers:
        """Under all decays."""
        return self._fit(examples, WEIGHT_DECAYS, self._solver.max_iterations)

    def final(self, examples: Examples, best: int) -> Classifiers:
        """Under the best decay, which is the first of the fits."""
        if self._reference:
            return self._fit(examples, WEIGHT_DECAYS[best : best + 1], self._solver.max_iterations)
        # along a few stronger decays it is there sooner, and it has time to converge
        return self._fit(examples, WEIGHT_DECAYS[best::4], 10 * self._solver.max_iterations)

    def _fit(self, examples: Examples, decays: tuple[float, ...], max_iterations: int) -> Classifiers:
        present, targets = None, examples.labels
        if targets.ndim == 1:
            present, targets = np.unique(targets, return_inverse=True)  # a class may be missing in a fold
        decays = tuple(self._solver.penalty * decay for decay in decays)
        try:
            path = self._path(examples.features, targets, decays, max_iterations)
        except ValueError as error:
            raise InputError(str(error)) from error
        return Classifiers(path, present, self._num_classes if present is not None else targets.shape[1])

    def _path(self, features: Features, targets: Labels, decays: tuple[float, ...], max_iterations: int) -> DecayPath:
        if self._reference:
            return self._reference.fit_path(features, targets, decays)
        memory, device = self._solver.memory, self._solver.device
        return fit_path(features, targets, decays, max_iterations=max_iterations, memory=memory, device=device)
