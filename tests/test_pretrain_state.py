"""Run folders and state files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.errors import InputError
from converters.run_folder import method_name
from pretrain import objectives
from pretrain.config import Config, OptimConfig, ViewConfig, as_dict
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


def old_config(name: str, schedule: str = "cosine", **options: Any) -> dict[str, Any]:
    """What version 1 of the options wrote into config.yaml, as far as it names a method."""
    defaults = {"guidance": "guided", "views": 4, "pairs": "local", "predictor": True}
    own = {"simsiam": {"stop_gradient": True}, "byol": {"momentum": 0.99}}[name]
    views = {"size": 224, "blur_p": 0.5}
    return {"objective": {"name": name, **defaults, **own, **options}, "optim": {"schedule": schedule}, "views": views}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (old_config("simsiam"), "simsiam-guided-4views"),
        (old_config("byol"), "byol-guided-4views"),
        (old_config("byol", guidance="symmetric", views=2), "byol-symmetric-2views"),
        (old_config("simsiam", views=2, pairs="global"), "simsiam-guided-2views-globalpairs"),
        (old_config("simsiam", predictor=False), "simsiam-guided-4views-nopredictor"),
        (old_config("byol", "constant"), "byol-guided-4views-constantlr"),
        (
            old_config(
                "simsiam", "constant", guidance="symmetric", pairs="global", predictor=False, stop_gradient=False
            ),
            "simsiam-symmetric-4views-globalpairs-nopredictor-nostopgradient-constantlr",
        ),
    ],
)
def test_run_of_version_1_is_called_as_it_was(config: dict[str, Any], name: str) -> None:
    assert method_name(config) == name


def named(name: str, views: ViewConfig | None = None, **options: Any) -> str:
    objective = objectives.find(name).Config(**options)
    return method_name(as_dict(Config(objective=objective, views=views or ViewConfig())))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (named("simclr"), "simclr-2views"),
        (named("moco"), "moco-2views"),
        (named("swav"), "swav-2views"),
        (named("barlow_twins"), "barlow_twins-2views"),
        (named("vicreg"), "vicreg-2views"),
        (named("unigrad"), "unigrad-symmetric-2views"),
        (named("simsiam"), "simsiam-guided-4views"),
        (named("simsiam", predictor="none"), "simsiam-guided-4views-nopredictor"),
        (named("byol", predictor="directpred"), "byol-guided-4views-directpred"),
        (named("byol", momentum=None), "byol-guided-4views-nomomentum"),
        (named("moco", momentum=None), "moco-2views-nomomentum"),
        (named("unigrad", momentum=None), "unigrad-symmetric-2views-nomomentum"),
        (named("vicreg", momentum=0.99), "vicreg-2views-momentum"),
        (named("simsiam", momentum=0.0), "simsiam-guided-4views-momentum"),
        (named("swav", ViewConfig(num_local=6, local_size=96)), "swav-2views-6local"),
        (named("swav", ViewConfig(num_local=0)), "swav-2views"),
        (named("unigrad", ViewConfig(cutmix_p=0.5)), "unigrad-symmetric-2views-cutmix"),
    ],
)
def test_method_is_named_with_what_sets_it_apart(label: str, expected: str) -> None:
    assert label == expected


def test_constant_rate_is_part_of_every_methods_name() -> None:
    objective = objectives.find("simclr").Config()
    assert method_name(as_dict(Config(objective=objective, optim=OptimConfig(schedule="constant")))) == (
        "simclr-2views-constantlr"
    )
