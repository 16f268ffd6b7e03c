"""Contracts over every objective: with and without a momentum target, small crops, and DirectPred's predictor."""

import copy
import dataclasses
import io
import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from converters.errors import InputError
from pretrain import objectives
from tests.small_objectives import BATCH, STEPS_TO_WRAP, build, generator, random_views, small_config, step


class Case(NamedTuple):
    """An objective with options, and how many small crops it sees."""

    name: str
    options: dict[str, Any]
    num_local: int

    def build(self, seed: int = 0) -> objectives.Objective:
        return build(self.name, seed, **self.options)

    def views(self, objective: objectives.Objective, seed: int = 0) -> list[Tensor]:
        return random_views(objective, seed, self.num_local)


MOMENTA = sorted({(name, x) for name in objectives.names() for x in (small_config(name).momentum, None, 0.9)}, key=str)
DIRECTPRED = {"predictor": "directpred", "directpred_every": 2}
CASES = {
    f"{name}, momentum {momentum}, {num_local} small": Case(name, {"momentum": momentum}, num_local)
    for (name, momentum), num_local in product(MOMENTA, (0, 2))
} | {
    f"{name}, directpred, {num_local} small": Case(name, DIRECTPRED, num_local)
    for name, num_local in product(("byol", "simsiam"), (0, 2))
}

every_objective = pytest.mark.parametrize("name", objectives.names())
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_objectives_are_the_files_of_their_folder() -> None:
    files = {path.stem for path in Path(objectives.__file__).parent.glob("*.py")}
    assert objectives.names() == sorted(files - {"__init__"})
    assert {"byol", "simsiam"} <= set(objectives.names())


def test_unknown_objective_is_refused_with_the_closest_name() -> None:
    with pytest.raises(InputError, match=r"unknown objective 'simsaim'; did you mean 'simsiam'\? choose from: .*byol"):
        objectives.find("simsaim")


@every_objective
def test_file_has_config_and_method(name: str) -> None:
    module = objectives.find(name)
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config().name == name
    assert issubclass(module.Method, objectives.Objective)


@every_case
def test_loss_is_a_finite_scalar_among_finite_scalars(case: Case) -> None:
    objective = case.build()
    outputs = objective(case.views(objective), generator())
    assert outputs["loss"].requires_grad
    for value in outputs.values():
        assert value.shape == ()
        assert value.isfinite()


@every_case
def test_logged_statistics_hold_no_graph(case: Case) -> None:
    objective = case.build()
    outputs = objective(case.views(objective), generator())
    assert [key for key, value in outputs.items() if value.requires_grad] == ["loss"]


@every_case
def test_projections_of_the_last_batch_are_kept_without_graph(case: Case) -> None:
    objective = case.build()
    assert objective.projections is None
    objective(case.views(objective), generator())
    assert objective.projections.shape == (BATCH, 12)
    assert not objective.projections.requires_grad


@every_case
def test_gradient_reaches_every_trainable_parameter_and_no_other(case: Case) -> None:
    objective = case.build()
    objective(case.views(objective), generator())["loss"].backward()
    for key, x in objective.named_parameters():
        assert (x.grad is not None and x.grad.count_nonzero() > 0) == x.requires_grad, key
        assert x.requires_grad != key.startswith("target."), key


@every_case
def test_parameter_groups_hold_each_trainable_parameter_once(case: Case) -> None:
    objective = case.build()
    groups = objective.parameter_groups()
    assert all(set(group) == {"params", "fixed_lr"} for group in groups)
    grouped = [id(x) for group in groups for x in group["params"]]
    assert sorted(grouped) == sorted(id(x) for x in objective.parameters() if x.requires_grad)
    torch.optim.SGD(groups, lr=0.1)


@every_objective
def test_backbone_is_the_network_that_was_given(name: str) -> None:
    config, backbone = small_config(name), nn.Sequential(nn.Conv2d(3, 5, 6), nn.Flatten())
    assert objectives.find(name).Method(config, backbone, 5).backbone is backbone


@every_case
@pytest.mark.parametrize("done", [2, STEPS_TO_WRAP])
def test_state_dict_alone_continues_a_run(case: Case, done: int) -> None:
    original, resumed = case.build(seed=0), case.build(seed=1)
    for seed in range(done):
        step(original, seed, num_local=case.num_local)
    resumed.load_state_dict(copy.deepcopy(original.state_dict()), strict=True)
    for seed in range(done, 2 * STEPS_TO_WRAP):
        for objective in (original, resumed):
            step(objective, seed, num_local=case.num_local)
    losses = [x(case.views(x, 99), generator(99))["loss"] for x in (original, resumed)]
    assert torch.equal(*losses)
    for key, value in original.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "options", "counter", "at_least"),
    [
        ("moco", {}, "queue.count", 21),
        ("swav", {}, "queues.0.count", 21),
        ("unigrad", {}, "correlation.steps", 2),
        ("byol", DIRECTPRED, "predictor.correlation.steps", 3),
    ],
)
def test_state_of_the_test_above_holds_queues_that_wrapped_and_averages(
    name: str, options: dict[str, Any], counter: str, at_least: int
) -> None:
    objective = build(name, **options)
    for seed in range(STEPS_TO_WRAP):
        step(objective, seed)
    assert objective.state_dict()[counter] >= at_least


@every_case
def test_state_holds_tensors_only_and_all_that_a_step_changes(case: Case) -> None:
    objective = case.build()
    step(objective, 0, num_local=case.num_local)
    state = objective.state_dict()
    assert all(type(value) is Tensor for value in state.values())
    written = io.BytesIO()
    torch.save(state, written)
    written.seek(0)
    read = torch.load(written, weights_only=True)
    assert all(torch.equal(value, read[key]) for key, value in state.items())
    held = {id(x) for x in (*objective.parameters(), *objective.buffers())}
    # what else a module keeps is of the last batch, and made anew by the next
    kept = {key for module in objective.modules() for key, x in vars(module).items() if isinstance(x, Tensor)}
    assert kept == {"projections"}
    assert len(held) == len(state)


@every_case
def test_after_step_holds_no_graph_and_leaves_the_trained_network_alone(case: Case) -> None:
    objective = case.build()
    before = [x.clone() for x in objective.parameters() if x.requires_grad]
    objective.after_step(0.5)
    after = [x for x in objective.parameters() if x.requires_grad]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert all(x.is_leaf for x in objective.parameters())


@every_case
def test_half_precision_embeds_but_the_loss_is_computed_in_full(case: Case) -> None:
    objective, twin, exact = (case.build() for _ in range(3))
    views = case.views(objective)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(views, generator())["loss"]
        batch = twin.embed(views, generator())
    expected = twin.compare(batch, generator())["loss"]
    full = exact(views, generator())["loss"]
    assert loss.dtype == batch.online.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert loss != full  # the network did compute in another precision
    torch.testing.assert_close(loss, full, rtol=0.1, atol=0.05)
    loss.backward()
    assert all(x.grad.isfinite().all() for x in objective.parameters() if x.requires_grad)


@every_case
def test_memory_format_of_the_views_does_not_matter(case: Case) -> None:
    plain, channels_last = case.build(), case.build().to(memory_format=torch.channels_last)
    views = case.views(plain)
    rearranged = [view.contiguous(memory_format=torch.channels_last) for view in views]
    assert not any(view.is_contiguous() for view in rearranged)
    losses = [x(y, generator())["loss"] for x, y in ((plain, views), (channels_last, rearranged))]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for (key, x), y in zip(plain.named_parameters(), channels_last.parameters(), strict=True):
        if x.requires_grad:
            torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-4, msg=key)


@every_objective
def test_small_crops_take_part_in_the_loss(name: str) -> None:
    objective = build(name)
    views = random_views(objective, num_local=2)
    for view in views:
        view.requires_grad_()
    copy.deepcopy(objective)(views, generator())["loss"].backward()
    assert all(view.grad.count_nonzero() for view in views[-2:])
    alone = objective([view.detach() for view in views[:-2]], generator())["loss"]
    assert alone != objective([view.detach() for view in views], generator())["loss"]


@every_objective
def test_momentum_target_is_a_copy_first_so_that_the_first_loss_is_that_without_it(name: str) -> None:
    losses = []
    for momentum in (None, 0.9):
        objective = build(name, momentum=momentum)
        losses.append(objective(random_views(objective, num_local=2), generator())["loss"])
    torch.testing.assert_close(*losses)


@every_objective
def test_targets_are_those_of_the_momentum_network(name: str) -> None:
    objective = build(name, momentum=0.9)
    views = random_views(objective)
    before = copy.deepcopy(objective)(views, generator())["loss"]
    torch.manual_seed(1)
    with torch.no_grad():
        for x in objective.target.parameters():
            x += torch.randn_like(x)
    assert objective(views, generator())["loss"] != before


@every_objective
def test_without_momentum_there_is_no_second_network(name: str) -> None:
    assert not any(key.startswith("target.") for key in build(name, momentum=None).state_dict())
    assert any(key.startswith("target.") for key in build(name, momentum=0.5).state_dict())


@every_objective
@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_momentum_follows_its_schedule(name: str, schedule: str, progress: float) -> None:
    objective = build(name, momentum=0.7, momentum_schedule=schedule).double()
    torch.manual_seed(1)
    online = [*objective.backbone.parameters(), *objective.projector.parameters()]
    with torch.no_grad():
        for x in online:
            x += torch.randn_like(x)
    # Grill et al. 2020, section 3.2: 1 - (1 - momentum) (cos(pi k / K) + 1) / 2
    cosine = 1 - 0.3 * (math.cos(math.pi * progress) + 1) / 2
    momentum = cosine if schedule == "cosine" else 0.7
    expected = [
        momentum * old.detach() + (1 - momentum) * new.detach()
        for old, new in zip(objective.target.parameters(), online, strict=True)
    ]
    objective.after_step(progress)
    torch.testing.assert_close([x.detach() for x in objective.target.parameters()], expected, rtol=1e-12, atol=1e-12)


@every_objective
def test_scale_multiplies_loss_and_gradient(name: str) -> None:
    plain, scaled = build(name), build(name, loss_scale=0.25)
    losses = [x(random_views(x), generator())["loss"] for x in (plain, scaled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0] / 4)
    for x, y in zip(plain.parameters(), scaled.parameters(), strict=True):
        if x.requires_grad:
            torch.testing.assert_close(y.grad, x.grad / 4, rtol=1e-4, atol=1e-6)


@every_objective
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.5}, r"objective\.momentum: expected 0 to 1, got 1\.5"),
        ({"momentum_schedule": "cosin"}, r"unknown momentum_schedule 'cosin'; did you mean 'cosine'\?"),
        ({"projector_norm": "all"}, r"unknown projector_norm 'all'; choose from: every, hidden, none"),
        ({"projector_dims": [64]}, r"objective\.projector_dims: expected two or more positive widths, got \[64\]"),
        ({"loss_scale": 0.0}, r"objective\.loss_scale: expected 1e-09 to inf, got 0\.0"),
        ({"loss_scale": float("nan")}, r"objective\.loss_scale: expected 1e-09 to inf, got nan"),
    ],
)
def test_options_that_all_share_are_checked(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objectives.find(name).Config(**options)
