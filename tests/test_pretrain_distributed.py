"""Two gloo processes under torchrun's variables against one process with the joint batch.

The file is also the program that the two processes run.
"""

import os
import socket
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from converters import distributed, randomness
from converters.errors import InputError
from pretrain import objectives
from pretrain.cutmix import CutMix
from pretrain.guidance import select_sources
from pretrain.objectives.barlow_twins import barlow_twins_loss

WORLD_SIZE = 2
NUM_IMAGES = 12  # of all processes together
NUM_STEPS = 3  # in the second, queues are full and wrap; in the third, SwAV's is used
TIMEOUT_S = 300  # only so that a hanging process ends; what they do takes seconds


class Scenario(NamedTuple):
    """A method with its options, and how many small crops it sees."""

    method: str
    options: dict[str, Any]
    num_local: int = 0


SMALL = {
    "moco": {"queue": 16, "splits": 4, "projector_norm": "hidden"},
    "swav": {"queue": 16, "prototypes": 7, "frozen_steps": 1},
    # else guidance pairs images within each process, which is another objective
    **{name: {"pairs": "global"} for name in ("byol", "simsiam", "unigrad")},
}


def guided_scenarios() -> dict[str, Scenario]:
    modes = list(product(["simsiam", "byol"], ["guided", "random", "reverse", "symmetric"], [4, 2]))
    plain = {f"{name} {mode} {num}": Scenario(name, {"guidance": mode, "views": num}) for name, mode, num in modes}
    with_crops = {f"{name} and small crops": Scenario(*plain[name][:2], 2) for name in plain if "symmetric" not in name}
    unigrad = {"unigrad guided": Scenario("unigrad", {"guidance": "guided", "views": 4}, 2)}
    return plain | with_crops | unigrad


def momentum_scenarios() -> dict[str, Scenario]:
    """Every method with its own momentum, without a momentum target, and with one, each with small crops or none."""
    published = {name: objectives.find(name).Config().momentum for name in objectives.names()}
    momenta = {(name, value) for name, own in published.items() for value in (own, None, 0.9)}
    return {
        f"{name} momentum {value} {num_local} small": Scenario(name, {"momentum": value}, num_local)
        for (name, value), num_local in product(sorted(momenta, key=str), (0, 2))
    }


def directpred_scenarios() -> dict[str, Scenario]:
    options = {"predictor": "directpred", "directpred_every": 2, "guidance": "guided"}
    return {
        f"{name} directpred {num_local} small": Scenario(name, options, num_local)
        for name, num_local in product(["simsiam", "byol"], (0, 2))
    }


GUIDED = guided_scenarios()
SCENARIOS = GUIDED | momentum_scenarios() | directpred_scenarios()
each_scenario = pytest.mark.parametrize("name", SCENARIOS)
# of these the logged gradient is that of all processes' images
LOGGED_JOINTLY = ("barlow_twins", "moco", "simclr", "swav", "vicreg")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(method: str, **options: Any) -> objectives.Objective:
    """The same weights in every process, without batch norm, whose statistics two processes do not share on a CPU.

    MoCo keeps it: of its batches each part is normalised apart, here the images of a process.
    """
    torch.manual_seed(0)
    module = objectives.find(method)
    norm = nn.BatchNorm2d(6) if method == "moco" else nn.GroupNorm(2, 6)
    conv = nn.Conv2d(3, 6, 3, bias=method != "moco")
    backbone = nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    given = {"projector_dims": [12, 10], **SMALL.get(method, {}), **options}
    widths = {"predictor_dim": 5} if hasattr(module.Config, "predictor_dim") else {}
    objective: objectives.Objective = module.Method(module.Config(**widths, **given), backbone, 6)
    if method != "moco":
        replace_batch_norm(objective)
    if hasattr(objective, "target"):  # a target unlike the online network
        with torch.no_grad():
            for x in objective.target.parameters():
                x += 0.3 * torch.randn_like(x)
    return objective.double()


def replace_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            norm = nn.LayerNorm(child.num_features, elementwise_affine=child.affine)
            trained = all(x.requires_grad for x in child.parameters())
            setattr(module, name, norm.requires_grad_(trained))
        replace_batch_norm(child)


def joint_views(num_views: int, num_local: int = 0, seed: int = 1) -> list[Tensor]:
    random = generator(seed)
    sizes = [6] * num_views + [5] * num_local
    return [torch.randn(NUM_IMAGES, 3, size, size, generator=random, dtype=torch.float64) for size in sizes]


def shard(x: Tensor, rank: int, world_size: int = WORLD_SIZE) -> Tensor:
    per_rank = NUM_IMAGES // world_size
    return x[rank * per_rank : (rank + 1) * per_rank]


def gradients_of(objective: nn.Module) -> dict[str, Tensor]:
    return {name: x.grad.clone() for name, x in objective.named_parameters() if x.requires_grad}


def run_steps(name: str, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Steps of plain gradient descent: outputs and gradients of each, and the state that they end in."""
    method, options, num_local = SCENARIOS[name]
    objective = build(method, **options)
    objective.prepare(batch_size=NUM_IMAGES, num_local=num_local, cutmix=None, gradients=False)
    model = DistributedDataParallel(objective) if world_size > 1 else objective
    outputs, gradients = [], []
    for step in range(NUM_STEPS):
        views = joint_views(objective.num_views, num_local, seed=step + 1)
        objective.zero_grad()
        scalars = model([shard(view, rank, world_size) for view in views], generator(step))
        scalars["loss"].backward()
        outputs.append({key: value.detach() for key, value in scalars.items()})
        gradients.append(gradients_of(objective))
        objective.before_step()
        torch.optim.SGD(objective.parameters(), lr=0.05).step()
        objective.after_step((step + 1) / NUM_STEPS)
    # running statistics are of a process's own images; the loss does not know them
    state = {key: x for key, x in objective.state_dict().items() if "running" not in key and "tracked" not in key}
    return {"outputs": outputs, "gradients": gradients, "state": state}


@cache
def of_one_process(name: str) -> dict[str, Any]:
    return run_steps(name)


def log_gradients(method: str, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """What a first step logs of the gradient's terms."""
    objective = build(method)
    objective.prepare(batch_size=NUM_IMAGES, num_local=0, cutmix=None, gradients=True)
    views = [shard(view, rank, world_size) for view in joint_views(objective.num_views)]
    return {key: value.detach() for key, value in objective(views, generator()).items()}


def correlate(rank: int, world_size: int, *, with_gradient: bool) -> Tensor:
    """Gradient of Barlow Twins' loss, averaged over processes; without gradient as official code has the all-reduce."""
    weight = torch.randn(4, 3, generator=generator(), dtype=torch.float64).requires_grad_()
    views = torch.randn(2, NUM_IMAGES, 4, generator=generator(1), dtype=torch.float64)
    x, y = (shard(view, rank, world_size) @ weight for view in views)
    if with_gradient:
        loss = barlow_twins_loss(x, y, 0.3)
    else:
        own = x.T @ y / NUM_IMAGES
        correlation = own + (distributed.sum_over_ranks(own) - own).detach()
        wanted = torch.eye(3, dtype=torch.float64)
        loss = ((correlation - wanted).square() * (0.3 + 0.7 * wanted)).sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    return distributed.mean_over_ranks(gradient)


def gradients_through_gathering(rank: int) -> dict[str, Tensor]:
    """Of losses that weigh the rows of all processes, or their sum, differently on each rank."""
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * rank
    weights = torch.arange(8.0).view(4, 2) * 10**rank
    seen = {}
    for name, gather in (("rows", distributed.gather_with_gradient), ("sum", distributed.sum_with_gradient)):
        x = rows.clone().requires_grad_()
        joined = gather(x)
        (weights[: len(joined)] * joined).sum().backward()
        seen |= {name: joined.detach(), f"gradient of {name}": x.grad}
    return seen


def pasted_and_paired(rank: int) -> dict[str, Any]:
    """CutMix, and guidance over all processes' images by the same generator after it."""
    objective = build("byol", guidance="guided", views=4)
    objective.prepare(batch_size=NUM_IMAGES, num_local=0, cutmix=CutMix(1.0, 1.0), gradients=False)
    outputs = objective([shard(view, rank) for view in joint_views(4)], generator())
    _, mix = CutMix(1.0, 1.0)([torch.zeros(40, 3, 8, 8)], generator())
    assert mix is not None
    choices = torch.stack([outputs[f"choice_{k}"].detach() for k in range(4)])
    return {"share": mix.share, "partner": mix.partner, "choices": choices}


def observe(ranks: distributed.Ranks) -> dict[str, Any]:
    """Everything that the tests look at, as one process sees it."""
    rank = ranks.rank
    seen: dict[str, Any] = {"ranks": (rank, ranks.world_size, str(ranks.device), ranks.is_main, distributed.rank())}
    seen |= {name: run_steps(name, rank, ranks.world_size) for name in SCENARIOS}
    seen |= {f"terms of {method}": log_gradients(method, rank, ranks.world_size) for method in objectives.names()}
    seen |= {f"correlated {how}": correlate(rank, ranks.world_size, with_gradient=how) for how in (True, False)}
    seen["through gathering"], seen["cutmix"] = gradients_through_gathering(rank), pasted_and_paired(rank)
    x = torch.tensor([[10.0 * rank, 10.0 * rank + 1]], requires_grad=True)
    seen["gather 0"], seen["gather 1"] = distributed.gather(x), distributed.gather(x, dim=1)
    seen["gather transposed"] = distributed.gather(torch.arange(6).view(2, 3).T + 100 * rank)
    for num_total in (0, 1, 2, 5, 8):
        rows = torch.arange(2 * num_total).view(num_total, 2)[rank :: ranks.world_size]
        seen[f"shards {num_total}"] = distributed.gather_shards(rows, num_total)
    value = torch.tensor([float(rank), 4.0])
    seen["mean"], seen["value after mean"] = distributed.mean_over_ranks(value), value
    same_z = torch.zeros(4, 50, 1)
    for pairs in ("local", "global"):
        z = same_z if pairs == "local" else shard(same_z.transpose(0, 1), rank).transpose(0, 1)
        seen[f"{pairs} pairs"] = select_sources(z, "random", pairs, generator()).sources
    seen["random number"] = torch.rand((), generator=randomness.generator(3, "views", 1, 2))
    return seen


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(rank: int, port: int, output: Path) -> subprocess.Popen[str]:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD_SIZE, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    environment = os.environ | {key: str(value) for key, value in variables.items()}
    environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, __file__, str(output)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes saw."""
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    outputs = [folder / f"{rank}.pt" for rank in range(WORLD_SIZE)]
    processes = [start(rank, port, output) for rank, output in enumerate(outputs)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(output, weights_only=True) for output in outputs]


@each_scenario
def test_loss_of_two_processes_equals_that_of_one_with_the_joint_batch(seen: list[dict[str, Any]], name: str) -> None:
    losses = torch.stack([torch.stack([step["loss"] for step in rank[name]["outputs"]]) for rank in seen])
    joint = torch.stack([step["loss"] for step in of_one_process(name)["outputs"]])
    torch.testing.assert_close(losses.mean(0), joint, rtol=1e-9, atol=1e-11)
    # Barlow Twins' statistics leave no loss of a process's own images
    assert torch.isclose(*losses).all() == (SCENARIOS[name].method == "barlow_twins")


@each_scenario
def test_gradients_averaged_by_ddp_equal_those_of_one_process_with_the_joint_batch(
    seen: list[dict[str, Any]], name: str
) -> None:
    joint = of_one_process(name)["gradients"]
    for rank in seen:
        torch.testing.assert_close(rank[name]["gradients"], joint, rtol=1e-7, atol=1e-10)
    assert all(x.abs().max() > 1e-6 for gradients in joint for x in gradients.values())


@each_scenario
def test_weights_targets_queues_and_averages_of_two_processes_end_as_those_of_one(
    seen: list[dict[str, Any]], name: str
) -> None:
    joint, first, second = (x[name]["state"] for x in ({name: of_one_process(name)}, *seen))
    assert all(torch.equal(x, second[key]) for key, x in first.items())
    torch.testing.assert_close(first, joint, rtol=1e-7, atol=1e-8)


def test_what_is_remembered_was_filled_in_the_steps_above() -> None:
    counts = {
        "moco momentum 0.999 2 small": ("queue.count", NUM_STEPS * NUM_IMAGES),
        "swav momentum None 2 small": ("queues.1.count", NUM_STEPS * NUM_IMAGES),
        "unigrad momentum 0.996 2 small": ("correlation.steps", NUM_STEPS),
        "byol directpred 2 small": ("predictor.correlation.steps", NUM_STEPS),
    }
    for name, (key, count) in counts.items():
        assert of_one_process(name)["state"][key] == count


@pytest.mark.parametrize("name", GUIDED)
def test_choices_over_the_joint_batch_are_reported_alike_by_every_process(
    seen: list[dict[str, Any]], name: str
) -> None:
    joint = of_one_process(name)["outputs"][0]
    for rank in seen:
        outputs = rank[name]["outputs"][0]
        assert outputs.keys() == joint.keys()
        for key in joint.keys() - {"loss"}:
            assert torch.equal(outputs[key], joint[key]), key


def test_pairs_within_each_process_are_another_objective_than_pairs_in_the_joint_batch() -> None:
    """Else the tests above would prove nothing about the gathering."""

    def loss(views: list[Tensor], pairs: str) -> Tensor:
        objective = build("simsiam", guidance="guided", views=4, pairs=pairs)
        return objective(views, generator(2))["loss"].detach()

    views = joint_views(4)
    separate = torch.stack([loss([shard(x, rank) for x in views], "local") for rank in range(WORLD_SIZE)])
    assert (separate.mean() - loss(views, "global")).abs() > 1e-4


@pytest.mark.parametrize("method", ["barlow_twins", "simclr", "swav", "unigrad", "vicreg"])
def test_each_process_for_itself_would_be_another_objective(method: str) -> None:
    views = joint_views(build(method).num_views)
    parts = [views, *([shard(x, rank) for x in views] for rank in range(WORLD_SIZE))]
    joint, *separate = (build(method)(part, generator(2))["loss"].detach() for part in parts)
    assert (torch.stack(separate).mean() - joint).abs() > 1e-4


def test_barlow_twins_gradient_is_whole_where_the_official_all_reduce_divides_it_by_the_processes(
    seen: list[dict[str, Any]],
) -> None:
    joint = correlate(0, 1, with_gradient=True)
    torch.testing.assert_close(correlate(0, 1, with_gradient=False), joint)
    for rank in seen:
        torch.testing.assert_close(rank["correlated True"], joint)
        torch.testing.assert_close(rank["correlated False"], joint / WORLD_SIZE)


def test_gradient_through_gathering_is_the_sum_over_the_losses_of_all_ranks(seen: list[dict[str, Any]]) -> None:
    first, second = (rank["through gathering"] for rank in seen)
    for x in (first, second):
        assert x["rows"].tolist() == [[1, 2], [3, 4], [11, 12], [13, 14]]
        assert x["sum"].tolist() == [[12, 14], [16, 18]]
        assert x["gradient of sum"].tolist() == [[0, 11], [22, 33]]
    assert first["gradient of rows"].tolist() == [[0, 11], [22, 33]]
    assert second["gradient of rows"].tolist() == [[44, 55], [66, 77]]


@pytest.mark.parametrize("method", objectives.names())
def test_terms_of_the_gradient_are_logged_alike_by_every_number_of_processes(
    seen: list[dict[str, Any]], method: str
) -> None:
    joint, ranks = log_gradients(method), [rank[f"terms of {method}"] for rank in seen]
    torch.testing.assert_close(torch.stack([rank["alignment"] for rank in ranks]).mean(), joint["alignment"])
    for rank in ranks:
        assert rank.keys() == joint.keys()
        torch.testing.assert_close(rank["uniformity"], joint["uniformity"])
        if method in LOGGED_JOINTLY:
            keys = ("positive_norm", "negative_norm", "terms_angle", "balance")
            torch.testing.assert_close([rank[key] for key in keys], [joint[key] for key in keys])


def test_box_of_cutmix_is_the_same_in_every_process_and_partners_are_not(seen: list[dict[str, Any]]) -> None:
    first, second = (rank["cutmix"] for rank in seen)
    assert first["share"] == second["share"]
    assert not torch.equal(first["partner"], second["partner"])


def test_pairs_in_the_joint_batch_are_the_same_in_every_process_after_cutmix_too(seen: list[dict[str, Any]]) -> None:
    first, second = (rank["cutmix"] for rank in seen)
    assert torch.equal(first["choices"], second["choices"])


def test_local_pairs_differ_between_processes(seen: list[dict[str, Any]]) -> None:
    first, second = (rank["local pairs"] for rank in seen)
    assert not torch.equal(first, second)


def test_local_pairs_of_the_first_process_are_those_of_a_single_one(seen: list[dict[str, Any]]) -> None:
    alone = select_sources(torch.zeros(4, 50, 1), "random", "local", generator()).sources
    assert torch.equal(seen[0]["local pairs"], alone)


def test_global_sources_of_the_processes_are_the_parts_of_the_joint_ones(seen: list[dict[str, Any]]) -> None:
    joint = select_sources(torch.zeros(4, NUM_IMAGES, 1), "random", "global", generator()).sources
    assert torch.equal(torch.cat([rank["global pairs"] for rank in seen], dim=1), joint)


def test_join_reads_what_torchrun_says(seen: list[dict[str, Any]]) -> None:
    assert seen[0]["ranks"] == (0, 2, "cpu", True, 0)
    assert seen[1]["ranks"] == (1, 2, "cpu", False, 1)


def test_gather_joins_in_the_order_of_ranks_without_gradient(seen: list[dict[str, Any]]) -> None:
    for rank in seen:
        assert rank["gather 0"].tolist() == [[0, 1], [10, 11]]
        assert rank["gather 1"].tolist() == [[0, 1, 10, 11]]
        assert not rank["gather 0"].requires_grad


def test_gather_takes_tensors_of_any_layout(seen: list[dict[str, Any]]) -> None:
    transposed = [[0, 3], [1, 4], [2, 5], [100, 103], [101, 104], [102, 105]]
    assert all(rank["gather transposed"].tolist() == transposed for rank in seen)


@pytest.mark.parametrize("num_total", [0, 1, 2, 5, 8])
def test_gathered_shards_are_the_rows_in_their_order_each_once(seen: list[dict[str, Any]], num_total: int) -> None:
    for rank in seen:
        assert torch.equal(rank[f"shards {num_total}"], torch.arange(2 * num_total).view(num_total, 2))


def test_mean_over_ranks_averages_and_leaves_its_argument_alone(seen: list[dict[str, Any]]) -> None:
    for number, rank in enumerate(seen):
        assert rank["mean"].tolist() == [0.5, 4]
        assert rank["value after mean"].tolist() == [number, 4]


def test_random_numbers_are_the_same_in_every_process(seen: list[dict[str, Any]]) -> None:
    here = torch.rand((), generator=randomness.generator(3, "views", 1, 2))
    assert all(torch.equal(rank["random number"], here) for rank in seen)


def test_random_numbers_depend_on_every_argument_and_on_nothing_else() -> None:
    torch.manual_seed(0)
    positions = [(3, "views", 1, 2), (4, "views", 1, 2), (3, "order", 1, 2), (3, "views", 2, 1), (3, "views", 1)]
    first = [torch.rand(4, generator=randomness.generator(*position)) for position in positions]
    torch.manual_seed(1)
    np.random.default_rng()
    again = [torch.rand(4, generator=randomness.generator(*position)) for position in positions]
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert torch.stack(first).unique(dim=0).shape == (len(positions), 4)


def test_one_process_is_nothing_special(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = distributed.join("cpu")
    x = torch.rand(3, 2, requires_grad=True)
    assert (ranks.rank, ranks.world_size, ranks.device, ranks.is_main) == (0, 1, torch.device("cpu"), True)
    assert distributed.rank() == 0
    assert torch.equal(distributed.gather(x), x)
    assert not distributed.gather(x).requires_grad
    assert torch.equal(distributed.gather_shards(x, 3), x)
    assert torch.equal(distributed.mean_over_ranks(x), x)
    assert distributed.gather_with_gradient(x) is distributed.sum_with_gradient(x) is x
    distributed.leave()


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_device_that_does_not_exist_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=rf"--device {device} cannot be used \(.+\); try --device cpu"):
        distributed.join(device)


if __name__ == "__main__":
    torch.save(observe(distributed.join("cpu")), sys.argv[1])
    distributed.leave()
