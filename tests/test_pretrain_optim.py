"""Learning rates, parameter groups, and LARS."""

import copy
import math
from typing import Any

import pytest
import torch
from timm.optim.lars import Lars
from torch import Tensor, nn

from converters.errors import InputError
from pretrain.config import Config, OptimConfig
from pretrain.objectives import byol, simclr, simsiam
from pretrain.optim import build_optimizer, initial_lr, scheduled_lr, set_lr


@pytest.mark.parametrize(("batch", "rate"), [(256, 0.05), (512, 0.1), (1024, 0.2)])
def test_rate_scales_with_the_batch(batch: int, rate: float) -> None:
    assert initial_lr(Config(batch_size=batch)) == pytest.approx(rate)


def test_rate_without_scaling_is_taken_as_it_is() -> None:
    assert initial_lr(Config(batch_size=1024, optim=OptimConfig(base_lr=0.06, scale_lr=False))) == 0.06


def test_accumulation_does_not_change_the_rate() -> None:
    assert initial_lr(Config(batch_size=512, accumulate=8)) == initial_lr(Config(batch_size=512))


def test_cosine_is_the_published_formula() -> None:
    for epoch in range(100):
        expected = 0.1 * 0.5 * (1 + math.cos(math.pi * epoch / 100))
        assert scheduled_lr(Config(batch_size=512), epoch / 100) == pytest.approx(expected, rel=1e-12)


def optimizer_of(config: Config) -> torch.optim.Optimizer:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    return build_optimizer(config, simsiam.Method(simsiam.Config(), backbone, 4))


def test_schedule_moves_per_epoch_or_per_step() -> None:
    by_epoch, by_step = Config(epochs=2), Config(epochs=2, optim=OptimConfig(schedule_by="step"))
    rates = [set_lr(optimizer_of(by_epoch), by_epoch, step // 10, step, 20) for step in range(20)]
    assert len(set(rates)) == 2
    assert rates[10] == pytest.approx(0.05)
    rates = [set_lr(optimizer_of(by_step), by_step, step // 10, step, 20) for step in range(20)]
    assert len(set(rates)) == 20
    assert rates[10] == pytest.approx(0.05)


@pytest.mark.parametrize("fixed", [True, False])
def test_predictor_keeps_its_rate_only_if_told_to(fixed: bool) -> None:
    config = Config(epochs=4, optim=OptimConfig(fix_predictor_lr=fixed))
    optimizer = optimizer_of(config)
    set_lr(optimizer, config, 2, 0, 1)
    encoder, predictor = optimizer.param_groups
    assert encoder["lr"] == pytest.approx(0.05)
    assert predictor["lr"] == pytest.approx(0.1 if fixed else 0.05)


def test_weight_decay_is_on_biases_and_batch_norm_too() -> None:
    assert all(group["weight_decay"] == 1e-4 for group in optimizer_of(Config()).param_groups)


def test_target_network_is_not_optimised() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    method = byol.Method(byol.Config(), backbone, 4)
    optimised = {id(x) for group in build_optimizer(Config(), method).param_groups for x in group["params"]}
    assert optimised.isdisjoint(id(x) for x in method.target.parameters())


def test_objective_without_predictor_has_no_empty_group() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    method = simsiam.Method(simsiam.Config(predictor="none"), backbone, 4)
    assert len(build_optimizer(Config(), method).param_groups) == 1


LARS: dict[str, Any] = {"name": "lars", "base_lr": 0.3, "weight_decay": 0.01, "schedule_by": "step"}


def small_simclr() -> simclr.Method:
    """With every kind of parameter: convolution, biases, and batch norms' scales and shifts."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return simclr.Method(simclr.Config(projector_dims=[8, 6], projector_norm="hidden"), backbone, 6)


def step_with(config: Config, steps: int = 1) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
    """Weights before, gradients of each step, and weights after it all, of a method with random gradients."""
    method = small_simclr()
    optimizer = build_optimizer(config, method)
    parameters = list(method.parameters())
    before, gradients = [x.detach().clone() for x in parameters], []
    set_lr(optimizer, config, epoch=0, step=0, num_steps=1)
    for _ in range(steps):
        for x in parameters:
            x.grad = torch.randn_like(x)
        gradients.append([x.grad.clone() for x in parameters if x.grad is not None])
        optimizer.step()
    return before, gradients, [x.detach() for x in parameters]


def lars_step(w: Tensor, g: Tensor, buffer: Tensor | None, *, rate: float, adapt: bool, decay: float) -> Tensor:
    """timm.optim.Lars: trust 0.001 |w| / (|g| + decay |w|), decay inside of it, rate outside of the momentum."""
    trust = 0.001 * w.norm() / (g.norm() + decay * w.norm() + 1e-8) if adapt and w.norm() > 0 else torch.ones(())
    update = trust * (g + decay * w)
    return update if buffer is None else 0.9 * buffer + update


def transcribed(
    before: list[Tensor], gradients: list[list[Tensor]], rates: dict[bool, float], adapted: dict[bool, bool]
) -> list[Tensor]:
    """What LARS makes of weights; rates and whether it adapts and decays, by whether a tensor has one dimension."""
    after = []
    for index, start in enumerate(before):
        w, buffer, is_1d = start.clone(), None, start.ndim == 1
        for step in gradients:
            decay = 0.01 if adapted[is_1d] else 0.0
            buffer = lars_step(w, step[index], buffer, rate=rates[is_1d], adapt=adapted[is_1d], decay=decay)
            w = w - rates[is_1d] * buffer
        after.append(w)
    return after


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("bias_lr", [None, 0.03])
def test_lars_equals_its_formula(steps: int, exclude: bool, bias_lr: float | None) -> None:
    config = Config(batch_size=512, optim=OptimConfig(**LARS, exclude_1d=exclude, bias_lr=bias_lr))
    before, gradients, after = step_with(config, steps)
    rates = {False: 0.6, True: 0.6 if bias_lr is None else 0.06}
    expected = transcribed(before, gradients, rates, {False: True, True: not exclude})
    for x, y, start in zip(after, expected, before, strict=True):
        torch.testing.assert_close(x - start, y - start, rtol=1e-3, atol=1e-7)
        assert not torch.equal(x, start)


def test_lars_takes_steps_of_a_thousandth_of_a_matrix_norm_and_of_a_bias_whole_gradient() -> None:
    config = Config(batch_size=256, optim=OptimConfig(**{**LARS, "weight_decay": 0.0}, exclude_1d=True))
    before, (gradients,), after = step_with(config)
    for w, g, x in zip(before, gradients, after, strict=True):
        length = 0.3 * (1e-3 * w.norm() if w.ndim > 1 else g.norm())
        torch.testing.assert_close((x - w).norm(), length, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_excluded_are_exactly_biases_and_norms(name: str) -> None:
    config = Config(optim=OptimConfig(**{**LARS, "name": name}, exclude_1d=True))
    method = small_simclr()
    optimizer = build_optimizer(config, method)
    assert isinstance(optimizer, Lars if name == "lars" else torch.optim.SGD)
    excluded = {id(x) for group in optimizer.param_groups if not group["weight_decay"] for x in group["params"]}
    named = {key for key, x in method.named_parameters() if id(x) in excluded}
    assert named == {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "projector.1.weight",
                     "projector.1.bias", "projector.3.bias"}  # fmt: skip
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0 if group["params"][0].ndim == 1 else 0.01)
        assert group.get("always_adapt", False) == (name == "lars" and group["weight_decay"] > 0)


def test_without_exclusion_one_group_is_adapted_whole_even_without_decay() -> None:
    config = Config(optim=OptimConfig(**{**LARS, "weight_decay": 0.0}))
    (group,) = build_optimizer(config, small_simclr()).param_groups
    assert group["always_adapt"]
    assert len(group["params"]) == len(list(small_simclr().parameters()))


def test_every_parameter_is_in_one_group_whatever_is_set_apart() -> None:
    for optim in (OptimConfig(), OptimConfig(exclude_1d=True), OptimConfig(bias_lr=0.1), OptimConfig(**LARS)):
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        method = byol.Method(byol.Config(), backbone, 4)
        optimizer = build_optimizer(Config(optim=optim), method)
        grouped = [id(x) for group in optimizer.param_groups for x in group["params"]]
        assert sorted(grouped) == sorted(id(x) for x in method.parameters() if x.requires_grad)


def test_rate_of_biases_keeps_its_share_through_the_schedule() -> None:
    # facebookresearch/barlowtwins: 0.2 and 0.0048
    config = Config(epochs=10, optim=OptimConfig(base_lr=0.2, bias_lr=0.0048, schedule_by="step", warmup_epochs=1.0))
    optimizer = build_optimizer(config, small_simclr())
    for step in (0, 5, 10, 60, 99):
        rate = set_lr(optimizer, config, 0, step, 100)
        for group in optimizer.param_groups:
            share = 0.024 if group["params"][0].ndim == 1 else 1
            assert group["lr"] == pytest.approx(share * rate)


def test_biases_of_a_predictor_with_fixed_rate_keep_theirs() -> None:
    config = Config(epochs=4, batch_size=256, optim=OptimConfig(bias_lr=0.01))
    optimizer = optimizer_of(config)
    set_lr(optimizer, config, 3, 0, 1)
    fixed = {group["params"][0].ndim > 1: group["lr"] for group in optimizer.param_groups if group["fixed_lr"]}
    assert fixed == pytest.approx({True: 0.05, False: 0.01})


def rates_of(optim: OptimConfig, epochs: int = 10, steps_per_epoch: int = 10) -> list[float]:
    config = Config(epochs=epochs, batch_size=256, optim=optim)
    optimizer, num_steps = build_optimizer(config, small_simclr()), epochs * steps_per_epoch
    return [set_lr(optimizer, config, step // steps_per_epoch, step, num_steps) for step in range(num_steps)]


@pytest.mark.parametrize("start", [0.0, 0.25])
def test_warmup_is_linear_per_step_and_the_cosine_begins_where_it_ends(start: float) -> None:
    rates = rates_of(
        OptimConfig(base_lr=0.4, schedule_by="step", warmup_epochs=2.0, warmup_from=start, final_share=0.1)
    )
    for step in range(20):
        assert rates[step] == pytest.approx(0.4 * (start + (1 - start) * step / 20))
    assert rates[20] == pytest.approx(0.4)
    for step in range(20, 100):
        # from 0.4 down to a tenth of it
        assert rates[step] == pytest.approx(0.04 + 0.36 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2)
    assert rates[60] == pytest.approx(0.22)


def test_cosine_ends_at_its_final_share() -> None:
    config = Config(optim=OptimConfig(base_lr=0.4, final_share=0.1))
    assert scheduled_lr(config, 1.0) == pytest.approx(0.1 * initial_lr(config))
    assert scheduled_lr(Config(), 1.0) == pytest.approx(0)


def test_warmup_may_last_for_a_part_of_an_epoch_or_for_the_whole_run() -> None:
    half = rates_of(OptimConfig(base_lr=0.4, schedule_by="step", warmup_epochs=0.5))
    assert half[:6] == pytest.approx([0.0, 0.08, 0.16, 0.24, 0.32, 0.4])
    whole = rates_of(OptimConfig(base_lr=0.4, schedule_by="step", warmup_epochs=10.0))
    assert whole == pytest.approx([0.4 * step / 100 for step in range(100)])


def test_constant_schedule_is_constant_after_its_warmup() -> None:
    rates = rates_of(OptimConfig(base_lr=0.4, schedule="constant", schedule_by="step", warmup_epochs=1.0))
    assert rates[:10] == pytest.approx([0.04 * step for step in range(10)])
    assert set(rates[10:]) == {0.4}


def test_warmup_in_steps_of_an_epoch_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"optim\.warmup_epochs: the rate would stand still .* optim\.schedule_by=step"
    ):
        Config(optim=OptimConfig(warmup_epochs=1.0))


def test_optimizer_resumes_from_its_state_with_biases_apart() -> None:
    config = Config(optim=OptimConfig(**LARS, exclude_1d=True, bias_lr=0.1))
    original = small_simclr()
    optimizers = [build_optimizer(config, original)]
    gradients = [torch.randn_like(x) for x in original.parameters()]

    def step(method: simclr.Method, optimizer: torch.optim.Optimizer) -> None:
        for x, gradient in zip(method.parameters(), gradients, strict=True):
            x.grad = gradient.clone()
        optimizer.step()

    step(original, optimizers[0])
    resumed = copy.deepcopy(original)
    optimizers.append(build_optimizer(config, resumed))
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for method, optimizer in zip((original, resumed), optimizers, strict=True):
        step(method, optimizer)
    assert all(torch.equal(x, y) for x, y in zip(original.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(("trust", "clip"), [(0.02, True), (0.5, True), (1e-3, False)])
def test_lars_takes_its_share_and_whether_it_is_clipped_from_the_recipe(trust: float, clip: bool) -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    optim = OptimConfig(name="lars", lars_trust=trust, lars_clip=clip, base_lr=0.03, scale_lr=False, momentum=0.0)
    config = Config(optim=optim)
    optimizer = build_optimizer(config, simsiam.Method(simsiam.Config(), backbone, 4).double())
    parameter = optimizer.param_groups[0]["params"][0]
    weight, gradient = parameter.detach().clone(), torch.full_like(parameter, 0.25)
    parameter.grad = gradient
    optimizer.step()
    ratio = trust * weight.norm() / (gradient.norm() + 1e-4 * weight.norm())
    step = min(ratio.item(), 0.03) if clip else 0.03 * ratio.item()  # clipped: at most SGD's
    assert (step == 0.03) == (trust == 0.5)
    torch.testing.assert_close(weight - parameter.detach(), step * (gradient + 1e-4 * weight), rtol=1e-6, atol=0)
