"""L2 logistic regression for many weight decays: the whole regularisation path, each fit warm from the ones before.

Minimises ``sum CE(X w + b, y) + wd/2 |w|^2`` with an unpenalised intercept, for one problem or for many on the same
features, by L-BFGS (Nocedal 1980) with three things that make the path cheap:

- the pairs of steps and gradient changes are kept from one decay to the next: of the Hessian, only the decay changes by
  a known amount, and with it every gradient change by that amount times the step (`transfer.lbfgs`);
- they start from the curvatures along the leading directions of the features and of the classes (`transfer.softmax`);
- the line search goes along the logits of the direction, which costs no product with the features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transfer.lbfgs import InverseHessian
from transfer.softmax import NUM_DIRECTIONS, Directions, Problems

TOLERANCE = 1e-3
MAX_ITERATIONS = 100  # per decay, as the reference (linusericsson/ssl-transfer, linear.py)

# Iterations of four paths together, at 6,000 to 9,000 x 512 features of a ResNet-18: 1111 with the values below.
_NUM_PAIRS = 60
_LEAST_PAIRS = 5  # when memory is short
# Of the last step along the path, in log decay. 1142 with 1. A parabola through three fits and a line search along the
# step were worse, both tried with the looser search of 0.9 below.
_EXTRAPOLATION = 0.8
# A fit that meets its tolerance goes on while a step leaves less than this of the gradient. Strong decays, whose fits
# scikit-learn finishes to rounding, take few such steps.
_WORTHWHILE = 0.3
# Wolfe's second condition, strict because an evaluation is cheap: 1399 with 0.9, 1144 with 0.5, 1135 with 0.1.
_SLOPE_LEFT = 0.3
_MAX_EVALUATIONS = 20  # of a line search
_ROWS = 1024  # of features that are turned into columns at once


@dataclass(frozen=True)
class DecayPath:
    """Fits along the path, in the order in which the decays were given.

    P decays, Q problems, K outputs of each (classes; 1 if binary), D features.

    Attributes:
        weight_decays: (P,).
        coefficients: for the features as they were given, (P, Q, K, D); 0 for an output that a problem does not have.
        intercepts: (P, Q, K); -inf for an output that a problem does not have, which is thus never the largest.
        objectives: the minimised sums, (P, Q).
        gradient_norms: of the objective, over that at zero coefficients, (P, Q): the certificate of each fit.
        iterations: of all groups of problems together, (P,).
        converged: whether each fit met its tolerance, (P, Q).
    """

    weight_decays: npt.NDArray[np.float64]
    coefficients: npt.NDArray[np.floating]
    intercepts: npt.NDArray[np.floating]
    objectives: npt.NDArray[np.float64]
    gradient_norms: npt.NDArray[np.float64]
    iterations: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]

    def logits(self, index: int, features: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Logits of features under one decay, (N, Q, K)."""
        weights = self.coefficients[index]
        products = features @ weights.reshape(-1, weights.shape[-1]).T
        outputs: npt.NDArray[np.floating] = products.reshape(len(features), *weights.shape[:2]) + self.intercepts[index]
        return outputs


def fit_path(
    features: npt.NDArray[np.floating],
    targets: npt.NDArray[np.integer],
    weight_decays: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    memory: int | None = None,
    device: torch.device | str = "cpu",
) -> DecayPath:
    """Fit every weight decay.

    A fit has converged when the norm of its gradient is at most `tolerance` times that at zero coefficients, and what a
    Newton step would still gain at most `tolerance` times the objective, or times 1e-4 per example if that is more.

    Args:
        features: (N, D), float32 or float64; the fit is computed in their precision.
        targets: classes 0..K-1, each of which occurs, (N,); or a column of them per problem, (N, Q), each with classes
            of its own, where -1 leaves the row out of the problem. Two classes are one binary problem, with one output.
        weight_decays: fitted from the largest to the smallest, whatever their order.
        tolerance: see above; for its default against the published sweep see tests/benchmarks/decay_path.py.
        max_iterations: per decay.
        memory: most bytes to allocate beside `features`, see `needed_memory`: problems are fitted in groups that stay
            below, with fewer pairs if need be.
        device: where to compute.

    Raises:
        ValueError: a feature that is not finite, a decay that is not positive, targets that are not as described,
            columns with two classes beside columns with more, or too little memory.
    """
    decays = np.asarray(weight_decays, dtype=np.float64)
    columns = targets[:, None] if targets.ndim == 1 else targets
    num_classes = _check(features, columns, decays)
    num_outputs = 1 if num_classes.max() == 2 else int(num_classes.max())
    num, dim = features.shape
    size = Size(num, dim, len(num_classes), num_outputs, len(decays), features.dtype.itemsize)
    group, num_pairs = _split(size, memory)
    rows = _Rows(features, device)
    path = _empty(decays, size, features.dtype)
    order = np.argsort(-decays, kind="stable")
    for start in range(0, len(num_classes), group):
        part = slice(start, start + group)
        classes = torch.from_numpy(np.ascontiguousarray(columns.T[part], dtype=np.int64)).to(device)
        problems = Problems(rows.features, classes, torch.from_numpy(num_classes[part]).to(device))
        descent = _Descent(problems, rows.directions, num_pairs, tolerance, max_iterations)
        for index in order:
            fit = descent.fit(float(decays[index]) / rows.scale**2)
            outputs = slice(fit.weights.shape[1])  # a group may have fewer
            path.coefficients[index, part, outputs], path.intercepts[index, part, outputs] = rows.back(
                fit.weights, problems.missing
            )
            path.objectives[index, part] = fit.objective
            path.gradient_norms[index, part] = fit.gradient_norm
            path.converged[index, part] = fit.converged
            path.iterations[index] += fit.iterations
    return path


def _check(
    features: npt.NDArray[np.floating], columns: npt.NDArray[np.integer], decays: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Classes of every column."""
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(f"{len(bad)} rows of features are not finite, the first is {bad[0]}; look at that image")
    if not (decays > 0).all():
        raise ValueError(f"expected positive weight decays, got {decays.min()}")
    if len(columns) != len(features):
        raise ValueError(f"expected one target for each of {len(features)} rows of features, got {len(columns)}")
    num_classes = np.array([_num_classes(column, index) for index, column in enumerate(columns.T)])
    if num_classes.min() == 2 < num_classes.max():
        raise ValueError(
            f"expected columns of two classes, or columns of more, got both: column {num_classes.argmin()} has 2, "
            f"column {num_classes.argmax()} has {num_classes.max()}; fit them in two calls"
        )
    return num_classes


def _num_classes(column: npt.NDArray[np.integer], index: int) -> int:
    occurring = np.unique(column[column != -1])
    if len(occurring) < 2 or not np.array_equal(occurring, np.arange(len(occurring))):
        raise ValueError(
            f"expected every class from 0 on to occur, at least two of them, in column {index} of the targets, "
            f"got {occurring[:10].tolist()}; leave it out"
        )
    return len(occurring)


@dataclass(frozen=True)
class Size:
    """Of a path: examples, features, problems, outputs of each, decays, and bytes of a number."""

    num_examples: int
    dim: int
    num_problems: int
    num_outputs: int
    num_decays: int
    itemsize: int


def needed_memory(size: Size, group: int, num_pairs: int) -> int:
    """Bytes that a path allocates beside the features, at most.

    With N examples, D features, K outputs, R leading directions (64), G problems in a group and M pairs, in numbers of
    the features' precision: one copy of the features, N (D + 1), and of 1,024 rows; what finds the directions,
    4 R (N + D); what is returned, decays x Q K (D + 1); and for every problem of a group K N for each of 9 arrays of
    logits, 4 N of 8 bytes for its targets, K (D + 1) for each of 2 M + 40 weights, and M^2 of 40 bytes. Besides, 8 MB
    for what the libraries keep.
    """
    num, dim = size.num_examples, size.dim + 1
    shared = (num + _ROWS) * dim + 4 * (NUM_DIRECTIONS + 2) * (num + dim)
    shared += size.num_decays * size.num_problems * size.num_outputs * dim
    each = size.num_outputs * (9 * num + (2 * num_pairs + 40) * dim)
    return (shared + group * each) * size.itemsize + group * (32 * num + 40 * num_pairs**2) + 8_000_000


def _split(size: Size, memory: int | None) -> tuple[int, int]:
    """Problems in a group, and pairs that are kept: as many as fit."""
    if memory is None:
        return size.num_problems, _NUM_PAIRS
    choices = [(group, _NUM_PAIRS) for group in range(size.num_problems, 0, -1)]
    choices += [(1, num_pairs) for num_pairs in range(_NUM_PAIRS - 1, _LEAST_PAIRS - 1, -1)]
    for group, num_pairs in choices:
        if needed_memory(size, group, num_pairs) <= memory:
            return group, num_pairs
    least = needed_memory(size, 1, _LEAST_PAIRS)
    raise ValueError(
        f"expected at least {least / 1e9:.3g} GB for {size.num_problems} problems with {size.num_outputs} outputs on "
        f"{size.num_examples} x {size.dim} features, got {memory / 1e9:.3g} GB; raise --solver-memory"
    )


def _empty(decays: npt.NDArray[np.float64], size: Size, dtype: np.dtype[np.floating]) -> DecayPath:
    shape = (size.num_decays, size.num_problems)
    return DecayPath(
        weight_decays=decays,
        coefficients=np.zeros((*shape, size.num_outputs, size.dim), dtype),
        intercepts=np.full((*shape, size.num_outputs), -np.inf, dtype),
        objectives=np.empty(shape),
        gradient_norms=np.empty(shape),
        iterations=np.zeros(size.num_decays, dtype=np.int64),
        converged=np.empty(shape, dtype=np.bool_),
    )


class _Rows:
    """Features about their mean, divided by one number, as columns above a row of ones."""

    def __init__(self, features: npt.NDArray[np.floating], device: torch.device | str):
        num, dim = features.shape
        mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
        columns = np.ones((dim + 1, num), features.dtype)
        for start in range(0, num, _ROWS):
            columns[:-1, start : start + _ROWS] = (features[start : start + _ROWS] - mean).T
        self.features, self._mean = torch.from_numpy(columns).to(device), torch.from_numpy(mean).to(device)
        centred = self.features[:-1]
        self.scale = float(torch.linalg.vector_norm(centred)) / centred.numel() ** 0.5 or 1.0
        centred /= self.scale
        self.directions = Directions(self.features)

    def back(self, weights: Tensor, missing: Tensor) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Coefficients (Q, K, D) and intercepts (Q, K) for the features as they were given."""
        coefficients = (weights[..., :-1] / self.scale).masked_fill_(missing, 0)
        intercepts = (weights[..., -1] - coefficients @ self._mean).masked_fill_(missing[..., 0], -torch.inf)
        return coefficients.cpu().numpy(), intercepts.cpu().numpy()


@dataclass(frozen=True)
class _Fit:
    weights: Tensor
    objective: npt.NDArray[np.float64]
    gradient_norm: npt.NDArray[np.float64]
    iterations: int
    converged: npt.NDArray[np.bool_]


@dataclass
class _Point:
    """Where a fit stands: weights (Q, K, D + 1), logits, objective, its gradient, and that in the logits."""

    weights: Tensor
    logits: Tensor
    objective: Tensor
    gradient: Tensor
    residuals: Tensor


class _Descent:
    """L-BFGS along the path; what it learns of the Hessian with one decay serves the next."""

    def __init__(
        self, problems: Problems, directions: Directions, num_pairs: int, tolerance: float, max_iterations: int
    ):
        self._problems, self._directions = problems, directions
        self._tolerance, self._max_iterations = tolerance, max_iterations
        self._weights = problems.start()
        self._before: Tensor | None = None
        self._penalty = self._weights.new_zeros(self._weights.shape[-1])  # per unit of weight; none on the intercept
        self._inverse = InverseHessian(len(self._weights), self._weights[0].numel(), num_pairs, self._weights)
        self._scale = _norm(self._at(self._weights).gradient).clamp_min(torch.finfo(torch.float32).tiny)

    def fit(self, decay: float) -> _Fit:
        """Minimise with one decay, from where the last one ended."""
        point = self._move_to(decay)
        stuck = torch.zeros_like(point.objective, dtype=torch.bool)
        before = torch.full_like(self._scale, torch.inf)  # norm of the gradient
        iterations = 0
        while True:
            direction = self._inverse.direction(point.gradient.flatten(1)).view_as(point.weights)
            slope, norm = _dot(point.gradient, direction), _norm(point.gradient)
            converged = self._has_converged(point.objective, norm, slope / -2)
            done = stuck | (converged & self._is_slow(point.objective, norm / before, slope / -2))
            if iterations == self._max_iterations or bool(done.all()):
                break
            iterations, before = iterations + 1, norm
            after, moved = self._search(point, direction, slope, done)
            stuck |= ~moved & ~done
            change = after.gradient - point.gradient
            self._inverse.remember((after.weights - point.weights).flatten(1), change.flatten(1))
            point = after
        self._weights = point.weights
        norms = (norm / self._scale).double().cpu().numpy()
        return _Fit(point.weights, point.objective.cpu().numpy(), norms, iterations, converged.cpu().numpy())

    def _move_to(self, decay: float) -> _Point:
        """Go on to another decay, with extrapolated weights."""
        start = self._weights
        if self._before is not None:
            start = start + _EXTRAPOLATION * (start - self._before)
        first = not bool(self._penalty.any())
        self._before = None if first else self._weights  # the first fit's start is no point of the path
        change = decay - self._penalty
        change[-1] = 0
        self._penalty = self._penalty + change
        point = self._at(start)
        precondition = self._problems.preconditioner(point.residuals, self._penalty, self._directions)
        self._inverse.shift(change.repeat(start.shape[1]), precondition)
        return point

    def _at(self, weights: Tensor) -> _Point:
        logits = self._problems.logits(weights)
        loss, residuals = self._problems.losses(logits)
        return self._point(weights, logits, loss + _penalty(weights, weights, self._penalty) / 2, residuals)

    def _point(self, weights: Tensor, logits: Tensor, objective: Tensor, residuals: Tensor) -> _Point:
        gradient = self._problems.gradients(residuals).addcmul_(weights, self._penalty)
        return _Point(weights, logits, objective, gradient, residuals)

    def _has_converged(self, objective: Tensor, norm: Tensor, gain: Tensor) -> Tensor:
        small = norm <= self._tolerance * self._scale
        return small & (gain <= self._tolerance * objective.maximum(1e-4 * self._problems.num_examples))

    def _is_slow(self, objective: Tensor, left: Tensor, gain: Tensor) -> Tensor:
        """Whether the last step left much of the gradient, or there is nothing to gain."""
        return (left > _WORTHWHILE) | (gain <= 1e-3 * torch.finfo(gain.dtype).eps * objective)

    def _search(self, point: _Point, direction: Tensor, slope: Tensor, done: Tensor) -> tuple[_Point, Tensor]:
        """A step that satisfies Wolfe's conditions, and whether each problem found one; those that are done stay.

        The logits are linear in the step, so that only elementwise work is done on the way.
        """
        along = self._problems.logits(direction)
        still, mixed, full = (
            _penalty(a, b, self._penalty)
            for a, b in ((point.weights, point.weights), (point.weights, direction), (direction, direction))
        )
        length = (~done).to(slope)
        low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
        # of the sum: near the minimum the slope decides
        noise = 8 * torch.finfo(along.dtype).eps * point.objective.abs()
        for _ in range(_MAX_EVALUATIONS):
            logits = torch.addcmul(point.logits, length[:, None, None], along)
            loss, residuals = self._problems.losses(logits)
            t = length.double()
            objective = loss + (still + 2 * t * mixed + t**2 * full) / 2
            tilt = (_dot(residuals, along) + mixed + t * full).to(slope)
            lower = objective <= point.objective + 1e-4 * t * slope + noise
            good = lower & (tilt.abs() <= _SLOPE_LEFT * slope.abs())
            if bool((good | done).all()):
                break
            low = torch.where(good | (tilt >= 0), low, length)
            high = torch.where(good | (tilt < 0), high, length)
            secant = length * slope / (slope - tilt)
            inside = (secant > low) & (secant < high)
            middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
            length = torch.where(good | done, length, torch.where(inside, secant, middle))
        moved = lower & ~done
        if not bool((moved | done).all()):
            return self._at(point.weights + (length * moved)[:, None, None] * direction), moved
        return self._point(point.weights + length[:, None, None] * direction, logits, objective, residuals), moved


def _penalty(a: Tensor, b: Tensor, penalty: Tensor) -> Tensor:
    """The bilinear form of the penalty, of every problem, (Q,) float64."""
    return _dot((a * penalty).double(), b.double())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of every problem, (Q,)."""
    products: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return products


def _norm(a: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(a.flatten(1), dim=1)
    return norms
