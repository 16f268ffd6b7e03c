"""Whether a difference means anything: intervals over seeds, paired tests over images, corrections, and ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Interval = tuple[float, float]

POWER = 0.8  # the share of its cases in which a difference of the detectable size is found (Cohen 1988, section 2.4)

_FLIPS_AT_ONCE = 1 << 21  # signs: 16 MiB as float64
_ROUNDING = 1e-12  # of means of shares


def seed_interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Student's t interval of the mean over seeds, the test images held fixed.

    Args:
        values: of a metric, one for each seed.
        level: share of the intervals that hold the mean over all seeds.

    Returns:
        Its ends; None for fewer than two values, which say nothing of other seeds.
    """
    return _t_interval(values, 1 / len(values), level)


def future_interval(values: Sequence[float], num_runs: int, *, level: float = 0.95) -> Interval | None:
    """Where the mean of further runs of other seeds lies: with what a number from elsewhere is to be compared.

    Such a number has a deviation of its own, so that this interval is wider than that of our mean.

    Args:
        values: of a metric, one for each seed.
        num_runs: whose mean it is.
        level: share of the intervals that hold it.

    Returns:
        Its ends; None for fewer than two values.
    """
    return _t_interval(values, 1 / len(values) + 1 / num_runs, level)


def _t_interval(values: Sequence[float], share: float, level: float) -> Interval | None:
    if len(values) < 2:
        return None
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) * share**0.5
    return float(np.mean(values) - half), float(np.mean(values) + half)


def mcnemar(right_a: Bools, right_b: Bools) -> float:
    """Two-sided p value of McNemar's exact test of two classifiers on the same images (McNemar 1947).

    Args:
        right_a: whether one is right, (N,).
        right_b: whether the other is, (N,).
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def sign_flips(differences: Floats, *, seed: int = 0, num_flips: int = 10_000) -> float:
    """Two-sided p value of the permutation test that exchanges two runs' answers image by image.

    Args:
        differences: what every image adds to the difference of a metric that is a sum over images, (N,).
        seed: of the exchanges.
        num_flips: how many are drawn; what was observed counts as one more (Phipson & Smyth 2010).
    """
    decided = differences[differences != 0]
    draw, observed = np.random.default_rng(seed), abs(decided.sum())
    as_large, at_once = 0, max(1, _FLIPS_AT_ONCE // max(1, len(decided)))
    for start in range(0, num_flips, at_once):
        shape = min(at_once, num_flips - start), len(decided)
        sums = 2 * (draw.integers(0, 2, shape, np.int8) @ decided) - decided.sum()
        as_large += int((abs(sums) >= observed - 1e-9 * abs(decided).sum()).sum())  # up to rounding
    return (1 + as_large) / (1 + num_flips)


@dataclass(frozen=True)
class Runs:
    """A metric of a method's runs, one for each seed, on the same test images.

    Attributes:
        values: of the runs, (n,).
        drawn: the same on resamples of the images, (R, n); the resamples are those of whatever it is compared with.
    """

    values: Floats
    drawn: Floats

    @property
    def seed_variance(self) -> float | None:
        """Between the runs; None for a single one."""
        return float(self.values.var(ddof=1)) if len(self.values) > 1 else None

    @property
    def interaction(self) -> float:
        """What the images add to the variance of the mean for each run by itself: it is in `seed_variance` as well."""
        if len(self.values) < 2:
            return 0.0
        return float((self.drawn - self.values).var(axis=1, ddof=1).mean()) / len(self.values)


@dataclass(frozen=True)
class Comparison:
    """How two methods differ.

    Attributes:
        difference: of their mean values.
        low: lower end of its interval.
        high: upper end of its interval.
        p: two-sided, of no difference.
        detectable: the smallest difference that would have been found with a probability of `POWER`.
        degrees: of freedom.
    """

    difference: float
    low: float
    high: float
    p: float
    detectable: float
    degrees: float


def compare(a: Runs, b: Runs, *, level: float = 0.95) -> Comparison:
    """The difference of two methods, for other seeds and other test images.

    Seeds are the outer level and images the inner one. Each level's variance is estimated by itself and both are added:
    resampling three seeds with replacement would find two thirds of their variance, and percentiles know no t
    distribution, which makes false alarms of more than a tenth where seeds outweigh images (shown in the tests). What
    an image adds to one seed's run alone is found on both levels, and counts once. The degrees of freedom are
    Satterthwaite's (1946), as in Welch's test; images are many. A side with a single seed is given the other side's
    deviation. With one seed on either side nothing is known of other seeds: then the difference is that of these two
    runs.

    In simulations with 3 to 5 seeds on both sides, 95 % intervals held the true difference in 94.5 to 96.5 % of draws,
    and false alarms were 4.7 to 5.4 %. Where one method's seeds deviate ten times as much as the other's, three seeds
    each held it in 93 % and two each in 91 %; one seed against three makes up to 7.5 % false alarms, and more if its
    own deviation is larger than the other's, which one run cannot tell.

    Args:
        a: of one method.
        b: of the other, on the same resamples of the images.
        level: of the interval.
    """
    difference = float(a.values.mean() - b.values.mean())
    variances = _seed_variances(a, b)
    images = float((a.drawn.mean(axis=1) - b.drawn.mean(axis=1)).var(ddof=1)) - a.interaction - b.interaction
    total = sum(variance for variance, _ in variances) + max(images, 0.0)
    return _judge(difference, total, _satterthwaite(total, variances), level)


def _seed_variances(a: Runs, b: Runs) -> list[tuple[float, int]]:
    """Of each mean that the seeds move, its variance and the degrees of freedom that it is known with."""
    known = [(runs.seed_variance, len(runs.values)) for runs in (a, b)]
    if None not in (known[0][0], known[1][0]):
        return [(variance / n, n - 1) for variance, n in known if variance is not None]
    shared = [(variance, n) for variance, n in known if variance is not None]
    return [(variance * (1 + 1 / n), n - 1) for variance, n in shared]


def _satterthwaite(total: float, variances: Sequence[tuple[float, int]]) -> float:
    spread = sum(variance**2 / degrees for variance, degrees in variances)
    return total**2 / spread if spread else float("inf")


def _judge(difference: float, variance: float, degrees: float, level: float) -> Comparison:
    error = variance**0.5
    difference = difference if abs(difference) > _ROUNDING else 0.0
    if error < _ROUNDING:
        return Comparison(difference, difference, difference, float(difference == 0), 0.0, degrees)
    quantile = float(stats.t.ppf((1 + level) / 2, degrees))
    p = 2 * float(stats.t.sf(abs(difference) / error, degrees))
    detectable = (quantile + float(stats.t.ppf(POWER, degrees))) * error
    return Comparison(difference, difference - quantile * error, difference + quantile * error, p, detectable, degrees)


def compare_recorded(
    a: Sequence[float], b: Sequence[float], image_variances: tuple[float, float], *, level: float = 0.95
) -> Comparison:
    """The same of what result lines say, which do not know how two runs differ on an image.

    The images' variances are added as if the runs had seen different ones. On the same images, good runs err alike, so
    that this finds less than the paired comparison, and makes no more false alarms.

    Args:
        a: a metric of one method's runs.
        b: of the other's.
        image_variances: of each method's mean, over test images.
        level: of the interval.
    """
    runs = [Runs(np.array(values), np.array([values])) for values in (a, b)]
    difference, variances = float(np.mean(a) - np.mean(b)), _seed_variances(*runs)
    total = sum(variance for variance, _ in variances) + sum(image_variances)
    return _judge(difference, total, _satterthwaite(total, variances), level)


def holm(ps: Sequence[float]) -> list[float]:
    """The p values that bound the chance of any false alarm among all of them together (Holm 1979).

    Args:
        ps: of the tests.

    Returns:
        The adjusted ones, in the same order.
    """
    order = np.argsort(ps, kind="stable")
    factors = np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(ps, dtype=float)[order] * factors), 1)
    result: list[float] = adjusted.tolist()
    return result


def mean_ranks(scores: Floats) -> Floats:
    """Mean rank of every method over data sets, 1 the best; equal ones share theirs, (K,).

    Args:
        scores: higher is better, (D, K).
    """
    ranks: Floats = stats.rankdata(-scores, axis=1).mean(axis=0)
    return ranks


def critical_difference(num_methods: int, num_datasets: int, *, level: float = 0.95) -> float:
    """By how much the mean ranks of two of several methods must differ (Nemenyi's test; Demsar 2006, section 3.2.2).

    Args:
        num_methods: K, at least 2.
        num_datasets: D that each is ranked on.
        level: 1 less the chance of any false alarm.
    """
    quantile = stats.studentized_range.ppf(level, num_methods, np.inf) / 2**0.5
    return float(quantile * (num_methods * (num_methods + 1) / (6 * num_datasets)) ** 0.5)


def cliques(ranks: Floats, difference: float) -> list[tuple[int, ...]]:
    """The largest groups of methods of which no two differ by the critical difference.

    Args:
        ranks: mean ranks, (K,).
        difference: from `critical_difference`.

    Returns:
        Indices of the members of each group of two or more, by rising rank.
    """
    order = np.argsort(ranks, kind="stable")
    groups: list[tuple[int, ...]] = []
    for start in range(len(order)):
        group = tuple(int(i) for i in order[start:] if ranks[i] - ranks[order[start]] < difference)
        if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
            groups.append(group)
    return groups
