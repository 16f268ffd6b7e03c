"""Two gloo processes under torchrun's variables against one process with the joint batch.

The file is also the program that the two processes run.
"""

import os
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from converters import distributed, randomness
from converters.errors import InputError
from pretrain import objectives
from pretrain.guidance import select_sources

WORLD_SIZE = 2
NUM_IMAGES = 10  # of all processes together
TIMEOUT_S = 300  # only so that a hanging process ends; what they do takes seconds

SCENARIOS = list(product(["simsiam", "byol"], ["guided", "random", "reverse", "symmetric"], [4, 2]))
each_scenario = pytest.mark.parametrize(("method", "mode", "num_views"), SCENARIOS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(method: str, mode: str, num_views: int, pairs: str = "global") -> objectives.Objective:
    """The same weights in every process, without batch norm, whose statistics two processes do not share on a CPU."""
    torch.manual_seed(0)
    module = objectives.find(method)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    config = module.Config(guidance=mode, views=num_views, pairs=pairs, projector_dims=[12, 10], predictor_dim=5)
    objective: objectives.Objective = module.Method(config, backbone, 6)
    replace_batch_norm(objective)
    if method == "byol":  # a target unlike the online network
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


def joint_views(num_views: int) -> list[Tensor]:
    return list(torch.randn(num_views, NUM_IMAGES, 3, 6, 6, generator=generator(1), dtype=torch.float64))


def shard(x: Tensor, rank: int) -> Tensor:
    per_rank = NUM_IMAGES // WORLD_SIZE
    return x[rank * per_rank : (rank + 1) * per_rank]


def run_step(model: nn.Module, views: list[Tensor]) -> dict[str, Any]:
    outputs = model(views, generator(2))
    outputs["loss"].backward()
    gradients = {name.removeprefix("module."): x.grad for name, x in model.named_parameters() if x.requires_grad}
    return {"outputs": {key: value.detach() for key, value in outputs.items()}, "gradients": gradients}


def observe(ranks: distributed.Ranks) -> dict[str, Any]:
    """Everything that the tests look at, as one process sees it."""
    rank = ranks.rank
    seen: dict[str, Any] = {"ranks": (rank, ranks.world_size, str(ranks.device), ranks.is_main, distributed.rank())}
    for method, mode, num_views in SCENARIOS:
        model = DistributedDataParallel(build(method, mode, num_views))
        views = [shard(view, rank) for view in joint_views(num_views)]
        seen[f"{method} {mode} {num_views}"] = run_step(model, views)
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
def test_loss_of_two_processes_equals_that_of_one_with_the_joint_batch(
    seen: list[dict[str, Any]], method: str, mode: str, num_views: int
) -> None:
    joint = run_step(build(method, mode, num_views), joint_views(num_views))
    losses = torch.stack([rank[f"{method} {mode} {num_views}"]["outputs"]["loss"] for rank in seen])
    torch.testing.assert_close(losses.mean(), joint["outputs"]["loss"], rtol=1e-10, atol=1e-12)
    assert losses[0] != losses[1]


@each_scenario
def test_gradients_averaged_by_ddp_equal_those_of_one_process_with_the_joint_batch(
    seen: list[dict[str, Any]], method: str, mode: str, num_views: int
) -> None:
    joint = run_step(build(method, mode, num_views), joint_views(num_views))
    for rank in seen:
        gradients = rank[f"{method} {mode} {num_views}"]["gradients"]
        torch.testing.assert_close(gradients, joint["gradients"], rtol=1e-8, atol=1e-11)
    assert all(x.count_nonzero() for x in joint["gradients"].values())


@each_scenario
def test_choices_over_the_joint_batch_are_reported_alike_by_every_process(
    seen: list[dict[str, Any]], method: str, mode: str, num_views: int
) -> None:
    joint = run_step(build(method, mode, num_views), joint_views(num_views))["outputs"]
    for rank in seen:
        outputs = rank[f"{method} {mode} {num_views}"]["outputs"]
        assert outputs.keys() == joint.keys()
        for key in joint.keys() - {"loss"}:
            assert torch.equal(outputs[key], joint[key]), key


def test_pairs_within_each_process_are_another_objective_than_pairs_in_the_joint_batch() -> None:
    """Else the tests above would prove nothing about the gathering."""
    views = joint_views(4)
    joint = run_step(build("simsiam", "guided", 4), views)["outputs"]["loss"]
    separate = [
        run_step(build("simsiam", "guided", 4, "local"), [shard(x, r) for x in views])["outputs"]["loss"]
        for r in range(2)
    ]
    assert (torch.stack(separate).mean() - joint).abs() > 1e-4


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
    distributed.leave()


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_device_that_does_not_exist_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=rf"--device {device} cannot be used \(.+\); try --device cpu"):
        distributed.join(device)


if __name__ == "__main__":
    torch.save(observe(distributed.join("cpu")), sys.argv[1])
    distributed.leave()
