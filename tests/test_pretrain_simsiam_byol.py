"""What SimSiam and BYOL promise each, and the heads."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters.errors import InputError
from pretrain import objectives
from pretrain.guidance import MODES
from pretrain.heads import build_predictor, build_projector
from tests.small_objectives import build, generator, random_views

every_siamese = pytest.mark.parametrize("name", ["simsiam", "byol"])


@every_siamese
@pytest.mark.parametrize("views", [2, 4])
def test_number_of_views_is_the_configured_one(name: str, views: int) -> None:
    assert build(name, views=views).num_views == views


@every_siamese
def test_predictor_alone_may_keep_its_rate(name: str) -> None:
    objective = build(name)
    fixed = [x for group in objective.parameter_groups() if group["fixed_lr"] for x in group["params"]]
    assert [id(x) for x in fixed] == [id(x) for x in objective.predictor.parameters()]


@every_siamese
@pytest.mark.parametrize("mode", MODES)
def test_choices_and_self_pairs_are_logged_with_guidance_only(name: str, mode: str) -> None:
    objective = build(name, guidance=mode)
    logged = set(objective(random_views(objective), generator())) - {"loss"}
    expected = {"choice_0", "choice_1", "choice_2", "choice_3", "self_pairs"}
    assert logged == (set() if mode == "symmetric" else expected)


@every_siamese
def test_without_predictor_there_is_nothing_to_fix_and_an_optimiser_can_still_be_built(name: str) -> None:
    objective = build(name, predictor="none")
    assert list(objective.predictor.parameters()) == []
    torch.optim.SGD(objective.parameter_groups(), lr=0.1)


@every_siamese
def test_each_view_is_a_batch_of_its_own_to_batch_norm(name: str) -> None:
    objective = build(name, views=4)
    expected = copy.deepcopy(objective.backbone)
    views = random_views(objective)
    objective(views, generator())
    for view in views:  # one forward per view, in order, as in the official code
        expected(view)
    torch.testing.assert_close(objective.backbone.state_dict(), expected.state_dict())
    assert objective.backbone[1].num_batches_tracked == 4


@every_siamese
def test_defaults_are_the_published_ones(name: str) -> None:
    config = objectives.find(name).Config()
    assert (config.guidance, config.views, config.pairs, config.predictor) == ("guided", 4, "local", "mlp")
    assert (config.projector_dims, config.projector_affine, config.predictor_dim) == ([2048] * 3, False, 512)


@every_siamese
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": "gided"}, r"unknown guidance 'gided'; did you mean 'guided'\? choose from: guided, random, rev"),
        ({"pairs": "globl"}, r"unknown pairs 'globl'; did you mean 'global'\? choose from: global, local"),
        ({"views": 3}, r"views: expected 2 or 4, got 3"),
        ({"projector_dims": [64]}, r"projector_dims: expected two or more positive widths, got \[64\]"),
        ({"projector_dims": []}, r"projector_dims: expected two or more positive widths, got \[\]"),
        ({"projector_dims": [64, 0]}, r"projector_dims: expected two or more positive widths, got \[64, 0\]"),
        ({"predictor_dim": 0}, r"predictor_dim: expected .*, got 0"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objectives.find(name).Config(**options)


@pytest.mark.parametrize("momentum", [2.0, 1.001, -0.1, float("nan")])
def test_momentum_outside_of_zero_to_one_is_refused(momentum: float) -> None:
    with pytest.raises(InputError, match=rf"momentum: expected 0 to 1, got {momentum}"):
        objectives.find("byol").Config(momentum=momentum)


def simsiam_pseudocode(objective: nn.Module, x1: Tensor, x2: Tensor, *, stop_gradient: bool) -> Tensor:
    """Chen & He 2021, Algorithm 1."""

    def distance(p: Tensor, z: Tensor) -> Tensor:
        z = z.detach() if stop_gradient else z
        p = F.normalize(p, dim=1)
        z = F.normalize(z, dim=1)
        return -(p * z).sum(dim=1).mean()

    z1, z2 = objective.projector(objective.backbone(x1)), objective.projector(objective.backbone(x2))
    p1, p2 = objective.predictor(z1), objective.predictor(z2)
    return distance(p1, z2) / 2 + distance(p2, z1) / 2


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_simsiam_equals_its_papers_pseudocode(stop_gradient: bool) -> None:
    objective = build("simsiam", guidance="symmetric", views=2, stop_gradient=stop_gradient).double()
    twin = copy.deepcopy(objective)
    views = [view.double() for view in random_views(objective)]
    loss = objective(views, generator())["loss"]
    expected = simsiam_pseudocode(twin, *views, stop_gradient=stop_gradient)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for x, y in zip(objective.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_first_target_of_byol_equals_the_online_network() -> None:
    objective = build("byol")
    online = nn.Sequential(objective.backbone, objective.projector).state_dict()
    assert list(objective.target.state_dict()) == list(online)
    for key, value in objective.target.state_dict().items():
        assert torch.equal(value, online[key])
        assert value.data_ptr() != online[key].data_ptr()


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
def test_after_step_moves_the_targets_parameters_as_the_formula_says(momentum: float) -> None:
    objective = build("byol", momentum=momentum).double()
    perturb(objective)
    online = [*objective.backbone.parameters(), *objective.projector.parameters()]
    expected = [
        momentum * old.detach() + (1 - momentum) * new.detach()
        for old, new in zip(objective.target.parameters(), online, strict=True)
    ]
    objective.after_step(0.5)
    torch.testing.assert_close([x.detach() for x in objective.target.parameters()], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_momentum_is_constant_over_the_run(progress: float) -> None:
    objectives_at = [build("byol").double() for _ in range(2)]
    for objective, at in zip(objectives_at, (0.5, progress), strict=True):
        perturb(objective)
        objective.after_step(at)
    for x, y in zip(*(list(objective.target.parameters()) for objective in objectives_at), strict=True):
        assert torch.equal(x, y)


def perturb(objective: nn.Module) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for x in objective.backbone.parameters():
            x += torch.randn_like(x)
        for x in objective.projector.parameters():
            x += torch.randn_like(x)


def test_after_step_leaves_the_targets_batch_norm_statistics_alone() -> None:
    objective = build("byol", momentum=0.5)
    objective(random_views(objective), generator())
    before = {key: x.clone() for key, x in objective.target.named_buffers()}
    with torch.no_grad():
        for buffer in objective.backbone.buffers():
            buffer += 1
    objective.after_step(0.5)
    assert before
    for key, buffer in objective.target.named_buffers():
        assert torch.equal(buffer, before[key]), key


def test_target_normalises_by_batch_and_keeps_statistics_of_its_own_forwards() -> None:
    objective = build("byol")
    perturb(objective)
    objective.after_step(0.5)  # now the target's features, and so its statistics, differ from the online network's
    assert objective.target.training
    expected = copy.deepcopy(objective.target)
    views = random_views(objective)
    objective(views, generator())
    for view in views:
        expected(view)
    torch.testing.assert_close(dict(objective.target.named_buffers()), dict(expected.named_buffers()))
    own, online = objective.target[0][1].running_mean, objective.backbone[1].running_mean
    assert not torch.allclose(own, online)


def test_target_follows_from_train_to_eval_and_back() -> None:
    objective = build("byol")
    assert not objective.eval().target.training
    assert objective.train().target.training


def test_target_receives_no_gradient_and_is_not_optimised() -> None:
    objective = build("byol")
    objective(random_views(objective), generator())["loss"].backward()
    grouped = {id(x) for group in objective.parameter_groups() for x in group["params"]}
    for x in objective.target.parameters():
        assert x.grad is None
        assert not x.requires_grad
        assert id(x) not in grouped


def layers(head: nn.Sequential) -> list[str]:
    """Linear layers with widths and whether they have a bias, batch norms with whether they are affine."""
    described = []
    for layer in head:
        if isinstance(layer, nn.Linear):
            described.append(f"{layer.in_features}-{layer.out_features}" + (" bias" if layer.bias is not None else ""))
        elif isinstance(layer, nn.BatchNorm1d):
            described.append(f"bn {layer.num_features}" + (" affine" if layer.affine else ""))
        else:
            described.append(type(layer).__name__)
    return described


@pytest.mark.parametrize(("affine", "last"), [(False, "bn 6"), (True, "bn 6 affine")])
def test_projector_is_linear_norm_relu_without_the_last_relu(affine: bool, last: str) -> None:
    described = layers(build_projector(5, [7, 8, 6], last_affine=affine))
    # the last linear layer's bias would be removed by the norm (frozen in the official code)
    assert described == ["5-7", "bn 7 affine", "ReLU", "7-8", "bn 8 affine", "ReLU", "8-6", last]


def test_projector_of_the_cifar_recipe_has_two_layers() -> None:
    assert layers(build_projector(512, [2048, 2048], last_affine=False)) == [
        "512-2048", "bn 2048 affine", "ReLU", "2048-2048", "bn 2048",
    ]  # fmt: skip


def test_predictor_is_a_bottleneck_with_a_bias_at_its_end() -> None:
    assert layers(build_predictor(6, 3)) == ["6-3", "bn 3 affine", "ReLU", "3-6 bias"]


@every_siamese
@pytest.mark.parametrize("affine", [False, True])
def test_last_batch_norm_of_the_projector_is_affine_by_option(name: str, affine: bool) -> None:
    assert build(name, projector_affine=affine).projector[-1].affine == affine
    assert build(name, projector_affine=affine).projector[1].affine


def test_projections_have_the_published_norm_where_the_last_norm_is_not_affine() -> None:
    objective = build("simsiam")
    objective(random_views(objective), generator())
    # unit variance in each dimension: mean squared norm = the number of dimensions
    assert objective.projections.square().sum(1).mean().item() == pytest.approx(12, rel=1e-3)
