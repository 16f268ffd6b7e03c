"""Finished runs side by side: their numbers against the confusion matrices, the joint figure, and what is refused."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from converters.errors import InputError
from tests.test_transfer_segmentation_pictures import CELL, CLASSES, PALETTE, PITCH, column, has_colour, shown_scenes
from transfer import sample_data
from transfer.results import Result, append
from transfer.segmentation import main
from transfer.segmentation_comparison import compare
from transfer.segmentation_metrics import Confusions, confusion

Pixels = npt.NDArray[np.uint8]

NUM_IMAGES, NUM_SHOWN = 12, 10
SETTINGS = {"batch_size": 2, "train_cfg": {"max_iters": 6}, "param_scheduler": [{"power": 0.9}]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_data.sample_root("ade20k", tmp_path_factory.mktemp("scenes"), num_train=1, num_test=NUM_IMAGES)


def guessed(truth: Pixels, label: int, share: float, draw: np.random.Generator) -> Pixels:
    """Predictions that are right but for rows of pixels that are taken for `label`."""
    predicted = np.maximum(truth, 1)
    predicted[draw.random(len(truth)) < share] = label
    return predicted


def write_run(folder: Path, scenes: Path, label: int, share: float) -> None:
    """What a run leaves that takes a share of the rows of pixels for a class."""
    everything, draw = shown_scenes(scenes, NUM_IMAGES), np.random.default_rng(label)
    cells = []
    (folder / "predictions").mkdir(parents=True)
    for index, (name, annotation) in enumerate(zip(everything.names, everything.annotations, strict=True)):
        with Image.open(annotation) as image:
            truth = np.asarray(image)
        predicted = guessed(truth, label, share, draw)
        cells.append(confusion(truth - 1, predicted - 1, len(CLASSES)))  # unlabelled, 0, becomes 255
        if index < NUM_SHOWN:
            Image.fromarray(predicted).save(folder / "predictions" / f"{name}.png")
    confusions = Confusions.of(cells, everything.names, len(CLASSES))
    confusions.save(folder / "confusions.npz")
    shown_scenes(scenes, NUM_SHOWN).write(folder / "shown.json")
    (folder / "run.json").write_text(json.dumps({"model": {"decode_head": {"type": "UPerHead"}}, "seed": 0}))
    append([_result(name, value, label) for name, value in confusions.values().items()], folder / "results.jsonl")


def _result(metric: str, value: float, seed: int) -> Result:
    return Result(
        task="segmentation",
        dataset="sample",
        split="validation",
        protocol="sample",
        protocol_hash="0123456789ab",
        metric=metric,
        value=value,
        unit="share",
        num_examples=NUM_IMAGES,
        interval=(0.0, 1.0),
        representation="simsiam, resnet18",
        checkpoint_sha256=None,
        seed=seed,
        details={
            **{"iterations": 6, "run_seed": 7, "confusions": "confusions.npz", "data": ["aaaa", "bbbb"]},
            "settings": SETTINGS,
        },
        seconds=1.0,
        versions={},
    )


@pytest.fixture(scope="module")
def written(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    for name, label, share in (("good", 2, 0.1), ("bad", 3, 0.5), ("worse", 4, 0.8)):
        write_run(folder / name, scenes, label, share)
    return folder


@pytest.fixture
def runs(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    """Folders of three runs, of which the first is the best, in the current folder."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Path("good"), Path("bad"), Path("worse")


def _cell(value: float, interval: tuple[float, float], form: str) -> tuple[str, str]:
    low, high = interval
    return format(100 * value, form), f"[{format(100 * low, form)}, {format(100 * high, form)}]"


def _rows(printed: str) -> list[list[str]]:
    """Cells of the table's lines."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]


def test_table_holds_values_intervals_and_paired_differences_of_the_matrices(
    runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(runs, Path("picture.png")) == 0
    printed = capsys.readouterr().out
    rows = _rows(printed)
    all_confusions = [Confusions.load(run / "confusions.npz") for run in runs]
    names = ("mIoU", "aAcc", "mAcc")
    for number, confusions in enumerate(all_confusions, 1):
        [at] = [index for index, row in enumerate(rows) if row[0].startswith(f"{number}: ")]
        values, intervals = confusions.values(), confusions.intervals()
        cells = [_cell(values[name], intervals[name], ".1f") for name in names]
        assert [row[1:] for row in rows[at : at + 2]] == [list(line) for line in zip(*cells, strict=True)]
        if number > 1:
            differences = confusions.difference(all_confusions[0])
            cells = [_cell(differences[name].value, differences[name][1:], "+.2f") for name in names]
            assert rows[at + 2][0] == f"{number} less 1"
            assert [row[1:] for row in rows[at + 2 : at + 4]] == [list(line) for line in zip(*cells, strict=True)]
            assert rows[at + 2][1].startswith("-"), "the first run is the best"
    assert "1: simsiam, resnet18, seed 2; trained with seed 7 (good)" in printed
    assert "sample validation, sample (0123456789ab), per cent [95 % interval]" in printed
    assert printed.count("Intervals are over the validation images, with training held fixed") == 1
    assert printed.count("it says nothing about any other data") == 1
    assert "says mIoU" not in printed


def test_one_run_alone_is_compared_with_nothing(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(runs[:1], Path("picture.png")) == 0
    assert "less" not in capsys.readouterr().out
    assert Path("picture.png").is_file()


def test_narrow_terminal_keeps_every_number_and_name(
    runs: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _changed(runs[1], representation="barlow-twins-of-a-very-long-name, resnet50")
    assert compare(runs, Path("picture.png")) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert len(re.findall(r"\[\d+\.\d, \d+\.\d\]", printed)) == 9
    assert len(re.findall(r"\[[+-]\d+\.\d\d, [+-]\d+\.\d\d\]", printed)) == 6


def test_every_run_has_its_own_column_even_two_of_one_name(runs: tuple[Path, ...]) -> None:
    """Such columns had the same title, and one of them was lost."""
    for place, run in zip(("a", "b"), runs[1:], strict=True):
        shutil.move(run, Path(place, "same"))
    for path in Path("b/same/results.jsonl"), Path("a/same/results.jsonl"):
        path.write_text(path.read_text().replace('"seed": 4', '"seed": 3'))
    assert compare([Path("good"), Path("a/same"), Path("b/same")], Path("picture.png")) == 0
    with Image.open("picture.png") as image:
        picture = np.asarray(image.convert("RGB"))
    assert picture.shape[1] == 5 * PITCH + 6
    added = [[has_colour(column(picture, at), PALETTE[label - 1]).sum() for label in (2, 3, 4)] for at in (2, 3, 4)]
    assert np.argmax(added, axis=0).tolist() == [0, 1, 2]
    assert np.diag(added).min() > CELL * 100


def test_names_are_printed_as_they_are(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    odd = Path("x[red]y[").resolve()
    shutil.move(runs[0], odd)
    assert compare([odd], Path("picture.png")) == 0
    assert "trained with seed 7 (x[red]y[)" in capsys.readouterr().out


def test_number_that_a_later_validation_has_changed_is_told(
    runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    _changed(runs[1], value=0.123456)
    assert compare(runs, Path("picture.png")) == 0
    assert re.search(
        r"Run 2: results.jsonl says mIoU 12.3456, its last validation, which counts here, \d", capsys.readouterr().out
    )


def _changed(run: Path, **changes: Any) -> None:
    """Change results of a run; a name with two underscores is of the details."""
    path = run / "results.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for name, value in changes.items():
            where, key = (record["details"], name.removeprefix("details__")) if "__" in name else (record, name)
            assert where[key] != value
            where[key] = value
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_other_data_than_the_sample_is_not_called_the_sample(
    runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for run in runs:
        _changed(run, dataset="ade20k")
    assert compare(runs, Path("picture.png")) == 0
    assert "sample says" not in capsys.readouterr().out


def _other_images(run: Path) -> None:
    confusions = Confusions.load(run / "confusions.npz")
    names = ("elsewhere", *confusions.names[1:])
    Confusions(names, **{k: v for k, v in asdict(confusions).items() if k != "names"}).save(run / "confusions.npz")


def _other_classes(run: Path) -> None:
    content = json.loads((run / "shown.json").read_text())
    content["classes"][4] = "house"
    (run / "shown.json").write_text(json.dumps(content))


def _reordered_classes(run: Path) -> None:
    content = json.loads((run / "shown.json").read_text())
    content["classes"].reverse()
    (run / "shown.json").write_text(json.dumps(content))


OTHER = {"batch_size": 4, "train_cfg": {"max_iters": 6}, "param_scheduler": [{"power": 1}], "val": True}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "bad is no folder of a segmentation run; expected one with its run.json and results.jsonl"),
        (lambda run: (run / "run.json").unlink(), "bad is no folder of a segmentation run"),
        (lambda run: (run / "run.json").write_text('{"MODEL.WEIGHTS": ""}'), "bad is no folder of a segmentation run"),
        (
            lambda run: (run / "run.json").write_text('{"model": {"type": "x"}}'),
            "bad is no folder of a segmentation run",
        ),
        (lambda run: (run / "run.json").write_text("[1]"), "bad is no folder of a segmentation run"),
        (lambda run: (run / "run.json").write_text("{"), "bad/run.json is damaged .*; train that run again"),
        (lambda run: (run / "results.jsonl").unlink(), "bad holds no finished .*--resume, or with --eval-only if"),
        (lambda run: _changed(run, details__confusions="confusions_4.npz"), "bad holds no finished segmentation run"),
        (lambda run: (run / "confusions.npz").unlink(), "confusions.npz not found; expected the confusion matrices"),
        (lambda run: (run / "confusions.npz").write_bytes(b"x"), "confusions.npz is truncated or no NumPy archive"),
        (lambda run: (run / "shown.json").unlink(), "shown.json not found; expected the folder of a finished"),
        (lambda run: shutil.rmtree(run / "predictions"), "cannot read bad/predictions/ADE_val_00000001.png"),
        (_other_images, "expected the same images in both runs, .*not in both: ADE_val_00000001, elsewhere"),
        (_other_classes, "good and bad: expected the same classes, got others .not in both: house, icons.; compare"),
        (_reordered_classes, "expected the same classes, got others .their order differs"),
        (lambda run: _changed(run, dataset="ade20k"), "good and bad: expected one data set, got sample and ade20k;"),
        (
            lambda run: _changed(run, details__data=["aaaa", "cccc"]),
            "the same training and validation images, got the fingerprints aaaa/bbbb and aaaa/cccc; compare what",
        ),
        (
            lambda run: _changed(run, protocol="csail", protocol_hash="ba9876543210", details__settings=OTHER),
            r"good and bad: expected one protocol, got sample \(0123456789ab\) and csail \(ba9876543210\), which "
            r"differ in batch_size: 2 and 4, param_scheduler.0.power: 0.9 and 1, val: None and True; compare what was",
        ),
    ],
)
def test_run_that_cannot_be_compared_is_refused_and_no_picture_is_drawn(
    runs: tuple[Path, ...], damage: Callable[[Path], object], message: str
) -> None:
    damage(runs[1])
    with pytest.raises(InputError, match=message):
        compare(runs, Path("picture.png"))
    assert not Path("picture.png").exists()


def test_folder_given_twice_and_no_folder_are_refused(runs: tuple[Path, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected different runs, got good, .*/good; name each folder once"):
        compare([Path("good"), tmp_path / "good"], Path("picture.png"))
    with pytest.raises(InputError, match="--compare: expected the folders of finished segmentation runs, got none"):
        compare([], Path("picture.png"))


def test_picture_never_replaces_a_file(runs: tuple[Path, ...]) -> None:
    assert compare(runs, None) == 0
    drawn = Path("runs/segmentation/comparison.png")
    before = drawn.stat().st_mtime_ns
    with pytest.raises(InputError, match=r"comparison.png exists; .* give another --output FILE.png"):
        compare(runs[:1], None)
    assert drawn.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"expected the name of a picture, got runs/other; give --output FILE.png"):
        compare(runs, Path("runs/other"))
    Path("file").touch()
    with pytest.raises(InputError, match=r"cannot write file/picture.png: .*; choose another --output"):
        compare(runs, Path("file/picture.png"))


def test_command_compares_and_tells_a_mistake_in_one_line(
    runs: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for expected in (0, 2):
        monkeypatch.setattr(sys, "argv", ["segmentation.py", "--compare", "good", "bad", "--output", "picture.png"])
        assert main() == expected
    captured = capsys.readouterr()
    assert "pictures: picture.png" in captured.out
    assert captured.err.splitlines() == [
        "error: picture.png exists; expected the name of a new picture: give another --output FILE.png"
    ]
