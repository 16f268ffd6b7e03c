"""Results: what is appended is read, and what was there stays."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from converters.errors import InputError
from transfer.results import Result, append, current_versions, protocol_hash, read

RESULT = Result(
    task="linear",
    dataset="sample",
    split="test",
    protocol="logistic-path",
    protocol_hash="0123456789ab",
    metric="accuracy",
    value=0.5,
    unit="share",
    num_examples=500,
    interval=(0.45, 0.55),
    representation="random initialisation, résnet18",
    checkpoint_sha256=None,
    seed=3,
    details={"weight_decay": 1e-6},
    seconds=1.5,
    versions={"torch": "2"},
)


def test_read_returns_what_was_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append([RESULT, replace(RESULT, value=0.6)], path)
    append([replace(RESULT, value=0.7, checkpoint_sha256="ab")], path)
    expected = [RESULT, replace(RESULT, value=0.6), replace(RESULT, value=0.7, checkpoint_sha256="ab")]
    assert read(path) == (expected, [])


def test_append_keeps_earlier_bytes_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append([RESULT], path)
    before = path.read_bytes()
    append([RESULT] * 20, path)
    assert path.read_bytes()[: len(before)] == before
    assert len(path.read_bytes().splitlines()) == 21


def test_each_number_is_one_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append([RESULT, RESULT], path)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["value"] for line in lines] == [0.5, 0.5]


@pytest.mark.parametrize("line", ['{"task": "linear"}', "[1, 2]", '{"task": "lin', "", '{"details": null}'])
def test_line_that_is_no_result_is_named_and_the_others_are_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    append([RESULT], path)
    with path.open("a") as file:
        file.write(line + "\n")
    append([replace(RESULT, value=0.6)], path)
    results, problems = read(path)
    assert results == [RESULT, replace(RESULT, value=0.6)]
    assert len(problems) == 1
    assert "results.jsonl, line 2: expected a result (task, dataset, split" in problems[0]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results .*missing\.jsonl not found"):
        read(tmp_path / "missing.jsonl")


def test_hash_changes_with_every_setting_but_not_with_their_order() -> None:
    settings = {"k": 20, "temperature": None}
    assert protocol_hash(settings) == protocol_hash(dict(reversed(settings.items())))
    assert len({protocol_hash(settings), protocol_hash({**settings, "k": 21}), protocol_hash({"k": 20})}) == 3


def test_versions_name_this_project_and_what_computes() -> None:
    assert set(current_versions()) >= {"gsg-transfer", "torch", "scikit-learn", "numpy"}
