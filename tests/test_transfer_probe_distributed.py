"""Two gloo processes under torchrun's variables against one process.

The file is also the program that the processes run.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from converters import distributed
from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError
from converters.images import load_images
from transfer.probe import ProbeOutcome, train_probe
from transfer.probe_config import ProbeConfig
from transfer.tasks import Split, Splits

WORLD_SIZE = 2
TIMEOUT_S = 300  # only so that a hanging process ends; what they do takes seconds

# 41 images in batches of 8: the last batch holds one, which leaves nothing to the second process
NUM_TRAIN, NUM_TEST = 41, 21
SCENARIOS = {
    "augmented": ProbeConfig(batch_size=8, optimizer="sgd", lr=0.1, epochs=3),
    "accumulated": ProbeConfig(batch_size=8, optimizer="sgd", lr=0.1, epochs=3, accumulate=3),
    "cached": ProbeConfig(batch_size=8, optimizer="sgd", lr=0.1, epochs=3, augment=False),
}


def build_splits() -> Splits:
    parts = []
    for name, number in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        loaded = load_images("sample", name)  # type: ignore[arg-type]
        rows = torch.arange(0, len(loaded.images), len(loaded.images) // number)[:number]
        parts.append(Split(loaded.images[rows], loaded.labels[rows]))
    return Splits(loaded.classes, parts[0], None, parts[1])


def build_backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def run(name: str, folder: Path, ranks: Ranks, *, resume: bool = False) -> ProbeOutcome:
    splits, config = build_splits(), SCENARIOS[name]
    features = None
    if not config.augment:
        train, test = (split.images[:, :, ::16, ::16].flatten(1) / 255 for split in (splits.train, splits.test))
        features = (train.numpy(), test.numpy())
    return train_probe(
        build_backbone(),
        splits,
        Pixels(size=16),
        config,
        ranks=ranks,
        folder=folder / name,
        resume=resume,
        workers=0,
        features=features,
    )


def observe(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Everything that the tests look at, as one process sees it."""
    seen: dict[str, Any] = {name: described(run(name, folder, ranks)) for name in SCENARIOS}
    seen["again"] = described(run("cached", folder, ranks, resume=True))
    try:
        run("cached", folder, ranks)
    except InputError as error:
        seen["refusal"] = str(error)
    return seen


def described(outcome: ProbeOutcome) -> dict[str, Any]:
    return {**vars(outcome), "last": vars(outcome.last), "best": vars(outcome.best)}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(rank: int, port: int, folder: Path) -> subprocess.Popen[str]:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD_SIZE, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    environment = os.environ | {key: str(value) for key, value in variables.items()}
    environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, __file__, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


Ended = tuple[Path, list[dict[str, Any]], list[str]]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The folder of two processes, what each of them saw, and what each printed."""
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    processes = [start(rank, port, folder) for rank in range(WORLD_SIZE)]
    try:
        ended = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD_SIZE, ended
    seen = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD_SIZE)]
    return folder, seen, [output for output, _ in ended]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The same of one process."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, observe(Ranks(0, 1, torch.device("cpu")), folder)


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_train_the_layer_of_one(together: Ended, alone: tuple[Path, dict[str, Any]], name: str) -> None:
    states = [torch.load(folder / name / "state.pt", weights_only=True) for folder in (together[0], alone[0])]
    torch.testing.assert_close(states[0]["linear"], states[1]["linear"], rtol=1e-4, atol=1e-6)
    for seen in together[1]:
        assert seen[name]["loss"] == pytest.approx(alone[1][name]["loss"], rel=1e-5)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_test_image_counts_once_and_in_its_order(
    together: Ended, alone: tuple[Path, dict[str, Any]], name: str
) -> None:
    for seen in together[1]:
        assert seen[name]["accuracy"] == alone[1][name]["accuracy"]
        assert len(seen[name]["last"]["classes"]) == NUM_TEST
        for which in ("last", "best"):
            assert torch.equal(seen[name][which]["classes"], alone[1][name][which]["classes"])
            torch.testing.assert_close(
                seen[name][which]["confidence"], alone[1][name][which]["confidence"], rtol=1e-4, atol=1e-5
            )


def test_finished_probe_and_refusal_reach_every_process(together: Ended) -> None:
    for seen in together[1]:
        assert seen["again"]["accuracy"] == seen["cached"]["accuracy"]
        assert "holds a probe already; resume it" in seen["refusal"]


def test_only_the_main_process_speaks(together: Ended) -> None:
    first, second = together[2]
    assert len(first.splitlines()) == sum(config.epochs for config in SCENARIOS.values())
    assert second == ""


def main() -> None:
    folder = Path(sys.argv[1])
    ranks = distributed.join("cpu")
    try:
        torch.save(observe(ranks, folder), folder / f"{ranks.rank}.pt")
    finally:
        distributed.leave()


if __name__ == "__main__":
    main()
