"""Run folders and state files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from converters.errors import InputError
from pretrain.state import RunFolder, State, load_state, save_state

CONFIG = {"epochs": 3, "optim": {"base_lr": 0.1}, "data": {"workers": 2}}
STATE = State(CONFIG, 5, {"w": torch.arange(4.0)}, {"state": {0: {"momentum_buffer": torch.ones(2)}}}, False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_state(STATE, tmp_path / "state.pt")
    return tmp_path / "state.pt"


def test_state_comes_back_whole(saved: Path) -> None:
    state = load_state(saved, CONFIG)
    assert (state.step, state.collapsed) == (5, False)
    assert torch.equal(state.objective["w"], torch.arange(4.0))
    assert torch.equal(state.optimizer["state"][0]["momentum_buffer"], torch.ones(2))


def test_state_file_holds_no_code(saved: Path) -> None:
    torch.load(saved, weights_only=True)


def test_state_of_another_configuration_names_the_difference(saved: Path) -> None:
    with pytest.raises(InputError, match=r"another configuration: optim\.base_lr is 0\.1 there and 0\.2 here"):
        load_state(saved, {**CONFIG, "optim": {"base_lr": 0.2}})


def test_number_of_workers_may_change_on_resume(saved: Path) -> None:
    assert load_state(saved, {**CONFIG, "data": {"workers": 0}}).config["data"] == {"workers": 0}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_state_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"state\.pt is truncated or no state file"):
        load_state(saved, CONFIG)


def test_foreign_file_is_no_state(tmp_path: Path) -> None:
    torch.save({"model": torch.ones(1)}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="expected a state file of format 1"):
        load_state(tmp_path / "state.pt", CONFIG)


def test_failing_write_leaves_the_old_state(saved: Path) -> None:
    unwritable = replace(STATE, objective={"w": (x for x in ())})
    with pytest.raises(TypeError, match="generator"):
        save_state(unwritable, saved)
    assert load_state(saved, CONFIG).step == 5
    assert [path.name for path in saved.parent.iterdir()] == ["state.pt"]


def test_folder_of_a_live_run_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", resume=False):
        for _ in range(2):  # the refusal itself must not let go of the lock
            with pytest.raises(InputError, match="is in use by a live run"):
                RunFolder(tmp_path / "run", resume=False)
    with RunFolder(tmp_path / "run", resume=False) as free_again:
        assert free_again.path.is_dir()


def test_folder_of_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_text("precious")
    with pytest.raises(InputError, match=r"is not empty \(state\.pt\); add --resume .* or change --output"):
        RunFolder(tmp_path, resume=False)
    assert (tmp_path / "state.pt").read_text() == "precious"


def test_what_a_start_that_was_killed_left_is_no_obstacle(tmp_path: Path) -> None:
    for name in ("run.lock", "config.yaml", "metrics.jsonl", "events.out.tfevents.1"):
        (tmp_path / name).touch()
    with RunFolder(tmp_path, resume=False):
        pass


def test_folder_with_a_users_files_is_not_even_locked(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"is not empty \(thesis\.tex\)"):
        RunFolder(tmp_path, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resuming_nothing_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing to resume: expected .*state\.pt; start without --resume"):
        RunFolder(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*; choose another --output"):
        RunFolder(tmp_path / "file" / "run", resume=False)


def test_metrics_of_repeated_steps_are_dropped_and_a_torn_line_too(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2, 3, 4)]
    with RunFolder(tmp_path / "run", resume=False) as folder:
        folder.metrics.write_text("\n".join(lines) + '\n{"step": 5, "lo')
        folder.forget_metrics_after(2)
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2]
