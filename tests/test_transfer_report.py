"""The command from result lines to its folder: what it writes, keeps, refuses and says."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml

from transfer import report
from transfer.logistic import WEIGHT_DECAYS
from transfer.report_curves import read_curves
from transfer.report_provenance import provenance_of
from transfer.report_records import read_records
from transfer.report_rows import Row, rows_of
from transfer.representations import raw_pixels
from transfer.results import Result, append, circumstances, current_versions

ROOT = Path(__file__).parents[1]
COMPARED = ("--compare", "simsiam,", "guided")
SETTINGS = {"name": "native", "size": None, "solver": ["L-BFGS along the path", 0.001, 100]}
MACHINE = {"device": "cpu", "processor": "a processor", "cores": 2, "threads": 1, "system": "Linux", "python": "3.11.7"}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def measured(value: float, details: Mapping[str, Any] | None = None, **changes: Any) -> Result:
    """A line of logistic regression; `method` and `seed` make the checkpoint, the others are fields of a result."""
    method, seed = changes.pop("method", "simsiam"), changes.pop("seed", 0)
    source = {"arch": "resnet18", "method": method, "branch": "online", "dataset": "sample", "epochs": 2, "seed": seed}
    source |= {"sha256": None, "version": "0.1.0", "batch_size": 64, "recipe": digest(method)[:12]}
    settings = changes.pop("settings", SETTINGS)
    fields: dict[str, Any] = {
        **{"task": "linear", "dataset": "sample", "split": "test", "protocol": "native-path", "metric": "accuracy"},
        **{"protocol_hash": digest(json.dumps(settings))[:12], "value": value, "unit": "share", "num_examples": 500},
        **{
            "interval": (max(0.0, value - 0.04), min(1.0, value + 0.04)),
            "seconds": 3.0,
            "versions": current_versions(),
        },
        **{
            "representation": f"{method}, resnet18, 2 epochs of sample",
            "checkpoint_sha256": digest(f"{method} {seed}"),
        },
    }
    known = {"settings": settings, "data": "9a359d2e3796", "source": source, "reading": "own, resnet18, online"}
    known |= {"origin": "own, online", "file": f"runs/{method}/checkpoint.safetensors", "machine": MACHINE}
    known |= {"command": f"python transfer/linear.py --ckpt runs/{method}/checkpoint.safetensors", "processes": 1}
    return Result(**{**fields, "seed": seed, "details": {**known, **(details or {})}, **changes})


def store(folder: Path, results: Sequence[Result]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    append(results, folder / "results.jsonl")
    return folder


def predicted(folder: Path, arrays: Mapping[str, npt.NDArray[Any]], value: float, **changes: Any) -> Result:
    """Store the predictions of a line beside it, and append it."""
    line = measured(value, **changes)
    name = digest(f"{line.task} {line.dataset} {line.metric} {line.protocol_hash} {line.checkpoint_sha256}")[:12]
    if "run_seed" in line.details:
        name += f"-{line.details['run_seed']}"
    path = folder / "predictions" / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, allow_pickle=False, **arrays)
    line.details.setdefault("predictions", f"predictions/{name}.npz")
    store(folder, [line])
    return line


def rows_in(folder: Path) -> list[Row]:
    return rows_of(read_records([folder]).records)[0]


def pretrained(folder: Path, *, knn: Sequence[float] = (0.2, 0.3), method: str = "symmetric", **changes: Any) -> Path:
    """What a pretraining run leaves: its configuration and its log."""
    folder.mkdir(parents=True)
    config = {
        **{"arch": "resnet18", "epochs": len(knn), "batch_size": 64, "seed": 0, "data": {"source": "sample"}},
        **{"objective": {"name": "simsiam", "guidance": method, "predictor": True}, "optim": {"schedule": "cosine"}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))
    terms = {"positive_norm": 0.2, "negative_norm": 0.1, "terms_angle": 170.0, "alignment": 0.5, "uniformity": -2.0}
    lines = [{"step": 10 * epoch, "epoch": epoch, "loss": -0.5, "spread": 1.0, **terms} for epoch in range(len(knn))]
    lines += [
        {"step": 10 * epoch, "epoch": epoch, "knn": share, "effective_rank": 20.0 + epoch}
        for epoch, share in enumerate(knn, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def small_runs(folder: Path) -> Path:
    """Two methods on two data sets with their predictions, and a pretraining run."""
    draw = np.random.default_rng(0)
    for dataset, size in (("sample", 60), ("digits", 40)):
        labels = np.arange(size) % 3
        for method, share in (("simsiam", 0.5), ("simsiam-guided", 0.8)):
            answers = np.where(draw.random(size) < share, labels, (labels + 1) % 3)
            scores = np.linspace(0.3, share, len(WEIGHT_DECAYS)).tolist()
            predicted(
                folder / "linear",
                {"labels": labels, "predicted": answers},
                float(np.mean(labels == answers)),
                details={"validation_scores": scores, "weight_decay": 0.1},
                **{"method": method, "dataset": dataset, "num_examples": size},
            )
    pretrained(folder / "pretraining")
    # columns that differ in nothing but the split: no order of theirs is given by data set, metric or protocol
    store(folder / "splits", [measured(0.5, dataset="flowers", split=name) for name in "abcdef"])
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return small_runs(tmp_path / "runs")


@dataclass(frozen=True)
class Written:
    """A report, and what was there before and after."""

    folder: Path
    before: dict[str, tuple[bytes, int]]
    after: dict[str, tuple[bytes, int]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A report of runs that cannot be written, in a folder that holds nothing else."""
    folder = tmp_path_factory.mktemp("written")
    paths = [small_runs(folder / "runs"), *(folder / "runs").rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = content(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        assert call(monkeypatch, "runs", *COMPARED, "--output", "new/report") == 0
    after = content(folder)
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Written(folder, before, after)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["transfer/report.py", *map(str, arguments)])
    return report.main()


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Of every file below a folder: bytes and time of its last change."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refusal consists of."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


# What is written.


def test_report_by_path_is_byte_for_byte_that_of_the_function(written: Written) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "transfer" / "report.py"), "runs", *COMPARED, "--output", "again"],
        cwd=written.folder,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "again/report.html" in ended.stdout
    assert "10 numbers of 2 methods and 2 checkpoints" in ended.stdout
    one, two = (
        {name: data for name, (data, _) in content(written.folder / each).items()} for each in ("new/report", "again")
    )
    assert one == two


def test_report_writes_a_page_tables_and_figures_and_names_them_all(written: Written) -> None:
    output = written.folder / "new" / "report"
    tables = [f"{name}.{kind}" for name in ("comparison", "published", "table-2") for kind in ("csv", "md", "tex")]
    figures = [
        f"figure-{name}.{kind}" for name in ("4", "collapse", "gradients", "path", "ranks") for kind in ("pdf", "png")
    ]
    assert sorted(each.name for each in output.iterdir()) == sorted(["report.html", *tables, *figures])
    page = (output / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in (*tables, *figures))


def test_report_writes_to_its_output_alone_and_reads_what_cannot_be_written(written: Written) -> None:
    others = {name: each for name, each in written.after.items() if not name.startswith("new/report/")}
    assert others == written.before


def test_a_report_in_a_run_is_no_input_of_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = store(tmp_path / "runs", [measured(0.5)])
    assert call(monkeypatch) == 0  # runs/ into runs/report
    first = {name: data for name, (data, _) in content(runs / "report").items()}
    assert call(monkeypatch) == 0
    assert {name: data for name, (data, _) in content(runs / "report").items()} == first


def test_a_new_report_replaces_an_earlier_one_and_removes_only_what_that_has_left(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shutil.copytree(written.folder / "new" / "report", tmp_path / "report")
    own = ["notes.txt", "figure-mine.png", "table-1-draft.csv", "table.md", "report.html.bak"]
    for name in own:
        (output / name).write_text("mine")
    (output / "more").mkdir()
    (output / "more" / "comparison.csv").write_text("mine")
    small = store(tmp_path / "small", [measured(0.5)])
    assert call(monkeypatch, small, "--output", output) == 0
    left = {each.name for each in output.iterdir()}
    fresh = {f"{name}.{kind}" for name in ("published", "table-2") for kind in ("csv", "md", "tex")}
    assert left == {"report.html", "more", *own, *fresh}
    assert all((output / name).read_text() == "mine" for name in (*own, "more/comparison.csv"))
    assert "guided, resnet18" not in (output / "report.html").read_text(encoding="utf-8")


def test_a_folder_with_the_name_of_an_own_file_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, output = store(tmp_path / "runs", [measured(0.5)]), tmp_path / "report"
    assert call(monkeypatch, runs, "--output", output) == 0
    (output / "comparison.csv").mkdir()
    assert call(monkeypatch, runs, "--output", output) == 0
    assert (output / "comparison.csv").is_dir()


def test_what_a_killed_first_report_has_left_keeps_no_next_one_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, output = store(tmp_path / "runs", [measured(0.5)]), tmp_path / "report"
    output.mkdir()
    (output / ".report.html.a1b2c3d4.part").write_text("<!DOCTYPE html>")  # as atomic_write calls it
    assert call(monkeypatch, runs, "--output", output) == 0


# Bad input.


def _refused_outputs(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("mine")
    (thesis / "table-1.csv").write_text("mine")
    yield thesis, "holds other files (chapter.tex, table-1.csv)"
    foreign = tmp_path / "coverage"  # other tools call their page so, too
    foreign.mkdir()
    (foreign / "report.html").write_text("<html><title>coverage</title></html>")
    yield foreign, "report.html"
    file = tmp_path / "file"
    file.write_text("mine")
    yield file, "cannot write"
    yield file / "below", "cannot write"
    yield tmp_path / ("x" * 300), "cannot write"


def test_an_output_that_holds_something_else_is_refused_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, outputs = store(tmp_path / "runs", [measured(0.5)]), list(_refused_outputs(tmp_path))
    before = content(tmp_path)
    accepted = []
    for output, told in outputs:
        if call(monkeypatch, runs, "--output", output) != 2:
            accepted.append(output.name)
            continue
        said = only_line(capsys)
        assert told in said
        assert "--output" in said
    assert not accepted
    assert content(tmp_path) == before


def _lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def _unusable() -> dict[str, tuple[bytes, str]]:
    """Files in which no line can be used, and what is said of them."""
    good = {**vars(measured(0.5)), "interval": [0.4, 0.6]}
    huge = json.dumps(good).replace('"value": 0.5', f'"value": {10**400}')
    return {
        "nothing": (b"", "no line at all"),
        "truncated": (json.dumps(good).encode()[:200], "expected a result"),
        "prose": (_lines("epoch 1: loss 0.3"), "expected a result"),
        "other JSON": (_lines("[1, 2]", "null", '"text"', "{}", "3"), "5 lines and no result"),
        "nan": (_lines(json.dumps({**good, "value": float("nan")})), "finite"),
        "infinite": (_lines(json.dumps({**good, "value": float("inf")})), "finite"),
        "huge": (_lines(huge), "1 lines and no result"),
        "per cent": (_lines(json.dumps({**good, "value": 50.0})), "share in 0..1"),
        "text as value": (_lines(json.dumps({**good, "value": "0.5"})), "expected a result"),
        "a newer version": (_lines(json.dumps({**good, "versions": {"gsg-transfer": "99.0"}})), "update this project"),
        "a version that is a number": (_lines(json.dumps({**good, "versions": {"gsg-transfer": 1}})), "no result"),
        "a list of versions": (_lines(json.dumps({**good, "versions": ["torch"]})), "no result"),
        "deep": (b"[" * 100_000, "expected a result"),
        "bytes": (b"\x93NUMPY\x01\x00\xff\xfe\n", "results.jsonl"),
    }


@pytest.mark.parametrize("kind", list(_unusable()))
def test_results_without_a_usable_line_are_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, told = _unusable()[kind]
    (tmp_path / "results.jsonl").write_bytes(data)
    assert call(monkeypatch, tmp_path, "--output", tmp_path / "report") == 2
    assert told in only_line(capsys)
    assert not (tmp_path / "report").exists()


def test_missing_and_empty_places_and_wrong_arguments_are_refused_in_one_line(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder" / "results.jsonl").mkdir(parents=True)
    cases: list[tuple[list[object], str]] = [
        ([tmp_path / "gone"], "gone not found"),
        ([tmp_path / "empty"], "holds no results.jsonl"),
        ([tmp_path / "folder"], "results.jsonl"),
        ([runs, tmp_path / "gone"], "gone not found"),
        ([runs, "--compare", "simsiam"], "expected 2 arguments"),
        ([runs, "--nonsense"], "unrecognized arguments"),
        ([runs, "--compare", "simsiam,", "byol"], "'byol' fits no method"),
        ([runs, "--compare", "simsiam", "guided"], "'simsiam' fits several methods"),
        ([runs, "--compare", "simsiam,", "simsiam,"], "expected two methods"),
    ]
    for arguments, told in cases:
        assert call(monkeypatch, *arguments, "--output", tmp_path / "report") == 2
        assert told in only_line(capsys)
    assert not (tmp_path / "report").exists()


def test_damaged_lines_are_named_and_the_others_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps(vars(measured(0.5))), json.dumps(vars(measured(0.25, method="simsiam-guided")))]
    damaged = [lines[0][:100].encode(), b'{"task": "\xff\xfe"}', b"\x1b[31mred", b'{"versions": []}']
    path = tmp_path / "runs" / "results.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"\n".join([*damaged, *(line.encode() for line in lines), lines[0][:50].encode()]))
    assert call(monkeypatch, path.parent, "--output", tmp_path / "report") == 0
    said = capsys.readouterr()
    for number in (1, 2, 3, 4, 7):
        assert f"{path}, line {number}: " in said.err
    assert "\x1b" not in said.err
    assert "2 numbers of 2 methods" in said.out
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert f"{path}, line 7: " in page


def test_one_unreadable_file_costs_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = store(tmp_path / "runs", [measured(0.5)])
    other = runs / "another" / "results.jsonl"
    other.parent.mkdir()
    other.write_bytes(b"\x80\x81\x82" * 100)
    assert call(monkeypatch, runs, "--output", tmp_path / "report") == 0
    said = capsys.readouterr()
    assert str(other) in said.err
    assert "1 numbers of 1 methods" in said.out


def test_repeated_and_contradicting_lines_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = measured(0.5), measured(0.5, method="simsiam-guided")
    folder = store(tmp_path / "runs", [one, one, other, measured(0.6, method="simsiam-guided")])
    assert call(monkeypatch, folder, "--output", tmp_path / "report") == 0
    said = capsys.readouterr()
    assert "1 line repeats a measurement" in said.err
    assert "contradicting values of accuracy on sample for simsiam-guided" in said.err
    assert "50.00" in said.err
    assert "60.00" in said.err
    assert "1 numbers of 1 methods" in said.out


def test_many_problems_are_all_on_the_page_and_few_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store(tmp_path / "runs", [measured(0.5)])
    with (folder / "results.jsonl").open("a") as file:
        file.write("broken\n" * 200)
    assert call(monkeypatch, folder, "--output", tmp_path / "report") == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) < 50
    assert "more" in warnings[-1]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert all(f"line {number}: " in page for number in range(2, 202))


# in JSON's types: what a hand or another tool may have written where something else is expected
_STRANGE: dict[str, dict[str, Any]] = {
    "a source that is text": {"source": "simsiam"},
    "a run seed that is a list": {"run_seed": [1]},
    "a reading that is a list": {"reading": ["own"]},
    "a batch size that is an object": {"source": {"batch_size": {"of": 64}}},
    "a command that is a number": {"command": 3, "processes": "two", "machine": "a laptop"},
    "settings that are text": {"settings": "native"},
    "scores without a weight decay": {"validation_scores": [0.5] * len(WEIGHT_DECAYS)},
    "scores that are null": {"validation_scores": [None] * len(WEIGHT_DECAYS), "weight_decay": 1.0},
    "a weight decay of 0": {"validation_scores": [0.5] * len(WEIGHT_DECAYS), "weight_decay": 0},
    "predictions that are a list": {"predictions": ["a"], "features": "x.npy"},
}


@pytest.mark.parametrize("kind", list(_STRANGE))
def test_strange_details_do_not_cost_the_report(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store(tmp_path / "runs", [measured(0.5, _STRANGE[kind]), measured(0.25, method="simsiam-guided")])
    assert call(monkeypatch, folder, "--output", tmp_path / "report") == 0


def test_half_a_surrogate_pair_costs_its_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [measured(0.5), measured(0.25, representation="\ud800", seed=1)]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(vars(line)) + "\n" for line in lines))
    assert call(monkeypatch, path, "--output", tmp_path / "report") == 0
    assert f"{path}, line 2: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["red \x1b[31m", "null \x00", "right to left \u202e"])
def test_strange_text_of_a_line_reaches_no_terminal_and_costs_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, labels = tmp_path / "runs", np.arange(20) % 2
    for method in ("simsiam", "simsiam-guided"):
        predicted(
            folder,
            {"labels": labels, "predicted": labels},
            1.0,
            **{"method": method, "dataset": text, "protocol": text, "num_examples": 20},
            representation=f"{method}, {text}",
        )
    assert call(monkeypatch, folder, "--compare", "simsiam,", "guided", "--output", tmp_path / "report") == 0
    said = capsys.readouterr()
    assert not set("\x1b\x00\u202e") & set(said.out + said.err)


# Provenance and circumstances.


def test_every_number_says_where_it_comes_from_and_how_to_repeat_it(tmp_path: Path) -> None:
    again = "python transfer/probe.py --seed 3 'a file.pt'"
    lines = [
        measured(0.5),
        measured(0.25, {"command": again, "processes": 4, "run_seed": 3}, seed=1, task="probe"),
        measured(0.125, {"command": "gsg-detection --num-gpus 8", "processes": 8}, seed=2, seconds=61.4),
        measured(0.75, {"command": None, "machine": None}, dataset="digits"),
    ]
    (row,) = rows_in(store(tmp_path, lines))
    provenance = provenance_of([row])
    (origin,) = provenance.rows
    by_value = {number.value: number for number in origin.numbers}
    assert by_value["50.00"].command == lines[0].details["command"]
    assert by_value["25.00"].command == f"torchrun --nproc-per-node 4 {again.removeprefix('python ')}"
    assert by_value["12.50"].command == "gsg-detection --num-gpus 8"  # which starts its processes itself
    assert "not recorded" in by_value["75.00"].command
    assert by_value["25.00"].seeds == "1 / 3"
    assert by_value["12.50"].seconds == "61"
    for number, line in zip(origin.numbers, row.records, strict=True):
        assert line.result.checkpoint_sha256 is not None
        assert number.checkpoint == line.result.checkpoint_sha256[:12]
        assert line.result.protocol_hash in number.protocol
        assert number.place.endswith(f"line {line.line}")
    facts = "\n".join(origin.facts)
    assert all(digest(f"simsiam {seed}") in facts for seed in range(3))
    assert "runs/simsiam/checkpoint.safetensors" in facts
    assert "recipe" in facts
    assert len(provenance.machines) == 2
    assert "a processor" in provenance.machines[0]
    assert len(provenance.versions) == 1
    assert f"torch {torch.__version__.partition('+')[0]}" in provenance.versions[0]


def test_a_command_that_torchrun_started_through_its_script_says_so(tmp_path: Path) -> None:
    (row,) = rows_in(store(tmp_path, [measured(0.5, {"command": "gsg-linear --ckpt a.pt", "processes": 2})]))
    (number,) = provenance_of([row]).rows[0].numbers
    assert number.command.startswith("torchrun")


def test_more_machines_than_letters_are_told_apart(tmp_path: Path) -> None:
    lines = [measured(0.5, {"machine": {"device": f"gpu {n}"}}, dataset=f"set {n}") for n in range(60)]
    provenance = provenance_of(rows_in(store(tmp_path, lines)))
    names = [each.partition(":")[0] for each in provenance.machines]
    assert len(set(names)) == 60
    assert names[:2] == ["A", "B"]
    assert names[25:28] == ["Z", "AA", "AB"]
    assert {number.machine for row in provenance.rows for number in row.numbers} == set(names)


def test_circumstances_repeat_the_command_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--ckpt", "a file.pt", "--opts", "x='$HOME'; rm *"]
    monkeypatch.setattr("sys.argv", ["transfer/linear.py", *arguments])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    said = circumstances(torch.device("cpu"))
    echoed = subprocess.run(
        ["bash", "-c", said["command"].replace("python transfer/linear.py", "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert echoed.stdout.splitlines() == arguments
    assert said["processes"] == 1
    assert said["machine"].keys() == MACHINE.keys()
    assert said["machine"]["device"] == "cpu"
    assert all(said["machine"].values())
    monkeypatch.setattr("sys.argv", ["/opt/venv/bin/gsg-linear", "--pixels"])
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert circumstances(torch.device("cpu"))["command"] == "gsg-linear --pixels"
    assert circumstances(torch.device("cpu"))["processes"] == 4


def test_a_control_has_no_provenance() -> None:
    assert raw_pixels().provenance == {}


# Logs of pretraining.


def test_damaged_lines_of_a_log_are_counted_and_the_others_drawn(tmp_path: Path) -> None:
    folder = pretrained(tmp_path / "run")
    whole = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(
        b'{"step": 1, "epoch": 1, "knn": "much"}\n[]\n{"step"\n{"step": 3, "epoch": 1, "\xff": 2}\n' + whole[:-15]
    )
    (curves,), told = read_curves([tmp_path])
    assert curves.points("knn", "epoch") == [(1, 0.2)]
    assert len(curves.points("spread", "step")) == 2
    assert len(told) == 1
    assert f"{folder / 'metrics.jsonl'}: 5 of 8 lines" in told[0]


def test_runs_without_a_usable_configuration_are_named_and_cost_no_other(tmp_path: Path) -> None:
    pretrained(tmp_path / "good")
    for name, config in (("text", "hello"), ("list", "[1]"), ("broken", "a: [b"), ("short", "arch: resnet18\n")):
        (pretrained(tmp_path / name) / "config.yaml").write_text(config)
    (pretrained(tmp_path / "bytes") / "config.yaml").write_bytes(b"\xff\xfe\x80")
    (pretrained(tmp_path / "without") / "config.yaml").unlink()  # a segmentor's log lies in a folder without one
    found, told = read_curves([tmp_path])
    assert [each.folder for each in found] == [tmp_path / "good"]
    assert len(told) == 5
    assert all("\n" not in line for line in told)
    for name in ("text", "list", "broken", "short", "bytes"):
        assert sum(str(tmp_path / name) in line for line in told) == 1


def test_settings_of_other_kinds_cost_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = store(tmp_path / "runs", [measured(0.5)])
    pretrained(runs / "odd", arch=["resnet18"])
    pretrained(runs / "odder", epochs={"of": 2})
    folder = pretrained(runs / "null")
    (folder / "metrics.jsonl").write_text('{"step": null, "epoch": null, "knn": 0.5, "spread": 1.0}\n' * 2)
    assert call(monkeypatch, runs, "--output", tmp_path / "report") == 0


def test_the_same_run_twice_is_drawn_once_and_said(tmp_path: Path) -> None:
    shutil.copytree(pretrained(tmp_path / "one"), tmp_path / "two")
    pretrained(tmp_path / "three", seed=1)
    found, told = read_curves([tmp_path, tmp_path / "one"])
    assert len(found) == 2
    assert len(told) == 1
    assert "the same pretraining run" in told[0]


def test_of_a_whole_run_and_its_interrupted_copy_the_whole_one_is_drawn(tmp_path: Path) -> None:
    shutil.copytree(pretrained(tmp_path / "whole"), tmp_path / "copy")
    log = tmp_path / "copy" / "metrics.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    (curves,), told = read_curves([tmp_path])
    assert len(told) == 1
    assert curves.points("knn", "epoch") == [(1, 0.2), (2, 0.3)]
