"""The folder of a training run belongs to one run, and to one live process."""

import json
from pathlib import Path

import pytest

from converters.errors import InputError
from transfer.training_folder import IDENTITY, TrainingFolder

RUN = {"SOLVER.STEPS": (4, 5), "seed": 0, "processes": 2}


def begin(path: Path) -> None:
    TrainingFolder(path, RUN, begun=False).__exit__()


def test_new_run_takes_an_empty_folder_and_leaves_its_identity(tmp_path: Path) -> None:
    begin(tmp_path / "new" / "run")
    assert json.loads((tmp_path / "new" / "run" / IDENTITY).read_text()) == {**RUN, "SOLVER.STEPS": [4, 5]}


def test_start_that_was_killed_at_once_does_not_block_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run.lock").touch()
    (tmp_path / f".{IDENTITY}.abc.part").touch()
    begin(tmp_path)
    (tmp_path / "backbone.pth").touch()
    begin(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "model_0000199.pth", "results.jsonl", "notes.txt"])
def test_folder_that_holds_something_is_refused(tmp_path: Path, name: str) -> None:
    begin(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"is not empty \({name}\); continue that run with --resume, test it with"):
        begin(tmp_path)


def test_run_is_found_again_and_its_identity_is_not_rewritten(tmp_path: Path) -> None:
    begin(tmp_path)
    before = (tmp_path / IDENTITY).stat().st_mtime_ns
    TrainingFolder(tmp_path, RUN, begun=True).__exit__()
    assert (tmp_path / IDENTITY).stat().st_mtime_ns == before


def test_other_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(InputError, match=r"holds another run: processes is 2 there and 1 here; choose another"):
        TrainingFolder(tmp_path, {**RUN, "processes": 1}, begun=True)
    TrainingFolder(tmp_path, {**RUN, "processes": 1}, begun=True, free=("processes",)).__exit__()
    with pytest.raises(InputError, match=r"seed is 0 there and None here"):
        TrainingFolder(tmp_path, {key: value for key, value in RUN.items() if key != "seed"}, begun=True)


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    with TrainingFolder(tmp_path, RUN, begun=False), pytest.raises(InputError, match="in use by a live run"):
        TrainingFolder(tmp_path, RUN, begun=True)
    TrainingFolder(tmp_path, RUN, begun=True).__exit__()


def test_damaged_identity_is_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / IDENTITY).write_text('{"seed": 0')
    with pytest.raises(InputError, match=r"run.json is damaged .*; start again in another folder"):
        TrainingFolder(tmp_path, RUN, begun=True)


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file/run: .*; choose another --output"):
        TrainingFolder(tmp_path / "file" / "run", RUN, begun=False)
