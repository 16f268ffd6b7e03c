"""The published procedure: its order of fits, its warm starts, and the certificate that it does not give itself."""

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from transfer.decay_path import fit_path
from transfer.metrics import Labels
from transfer.reference import Reference, certify

Array = npt.NDArray[np.float64]

DECAYS = (1e-3, 0.1, 10.0)


def _clouds(num: int = 200, dim: int = 8, classes: int = 4) -> tuple[Array, Labels]:
    draw = np.random.default_rng(0)
    labels = np.arange(num) % classes
    return draw.normal(size=(classes, dim))[labels] + 1.5 * draw.normal(size=(num, dim)), labels


def test_sweep_and_refit_are_the_published_loop() -> None:
    """One estimator with a warm start: each decay from the one before, and the last fit from the strongest one."""
    features, labels = _clouds()
    reference = Reference(max_iterations=7)
    path = reference.fit_path(features[:100], labels[:100], DECAYS)
    refit = reference.fit_path(features, labels, DECAYS[:1])
    model = LogisticRegression(max_iter=7, warm_start=True)
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for decay in DECAYS:
            model.set_params(C=1 / decay, tol=1e-4 / 100).fit(features[:100], labels[:100])
            expected.append(model.coef_.copy())
        model.set_params(C=1 / DECAYS[0], tol=1e-4 / 200).fit(features, labels)
    np.testing.assert_array_equal(path.coefficients[:, 0], expected)
    np.testing.assert_array_equal(refit.coefficients[0, 0], model.coef_)


def test_each_binary_problem_starts_from_the_one_before() -> None:
    features, labels = _clouds()
    targets = np.stack([labels == 0, labels == 1], axis=1).astype(np.int64)
    path = Reference(max_iterations=3).fit_path(features, targets, DECAYS[:1])
    model = LogisticRegression(max_iter=3, warm_start=True, C=1 / DECAYS[0], tol=1e-4 / 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for column in range(2):
            model.fit(features, targets[:, column])
            np.testing.assert_array_equal(path.coefficients[0, column], model.coef_)


@pytest.mark.parametrize("classes", [2, 4])
def test_certificate_is_that_of_our_own_path(classes: int) -> None:
    """Objective and relative gradient norm of converged fits, by NumPy here and by torch there."""
    features, labels = _clouds(classes=classes)
    theirs = Reference(max_iterations=5000).fit_path(features, labels, DECAYS)
    ours = fit_path(features, labels, DECAYS, tolerance=1e-7, max_iterations=2000)
    assert theirs.converged.all()
    np.testing.assert_allclose(theirs.objectives, ours.objectives, rtol=1e-6)
    assert theirs.gradient_norms.max() < 1e-4
    short = Reference(max_iterations=2).fit_path(features, labels, DECAYS)
    assert not short.converged.all()
    assert (short.objectives >= ours.objectives * (1 - 1e-9)).all()
    assert short.gradient_norms.max() > 1e-3


def test_gradient_norm_of_no_fit_is_one() -> None:
    """Weights that the penalty holds at almost nothing leave the objective's gradient as it was without them."""
    features, labels = _clouds()  # balanced classes: the right intercepts are 0
    weights, intercepts = np.zeros((4, 8)), np.zeros(4)
    objective, norm = certify(features, labels, weights, intercepts, 1.0)
    assert objective == pytest.approx(200 * np.log(4))
    assert norm == pytest.approx(1)


def test_rows_that_are_left_out_do_not_count() -> None:
    features, labels = _clouds(classes=2)
    targets = labels[:, None].copy()
    targets[::3] = -1
    path = Reference(5000).fit_path(features, targets, DECAYS)
    kept = targets[:, 0] >= 0
    alone = Reference(5000).fit_path(features[kept], labels[kept], DECAYS)
    np.testing.assert_array_equal(path.coefficients, alone.coefficients)
    np.testing.assert_array_equal(path.gradient_norms, alone.gradient_norms)


def test_another_number_of_classes_starts_afresh() -> None:
    features, labels = _clouds()
    reference = Reference()
    reference.fit_path(features[labels < 3], labels[labels < 3], DECAYS)
    path = reference.fit_path(features, labels, DECAYS)
    np.testing.assert_array_equal(path.coefficients, Reference().fit_path(features, labels, DECAYS).coefficients)
