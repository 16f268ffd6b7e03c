"""L2 logistic regression for many weight decays: the whole regularisation path, each fit warm from the ones before.

Minimises ``sum CE(X w + b, y) + wd/2 |w|^2`` with an unpenalised intercept, for one multinomial problem, or for one
binary problem per label, by L-BFGS (Nocedal 1980) with three things that make the path cheap:

- the features are rotated once into the eigenbasis of their covariance, where the Hessian is close to its diagonal,
  which preconditions every fit;
- the pairs of steps and gradient changes are kept from one decay to the next: of the Hessian, only the decay changes by
  a known amount, and with it every gradient change by that amount times the step;
- the line search goes along the logits of the direction, which costs no product with the features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TOLERANCE = 1e-3
MAX_ITERATIONS = 100  # per decay, as the reference (linusericsson/ssl-transfer, linear.py)

# Iterations of a path at 8,000 x 512 features, at an equal tolerance: 604 with 30 pairs, 535 with 60, 491 with 100.
_MEMORY = 60
# Of the last step along the path, in log decay: less than all of it, as the path bends. No other value was tried.
_EXTRAPOLATION = 0.8
_ROWS = 8192  # of features whose squares are formed at once
_MAX_EVALUATIONS = 20  # of a line search


@dataclass(frozen=True)
class DecayPath:
    """Fits along the path, in the order in which the decays were given.

    P decays, Q problems (1, or one per label), K outputs of each (classes; 1 if binary), D features.

    Attributes:
        weight_decays: (P,).
        coefficients: for the features as they were given, (P, Q, K, D).
        intercepts: (P, Q, K).
        objectives: the minimised sums, (P, Q).
        gradient_norms: of the objective, over that at zero coefficients, (P, Q): the certificate of each fit.
        iterations: (P,).
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
    device: torch.device | str = "cpu",
) -> DecayPath:
    """Fit every weight decay.

    A fit has converged when the norm of its gradient is at most `tolerance` times that at zero coefficients, and what a
    Newton step would still gain at most `tolerance` times the objective, or a hundredth of it per example.

    Args:
        features: (N, D), float32 or float64; the fit is computed in their precision.
        targets: classes 0..K-1, (N,), each of which occurs: one multinomial problem, binary if there are two. Or 0 and
            1, (N, Q): one binary problem per column.
        weight_decays: fitted from the largest to the smallest, whatever their order.
        tolerance: see above; for its default against the published sweep see tests/benchmarks/decay_path.py.
        max_iterations: per decay.
        device: where to compute.

    Raises:
        ValueError: a feature that is not finite, a decay that is not positive, or targets that are not as described.
    """
    decays = np.asarray(weight_decays, dtype=np.float64)
    _check(features, targets, decays)
    basis = _Basis(torch.from_numpy(np.ascontiguousarray(features)).to(device))
    problems = _Problems(basis.features, _one_hot(targets, basis.features))
    descent = _Descent(problems, tolerance, max_iterations)
    order = np.argsort(-decays, kind="stable")
    fits = {int(index): descent.fit(float(decays[index]) / basis.scale**2) for index in order}
    ordered = [fits[index] for index in range(len(decays))]
    coefficients, intercepts = zip(*(basis.back(fit.weights) for fit in ordered), strict=True)
    return DecayPath(
        weight_decays=decays,
        coefficients=np.stack(coefficients),
        intercepts=np.stack(intercepts),
        objectives=np.stack([fit.objective for fit in ordered]),
        gradient_norms=np.stack([fit.gradient_norm for fit in ordered]),
        iterations=np.array([fit.iterations for fit in ordered]),
        converged=np.stack([fit.converged for fit in ordered]),
    )


def _check(
    features: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], decays: npt.NDArray[np.float64]
) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(f"{len(bad)} rows of features are not finite, the first is {bad[0]}; look at that image")
    if not (decays > 0).all():
        raise ValueError(f"expected positive weight decays, got {decays.min()}")
    if len(targets) != len(features):
        raise ValueError(f"expected one target for each of {len(features)} rows of features, got {len(targets)}")
    if targets.ndim == 2 and not np.isin(targets, (0, 1)).all():
        raise ValueError("expected targets 0 and 1 in every column; leave out rows that are neither")
    if targets.ndim == 1:
        occurring = np.unique(targets)
        if len(occurring) < 2 or not np.array_equal(occurring, np.arange(len(occurring))):
            raise ValueError(f"expected every class from 0 on to occur, at least two of them, got {occurring[:10]}")


def _one_hot(targets: npt.NDArray[np.integer], like: Tensor) -> Tensor:
    """Targets as probabilities, (Q, K, N)."""
    if targets.ndim == 2:
        return torch.from_numpy(np.ascontiguousarray(targets.T)).to(like)[:, None]
    num_classes = int(targets.max()) + 1
    if num_classes == 2:
        return torch.from_numpy(targets).to(like)[None, None]
    return torch.nn.functional.one_hot(torch.from_numpy(targets).long(), num_classes).T.to(like)[None]


class _Basis:
    """Features about their mean, divided by one number, in the eigenbasis of their covariance."""

    def __init__(self, features: Tensor):
        self._mean = features.mean(0)
        centred = features - self._mean
        self.scale = float(centred.square().mean(dtype=torch.float64).sqrt()) or 1.0
        centred /= self.scale
        # rounding makes the eigenvectors less than exact, not less than orthogonal: the objective stays the same
        self._vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors
        self.features = centred @ self._vectors

    def back(self, weights: Tensor) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Coefficients (Q, K, D) and intercepts (Q, K) for the features as they were given."""
        coefficients = weights[..., :-1] @ self._vectors.T / self.scale
        return coefficients.cpu().numpy(), (weights[..., -1] - coefficients @ self._mean).cpu().numpy()


class _Problems:
    """Q problems with K outputs on the same features; weights are (Q, K, D + 1), the intercept last."""

    def __init__(self, features: Tensor, targets: Tensor):
        self.features, self.targets = features, targets

    def logits(self, weights: Tensor) -> Tensor:
        """(Q, K, N)."""
        rows = weights[..., :-1].flatten(0, 1) @ self.features.T
        return rows.view(*weights.shape[:2], -1) + weights[..., -1:]

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of every problem, (Q,) float64, and the probabilities."""
        right = (logits * self.targets).sum((1, 2), dtype=torch.float64)
        if logits.shape[1] == 1:
            each = torch.nn.functional.softplus(logits)
            return each.sum((1, 2), dtype=torch.float64) - right, torch.sigmoid(logits)
        largest = logits.amax(1, keepdim=True)
        shares = (logits - largest).exp_()
        total = shares.sum(1, keepdim=True)
        return (total.log() + largest).sum((1, 2), dtype=torch.float64) - right, shares.div_(total)

    def gradients(self, probabilities: Tensor) -> Tensor:
        """Of the cross-entropy, (Q, K, D + 1)."""
        residuals = probabilities - self.targets
        products = (residuals.flatten(0, 1) @ self.features).view(*residuals.shape[:2], -1)
        return torch.cat([products, residuals.sum(2, keepdim=True)], 2)

    def curvatures(self, probabilities: Tensor) -> Tensor:
        """Diagonal of the cross-entropy's Hessian, (Q, K, D + 1)."""
        spread = (probabilities * (1 - probabilities)).flatten(0, 1)
        squares = torch.zeros(len(spread), self.features.shape[1]).to(spread)
        for start in range(0, len(self.features), _ROWS):  # not all squares at once
            squares += spread[:, start : start + _ROWS] @ self.features[start : start + _ROWS].square()
        return torch.cat([squares, spread.sum(1, keepdim=True)], 1).view(*probabilities.shape[:2], -1)


@dataclass(frozen=True)
class _Fit:
    weights: Tensor
    objective: npt.NDArray[np.float64]
    gradient_norm: npt.NDArray[np.float64]
    iterations: int
    converged: npt.NDArray[np.bool_]


@dataclass
class _Point:
    """Where a fit stands: weights, logits, objective and gradient of every problem."""

    weights: Tensor
    logits: Tensor
    objective: Tensor
    gradient: Tensor
    probabilities: Tensor


class _Descent:
    """L-BFGS along the path; what it learns of the Hessian with one decay serves the next."""

    def __init__(self, problems: _Problems, tolerance: float, max_iterations: int):
        self._problems, self._tolerance, self._max_iterations = problems, tolerance, max_iterations
        shape = (*problems.targets.shape[:2], problems.features.shape[1] + 1)
        self._weights = problems.features.new_zeros(shape)
        self._weights[..., -1] = _log_priors(problems.targets)
        self._before: Tensor | None = None
        self._decay = 0.0
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change of gradient, 1 / their product
        probabilities = problems.losses(problems.logits(self._weights))[1]
        self._scale = _norm(problems.gradients(probabilities)).clamp_min(torch.finfo(torch.float32).tiny)

    def fit(self, decay: float) -> _Fit:
        """Minimise with one decay, from where the last one ended."""
        self._move_to(decay)
        point = self._at(self._weights)
        diagonal = self._problems.curvatures(point.probabilities) + self._penalty(torch.ones_like(self._weights))
        diagonal = diagonal.clamp_min(torch.finfo(diagonal.dtype).eps * float(diagonal.max()))
        stuck = torch.zeros_like(point.objective, dtype=torch.bool)
        iterations = 0
        while True:
            direction = self._direction(point.gradient, diagonal)
            gain = _dot(point.gradient, direction)[:, 0, 0] / -2  # of a step of length 1, in the model
            converged = self._has_converged(point, gain)
            done = converged | stuck
            if bool(done.all()) or iterations == self._max_iterations:
                break
            iterations += 1
            after, moved = self._search(point, direction, done)
            stuck |= ~moved & ~done
            self._remember(after.weights - point.weights, after.gradient - point.gradient)
            point = after
        self._weights = point.weights
        norms = (_norm(point.gradient) / self._scale).double().cpu().numpy()
        return _Fit(point.weights, point.objective.cpu().numpy(), norms, iterations, converged.cpu().numpy())

    def _move_to(self, decay: float) -> None:
        """Go on to another decay: extrapolate the weights, and correct the remembered gradient changes."""
        weights = self._weights
        if self._before is not None:
            self._weights = weights + _EXTRAPOLATION * (weights - self._before)
        self._before = weights if self._decay else None  # the first fit's start is no point of the path
        change = decay - self._decay
        self._decay = decay
        pairs, self._pairs = self._pairs, []
        for step, difference, _ in pairs:
            difference[..., :-1] += change * step[..., :-1]
            self._remember(step, difference)

    def _penalty(self, weights: Tensor) -> Tensor:
        """Gradient of the penalty; the intercept has none."""
        return torch.cat([self._decay * weights[..., :-1], torch.zeros_like(weights[..., -1:])], -1)

    def _at(self, weights: Tensor) -> _Point:
        logits = self._problems.logits(weights)
        loss, probabilities = self._problems.losses(logits)
        objective = loss + self._decay / 2 * weights[..., :-1].double().square().sum((1, 2))
        return _Point(
            weights, logits, objective, self._problems.gradients(probabilities) + self._penalty(weights), probabilities
        )

    def _has_converged(self, point: _Point, gain: Tensor) -> Tensor:
        small = _norm(point.gradient) <= self._tolerance * self._scale
        num_examples = point.logits.shape[2]
        return small & (gain <= self._tolerance * point.objective.clamp_min(num_examples / 100))

    def _direction(self, gradient: Tensor, diagonal: Tensor) -> Tensor:
        """Two loops over the pairs (Nocedal 1980), the Hessian's diagonal in the middle."""
        rest, shares = gradient.clone(), []
        for step, difference, inverse in reversed(self._pairs):
            shares.append(inverse * _dot(step, rest))
            rest -= shares[-1] * difference
        rest /= diagonal
        for (step, difference, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            rest += (share - inverse * _dot(difference, rest)) * step
        return -rest

    def _remember(self, step: Tensor, difference: Tensor) -> None:
        product = _dot(step, difference)
        # where the curvature is not positive, the pair says nothing
        self._pairs = [*self._pairs, (step, difference, torch.where(product > 0, 1 / product, 0.0))][-_MEMORY:]

    def _search(self, point: _Point, direction: Tensor, done: Tensor) -> tuple[_Point, Tensor]:
        """A step that satisfies Wolfe's conditions, and whether each problem found one; those that are done stay.

        The logits are linear in the step, so that only elementwise work is done on the way.
        """
        along = self._problems.logits(direction)
        slope = _dot(point.gradient, direction)[:, 0, 0]
        weights, change = point.weights[..., :-1].double(), direction[..., :-1].double()
        squares = [(a * b).sum((1, 2)) for a, b in ((weights, weights), (weights, change), (change, change))]
        length = torch.ones_like(slope)
        low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
        noise = (
            8 * torch.finfo(along.dtype).eps * point.objective.abs()
        )  # of the sum: near the minimum the slope decides
        for _ in range(_MAX_EVALUATIONS):
            logits = point.logits + length[:, None, None] * along
            loss, probabilities = self._problems.losses(logits)
            t = length.double()
            objective = loss + self._decay / 2 * (squares[0] + 2 * t * squares[1] + t**2 * squares[2])
            inner = ((probabilities - self._problems.targets) * along).sum((1, 2), dtype=torch.float64)
            tilt = (inner + self._decay * (squares[1] + t * squares[2])).to(slope)
            lower = objective <= point.objective + 1e-4 * t * slope + noise
            good = lower & (tilt.abs() <= 0.9 * slope.abs())
            if bool((good | done).all()):
                break
            low = torch.where(good | (tilt >= 0), low, length)
            high = torch.where(good | (tilt < 0), high, length)
            secant = length * slope / (slope - tilt)
            inside = (secant > low) & (secant < high)
            middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
            length = torch.where(good, length, torch.where(inside, secant, middle))
        if bool(done.any()) or not bool(good.all()):
            length = torch.where(done | ~lower, 0.0, length)
            return self._at(point.weights + length[:, None, None] * direction), lower
        moved = point.weights + length[:, None, None] * direction
        gradient = self._problems.gradients(probabilities) + self._penalty(moved)
        return _Point(moved, logits, objective, gradient, probabilities), lower


def _log_priors(targets: Tensor) -> Tensor:
    """The best intercepts at zero weights, (Q, K)."""
    shares = targets.mean(2).clamp(1e-6, 1 - 1e-6)
    return shares.log() if targets.shape[1] > 1 else torch.logit(shares)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of every problem, (Q, 1, 1)."""
    return (a * b).sum((1, 2), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return a.square().sum((1, 2)).sqrt()
