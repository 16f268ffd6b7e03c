"""Guided Stop-Gradient against a literal transcription of Lee & Lee 2023, Algorithm 1: loops over pairs, in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pretrain import objectives
from pretrain.guidance import MODES, closest_pair, guided_loss, select_sources, statistics

METHODS = ("simsiam", "byol")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """What one step draws: the shuffled batch, then a choice among the four lines of eq. 6 for each pair."""
    g = generator(seed)
    return torch.randperm(num_images, generator=g), torch.randint(4, (num_images,), generator=g)


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    return -(p / p.norm() * (z / z.norm())).sum()


def selected_terms(k: int | None, p: list[Tensor], z: list[Tensor]) -> Tensor:
    """The table of eq. 6; None is eq. 2. Views of a pair in the order 11, 12, 21, 22."""
    p11, p12, p21, p22 = p
    z11, z12, z21, z22 = z
    terms = {
        0: [(p11, z12), (p21, z22)],
        1: [(p11, z12), (p22, z21)],
        2: [(p12, z11), (p21, z22)],
        3: [(p12, z11), (p22, z21)],
        None: [(p11, z12), (p12, z11), (p21, z22), (p22, z21)],
    }[k]
    return sum((negative_cosine(source, target) for source, target in terms), torch.zeros(())) / len(terms)


def choose(mode: str, z: list[Tensor], random_k: int) -> int | None:
    """Eq. 4 for ``guided``, its complement on both images (eq. 7) for ``reverse``."""
    z11, z12, z21, z22 = z
    d = [(z11 - z21).norm().item(), (z11 - z22).norm().item(), (z12 - z21).norm().item(), (z12 - z22).norm().item()]
    k = d.index(min(d))
    return {"guided": k, "reverse": {0: 3, 1: 2, 2: 1, 3: 0}[k], "random": random_k, "symmetric": None}[mode]


def algorithm_1(
    mode: str,
    f: Callable[[Tensor], Tensor],
    f_target: Callable[[Tensor], Tensor],
    h: Callable[[Tensor], Tensor],
    views: list[Tensor],
    seed: int,
) -> tuple[Tensor, list[int | None]]:
    """The loss of a step, and the choice of every pair.

    The second image of pair m is image ``partner[m]``. Two views serve both of an image's pairs.
    """
    partner, random_k = draw(len(views[0]), seed)
    p = [h(f(view)) for view in views]
    z = [f_target(view).detach() for view in views]
    # Shuffled after the forward pass, not before: batch norm sums another order to another last bit, and an image that
    # is its own partner with shared views has d0 = d3 = 0 exactly.
    p = [p[0], p[1], p[-2][partner], p[-1][partner]]
    z = [z[0], z[1], z[-2][partner], z[-1][partner]]
    loss, choices = torch.zeros(()), []
    for m in range(len(partner)):
        z_pair = [z_view[m] for z_view in z]
        k = choose(mode, z_pair, int(random_k[m]))
        loss = loss + selected_terms(k, [p_view[m] for p_view in p], z_pair)
        choices.append(k)
    return loss / len(partner), choices


def build(method: str, seed: int = 0, **options: object) -> objectives.Objective:
    torch.manual_seed(seed)
    module = objectives.find(method)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    config = module.Config(projector_dims=[12, 12, 10], predictor_dim=5, **options)
    objective = module.Method(config, backbone, 6).double()
    if method == "byol":  # a target unlike the online network, as it is after some steps
        with torch.no_grad():
            for x in objective.target.parameters():
                x += 0.3 * torch.randn_like(x)
    return objective


def random_views(num_views: int, num_images: int, seed: int) -> list[Tensor]:
    shape = (num_images, 3, 6, 6)
    return [
        torch.randn(shape, generator=generator(7 * seed + v), dtype=torch.float64).requires_grad_()
        for v in range(num_views)
    ]


def gradients(objective: nn.Module, loss: Tensor, views: list[Tensor]) -> list[Tensor]:
    trainable = [x for x in objective.parameters() if x.requires_grad]
    return list(torch.autograd.grad(loss, [*trainable, *views], allow_unused=True, materialize_grads=True))


def reference(
    objective: objectives.Objective, mode: str, views: list[Tensor], seed: int
) -> tuple[Tensor, list[int | None]]:
    online = nn.Sequential(objective.backbone, objective.projector)
    target = objective.target if hasattr(objective, "target") else online
    return algorithm_1(mode, online, target, objective.predictor, views, seed)


def assert_equals_the_paper(objective: objectives.Objective, mode: str, views: list[Tensor], seed: int) -> None:
    twin = copy.deepcopy(objective)
    outputs = objective(views, generator(seed))
    expected, choices = reference(twin, mode, views, seed)
    torch.testing.assert_close(outputs["loss"], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        gradients(objective, outputs["loss"], views), gradients(twin, expected, views), rtol=1e-8, atol=1e-11
    )
    for k in range(4) if mode != "symmetric" else ():
        assert outputs[f"choice_{k}"].item() == pytest.approx(choices.count(k) / len(choices))


@pytest.mark.parametrize(("seed", "num_images"), [(0, 2), (1, 5), (2, 8), (3, 13)])
@pytest.mark.parametrize("num_views", [2, 4])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradients_equal_the_papers_algorithm(
    method: str, mode: str, num_views: int, seed: int, num_images: int
) -> None:
    objective = build(method, seed, guidance=mode, views=num_views)
    assert_equals_the_paper(objective, mode, random_views(num_views, num_images, seed), seed)


@pytest.mark.parametrize("num_views", [2, 4])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_without_predictor_the_source_keeps_its_gradient_and_the_target_has_none(
    method: str, mode: str, num_views: int
) -> None:
    objective = build(method, guidance=mode, views=num_views, predictor="none")
    assert_equals_the_paper(objective, mode, random_views(num_views, 6, 0), seed=4)


@pytest.mark.parametrize("method", METHODS)
def test_one_process_has_one_batch_so_global_pairs_are_its_local_ones(method: str) -> None:
    views = random_views(4, 7, 0)
    losses = [build(method, pairs=pairs)(views, generator(5))["loss"] for pairs in ("local", "global")]
    assert torch.equal(*losses)


@pytest.mark.parametrize("num_views", [2, 4])
def test_byol_is_guided_by_the_targets_projections_and_not_by_the_online_ones(num_views: int) -> None:
    differing = 0
    for seed in range(5):
        objective = build("byol", seed, views=num_views)
        views = random_views(num_views, 13, seed)
        twin = copy.deepcopy(objective)
        online = nn.Sequential(twin.backbone, twin.projector)
        by_target = algorithm_1("guided", online, twin.target, twin.predictor, views, seed)[1]
        by_online = algorithm_1("guided", online, online, twin.predictor, views, seed)[1]
        outputs = objective(views, generator(seed))
        shares = [outputs[f"choice_{k}"].item() for k in range(4)]
        assert shares == pytest.approx([by_target.count(k) / 13 for k in range(4)])
        differing += by_target != by_online
    assert differing, "the two networks chose alike, so this proves nothing"


@pytest.mark.parametrize("method", METHODS)
def test_only_source_views_receive_gradient(method: str) -> None:
    objective = build(method, views=4)
    for head in (objective.projector, objective.predictor, getattr(objective, "target", nn.Identity())):
        remove_batch_norm(head)  # it would tie every image of a batch to every other
    remove_batch_norm(objective.backbone)
    views = random_views(4, 6, 0)
    loss = objective(views, generator(3))["loss"]
    moved = torch.stack([x.grad.flatten(1).norm(dim=1) > 0 for x in backward(loss, views)])  # (4, 6)
    _, choices = reference(objective, "guided", views, 3)
    partner, _ = draw(6, 3)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    for m, k in enumerate(choices):
        assert k is not None
        expected[k // 2, m] = True
        expected[2 + k % 2, partner[m]] = True
    assert torch.equal(moved, expected)


def backward(loss: Tensor, views: list[Tensor]) -> list[Tensor]:
    loss.backward()
    return views


def remove_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        remove_batch_norm(child)


def random_projections(num_views: int, num_images: int, seed: int = 0, dim: int = 8) -> Tensor:
    return torch.randn(num_views, num_images, dim, generator=generator(seed), dtype=torch.float64)


def one_pair(z11: float, z12: float, z21: float, z22: float) -> int:
    return int(closest_pair(torch.tensor([z11, z12]).view(2, 1, 1), torch.tensor([z21, z22]).view(2, 1, 1)))


@pytest.mark.parametrize(
    ("points", "k"),
    [((0, 9, 1, 5), 0), ((0, 9, -5, 1), 1), ((0, 9, 8, 40), 2), ((0, 9, -7, 12), 3)],
)
def test_each_of_the_four_distances_can_be_the_least(points: tuple[float, ...], k: int) -> None:
    assert one_pair(*points) == k


@pytest.mark.parametrize(
    ("points", "k"),
    [
        ((0, 0, 0, 0), 0),  # all four equal
        ((0, 5, 1, -1), 0),  # d0 = d1
        ((0, 2, 1, 9), 0),  # d0 = d2
        ((0, 5, 1, 4), 0),  # d0 = d3
        ((0, 2, 9, 1), 1),  # d1 = d3
        ((0, 5, 4, 1), 1),  # d1 = d2
        ((9, 0, 1, -1), 2),  # d2 = d3
    ],
)
def test_ties_go_to_the_lowest_index(points: tuple[float, ...], k: int) -> None:
    assert one_pair(*points) == k


@pytest.mark.parametrize("num_views", [2, 4])
def test_equal_projections_make_the_first_view_of_each_role_the_source(num_views: int) -> None:
    selection = select_sources(torch.ones(num_views, 7, 3), "guided", "local", generator())
    assert torch.equal(selection.sources, torch.tensor([[0], [num_views - 2]]).expand(2, 7))
    assert selection.choices.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("num_views", [2, 4])
@pytest.mark.parametrize("mode", ["guided", "random", "reverse"])
def test_selection_gives_each_image_one_source_per_role(mode: str, num_views: int) -> None:
    z = random_projections(num_views, 11)
    partner, random_k = draw(11, 2)
    selection = select_sources(z, mode, "local", generator(2))
    expected = torch.full((2, 11), -1)
    for m, r in enumerate(partner.tolist()):
        k = choose(mode, [z[0, m], z[1, m], z[-2, r], z[-1, r]], int(random_k[m]))
        assert k is not None
        expected[0, m], expected[1, r] = k // 2, num_views - 2 + k % 2
    assert torch.equal(selection.sources, expected)


@pytest.mark.parametrize("num_views", [2, 4])
def test_reverse_is_the_complement_on_both_images(num_views: int) -> None:
    z = random_projections(num_views, 40)
    guided, reverse = (select_sources(z, mode, "local", generator(1)) for mode in ("guided", "reverse"))
    assert torch.equal(reverse.sources, guided.sources ^ 1)
    assert torch.equal(reverse.choices, guided.choices.flip(0))
    assert guided.choices.count_nonzero() == 4


@pytest.mark.parametrize("num_views", [2, 4])
def test_without_guidance_every_view_is_a_source_and_no_number_is_drawn(num_views: int) -> None:
    g = generator()
    selection = select_sources(random_projections(num_views, 3), "symmetric", "local", g)
    assert selection.sources.tolist() == [[v] * 3 for v in range(num_views)]
    assert torch.equal(g.get_state(), generator().get_state())
    assert statistics(selection) == {}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", ["guided", "reverse"])
def test_choice_is_invariant_to_translation_and_rotation(mode: str, seed: int) -> None:
    z = random_projections(4, 50, seed)
    rotation, _ = torch.linalg.qr(random_projections(1, 8, seed + 100)[0])
    shift = 3 * random_projections(1, 1, seed + 200)
    plain, moved = (select_sources(x, mode, "local", generator(seed)).sources for x in (z, z @ rotation + shift))
    assert torch.equal(plain, moved)


def test_choice_looks_at_raw_projections_and_not_at_their_directions() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, None]
    second = torch.tensor([[9.0, 0.0], [0.6, 0.6]])[:, None]  # the first has z11's direction and lies far from it
    assert closest_pair(first, second).item() == 1
    assert closest_pair(nn.functional.normalize(first, dim=-1), nn.functional.normalize(second, dim=-1)).item() == 0


def test_swapping_an_images_views_swaps_its_choice() -> None:
    first, second = random_projections(2, 60, 1), random_projections(2, 60, 2)
    k = closest_pair(first, second)
    assert torch.equal(closest_pair(first.flip(0), second), k ^ 2)
    assert torch.equal(closest_pair(first, second.flip(0)), k ^ 1)


def test_an_image_that_is_its_own_partner_compares_its_own_crops() -> None:
    z = random_projections(4, 1)
    selection = select_sources(z, "guided", "local", generator())
    k = closest_pair(z[:2], z[2:]).item()
    assert selection.sources.flatten().tolist() == [k // 2, 2 + k % 2]
    assert selection.self_pairs.item() == 1


def test_an_image_that_is_its_own_partner_with_shared_views_takes_the_first() -> None:
    # d0 = d3 = 0: a view is closest to itself
    selection = select_sources(random_projections(2, 1), "guided", "local", generator())
    assert selection.sources.flatten().tolist() == [0, 0]


def test_an_identical_partner_with_shared_views_takes_the_first_of_both() -> None:
    z = random_projections(2, 1).expand(2, 9, 8)
    selection = select_sources(z, "guided", "local", generator())
    assert selection.sources.tolist() == [[0] * 9, [0] * 9]


@pytest.mark.parametrize("seed", range(6))
def test_self_pair_share_counts_the_permutations_fixed_points(seed: int) -> None:
    partner, _ = draw(5, seed)
    selection = select_sources(random_projections(4, 5), "guided", "local", generator(seed))
    assert selection.self_pairs.item() == pytest.approx(sum(r == m for m, r in enumerate(partner.tolist())) / 5)


def test_one_self_pair_per_step_is_expected() -> None:
    z = torch.zeros(4, 16, 1)
    shares = [select_sources(z, "random", "local", generator(seed)).self_pairs.item() for seed in range(400)]
    # fixed points of a random permutation: mean 1, variance 1; five standard errors
    assert 16 * sum(shares) / len(shares) == pytest.approx(1, abs=5 / 400**0.5)


@pytest.mark.parametrize("mode", ["guided", "random", "reverse"])
def test_choice_shares_sum_to_one_and_are_logged(mode: str) -> None:
    selection = select_sources(random_projections(4, 7), mode, "local", generator())
    logged = statistics(selection)
    assert set(logged) == {"choice_0", "choice_1", "choice_2", "choice_3", "self_pairs"}
    assert sum(logged[f"choice_{k}"].item() for k in range(4)) == pytest.approx(1)


def test_random_choices_are_uniform_and_independent_of_the_two_roles() -> None:
    num_images = 20_000
    sources = select_sources(torch.zeros(4, num_images, 1), "random", "local", generator(1)).sources
    observed = torch.bincount(2 * sources[0] + sources[1] - 2, minlength=4).double()
    chi_square = ((observed - num_images / 4) ** 2 / (num_images / 4)).sum().item()
    assert chi_square < 21.1  # three degrees of freedom: exceeded once in ten thousand


def test_random_choice_does_not_look_at_the_projections() -> None:
    selections = [select_sources(random_projections(4, 30, seed), "random", "local", generator()) for seed in (0, 1)]
    assert torch.equal(selections[0].sources, selections[1].sources)


def test_selection_is_a_function_of_the_generators_state() -> None:
    z = random_projections(4, 30)
    first, again, other = (select_sources(z, "guided", "local", generator(seed)).sources for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_selection_has_no_gradient_and_leaves_none_behind() -> None:
    z = random_projections(4, 5).requires_grad_()
    selection = select_sources(z, "guided", "local", generator())
    assert not selection.sources.requires_grad
    assert not selection.choices.requires_grad


# 45 is the norm after a batch norm of 2048 dimensions, where squares tie; at 300 they overflow float16
@pytest.mark.parametrize(("dtype", "norm"), [(torch.bfloat16, 45), (torch.float16, 45), (torch.float16, 300)])
def test_half_precision_projections_are_compared_in_single(dtype: torch.dtype, norm: float) -> None:
    dim = 2048
    z = (random_projections(4, 400, dim=dim) * norm / dim**0.5).to(dtype)
    exact = squared_distances(z.double())
    best, second = exact.sort(dim=0).values[:2]
    clear = second - best > 1e-4 * best  # single precision's own error is a hundredth of that
    assert clear.float().mean() > 0.9
    in_half = squared_distances(z).argmin(0)
    assert not torch.equal(in_half[clear], exact.argmin(0)[clear]), "half precision would do, so this proves nothing"
    assert torch.equal(closest_pair(z[:2], z[2:])[clear], exact.argmin(0)[clear])


def squared_distances(z: Tensor) -> Tensor:
    return torch.stack([(z[k // 2] - z[2 + k % 2]).square().sum(-1) for k in range(4)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loss_is_computed_in_single(dtype: torch.dtype) -> None:
    p, z = (random_projections(2, 64, seed, dim=2048).to(dtype) for seed in (1, 2))
    sources = torch.tensor([[0], [1]]).expand(2, 64)
    loss = guided_loss(p, z, sources)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), guided_loss(p.double(), z.double(), sources), rtol=0, atol=1e-6)


def test_double_precision_stays_double() -> None:
    p = random_projections(2, 3)
    assert guided_loss(p, p, torch.zeros(1, 3, dtype=torch.long)).dtype == torch.float64


@pytest.mark.parametrize("num_views", [2, 4])
@pytest.mark.parametrize(("scale", "expected"), [(0.01, -1), (1, -1), (300, -1), (-1, 1)])
def test_loss_is_minus_one_where_prediction_and_target_agree(num_views: int, scale: float, expected: float) -> None:
    z = random_projections(num_views, 6)
    p = scale * z[torch.arange(num_views) ^ 1]
    sources = select_sources(z, "guided", "local", generator()).sources
    assert guided_loss(p, z, sources).item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("mode", MODES)
def test_loss_lies_between_minus_one_and_one(mode: str, seed: int) -> None:
    p, z = random_projections(4, 3, seed, dim=2), random_projections(4, 3, seed + 50, dim=2)
    loss = guided_loss(p, z, select_sources(z, mode, "local", generator(seed)).sources).item()
    assert -1 <= loss <= 1


def test_loss_of_orthogonal_prediction_and_target_is_zero() -> None:
    p = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]]])
    z = torch.tensor([[[0.0, 3.0]], [[0.0, -1.0]]])
    assert guided_loss(p, z, torch.tensor([[0], [1]])).item() == 0


def test_loss_of_a_zero_prediction_is_finite() -> None:
    p = torch.zeros(2, 3, 4, requires_grad=True)
    loss = guided_loss(p, torch.randn(2, 3, 4, generator=generator()), torch.zeros(1, 3, dtype=torch.long))
    loss.backward()
    assert loss.isfinite()
    assert p.grad.isfinite().all()


def test_gradient_reaches_the_selected_predictions_alone() -> None:
    p = random_projections(4, 9, 1).requires_grad_()
    z = random_projections(4, 9, 2)
    sources = select_sources(z, "guided", "local", generator()).sources
    guided_loss(p, z, sources).backward()
    selected = torch.zeros(4, 9, dtype=torch.bool).scatter(0, sources, True)
    assert torch.equal(p.grad.norm(dim=-1) > 0, selected)
