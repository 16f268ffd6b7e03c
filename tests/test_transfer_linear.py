"""The command from checkpoint to table and results, and what it says to a wrong call."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, Source, load, save, sha256
from converters.images import LabelledImages, load_images
from tests import twins
from transfer import tasks
from transfer.linear import main
from transfer.results import Result, read
from transfer.tasks import fashion_mnist, sample

COMMAND = Path(__file__).parents[1] / "transfer" / "linear.py"

NUM_TRAIN, NUM_TEST = 90, 60
PIXELS = Pixels(size=32)

Run = Callable[..., int]


def _subset(data: LabelledImages, num: int) -> LabelledImages:
    """The same number of three classes' images, so that chance is a third."""
    rows = torch.cat([(data.labels == label).nonzero()[: num // 3, 0] for label in range(3)])
    return LabelledImages(data.images[rows], data.labels[rows], data.classes[:3])


@pytest.fixture(scope="module")
def small() -> tuple[LabelledImages, LabelledImages]:
    return _subset(load_images("sample", "train"), NUM_TRAIN), _subset(load_images("sample", "test"), NUM_TEST)


@pytest.fixture
def run(small: tuple[LabelledImages, LabelledImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in an empty folder, with few of the sample's pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "load", lambda root: small)

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["linear.py", *arguments])
        return main()

    return command


def _save(path: Path, method: str = "simsiam-guided", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    backbone = build_backbone("resnet18")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = Source(method, "online", "sample", epochs=2, seed=seed, sha256=None, version="0")
    save(Checkpoint("resnet18", backbone.state_dict(), PIXELS, source), path)
    return path


def _results(folder: str = "runs/linear") -> list[Result]:
    return read(Path(folder, "results.jsonl"))


def test_tasks_of_the_benchmark_are_listed_with_what_is_there(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    twins.write("dtd", tmp_path / "data", "reference")
    assert run("--tasks") == 0
    printed = capsys.readouterr().out
    lines = {line.split("\u2502")[1].strip(): line for line in printed.splitlines() if "\u2502" in line}
    assert set(tasks.benchmark()) <= set(lines)
    assert [name for name in tasks.benchmark() if "not found" not in lines[name]] == ["dtd"]
    assert "1880" in lines["dtd"]
    assert f"food: expected data/{tasks.expected('food')} (source: " in printed


def test_set_of_the_benchmark_is_not_evaluated_as_another_protocols(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dataset", "dtd", "--pixels") == 2
    assert "unknown data set 'dtd'; choose from: cifar10, fashion_mnist, sample" in capsys.readouterr().err


def test_checkpoint_of_another_origin_is_read_as_it_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = _save(tmp_path / "own.safetensors")
    state = {f"module.encoder_q.{name}": tensor for name, tensor in load(own).backbone.items()}
    state |= {name.replace("_q.", "_k."): tensor + 1 for name, tensor in state.items()}
    torch.save({"epoch": 200, "state_dict": state}, tmp_path / "moco.pth")
    assert run("--ckpt", "moco.pth") == 2  # query or key?
    assert "choose by --branch online|target" in capsys.readouterr().err
    pixels = ("--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225")
    assert run("--ckpt", "moco.pth", "--branch", "online", *pixels) == 0
    printed = capsys.readouterr().out
    assert "moco, resnet18, online of moco.pth" in printed
    assert "read as moco, online, by 120 tensors at state_dict > module.encoder_q.*, 120 others left out" in printed
    result = _results()[0]
    assert (result.representation, result.checkpoint_sha256) == (
        "moco, resnet18, online of moco.pth",
        sha256(tmp_path / "moco.pth"),
    )


def test_two_checkpoints_and_both_controls_share_one_table(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    first, second = _save(tmp_path / "a.safetensors"), _save(tmp_path / "b.safetensors", "byol", seed=1)
    assert run("--ckpt", str(first), str(second), "random:resnet18", "--pixels", "--seed", "5") == 0
    printed, errors = capsys.readouterr()
    assert errors == ""  # no warning about convergence
    table = printed[printed.index("per cent of 60 test images") :]
    for label in (
        "raw pixels, 32 x 32",
        "simsiam-guided, resnet18, 2 epochs",
        "byol, resnet18",
        "random initialisation",
    ):
        assert label in table
    assert "95 % interval" in table
    assert "most frequent class scores 33.3" in printed
    assert "says nothing about any other data" in printed

    results = _results()
    assert len(results) == 4 * 3  # accuracy, balanced accuracy, one k-NN
    assert {result.checkpoint_sha256 for result in results} == {None, sha256(first), sha256(second)}
    assert {result.seed for result in results} == {None, 0, 1, 5}
    for result in results:
        assert result.num_examples == NUM_TEST
        assert result.interval[0] <= result.value <= result.interval[1]
    # balanced classes: the two are one number; tasks of one protocol share its hash
    linear = {result.metric: result.value for result in results if result.task == "linear"}
    assert linear["accuracy"] == pytest.approx(linear["balanced_accuracy"])
    assert len({(result.protocol, result.protocol_hash) for result in results}) == 2


def test_results_repeat_and_are_appended(run: Run) -> None:
    arguments = ("--ckpt", "random:resnet18", "--output", "out")
    assert run(*arguments) == 0
    assert run(*arguments) == 0
    first, second = _results("out")[:3], _results("out")[3:]
    assert [replace(result, seconds=0) for result in first] == [replace(result, seconds=0) for result in second]


def test_random_initialisation_takes_the_statistics_of_each_data_set(
    run: Run, small: tuple[LabelledImages, LabelledImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One backbone serves all data sets of a call: nothing of the one before may remain."""
    dark = [replace(split, images=split.images // 4) for split in small]
    monkeypatch.setattr(fashion_mnist, "load", lambda root: dark)
    monkeypatch.setattr(fashion_mnist, "KNN", sample.KNN)
    assert run("--ckpt", "random:resnet18", "--dataset", "fashion_mnist", "sample", "--output", "both") == 0
    assert run("--ckpt", "random:resnet18", "--dataset", "sample", "--output", "alone") == 0
    after_dark = [result for result in _results("both") if result.dataset == "sample"]
    assert [replace(result, seconds=0) for result in after_dark] == [
        replace(result, seconds=0) for result in _results("alone")
    ]


def test_permuted_labels_give_chance(
    run: Run, small: tuple[LabelledImages, LabelledImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    permuted = [replace(x, labels=x.labels[torch.randperm(len(x.labels), generator=generator)]) for x in small]
    monkeypatch.setattr(sample, "load", lambda root: permuted)
    assert run("--pixels") == 0
    for result in _results():
        assert result.value == pytest.approx(1 / 3, abs=0.19)  # three deviations of 60 draws


def test_default_checkpoint_is_the_newest_runs_and_is_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    newest, older = (_save(tmp_path / "runs" / name / "checkpoint.safetensors") for name in ("first", "second"))
    os.utime(older, (1, 1))
    assert run("--dry-run") == 0
    printed = capsys.readouterr().out
    assert str(newest.relative_to(tmp_path)) in printed
    assert str(older.relative_to(tmp_path)) not in printed
    assert sha256(newest)[:12] in printed


def test_dry_run_states_the_plan_and_writes_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    assert run("--pixels", "--ckpt", "random:resnet18", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "sample: 90 training and 60 test images, logistic-path (" in printed
    assert "to runs/linear/results.jsonl" in printed
    assert "raw pixels, 32 x 32" in printed
    assert "random initialisation, resnet18" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no pretraining run in runs/; start python pretrain/run.py first, or give --ckpt FILE"),
        (("--dataset", "sampel", "--pixels"), "unknown data set 'sampel'; did you mean 'sample'? choose from:"),
        (("--ckpt", "missing.safetensors"), "checkpoint missing.safetensors not found"),
        (("--ckpt", "random:resnet81"), "unknown architecture 'resnet81'; did you mean 'resnet18'?"),
        (("--pixels", "--seed", "x"), "argument --seed: invalid int value: 'x'; see --help"),
        (("--dataset", "fashion_mnist", "--pixels", "--data-root", "nowhere"), "Fashion-MNIST not found: expected"),
        (("--dataset", "sample", "cifar10", "--data-root", "x"), "--data-root is the folder of one data set, got 2"),
        (("--device", "tpu9", "--pixels"), "--device tpu9 cannot be used"),
    ],
)
def test_wrong_call_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(*arguments) == 2
    printed, errors = capsys.readouterr()
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert printed == ""
    assert list(tmp_path.iterdir()) == []


def test_truncated_checkpoint_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _save(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:100_000])
    assert run("--ckpt", str(path)) == 2
    assert f"{path} is truncated or no safetensors file" in capsys.readouterr().err


def test_second_wrong_checkpoint_stops_before_the_first_is_evaluated(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--ckpt", str(_save(tmp_path / "a.safetensors")), "missing.safetensors") == 2
    assert "missing.safetensors not found" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_output_that_cannot_be_a_folder_is_refused_before_anything_is_computed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run("--pixels", "--output", "file/results") == 2
    printed, errors = capsys.readouterr()
    assert "cannot write file/results" in errors
    assert "choose another --output" in errors
    assert "per cent" not in printed


def test_command_runs_by_path_from_anywhere(tmp_path: Path) -> None:
    arguments = [sys.executable, str(COMMAND), "--pixels", "--dry-run"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sample: 2000 training and 500 test images" in done.stdout
