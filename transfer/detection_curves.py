"""Curves of precision over recall, from which metrics and their bootstrap intervals cost a few sums."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.checkpoint import atomic_write
from converters.errors import InputError, first_few
from transfer.archives import read_archive

Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer]

_WRITE_AGAIN = "write it again by transfer/detection.py --eval-only"

NUM_IOUS = 10  # overlaps .50, .55, ..., .95, of COCO as of Detectron2's VOC evaluator


@dataclass(frozen=True)
class Matches:
    """Which detections are right, reduced to the points where a curve of precision over recall can have a peak.

    There is a curve for each of A area ranges, T overlaps and K classes, in this order. Its points are those of its
    detections, by falling score, that find an object. One more point ends it, with a precision of 0.

    Attributes:
        num_images: of the data set.
        num_classes: K.
        image: of the detections by class and falling score, (M,).
        within: whether a detection counts in an area range if it finds nothing, (A, M).
        start: index of each curve's first point, (A * T * K,).
        origin: index of the sum of `within` before each curve's class, among the A rows of M + 1 sums, (A * T * K,).
        shown: index of the sum of `within` up to each point's detection, likewise, (E,).
        correction: whether a point's detection counts, less its `within`, (E,).
        right: 1 where it finds an object that is to be found, else 0, (E,).
        point_image: its image, (E,).
        sought_image: of the objects to be found, once for every area range that they are in, (P,).
        sought_class: their class, plus K times the area range, (P,).
        recalls: at which the highest precision is averaged, rising from 0, (R,).
        absent: the value of a class of which the data set has no object to be found.
    """

    num_images: int
    num_classes: int
    image: Rows
    within: Bools
    start: Rows
    origin: Rows
    shown: Rows
    correction: Rows
    right: Rows
    point_image: Rows
    sought_image: Rows
    sought_class: Rows
    recalls: Floats
    absent: float

    def values(self, counts: Counts | None = None) -> dict[str, float]:
        """The metrics as shares in 0..1, nan where there is no object to be found.

        Args:
            counts: how often each image counts, (num_images,); None for once. A class whose objects are all in images
                that do not count is left out.

        Returns:
            AP, the mean over ten overlaps, AP50, AP75, and for COCO APs, APm, APl: of small, medium and large objects.
        """
        precisions = self._average_precisions(counts)
        values = {"AP": precisions[0], "AP50": precisions[0, 0], "AP75": precisions[0, 5]}
        values |= zip(("APs", "APm", "APl"), precisions[1:], strict=False)
        return {name: _mean(each) for name, each in values.items()}

    def per_class(self) -> Floats:
        """AP of every class, nan where the data set has no object to be found, (num_classes,)."""
        means: Floats = self._average_precisions(None)[0].mean(axis=0)
        return np.where(np.isin(np.arange(self.num_classes), self.sought_class), means, np.nan)

    def resampled(self, num_resamples: int, seed: int) -> dict[str, Floats]:
        """The metrics of resamples of the images, which depend on their numbers and `seed` alone, (num_resamples,).

        Args:
            num_resamples: drawn with replacement, each of num_images images.
            seed: of the draws.
        """
        draw = np.random.default_rng(seed)
        rows = (draw.integers(self.num_images, size=self.num_images) for _ in range(num_resamples))
        drawn = [self.values(np.bincount(row, minlength=self.num_images)) for row in rows]
        return {name: np.array([each[name] for each in drawn]) for name in drawn[0]}

    def save(self, path: Path) -> None:
        """Write a compressed NumPy archive; an interrupted save leaves an older file whole.

        Raises:
            InputError: the folder cannot be written.
        """
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Matches":
        """Read what `save` has written.

        Raises:
            InputError: the file is missing, damaged or of another form.
        """
        content = read_archive(path, "which detections of a finished run are right", _WRITE_AGAIN)
        expected, got = sorted(each.name for each in fields(cls)), sorted(content)
        if got != expected:
            raise InputError(f"{path}: expected the arrays {', '.join(expected)}, got {first_few(got)}; {_WRITE_AGAIN}")
        plain: dict[str, Any] = {name: each if each.ndim else each.item() for name, each in content.items()}
        try:
            loaded = cls(**plain)
            whole = loaded._is_whole()
        except (TypeError, ValueError, IndexError, AttributeError):
            whole = False
        if not whole:
            raise InputError(f"{path}: the arrays do not fit together; {_WRITE_AGAIN}")
        return loaded

    def _is_whole(self) -> bool:
        """Whether sizes, types and indices are those that the class describes."""
        names = (
            "image",
            "start",
            "origin",
            "shown",
            "correction",
            "right",
            "point_image",
            "sought_image",
            "sought_class",
        )
        rows: list[Rows] = [getattr(self, name) for name in names]
        kinds = all(each.dtype == np.int64 and each.ndim == 1 for each in rows) and self.within.dtype == np.bool_
        points, areas = len(self.point_image), len(self.within)
        sums = areas * (len(self.image) + 1)
        return bool(
            kinds
            and self.within.shape == (areas, len(self.image))
            and len(self.start) == len(self.origin) == areas * NUM_IOUS * self.num_classes
            and len(self.shown) == len(self.correction) == len(self.right) == points
            and len(self.sought_image) == len(self.sought_class)
            and all(_below(each, self.num_images) for each in (self.image, self.point_image, self.sought_image))
            and _below(self.sought_class, areas * self.num_classes)
            and _below(self.start, points)
            and (np.diff(self.start, append=points) > 0).all()
            and all(_below(each, sums) for each in (self.origin, self.shown))
            and self.recalls.ndim == 1
        )

    def intervals(
        self, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Basic bootstrap intervals over resamples of the images, within 0..1 (Davison & Hinkley 1997, section 5.2).

        An image that a resample holds twice makes its average precision higher, so that percentiles lie above the
        value, and may even exclude it; the basic interval reflects them at the value. Of 60 samples of 500 images, it
        held the AP of the 20,000 that they were drawn from in 90 %, percentiles would in 77 %
        (tests/benchmarks/detection_evaluation.py).

        All metrics are computed of the same resamples. One that has no object in a resample leaves it out.

        Args:
            level: share of the resamples inside the interval.
            num_resamples: drawn with replacement, each of num_images images.
            seed: of the draws.
        """
        drawn = self.resampled(num_resamples, seed)
        return {name: _interval(value, drawn[name], level) for name, value in self.values().items()}

    def _average_precisions(self, counts: Counts | None) -> Floats:
        """Of every area range, overlap and class, (A, T, K)."""
        weights = np.ones(self.num_images, dtype=np.int64) if counts is None else counts.astype(np.int64)
        shape = (len(self.within), NUM_IOUS, self.num_classes)
        num_sought = np.bincount(self.sought_class, weights[self.sought_image], shape[0] * shape[2])
        needed = _needed(num_sought[:, None], self.recalls).reshape(shape[0], 1, shape[2], -1)
        average = self._mean_peaks(weights, np.repeat(needed, shape[1], axis=1).reshape(len(self.start), -1))
        known = np.isin(np.arange(len(num_sought)), self.sought_class)
        otherwise, sought = (
            each.reshape(shape[0], 1, -1) for each in (np.where(known, np.nan, self.absent), num_sought)
        )
        return np.where(sought > 0, average.reshape(shape), otherwise)

    def _mean_peaks(self, weights: Rows, needed: Rows) -> Floats:
        """Mean over the recalls of the highest precision from there on, (A * T * K,).

        Args:
            weights: of the images, (num_images,).
            needed: how many objects are found there, for every curve, (A * T * K, R).
        """
        precision, found = self._precision(weights)
        end = np.append(self.start[1:], len(precision)) - 1
        nth = found[self.start, None] + needed  # counted through all curves
        point_of = np.append(np.repeat(np.arange(len(precision)), np.diff(found)), 0)  # where the n-th is found
        points = np.where(nth <= found[end, None], point_of.take(nth - 1, mode="clip"), end[:, None])
        points[:, 0] = self.start
        peaks = np.maximum.reduceat(precision, points.ravel()).reshape(points.shape)  # up to the next recall
        means: Floats = np.maximum.accumulate(peaks[:, ::-1], axis=1).mean(axis=1)
        return means

    def _precision(self, weights: Rows) -> tuple[Floats, Rows]:
        """Precision at every point, (E,), and the number of objects found before it in all curves, (E + 1,)."""
        of_points, lengths = weights[self.point_image], np.diff(self.start, append=len(self.point_image))
        found, corrected = _sums(of_points * self.right), _sums(of_points * self.correction)
        within = _sums(weights[self.image] * self.within).ravel()
        shown = within[self.shown] + corrected[1:]
        shown -= np.repeat(within[self.origin] + corrected[self.start], lengths)
        precision: Floats = (found[1:] - np.repeat(found[self.start], lengths)) / np.maximum(shown, 1)
        precision[np.cumsum(lengths) - 1] = 0
        return precision, found


def _below(index: Rows, size: int) -> bool:
    return bool(((index >= 0) & (index < size)).all())


def _sums(values: Rows) -> Rows:
    """Sums of all that is before each index of the last axis, and of all."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1), dtype=np.int64)
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    return sums


def _needed(sought: npt.NDArray[np.integer | np.floating], recalls: Floats) -> Rows:
    """The smallest numbers of found objects whose share of those sought is at least a recall, in float64."""
    needed = np.floor(sought * recalls)
    needed += needed / np.maximum(sought, 1) < recalls
    return needed.astype(np.int64)


def _mean(precisions: Floats) -> float:
    """Over what is not nan; nan where nothing is left."""
    known = precisions[~np.isnan(precisions)]
    return float(known.mean()) if len(known) else float("nan")


def _interval(value: float, drawn: Floats, level: float) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return max(0.0, 2 * value - float(high)), min(1.0, 2 * value - float(low))
