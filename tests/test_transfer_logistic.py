"""The weight decay's choice and the fit, against plain scikit-learn and the reference's split."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from converters.errors import InputError
from transfer.logistic import SOLVERS, WEIGHT_DECAYS, fit_and_predict, validation_split

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def _example(num: int, dim: int, *, noise: float = 1.0, classes: int = 3) -> tuple[Features, Labels]:
    """Gaussian clouds with a common mean far from zero and directions of very different variance."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(classes, dim))
    labels = draw.integers(classes, size=num)
    spread = np.geomspace(2, 0.05, dim)
    features = 3 + (centres[labels] + noise * draw.normal(size=(num, dim))) * spread
    return features.astype(np.float32), labels


def test_grid_is_the_published_one() -> None:
    assert len(WEIGHT_DECAYS) == 45
    assert (WEIGHT_DECAYS[0], WEIGHT_DECAYS[-1]) == pytest.approx((1e-6, 1e5))
    ratios = np.divide(WEIGHT_DECAYS[1:], WEIGHT_DECAYS[:-1])
    np.testing.assert_allclose(ratios, 10**0.25, rtol=1e-9)


@pytest.mark.parametrize("num", [1, 4, 5, 37, 2500])
def test_split_is_the_references(num: int) -> None:
    state = np.random.get_state()  # noqa: NPY002 - the reference seeds NumPy's global generator
    np.random.seed(0)  # noqa: NPY002
    order = np.arange(num)
    np.random.shuffle(order)  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    fitted, held_out = validation_split(num)
    assert held_out.tolist() == order[: int(np.floor(0.2 * num))].tolist()
    assert fitted.tolist() == order[int(np.floor(0.2 * num)) :].tolist()


def test_split_leaves_the_global_generator_alone() -> None:
    draws = []
    for touch in (lambda: None, lambda: validation_split(100)):
        np.random.seed(7)  # noqa: NPY002
        touch()
        draws.append(np.random.random())  # noqa: NPY002
    assert draws[0] == draws[1]


@pytest.mark.parametrize("solver", SOLVERS)
def test_selection_and_refit_equal_a_plain_sweep(solver: str) -> None:
    """Every decay fitted from zero on the features as they are; refit on everything at the best."""
    features, labels = _example(400, 6, noise=2.0)
    train, test, known = features[:200], features[200:], labels[:200]
    fitted, held_out = validation_split(200)
    scores = [
        _plain(train[fitted], known[fitted], decay).score(train[held_out], known[held_out]) for decay in WEIGHT_DECAYS
    ]
    best = WEIGHT_DECAYS[int(np.argmax(scores))]  # the first, hence the smallest
    fit = fit_and_predict(train, known, test, solver=solver, max_iterations=2000)
    assert fit.weight_decay == pytest.approx(best)
    assert fit.validation_accuracy == pytest.approx(max(scores))
    assert fit.predicted.tolist() == _plain(train, known, best).predict(test).tolist()
    assert fit.num_unconverged == 0
    assert fit.converged


def _plain(features: Features, labels: Labels, decay: float) -> LogisticRegression:
    return LogisticRegression(C=1 / decay, tol=1e-6, max_iter=20_000).fit(features.astype(np.float64), labels)


def test_of_equally_good_decays_the_smallest_is_chosen() -> None:
    labels = np.arange(60) % 3
    features = (10 * np.eye(3, dtype=np.float32))[labels]  # separable: nearly every decay scores 1
    fit = fit_and_predict(features, labels, features)
    assert fit.validation_accuracy == 1
    assert fit.weight_decay == WEIGHT_DECAYS[0]


def test_fits_that_run_out_of_iterations_are_counted_without_a_warning() -> None:
    features, labels = _example(150, 10)
    fit = fit_and_predict(features, labels, features, max_iterations=1)
    assert 0 < fit.num_unconverged <= len(WEIGHT_DECAYS)


def test_permuted_labels_give_chance() -> None:
    features, labels = _example(900, 10)
    permuted = np.random.default_rng(1).permutation(labels)
    fit = fit_and_predict(features[:300], permuted[:300], features[300:])
    assert np.mean(fit.predicted == permuted[300:]) == pytest.approx(1 / 3, abs=0.06)  # three deviations
    true = fit_and_predict(features[:300], labels[:300], features[300:])
    assert np.mean(true.predicted == labels[300:]) > 0.6


@pytest.mark.parametrize("solver", SOLVERS)
def test_class_that_a_fold_lacks_is_never_predicted_there_and_harms_nothing(solver: str) -> None:
    features, labels = _example(60, 6)
    labels[labels == 2] = 1
    labels[validation_split(60)[1][0]] = 2  # its only example is held out
    fit = fit_and_predict(features, labels, features, solver=solver)
    assert fit.converged
    assert set(fit.predicted.tolist()) <= {0, 1, 2}


def test_both_solvers_agree_on_what_matters() -> None:
    features, labels = _example(600, 20, noise=2.0, classes=5)
    ours, theirs = (fit_and_predict(features[:300], labels[:300], features[300:], solver=each) for each in SOLVERS)
    assert ours.validation_accuracy == pytest.approx(theirs.validation_accuracy, abs=0.02)
    assert np.mean(ours.predicted == theirs.predicted) > 0.9  # they may choose neighbouring decays


def test_two_classes_are_a_binary_problem_as_in_scikit_learn() -> None:
    features, labels = _example(200, 6, noise=2.0, classes=2)
    ours, theirs = (fit_and_predict(features, 3 + labels, features, solver=each) for each in SOLVERS)
    assert set(ours.predicted.tolist()) == {3, 4}
    assert np.mean(ours.predicted == theirs.predicted) > 0.97


def test_unknown_solver_and_features_that_are_not_finite_are_refused() -> None:
    features, labels = _example(50, 4)
    with pytest.raises(InputError, match=r"unknown solver 'lbfgs'"):
        fit_and_predict(features, labels, features, solver="lbfgs")
    features[validation_split(50)[0][3]] = np.inf
    with pytest.raises(InputError, match="1 rows of features are not finite"):
        fit_and_predict(features, labels, features)
