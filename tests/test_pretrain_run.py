"""The command: what it refuses, what it leaves behind, and a kill in the middle of a run."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from converters.checkpoint import load
from converters.images import load_images
from pretrain import run

ROOT = Path(__file__).parents[1]
SMALL = (
    "views.size=32",
    "batch_size=4",
    "objective.projector_dims=[16,16]",
    "objective.predictor_dim=8",
    "data.workers=0",
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(load_images("sample", "train").images[::200]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


def pretrain(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["run.py", "--device", "cpu", *map(str, arguments)])
    return run.main()


def from_folder(pictures: Path, *more: str) -> list[str]:
    return ["data.source=folder", f"data.root={pictures}", "monitor.labelled=null", *SMALL, *more]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["objective.name=simsaim"],
            "unknown objective 'simsaim'; did you mean 'simsiam'? choose from: barlow_twins, byol, ",
        ),
        (["epoch=3"], "unknown key in the configuration 'epoch'; did you mean 'epochs'?"),
        (["epochs=many"], "epochs: Value 'many'"),
        (["--config", "absent.yaml"], "configuration absent.yaml not found"),
        (["--sead", "1"], "--sead"),
        (["--on-collapse", "pray"], "invalid choice: 'pray'"),
        (["--device", "tpu9"], "--device tpu9 cannot be used"),
        (["batch_size=2001"], "2001"),
        (["batch_size=4000", "accumulate=4"], "expected a batch_size of at most the 2000 images, got 4000"),
        (["batch_size=1"], "leaves 1 image(s) to a forward pass, and batch norm needs two"),
        (["data.source=folder", "data.root=absent"], "absent"),
        (["data.source=smaple"], "unknown data.source 'smaple'; did you mean 'sample'?"),
        (["data.source=cifar10", "data.root=absent"], "CIFAR-10 not found: expected"),
        (["monitor.labelled=imagenet"], "unknown monitor.labelled 'imagenet'"),
        (["monitor.labelled=folder", "monitor.root=absent"], "expected train/ and val/ in monitor.root, got absent"),
        (["monitor.k=2001"], "monitor.k: expected at most 2000, the labelled images; got 2001"),
        (["--resume"], "nothing to resume: expected"),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    assert pretrain(monkeypatch, "--output", output, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not output.exists()


def test_folder_without_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert pretrain(monkeypatch, "--output", tmp_path / "run", "data.source=folder", f"data.root={tmp_path}/empty") == 2
    assert "empty" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_dry_run_writes_nothing_and_names_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(monkeypatch, "--dry-run", "--output", tmp_path / "run", "objective.name=byol") == 0
    plan = capsys.readouterr().out
    assert "byol-guided" in plan
    assert "2000 images of sample" in plan or "images of sample per epoch" in plan
    assert not (tmp_path / "run").exists()


def test_finished_run_is_neither_overwritten_nor_repeated(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--output", tmp_path / "run", *from_folder(pictures, "epochs=1")]
    assert pretrain(monkeypatch, *command) == 0
    before = (tmp_path / "run/checkpoint.safetensors").read_bytes()
    assert sorted(path.name.split(".")[0] for path in (tmp_path / "run").iterdir()) == [
        "checkpoint",
        "config",
        "events",
        "metrics",
        "run",
        "state",
    ]
    assert pretrain(monkeypatch, *command) == 2
    assert "add --resume to continue that run, or change --output" in capsys.readouterr().err
    assert pretrain(monkeypatch, "--resume", *command) == 0
    assert (tmp_path / "run/checkpoint.safetensors").read_bytes() == before


def test_resuming_with_another_configuration_names_the_difference(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--output", tmp_path / "run", *from_folder(pictures, "epochs=1")]
    assert pretrain(monkeypatch, *command) == 0
    capsys.readouterr()
    assert pretrain(monkeypatch, "--resume", *command, "epochs=2", "optim.base_lr=1.5") == 2
    assert "epochs is 1 there and 2 here; optim.base_lr is" in capsys.readouterr().err


def test_resuming_on_other_images_is_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--output", tmp_path / "run", *from_folder(pictures, "epochs=1")]
    assert pretrain(monkeypatch, *command) == 0
    (pictures / "0.png").unlink()
    assert pretrain(monkeypatch, "--resume", *command) == 2
    assert "num_images is 10 there and 9 here" in capsys.readouterr().err


def test_image_that_cannot_be_decoded_is_named_or_skipped(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "3.png").write_bytes((pictures / "3.png").read_bytes()[:200])
    arguments = from_folder(pictures, "epochs=1", "batch_size=10")
    assert pretrain(monkeypatch, "--output", tmp_path / "a", *arguments) == 2
    assert "3.png" in capsys.readouterr().err
    assert pretrain(monkeypatch, "--output", tmp_path / "b", "--skip-corrupt", *arguments) == 0
    assert "skipped 1 image that cannot be decoded" in capsys.readouterr().out


def test_collapse_that_stops_the_run_exits_with_3(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # one row of weights: projections of dimension one have two directions, and after batch norm no other spread
    arguments = from_folder(pictures, "epochs=1", "objective.projector_dims=[16,1]", "log_every=1")
    assert pretrain(monkeypatch, "--output", tmp_path / "run", "--on-collapse", "stop", *arguments) == 3
    assert capsys.readouterr().err.startswith("stopped: collapse at step ")


def test_killed_run_resumes_to_the_same_bits(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def arguments(output: str, save_minutes: int) -> list[str]:
        changes = from_folder(pictures, "epochs=8", f"save_minutes={save_minutes}", "log_every=1")
        return ["--output", str(tmp_path / output), *changes]

    command = [sys.executable, str(ROOT / "pretrain/run.py"), "--device", "cpu", *arguments("killed", 0)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path)
    metrics = tmp_path / "killed/metrics.jsonl"

    def kill() -> None:
        while not metrics.exists() or metrics.read_text().count("loss") < 3:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()

    with ThreadPoolExecutor() as beside:  # the unbroken run, while the other one comes to its end
        killed = beside.submit(kill)
        assert pretrain(monkeypatch, *arguments("whole", 60)) == 0
        killed.result()
    assert not (tmp_path / "killed/checkpoint.safetensors").exists() or metrics.read_text().count("loss") < 16
    assert pretrain(monkeypatch, *arguments("killed", 0), "--resume") == 0

    resumed, whole = (load(tmp_path / name / "checkpoint.safetensors").backbone for name in ("killed", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    steps = [line.split(",")[0] for line in metrics.read_text().splitlines() if "loss" in line]
    assert len(steps) == len(set(steps)) == 16
