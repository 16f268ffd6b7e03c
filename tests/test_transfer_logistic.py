"""The weight decay's choice and the fit, against plain scikit-learn and the reference's split."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from transfer import logistic
from transfer.logistic import SOLVER, WEIGHT_DECAYS, centre_and_scale, fit_and_predict, validation_split

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


def test_features_are_centred_on_the_training_mean_and_scaled_by_one_number() -> None:
    train, test = (features for features, _ in (_example(80, 12), _example(40, 12)))
    ours, ours_test, scale = centre_and_scale(train, test)
    assert np.sqrt(np.mean(ours**2)) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(ours * scale, train - train.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(ours_test * scale, test - train.mean(axis=0), atol=1e-4)


def test_features_that_do_not_vary_are_not_divided_by_zero() -> None:
    constant = np.full((6, 3), 7, dtype=np.float32)
    ours, _, scale = centre_and_scale(constant, constant)
    assert scale == 1
    assert not ours.any()


@pytest.mark.parametrize(("num", "dim"), [(90, 8), (30, 50)])
@pytest.mark.parametrize("decay", [0.1, 1.0, 100.0])
def test_fit_on_scaled_features_is_scikit_learns_on_the_features(num: int, dim: int, decay: float) -> None:
    features, labels = _example(2 * num, dim)
    train, test = features[:num], features[num:]
    ours, ours_test, scale = centre_and_scale(train, test)
    model = LogisticRegression(solver=SOLVER, tol=1e-7, max_iter=1_000)
    assert logistic._fit(model, ours.astype(np.float64), labels[:num], decay / scale**2)
    plain = LogisticRegression(C=1 / decay, tol=1e-10, max_iter=20_000).fit(train.astype(np.float64), labels[:num])
    np.testing.assert_allclose(model.predict_proba(ours_test), plain.predict_proba(test.astype(np.float64)), atol=1e-3)


def test_chosen_fit_minimises_the_published_objective() -> None:
    """At its minimum the gradient in the weights, sum (p - y) x + wd w, vanishes, computed here by hand."""
    features, labels = _example(120, 6)
    model = LogisticRegression(tol=1e-8, max_iter=5_000)
    assert logistic._fit(model, features.astype(np.float64), labels, decay=2.0)
    errors = model.predict_proba(features.astype(np.float64)) - np.eye(3)[labels]
    np.testing.assert_allclose(errors.T @ features + 2.0 * model.coef_, 0, atol=2e-3)
    np.testing.assert_allclose(errors.sum(axis=0), 0, atol=2e-3)  # the intercept is not penalised


def test_selection_and_refit_equal_a_plain_sweep() -> None:
    """Every decay fitted from zero on the features as they are; refit on everything at the best."""
    features, labels = _example(400, 6, noise=2.0)
    train, test, known = features[:200], features[200:], labels[:200]
    fitted, held_out = validation_split(200)
    scores = [
        _plain(train[fitted], known[fitted], decay).score(train[held_out], known[held_out]) for decay in WEIGHT_DECAYS
    ]
    best = WEIGHT_DECAYS[int(np.argmax(scores))]  # the first, hence the smallest
    fit = fit_and_predict(train, known, test, max_iterations=2000)
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
