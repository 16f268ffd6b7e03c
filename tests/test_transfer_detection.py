"""The command from checkpoint to numbers and pictures, on excerpts in the official layouts, and what it refuses."""

import io
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
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from converters.checkpoint import save
from converters.targets import quiet
from tests.test_transfer_detection_proof import trained_like
from transfer import sample_data
from transfer.detection import main
from transfer.results import Result, read
from transfer.tasks.voc2007 import CLASSES as VOC_CLASSES

with quiet():
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

COMMAND = Path(__file__).parents[1] / "transfer" / "detection.py"
NUM_TRAIN, NUM_TEST = 12, 6

# small and few, so that seconds are enough, and so low a threshold that there are detections; FREEZE_AT, batch norms,
# evaluation and all the rest are the protocol's
SMALL = (
    *("INPUT.MIN_SIZE_TRAIN", "(64,96)", "INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50"),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "20", "MODEL.ROI_BOX_HEAD.FC_DIM", "64"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.FPN.OUT_CHANNELS", "64"),
    *("SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "(4,)", "SOLVER.WARMUP_ITERS", "2", "SOLVER.CHECKPOINT_PERIOD", "2"),
)
VOC = ("--dataset", "voc", "--voc-train", "07", "--excerpt", "--data-root", "data", "--device", "cpu")

OUTPUT = Path("runs/detection/voc-published")

Run = Callable[..., int]


def _as_voc(devkit: Path) -> None:
    """Give the classes of the scenes the names of VOC's first ten, and make a VOC2012 of the same scenes."""
    for path in (devkit / "VOC2007" / "Annotations").iterdir():
        text = path.read_text()
        for ours, theirs in zip(sample_data.CLASSES, VOC_CLASSES[: len(sample_data.CLASSES)], strict=True):
            text = text.replace(f"<name>{ours}</name>", f"<name>{theirs}</name>")
        path.write_text(text)
    shutil.copytree(devkit / "VOC2007", devkit / "VOC2012")


def _as_coco(folder: Path) -> None:
    """Give the data set COCO's 80 categories; the ids of the scenes' classes are among theirs."""
    for path in (folder / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"] = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
        path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def excerpts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in the layouts of VOC2007, VOC2012 and COCO."""
    folder = tmp_path_factory.mktemp("excerpts")
    for layout, name, convert in (("voc", "VOCdevkit", _as_voc), ("coco", "coco", _as_coco)):
        root = sample_data.sample_root(layout, folder / "scenes", num_train=NUM_TRAIN, num_test=NUM_TEST)
        shutil.copytree(root / name, folder / "data" / name)
        convert(folder / "data" / name)
    save(trained_like(), folder / "checkpoint.safetensors")
    return folder


def _command(excerpts: Path, folder: Path, patch: pytest.MonkeyPatch) -> Run:
    """The command in a folder with the excerpts and nothing else."""
    patch.chdir(folder)
    patch.setenv("COLUMNS", "300")
    patch.delenv("DETECTRON2_DATASETS", raising=False)
    shutil.copytree(excerpts / "data", folder / "data")
    (folder / "checkpoint.safetensors").hardlink_to(excerpts / "checkpoint.safetensors")  # 45 MB that no test changes

    def command(*arguments: str, opts: tuple[str, ...] = ()) -> int:
        checkpoint = () if "--ckpt" in arguments else ("--ckpt", "checkpoint.safetensors")
        patch.setattr(sys, "argv", ["detection.py", *arguments, *checkpoint, "--opts", *SMALL, *opts])
        return main()

    return command


@pytest.fixture
def run(excerpts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_pictures: None) -> Run:
    return _command(excerpts, tmp_path, monkeypatch)


@dataclass(frozen=True)
class Two:
    """A run in two processes of torchrun, and what it printed."""

    output: Path
    printed: str


@dataclass(frozen=True)
class TwoBegun:
    """The same run while it is going on."""

    output: Path
    running: subprocess.Popen[str]


@pytest.fixture(scope="module")
def two_begun(excerpts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoBegun]:
    """That run, which begins beside the first one, since this needs one core."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "data").symlink_to(excerpts / "data")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(COMMAND)]
    output = folder / "two"
    arguments = [*VOC, "--ckpt", str(excerpts / "checkpoint.safetensors"), "--output", "two", "--opts", *SMALL]
    with subprocess.Popen(
        [*launcher, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300"},
    ) as running:
        yield TwoBegun(output, running)


@pytest.fixture(scope="module")
def two(two_begun: TwoBegun) -> Two:
    """One such run for all who go on from there in a copy."""
    printed, errors = two_begun.running.communicate(timeout=300)
    assert two_begun.running.returncode == 0, errors
    return Two(two_begun.output, printed)


@dataclass(frozen=True)
class Published:
    """A run of the protocol that was published for VOC: its output and what it printed."""

    output: Path
    printed: str

    def copy(self) -> Path:
        """The output where the command expects it by default."""
        return Path(shutil.copytree(self.output, OUTPUT))


@pytest.fixture(scope="module")
def published(excerpts: Path, two_begun: TwoBegun, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One run for all who look at what it left, or go on from there in a copy."""
    folder, printed = tmp_path_factory.mktemp("published"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        assert _command(excerpts, folder, patch)(*VOC) == 0
    return Published(folder / OUTPUT, printed.getvalue())


def _results(output: str | Path = OUTPUT) -> list[Result]:
    results, problems = read(Path(output) / "results.jsonl")
    assert not problems
    return results


def _final(output: str | Path) -> dict[str, torch.Tensor]:
    state: dict[str, Any] = torch.load(Path(output) / "model_final.pth", weights_only=True)
    return state["model"]  # type: ignore[no-any-return]


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_voc_is_trained_by_its_protocol_and_tested_by_its_rule(published: Published) -> None:
    results, printed = _results(published.output), published.printed
    assert "trains of the backbone: res5 (5 tensors, 8,388,608 values, FREEZE_AT 4, FrozenBN)" in printed
    assert "pixels: RGB, mean [123.675, 116.28, 103.53], deviation [58.395, 57.12, 57.375] of 0..255" in printed
    assert f"train: voc_2007_trainval, {NUM_TRAIN} images" in printed
    assert f"test: voc_2007_test, {NUM_TEST} images" in printed
    assert "expected: " in printed
    assert f"protocol: published, opts, VOC07, excerpt ({results[0].protocol_hash})" in printed
    assert [result.metric for result in results] == ["AP", "AP50", "AP75"]
    for result in results:
        assert (result.task, result.dataset, result.split) == ("detection", "voc_2007", "test")
        assert (result.protocol, result.num_examples) == ("published, opts, VOC07, excerpt", NUM_TEST)
        assert result.details["train"] == ["voc_2007_trainval"]
        assert result.details["iterations"] == 6
        assert result.details["opts"] == list(SMALL)
        assert result.interval[0] <= result.value <= result.interval[1]
        assert "detectron2" in result.versions
        assert result.details["proof"][0].startswith("certificate: 100 tensors equal")


def test_only_what_the_protocol_trains_changes(published: Published) -> None:
    before = torch.load(published.output / "backbone.pth", weights_only=True)["model"]
    after = _final(published.output)
    changed = {name.split(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"res5"}
    norms = [name for name in before if ".norm." in name]
    assert norms
    assert all(torch.equal(before[name], after[name]) for name in norms)


def test_run_leaves_detections_pictures_curves_and_log(published: Published, excerpts: Path) -> None:
    output = published.output
    found = json.loads((output / "detections_voc_2007_test.json").read_text())
    ids = (excerpts / "data" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt").read_text().split()
    assert {each["image_id"] for each in found} == set(ids)
    assert {each["category_id"] for each in found} <= set(range(1, 21))
    assert all(len(each["bbox"]) == 4 and 0 <= each["score"] <= 1 for each in found)
    for name in ("detections.png", "curves.png"):
        with Image.open(output / name) as image:
            assert np.asarray(image.convert("L")).std() > 1, f"{name} is blank"
    assert "Starting training from iteration 0" in (output / "log.txt").read_text()
    assert "Starting training" not in published.printed
    assert list(output.glob("events.out.tfevents.*"))
    assert json.loads((output / "metrics.json").read_text().splitlines()[-1])["iteration"] == 5


def test_coco_is_tested_by_its_rule(run: Run) -> None:
    assert run("--dataset", "coco", "--excerpt", "--batch-size", "2", "--device", "cpu", "--output", "out") == 0
    results = _results("out")
    assert (
        {"AP", "AP50", "AP75"} <= {result.metric for result in results} <= {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    )
    assert {(result.dataset, result.split) for result in results} == {("coco_2017", "val")}
    assert {result.protocol for result in results} == {"published, batch 2, opts, excerpt"}


def test_voc_trains_on_both_years_unless_told_otherwise(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [each for each in VOC if each not in ("--voc-train", "07")]
    assert run(*arguments, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "protocol: published, opts, VOC07+12, excerpt" in printed
    assert f"over {2 * NUM_TRAIN} images with boxes" in printed
    assert not Path("runs").exists()


def test_data_root_is_that_of_detectron2_where_none_is_given(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("data").rename("elsewhere")
    monkeypatch.setenv("DETECTRON2_DATASETS", "elsewhere")
    arguments = [each for each in VOC if each not in ("--data-root", "data")]
    assert run(*arguments, "--dry-run") == 0


def test_another_seed_is_another_run(published: Published, run: Run) -> None:
    assert run(*VOC, "--output", "other", "--seed", "1") == 0
    assert not _equal(_final(published.output), _final("other"))


def test_detector_learns_the_sample_which_an_untrained_one_does_not_know(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sixth of the sample's iterations, by its own protocol: what all of them reach stands in the README."""
    sizes = sample_data.sample_root.__kwdefaults__
    assert sizes == {"num_train": sample_data.NUM_TRAIN, "num_test": sample_data.NUM_TEST}
    monkeypatch.setitem(sizes, "num_train", 100)  # each is shown four times
    monkeypatch.setitem(sizes, "num_test", 50)
    found = {}
    for iterations in (0, 100):
        arguments = [
            "--ckpt",
            "random:resnet18",
            "--output",
            str(iterations),
            "--device",
            "cpu",
            "--data-root",
            "scenes",
        ]
        opts = ["SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", "(80,)", "SOLVER.WARMUP_ITERS", "20"]
        monkeypatch.setattr(sys, "argv", ["detection.py", *arguments, "--opts", *opts])
        assert main() == 0
        found[iterations] = {(each.dataset, each.metric): each for each in _results(str(iterations))}
    assert "it says nothing about any other data" in capsys.readouterr().out
    for layout in ("sample_voc", "sample_coco"):
        before, after = (found[iterations][layout, "AP50"] for iterations in (0, 100))
        assert before.interval[1] < after.interval[0]
        assert (before.num_examples, after.num_examples) == (50, 50)


def _start(folder: Path, output: str, *arguments: str, opts: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(COMMAND), *VOC, "--ckpt", "checkpoint.safetensors", "--output", output, *arguments]
    return subprocess.Popen([*command, "--opts", *SMALL, *opts], cwd=folder, stdout=subprocess.DEVNULL)


def _kill_at_its_first_state(process: subprocess.Popen[bytes], output: Path) -> int:
    while process.poll() is None and not (output / "last_checkpoint").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def test_killed_run_that_is_resumed_ends_where_an_unbroken_one_does(run: Run, tmp_path: Path) -> None:
    """Killed by the system when its first state is there; weights, numbers and metrics are the unbroken run's."""
    opts = ("SOLVER.MAX_ITER", "24", "SOLVER.STEPS", "(16,)")
    process = _start(tmp_path, "broken", opts=opts)
    opts += ("SOLVER.CHECKPOINT_PERIOD", "24")  # no more states than are looked at
    with ThreadPoolExecutor() as beside:  # the unbroken run, while the other one comes to its end
        killed = beside.submit(_kill_at_its_first_state, process, tmp_path / "broken")
        assert run(*VOC, "--output", "whole", opts=opts) == 0
        assert killed.result() == -signal.SIGKILL
    assert not (tmp_path / "broken" / "model_final.pth").exists()
    assert run(*VOC, "--output", "broken", "--resume", opts=opts) == 0
    assert _equal(_final("broken"), _final("whole"))
    broken, whole = _results("broken"), _results("whole")
    assert [(result.metric, result.value) for result in broken] == [(result.metric, result.value) for result in whole]
    texts = [(Path(name) / "metrics.json").read_text() for name in ("broken", "whole")]
    lines = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert [line["iteration"] for line in lines[0]] == [line["iteration"] for line in lines[1]] == [19, 23]
    # the losses there are medians over 20 iterations, of which those before the kill are not known any more
    assert [line["lr"] for line in lines[0]] == [line["lr"] for line in lines[1]]


def test_unfinished_run_is_not_taken_for_the_protocol(published: Published, run: Run) -> None:
    output = published.copy()
    whole = _results()
    (output / "last_checkpoint").write_text("model_0000003.pth")
    assert run(*VOC, "--eval-only") == 0
    unfinished = _results()[len(whole) :]
    assert {result.protocol for result in unfinished} == {
        "published, opts, VOC07, excerpt, unfinished: iteration 4 of 6"
    }
    assert not {result.protocol_hash for result in unfinished} & {result.protocol_hash for result in whole}
    assert unfinished[0].details["detections"] == "detections_voc_2007_test_4.json"
    assert (output / "detections_voc_2007_test_4.json").is_file()


def test_start_that_was_refused_does_not_block_its_folder(run: Run) -> None:
    assert run(*VOC, opts=("INPUT.FORMAT", "BGR")) == 2
    assert (OUTPUT / "run.json").is_file()
    assert run(*VOC) == 0


def test_finished_run_is_tested_again_and_not_recorded_twice(published: Published, run: Run) -> None:
    published.copy()
    first, trained = _results(), _final(OUTPUT)
    for again in ("--eval-only", "--resume"):
        assert run(*VOC, again) == 0
        assert _results() == first
        assert _equal(_final(OUTPUT), trained)


def test_no_iterations_test_the_untrained_detector(run: Run) -> None:
    assert run(*VOC, opts=("SOLVER.MAX_ITER", "0")) == 0
    results = _results()
    assert {result.details["iterations"] for result in results} == {0}
    assert results[1].metric == "AP50"
    assert results[1].value < 0.05
    assert not (OUTPUT / "model_final.pth").exists()


def test_control_needs_no_certificate_and_is_named(run: Run) -> None:
    assert run(*VOC, "--ckpt", "random:resnet18", "--seed", "3", "--output", "out", opts=("SOLVER.MAX_ITER", "2")) == 0
    [result, *_] = _results("out")
    assert (result.representation, result.checkpoint_sha256, result.seed) == (
        "random initialisation, resnet18",
        None,
        3,
    )


@pytest.fixture
def launch(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command by Detectron2's launcher in two processes, whose output `capfd` has."""
    monkeypatch.setenv("PYTHONWARNINGS", "")
    monkeypatch.delenv("PYTHONWARNINGS")  # the command sets it for its processes, and it is to be undone

    def command(*arguments: str) -> int:
        return run(*VOC, "--num-gpus", "2", *arguments)

    return command


def test_two_processes_train_one_detector_and_share_the_test(two: Two, run: Run) -> None:
    assert two.printed.count("per cent [95 % interval") == 1
    assert "6 iterations of 2 images on 2 cpu process(es)" in two.printed
    results = _results(two.output)
    assert {result.details["processes"] for result in results} == {2}
    # one process tests the same detector, on all the images, and comes to the same numbers
    shutil.copytree(two.output, "two", ignore=shutil.ignore_patterns("results.jsonl"))
    assert run(*VOC, "--output", "two", "--eval-only") == 0
    assert [result.value for result in _results("two")] == [result.value for result in results]


def test_launcher_of_detectron2_trains_what_torchrun_does(two: Two, launch: Run) -> None:
    assert launch("--output", "new") == 0
    assert _equal(_final("new"), _final(two.output))
    assert [result.value for result in _results("new")] == [result.value for result in _results(two.output)]


def test_two_processes_resume_where_those_of_another_launcher_were(two: Two, launch: Run) -> None:
    """Detectron2's after torchrun's, from the state after four of six iterations, which is still there."""
    shutil.copytree(
        two.output, "two", ignore=shutil.ignore_patterns("model_final.pth", "model_0000005.pth", "results*")
    )
    Path("two/last_checkpoint").write_text("model_0000003.pth")
    assert launch("--output", "two", "--resume") == 0
    assert "Starting training from iteration 4" in Path("two/log.txt").read_text()
    assert _equal(_final("two"), _final(two.output))
    assert len(list(Path("two").glob("model_0*.pth"))) == 2, "states of before the kill are cleared away"


def test_mistake_in_processes_of_the_launcher_is_one_line_and_exit_code_2(
    launch: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch("--batch-size", "3") == 2
    errors = capfd.readouterr().err
    assert "expected a batch that 2 processes can share, got 3" in errors
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    assert not Path("runs").exists()


def test_dry_run_of_two_processes_proves_and_leaves_nothing(launch: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch("--dry-run") == 0
    assert capfd.readouterr().out.count("the detector's four stages differ from the checkpoint's") == 1
    assert not Path("runs").exists()


def _remove(path: str) -> Callable[[], None]:
    return lambda: Path(path).unlink()


def _replace(path: str, old: str, new: str) -> Callable[[], None]:
    def damage() -> None:
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new, 1))

    return damage


def _no_boxes() -> None:
    for path in Path("data/VOCdevkit/VOC2007/Annotations").iterdir():
        text = path.read_text()
        path.write_text(text[: text.index("<object>")] + "</annotation>" if "<object>" in text else text)


def _lose(folder: str) -> Callable[[], None]:
    return lambda: shutil.rmtree(folder)


ANNOTATION = "data/VOCdevkit/VOC2007/Annotations/000001.xml"


@pytest.mark.parametrize(
    ("damage", "arguments", "opts", "message"),
    [
        (_lose("data"), (), (), r"VOC.* not found"),
        (_remove("data/VOCdevkit/VOC2007/JPEGImages/000003.jpg"), (), (), "000003.jpg"),
        (_remove(ANNOTATION), (), (), "000001.xml"),
        (_replace(ANNOTATION, "<xmax>", "<xmax>9"), (), (), r"expected a box within 192 x 144 pixels, got \[\d"),
        (_no_boxes, (), (), "expected labelled objects, got none in 12 images"),
        (None, ("--ckpt", "nowhere.pth"), (), "nowhere.pth"),
        (None, ("--ckpt", "random:resnet18_cifar"), (), "no detector for this checkpoint"),
        (None, ("--ckpt", "random:resnet19"), (), "unknown architecture 'resnet19'"),
        (None, ("--protocol", "publishd"), (), "unknown protocol of voc 'publishd'; did you mean 'published'"),
        (None, ("--protocol", "finetune"), (), "SyncBN trains on GPUs only"),
        (None, ("--amp",), (), "--amp needs a GPU"),
        (None, ("--batch-size", "0"), (), "--batch-size: expected 1 or more, got 0"),
        (None, ("--seed", "-1"), (), "--seed: expected 0 or more, got -1"),
        (None, ("--resume",), (), "no run in .*voc-published: expected"),
        (None, ("--eval-only",), (), "no run in .*voc-published: expected"),
        (None, ("--resume", "--eval-only"), (), "give one of them"),
        (None, ("--dry-run", "--eval-only"), (), "--dry-run checks a new run; leave out"),
        (None, ("--dataset", "sample"), (), "--excerpt belongs to --dataset voc and coco"),
        (None, ("--num-gpus", "0"), (), "expected --num-gpus"),
        (None, ("--num-machines", "2"), (), "several machines need --dist-url"),
        (None, ("--num-machines", "2", "--machine-rank", "2"), (), "a --machine-rank below the latter"),
        (None, ("--dist-url", "tcp://here:1"), (), "and one machine has none"),
        (None, ("--num-gpus", "2", "--device", "cuda"), (), "no GPU is visible; --device cpu starts"),
        (None, (), ("INPUT.FORMAT", "BGR"), "the network's backbone does not compute what the checkpoint does"),
        (
            None,
            (),
            ("SOLVER.BASE_LR", "1e12"),
            r"the loss is not finite in iteration \d .* with a lower rate: ",
        ),
        (None, (), ("SOLVER.BASE_RL", "1"), "unknown key of --opts 'SOLVER.BASE_RL'; did you mean 'SOLVER.BASE_LR'"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[], None] | None,
    arguments: tuple[str, ...],
    opts: tuple[str, ...],
    message: str,
) -> None:
    if damage:
        damage()
    assert run(*VOC, *arguments, opts=opts) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


def test_official_data_set_of_another_size_is_refused_without_being_asked_for(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(each for each in VOC if each != "--excerpt")) == 2
    assert "expected 5011" in capsys.readouterr().err.replace(",", "")


def test_folder_of_another_run_is_refused_and_left_alone(
    published: Published, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    output = published.copy()
    before = {path: path.stat().st_mtime_ns for path in output.iterdir() if path.name != "run.lock"}
    for arguments, opts, message in (
        ((), (), "is not empty (curves.png, "),
        (("--resume", "--seed", "1"), (), "holds another run: SEED is 0 there and 1 here"),
        (("--eval-only",), ("INPUT.FORMAT", "BGR"), "INPUT.FORMAT is 'RGB' there and 'BGR' here"),
        (("--eval-only",), ("MODEL.BACKBONE.FREEZE_AT", "5"), "MODEL.BACKBONE.FREEZE_AT is 4 there and 5 here"),
        (("--resume", "--ckpt", "random:resnet18"), (), "holds another run: checkpoint is "),
    ):
        capsys.readouterr()
        assert run(*VOC, *arguments, opts=opts) == 2
        assert message in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in output.iterdir() if path.name != "run.lock"} == before


def test_damaged_state_is_named_with_the_one_to_fall_back_on(
    published: Published, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    output = published.copy()
    final = output / "model_final.pth"
    final.write_bytes(final.read_bytes()[:1000])
    capsys.readouterr()
    assert run(*VOC, "--eval-only") == 2
    error = capsys.readouterr().err
    assert f"{final} is damaged" in error
    assert "model_0000005.pth" in error
    (output / "last_checkpoint").write_text("model_0000005.pth")
    assert run(*VOC, "--eval-only") == 0
