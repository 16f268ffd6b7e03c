"""What L-BFGS learns of a Hessian that changes by a known amount, for many problems at once.

The compact form of the inverse (Byrd, Nocedal and Schnabel 1994, "Representations of quasi-Newton matrices", eq. 3.1):
with the pairs as rows of S (steps) and Y (changes of the gradient), and H0 what stands in for the inverse without them,

    H = H0 + [S', H0 Y'] [[R^-T (D + Y H0 Y') R^-1, -R^-T], [-R^-1, 0]] [S; Y H0],    R = triu(S Y'), D = diag(S Y')

so that a direction takes four products with the pairs instead of two loops over them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_CHUNK = 4  # pairs that are preconditioned at once: keeps the memory small


class InverseHessian:
    """Inverse Hessians of Q problems with P weights each.

    Args:
        num_problems: Q.
        num_weights: P.
        num_pairs: most pairs that are kept; when they are full, the oldest quarter goes.
        like: gives precision and device.
    """

    def __init__(self, num_problems: int, num_weights: int, num_pairs: int, like: Tensor):
        self._steps = like.new_zeros(num_problems, num_pairs, num_weights)
        self._changes = torch.zeros_like(self._steps)
        # R and Y H0 Y'; small, and inverted, so in float64
        self._cross = like.new_zeros(num_problems, num_pairs, num_pairs, dtype=torch.float64)
        self._inner = torch.zeros_like(self._cross)
        self._num = 0

    def shift(self, amount: Tensor, precondition: Callable[[Tensor], Tensor]) -> None:
        """Go on to the Hessian with `amount`, (P,), more on its diagonal, and to another H0.

        Args:
            amount: by which every change of gradient changes, per unit of its step.
            precondition: H0, on (Q, any number, P).
        """
        self._precondition = precondition
        steps, changes = self._steps[:, : self._num], self._changes[:, : self._num]
        chunks = [slice(start, min(start + _CHUNK, self._num)) for start in range(0, self._num, _CHUNK)]
        for rows in chunks:
            changes[:, rows].addcmul_(steps[:, rows], amount)
            _drop_without_curvature(steps[:, rows], changes[:, rows])
        self._cross[:, : self._num, : self._num] = steps @ changes.mT
        for rows in chunks:
            self._inner[:, rows, : self._num] = precondition(changes[:, rows]) @ changes.mT

    def remember(self, step: Tensor, change: Tensor) -> None:
        """Learn from a step and the change of the gradient along it, both (Q, P), which are overwritten."""
        if self._num == self._steps.shape[1]:
            self._forget()
        _drop_without_curvature(step, change)
        self._steps[:, self._num], self._changes[:, self._num] = step, change
        self._num += 1

    def direction(self, gradient: Tensor) -> Tensor:
        """-H times the gradient, (Q, P)."""
        if self._num == 0:
            return -self._precondition(gradient[:, None])[:, 0]
        steps, changes = self._steps[:, : self._num], self._changes[:, : self._num]
        # the newest pair's products come with those of the gradient
        both = torch.stack([gradient, changes[:, -1]], 1)
        cross, inner = (both @ steps.mT).double(), (self._precondition(both) @ changes.mT).double()
        self._cross[:, : self._num, self._num - 1] = cross[:, 1]
        self._inner[:, : self._num, self._num - 1] = self._inner[:, self._num - 1, : self._num] = inner[:, 1]
        shares, parts = self._solve(cross[:, 0, :, None], inner[:, 0, :, None])
        rest = gradient[:, None] - shares.mT.to(changes) @ changes
        return -(self._precondition(rest) + parts.mT.to(steps) @ steps)[:, 0]

    def _solve(self, cross: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        upper = self._cross[:, : self._num, : self._num].triu()
        diagonal = upper.diagonal(dim1=1, dim2=2)
        curvature = diagonal[..., None].clone()
        diagonal += diagonal == 0  # a pair that says nothing is a row and a column of zeros
        shares = torch.linalg.solve_triangular(upper, cross, upper=True)
        right = curvature * shares + self._inner[:, : self._num, : self._num] @ shares - inner
        return shares, torch.linalg.solve_triangular(upper.mT, right, upper=False)

    def _forget(self) -> None:
        oldest = -(-self._num // 4)
        for start in range(oldest, self._num, oldest):  # in pieces that do not overlap
            stop = min(start + oldest, self._num)
            for pairs in (self._steps, self._changes):
                pairs[:, start - oldest : stop - oldest] = pairs[:, start:stop]
        self._num -= oldest
        for products in (self._cross, self._inner):
            products[:, : self._num, : self._num] = products[:, oldest:, oldest:].clone()


def _drop_without_curvature(step: Tensor, change: Tensor) -> None:
    """Where the curvature is not positive, a pair says nothing; rounding can do that."""
    says = (torch.linalg.vecdot(step, change) > 0)[..., None]
    step *= says
    change *= says
