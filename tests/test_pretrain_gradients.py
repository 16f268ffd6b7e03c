"""The unified form of every method's gradient: what autograd gives, what the papers write, and what is logged of it."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain import objectives
from pretrain.gradients import Gradient, alignment, describe, uniformity
from pretrain.siamese import Batch

NUM_IMAGES, DIM = 6, 5
LOGGED = {"alignment", "balance", "negative_norm", "positive_norm", "terms_angle", "uniformity"}
each_method = pytest.mark.parametrize("name", objectives.names())
each_momentum = pytest.mark.parametrize("momentum", [None, 0.9])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def config_of(name: str, **options: Any) -> Any:
    """The defaults, but for the widths of the heads, and what is large besides."""
    config = objectives.find(name).Config
    small = {"predictor_dim": 4, "queue": 11, "prototypes": 7, "splits": 2}
    if name == "swav":
        del small["queue"]
    known = {key: value for key, value in small.items() if key in vars(config())}
    return config(**{"projector_dims": [8, DIM], **known, **options})


def build(name: str, **options: Any) -> Any:
    """In float64, with a target unlike the online network, and projections that vary much in some dimensions."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    objective = objectives.find(name).Method(config_of(name, **options), backbone, 5)
    with torch.no_grad():
        if isinstance(objective.projector[-1], nn.Linear):
            objective.projector[-1].weight[::2] *= 8  # on both sides of VICReg's hinge
        if objective.momentum is not None:
            for x in objective.target.parameters():
                x += 0.3 * torch.randn_like(x)
    return objective.double()


def random_views(objective: Any, seed: int = 0) -> list[Tensor]:
    return list(randn(objective.num_views, NUM_IMAGES, 3, 6, 6, seed=seed))


def compared(objective: Any, seed: int = 0) -> tuple[Batch, Tensor]:
    """A batch after its comparison, and the loss; an earlier one is in the moving averages already."""
    objective(random_views(objective, seed + 100), generator(seed + 1))
    g = generator(seed)
    batch = objective.embed(random_views(objective, seed), g)
    return batch, objective.compare(batch, g)["loss"]


def variants() -> list[Any]:
    """Every method, by every option that its gradient depends on."""
    found = []
    for name in objectives.names():
        config = objectives.find(name).Config
        choices: dict[str, list[Any]] = {"momentum": [None, 0.9]}
        if config.unguided is None:
            choices |= {"views": [2, 4], "guidance": ["guided", "symmetric"]}
        if hasattr(config, "predictor"):
            choices |= {"predictor": ["mlp", "none", "directpred"]}
        for values in itertools.product(*choices.values()):
            options = dict(zip(choices, values, strict=True))
            found.append(pytest.param(name, options, id="-".join([name, *map(str, values)])))
    return found


@pytest.mark.parametrize(("name", "options"), variants())
def test_terms_pulled_back_to_the_projections_are_autograds_gradient(name: str, options: dict[str, Any]) -> None:
    objective = build(name, **options)
    batch, loss = compared(objective)
    positive, negative = objective.gradient(batch).pulled_back()
    expected = NUM_IMAGES * torch.autograd.grad(loss, batch.online)[0][0]
    assert expected.norm() > 1e-3
    # a balance that is one number is kept in single precision
    torch.testing.assert_close(positive + negative, expected, rtol=1e-6, atol=1e-7 * positive.norm().item())
    assert not positive.requires_grad
    assert not negative.requires_grad


# What the papers write (Tao et al. 2022, section 3), by loops, times the number of images.


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def softmax(logits: list[Tensor]) -> list[Tensor]:
    total = sum((x.exp() for x in logits), torch.zeros(()))
    return [x.exp() / total for x in logits]


def terms(name: str, **options: Any) -> tuple[Any, Batch, Tensor, Tensor, Tensor]:
    """An objective, its batch, and the terms as they are before they are pulled back."""
    objective = build(name, **options)
    batch, _ = compared(objective)
    gradient = objective.gradient(batch)
    return objective, batch, gradient.positive.detach(), gradient.negative.detach(), gradient.balance.detach()


def simclr_form(online: Tensor, target: Tensor, temperature: float, own: bool) -> tuple[Tensor, Tensor]:
    """-u2 + sum_v s_v v; where the targets are the network's own, also as a candidate of every other anchor."""
    u, v = unit(online), unit(target)
    views = list(itertools.product(range(2), range(NUM_IMAGES)))
    positive, negative = torch.zeros_like(u[0]), torch.zeros_like(u[0])
    for view, n in views:
        if view == 1 and not own:  # its anchors have no gradient in the first view
            continue
        candidates = [place for place in views if place != (view, n)]
        scores = softmax([u[view, n] @ v[place] / temperature for place in candidates])
        if view == 0:
            positive[n] -= v[1, n]
            for score, place in zip(scores, candidates, strict=True):
                negative[n] += score * v[place]
        if own:
            for score, (other_view, m) in zip(scores, candidates, strict=True):
                if other_view == 0:
                    negative[m] += score * u[view, n]
            if view == 1:
                positive[n] -= u[1, n]
    return positive / (2 * temperature), negative / (2 * temperature)  # the mean over two views' anchors


@each_momentum
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclrs_terms_are_the_papers(momentum: float | None, temperature: float) -> None:
    _, batch, *ours = terms("simclr", momentum=momentum, temperature=temperature)
    online, target = batch.online.detach(), batch.target.detach()
    expected = simclr_form(online, target, temperature, own=momentum is None)
    torch.testing.assert_close(ours[:2], list(expected))
    assert ours[2] == 1


@each_momentum
def test_mocos_terms_are_the_papers(momentum: float | None) -> None:
    objective, batch, positive, negative, balance = terms("moco", momentum=momentum)
    q, k = unit(batch.online[0].detach()), unit(batch.target[0])
    for n in range(NUM_IMAGES):
        candidates = [k[n], *objective.queue.rows]
        scores = softmax([q[n] @ x / 0.2 for x in candidates])
        torch.testing.assert_close(positive[n], -k[n] / 0.2)
        pushed = torch.stack([score * x for score, x in zip(scores, candidates, strict=True)]).sum(0)
        torch.testing.assert_close(negative[n], pushed / 0.2)
    assert balance == 1


@each_momentum
def test_swavs_terms_are_prototypes_by_code_and_by_score(momentum: float | None) -> None:
    objective, batch, positive, negative, balance = terms("swav", momentum=momentum)
    assert batch.codes is not None
    u, c = unit(batch.online[0].detach()), objective.prototypes.weight.detach()
    for n in range(NUM_IMAGES):
        scores = softmax([u[n] @ prototype / 0.1 for prototype in c])
        by_code = torch.stack([code * x for code, x in zip(batch.codes[1, n], c, strict=True)]).sum(0)
        by_score = torch.stack([score * x for score, x in zip(scores, c, strict=True)]).sum(0)
        torch.testing.assert_close(positive[n], -by_code / (2 * 0.1))
        torch.testing.assert_close(negative[n], by_score / (2 * 0.1))
    assert balance == 1


@pytest.mark.parametrize(("momentum", "share"), [(None, 1.0), (0.9, 0.5)])
def test_barlow_twins_terms_are_the_papers(momentum: float | None, share: float) -> None:
    """2 (-A u2 + lambda sum_v (u2.v2 / N) v1), A = I - (1 - lambda) diag(c); a view with gradient is in one or both."""
    _, batch, positive, negative, balance = terms("barlow_twins", momentum=momentum)
    norm = nn.BatchNorm1d(DIM, affine=False).double()
    x, y = norm(batch.online[0].detach()), norm(batch.target[1].detach())
    diagonal = torch.stack([x[:, i] @ y[:, i] / NUM_IMAGES for i in range(DIM)])
    a = torch.eye(DIM).double() - (1 - 0.0051) * diagonal.diag()
    for n in range(NUM_IMAGES):
        torch.testing.assert_close(positive[n], -2 * share * a @ y[n])
        pushed = torch.stack([(y[n] @ y[m]) / NUM_IMAGES * x[m] for m in range(NUM_IMAGES)]).sum(0)
        torch.testing.assert_close(negative[n], 2 * share * pushed)
    assert balance.item() == pytest.approx(0.0051)


@pytest.mark.parametrize(("momentum", "share"), [(None, 2.0), (0.9, 1.0)])
def test_vicregs_terms_are_written_out(momentum: float | None, share: float) -> None:
    _, batch, positive, negative, balance = terms("vicreg", momentum=momentum)
    z, other = batch.online[0].detach(), batch.target[1].detach()
    centred = z - z.mean(0)
    covariance = torch.stack([torch.outer(x, x) for x in centred]).sum(0) / (NUM_IMAGES - 1)
    deviation = (z.var(0) + 1e-4).sqrt()
    assert (deviation < 1).any()
    assert (deviation > 1).any()
    for n, i in itertools.product(range(NUM_IMAGES), range(DIM)):
        # N times the derivative of 25 |z - other|^2 / (N D), of one direction or two, halved by their mean
        pull = share * 25 / DIM
        hinge = -25 / (2 * DIM) * (deviation[i] < 1) * centred[n, i] / deviation[i] / (NUM_IMAGES - 1)
        squares = sum(4 * covariance[i, j] * centred[n, j] / (NUM_IMAGES - 1) for j in range(DIM) if j != i) / DIM
        torch.testing.assert_close(positive[n, i], -pull * other[n, i])
        torch.testing.assert_close(negative[n, i], pull * z[n, i] + NUM_IMAGES * (hinge + squares))
    assert balance == 1


@each_momentum
@pytest.mark.parametrize("num_views", [2, 4])
def test_unigrads_terms_are_its_definition(momentum: float | None, num_views: int) -> None:
    objective, batch, positive, negative, balance = terms("unigrad", momentum=momentum, views=num_views)
    u, t = unit(batch.online[0].detach()), unit(batch.target[1].detach())
    for n in range(NUM_IMAGES):
        torch.testing.assert_close(positive[n], -t[n] / num_views)  # one of the views whose mean is the loss
        torch.testing.assert_close(negative[n], objective.correlation.current @ u[n] / num_views)
    assert balance == 100


@pytest.mark.parametrize("name", ["simsiam", "byol"])
@pytest.mark.parametrize("predictor", ["directpred", "none"])
@pytest.mark.parametrize("num_views", [2, 4])
def test_linear_predictors_terms_are_the_papers(name: str, predictor: str, num_views: int) -> None:
    """(-W^T u2 + lambda W^T W u1) / |W u1|, lambda = u1^T W^T u2 / u1^T W^T W u1, here of z1 = |z1| u1."""
    objective = build(name, predictor=predictor, guidance="symmetric", views=num_views)
    batch, _ = compared(objective)
    gradient = objective.gradient(batch)
    positive, negative = gradient.pulled_back()
    w = objective.predictor.matrix if predictor == "directpred" else torch.eye(DIM).double()
    z, t = batch.online[0].detach(), unit(batch.target[1].detach())
    for n in range(NUM_IMAGES):
        length = (w @ z[n]).norm()
        balance = (z[n] @ w.T @ t[n]) / (z[n] @ w.T @ w @ z[n])
        torch.testing.assert_close(positive[n], -w.T @ t[n] / length / num_views)
        torch.testing.assert_close(negative[n], balance * w.T @ w @ z[n] / length / num_views)
        torch.testing.assert_close(gradient.balance[n, 0].detach(), balance * length)  # of a unit vector's prediction


@pytest.mark.parametrize("name", ["simsiam", "byol", "unigrad"])
@pytest.mark.parametrize("num_views", [2, 4])
def test_images_whose_first_view_is_no_source_have_no_terms(name: str, num_views: int) -> None:
    objective = build(name, guidance="guided", views=num_views)
    batch, _ = compared(objective)
    positive, negative = objective.gradient(batch).pulled_back()
    assert batch.sources is not None
    if name != "unigrad":
        positive = objective.gradient(batch).positive  # before batch norm in the predictor joins the images
    silent = (batch.sources != 0).all(0)
    assert 0 < silent.sum() < NUM_IMAGES
    assert (positive[silent] == 0).all()
    assert (positive[~silent] != 0).any(1).all()
    if name == "unigrad":
        assert (negative[silent] == 0).all()


def logging(name: str, logs: bool, **options: Any) -> Any:
    objective = build(name, **options)
    objective.prepare(batch_size=NUM_IMAGES, num_local=0, cutmix=None, gradients=logs)
    return objective


@each_method
@each_momentum
def test_logging_changes_neither_loss_nor_gradients_nor_any_state(name: str, momentum: float | None) -> None:
    seen = []
    for logs in (False, True):
        objective = logging(name, logs, momentum=momentum)
        for seed in range(2):
            outputs = objective(random_views(objective, seed), generator(seed))
        outputs["loss"].backward()
        gradients = {key: x.grad for key, x in objective.named_parameters() if x.requires_grad}
        seen.append((outputs, gradients, objective.state_dict()))
    (plain, plain_gradients, plain_state), (logged, logged_gradients, logged_state) = seen
    assert set(logged) - set(plain) == LOGGED
    assert all(torch.equal(plain[key], logged[key]) for key in plain)
    for before, after in ((plain_gradients, logged_gradients), (plain_state, logged_state)):
        assert list(before) == list(after)
        assert all(torch.equal(before[key], after[key]) for key in before)


@each_method
@each_momentum
def test_logged_numbers_are_scalars_within_their_ranges(name: str, momentum: float | None) -> None:
    objective = logging(name, logs=True, momentum=momentum)
    outputs = objective(random_views(objective), generator())
    for key in LOGGED:
        assert outputs[key].shape == ()
        assert not outputs[key].requires_grad
        assert outputs[key].isfinite()
    assert outputs["positive_norm"] > 0
    assert outputs["negative_norm"] > 0
    assert 0 <= outputs["terms_angle"] <= 180
    assert 0 < outputs["alignment"] <= 4
    assert -8 <= outputs["uniformity"] < 0


@each_method
def test_logged_numbers_describe_the_gradient_of_the_batch(name: str) -> None:
    objective = logging(name, logs=True, loss_scale=3.0)
    twin = copy.deepcopy(objective)
    outputs = objective(random_views(objective), generator())
    g = generator()
    batch = twin.embed(random_views(twin), g)
    twin.compare(batch, g)
    gradient = twin.gradient(batch)
    positive, negative = (3 * term for term in gradient.pulled_back())
    cosine = (positive * negative).sum() / (positive.square().sum() * negative.square().sum()).sqrt()
    other = (batch.target[0] if name == "moco" else batch.online[1]).detach()  # the first view's partner
    expected = {
        "positive_norm": positive.square().sum(1).mean().sqrt(),
        "negative_norm": negative.square().sum(1).mean().sqrt(),
        "terms_angle": torch.tensor(math.degrees(math.acos(cosine.item())), dtype=torch.float64),
        "balance": gradient.balance.detach().mean(),
        "alignment": alignment_by_loops(batch.online[0].detach(), other),
        "uniformity": uniformity_by_loops(batch.online[0].detach()),
    }
    assert set(expected) == LOGGED
    for key, value in expected.items():
        torch.testing.assert_close(outputs[key].double(), value.double(), rtol=1e-6, atol=1e-6)


def toy_gradient(positive: list[float], negative: list[float], balance: float) -> Gradient:
    """Of one image, compared as it is."""
    z = torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    vectors = (torch.tensor([x], dtype=torch.float64) for x in (positive, negative))
    return Gradient(*vectors, torch.tensor(balance, dtype=torch.float64), z[0], z)


@pytest.mark.parametrize(
    ("negative", "balance", "norm", "angle"),
    [
        ([-3.0, -4.0], 1.0, 5.0, 180.0),  # they cancel
        ([3.0, 4.0], 2.0, 10.0, 0.0),
        ([-4.0, 3.0], 0.5, 2.5, 90.0),
        ([3.0, 4.0], -1.0, 5.0, 180.0),
    ],
)
def test_angle_and_norms_of_known_terms(negative: list[float], balance: float, norm: float, angle: float) -> None:
    described = describe(toy_gradient([3.0, 4.0], negative, balance))
    assert described["positive_norm"].item() == pytest.approx(5)
    assert described["negative_norm"].item() == pytest.approx(norm)  # with its balance
    assert described["terms_angle"].item() == pytest.approx(angle, abs=1e-5)
    assert described["balance"].item() == balance


def test_norms_are_of_an_image_whatever_the_batch() -> None:
    z = torch.zeros(1, 8, 2, dtype=torch.float64, requires_grad=True)
    vectors = torch.tensor([3.0, 4.0], dtype=torch.float64).expand(8, 2)
    described = describe(Gradient(vectors, -vectors, torch.ones(8, 1).double(), z[0], z))
    assert described["positive_norm"].item() == pytest.approx(5)


def alignment_by_loops(z: Tensor, other: Tensor) -> Tensor:
    return torch.stack([(unit(x) - unit(y)).norm() ** 2 for x, y in zip(z, other, strict=True)]).mean()


def uniformity_by_loops(z: Tensor) -> Tensor:
    pairs = itertools.permutations(range(len(z)), 2)
    return torch.stack([(-2 * (unit(z[i]) - unit(z[j])).norm() ** 2).exp() for i, j in pairs]).mean().log()


@pytest.mark.parametrize("num", [2, 7])
def test_alignment_and_uniformity_equal_their_double_loops(num: int) -> None:
    z, other = randn(num, DIM), randn(num, DIM, seed=1)
    torch.testing.assert_close(alignment(z, other), alignment_by_loops(z, other))
    torch.testing.assert_close(uniformity(z), uniformity_by_loops(z))


def test_in_one_point_both_are_zero() -> None:
    z = randn(1, DIM).expand(NUM_IMAGES, DIM)
    assert alignment(z, 3 * z).item() == pytest.approx(0, abs=1e-12)
    assert uniformity(z).item() == pytest.approx(0, abs=1e-12)


def test_opposite_points_are_the_limits_of_both() -> None:
    z = torch.stack([randn(DIM), -randn(DIM)])
    assert alignment(z, -z).item() == pytest.approx(4)
    assert uniformity(z).item() == pytest.approx(-8)


def test_orthogonal_points_have_a_squared_distance_of_two() -> None:
    z = torch.eye(DIM).double()
    assert alignment(z, z.roll(1, 0)).item() == pytest.approx(2)
    assert uniformity(z).item() == pytest.approx(-4)


def test_points_spread_over_the_sphere_tend_to_its_expectation() -> None:
    """On the circle the mean of exp(-4 + 4 cos) is exp(-4) I0(4)."""
    angles = torch.arange(2000).double() * 2 * math.pi / 2000
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    expected = math.log(torch.special.i0(torch.tensor(4.0, dtype=torch.float64)).item()) - 4
    assert uniformity(circle).item() == pytest.approx(expected, abs=3e-3)


def test_lengths_do_not_count() -> None:
    z, other, scale = randn(NUM_IMAGES, DIM), randn(NUM_IMAGES, DIM, seed=1), randn(NUM_IMAGES, 1, seed=2).exp()
    torch.testing.assert_close(alignment(scale * z, other), alignment(z, other))
    torch.testing.assert_close(uniformity(scale * z), uniformity(z))
