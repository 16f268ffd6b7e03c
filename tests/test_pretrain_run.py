"""The command: what it refuses, what it leaves behind, and a kill in the middle of a run."""

import json
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
from pretrain.config import load_config
from pretrain.loop import method_label

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


GUIDED = "objective.guidance=guided: expected symmetric, since "


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("barlow_twins", ["objective.guidance=guided"], GUIDED + "Barlow Twins has no stop-gradient"),
        ("simclr", ["objective.guidance=guided"], GUIDED + "SimCLR has no stop-gradient"),
        ("vicreg", ["objective.guidance=guided"], GUIDED + "VICReg has no stop-gradient"),
        ("moco", ["objective.guidance=guided"], GUIDED + "MoCo's first view is always the query"),
        ("swav", ["objective.guidance=guided"], GUIDED + "SwAV compares codes with scores"),
        ("swav", ["objective.pairs=global"], "unknown key in objective 'pairs'"),
        ("moco", ["objective.queue=3"], "objective.queue: expected at least the 4 images of a batch"),
        ("moco", ["objective.splits=3"], "objective.splits: expected equal parts of two images or more"),
        ("swav", [], "views.num_local is missing: SwAV's prototypes were published with small crops and without them"),
        ("swav", ["views.num_local=2"], "views.num_local is 2, but views.local_size is missing"),
        ("swav", ["views.num_local=0", "objective.queue=3"], "objective.queue: expected at least the 4 images"),
        ("simsiam", ["views.cutmix_p=0.5"], "set objective.momentum, or views.cutmix_p=0"),
        ("unigrad", ["views.cutmix_p=0.5", "objective.momentum=null"], "set objective.momentum, or views.cutmix_p=0"),
        ("barlow_twins", ["views.cutmix_p=0.5"], "this objective's loss is not linear in its targets"),
        ("vicreg", ["views.cutmix_p=0.5", "objective.momentum=0.9"], "this objective's loss is not linear"),
        ("byol", ["views.cutmix_p=1.5"], "views.cutmix_p: expected 0 to 1, got 1.5"),
        ("byol", ["monitor.gradients=true", "views.cutmix_p=0.5"], "monitor.gradients: the terms are written for"),
        (
            "simclr",
            ["monitor.gradients=true", "views.num_local=2", "views.local_size=16"],
            "monitor.gradients: the terms are written for views of the usual size",
        ),
        (
            "simsiam",
            ["monitor.gradients=true", "objective.stop_gradient=false"],
            "monitor.gradients: the terms are written for targets without gradient",
        ),
        ("simsiam", ["objective.stop_gradient=false", "objective.momentum=0.9"], "objective.stop_gradient=false: "),
        ("byol", ["objective.predictor=linear"], "unknown predictor 'linear'; choose from: directpred, mlp, none"),
        ("simclr", ["optim.name=lamb"], "unknown optim.name 'lamb'"),
        ("simclr", ["optim.warmup_epochs=1"], "set optim.schedule_by=step"),
    ],
)
def test_options_that_do_not_go_together_are_one_line_and_leave_nothing(
    name: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tmp_path, name)
    assert pretrain(monkeypatch, "--config", recipe, "--output", tmp_path / "run", *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == [recipe]


def write_recipe(folder: Path, name: str) -> Path:
    """A configuration that names a method, with heads that take little memory."""
    path = folder / f"{name}.yaml"
    path.write_text(
        f"arch: resnet18\nepochs: 1\nbatch_size: 4\nobjective: {{name: {name}, projector_dims: [16, 16]}}\n"
        "views: {size: 32}\ndata: {source: sample, workers: 0}\nmonitor: {labelled: null}\n"
    )
    return path


@pytest.mark.parametrize(
    ("name", "arguments", "label"),
    [
        ("simclr", ["optim.name=lars", "optim.schedule_by=step", "optim.warmup_epochs=0.5"], "simclr-2views"),
        ("moco", ["objective.queue=6", "objective.splits=2", "monitor.gradients=true"], "moco-2views"),
        ("swav", ["views.num_local=2", "views.local_size=24", "objective.queue=6"], "swav-2views-2local"),
        ("barlow_twins", ["objective.momentum=0.9", "bf16=true"], "barlow_twins-2views-momentum"),
        ("vicreg", ["views.second_solarize_p=0.5", "views.second_blur_p=0.1"], "vicreg-2views"),
        ("unigrad", ["views.cutmix_p=0.5"], "unigrad-symmetric-2views-cutmix"),
        ("simsiam", ["objective.predictor=directpred", "objective.views=2"], "simsiam-guided-2views-directpred"),
        ("byol", ["objective.momentum=null", "views.num_local=1", "views.local_size=24"],
         "byol-guided-4views-1local-nomomentum"),
    ],
)  # fmt: skip
def test_every_method_runs_from_a_short_recipe_and_is_named(
    name: str,
    arguments: list[str],
    label: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, folder = tmp_path / "run", ["data.source=folder", f"data.root={pictures}", "log_every=1"]
    command = ["--config", write_recipe(tmp_path, name), "--output", output, *folder, *arguments]
    assert pretrain(monkeypatch, *command) == 0
    assert capsys.readouterr().out.startswith(f"{label} on resnet18")
    checkpoint = load(output / "checkpoint.safetensors")
    assert checkpoint.source.method == label
    assert all(x.isfinite().all() for x in checkpoint.backbone.values())
    losses = [
        json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines() if "loss" in line
    ]
    assert len(losses) == 2
    assert method_label(load_config(output / "config.yaml")) == label


def test_plan_counts_the_small_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, crops = write_recipe(tmp_path, "swav"), ["views.num_local=6", "views.local_size=16"]
    assert pretrain(monkeypatch, "--dry-run", "--config", recipe, *crops) == 0
    # 500 steps of 4 images
    assert "2 views per image and 6 small ones, 16000 in all" in capsys.readouterr().out
    assert pretrain(monkeypatch, "--dry-run", "--config", recipe, "views.num_local=0") == 0
    assert "2 views per image, 4000 in all" in capsys.readouterr().out


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
