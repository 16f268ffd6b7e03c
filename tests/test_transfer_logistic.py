"""The weight decay's choice and the fit, against plain scikit-learn and the reference's split."""

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from converters.errors import InputError
from transfer.logistic import (
    SOLVERS,
    WEIGHT_DECAYS,
    Examples,
    Fit,
    Solver,
    fit_one,
    select_and_fit,
    validation_split,
)
from transfer.metrics import Labels, Scores, accuracy, mean_average_precision, rank

Features = npt.NDArray[np.float32]


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


def _accuracy(labels: Labels, logits: Scores) -> float:
    return accuracy(labels, logits.argmax(axis=1))


def _average_precision(labels: Labels, logits: Scores) -> float:
    return mean_average_precision(rank(labels, logits))


def _fit(train: Features, labels: Labels, test: Features, **solver: object) -> Fit:
    return select_and_fit(Examples(train, labels), None, test, _accuracy, Solver(**solver))  # type: ignore[arg-type]


def _plain(features: Features, labels: Labels, decay: float) -> LogisticRegression:
    return LogisticRegression(C=1 / decay, tol=1e-6, max_iter=20_000).fit(features.astype(np.float64), labels)


def test_selection_and_refit_equal_a_plain_sweep() -> None:
    """Every decay fitted from zero on the features as they are; refit on everything at the best."""
    features, labels = _example(400, 6, noise=2.0)
    train, test, known = features[:200], features[200:], labels[:200]
    fitted, held_out = validation_split(200)
    scores = [
        _plain(train[fitted], known[fitted], decay).score(train[held_out], known[held_out]) for decay in WEIGHT_DECAYS
    ]
    best = WEIGHT_DECAYS[int(np.argmax(scores))]  # the first, hence the smallest
    fit = _fit(train, known, test)
    assert fit.weight_decay == pytest.approx(best)
    assert fit.validation_scores.max() == pytest.approx(max(scores))
    assert fit.logits.argmax(axis=1).tolist() == _plain(train, known, best).predict(test).tolist()
    assert fit.sweep.converged.all()
    assert fit.final.converged.tolist() == [True]


def test_sklearn_is_the_published_procedure() -> None:
    """linusericsson/ssl-transfer, linear.py: strictly better scores win, and the last fit starts from the last one."""
    features, labels = _example(400, 6, noise=2.0)
    train, test, known = features[:200], features[200:], labels[:200]
    fitted, held_out = validation_split(200)
    model, best, best_decay = LogisticRegression(max_iter=100, warm_start=True), -1.0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for decay in WEIGHT_DECAYS:
            model.set_params(C=1 / decay, tol=1e-4 / len(fitted)).fit(train[fitted], known[fitted])
            score = model.score(train[held_out], known[held_out])
            if score > best:
                best, best_decay = score, decay
        model.set_params(C=1 / best_decay, tol=1e-4 / 200).fit(train, known)
    fit = _fit(train, known, test, name="sklearn")
    assert fit.weight_decay == best_decay
    np.testing.assert_allclose(fit.logits, model.decision_function(test), rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_given_validation_split_chooses_and_is_fitted_with_the_rest(solver: str) -> None:
    features, labels = _example(500, 6, noise=2.0)
    train, val, test = (Examples(features[rows], labels[rows]) for rows in np.split(np.arange(500), [150, 300]))
    scores = [_plain(train.features, train.labels, wd).score(val.features, val.labels) for wd in WEIGHT_DECAYS]
    best = WEIGHT_DECAYS[int(np.argmax(scores))]
    fit = select_and_fit(train, val, test.features, _accuracy, Solver(solver, max_iterations=2000))
    assert fit.weight_decay == pytest.approx(best)
    both = _plain(features[:300], labels[:300], best)
    assert fit.logits.argmax(axis=1).tolist() == both.predict(test.features).tolist()
    # not the training examples' alone, which predict something else
    alone = _plain(train.features, train.labels, best)
    assert alone.predict(test.features).tolist() != both.predict(test.features).tolist()


def test_of_equally_good_decays_the_smallest_is_chosen() -> None:
    """Two far clouds: every decay is right about all of them but the strongest, if any."""
    features, labels = _example(100, 2, noise=0.01, classes=2)
    fit = _fit(features, labels, features)
    assert fit.validation_scores.max() == 1.0
    assert fit.weight_decay == WEIGHT_DECAYS[0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_fits_that_run_out_of_iterations_are_reported_with_their_gradient(solver: str) -> None:
    features, labels = _example(150, 10)
    fit = _fit(features, labels, features, name=solver, max_iterations=1)
    assert not fit.sweep.converged.all()
    assert fit.sweep.gradient_norms[~fit.sweep.converged].max() > 1e-3
    assert len(fit.sweep.iterations) == len(fit.sweep.gradient_norms) == 45
    whole = _fit(features, labels, features, name=solver, max_iterations=2000)
    assert whole.sweep.converged.all()
    assert whole.sweep.gradient_norms.max() < fit.sweep.gradient_norms.max()


def test_permuted_labels_give_chance() -> None:
    features, labels = _example(900, 10)
    permuted = np.random.default_rng(1).permutation(labels)
    fit = _fit(features[:300], permuted[:300], features[300:])
    assert _accuracy(permuted[300:], fit.logits) == pytest.approx(1 / 3, abs=0.06)  # three deviations
    true = _fit(features[:300], labels[:300], features[300:])
    assert _accuracy(labels[300:], true.logits) > 0.6


@pytest.mark.parametrize("solver", SOLVERS)
def test_class_that_a_fold_lacks_is_never_predicted_there_and_harms_nothing(solver: str) -> None:
    features, labels = _example(60, 6)
    labels[labels == 2] = 1
    labels[validation_split(60)[1][0]] = 2  # its only example is held out
    fit = _fit(features, labels, features, name=solver)
    assert fit.final.converged.all()
    assert fit.logits.shape == (60, 3)
    assert np.isfinite(fit.logits).all()  # the final fit knows it
    assert fit.validation_scores.max() < 1  # and the sweep did not


def test_both_solvers_agree_on_what_matters() -> None:
    features, labels = _example(600, 20, noise=2.0, classes=5)
    ours, theirs = (_fit(features[:300], labels[:300], features[300:], name=each) for each in SOLVERS)
    assert ours.validation_scores.max() == pytest.approx(theirs.validation_scores.max(), abs=0.02)
    assert np.mean(ours.logits.argmax(1) == theirs.logits.argmax(1)) > 0.85  # they may choose neighbouring decays


def test_two_classes_are_a_binary_problem_as_in_scikit_learn() -> None:
    features, labels = _example(200, 6, noise=2.0, classes=2)
    ours, theirs = (_fit(features, 3 + labels, features, name=each) for each in SOLVERS)
    assert set(ours.logits.argmax(1).tolist()) == {3, 4}
    assert np.mean(ours.logits.argmax(1) == theirs.logits.argmax(1)) > 0.97


# --- several labels per image ---


def _labelled(num: int = 400) -> tuple[Features, Labels]:
    features, _ = _example(num, 6, noise=2.0)
    draw = np.random.default_rng(9)
    scores = (features - features.mean(0)) @ draw.normal(size=(6, 4)) + draw.normal(size=(num, 4))
    labels = (scores > 0.5).astype(np.int8)
    labels[draw.random(labels.shape) < 0.1] = -1
    return features, labels


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_labels_are_a_binary_problem_each_without_the_rows_left_out(solver: str) -> None:
    features, labels = _labelled()
    train, val = Examples(features[:200], labels[:200]), Examples(features[200:], labels[200:])
    fit = select_and_fit(train, val, features, _average_precision, Solver(solver, max_iterations=2000))
    for column in range(4):
        kept = labels[:, column] != -1
        alone = _plain(features[kept], labels[kept, column], fit.weight_decay).decision_function(features)
        as_absent = _plain(features, np.maximum(labels[:, column], 0), fit.weight_decay).decision_function(features)
        # the fits stop at a gradient of a thousandth, and the logits of nearly separable classes are long
        assert _distance(fit.logits[:, column], alone) < 0.05
        assert _distance(fit.logits[:, column], as_absent) > 2 * _distance(fit.logits[:, column], alone)


def _distance(a: Scores, b: Scores) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_halved_penalty_is_the_softmax_of_two_classes() -> None:
    """Two rows of weights share the penalty: at the minimum they are opposite, and half the binary problem's weights.

    Their sum of squares is then half of it, so that the softmax under a decay is the binary problem under half of it.
    """
    features, labels = _labelled()
    labels = np.maximum(labels, 0)
    index = 28  # a decay of 10
    logits, unhalved = (
        fit_one(Examples(features, labels), None, features, index, Solver(penalty=penalty)) for penalty in (0.5, 1.0)
    )
    for column in range(4):
        weights = _softmax_of_two(features.astype(np.float64), labels[:, column], WEIGHT_DECAYS[index])
        expected = np.c_[features, np.ones(len(features))] @ (weights[1] - weights[0])
        np.testing.assert_allclose(logits[:, column], expected, rtol=0.02, atol=0.02)
        assert np.abs(unhalved[:, column] - expected).max() > 0.1


def _softmax_of_two(features: npt.NDArray[np.float64], labels: Labels, decay: float) -> npt.NDArray[np.float64]:
    """The objective of Ericsson et al. 2021 by SciPy: both rows penalised, intercepts not."""
    design, one_hot = np.c_[features, np.ones(len(features))], np.eye(2)[labels]

    def objective(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = flat.reshape(2, -1)
        penalised = weights * (np.arange(weights.shape[1]) < features.shape[1])
        logits = design @ weights.T
        total = np.logaddexp.reduce(logits, axis=1, keepdims=True)
        gradient = (np.exp(logits - total) - one_hot).T @ design + decay * penalised
        return float(total.sum() - (one_hot * logits).sum() + decay / 2 * np.square(penalised).sum()), gradient.ravel()

    start = np.zeros(2 * design.shape[1])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-8, "ftol": 0})
    weights: npt.NDArray[np.float64] = found.x.reshape(2, -1)
    return weights


def test_fit_of_one_decay_is_the_final_fit_of_a_selection_that_chose_it() -> None:
    features, labels = _example(300, 6, noise=2.0)
    train, val = Examples(features[:150], labels[:150]), Examples(features[150:], labels[150:])
    fit = select_and_fit(train, val, features, _accuracy)
    np.testing.assert_array_equal(
        fit_one(train, val, features, WEIGHT_DECAYS.index(fit.weight_decay), Solver()), fit.logits
    )


def test_memory_that_does_not_suffice_is_the_users_to_raise_in_every_fit() -> None:
    features, labels = _example(300, 6)
    examples, little = Examples(features, labels), Solver(memory=1000)
    with pytest.raises(InputError, match="raise --solver-memory"):
        select_and_fit(examples, None, features, _accuracy, little)
    with pytest.raises(InputError, match="raise --solver-memory"):
        fit_one(examples, None, features, 20, little)


def test_error_in_a_metric_is_no_mistake_of_the_user() -> None:
    features, labels = _example(300, 6)

    def broken(labels: Labels, logits: Scores) -> float:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug") as caught:
        select_and_fit(Examples(features, labels), None, features, broken)
    assert not isinstance(caught.value, InputError)


def test_unknown_solver_and_features_that_are_not_finite_are_refused() -> None:
    features, labels = _example(50, 4)
    with pytest.raises(InputError, match=r"unknown solver 'lbfgs'"):
        _fit(features, labels, features, name="lbfgs")
    features[validation_split(50)[0][3]] = np.inf
    with pytest.raises(InputError, match="1 rows of features are not finite"):
        _fit(features, labels, features)
