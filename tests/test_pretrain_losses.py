"""Every loss against its paper's equation, in float64, values and gradients; then what each method promises."""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters.errors import InputError
from pretrain import objectives
from pretrain.cutmix import CutMix, Mix
from pretrain.directpred import DirectPredictor, MovingCorrelation
from pretrain.memory_bank import MemoryBank
from pretrain.objectives.barlow_twins import barlow_twins_loss, standardize
from pretrain.objectives.moco import info_nce_loss
from pretrain.objectives.simclr import nt_xent_loss
from pretrain.objectives.swav import sinkhorn, swav_loss
from pretrain.objectives.unigrad import unigrad_loss
from pretrain.objectives.vicreg import variance_and_covariance
from pretrain.siamese import Batch

NUM_IMAGES, DIM = 5, 6
UNGUIDED = ["barlow_twins", "moco", "simclr", "swav", "vicreg"]
GUIDED = ["byol", "simsiam", "unigrad"]
SMALL = {  # what is large by default
    "barlow_twins": {},
    "byol": {"guidance": "symmetric", "views": 2, "predictor_dim": 4},
    "moco": {"queue": 11, "splits": 1},
    "simclr": {},
    "simsiam": {"guidance": "symmetric", "views": 2, "predictor_dim": 4},
    "swav": {"prototypes": 7},
    "unigrad": {},
    "vicreg": {},
}
each_method = pytest.mark.parametrize("name", sorted(SMALL))
each_guided = pytest.mark.parametrize("name", GUIDED)
each_momentum = pytest.mark.parametrize("momentum", [None, 0.9])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def build(name: str, seed: int = 0, **options: Any) -> Any:
    """A tiny objective in float64; a momentum target is unlike the online network, as it is after some steps."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    module = objectives.find(name)
    objective = module.Method(module.Config(**{"projector_dims": [8, DIM], **SMALL[name], **options}), backbone, 5)
    if objective.momentum is not None:
        with torch.no_grad():
            for x in objective.target.parameters():
                x += 0.3 * torch.randn_like(x)
    return objective.double()


def random_views(num_views: int, num_local: int = 0, seed: int = 0) -> list[Tensor]:
    shapes = [(NUM_IMAGES, 3, 6, 6)] * num_views + [(NUM_IMAGES, 3, 4, 4)] * num_local
    return [randn(*shape, seed=100 * seed + index) for index, shape in enumerate(shapes)]


def batch_of(online: Tensor, target: Tensor | None = None) -> Batch:
    """Projections as they are compared where no network is needed."""
    target = online if target is None else target
    return Batch(online, online.new_empty(0, *online.shape[1:]), target, predictions=online)


def gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


def trainable(objective: nn.Module) -> list[Tensor]:
    return [x for x in objective.parameters() if x.requires_grad]


def assert_same(loss: Tensor, x: list[Tensor], expected: Tensor, y: list[Tensor]) -> None:
    """Equal values and gradients, which are not all zero."""
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    ours, theirs = gradients(loss, x), gradients(expected, y)
    assert any(gradient.abs().max() > 1e-4 for gradient in theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Of two vectors."""
    return (unit(x) * unit(y)).sum()


def nt_xent(u: Tensor, positive: Tensor, negatives: list[Tensor], temperature: float) -> Tensor:
    """Chen et al. 2020, eq. 1, of one anchor; He et al. 2020, eq. 1, is the same with the queue as negatives."""
    numerator = (u @ positive / temperature).exp()
    return -(numerator / (numerator + sum((u @ x / temperature).exp() for x in negatives))).log()


def simclr_equation(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """The mean of eq. 1 over the 2N anchors, each with the 2N - 1 other rows as candidates."""
    rows, num = [*unit(z1), *unit(z2)], len(z1)
    total = torch.zeros((), dtype=z1.dtype)
    for i in range(2 * num):
        j = (i + num) % (2 * num)
        total = total + nt_xent(rows[i], rows[j], [rows[k] for k in range(2 * num) if k not in (i, j)], temperature)
    return total / (2 * num)


def moco_equation(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """The mean of eq. 1 over the queries."""
    terms = [nt_xent(x, y, list(queue), temperature) for x, y in zip(unit(q), unit(k), strict=True)]
    return sum(terms, torch.zeros(())) / len(q)


def sinkhorn_pseudocode(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Caron et al. 2020, appendix A: Q = exp(scores / eps)^T, then prototypes, then images, in turn."""
    q = (scores / epsilon).exp().T.clone()
    num_prototypes, num = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        for k in range(num_prototypes):
            q[k] = q[k] / q[k].sum() / num_prototypes
        for n in range(num):
            q[:, n] = q[:, n] / q[:, n].sum() / num
    return (q * num).T


def swav_equation(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Caron et al. 2020, eq. 2, the mean over images."""
    p = (scores / temperature).exp()
    p = p / p.sum(1, keepdim=True)
    total = torch.zeros((), dtype=scores.dtype)
    for n, k in itertools.product(*map(range, p.shape)):
        total = total - codes[n, k] * p[n, k].log()
    return total / len(p)


def barlow_twins_equation(z1: Tensor, z2: Tensor, off_diagonal: float) -> Tensor:
    """Zbontar et al. 2021, eq. 1 and 2, element by element; batch norm's variance is biased, its eps 1e-5."""
    x, y = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z1, z2))
    total = torch.zeros((), dtype=z1.dtype)
    for i, j in itertools.product(range(z1.shape[1]), repeat=2):
        c = (x[:, i] * y[:, j]).sum() / len(x)
        total = total + ((1 - c) ** 2 if i == j else off_diagonal * c**2)
    return total


def vicreg_regularisers(z: Tensor) -> tuple[Tensor, Tensor]:
    """Bardes et al. 2022, eq. 1 to 4: hinge on the deviations, squared covariances off the diagonal over D."""
    num, dim = z.shape
    hinge = sum((F.relu(1 - (z[:, j].var() + 1e-4).sqrt()) for j in range(dim)), torch.zeros(())) / dim
    mean = z.sum(0) / num
    covariance = torch.stack([torch.outer(row - mean, row - mean) for row in z]).sum(0) / (num - 1)
    squares = [covariance[i, j] ** 2 for i, j in itertools.product(range(dim), repeat=2) if i != j]
    return hinge, sum(squares, torch.zeros(())) / dim


def unigrad_equation(u: Tensor, t: Tensor, correlation: Tensor, balance: float) -> Tensor:
    """Tao et al. 2022: one image's gradient -t + lambda F u; as a number, its potential -u.t + lambda / 2 u^T F u."""
    gradient = -t + balance * correlation @ u
    surrogate = gradient.detach() @ u  # as in the official code
    potential = -u @ t + balance / 2 * u @ correlation @ u
    return surrogate - surrogate.detach() + potential.detach()


def mean_outer_product(views: list[Tensor]) -> Tensor:
    """Over images and views, neither centred nor normalised."""
    return torch.stack([torch.outer(row, row) for view in views for row in view]).mean(0)


def directpred_matrix(correlation: Tensor, eps: float) -> Tensor:
    """Tian et al. 2021 in the official code's order: over the largest, root, plus eps, at least 1e-4."""
    s, q = torch.linalg.eigh(correlation)
    p = [max(math.sqrt(max(float(x), 0) / float(s.max())) + eps, 1e-4) for x in s]
    return torch.stack([value * torch.outer(q[:, i], q[:, i]) for i, value in enumerate(p)]).sum(0)


# Of crops: each target's mean over the other crops (Caron et al. 2020, eq. 6).


def mean_over_pairs(loss: Callable[[Tensor, int], Tensor], crops: list[Tensor]) -> Tensor:
    """Views 0 and 1 are the targets."""
    total = torch.zeros(())
    for target in (0, 1):
        others = [crop for index, crop in enumerate(crops) if index != target]
        total = total + sum((loss(crop, target) for crop in others), torch.zeros(())) / len(others)
    return total / 2


def simclr_of_crops(twin: Any, online: list[Tensor], local: list[Tensor], target: list[Tensor]) -> Tensor:
    """A crop is told from both target views of the other images."""

    def loss(z: Tensor, index: int) -> Tensor:
        total = torch.zeros(())
        for n in range(len(z)):
            negatives = [unit(view[k]) for view in target for k in range(len(z)) if k != n]
            total = total + nt_xent(unit(z[n]), unit(target[index][n]), negatives, 0.1)
        return total / len(z)

    return mean_over_pairs(loss, [*online, *local])


def moco_of_crops(twin: Any, online: list[Tensor], local: list[Tensor], target: list[Tensor]) -> Tensor:
    queries = [online[0], *local]
    terms = [moco_equation(q, target[1].detach(), twin.queue.rows, 0.2) for q in queries]
    return sum(terms, torch.zeros(())) / len(queries)


def swav_of_crops(twin: Any, online: list[Tensor], local: list[Tensor], target: list[Tensor]) -> Tensor:
    c = twin.prototypes.weight
    with torch.no_grad():
        c.copy_(unit(c))
        codes = [sinkhorn_pseudocode(unit(z) @ c.T, 0.05, 3) for z in target]
    return mean_over_pairs(lambda z, index: swav_equation(unit(z) @ c.T, codes[index], 0.1), [*online, *local])


def barlow_twins_of_crops(twin: Any, online: list[Tensor], local: list[Tensor], target: list[Tensor]) -> Tensor:
    return mean_over_pairs(lambda z, index: barlow_twins_equation(z, target[index], 0.0051), [*online, *local])


def vicreg_of_crops(twin: Any, online: list[Tensor], local: list[Tensor], target: list[Tensor]) -> Tensor:
    """Two views: 25 mse + 25 (v1 + v2) / 2 + (c1 + c2), as in the official code; crops: the means over all."""
    crops = [*online, *local]
    distance = mean_over_pairs(lambda z, index: ((z - target[index]) ** 2).sum() / z.numel(), crops)
    hinges, covariances = zip(*(vicreg_regularisers(z) for z in crops), strict=True)
    mean_hinge, mean_covariance = (sum(x, torch.zeros(())) / len(crops) for x in (hinges, covariances))
    return 25 * distance + 25 * mean_hinge + 2 * mean_covariance


def unigrad_of_crops(twin: Any, online: list[Tensor], local: list[Tensor], target: list[Tensor]) -> Tensor:
    """The first batch's F, which is taken as it is."""
    correlation = mean_outer_product([unit(z.detach()) for z in target])

    def loss(z: Tensor, index: int) -> Tensor:
        pairs = zip(unit(z), unit(target[index].detach()), strict=True)
        return sum((unigrad_equation(u, t, correlation, 100) for u, t in pairs), torch.zeros(())) / len(z)

    return mean_over_pairs(loss, [*online, *local])


def predictions(twin: Any, online: list[Tensor], local: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Views are batches of their own to the predictor's batch norm, small crops one together."""
    return [twin.predictor(z) for z in online], list(
        twin.predictor(torch.cat(local)).chunk(len(local))
    ) if local else []


def asymmetric_of_crops(twin: Any, online: list[Tensor], local: list[Tensor], target: list[Tensor]) -> Tensor:
    def loss(p: Tensor, index: int) -> Tensor:
        return -sum((cosine(x, t.detach()) for x, t in zip(p, target[index], strict=True)), torch.zeros(())) / len(p)

    views, crops = predictions(twin, online, local)
    return mean_over_pairs(loss, [*views, *crops])


OF_CROPS = {
    "barlow_twins": barlow_twins_of_crops,
    "byol": asymmetric_of_crops,
    "moco": moco_of_crops,
    "simclr": simclr_of_crops,
    "simsiam": asymmetric_of_crops,
    "swav": swav_of_crops,
    "unigrad": unigrad_of_crops,
    "vicreg": vicreg_of_crops,
}


def project(network: Callable[[Tensor], Tensor], views: list[Tensor], one_batch: bool) -> list[Tensor]:
    return list(network(torch.cat(views)).chunk(len(views))) if one_batch else [network(view) for view in views]


def branches(
    twin: Any, name: str, views: list[Tensor], clean: list[Tensor] | None = None
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Projections of views, of small crops, and of the target; the official SimCLR and SwAV join an image's views."""
    one_batch, num = name in ("simclr", "swav"), twin.num_views
    network = nn.Sequential(twin.backbone, twin.projector)
    online = project(network, views[:num], one_batch)
    local = project(network, views[num:], one_batch=True) if views[num:] else []
    if twin.momentum is None:
        return online, local, online
    return online, local, [z.detach() for z in project(twin.target, clean or views[:num], one_batch)]


@each_method
@each_momentum
@pytest.mark.parametrize("num_local", [0, 3])
def test_loss_and_gradients_equal_the_papers_equation(name: str, momentum: float | None, num_local: int) -> None:
    objective = build(name, momentum=momentum)
    twin, views = copy.deepcopy(objective), random_views(2, num_local)
    loss = objective(views, generator())["loss"]
    assert_same(loss, trainable(objective), OF_CROPS[name](twin, *branches(twin, name, views)), trainable(twin))


def leaves(*shape: int, count: int = 2) -> list[Tensor]:
    return [randn(*shape, seed=seed).requires_grad_() for seed in range(count)]


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr_equals_nt_xent_over_both_views(temperature: float) -> None:
    z1, z2 = leaves(NUM_IMAGES, DIM)
    loss = build("simclr", temperature=temperature).compare(batch_of(torch.stack([z1, z2])), generator())["loss"]
    assert_same(loss, [z1, z2], simclr_equation(z1, z2, temperature), [z1, z2])


def test_official_simclr_is_the_sum_of_two_means() -> None:
    views = random_views(2)
    objective = build("simclr", loss_scale=2.0)
    loss = objective(views, generator())["loss"]
    u = [unit(z) for z in branches(build("simclr"), "simclr", views)[0]]
    total = torch.zeros(())
    for i, j in ((0, 1), (1, 0)):
        logits = torch.cat([u[i] @ u[j].T, u[i] @ u[i].T - 1e9 * torch.eye(NUM_IMAGES)], dim=1) / 0.1
        total = total + F.cross_entropy(logits, torch.arange(NUM_IMAGES))
    torch.testing.assert_close(loss, total)


def test_moco_equals_info_nce_with_its_queue() -> None:
    q, k = leaves(NUM_IMAGES, DIM)
    queue = unit(randn(9, DIM, seed=5))
    assert_same(info_nce_loss(unit(q), unit(k), queue, 0.2), [q, k], moco_equation(q, k, queue, 0.2), [q, k])


def test_mocos_small_crops_ask_for_the_same_key() -> None:
    objective = build("moco")
    q, k, *crops = leaves(NUM_IMAGES, DIM, count=4)
    batch = Batch(q[None], torch.stack(crops), k.detach()[None])
    expected = torch.stack([moco_equation(z, k.detach(), objective.queue.rows, 0.2) for z in (q, *crops)]).mean()
    assert_same(objective.compare(batch, generator())["loss"], [q, *crops], expected, [q, *crops])


def in_parts(network: Callable[[Tensor], Tensor], images: Tensor, splits: int) -> Tensor:
    """Each part is a batch of its own to batch norm, as on a GPU of its own."""
    size = len(images) // splits
    return torch.cat([network(images[part * size : (part + 1) * size]) for part in range(splits)])


@each_momentum
@pytest.mark.parametrize("splits", [2, 4])
def test_mocos_keys_are_normalised_in_other_parts_than_queries(momentum: float | None, splits: int) -> None:
    """He et al. 2020, 3.3: images are shuffled before the keys' network, and their keys put back in order."""
    objective = build("moco", momentum=momentum, splits=splits)
    twin, views = copy.deepcopy(objective), [randn(8, 3, 6, 6, seed=view) for view in range(2)]
    loss = objective(views, generator(3))["loss"]
    network = nn.Sequential(twin.backbone, twin.projector)
    q = in_parts(network, views[0], splits)
    order = torch.randperm(8, generator=generator(3)).tolist()
    with torch.no_grad():
        shuffled = in_parts(network if momentum is None else twin.target, views[1][order], splits)
    k = torch.stack([shuffled[order.index(n)] for n in range(8)])
    expected = moco_equation(q, k, twin.queue.rows, 0.2)
    assert_same(loss, trainable(objective), expected, trainable(twin))
    in_order = moco_equation(q, in_parts(network, views[1], splits), twin.queue.rows, 0.2)
    assert abs(in_order - expected) > 1e-4, "the order changed nothing, so this proves nothing"


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_sinkhorn_equals_the_papers_pseudocode(epsilon: float, iterations: int) -> None:
    scores = unit(randn(NUM_IMAGES, DIM)) @ unit(randn(7, DIM, seed=1)).T
    torch.testing.assert_close(sinkhorn(scores, epsilon, iterations), sinkhorn_pseudocode(scores, epsilon, iterations))


def test_swav_equals_the_cross_entropy_to_codes() -> None:
    (scores,) = leaves(NUM_IMAGES, 7, count=1)
    codes = randn(NUM_IMAGES, 7, seed=3).softmax(1)
    assert_same(swav_loss(scores, codes, 0.1), [scores], swav_equation(scores, codes, 0.1), [scores])


@pytest.mark.parametrize("num_images", [2, 5, 30])  # the product forms the smaller of two matrices
@pytest.mark.parametrize("off_diagonal", [0.0051, 1.0])
def test_barlow_twins_equals_the_explicit_matrix(num_images: int, off_diagonal: float) -> None:
    z1, z2 = leaves(num_images, DIM)
    loss = barlow_twins_loss(standardize(z1), standardize(z2), off_diagonal)
    assert_same(loss, [z1, z2], barlow_twins_equation(z1, z2, off_diagonal), [z1, z2])


def test_barlow_twins_standardises_as_batch_norm_does() -> None:
    z = randn(30, DIM)
    torch.testing.assert_close(standardize(z), nn.BatchNorm1d(DIM, affine=False).double()(z))


@pytest.mark.parametrize("num_images", [2, 5, 30])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])  # deviations below, around and above 1
def test_vicreg_equals_the_explicit_covariance(num_images: int, scale: float) -> None:
    (z,) = leaves(num_images, DIM, count=1)
    for term in range(2):  # a graph of its own each
        ours, expected = variance_and_covariance(scale * z)[term], vicreg_regularisers(scale * z)[term]
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradients(ours, [z]), gradients(expected, [z]), rtol=1e-8, atol=1e-10)


def test_vicregs_weights_belong_to_their_terms() -> None:
    z1, z2 = leaves(NUM_IMAGES, DIM)
    objective = build("vicreg", invariance=3.0, variance=5.0, covariance=7.0)
    outputs = objective.compare(batch_of(torch.stack([z1, z2])), generator())
    (v1, c1), (v2, c2) = vicreg_regularisers(z1), vicreg_regularisers(z2)
    distance = ((z1 - z2) ** 2).sum() / z1.numel()
    assert_same(outputs["loss"], [z1, z2], 3 * distance + 5 * (v1 + v2) / 2 + 7 * (c1 + c2), [z1, z2])
    expected = {"invariance": distance, "variance": (v1 + v2) / 2, "covariance": (c1 + c2) / 2}
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value.detach())


def test_unigrads_gradient_is_the_papers() -> None:
    u = unit(randn(NUM_IMAGES, DIM)).requires_grad_()
    t, correlation = unit(randn(NUM_IMAGES, DIM, seed=1)), mean_outer_product([unit(randn(9, DIM, seed=2))])
    loss = unigrad_loss(u, t, correlation, 100)
    expected = torch.stack([-t[n] + 100 * correlation @ u[n] for n in range(NUM_IMAGES)])
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), u)[0], expected.detach())
    potential = [-u[n] @ t[n] + 50 * u[n] @ correlation @ u[n] for n in range(NUM_IMAGES)]
    torch.testing.assert_close(loss, torch.stack(potential))


@each_momentum
@pytest.mark.parametrize("num_views", [2, 4])
def test_unigrads_correlation_moves_before_its_use_from_the_first_batchs_on(
    momentum: float | None, num_views: int
) -> None:
    objective = build("unigrad", momentum=momentum, views=num_views, correlation_momentum=0.75, balance=3.0)
    correlation = torch.zeros(DIM, DIM).double()
    for seed in range(3):
        views, twin = random_views(num_views, seed=seed), copy.deepcopy(objective)
        online, _, target = branches(twin, "unigrad", views)
        of_batch = mean_outer_product([unit(z.detach()) for z in target])
        correlation = of_batch if seed == 0 else 0.75 * correlation + 0.25 * of_batch
        terms = [
            unigrad_equation(unit(online[v])[n], unit(target[v ^ 1].detach())[n], correlation, 3.0)
            for v in range(num_views)
            for n in range(NUM_IMAGES)
        ]
        loss = objective(views, generator())["loss"]
        torch.testing.assert_close(objective.correlation.current, correlation)
        objective.correlation.step()
        torch.testing.assert_close(objective.correlation.matrix, correlation)
        assert_same(loss, trainable(objective), torch.stack(terms).mean(), trainable(twin))


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("num_images", [2, 9])  # fewer vectors than dimensions leave eigenvalues of zero
def test_directpreds_matrix_has_the_published_eigenvalues(eps: float, num_images: int) -> None:
    predictor = DirectPredictor(DIM, momentum=0.3, eps=eps, every=1).double()
    correlation = torch.zeros(DIM, DIM)
    for seed in range(1 if num_images == 2 else 3):
        z = 3 + randn(2, num_images, DIM, seed=seed)  # not centred
        predictor.update(z)
        of_batch = mean_outer_product(list(z))
        correlation = of_batch if seed == 0 else 0.3 * correlation + 0.7 * of_batch
        torch.testing.assert_close(predictor.correlation.current, correlation)
        torch.testing.assert_close(predictor.matrix, directpred_matrix(correlation, eps), rtol=1e-6, atol=1e-7)
        predictor.correlation.step()
    least = torch.linalg.eigvalsh(predictor.matrix)[0].item()
    if num_images == 2:  # nothing but eps, or the least that is allowed
        assert least == pytest.approx(max(eps, 1e-4), rel=1e-3)
    torch.testing.assert_close(predictor(z[0]), torch.stack([predictor.matrix @ row for row in z[0]]))


def test_directpreds_matrix_is_computed_at_the_first_and_then_every_nth_update() -> None:
    predictor = DirectPredictor(DIM, momentum=0.3, eps=0.01, every=3).double()
    for update in range(7):
        before = predictor.matrix.clone()
        predictor.update(randn(2, NUM_IMAGES, DIM, seed=update))
        assert torch.equal(before, predictor.matrix) == (update % 3 != 0)
        if update % 3 == 0:
            torch.testing.assert_close(predictor.matrix, directpred_matrix(predictor.correlation.current, 0.01))
        predictor.correlation.step()


def test_correlation_moves_once_per_step_however_many_parts_a_batch_has() -> None:
    whole, parted = (MovingCorrelation(DIM, 0.9).double() for _ in range(2))
    for seed in range(3):
        z = randn(2, 8, DIM, seed=seed)
        whole.see(z)
        for part in z.chunk(4, dim=1):
            parted.see(part)
        whole.step()
        parted.step()
        torch.testing.assert_close(parted.matrix, whole.matrix)
    assert parted.steps == whole.steps == 3


@pytest.mark.parametrize("name", ["simsiam", "byol"])
def test_directpred_predicts_from_the_online_projections_correlation(name: str) -> None:
    objective = build(name, predictor="directpred", directpred_eps=0.1)
    twin, views = copy.deepcopy(objective), random_views(2, 2)
    online, local, target = branches(twin, name, views)
    matrix = directpred_matrix(mean_outer_product([z.detach() for z in online]), 0.1)
    twin.predictor = nn.Linear(DIM, DIM, bias=False).double().requires_grad_(False)
    twin.predictor.weight.copy_(matrix)
    loss = objective(views, generator())["loss"]
    assert_same(loss, trainable(objective), asymmetric_of_crops(twin, online, local, target), trainable(twin))
    assert objective.parameter_groups()[1]["params"] == []  # computed, not trained


def test_byol_of_deepmind_is_the_sum_of_two_squared_distances() -> None:
    objective = build("byol", loss_scale=4.0)
    twin, views = copy.deepcopy(objective), random_views(2)
    online, _, target = branches(twin, "byol", views)
    total = torch.zeros(())
    for i, j in ((0, 1), (1, 0)):
        total = total + (unit(twin.predictor(online[i])) - unit(target[j])).square().sum(1).mean()
    loss = objective(views, generator())["loss"]
    assert_same(loss + 4, trainable(objective), total, trainable(twin))  # 2 - 2 cos, twice


def test_simsiam_without_stop_gradient_moves_its_targets() -> None:
    objective = build("simsiam", stop_gradient=False)
    twin, views = copy.deepcopy(objective), random_views(2, 2)
    (z1, z2), local, _ = branches(twin, "simsiam", views)
    (p1, p2), crops = predictions(twin, [z1, z2], local)
    total = torch.zeros(())
    for t, sources in ((z2, [p1, *crops]), (z1, [p2, *crops])):
        for p, n in itertools.product(sources, range(NUM_IMAGES)):
            total = total - cosine(p[n], t[n]) / (2 * len(sources) * NUM_IMAGES)
    assert_same(objective(views, generator())["loss"], trainable(objective), total, trainable(twin))


def guided_sources(mode: str, target: list[Tensor], g: torch.Generator) -> list[list[tuple[int, int]]]:
    """Per image its (source, target) pairs, from the views of the usual size alone: Lee & Lee 2023, Algorithm 1."""
    num_views, num = len(target), len(target[0])
    if mode == "symmetric":
        return [[(v, v ^ 1) for v in range(num_views)] for _ in range(num)]
    chosen: list[list[tuple[int, int]]] = [[] for _ in range(num)]
    partner = torch.randperm(num, generator=g).tolist()
    for first, second in enumerate(partner):
        pairs = [(a, b) for a in (0, 1) for b in (num_views - 2, num_views - 1)]
        distances = [(target[a][first] - target[b][second]).norm().item() for a, b in pairs]
        a, b = pairs[distances.index(min(distances))]
        chosen[first].append((a, a ^ 1))
        chosen[second].append((b, b ^ 1))
    return chosen


def guided_equation(
    term: Callable[[Tensor, Tensor], Tensor],
    views: list[Tensor],
    crops: list[Tensor],
    target: list[Tensor],
    chosen: list[list[tuple[int, int]]],
    mix: Mix | None = None,
) -> Tensor:
    """Mean over images, over their chosen targets, over what predicts the target: the source, and every small crop.

    What CutMix pasted is predicted by its share; nothing is pasted into small crops.
    """
    total = torch.zeros(())
    for n, pairs in enumerate(chosen):
        for source, index in pairs:
            of_source = term(views[source][n], target[index][n])
            if mix is not None:
                pasted = term(views[source][n], target[index][int(mix.partner[n])])
                of_source = mix.share * of_source + (1 - mix.share) * pasted
            terms = [of_source, *(term(crop[n], target[index][n]) for crop in crops)]
            total = total + sum(terms, torch.zeros(())) / (len(terms) * len(pairs))
    return total / len(chosen)


def guided_loss_of(
    twin: Any, name: str, mode: str, views: list[Tensor], g: torch.Generator, cutmix: CutMix | None = None
) -> tuple[Tensor, list[list[tuple[int, int]]]]:
    clean = views[: twin.num_views]
    mixed, mix = cutmix(clean, g) if cutmix else (clean, None)
    online, local, target = branches(twin, name, [*mixed, *views[twin.num_views :]], clean)
    target = [z.detach() for z in target]
    chosen = guided_sources(mode, target, g)
    if name == "unigrad":
        correlation = mean_outer_product([unit(z) for z in target])
        vectors = [unit(z) for z in online], [unit(z) for z in local]
        loss = guided_equation(
            lambda u, t: unigrad_equation(u, unit(t), correlation, 100), *vectors, target, chosen, mix
        )
    else:
        predicted = predictions(twin, online, local)
        loss = guided_equation(lambda p, t: -cosine(p, t), *predicted, target, chosen, mix)
    return loss, chosen


@each_guided
@each_momentum
@pytest.mark.parametrize("mode", ["guided", "symmetric"])
@pytest.mark.parametrize("num_views", [2, 4])
def test_small_crops_predict_the_targets_that_guidance_chose(
    name: str, momentum: float | None, mode: str, num_views: int
) -> None:
    for seed in range(3):
        objective = build(name, seed, guidance=mode, views=num_views, momentum=momentum)
        twin, views = copy.deepcopy(objective), random_views(num_views, 3, seed)
        loss = objective(views, generator(seed))["loss"]
        expected, _ = guided_loss_of(twin, name, mode, views, generator(seed))
        assert_same(loss, trainable(objective), expected, trainable(twin))


@each_guided
@pytest.mark.parametrize("mode", ["guided", "symmetric"])
@pytest.mark.parametrize("num_views", [2, 4])
@pytest.mark.parametrize("num_local", [0, 2])
def test_cutmix_mixes_the_loss_by_area(name: str, mode: str, num_views: int, num_local: int) -> None:
    cutmix = CutMix(p=1, alpha=1)
    objective = build(name, guidance=mode, views=num_views, momentum=0.9)
    objective.prepare(batch_size=NUM_IMAGES, num_local=num_local, cutmix=cutmix, gradients=False)
    twin, views = copy.deepcopy(objective), random_views(num_views, num_local)
    expected, _ = guided_loss_of(twin, name, mode, views, generator(2), cutmix)
    without, _ = guided_loss_of(copy.deepcopy(twin), name, mode, views, generator(2))
    loss = objective(views, generator(2))["loss"]
    assert abs(expected - without) > 1e-4, "nothing was pasted, so this proves nothing"
    assert_same(loss, trainable(objective), expected, trainable(twin))


@each_guided
@pytest.mark.parametrize("num_views", [2, 4])
def test_guidance_looks_at_images_that_nothing_was_pasted_into(name: str, num_views: int) -> None:
    for seed in range(4):
        objective = build(name, guidance="guided", views=num_views, momentum=0.9, seed=seed)
        views, cutmix = random_views(num_views, seed=seed), CutMix(p=1, alpha=1)
        objective.prepare(batch_size=NUM_IMAGES, num_local=0, cutmix=cutmix, gradients=False)
        twin, g, g_ours = copy.deepcopy(objective), generator(seed), generator(seed)
        cutmix(views, g)  # what it draws comes first
        chosen = guided_sources("guided", [twin.target(view) for view in views], g)
        batch = objective.embed(views, g_ours)
        sources = objective.choose(batch, g_ours).sources
        for n, pairs in enumerate(chosen):
            assert sorted(sources[:, n].tolist()) == sorted(source for source, _ in pairs)


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_pastes_pixels_of_the_partner_into_one_box_of_all_views(seed: int) -> None:
    views = [randn(4, 3, 10, 14, seed=10 * seed + v) for v in range(4)]
    before = [view.clone() for view in views]
    mixed, mix = CutMix(p=1, alpha=1)(views, generator(seed))
    assert all(torch.equal(*pair) for pair in zip(views, before, strict=True))
    assert mix is not None
    assert sorted(mix.partner.tolist()) == [0, 1, 2, 3]
    others = [n for n in range(4) if mix.partner[n] != n]
    masks = torch.stack([(x[n] != y[n]).all(0) for x, y in zip(mixed, views, strict=True) for n in others])
    assert (masks == masks[0]).all()
    rows, columns = masks[0].any(1), masks[0].any(0)
    assert torch.equal(masks[0], rows[:, None] & columns[None, :])
    for side in (rows, columns):  # one piece
        places = side.nonzero().flatten().tolist()
        assert places == list(range(places[0], places[-1] + 1)) if places else not masks[0].any()
    for x, y in zip(mixed, views, strict=True):
        for n in range(4):
            assert torch.equal(x[n], torch.where(masks[0], y[mix.partner[n]], y[n]))
    assert mix.share == pytest.approx(1 - masks[0].double().mean().item())


def test_cutmixs_box_has_the_beta_distributions_area() -> None:
    """Nearly always half at a large alpha: sides of the root of 1/2, unless the image's edge cuts them."""
    view = torch.arange(32.0 * 32).view(1, 1, 32, 32).repeat(2, 3, 1, 1) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    heights = set()
    for seed in range(60):
        (mixed,), mix = CutMix(p=1, alpha=1e7)([view + 0.5], generator(seed))
        assert mix is not None
        if mix.partner[0] == 1:
            heights.add(int((mixed[0] != view[0] + 0.5).all(0).any(1).sum()))
    assert max(heights) == 22  # int(32 / sqrt 2)
    assert min(heights) < 22
    assert min(heights) >= 11  # the middle is inside of the image


def test_mixed_targets_are_linear_in_the_share() -> None:
    x = randn(2, 4, DIM)
    mix = Mix(torch.tensor([2, 0, 3, 1]), 0.7)
    for v, n in itertools.product(range(2), range(4)):
        expected = 0.7 * x[v, n] + 0.3 * x[v, int(mix.partner[n])]
        torch.testing.assert_close(mix.blend(x)[v, n], expected)


@each_guided
def test_cutmix_of_probability_zero_changes_nothing(name: str) -> None:
    views = random_views(2)
    assert CutMix(p=0, alpha=1)(views, generator()) == (views, None)
    plain, objective = (build(name, momentum=0.9) for _ in range(2))
    objective.prepare(batch_size=NUM_IMAGES, num_local=0, cutmix=CutMix(p=0, alpha=1), gradients=False)
    losses = [x(views, generator())["loss"] for x in (plain, objective)]
    assert torch.equal(*losses)


def test_cutmixs_probability_is_the_share_of_steps_that_mix() -> None:
    views = [torch.zeros(2, 3, 4, 4)]
    mixed = sum(CutMix(p=0.3, alpha=1)(views, generator(seed))[1] is not None for seed in range(400))
    assert 80 <= mixed <= 160  # 120 are expected, with a deviation of 9


@each_method
def test_momentum_target_has_no_gradient_and_is_not_optimised(name: str) -> None:
    objective = build(name, momentum=0.9)
    objective(random_views(2, 2), generator())["loss"].backward()
    grouped = {id(x) for group in objective.parameter_groups() for x in group["params"]}
    for x in objective.target.parameters():
        assert x.grad is None
        assert not x.requires_grad
        assert id(x) not in grouped
    assert all(x.grad is not None for x in objective.backbone.parameters())


@each_method
def test_without_momentum_there_is_no_target_network(name: str) -> None:
    objective = build(name, momentum=None)
    assert not hasattr(objective, "target")
    before = copy.deepcopy(dict(objective.named_parameters()))
    objective(random_views(2), generator())
    objective.after_step(0.5)
    assert all(torch.equal(x, before[key]) for key, x in objective.named_parameters() if "prototypes" not in key)


def cosine_momentum(base: float, progress: float) -> float:
    """Grill et al. 2020: tau = 1 - (1 - base) (cos(pi k / K) + 1) / 2."""
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2


@each_method
@pytest.mark.parametrize(
    ("schedule", "progress", "momentum"),
    [
        ("constant", 0.0, 0.9),
        ("constant", 0.5, 0.9),
        ("constant", 1.0, 0.9),
        ("cosine", 0.0, 0.9),
        ("cosine", 0.25, cosine_momentum(0.9, 0.25)),
        ("cosine", 0.5, 0.95),
        ("cosine", 1.0, 1.0),
    ],
)
def test_target_moves_by_the_formula_and_the_schedule(
    name: str, schedule: str, progress: float, momentum: float
) -> None:
    objective = build(name, momentum=0.9, momentum_schedule=schedule)
    online = [*objective.backbone.parameters(), *objective.projector.parameters()]
    pairs = zip(objective.target.parameters(), online, strict=True)
    expected = [momentum * old.detach() + (1 - momentum) * new.detach() for old, new in pairs]
    before = [x.clone() for x in online]
    objective.after_step(progress)
    torch.testing.assert_close([x.detach() for x in objective.target.parameters()], expected, rtol=1e-12, atol=1e-14)
    assert all(torch.equal(*pair) for pair in zip(online, before, strict=True))


@each_method
def test_loss_scale_is_a_factor_of_loss_and_gradient(name: str) -> None:
    views, pairs = random_views(2), []
    for scale in (1.0, 2.5):
        objective = build(name, loss_scale=scale)
        loss = objective(views, generator())["loss"]
        pairs.append((loss, gradients(loss, trainable(objective))))
    (loss, gradient), (scaled_loss, scaled_gradient) = pairs
    torch.testing.assert_close(scaled_loss, 2.5 * loss)
    torch.testing.assert_close(scaled_gradient, [2.5 * x for x in gradient])


@pytest.mark.parametrize("name", ["byol", "moco", "simclr", "simsiam", "swav", "unigrad"])
@each_momentum
def test_losses_of_directions_do_not_see_lengths(name: str, momentum: float | None) -> None:
    online, target = randn(2, NUM_IMAGES, DIM), randn(2, NUM_IMAGES, DIM, seed=1)
    losses = []
    for scales in (torch.ones(2, NUM_IMAGES, 1), randn(2, NUM_IMAGES, 1, seed=2).exp()):
        objective = build(name, momentum=momentum)
        x, y = (z * scales for z in (online, target))
        batch = batch_of(x[:1], y[1:]) if name == "moco" else batch_of(x, y)
        losses.append(objective.compare(batch, generator())["loss"])
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)


def similarities(u: Tensor, v: Tensor) -> Tensor:
    """Of each anchor of u to its positive first, then to its 2N - 2 negatives."""
    num = len(u)
    rows = []
    for n in range(num):
        negatives = [x[k] for x in (v, u) for k in range(num) if k != n]
        rows.append(torch.stack([u[n] @ v[n], *(u[n] @ x for x in negatives)]))
    return torch.stack(rows)


def test_simclr_at_an_infinite_temperature_is_uniform_over_its_candidates() -> None:
    temperature = 1e7
    u, v = (unit(randn(NUM_IMAGES, DIM, seed=seed)).requires_grad_() for seed in range(2))
    loss = nt_xent_loss(u, v, u.detach(), temperature)
    assert loss.item() == pytest.approx(math.log(2 * NUM_IMAGES - 1), abs=1e-6)
    gradient = torch.autograd.grad(loss, u)[0] * temperature * NUM_IMAGES
    for n in range(NUM_IMAGES):
        candidates = [*v, *(u[k] for k in range(NUM_IMAGES) if k != n)]
        torch.testing.assert_close(gradient[n], torch.stack(candidates).mean(0) - v[n], rtol=1e-5, atol=1e-6)


def test_simclr_at_temperature_zero_is_the_hinge_of_the_largest_similarity() -> None:
    temperature = 1e-6
    u, v = (unit(randn(NUM_IMAGES, DIM, seed=seed)) for seed in range(2))
    s = similarities(u, v)
    hinge = torch.stack([max(row.max() - row[0], torch.zeros((), dtype=row.dtype)) for row in s]).mean()
    assert hinge > 0.01
    loss = nt_xent_loss(u, v, u, temperature)
    assert (temperature * loss).item() == pytest.approx(hinge.item(), abs=temperature * math.log(2 * NUM_IMAGES))


def test_barlow_twins_is_invariant_to_scale_and_shift_of_a_dimension() -> None:
    z1, z2 = 100 * randn(30, DIM), 100 * randn(30, DIM, seed=1)  # far above batch norm's eps
    scale, shift = randn(DIM, seed=2).exp(), 1000 * randn(DIM, seed=3)
    plain = barlow_twins_loss(standardize(z1), standardize(z2), 0.0051)
    affine = barlow_twins_loss(standardize(scale * z1 + shift), standardize(z2), 0.0051)
    assert plain > 1
    torch.testing.assert_close(affine, plain, rtol=1e-6, atol=1e-8)


def decorrelated(scale: float = 1.0) -> Tensor:
    """Eight images, seven dimensions: the columns of a Hadamard matrix without its constant one."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return scale * torch.kron(torch.kron(two, two), two)[:, 1:]


def test_barlow_twins_is_zero_for_equal_views_without_correlation() -> None:
    x = standardize(decorrelated())
    assert barlow_twins_loss(x, x, 1.0).item() == pytest.approx(0, abs=1e-8)


def test_barlow_twins_counts_each_pair_of_equal_dimensions_twice() -> None:
    z = decorrelated(100.0)
    z[:, 1] = z[:, 0]
    assert barlow_twins_loss(standardize(z), standardize(z), 0.3).item() == pytest.approx(2 * 0.3, rel=1e-6)


def test_barlow_twins_of_opposite_views_is_four_per_dimension() -> None:
    x = standardize(decorrelated(100.0))
    assert barlow_twins_loss(x, -x, 0.0051).item() == pytest.approx(4 * 7, rel=1e-6)


def test_vicregs_invariance_is_zero_for_equal_views() -> None:
    z = randn(1, NUM_IMAGES, DIM).expand(2, -1, -1)
    outputs = build("vicreg").compare(batch_of(z), generator())
    assert outputs["invariance"] == 0
    assert outputs["covariance"] > 0


def test_vicregs_hinge_is_zero_above_a_deviation_of_one_and_nearly_one_in_a_point() -> None:
    assert variance_and_covariance(decorrelated())[0] == 0  # unbiased: 8 / 7
    assert variance_and_covariance(decorrelated(0.5))[0] > 0.4
    assert variance_and_covariance(torch.ones(8, 7).double())[0].item() == pytest.approx(1 - 0.01)  # sqrt 1e-4


def test_vicregs_covariance_is_zero_without_correlation_and_not_otherwise() -> None:
    z = decorrelated(3.0)
    assert variance_and_covariance(z)[1].item() == pytest.approx(0, abs=1e-12)
    z[:, 1] = z[:, 0]
    assert variance_and_covariance(z)[1].item() == pytest.approx(2 * (9 * 8 / 7) ** 2 / 7)


def test_vicreg_is_translation_invariant_in_its_regularisers() -> None:
    z = randn(NUM_IMAGES, DIM)
    torch.testing.assert_close(variance_and_covariance(z + 10), variance_and_covariance(z))


def random_scores(num: int, num_prototypes: int) -> Tensor:
    return unit(randn(num, DIM)) @ unit(randn(num_prototypes, DIM, seed=1)).T


@pytest.mark.parametrize(("num", "num_prototypes"), [(12, 5), (5, 12), (8, 8)])
def test_sinkhorn_becomes_doubly_stochastic(num: int, num_prototypes: int) -> None:
    codes = sinkhorn(random_scores(num, num_prototypes), epsilon=0.2, iterations=500)
    assert (codes >= 0).all()
    torch.testing.assert_close(codes.sum(1), torch.ones(num).double())
    torch.testing.assert_close(codes.sum(0), torch.full((num_prototypes,), num / num_prototypes).double())


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorns_rows_have_sum_one_after_any_number_of_iterations(iterations: int) -> None:
    codes = sinkhorn(random_scores(12, 5), epsilon=0.05, iterations=iterations)
    torch.testing.assert_close(codes.sum(1), torch.ones(12).double(), rtol=1e-12, atol=1e-12)
    assert (codes.sum(0) - 12 / 5).abs().max() > 1e-3  # columns take more


def test_sinkhorn_of_equal_scores_is_uniform() -> None:
    torch.testing.assert_close(sinkhorn(torch.full((6, 4), 0.7), 0.05, 3), torch.full((6, 4), 1 / 4))


def test_sinkhorn_does_not_see_a_constant_added_to_the_scores() -> None:
    scores = random_scores(8, 5)
    torch.testing.assert_close(sinkhorn(scores + 100, 0.05, 3), sinkhorn(scores, 0.05, 3))


def extreme_scores() -> dict[str, Tensor]:
    """Scores of unit vectors at their limits, in single precision."""
    ones = torch.ones(6, 4)
    one_image_is_far, one_prototype_is_far, all_at_one, spread = ones.clone(), ones.clone(), -ones, -ones
    one_image_is_far[2] = -1
    one_prototype_is_far[:, 1] = -1
    all_at_one[:, 0] = 1
    spread[range(6), [0, 1, 2, 3, 0, 1]] = 1
    return {
        "ones": ones,
        "minus ones": -ones,
        "one image is far": one_image_is_far,
        "one prototype is far": one_prototype_is_far,
        "all at one prototype": all_at_one,
        "each at one prototype": spread,
    }


@pytest.mark.parametrize("epsilon", [0.05, 0.03, 0.01, 1e-3])  # published, official advice, and what Config lets pass
@pytest.mark.parametrize("case", extreme_scores())
def test_sinkhorn_is_finite_at_the_limits_of_its_scores(case: str, epsilon: float) -> None:
    codes = sinkhorn(extreme_scores()[case], epsilon, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(6))


def test_memory_bank_starts_with_unit_vectors_of_all_directions() -> None:
    torch.manual_seed(0)
    bank = MemoryBank(500, DIM)
    torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(500))
    assert bank.rows.mean(0).abs().max() < 0.1
    assert bank.count == 0


def test_memory_bank_is_first_in_first_out_and_wraps_around() -> None:
    bank, kept = MemoryBank(7, 1), [math.nan] * 7
    start = bank.rows.flatten().tolist()
    for step in range(8):
        rows = [10.0 * step + n + 5 for n in range(3)]  # no unit vectors
        bank.put(torch.tensor(rows)[:, None])
        kept = (kept + rows)[-7:]
        expected = [x for x in kept if not math.isnan(x)]
        assert len(expected) == min(7, 3 * (step + 1))
        assert sorted(expected) == sorted(x for x in bank.rows.flatten().tolist() if x not in start)
        assert bank.count == 3 * (step + 1)


def test_memory_bank_is_state_without_gradient() -> None:
    bank = MemoryBank(7, 2)
    bank.put(torch.randn(3, 2, requires_grad=True))
    assert not bank.rows.requires_grad
    assert set(bank.state_dict()) == {"rows", "count"}
    assert list(bank.parameters()) == []


def test_mocos_queue_takes_a_steps_keys_when_the_step_is_over() -> None:
    objective = build("moco")
    before = objective.queue.rows.clone()
    keys = []
    for seed in (0, 1):  # two accumulated parts of one step
        views, twin = random_views(2, seed=seed), copy.deepcopy(objective)
        objective(views, generator())["loss"].backward()
        keys.append(unit(twin.target(views[1])))
        assert torch.equal(objective.queue.rows, before)
    objective.after_step(0.5)
    assert not objective.queue.rows.requires_grad
    torch.testing.assert_close(objective.queue.rows[:10], torch.cat(keys))
    assert torch.equal(objective.queue.rows[10:], before[10:])
    objective.after_step(0.5)  # nothing is put in twice
    torch.testing.assert_close(objective.queue.rows[:10], torch.cat(keys))
    assert objective.queue.count == 10


def swav_step(objective: Any, seed: int) -> tuple[Tensor, Batch]:
    """Codes of a step, whose projections are random."""
    batch = batch_of(randn(2, NUM_IMAGES, DIM, seed=seed))
    objective.compare(batch, generator())
    objective.after_step(0.5)
    assert batch.codes is not None
    return batch.codes, batch


@pytest.mark.parametrize("queue_from", [0, 2])
def test_swavs_queue_is_filled_from_its_step_and_used_once_full(queue_from: int) -> None:
    objective = build("swav", queue=10, queue_from=queue_from)
    earlier: list[list[Tensor]] = [[], []]
    for step in range(6):
        codes, batch = swav_step(objective, step)
        c = objective.prototypes.weight.detach()
        for view in range(2):
            u = unit(batch.target[view])
            full = len(earlier[view]) >= 2  # of five images each
            together = torch.cat([u, *earlier[view][-2:]]) if full else u
            expected = sinkhorn_pseudocode(together @ c.T, 0.05, 3)[:NUM_IMAGES]
            torch.testing.assert_close(codes[view], expected)
            assert full == (step >= queue_from + 2)
            if step >= queue_from:
                earlier[view].append(u)


def test_swavs_prototypes_are_unit_vectors_in_every_forward_pass() -> None:
    objective = build("swav")
    with torch.no_grad():
        objective.prototypes.weight.mul_(3)
    objective(random_views(2), generator())
    torch.testing.assert_close(objective.prototypes.weight.norm(dim=1).detach(), torch.ones(7).double())


def test_swavs_prototypes_stay_in_the_first_steps() -> None:
    objective = build("swav", frozen_steps=2)
    optimizer = torch.optim.SGD(trainable(objective), lr=0.1, momentum=0.9, weight_decay=0.1)
    moved = []
    for step in range(4):
        loss = objective(random_views(2, seed=step), generator())["loss"]
        before = objective.prototypes.weight.detach().clone()  # on the sphere
        optimizer.zero_grad()
        loss.backward()
        objective.before_step()
        assert (objective.prototypes.weight.grad is None) == (step < 2)
        optimizer.step()
        objective.after_step(0.5)
        moved.append(not torch.equal(objective.prototypes.weight, before))
    assert moved == [False, False, True, True]


def test_codes_hold_no_gradient() -> None:
    objective = build("swav")
    batch = batch_of(randn(2, NUM_IMAGES, DIM).requires_grad_())
    objective.compare(batch, generator())
    assert batch.codes is not None
    assert not batch.codes.requires_grad


REASONS = {
    "barlow_twins": "Barlow Twins has no stop-gradient",
    "moco": "MoCo's first view is always the query",
    "simclr": "SimCLR has no stop-gradient",
    "swav": "SwAV compares codes with scores",
    "vicreg": "VICReg has no stop-gradient",
}


@pytest.mark.parametrize("name", UNGUIDED)
@pytest.mark.parametrize("mode", ["guided", "random", "reverse"])
def test_guidance_is_refused_with_the_reason_where_no_view_is_a_fixed_target(name: str, mode: str) -> None:
    message = rf"objective\.guidance={mode}: expected symmetric, since {REASONS[name]}"
    with pytest.raises(InputError, match=message):
        objectives.find(name).Config(guidance=mode)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simclr", {"temperature": 0.0}, r"objective\.temperature: expected 0\.001 to 1000, got 0"),
        ("simclr", {"temperature": math.nan}, r"objective\.temperature: expected .*, got nan"),
        ("moco", {"temperature": -1.0}, r"objective\.temperature: expected .*, got -1"),
        ("moco", {"splits": 0}, r"objective\.splits: expected 1 to .*, got 0"),
        ("moco", {"queue": 0}, r"objective\.queue: expected 1 to .*, got 0"),
        ("swav", {"prototypes": 1}, r"objective\.prototypes: expected 2 to .*, got 1"),
        ("swav", {"temperature": 0.0}, r"objective\.temperature: expected .*, got 0"),
        ("swav", {"epsilon": 0.0}, r"objective\.epsilon: expected .*, got 0"),
        ("swav", {"sinkhorn_iterations": 0}, r"objective\.sinkhorn_iterations: expected 1 to 1000, got 0"),
        ("swav", {"frozen_steps": -1}, r"objective\.frozen_steps: expected 0 to .*, got -1"),
        ("swav", {"queue": -1}, r"objective\.queue: expected 0 to .*, got -1"),
        ("swav", {"queue_from": -1}, r"objective\.queue_from: expected 0 to .*, got -1"),
        ("barlow_twins", {"off_diagonal": -0.1}, r"objective\.off_diagonal: expected 0 to .*, got -0\.1"),
        ("vicreg", {"invariance": -1.0}, r"objective\.invariance: expected 0 to .*, got -1"),
        ("vicreg", {"variance": math.nan}, r"objective\.variance: expected 0 to .*, got nan"),
        ("vicreg", {"covariance": -1.0}, r"objective\.covariance: expected 0 to .*, got -1"),
        ("unigrad", {"balance": -1.0}, r"objective\.balance: expected 0 to .*, got -1"),
        ("unigrad", {"correlation_momentum": 1.1}, r"objective\.correlation_momentum: expected 0 to 1, got 1\.1"),
        ("unigrad", {"views": 3}, r"objective\.views: expected 2 or 4, got 3"),
        ("simsiam", {"predictor": "mpl"}, r"unknown predictor 'mpl'; did you mean 'mlp'\? choose from: directpred, "),
        ("byol", {"directpred_momentum": 1.5}, r"objective\.directpred_momentum: expected 0 to 1, got 1\.5"),
        ("byol", {"directpred_eps": -0.1}, r"objective\.directpred_eps: expected 0 to 10, got -0\.1"),
        ("byol", {"directpred_every": 0}, r"objective\.directpred_every: expected 1 to .*, got 0"),
        (
            "simsiam",
            {"stop_gradient": False, "momentum": 0.9},
            r"objective\.stop_gradient=false: a momentum target has no gradient .*set objective\.momentum=null",
        ),
    ],
)
def test_impossible_settings_of_a_method_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objectives.find(name).Config(**options)


@each_method
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": "guidd"}, r"unknown guidance 'guidd'; did you mean 'guided'\?"),
        ({"momentum": 1.5}, r"objective\.momentum: expected 0 to 1, got 1\.5"),
        ({"momentum_schedule": "cosin"}, r"unknown momentum_schedule 'cosin'; did you mean 'cosine'\?"),
        ({"projector_norm": "evry"}, r"unknown projector_norm 'evry'; did you mean 'every'\?"),
        ({"projector_dims": [8]}, r"objective\.projector_dims: expected two or more positive widths, got \[8\]"),
        ({"loss_scale": 0.0}, r"objective\.loss_scale: expected .*, got 0"),
        ({"loss_scale": -1.0}, r"objective\.loss_scale: expected .*, got -1"),
    ],
)
def test_impossible_settings_of_all_methods_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objectives.find(name).Config(**options)


def prepare(objective: Any, **recipe: Any) -> None:
    objective.prepare(**{"batch_size": NUM_IMAGES, "num_local": 0, "cutmix": None, "gradients": False, **recipe})


@pytest.mark.parametrize("name", ["moco", "swav"])
def test_queue_that_a_batch_does_not_fit_into_is_refused(name: str) -> None:
    prepare(build(name, queue=16), batch_size=16)
    with pytest.raises(InputError, match=r"objective\.queue: expected at least the 17 images of a batch .*, got 16"):
        prepare(build(name, queue=16), batch_size=17)


@pytest.mark.parametrize(("splits", "batch_size"), [(3, 8), (8, 8), (4, 2)])
def test_parts_of_unequal_size_or_of_one_image_are_refused(splits: int, batch_size: int) -> None:
    message = (
        rf"objective\.splits: expected equal parts of two images or more.*got {splits} parts of {batch_size} images"
    )
    with pytest.raises(InputError, match=message):
        prepare(build("moco", splits=splits), batch_size=batch_size)
    prepare(build("moco", splits=4), batch_size=8)


def test_swav_asks_for_its_small_crops_to_be_said() -> None:
    with pytest.raises(InputError, match=r"views\.num_local is missing: .*views\.num_local=6 .*views\.num_local=0"):
        prepare(build("swav"), num_local=None)
    for num_local in (0, 6):
        prepare(build("swav"), num_local=num_local)


@pytest.mark.parametrize("name", UNGUIDED)
def test_cutmix_is_refused_where_targets_cannot_be_mixed(name: str) -> None:
    with pytest.raises(InputError, match=r"views\.cutmix_p: this objective's loss is not linear in its targets"):
        prepare(build(name, momentum=0.9), cutmix=CutMix(0.5, 1))


@each_guided
def test_cutmix_is_refused_without_a_momentum_target(name: str) -> None:
    with pytest.raises(InputError, match=r"views\.cutmix_p: .*set objective\.momentum, or views\.cutmix_p=0"):
        prepare(build(name, momentum=None), cutmix=CutMix(0.5, 1))
    prepare(build(name, momentum=0.9), cutmix=CutMix(0.5, 1))


@each_method
def test_gradients_are_not_logged_with_small_crops(name: str) -> None:
    with pytest.raises(InputError, match=r"monitor\.gradients: .*views\.num_local=0"):
        prepare(build(name), num_local=2, gradients=True)
    prepare(build(name), gradients=True)


@each_guided
def test_gradients_are_not_logged_with_cutmix(name: str) -> None:
    with pytest.raises(InputError, match=r"monitor\.gradients: .*views\.cutmix_p=0"):
        prepare(build(name, momentum=0.9), cutmix=CutMix(0.5, 1), gradients=True)


def test_gradients_are_not_logged_without_stop_gradient() -> None:
    with pytest.raises(InputError, match=r"monitor\.gradients: .*objective\.stop_gradient=true"):
        prepare(build("simsiam", stop_gradient=False), gradients=True)
