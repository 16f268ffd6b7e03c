"""The regularisation path against scikit-learn, and by the conditions that hold at every minimum."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from transfer.decay_path import DecayPath, Size, fit_path, needed_memory

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

EXACT = {"tolerance": 1e-8, "max_iterations": 2000}


def clouds(num: int, dim: int, classes: int, *, noise: float = 1.0, seed: int = 0) -> tuple[Array, Labels]:
    """Gaussian clouds far from the origin, with directions of very different variance; every class occurs."""
    draw = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), draw.integers(classes, size=num - classes)])
    centres = draw.normal(size=(classes, dim))
    features = 3 + (centres[labels] + noise * draw.normal(size=(num, dim))) * np.geomspace(2, 0.05, dim)
    return features, labels


def constant_column(num: int, dim: int, classes: int) -> tuple[Array, Labels]:
    features, labels = clouds(num, dim, classes)
    features[:, 1] = 7
    return features, labels


def collinear(num: int, dim: int, classes: int) -> tuple[Array, Labels]:
    features, labels = clouds(num, dim, classes)
    features[:, 2] = 2 * features[:, 0] - features[:, 3]
    return features, labels


def separable(num: int, dim: int, classes: int) -> tuple[Array, Labels]:
    return clouds(num, dim, classes, noise=0.01)


def objective(features: Array, labels: Labels, weights: Array, intercepts: Array, decay: float) -> float:
    """By its definition, in float64: softmax of K outputs, or the logistic function of one."""
    logits = features @ weights.T + intercepts
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    largest = logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0] - logits[np.arange(len(labels)), labels]
    return float(losses.sum() + decay / 2 * np.square(weights).sum())


def gradient(features: Array, labels: Labels, weights: Array, intercepts: Array, decay: float) -> tuple[Array, Array]:
    """Of the multinomial objective, by hand."""
    logits = features @ weights.T + intercepts
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    residuals = shares / shares.sum(axis=1, keepdims=True) - np.eye(len(weights))[labels]
    return residuals.T @ features + decay * weights, residuals.sum(axis=0)


def scikit_learn(features: Array, labels: Labels, decay: float) -> LogisticRegression:
    return LogisticRegression(C=1 / decay, tol=1e-10, max_iter=100_000, solver="newton-cg").fit(features, labels)


@pytest.mark.parametrize("make", [clouds, constant_column, collinear, separable])
@pytest.mark.parametrize(("num", "dim", "classes"), [(120, 6, 3), (90, 8, 2), (40, 60, 4)])
def test_coefficients_and_objective_are_scikit_learns(
    make: Callable[[int, int, int], tuple[Array, Labels]], num: int, dim: int, classes: int
) -> None:
    features, labels = make(num, dim, classes)
    decays = [0.01, 1.0, 30.0]
    path = fit_path(features, labels, decays, **EXACT)
    assert path.converged.all()
    for index, decay in enumerate(decays):
        oracle = scikit_learn(features, labels, decay)
        weights, intercepts = path.coefficients[index, 0], path.intercepts[index, 0]
        scale = np.abs(oracle.coef_).max()
        np.testing.assert_allclose(weights, oracle.coef_, atol=1e-4 * scale)
        ours, theirs = (
            objective(features, labels, *fit, decay)
            for fit in ((weights, intercepts), (oracle.coef_, oracle.intercept_))
        )
        assert ours == pytest.approx(theirs, rel=1e-6)
        assert path.objectives[index, 0] == pytest.approx(ours, rel=1e-7)


def test_columns_of_labels_are_binary_problems_of_their_own() -> None:
    features, labels = clouds(150, 7, 5)
    columns = np.stack([labels == 0, labels < 3, labels % 2 == 1], axis=1).astype(np.int64)
    path = fit_path(features, columns, [10.0, 0.1], **EXACT)
    assert path.coefficients.shape == (2, 3, 1, 7)
    for index, decay in enumerate((10.0, 0.1)):
        for column in range(3):
            oracle = scikit_learn(features, columns[:, column], decay)
            scale = np.abs(oracle.coef_).max()
            np.testing.assert_allclose(path.coefficients[index, column], oracle.coef_, atol=1e-4 * scale)
            np.testing.assert_allclose(path.intercepts[index, column], oracle.intercept_, atol=1e-4 * scale)


def columns_with_rows_left_out(labels: Labels) -> Labels:
    """Problems of 5, 3 and 4 classes, the last two without some of the rows."""
    three = np.where(labels < 3, labels, -1)
    four = np.where(np.arange(len(labels)) % 7 == 0, -1, labels % 4)
    return np.stack([labels, three, four], axis=1)


def assert_same_fits(ours: DecayPath, columns: slice, theirs: DecayPath, atol: float) -> None:
    outputs = theirs.coefficients.shape[2]
    np.testing.assert_allclose(ours.coefficients[:, columns, :outputs], theirs.coefficients, atol=atol)
    np.testing.assert_allclose(ours.intercepts[:, columns, :outputs], theirs.intercepts, atol=atol)
    np.testing.assert_allclose(ours.objectives[:, columns], theirs.objectives, rtol=1e-6)


def test_columns_of_several_classes_are_the_fits_of_their_own_rows() -> None:
    features, labels = clouds(150, 7, 5)
    columns = columns_with_rows_left_out(labels)
    decays = [30.0, 1.0, 0.1]
    path = fit_path(features, columns, decays, **EXACT)
    assert path.converged.all()
    for column, targets in enumerate(columns.T):
        rows = targets >= 0
        alone = fit_path(features[rows], targets[rows], decays, **EXACT)
        assert_same_fits(path, slice(column, column + 1), alone, atol=1e-5)


def test_output_that_a_problem_does_not_have_is_never_predicted() -> None:
    features, labels = clouds(150, 7, 5)
    path = fit_path(features, columns_with_rows_left_out(labels), [1.0])
    assert (path.coefficients[0, 1, 3:] == 0).all()
    assert (path.intercepts[0, 1, 3:] == -np.inf).all()
    assert set(path.logits(0, features)[:, 1].argmax(axis=1)) == {0, 1, 2}


def test_rows_left_out_of_a_binary_problem_do_not_matter() -> None:
    features, labels = clouds(150, 7, 3)
    targets = np.where(labels == 2, -1, labels)
    path = fit_path(features, targets, [5.0, 0.5], **EXACT)
    alone = fit_path(features[labels < 2], labels[labels < 2], [5.0, 0.5], **EXACT)
    assert path.coefficients.shape == (2, 1, 1, 7)
    assert_same_fits(path, slice(None), alone, atol=1e-5)


@pytest.mark.parametrize(("group", "num_pairs"), [(4, 60), (1, 60), (1, 20), (1, 5)])
def test_little_memory_changes_no_fit(group: int, num_pairs: int) -> None:
    features, labels = clouds(150, 7, 5)
    columns = np.concatenate([columns_with_rows_left_out(labels)] * 2, axis=1)
    memory = needed_memory(Size(150, 7, 6, 5, 2, 8), group, num_pairs)
    limited = fit_path(features, columns, [3.0, 0.3], memory=memory, **EXACT)
    assert limited.converged.all()
    assert_same_fits(limited, slice(None), fit_path(features, columns, [3.0, 0.3], **EXACT), atol=1e-5)


def test_too_little_memory_says_how_much_is_needed() -> None:
    features, labels = clouds(150, 7, 5)
    least = needed_memory(Size(150, 7, 1, 5, 1, 8), 1, 5)
    fit_path(features, labels, [1.0], memory=least)
    with pytest.raises(
        ValueError, match=r"expected at least \d\.\d+ GB .* 150 x 7 features, got .*raise --solver-memory"
    ):
        fit_path(features, labels, [1.0], memory=least - 1)


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
from transfer.decay_path import Size, fit_path, needed_memory
def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))
draw = np.random.default_rng(0)
features = draw.standard_normal((20_000, 400), dtype=np.float32)
labels = draw.integers(8, size=(20_000, 6))
fit_path(features[:500], labels[:500, :2], [10.0], max_iterations=2)  # libraries and threads have their memory
memory = needed_memory(Size(20_000, 400, 6, 8, 2, 4), int(sys.argv[1]), 60)
before = kib("VmRSS")
fit_path(features, labels, [10.0, 1.0], max_iterations=4, memory=memory)
print((kib("VmHWM") - before) * 1024 / memory)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("group", [6, 1])
def test_solver_stays_within_its_memory(group: int) -> None:
    child = subprocess.run(
        [sys.executable, "-c", PEAK, str(group)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.3 < float(child.stdout) <= 1


@settings(deadline=None, derandomize=True, database=None, max_examples=25)
@given(
    num=st.integers(12, 60),
    dim=st.integers(1, 30),
    classes=st.integers(3, 5),
    noise=st.sampled_from([0.01, 1.0, 10.0]),
    exponent=st.floats(-4, 4),
    seed=st.integers(0, 100),
)
def test_gradient_vanishes_at_every_fit(
    num: int, dim: int, classes: int, noise: float, exponent: float, seed: int
) -> None:
    features, labels = clouds(num, dim, classes, noise=noise, seed=seed)
    decay = 10**exponent
    path = fit_path(features, labels, [decay], **{**EXACT, "tolerance": 1e-8})
    slopes, offsets = gradient(features, labels, path.coefficients[0, 0], path.intercepts[0, 0], decay)
    at_zero = np.abs(gradient(features, labels, np.zeros((classes, dim)), np.zeros(classes), decay)[0]).max()
    assert np.abs(slopes).max() <= 1e-6 * max(at_zero, 1)
    assert np.abs(offsets).max() <= 1e-6 * num
    # for all classes the sum of the coefficients is 0: the penalty leaves no other choice
    np.testing.assert_allclose(
        path.coefficients[0, 0].sum(axis=0), 0, atol=1e-6 * (1 + np.abs(path.coefficients).max())
    )


def test_fits_do_not_depend_on_the_path_that_led_there() -> None:
    features, labels = clouds(200, 10, 4)
    decays = [float(x) for x in np.logspace(-1, 3, 13)]
    together = fit_path(features, labels, decays, **EXACT)
    for index in (0, 6, 12):
        alone = fit_path(features, labels, [decays[index]], **EXACT)
        np.testing.assert_allclose(together.coefficients[index], alone.coefficients[0], atol=1e-5)
    backwards = fit_path(features, labels, decays[::-1], **EXACT)
    np.testing.assert_array_equal(together.coefficients, backwards.coefficients[::-1])
    np.testing.assert_array_equal(together.weight_decays, backwards.weight_decays[::-1])


def test_default_tolerance_in_float32_is_within_a_few_thousandths_of_the_minimum() -> None:
    features, labels = clouds(400, 30, 6)
    decays = [float(x) for x in np.logspace(-6, 5, 45)]
    path = fit_path(features.astype(np.float32), labels, decays)
    exact = fit_path(features, labels, decays, **EXACT)
    assert path.converged.all()
    assert path.coefficients.dtype == np.float32
    found = [
        objective(features, labels, *(x[i, 0].astype(np.float64) for x in (path.coefficients, path.intercepts)), decay)
        for i, decay in enumerate(decays)
    ]
    excess = np.array(found) - exact.objectives[:, 0]
    # 1e-4 per example is the least that the tolerance is a thousandth of
    assert (excess <= 5e-3 * np.maximum(exact.objectives[:, 0], 1e-4 * len(labels))).all()


def test_certificate_is_the_gradient_that_is_left() -> None:
    features, labels = clouds(100, 5, 3)
    path = fit_path(features, labels, [1.0], tolerance=1e-3)
    centred = features - features.mean(axis=0)
    scale = np.sqrt(np.mean(centred**2))
    shifted = path.intercepts[0, 0] + path.coefficients[0, 0] @ features.mean(axis=0)
    left = gradient(centred / scale, labels, path.coefficients[0, 0] * scale, shifted, 1 / scale**2)
    priors = np.log(np.bincount(labels) / len(labels))
    start = gradient(centred / scale, labels, np.zeros((3, 5)), priors, 1 / scale**2)
    norms = [np.sqrt(sum(np.square(part).sum() for part in parts)) for parts in (left, start)]
    assert path.gradient_norms[0, 0] == pytest.approx(norms[0] / norms[1], rel=1e-6)
    assert path.gradient_norms[0, 0] <= 1e-3


def test_fit_that_runs_out_of_iterations_says_so() -> None:
    features, labels = clouds(200, 20, 4)
    path = fit_path(features, labels, [1e-6, 1e5], tolerance=1e-6, max_iterations=3)
    assert path.converged[:, 0].tolist() == [False, True]
    assert path.iterations[0] == 3
    assert path.gradient_norms[0, 0] > 1e-6


def test_precision_that_cannot_be_reached_ends_and_says_so() -> None:
    features, labels = clouds(200, 20, 4)
    path = fit_path(features.astype(np.float32), labels, [1e-3], tolerance=1e-14, max_iterations=500)
    assert not path.converged.any()
    assert np.isfinite(path.coefficients).all()


def test_logits_are_those_of_the_features_as_given() -> None:
    features, labels = clouds(50, 4, 3)
    path: DecayPath = fit_path(features, labels, [2.0, 1.0])
    expected = features @ path.coefficients[1, 0].T + path.intercepts[1, 0]
    np.testing.assert_allclose(path.logits(1, features)[:, 0], expected)


def test_input_is_left_alone() -> None:
    features, labels = clouds(50, 4, 3)
    before = features.copy()
    fit_path(features, labels, [1.0])
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, y: (np.where(np.arange(len(x))[:, None] == 7, np.nan, x), y),
            "1 rows of features are not finite, the first is 7",
        ),
        (lambda x, y: (x, y[:-1]), "expected one target for each of 50 rows of features, got 49"),
        (lambda x, y: (x, np.zeros_like(y)), "expected every class from 0 on to occur, at least two"),
        (lambda x, y: (x, y * 2), "expected every class from 0 on to occur"),
        (
            lambda x, y: (x, np.stack([y, 0 * y], axis=1)),
            r"at least two of them, in column 1 of the targets, got \[0\]",
        ),
        (lambda x, y: (x, np.stack([y, -2 * y], axis=1)), r"in column 1 of the targets, got \[-4, -2, 0\]"),
        (
            lambda x, y: (x, np.stack([y > 0, y], axis=1) * 1),
            "got both: column 0 has 2, column 1 has 3; fit them in two",
        ),
    ],
    ids=["nan", "fewer", "one class", "gap", "column of one class", "column below -1", "two classes beside three"],
)
def test_wrong_input_is_named(change: Callable[[Array, Labels], tuple[Array, Labels]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_path(*change(*clouds(50, 4, 3)), [1.0])


def test_decay_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected positive weight decays, got 0\.0"):
        fit_path(*clouds(50, 4, 3), [1.0, 0.0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_fits() -> None:
    features, labels = clouds(200, 10, 4)
    ours, theirs = (fit_path(features, labels, [1.0, 0.01], **EXACT, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(ours.coefficients, theirs.coefficients, atol=1e-6)
