"""The command from checkpoint to numbers and pictures, on an excerpt in ADE20K's layout, and what it refuses."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from converters.checkpoint import save
from converters.errors import InputError
from tests.test_transfer_detection_proof import trained_like
from transfer import sample_data
from transfer.results import Result, read
from transfer.segmentation import main
from transfer.segmentation_metrics import Confusions
from transfer.segmentation_training import last_state, read_state

COMMAND = Path(__file__).parents[1] / "transfer" / "segmentation.py"
NUM_TRAIN, NUM_VAL = 12, 11  # one more than the pictures show

# small and few, so that seconds are enough; schedule, losses, norms, scales and all the rest are the protocol's
SMALL = (
    *("model.decode_head.channels=16", "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"),
    *("test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"),
    "train_dataloader.dataset.pipeline.2.scales=[(96,64),(160,96)]",
    *(f"test_dataloader.dataset.pipeline.1.transforms.0.{at}.scale=({32 + 16 * at},{32 + 8 * at})" for at in range(5)),
    *("train_cfg.max_iters=6", "param_scheduler.0.end=6", "default_hooks.checkpoint.interval=2"),
)
ADE = ("--dataset", "ade20k", "--excerpt", "--data-root", "data", "--device", "cpu")
OUTPUT = Path("runs/segmentation/ade20k-csail")

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(COMMAND))

Run = Callable[..., int]


def _begin_two_processes(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """By torchrun, beside what the test does meanwhile."""
    return subprocess.Popen(
        [sys.executable, *TORCHRUN, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300"},
    )


@dataclass(frozen=True)
class Mistaken:
    """A wrong call of two processes, and its folder."""

    folder: Path
    running: subprocess.Popen[str]


@pytest.fixture(scope="module")
def excerpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in the layout of ADE20K, whose labels are among its 150, and a checkpoint."""
    folder = tmp_path_factory.mktemp("excerpt")
    root = sample_data.sample_root("ade20k", folder / "scenes", num_train=NUM_TRAIN, num_test=NUM_VAL)
    shutil.copytree(root, folder / "data")
    save(trained_like(), folder / "checkpoint.safetensors")
    return folder


@pytest.fixture(scope="module")
def mistaken(excerpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mistaken]:
    """A wrong call of two processes, which begins beside the first run, since that needs one core."""
    folder = tmp_path_factory.mktemp("mistaken")
    (folder / "data").symlink_to(excerpt / "data")
    options = ("--ckpt", str(excerpt / "checkpoint.safetensors"), "--batch-size", "3", "--cfg-options", *SMALL)
    with _begin_two_processes(folder, *ADE, *options) as running:
        yield Mistaken(folder, running)


@pytest.fixture(scope="module")
def finished(excerpt: Path, mistaken: Mistaken) -> tuple[Path, str]:
    """The folder of a run by the papers' protocol, and what it said; not to be changed."""
    command = [sys.executable, str(COMMAND), *ADE, "--ckpt", "checkpoint.safetensors", "--cfg-options", *SMALL]
    done = subprocess.run(
        command, cwd=excerpt, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "300"}
    )
    assert done.returncode == 0, done.stderr
    return excerpt / OUTPUT, done.stdout


@pytest.fixture
def again(finished: tuple[Path, str], run: "Run") -> Path:
    """A copy of the finished run, where the command looks for it."""
    shutil.copytree(finished[0], OUTPUT)
    return OUTPUT


@pytest.fixture
def run(excerpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_pictures: None) -> Run:
    """The command in an empty folder beside the excerpt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    shutil.copytree(excerpt / "data", tmp_path / "data")
    (tmp_path / "checkpoint.safetensors").hardlink_to(excerpt / "checkpoint.safetensors")  # 45 MB, never changed

    def command(*arguments: str, options: tuple[str, ...] = ()) -> int:
        checkpoint = () if "--ckpt" in arguments else ("--ckpt", "checkpoint.safetensors")
        given = ["--cfg-options", *SMALL, *options]
        monkeypatch.setattr(sys, "argv", ["segmentation.py", *arguments, *checkpoint, *given])
        return main()

    return command


@pytest.fixture
def few(run: Run) -> None:
    """Validation by three images: two processes still have unequal shares of them."""
    for path in Path("data").glob("ADEChallengeData2016/*/validation/*"):
        if int(path.stem[-8:]) > 3:
            path.unlink()


def _results(output: str | Path = OUTPUT) -> list[Result]:
    results, problems = read(Path(output) / "results.jsonl")
    assert not problems
    return results


def _final(output: str | Path = OUTPUT, iterations: int = 6) -> dict[str, torch.Tensor]:
    return read_state(Path(output) / f"iter_{iterations}.pth")["state_dict"]  # type: ignore[no-any-return]


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_run_says_what_it_has_proven_and_is_going_to_do(finished: tuple[Path, str]) -> None:
    output, printed = finished
    assert "certificate: 120 tensors equal the original's" in printed
    assert re.search(r"loaded: 120 of 120 tensors of the backbone, bit for bit, sha256 [0-9a-f]{12}", printed)
    assert "stem: one 7x7 convolution of 64 channels" in printed
    assert "trains of the backbone: 60 tensors" in printed
    assert "pixels: RGB, mean [123.675, 116.28, 103.53], deviation [58.395, 57.12, 57.375] of 0..255" in printed
    assert "expected: " in printed
    assert f"protocol: csail, options, excerpt ({_results(output)[0].protocol_hash})" in printed
    assert "6 iterations of 2 images on 1 cpu process(es), 1.0 passes over 12 images" in printed
    assert "SyncBN is BN in a single process" in printed
    assert "mmengine" not in printed.split("expected: ")[1], "the engine's log stays in its file"
    assert list(output.glob("*/*.log"))


def test_numbers_of_the_papers_protocol_are_recorded_with_all_that_decides_them(finished: tuple[Path, str]) -> None:
    output, _ = finished
    results = _results(output)
    assert [result.metric for result in results] == ["mIoU", "aAcc", "mAcc"]
    confusions = Confusions.load(output / "confusions.npz")
    for result in results:
        assert (result.task, result.dataset, result.split) == ("segmentation", "ade20k", "validation")
        assert (result.num_examples, result.details["iterations"]) == (NUM_VAL, 6)
        assert result.details["cfg_options"] == list(SMALL)
        assert result.interval[0] <= result.value <= result.interval[1]
        assert result.value == confusions.values()[result.metric]
        assert result.details["majority"] == confusions.majority()[result.metric]
        assert "onedl-mmsegmentation" in result.versions
        assert result.details["proof"][0].startswith("certificate: ")
    assert set(results[0].details["per_class_iou_accuracy"]) >= {"wall", "flag"}


def test_run_leaves_classes_predictions_pictures_and_curves(finished: tuple[Path, str]) -> None:
    output, _ = finished
    with (output / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 150
    assert sum(float(row["share_of_pixels"]) for row in rows) == pytest.approx(1, abs=1e-3)
    names = [path.name for path in sorted((output / "predictions").iterdir())]
    assert names == [f"ADE_val_{number:08}.png" for number in range(1, 11)]
    with Image.open(output / "predictions" / names[0]) as image:
        assert image.mode == "L"
        assert image.size in ((192, 144), (144, 192))
        assert np.asarray(image).min() >= 1
    for name in ("segmentations.png", "curves.png"):
        with Image.open(output / name) as image:
            assert np.asarray(image.convert("L")).std() > 1, f"{name} is blank"
    assert list(output.glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [5]
    assert {"loss", "acc_seg", "lr", "seconds"} <= lines[0].keys()


def test_everything_trains_by_the_protocol_and_only_the_heads_on_a_frozen_backbone(run: Run, again: Path) -> None:
    short = ("train_cfg.max_iters=2", "param_scheduler.0.end=2")
    assert run(*ADE, "--protocol", "frozen", "--output", "frozen", options=short) == 0
    for output, iterations, trains in ((again, 6, True), (Path("frozen"), 2, False)):
        before = torch.load(output / "backbone.pth", weights_only=True)["state_dict"]
        after = _final(output, iterations)
        assert len(before) == 120
        assert {torch.equal(before[name], after[name]) for name in before} == {not trains}


def _start(folder: Path, output: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(COMMAND), *ADE, "--ckpt", "checkpoint.safetensors", "--output", output]
    return subprocess.Popen([*command, "--cfg-options", *SMALL, *options], cwd=folder, stdout=subprocess.DEVNULL)


def _kill_at_its_first_state(process: subprocess.Popen[bytes], output: Path) -> int:
    while process.poll() is None and not (output / "last_checkpoint").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return process.wait()


@pytest.mark.usefixtures("few")
def test_killed_run_that_is_resumed_ends_where_an_unbroken_one_does(run: Run, tmp_path: Path) -> None:
    """Killed by the system when its first state is there; weights, numbers and metrics are the unbroken run's.

    With dropout, whose random numbers must be found again as well.
    """
    options = ("train_cfg.max_iters=24", "param_scheduler.0.end=24", "model.decode_head.dropout_ratio=0.1")
    process = _start(tmp_path, "broken", *options)
    options += ("default_hooks.checkpoint.interval=24",)  # no more states than are looked at
    with ThreadPoolExecutor() as beside:  # the unbroken run, while the other one comes to its end
        killed = beside.submit(_kill_at_its_first_state, process, tmp_path / "broken")
        assert run(*ADE, "--output", "whole", options=options) == 0
        assert killed.result() == -signal.SIGKILL
    assert not (tmp_path / "broken" / "iter_24.pth").exists()
    assert run(*ADE, "--output", "broken", "--resume", options=options) == 0
    assert _equal(_final("broken", 24), _final("whole", 24))
    broken, whole = _results("broken"), _results("whole")
    assert [(result.metric, result.value) for result in broken] == [(result.metric, result.value) for result in whole]
    lines = [
        [json.loads(line) for line in (Path(name) / "metrics.jsonl").read_text().splitlines()]
        for name in ("broken", "whole")
    ]
    timeless = [[{k: v for k, v in line.items() if k != "seconds"} for line in some] for some in lines]
    assert timeless[0] == timeless[1]
    assert [line["iteration"] for line in lines[0]] == [19, 23]


@pytest.mark.usefixtures("few")
def test_heads_start_alike_whatever_stands_below_them(run: Run) -> None:
    """A certificate, which a control has none of, draws random numbers; a rate of 0 leaves the first weights."""
    still = ("optim_wrapper.optimizer.lr=0.0", "train_cfg.max_iters=1", "param_scheduler.0.end=1")
    for checkpoint in ("checkpoint.safetensors", "random:resnet18"):
        assert run(*ADE, "--seed", "1", "--ckpt", checkpoint, "--output", f"{checkpoint}-run", options=still) == 0
    one, other = (_final(f"{output}-run", 1) for output in ("checkpoint.safetensors", "random:resnet18"))
    heads = [name for name in one if name.startswith("decode_head.") and "running" not in name]
    assert all(torch.equal(one[name], other[name]) for name in heads)
    assert not torch.equal(one["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_finished_run_is_validated_again_and_not_recorded_twice(
    run: Run, again: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, trained = _results(), _final()
    for flag in ("--eval-only", "--resume"):
        assert run(*ADE, flag) == 0
        assert _results() == first
        assert _equal(_final(), trained)
    before = {name: (OUTPUT / name).read_bytes() for name in ("confusions.npz", "classes.csv", "segmentations.png")}
    (OUTPUT / "last_checkpoint").write_text("elsewhere/iter_4.pth")  # as if the folder had been moved
    assert run(*ADE, "--eval-only") == 0
    unfinished = _results()[len(first) :]
    assert {each.protocol for each in unfinished} == {"csail, options, excerpt, unfinished: iteration 4 of 6"}
    assert not {each.protocol_hash for each in unfinished} & {each.protocol_hash for each in first}
    assert unfinished[0].details["confusions"] == f"validation-{unfinished[0].protocol_hash}/confusions.npz"
    assert (OUTPUT / unfinished[0].details["confusions"]).is_file()
    assert {name: (OUTPUT / name).read_bytes() for name in before} == before, (
        "a second validation replaces no first one"
    )
    capsys.readouterr()


def test_segmentor_learns_the_sample_which_an_untrained_one_does_not_know(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of the sample's iterations, by its own protocol: what all of them reach stands in the README."""
    sizes = sample_data.sample_root.__kwdefaults__
    assert sizes == {"num_train": sample_data.NUM_TRAIN, "num_test": sample_data.NUM_TEST}
    monkeypatch.setitem(sizes, "num_train", 320)  # each is shown once
    monkeypatch.setitem(sizes, "num_test", 80)
    options = ["train_cfg.max_iters=40", "param_scheduler.0.end=40"]
    arguments = ["--ckpt", "checkpoint.safetensors", "--device", "cpu", "--output", "out"]
    monkeypatch.setattr(sys, "argv", ["segmentation.py", *arguments, "--cfg-options", *options])
    shutil.rmtree("data")
    assert main() == 0
    printed = capsys.readouterr().out
    assert "ADE20K NOT FOUND in data/: the SAMPLE SCENES in its place" in printed
    assert "it says nothing about any other data" in printed
    [miou, *_] = _results("out")
    assert (miou.dataset, miou.num_examples) == ("sample", 80)
    assert miou.interval[0] > miou.details["majority"]


TEST_SCALE = "test_dataloader.dataset.pipeline.1.scale=(96,64)"

# what makes two processes compute what one does: GroupNorm or frozen norms, a loss over all pixels of equal crops
EQUAL = (
    *("model.decode_head.norm_cfg._delete_=True", "model.decode_head.norm_cfg.type=GN"),
    *("model.decode_head.norm_cfg.num_groups=4", "model.decode_head.dropout_ratio=0"),
    *("model.auxiliary_head.norm_cfg._delete_=True", "model.auxiliary_head.norm_cfg.type=GN"),
    *("model.auxiliary_head.norm_cfg.num_groups=4", "model.auxiliary_head.dropout_ratio=0"),
    *("model.backbone.norm_cfg.type=BN", "model.backbone.norm_eval=True", "model.backbone.frozen_stages=4"),
    *("model.auxiliary_head.channels=16", "model.data_preprocessor.size=(64,64)"),
    *("train_dataloader.dataset.pipeline.2.scale=(192,144)", "train_dataloader.dataset.pipeline.3.crop_size=(64,64)"),
    TEST_SCALE,
)
LIKE_MMSEG = tuple(each for each in SMALL if "pipeline" not in each)
SHORT = (*ADE, "--protocol", "short", "--batch-size", "2")


@pytest.mark.usefixtures("few")
def test_two_processes_train_one_segmentor_and_share_the_validation(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SHORT, "--ckpt", "checkpoint.safetensors"]
    options = ["--cfg-options", *LIKE_MMSEG, *EQUAL]
    monkeypatch.setattr(sys, "argv", ["segmentation.py", *arguments, "--output", "one", *options])
    with _begin_two_processes(tmp_path, *arguments, "--output", "two", *options) as running:
        assert main() == 0
        printed, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert printed.count("per cent [95 % interval") == 1
    assert "6 iterations of 2 images on 2 cpu process(es)" in printed
    one, two = _final("one"), _final("two")
    assert one.keys() == two.keys()
    assert max(float((one[name].float() - two[name].float()).abs().max()) for name in one) < 1e-5
    assert two["decode_head.conv_seg.bias"].any(), "nothing was trained"  # it starts at 0
    # one process validates the detector of two, on all the images, and comes to the same numbers
    values = [result.value for result in _results("two")]
    (tmp_path / "two" / "results.jsonl").unlink()
    monkeypatch.setattr(sys, "argv", ["segmentation.py", *arguments, "--output", "two", "--eval-only", *options])
    assert main() == 0
    assert [result.value for result in _results("two")] == values
    assert {result.details["processes"] for result in _results("two")} == {2}, "which have trained it"
    # the same segmentor, validated in another way, is another protocol's number and leaves the first one's matrices
    before = {path: path.read_bytes() for path in Path("two").glob("*.*") if path.name != "results.jsonl"}
    arguments += ["--output", "two", "--eval-only", "--tta", *options]
    monkeypatch.setattr(sys, "argv", ["segmentation.py", *(each for each in arguments if each != TEST_SCALE)])
    assert main() == 0
    protocols = [result.protocol for result in _results("two") if result.metric == "mIoU"]
    assert protocols == ["short, batch 2, options, excerpt", "short, batch 2, tta, options, excerpt"]
    assert len({result.protocol_hash for result in _results("two")}) == 2
    assert {path: path.read_bytes() for path in before} == before
    assert (Path("two") / _results("two")[-1].details["confusions"]).is_file()
    assert _results("two")[-1].details["confusions"] != "confusions.npz"


def test_mistake_in_two_processes_is_told_once(mistaken: Mistaken) -> None:
    _, errors = mistaken.running.communicate(timeout=300)
    assert mistaken.running.returncode != 0
    assert errors.count("error: expected a batch that 2 processes can share, got 3") == 1
    assert not (mistaken.folder / "runs").exists()


def test_dry_run_proves_and_leaves_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*ADE, "--dry-run") == 0
    assert "the segmentor's four stages differ from the checkpoint's" in capsys.readouterr().out
    assert not Path("runs").exists()


def _remove(path: str) -> Callable[[], None]:
    return lambda: Path(path).unlink()


def _annotate(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], None]:
    def damage() -> None:
        with Image.open(ANNOTATION) as image:
            labels = np.array(image)
        Image.fromarray(change(labels)).save(ANNOTATION)

    return damage


ANNOTATION = "data/ADEChallengeData2016/annotations/training/ADE_train_00000001.png"
IMAGE = "data/ADEChallengeData2016/images/training/ADE_train_00000001.jpg"


@pytest.mark.parametrize(
    ("damage", "arguments", "options", "message"),
    [
        (lambda: shutil.rmtree("data"), (), (), "ADEChallengeData2016"),
        (_remove(IMAGE), (), (), "ADE_train_00000001"),
        (_remove(ANNOTATION), (), (), "ADE_train_00000001"),
        (_annotate(lambda labels: labels[:-1]), (), (), "ADE_train_00000001"),
        (_annotate(lambda labels: labels + 150), (), (), "ADE_train_00000001"),
        (None, ("--ckpt", "nowhere.pth"), (), "nowhere.pth"),
        (None, ("--ckpt", "random:resnet18_cifar"), (), "7x7 stem"),
        (None, ("--protocol", "csial"), (), "unknown protocol of ade20k 'csial'; did you mean 'csail'"),
        (None, ("--amp",), (), "--amp needs a GPU"),
        (None, ("--tta",), (), "--tta"),
        (None, ("--batch-size", "0"), (), "--batch-size: expected 1 or more, got 0"),
        (None, ("--seed", "-1"), (), "--seed: expected 0 or more, got -1"),
        (None, ("--resume",), (), "no run in .*ade20k-csail: expected"),
        (None, ("--eval-only",), (), "no run in .*ade20k-csail: expected"),
        (None, ("--resume", "--eval-only"), (), "give one of them"),
        (None, ("--dry-run", "--eval-only"), (), "--dry-run checks a new run; leave out"),
        (None, ("--dataset", "sample"), (), "--excerpt belongs to --dataset ade20k"),
        (None, (), ("model.backbone.type=ResNetV1c",), "stem"),
        (None, (), ("model.decode_head.chanels=3",), "chanels"),
        (None, (), ("model.decode_head.in_index=[0,1,2]",), r"cannot use .* \(AssertionError\)"),
        (None, (), ("model.test_cfg.mode=slide",), "cannot use .* 'stride'"),
        (None, (), ("train_dataloader.num_workers=-1",), "num_workers option should be non-negative"),
        (None, (), ("test_dataloader.dataset.pipeline.0.color_type=grayscale",), "the same reading of images in"),
        (None, ("--batch-size", "1"), (), r"expected at least 2 images for a batch norm \(SyncBN\) in 1 process"),
        (None, ("--compare", "one", "two"), (), "leave out --dataset, --ckpt, .*--cfg-options"),
        (None, (), ("optim_wraper.optimizer.lr=3",), "optim_wraper"),
        (None, (), ("optim_wrapper.optimizer.lr=1e12",), r"training diverged in iteration \d .* with a lower rate: "),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[], None] | None,
    arguments: tuple[str, ...],
    options: tuple[str, ...],
    message: str,
) -> None:
    if damage:
        damage()
    assert run(*ADE, *arguments, options=options) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


def test_official_data_set_of_another_size_is_refused_without_being_asked_for(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(each for each in ADE if each != "--excerpt")) == 2
    assert "20210" in capsys.readouterr().err.replace(",", "")


def test_folder_of_another_run_is_refused_and_left_alone(
    run: Run, again: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in OUTPUT.iterdir() if path.name != "run.lock"}
    for arguments, options, message in (
        ((), (), "is not empty ("),
        (("--resume", "--seed", "1"), (), "holds another run: seed is 0 there and 1 here"),
        (("--eval-only",), ("model.decode_head.pool_scales=(1,2)",), "holds another run: "),
        (("--resume", "--ckpt", "random:resnet18"), (), "holds another run: checkpoint is "),
    ):
        capsys.readouterr()
        assert run(*ADE, *arguments, options=options) == 2
        assert message in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in OUTPUT.iterdir() if path.name != "run.lock"} == before


def test_kill_between_a_state_and_its_note_loses_nothing(tmp_path: Path) -> None:
    """MMEngine empties its note and fills it again, behind a state that is whole; a kill can fall between."""
    for name in ("iter_5000.pth", "iter_10000.pth", "last_checkpoint"):
        (tmp_path / name).touch()
    assert last_state(tmp_path) == tmp_path / "iter_10000.pth"
    (tmp_path / "last_checkpoint").write_text("/elsewhere/iter_5000.pth")
    assert last_state(tmp_path) == tmp_path / "iter_5000.pth", "a filled note counts, also an older one"
    (tmp_path / "last_checkpoint").write_text("")
    for state in tmp_path.glob("iter_*.pth"):
        state.unlink()
    with pytest.raises(InputError, match="last_checkpoint is empty and no state lies beside it; start again"):
        last_state(tmp_path)


def test_damaged_state_is_named_with_the_one_to_fall_back_on(
    run: Run, again: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = OUTPUT / "iter_6.pth"
    final.write_bytes(final.read_bytes()[:1000])
    capsys.readouterr()
    for flag in ("--eval-only", "--resume"):
        assert run(*ADE, flag) == 2
        error = capsys.readouterr().err
        assert f"{final} is damaged" in error
        assert "iter_4.pth" in error
    (OUTPUT / "last_checkpoint").write_text("iter_4.pth")
    assert run(*ADE, "--eval-only") == 0
