"""Our regularisation path and scikit-learn's sweeps, in one run on the same features and threads.

First against the published sweep, and against scikit-learn run to our gradient norms, on features of Fashion-MNIST (of
the sample where it is not installed) by an untrained ResNet whose batch norms know the images; then seconds by size, on
random features: python tests/benchmarks/decay_path.py [--images N] [--arch NAME] [--all-sizes].
"""

import argparse
import sys
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parents[2]))

from converters.backbones import build_backbone
from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError
from converters.images import LabelledImages, load_images
from transfer.decay_path import MAX_ITERATIONS, DecayPath, fit_path
from transfer.features import calibrate_batch_norm, frozen_features
from transfer.logistic import WEIGHT_DECAYS, validation_split

Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Linear = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]  # coefficients (K, D) and intercepts (K,)

TOLERANCE = 1e-4  # the reference's, scikit-learn's default when it was written, for the sum of the losses
EQUAL_ITERATIONS = 4000  # of scikit-learn at one decay
SIZES, LARGE_SIZES, DIMS, CLASSES = (1000, 10_000), (50_000,), (512, 2048), (10, 100)


def main() -> None:
    """Print seconds, ratios, and how objectives, gradient norms and choices compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000, help="a fifth of them is held out (default: 10,000)")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--all-sizes", action="store_true", help="the table up to 50,000 x 2,048 and 100 classes")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads")
    features, labels = _features(arguments.images, arguments.arch)
    fitted, held_out = validation_split(len(labels))
    _against_published(features[fitted], labels[fitted], features[held_out], labels[held_out])
    _against_equal(features[fitted], labels[fitted])
    _table(arguments.all_sizes)


def _features(num_images: int, arch: str) -> tuple[Features, Labels]:
    torch.manual_seed(0)
    data = _images()
    images, labels = data.images[:num_images], data.labels[:num_images].numpy()
    backbone, pixels, device = build_backbone(arch), Pixels(64), torch.device("cpu")
    calibrate_batch_norm(backbone, images[:1000], pixels, device)
    with tempfile.TemporaryDirectory() as folder:
        features = frozen_features(backbone, images, pixels, ranks=Ranks(0, 1, device), folder=Path(folder))
        return np.array(features), labels


def _images() -> LabelledImages:
    try:
        return load_images("fashion_mnist", "train")
    except InputError:
        return load_images("sample", "train")


def _against_published(train: Features, labels: Labels, val: Features, val_labels: Labels) -> None:
    """linusericsson/ssl-transfer, linear.py: from the weakest decay on, each fit from where the last one ended."""
    started = time.monotonic()
    path = fit_path(train, labels, WEIGHT_DECAYS)
    ours = time.monotonic() - started
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True, tol=TOLERANCE / len(labels))
    references, theirs = [], 0.0
    for decay in WEIGHT_DECAYS:
        theirs += _fit(model, train, labels, decay)
        references.append((model.coef_.copy(), model.intercept_.copy()))
    excess = np.array(
        [
            _objective(train, labels, fit, decay) / _objective(train, labels, reference, decay) - 1
            for fit, reference, decay in zip(_fits(path), references, WEIGHT_DECAYS, strict=True)
        ]
    )
    print(f"\npublished sweep, {train.shape[0]} x {train.shape[1]} features, {labels.max() + 1} classes")
    print(f"ours {ours:.2f} s, {path.iterations.sum()} iterations, {int((~path.converged).sum())} of 45 not converged")
    print(f"scikit-learn, warm start, {MAX_ITERATIONS} iterations each: {theirs:.2f} s; ratio {theirs / ours:.1f}")
    print(f"objective over the reference's, minus 1: from {excess.min():.1e} to {excess.max():.1e}")
    print(f"higher at {int((excess > 0).sum())} of 45 decays {[WEIGHT_DECAYS[i] for i in np.flatnonzero(excess > 0)]}")
    for name, fits in (("ours", _fits(path)), ("scikit-learn", references)):
        scores = [_accuracy(val, val_labels, fit) for fit in fits]
        best = int(np.argmax(scores))
        print(f"chosen by {name}: weight decay {WEIGHT_DECAYS[best]:.3g}, validation accuracy {scores[best]:.4f}")


def _against_equal(train: Features, labels: Labels) -> None:
    """From the weakest decay on, scikit-learn's tolerance is lowered until its gradient norm is at most ours.

    It gets float64: in float32 its line search ends before it is there.
    """
    started = time.monotonic()
    path = fit_path(train, labels, WEIGHT_DECAYS)
    ours, theirs, missed = time.monotonic() - started, 0.0, 0
    print(f"\nequal gradient norms, {train.shape[0]} x {train.shape[1]} features, {len(WEIGHT_DECAYS)} decays")
    model, doubles = LogisticRegression(warm_start=True), train.astype(np.float64)
    for fit, decay in zip(_fits(path), WEIGHT_DECAYS, strict=True):
        wanted, norm, iterations, tolerance = _gradient_norm(train, labels, fit, decay), np.inf, 0, 1e-4
        while norm > wanted and iterations < EQUAL_ITERATIONS and tolerance > 1e-12:
            model.set_params(tol=tolerance, max_iter=EQUAL_ITERATIONS - iterations)
            theirs += _fit(model, doubles, labels, decay)
            iterations += int(model.n_iter_[0])
            norm = _gradient_norm(train, labels, (model.coef_, model.intercept_), decay)
            tolerance /= 3
        missed += norm > wanted
        print(f"decay {decay:8.1e}: ours {wanted:.1e}, scikit-learn {norm:.1e} after {iterations} iterations")
    print(
        f"ours {ours:.2f} s, scikit-learn {theirs:.2f} s, ratio {theirs / ours:.0f}; it missed ours at {missed} decays"
    )


def _table(all_sizes: bool) -> None:
    print("\nseconds for 45 decays, random features whose k-th direction has standard deviation k^-1/2, labels drawn")
    print("from the softmax of random weights; not converged of 45 in brackets")
    sizes = SIZES + LARGE_SIZES if all_sizes else SIZES
    for num, dim, classes in product(sizes, DIMS, CLASSES):
        if num * dim * classes > 1e9 and not all_sizes:
            print(f"{num:6d} x {dim:4d}, {classes:3d} classes: with --all-sizes")
            continue
        features, labels = _random(num, dim, classes)
        started = time.monotonic()
        path = fit_path(features, labels, WEIGHT_DECAYS)
        seconds = time.monotonic() - started
        unmet = int((~path.converged).sum())
        print(
            f"{num:6d} x {dim:4d}, {classes:3d} classes: {seconds:6.1f} ({unmet}), {path.iterations.sum()} iterations"
        )


def _random(num: int, dim: int, classes: int) -> tuple[Features, Labels]:
    draw = np.random.default_rng(0)
    features = draw.standard_normal((num, dim), dtype=np.float32) * np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    logits = 3 * features @ draw.standard_normal((dim, classes), dtype=np.float32)
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)
    return features, np.unique(labels, return_inverse=True)[1]


def _fit(model: LogisticRegression, features: npt.NDArray[np.floating], labels: Labels, decay: float) -> float:
    """Seconds that it takes."""
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as the reference does
        model.set_params(C=1 / decay).fit(features, labels)
    return time.monotonic() - started


def _fits(path: DecayPath) -> list[Linear]:
    return list(zip(path.coefficients[:, 0], path.intercepts[:, 0], strict=True))


def _logits(features: Features, fit: Linear) -> Array:
    return features.astype(np.float64) @ fit[0].T.astype(np.float64) + fit[1]


def _accuracy(features: Features, labels: Labels, fit: Linear) -> float:
    return float((_logits(features, fit).argmax(axis=1) == labels).mean())


def _objective(features: Features, labels: Labels, fit: Linear, decay: float) -> float:
    logits = _logits(features, fit)
    largest = logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0] - logits[np.arange(len(labels)), labels]
    return float(losses.sum() + decay / 2 * np.square(fit[0], dtype=np.float64).sum())


def _gradient_norm(features: Features, labels: Labels, fit: Linear, decay: float) -> float:
    """Of the objective, over that of the best constant, both for features about their mean."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    classes = np.eye(int(labels.max()) + 1)[labels]
    logits = _logits(features, fit)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    residuals = shares / shares.sum(axis=1, keepdims=True) - classes
    slopes = residuals.T @ centred + decay * fit[0]
    start = (classes.mean(axis=0) - classes).T @ centred
    return float(np.sqrt(np.square(slopes).sum() + np.square(residuals.sum(axis=0)).sum()) / np.linalg.norm(start))


if __name__ == "__main__":
    main()
