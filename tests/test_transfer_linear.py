"""The command from checkpoint to table, results and predictions, and what it says to a wrong call."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from converters import images
from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, Source, load, save, sha256
from tests import twins
from tests.test_transfer_tasks_twins import SIZES as TWIN_SIZES
from transfer import logistic, tasks
from transfer.decay_path import fit_path
from transfer.linear import main
from transfer.results import Result, read
from transfer.tasks import Split, Splits, fashion_mnist, sample

COMMAND = Path(__file__).parents[1] / "transfer" / "linear.py"

NUM_TRAIN, NUM_TEST = 90, 60
NATIVE_SIZE = 32
MEAN_AND_STD = ("--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225")

Run = Callable[..., int]


def _subset(split: Split, num: int) -> Split:
    """The same number of three classes' images, so that chance is a third."""
    rows = torch.cat([(split.labels == label).nonzero()[: num // 3, 0] for label in range(3)])
    assert isinstance(split.images, torch.Tensor)
    return Split(split.images[rows], split.labels[rows])


@pytest.fixture(scope="module")
def small() -> Splits:
    whole = sample.splits(Path("nowhere"))
    return Splits(whole.classes[:3], _subset(whole.train, NUM_TRAIN), None, _subset(whole.test, NUM_TEST))


def _command(small: Splits, folder: Path, patch: pytest.MonkeyPatch) -> Run:
    """The command in an empty folder, with few of the sample's pictures, and no process that decodes."""
    patch.chdir(folder)
    patch.setenv("COLUMNS", "400")
    patch.setattr(sample, "splits", lambda root, check_sizes=True: small)

    def command(*arguments: str) -> int:
        patch.setattr(sys, "argv", ["linear.py", "--workers", "0", *arguments])
        return main()

    return command


@pytest.fixture
def run(small: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return _command(small, tmp_path, monkeypatch)


@pytest.fixture
def fewer(run: Run, small: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """For checkpoints whose views have 224 px: as few pictures as 20-NN allow."""
    splits = replace(small, train=_subset(small.train, 30), test=_subset(small.test, 15))
    monkeypatch.setattr(sample, "splits", lambda root, check_sizes=True: splits)


@pytest.fixture(scope="module")
def twin_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    twins.write_all(root)
    return root


def set_twin_sizes(patch: pytest.MonkeyPatch) -> None:
    """As if the twins were what was published."""
    for name in tasks.benchmark():
        train, val, test = TWIN_SIZES[name]
        module = tasks.find(name)
        num_classes = module.SIZES[0] if name in ("cifar10", "voc2007") else twins.NUM_CLASSES
        patch.setattr(module, "SIZES", (num_classes, train, val or None, test))
    patch.setitem(images._SIZES, "cifar10", {"train": TWIN_SIZES["cifar10"][0], "test": TWIN_SIZES["cifar10"][2]})
    caltech = tasks.find("caltech101")
    patch.setattr(caltech, "_PER_CLASS", 6)
    patch.setattr(caltech, "STRICT_SIZES", (3, 18, None, 6))


@pytest.fixture
def twin_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    set_twin_sizes(monkeypatch)


def _save(path: Path, method: str = "simsiam-guided", seed: int = 0, size: int = NATIVE_SIZE) -> Path:
    torch.manual_seed(seed)
    backbone = build_backbone("resnet18")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = Source(method, "online", "sample", epochs=2, seed=seed, sha256=None, version="0")
    save(Checkpoint("resnet18", backbone.state_dict(), Pixels(size), source), path)
    return path


def _results(folder: str = "runs/linear") -> list[Result]:
    results, problems = read(Path(folder, "results.jsonl"))
    assert problems == []
    return results


def _timeless(results: list[Result]) -> list[Result]:
    """What is found, without how long it took and by which command on which machine."""
    circumstances = ("command", "machine", "processes", "features", "file")
    return [
        replace(result, seconds=0, details={k: v for k, v in result.details.items() if k not in circumstances})
        for result in results
    ]


# --- the listing ---


def test_tasks_are_listed_with_what_is_there(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twins.write("dtd", tmp_path / "data", "reference")
    assert run("--tasks") == 0
    printed = capsys.readouterr().out
    lines = {line.split("\u2502")[1].strip(): line for line in printed.splitlines() if "\u2502" in line}
    assert set(tasks.names()) <= set(lines)
    assert [name for name in tasks.benchmark() if "not found" not in lines[name]] == ["dtd"]
    assert "1880" in lines["dtd"]
    assert f"food: expected data/{tasks.expected('food')} (source: " in printed


# --- one task ---


@pytest.mark.usefixtures("fewer")
def test_checkpoint_of_another_origin_is_read_as_it_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = _save(tmp_path / "own.safetensors")
    state = {f"module.encoder_q.{name}": tensor for name, tensor in load(own).backbone.items()}
    state |= {name.replace("_q.", "_k."): tensor + 1 for name, tensor in state.items()}
    torch.save({"epoch": 200, "state_dict": state}, tmp_path / "moco.pth")
    assert run("--ckpt", "moco.pth") == 2  # query or key?
    assert "choose by --branch online|target" in capsys.readouterr().err
    assert run("--ckpt", "moco.pth", "--branch", "online", *MEAN_AND_STD) == 0
    printed = capsys.readouterr().out
    assert "moco, resnet18, online of moco.pth" in printed
    assert "read as moco, online, by 120 tensors at state_dict > module.encoder_q.*, 120 others left out" in printed
    result = _results()[0]
    assert (result.representation, result.checkpoint_sha256) == (
        "moco, resnet18, online of moco.pth",
        sha256(tmp_path / "moco.pth"),
    )


@pytest.mark.usefixtures("fewer")
def test_other_reading_of_a_file_is_another_cell(run: Run, tmp_path: Path) -> None:
    own = _save(tmp_path / "own.safetensors")
    state = {f"module.encoder_q.{name}": tensor for name, tensor in load(own).backbone.items()}
    state |= {name.replace("_q.", "_k."): tensor * 1.1 for name, tensor in state.items() if tensor.is_floating_point()}
    state |= {name.replace("_q.", "_k."): tensor for name, tensor in state.items() if not tensor.is_floating_point()}
    torch.save({"epoch": 200, "state_dict": state}, tmp_path / "moco.pth")
    readings = [
        ("--branch", "online"),
        ("--branch", "target"),
        ("--branch", "online", *MEAN_AND_STD[:4], "--std", "1", "1", "1"),
    ]
    for reading in readings:
        assert run("--ckpt", "moco.pth", *reading) == 0
    linear = [result for result in _results() if result.metric == "accuracy" and result.task == "linear"]
    assert len({result.details["cell"] for result in linear}) == len(readings) == len(linear)


def test_two_checkpoints_and_both_controls_share_one_table(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = _save(tmp_path / "a.safetensors"), _save(tmp_path / "b.safetensors", "byol", seed=1)
    assert run("--ckpt", str(first), str(second), "random:resnet18", "--pixels", "--seed", "5") == 0
    printed, errors = capsys.readouterr()
    assert errors == ""  # no warning about convergence
    table = printed[printed.index("per cent of the test images") :]
    for label in (
        "raw pixels, 32 x 32",
        "simsiam-guided, resnet18, 2 epochs of sample, seed 0",
        "byol, resnet18",
        "random initialisation, resnet18, seed 5",
    ):
        assert label in table
    assert "95 % interval" in table
    assert "33.3" in table  # the most frequent class
    assert "they say nothing about any other data" in printed

    results = _results()
    assert len(results) == 4 * 3  # accuracy, calibration error, one k-NN
    assert {result.checkpoint_sha256 for result in results} == {None, sha256(first), sha256(second)}
    assert {result.seed for result in results} == {None, 0, 1, 5}
    for result in results:
        assert result.num_examples == NUM_TEST
        assert result.interval[0] <= result.value <= result.interval[1]
    assert len({(result.protocol, result.protocol_hash) for result in results}) == 2


def test_predictions_and_the_curve_are_stored_with_the_number(run: Run) -> None:
    assert run("--pixels") == 0
    linear, calibration, knn = _results()
    for result in (linear, knn):
        stored = np.load(Path("runs/linear", result.details["predictions"]))
        assert np.mean(stored["labels"] == stored["predicted"]) == pytest.approx(result.value)
    stored = np.load(Path("runs/linear", linear.details["predictions"]))
    assert stored["confidence"].shape == (NUM_TEST,)
    assert abs(stored["confidence"].mean() - linear.value) <= calibration.value + 1e-6  # Jensen
    assert len(linear.details["validation_scores"]) == 45
    assert max(linear.details["validation_scores"]) > 1 / 3
    for fits, num in (("sweep", 45), ("final_fit", 1)):
        certificate = linear.details[fits]
        assert [len(certificate[name]) for name in ("gradient_norms", "iterations", "converged")] == [num] * 3
        assert all(certificate["converged"])
        assert max(certificate["gradient_norms"]) <= 1e-3


def test_fits_that_did_not_converge_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--pixels", "--solver", "sklearn") == 0  # the published procedure, on 3,072 dimensions
    unconverged = 45 - sum(_results()[0].details["sweep"]["converged"])
    assert unconverged > 0
    assert (
        f"Not converged for raw pixels, 32 x 32 on sample: {unconverged} of 45 fits of the sweep"
        in capsys.readouterr().out
    )


def test_permuted_labels_give_chance(run: Run, small: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (
        replace(x, labels=x.labels[torch.randperm(len(x.labels), generator=generator)])
        for x in (small.train, small.test)
    )
    monkeypatch.setattr(sample, "splits", lambda root: replace(small, train=train, test=test))
    assert run("--pixels") == 0
    for result in _results():
        if result.metric == "accuracy":
            assert result.value == pytest.approx(1 / 3, abs=0.19)  # three deviations of 60 draws


def test_random_initialisation_takes_the_statistics_of_each_data_set(
    run: Run, small: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One backbone serves all data sets of a call: nothing of the one before may remain."""
    dark = replace(small, train=replace(small.train, images=small.train.images // 4))  # type: ignore[operator]
    monkeypatch.setattr(fashion_mnist, "splits", lambda root: dark)
    monkeypatch.setattr(fashion_mnist, "KNN", sample.KNN)
    assert run("--ckpt", "random:resnet18", "--dataset", "fashion_mnist", "sample", "--output", "both") == 0
    assert run("--ckpt", "random:resnet18", "--dataset", "sample", "--output", "alone", "--features", "anew") == 0
    after_dark = [result for result in _results("both") if result.dataset == "sample"]
    assert _timeless(after_dark) == _timeless(_results("alone"))


def test_neighbours_on_request(run: Run) -> None:
    assert run("--pixels", "--knn", "3") == 0
    assert [result.protocol for result in _results() if result.task == "knn"] == [
        "native, 20-NN majority",
        "native, 3-NN majority",
    ]


# --- cells ---


def test_finished_cells_are_kept_and_shown_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--pixels") == 0
    before, first = Path("runs/linear/results.jsonl").read_bytes(), capsys.readouterr().out
    assert run("--pixels") == 0
    second = capsys.readouterr().out
    assert Path("runs/linear/results.jsonl").read_bytes() == before
    title = "per cent of the test images"
    assert second[second.index(title) :] == first[first.index(title) :]
    assert run("--pixels", "--knn", "7") == 0  # only what is new is computed
    assert len(_results()) == 3 + 1


def test_lost_predictions_and_changed_data_are_computed_again(
    run: Run, small: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--pixels") == 0
    first = _results()
    for path in Path("runs/linear/predictions").iterdir():
        path.unlink()
    assert run("--pixels") == 0
    assert _timeless(_results()[3:]) == _timeless(first)
    test = replace(small.test, labels=small.test.labels.flip(0))
    monkeypatch.setattr(sample, "splits", lambda root: replace(small, test=test))
    assert run("--pixels") == 0
    assert len(_results()) == 9
    assert _results()[6].details["data"] != first[0].details["data"]


def test_line_that_a_kill_has_cut_off_is_named_and_its_cell_computed_again(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--pixels") == 0
    path = Path("runs/linear/results.jsonl")
    content = path.read_bytes()
    path.write_bytes(content[:-40])  # of the k-NN
    assert run("--pixels") == 0
    assert "left out: runs/linear/results.jsonl, line 3: expected a result" in capsys.readouterr().out
    results, problems = read(path)
    assert len(problems) == 1
    assert [result.task for result in results] == ["linear", "linear", "knn"]


@pytest.mark.parametrize("metric", ["accuracy", "calibration_error"])
def test_cell_that_lacks_one_of_its_numbers_is_computed_again(run: Run, metric: str) -> None:
    assert run("--pixels") == 0
    path = Path("runs/linear/results.jsonl")
    first = _results()
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if f'"metric": "{metric}"' not in line or '"knn"' in line))
    assert run("--pixels") == 0
    assert [(result.task, result.metric) for result in _results()[-2:]] == [
        ("linear", "accuracy"),
        ("linear", "calibration_error"),
    ]
    assert _timeless(_results()[-2:]) == _timeless(first[:2])


@pytest.mark.usefixtures("twin_sizes")
def test_other_image_of_the_same_name_is_other_data(run: Run, tmp_path: Path) -> None:
    twins.write("dtd", tmp_path / "data", "reference")
    assert run("--dataset", "dtd", "--pixels") == 0
    images = sorted((tmp_path / "data" / "DTD" / "images" / "banded").iterdir())
    images[0].write_bytes(images[1].read_bytes())
    assert run("--dataset", "dtd", "--pixels") == 0
    assert len({result.details["data"] for result in _results()}) == 2


def test_checkpoints_that_are_called_the_same_have_columns_of_their_own(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [_save(tmp_path / name / "checkpoint.safetensors") for name in ("one", "other")]
    checkpoint = load(paths[1])
    save(
        replace(checkpoint, backbone={name: 1.5 * x if x.ndim == 4 else x for name, x in checkpoint.backbone.items()}),
        paths[1],
    )
    assert run("--ckpt", *map(str, paths)) == 0
    table = capsys.readouterr().out.partition("per cent of the test images")[2]
    for path in paths:
        assert f"seed 0, {sha256(path)[:8]}" in table


# --- the benchmark ---


@dataclass(frozen=True)
class Benchmark:
    """What a checkpoint's two calls for all ten sets left and printed, by both protocols."""

    checkpoint: Path
    features: Path
    output: Path
    printed: str

    @property
    def results(self) -> list[Result]:
        return _results(str(self.output))


@dataclass(frozen=True)
class Two:
    """A call of two processes."""

    checkpoint: Path
    output: Path
    running: subprocess.Popen[str]


@pytest.fixture(scope="module")
def two_begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """A call of two processes, which begins beside those for all ten sets, since these need one core."""
    folder = tmp_path_factory.mktemp("two")
    checkpoint = _save(folder / "a.safetensors", size=8)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(COMMAND)]
    arguments = ["--ckpt", str(checkpoint), "--dataset", "digits", "--output", "two", "--features", "two/features"]
    command = [*launcher, *arguments, "--workers", "0", "--device", "cpu"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        yield Two(checkpoint, folder / "two", running)


@pytest.fixture(scope="module")
def benchmark(small: Splits, twin_root: Path, two_begun: Two, tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    folder, printed = tmp_path_factory.mktemp("benchmark"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        run = _command(small, folder, patch)
        set_twin_sizes(patch)
        checkpoint = _save(folder / "a.safetensors", size=224)
        arguments = ("--all", "--data-root", str(twin_root), "--ckpt", str(checkpoint))
        # 0 only because every task has its number
        assert run(*arguments, "--protocol", "ericsson", "--knn", "3") == 0
        assert run(*arguments, "--protocol", "strict") == 0
    return Benchmark(checkpoint, folder / "runs" / "features", folder / "runs" / "linear", printed.getvalue())


def test_all_ten_by_both_protocols(benchmark: Benchmark) -> None:
    """The two protocols never share a number."""
    linear = [result for result in benchmark.results if result.task == "linear"]
    for protocol in ("ericsson", "strict"):
        results = [result for result in linear if result.protocol == f"{protocol}-path"]
        values = {result.dataset: result for result in results if result.metric != "calibration_error"}
        assert set(values) == set(tasks.benchmark())
        for name, result in values.items():
            assert result.metric == tasks.find(name).METRIC
            assert result.interval[0] <= result.value <= result.interval[1]
    assert len({result.protocol_hash for result in linear}) == 2
    by_protocol = {(result.dataset, result.protocol): result for result in linear if result.metric == "map_11point"}
    ericsson, strict = (by_protocol["voc2007", f"{name}-path"] for name in ("ericsson", "strict"))
    labels = [np.load(benchmark.output / x.details["predictions"])["labels"] for x in (ericsson, strict)]
    assert [set(each.ravel().tolist()) for each in labels] == [{0, 1}, {-1, 0, 1}]
    assert ericsson.value != strict.value
    assert "11-point mAP" in benchmark.printed
    assert "mean per class" in benchmark.printed


def test_folder_that_was_named_and_holds_none_of_the_ten_is_no_success(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "FOLDERS", ("nowhere",))
    assert run("--all", "--pixels", "--data-root", "dtaa") == 2
    assert "error: 10 of the 10 data sets have no number, since they are not below dtaa" in capsys.readouterr().err
    assert {result.dataset for result in _results()} == {"sample", "digits"}


@pytest.mark.usefixtures("twin_sizes")
def test_those_that_are_there_are_run_and_the_others_are_named_at_the_end(
    run: Run, twin_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DTD", "Pets"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(twin_root / name)
    assert run("--all", "--pixels") == 2
    errors = capsys.readouterr().err
    assert errors.startswith(
        "error: 8 of the 10 data sets have no number, since they are not below data: aircraft, cal"
    )
    assert errors.count("\n") == 1
    assert {result.dataset for result in _results()} == {"dtd", "pets"}


def test_without_any_of_the_ten_the_sample_tasks_stand_in_and_are_marked(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "FOLDERS", ("nowhere",))
    assert run("--all", "--pixels") == 0
    printed = capsys.readouterr().out
    assert "None of the benchmark's ten data sets is below data/" in printed
    assert "SAMPLE TASKS: sample, digits." in printed
    assert "they say nothing about any other data" in printed
    assert {result.dataset for result in _results()} == {"sample", "digits"}


@pytest.mark.usefixtures("twin_sizes")
def test_broken_image_is_named_and_the_other_sets_keep_their_numbers(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dtd", "flowers", "pets"):
        twins.write(name, tmp_path / "data", "reference")
    broken = sorted((tmp_path / "data" / "Flowers" / "jpg").iterdir())[4]
    broken.write_bytes(broken.read_bytes()[:300])
    assert run("--dataset", "dtd", "flowers", "pets", "--pixels") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: flowers, raw pixels, 32 x 32: ")
    assert broken.name in errors
    assert errors.count("\n") == 1
    assert {result.dataset for result in _results()} == {"dtd", "pets"}


@pytest.mark.usefixtures("twin_sizes")
def test_incomplete_set_is_named_and_the_others_get_their_numbers(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dtd", "pets"):
        twins.write(name, tmp_path / "data", "reference")
    sorted((tmp_path / "data" / "Pets" / "images").iterdir())[0].unlink()
    assert run("--dataset", "pets", "dtd", "--pixels") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: pets: Oxford-IIIT Pets (Parkhi et al. 2012): expected every listed image, got no ")
    assert errors.count("\n") == 1
    assert {result.dataset for result in _results()} == {"dtd"}


def test_neighbours_leave_out_the_set_of_several_labels(benchmark: Benchmark) -> None:
    assert "several classes per image: no k-NN" in benchmark.printed
    measured = {result.dataset for result in benchmark.results if result.task == "knn"}
    assert measured == set(tasks.benchmark()) - {"voc2007"}


def test_memory_that_runs_out_is_one_line_and_the_other_cells_get_their_numbers(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real allocation that no machine can serve, in place of the fits of one task."""

    def run_out(*arguments: object, **options: object) -> None:
        if len(arguments[0]) == NUM_TRAIN - NUM_TRAIN // 5:  # type: ignore[arg-type]
            torch.empty(2**60, dtype=torch.uint8)
        return fit_path(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(logistic, "fit_path", run_out)
    assert run("--pixels", "--dataset", "sample", "digits") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: sample, raw pixels, 32 x 32: not enough memory (")
    assert errors.count("\n") == 1
    assert "linear" in {result.task for result in _results() if result.dataset == "digits"}


def _kill_at_its_first_cell(process: subprocess.Popen[bytes], path: Path) -> int:
    while process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return process.wait()


@pytest.mark.usefixtures("twin_sizes")
def test_killed_run_goes_on_where_it_stopped(run: Run, twin_root: Path, tmp_path: Path) -> None:
    """Killed once a cell is there; every line that was written stays, and the numbers are those of an unbroken run."""
    program = (
        "import sys, pytest; from tests.test_transfer_linear import main, set_twin_sizes; "
        "set_twin_sizes(pytest.MonkeyPatch()); sys.exit(main())"
    )
    names = ["dtd", "pets", "aircraft", "food", "cars", "flowers"]

    def arguments(output: str) -> list[str]:
        place = ["--output", output, "--features", f"{output}/features"]
        return ["--data-root", str(twin_root), "--pixels", "--dataset", *names, *place]

    path = tmp_path / "broken" / "results.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--workers", "0", *arguments("broken")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(COMMAND.parents[1])},
        stdout=subprocess.DEVNULL,
    )
    with ThreadPoolExecutor() as beside:  # the unbroken run, while the other one comes to its end
        killed = beside.submit(_kill_at_its_first_cell, process, path)
        assert run(*arguments("whole")) == 0
        assert killed.result() == -signal.SIGKILL
    before = path.read_bytes()
    assert 0 < before.count(b"\n") < 2 * len(names)
    assert run(*arguments("broken")) == 0
    assert path.read_bytes().startswith(before)
    broken, whole = (read(tmp_path / output / "results.jsonl")[0] for output in ("broken", "whole"))
    assert _timeless(broken) == _timeless(whole)


def test_two_processes_give_the_numbers_of_one(run: Run, two_begun: Two) -> None:
    assert run("--ckpt", str(two_begun.checkpoint), "--dataset", "digits") == 0
    printed, errors = two_begun.running.communicate(timeout=300)
    assert two_begun.running.returncode == 0, errors
    assert printed.count("per cent of the test images") == 1
    for one, two in zip(_results(), _results(str(two_begun.output)), strict=True):
        assert two.value == pytest.approx(one.value, abs=0.01)  # float32 rounds differently in other batches
        assert two.num_examples == one.num_examples


# --- the probe ---


@pytest.mark.parametrize("flags", [(), ("--cached",)], ids=["augmented", "cached"])
def test_probe_reports_the_last_and_the_best_epoch(run: Run, flags: tuple[str, ...]) -> None:
    arguments = ("--probe", "sgd", "--pixels", "--opts", "epochs=3", "lr=0.1", "batch_size=30", *flags)
    assert run(*arguments) == 0
    last, best = _results()
    assert (last.task, last.metric, best.metric) == ("probe", "accuracy", "best_accuracy")
    assert last.protocol == ("sgd-sample, cached features" if flags else "sgd-sample")
    assert best.value == max(last.details["accuracy"]) >= last.value == last.details["accuracy"][-1]
    stored = np.load(Path("runs/linear", last.details["predictions"]))
    assert np.mean(stored["labels"] == stored["predicted"]) == pytest.approx(last.value)
    assert np.mean(stored["labels"] == stored["best_predicted"]) == pytest.approx(best.value)
    before = Path("runs/linear/results.jsonl").read_bytes()
    assert run(*arguments) == 0
    assert run(*arguments, "--accumulate", "2") == 0  # the same protocol: finished already
    assert Path("runs/linear/results.jsonl").read_bytes() == before


def test_probe_with_and_without_augmentation_are_two_protocols(run: Run) -> None:
    short = ("--probe", "sgd", "--pixels", "--opts", "epochs=1", "batch_size=30")
    assert run(*short) == run(*short, "--cached") == 0
    assert len({(result.protocol, result.protocol_hash) for result in _results()}) == 2


# --- the published weight decays ---


@pytest.mark.usefixtures("twin_sizes")
def test_chosen_decays_are_compared_with_the_published_ones(
    run: Run, benchmark: Benchmark, twin_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ("--ckpt", str(benchmark.checkpoint), "--features", str(benchmark.features))
    arguments = ("--dataset", "dtd", "pets", "--data-root", str(twin_root), *known)
    assert run(*arguments, "--knn", "3", "--solver", "sklearn") == 0
    assert run(*arguments, "--knn", "3", "--verify", "byol") == 0  # the k-NN is there already, and is no weight decay
    printed = capsys.readouterr().out
    table = printed[printed.index("weight decays, ours and the published ones of byol") :]
    row = next(line for line in table.splitlines() if "pets" in line)
    assert "0.562" in row  # C = 10^(1/4)
    ours = next(result for result in _results() if (result.dataset, result.protocol) == ("pets", "ericsson-path"))
    assert f"{ours.details['weight_decay']:.3g}" in row


# --- what is refused ---


def test_default_checkpoint_is_the_newest_runs_and_is_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, older = (_save(tmp_path / "runs" / name / "checkpoint.safetensors") for name in ("first", "second"))
    os.utime(older, (1, 1))
    assert run("--dry-run") == 0
    printed = capsys.readouterr().out
    assert str(newest.relative_to(tmp_path)) in printed
    assert str(older.relative_to(tmp_path)) not in printed
    assert sha256(newest)[:12] in printed


def test_dry_run_states_the_plan_and_writes_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--pixels", "--ckpt", "random:resnet18", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "sample: 90 training and 60 test images; native-path (" in printed
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
        (("--dataset", "dtd", "--pixels", "--data-root", "nowhere"), "DTD, partition 1 (Cimpoi et al. 2014) not found"),
        (("--all", "--dataset", "dtd"), "argument --dataset: not allowed with argument --all"),
        (("--device", "tpu9", "--pixels"), "--device tpu9 cannot be used"),
        (("--pixels", "--knn", "91"), "sample: expected at least 91 training images for 91-NN, got 90"),
        (("--pixels", "--knn", "0"), "--knn: expected 1 or more, got 0"),
        (("--pixels", "--solver-memory", "0"), "--solver-memory: expected more than 0 GiB, got 0"),
        (("--pixels", "--cached"), "--cached belongs to --probe sgd; leave it out of --probe logistic"),
        (("--pixels", "--probe", "sgd", "--solver-memory", "1"), "--solver-memory belongs to --probe logistic"),
        (
            ("--pixels", "--probe", "sgd", "--dataset", "digits"),
            "there is no SGD probe for 'digits'; choose from: cifar10",
        ),
        (("--pixels", "--probe", "sgd", "--opts", "epoch=3"), "did you mean 'epochs'?"),
        (("--pixels", "--verify", "moco-v3"), "unknown checkpoint to verify 'moco-v3'; did you mean 'moco-v2'?"),
        (
            ("--pixels", "--verify", "byol"),
            "--verify compares one checkpoint on the benchmark's sets by --protocol ericsson",
        ),
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


@pytest.mark.usefixtures("twin_sizes")
def test_checkpoint_of_other_views_than_the_protocols_is_refused(
    run: Run, twin_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = _save(tmp_path / "a.safetensors")
    arguments = ("--dataset", "dtd", "--data-root", str(twin_root), "--ckpt", str(checkpoint))
    assert run(*arguments) == 2
    message = "trained on views of 32 px, and the protocol shows 224 px; use --protocol native, or a checkpoint of that"
    assert message in capsys.readouterr().err
    assert run(*arguments, "--protocol", "native") == 0


@pytest.mark.usefixtures("twin_sizes")
def test_neighbours_of_several_labels_are_refused(
    run: Run, twin_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dataset", "voc2007", "--data-root", str(twin_root), "--pixels", "--knn", "3") == 2
    assert "k-NN expects one class per image, and voc2007 has several" in capsys.readouterr().err


@pytest.mark.usefixtures("twin_sizes")
def test_solver_that_may_not_have_what_it_needs_says_how_much_that_is(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--pixels", "--solver-memory", "0.001") == 2
    errors = capsys.readouterr().err
    assert "raise --solver-memory" in errors
    assert errors.count("\n") == 1


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
