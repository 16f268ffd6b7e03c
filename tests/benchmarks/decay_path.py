"""Our regularisation path and the published sweep by scikit-learn, in one run on the same features and threads.

Features of Fashion-MNIST where it is installed, else of the sample, by an untrained ResNet whose batch norms know the
images: python tests/benchmarks/decay_path.py [images [architecture]].
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parents[2]))

from converters.backbones import build_backbone
from converters.checkpoint import Pixels
from converters.errors import InputError
from converters.images import LabelledImages, load_images
from transfer.decay_path import MAX_ITERATIONS, DecayPath, fit_path
from transfer.features import Features, calibrate_batch_norm, extract_features
from transfer.logistic import SKLEARN_TOLERANCE, WEIGHT_DECAYS

Array = npt.NDArray[np.float64]


def main() -> None:
    """Print seconds and ratio, and how our objectives compare with the reference's."""
    num_images = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    arch = sys.argv[2] if len(sys.argv) > 2 else "resnet18"
    features, labels = _features(num_images, arch)
    started = time.monotonic()
    path = fit_path(features, labels, WEIGHT_DECAYS)
    ours = time.monotonic() - started
    started = time.monotonic()
    references = _reference(features, labels)
    theirs = time.monotonic() - started
    objectives = [
        _objective(features, labels, *fit, decay) for fit, decay in zip(_fits(path), WEIGHT_DECAYS, strict=True)
    ]
    excess = np.array(objectives) / np.array(references) - 1
    rows, dim = features.shape
    print(f"{rows} x {dim} features, {labels.max() + 1} classes, {torch.get_num_threads()} threads")
    print(f"ours {ours:.1f} s, {path.iterations.sum()} iterations, {int((~path.converged).sum())} of 45 not converged")
    print(f"scikit-learn, warm start, {MAX_ITERATIONS} iterations each: {theirs:.1f} s; ratio {theirs / ours:.1f}")
    print(f"objective over the reference's, minus 1: from {excess.min():.1e} to {excess.max():.1e}")
    print(f"higher at {int((excess > 0).sum())} of 45 decays")


def _features(num_images: int, arch: str) -> tuple[Features, npt.NDArray[np.int64]]:
    torch.manual_seed(0)
    data = _images()
    images, labels = data.images[:num_images], data.labels[:num_images].numpy()
    backbone, pixels, device = build_backbone(arch), Pixels(64), torch.device("cpu")
    calibrate_batch_norm(backbone, images[:1000], pixels, device)
    return extract_features(backbone, images, pixels, device), labels


def _images() -> LabelledImages:
    try:
        return load_images("fashion_mnist", "train")
    except InputError:
        return load_images("sample", "train")


def _reference(features: Features, labels: npt.NDArray[np.int64]) -> list[float]:
    """linusericsson/ssl-transfer, linear.py: from the weakest decay on, each fit from where the last one ended."""
    tolerance = SKLEARN_TOLERANCE / len(labels)  # it was written for the sum of the losses
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True, tol=tolerance)
    objectives = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as the reference does
        for decay in WEIGHT_DECAYS:
            model.set_params(C=1 / decay).fit(features, labels)
            objectives.append(_objective(features, labels, model.coef_, model.intercept_, decay))
    return objectives


def _fits(path: DecayPath) -> list[tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]]:
    return list(zip(path.coefficients[:, 0], path.intercepts[:, 0], strict=True))


def _objective(
    features: Features,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.floating],
    intercepts: npt.NDArray[np.floating],
    decay: float,
) -> float:
    logits: Array = features.astype(np.float64) @ weights.T.astype(np.float64) + intercepts
    largest = logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0] - logits[np.arange(len(labels)), labels]
    return float(losses.sum() + decay / 2 * np.square(weights, dtype=np.float64).sum())


if __name__ == "__main__":
    main()
