"""Lines that a report reads: what is left out is said, what is used is used once, and what contradicts is not used."""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from converters import __version__
from converters.errors import InputError
from transfer.report_records import FILE, Records, measurement, read_records
from transfer.report_rows import rows_of
from transfer.results import read_lines

NAN, INF = math.nan, math.inf
BASE: dict[str, Any] = {
    **{"task": "linear", "dataset": "cifar10", "split": "test", "protocol": "native", "protocol_hash": "0123456789ab"},
    **{"metric": "accuracy", "value": 0.5, "unit": "share", "num_examples": 500, "interval": [0.45, 0.55]},
    **{"representation": "byol, resnet18", "checkpoint_sha256": "a" * 64, "seed": 0, "seconds": 1.5},
    **{"details": {"data": "d0", "reading": "own"}, "versions": {"gsg-transfer": __version__, "torch": "2"}},
}


def line(**changes: Any) -> str:
    return json.dumps({**BASE, **changes})


def other(**details: Any) -> dict[str, Any]:
    return {**BASE["details"], **details}


def write(place: Path, *lines: str) -> Path:
    """Append lines as they are, with a line break after each."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a", encoding="utf-8", newline="") as file:
        file.write("".join(f"{each}\n" for each in lines))
    return place


def read(folder: Path, *lines: str) -> Records:
    return read_records([write(folder / FILE, *lines)])


def values(read: Records) -> list[float]:
    return [record.result.value for record in read.records]


# Broken lines.

WRONG: Mapping[str, Mapping[str, Any]] = {
    "text as value": {"value": "0.5"},
    "truth as value": {"value": True},
    "no value": {"value": None},
    "value that no float holds": {"value": 10**400},
    "truth as seed": {"seed": True},
    "text as seed": {"seed": "0"},
    "fraction as seed": {"seed": 0.5},
    "number as data set": {"dataset": 10},
    "number as label": {"representation": 3},
    "number as digest": {"checkpoint_sha256": 7},
    "text as number of images": {"num_examples": "500"},
    "no images": {"num_examples": 0},
    "less than no images": {"num_examples": -500},
    "one end of an interval": {"interval": [0.5]},
    "three ends of an interval": {"interval": [0.4, 0.5, 0.6]},
    "no interval": {"interval": None},
    "words as interval": {"interval": ["low", "high"]},
    "interval that no float holds": {"interval": [0, 10**400]},
    "interval from high to low": {"interval": [0.55, 0.45]},
    "interval beyond shares": {"interval": [-3, 7]},
    "text as seconds": {"seconds": "1"},
    "list as details": {"details": []},
    "text as versions": {"versions": "2"},
    "no versions": {"versions": None},
    "list as versions": {"versions": []},
    "number as a version": {"versions": {"gsg-transfer": 1}},
    "unknown field": {"colour": "red"},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_line_with_a_field_of_another_kind_is_left_out_and_the_others_are_used(
    changes: Mapping[str, Any], tmp_path: Path
) -> None:
    found = read(tmp_path, line(), line(**changes), line(seed=1, value=0.6))
    assert values(found) == [0.5, 0.6]
    (problem,) = found.problems
    assert f"{FILE}, line 2: expected " in problem
    assert "\n" not in problem


@pytest.mark.parametrize("strange", [{"reading": ["own"]}, {"run_seed": {"a": 1}}, {"source": {"recipe": ["a"]}}])
def test_details_of_another_kind_cost_no_other_line(strange: Mapping[str, Any], tmp_path: Path) -> None:
    found = read(tmp_path, line(), line(details=other(**strange), seed=2), line(seed=1, value=0.6))
    assert {0.5, 0.6} <= set(values(found))
    assert len(found.records) + len(found.problems) == 3
    rows_of(found.records)


@pytest.mark.parametrize(("value", "shown"), [(NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_value_that_is_no_finite_number_is_left_out_and_shown(value: float, shown: str, tmp_path: Path) -> None:
    found = read(tmp_path, line(value=value), line(seed=1))
    assert values(found) == [0.5]
    assert f"line 1: expected a finite number as value, got {shown}" in found.problems[0]


@pytest.mark.parametrize(("value", "shown"), [(1.0000001, "1"), (-0.1, "-0.1"), (41.2, "41.2")])
def test_share_beyond_0_and_1_is_left_out_and_shown(value: float, shown: str, tmp_path: Path) -> None:
    found = read(tmp_path, line(value=value), line(seed=1))
    assert values(found) == [0.5]
    assert f"line 1: expected a share in 0..1, got {shown}" in found.problems[0]


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0])
def test_least_and_largest_share_are_used(value: float, tmp_path: Path) -> None:
    found = read(tmp_path, line(value=value, interval=[value, value]))
    assert values(found) == [value]
    assert not found.problems


def test_unit_that_tables_would_show_a_hundredfold_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, line(unit="percent", value=41.2), line(seed=1))
    assert values(found) == [0.5]
    assert "share" in found.problems[0]
    assert "percent" in found.problems[0]


def test_interval_that_is_not_known_costs_no_line(tmp_path: Path) -> None:
    found = read(tmp_path, line(interval=[NAN, NAN]))
    assert values(found) == [0.5]
    assert not found.problems


@pytest.mark.parametrize(
    "broken",
    ['{"task": "lin', "no JSON", "[1, 2]", "7", "null", '"text"', "{}", "\x00" * 40, "[" * 100_000, line()[:-1]],
    ids=["truncated", "words", "list", "number", "null", "text", "empty table", "zero bytes", "nested", "last brace"],
)
def test_broken_line_is_named_once_and_shortly_and_the_others_are_used(broken: str, tmp_path: Path) -> None:
    found = read(tmp_path, line(), broken, line(seed=1, value=0.6))
    assert values(found) == [0.5, 0.6]
    (problem,) = found.problems
    assert f"{FILE}, line 2: expected a result (task, dataset" in problem
    assert len(problem) < 500 + len(str(tmp_path))


def test_last_line_that_a_kill_has_cut_off_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    path = write(tmp_path / FILE, line())
    with path.open("a") as file:
        file.write(line(seed=1)[:200])
    found = read_records([tmp_path])
    assert values(found) == [0.5]
    assert f"{FILE}, line 2: " in found.problems[0]


def test_lines_of_windows_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, line() + "\r", line(seed=1, value=0.6) + "\r")
    assert values(found) == [0.5, 0.6]
    assert not found.problems


def test_blank_lines_cost_no_result_and_shift_no_number(tmp_path: Path) -> None:
    found = read(tmp_path, "", line(), "", "  ", "broken", line(seed=1, value=0.6), "")
    assert values(found) == [0.5, 0.6]
    assert [record.line for record in found.records] == [2, 6]
    assert any(f"{FILE}, line 5: " in problem for problem in found.problems)


def test_bytes_that_are_no_text_cost_their_line_alone(tmp_path: Path) -> None:
    path = write(tmp_path / FILE, line())
    with path.open("ab") as file:
        file.write(b'{"task": "\xff\xfe\n' + line(seed=1, value=0.6).encode() + b"\n")
    found = read_records([tmp_path])
    assert values(found) == [0.5, 0.6]
    (problem,) = found.problems
    assert f"{FILE}, line 2: " in problem


def test_half_a_character_is_left_out_since_no_file_can_hold_it(tmp_path: Path) -> None:
    found = read(tmp_path, line(representation="half \ud800"), line(seed=1))
    assert values(found) == [0.5]
    assert "line 1: " in found.problems[0]
    found.problems[0].encode()


def test_control_characters_of_a_broken_line_are_not_repeated(tmp_path: Path) -> None:
    found = read(tmp_path, line(), "\x1b[31m\x07broken\x00")
    assert found.problems[0].isprintable()


@pytest.mark.parametrize("version", ["999.0", f"{__version__}.1", "0.10.0", "1.0.0rc1"])
def test_line_of_a_newer_version_is_left_out_and_says_to_update(version: str, tmp_path: Path) -> None:
    newer = line(versions={"gsg-transfer": version}, value={"new": "form"}, colour="red")
    found = read(tmp_path, newer, line(seed=1))
    assert values(found) == [0.5]
    (problem,) = found.problems
    assert f"written by gsg-transfer {version}, expected {__version__} or earlier: update this project" in problem


@pytest.mark.parametrize("versions", [{}, {"gsg-transfer": "0.0.9"}, {"gsg-transfer": f"{__version__}+local.5"}])
def test_line_of_this_or_an_earlier_version_is_used(versions: dict[str, str], tmp_path: Path) -> None:
    found = read(tmp_path, line(versions=versions))
    assert (values(found), found.problems) == ([0.5], ())


def test_every_broken_line_is_counted(tmp_path: Path) -> None:
    found = read(tmp_path, line(), *(f"broken {i}" for i in range(50)))
    assert len(found.problems) == 50
    assert all(f"line {number}: " in problem for number, problem in enumerate(found.problems, start=2))


def test_lines_are_numbered_from_one_with_the_broken_ones(tmp_path: Path) -> None:
    path = write(tmp_path / FILE, "broken", line())
    numbers = [(number, isinstance(each, str)) for number, each in read_lines(path)]
    assert numbers == [(1, True), (2, False)]


# Places.


@pytest.mark.parametrize("content", ["", "\n", "\n\n", "broken\n", line(value=NAN) + "\n"])
def test_files_without_a_result_are_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=r"expected results in .*results\.jsonl.*got .*evaluate first"):
        read_records([tmp_path])


def test_values_that_all_contradict_are_refused_since_nothing_can_be_shown(tmp_path: Path) -> None:
    write(tmp_path / FILE, line(), line(value=0.6))
    with pytest.raises(InputError, match=r"contradicting .* 50(\.0+)? \(.* 60(\.0+)? \("):
        read_records([tmp_path])


def test_missing_place_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a" / FILE, line())
    with pytest.raises(InputError, match=r"nowhere not found; expected folders of runs"):
        read_records([tmp_path / "a", tmp_path / "nowhere"])


def test_folder_without_results_is_refused_and_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no results\.jsonl; .*transfer/linear\.py"):
        read_records([tmp_path / "empty"])


def test_folder_without_results_beside_others_is_said_and_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "full" / FILE, line())
    found = read_records([tmp_path / "empty", tmp_path / "full"])
    assert values(found) == [0.5]
    (problem,) = found.problems
    assert f"empty holds no {FILE}" in problem


def test_empty_file_beside_others_costs_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a" / FILE)
    write(tmp_path / "b" / FILE, line())
    assert values(read_records([tmp_path])) == [0.5]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / FILE, line()).chmod(0)
    with pytest.raises(InputError, match=r"cannot read .*results\.jsonl: Permission denied"):
        read_records([tmp_path])


def test_results_of_all_folders_below_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b" / "deep" / "er" / FILE, line(value=0.3))
    write(tmp_path / "a" / FILE, line(seed=1, value=0.2))
    write(tmp_path / "other.jsonl", line(seed=2))
    found = read_records([tmp_path])
    assert values(found) == [0.2, 0.3]
    assert found.records[1].place == f"{tmp_path / 'b' / 'deep' / 'er' / FILE}, line 1"


def test_file_of_any_name_is_read_if_it_is_named(tmp_path: Path) -> None:
    assert values(read_records([write(tmp_path / "kept.jsonl", line())])) == [0.5]


def test_same_file_named_several_times_and_through_links_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / FILE, line())
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "linked.jsonl").symlink_to(path)
    places = [path, path, tmp_path / "a", tmp_path / "a" / ".." / "a", tmp_path / "link", tmp_path / "linked.jsonl"]
    found = read_records(places)
    assert values(found) == [0.5]
    assert not found.problems


# Repeated and contradicting measurements.


def test_repeated_measurement_is_used_once_and_said(tmp_path: Path) -> None:
    found = read(tmp_path, line(), line(), line(seconds=9, details=other(machine={"device": "cpu"})))
    assert values(found) == [0.5]
    (problem,) = found.problems
    assert problem.startswith("2 lines repeat a measurement and its value, used once: ")
    assert "line 2" in problem
    assert "line 3" in problem


def test_contradicting_measurement_is_left_out_alone(tmp_path: Path) -> None:
    write(tmp_path / "a" / FILE, *(line(seed=seed, checkpoint_sha256=f"{seed}" * 64) for seed in range(3)))
    write(tmp_path / "b" / FILE, line(seed=1, checkpoint_sha256="1" * 64, value=0.6))
    found = read_records([tmp_path])
    assert [record.result.seed for record in found.records] == [0, 2]
    assert [record.result.seed for record in found.contradicting] == [1]
    (problem,) = found.problems
    assert re.match(
        r"contradicting values of accuracy on cifar10 for byol, resnet18, none is used: 50(\.0+)? \(", problem
    )
    for place in (tmp_path / "a" / FILE, tmp_path / "b" / FILE):
        assert str(place) in problem
    (row,) = rows_of(found.records)[0]
    (sample,) = row.samples.values()
    assert sample.values == (0.5, 0.5)


def test_repeats_of_contradicting_values_are_told_with_them(tmp_path: Path) -> None:
    found = read(tmp_path, line(seed=9), *(line(value=0.1 * i) for i in (1, 2, 3, 4, 5, 6, 1)))
    assert values(found) == [0.5]
    (problem,) = found.problems
    assert re.search(r": 10(\.0+)? \(", problem)
    assert "and 3 more" in problem


@pytest.mark.parametrize("difference", [1e-16, 1e-12, 1e-9])
def test_values_that_differ_by_rounding_alone_contradict_nothing(difference: float, tmp_path: Path) -> None:
    found = read(tmp_path, line(), line(value=0.5 + difference))
    assert len(found.records) == 1


def test_contradicting_values_are_told_with_digits_that_differ(tmp_path: Path) -> None:
    found = read(tmp_path, line(), line(value=0.50003), line(seed=1))
    assert "50.003" in found.problems[0]


DIFFERENT: Mapping[str, Mapping[str, Any]] = {
    "task": {"task": "knn"},
    "data set": {"dataset": "cars"},
    "split": {"split": "val"},
    "metric": {"metric": "mean_per_class"},
    "protocol": {"protocol_hash": "ba9876543210"},
    "images": {"num_examples": 400},
    "checkpoint": {"checkpoint_sha256": "b" * 64},
    "control": {"checkpoint_sha256": None},
    "seed": {"seed": 1},
    "reading": {"details": other(reading="target network")},
    "seed of a run": {"details": other(run_seed=1)},
    "data": {"details": other(data="d1")},
    "data in parts": {"details": other(data=["d0", "d1"])},
}


@pytest.mark.parametrize("changes", DIFFERENT.values(), ids=DIFFERENT)
def test_measurements_that_differ_in_anything_that_decides_contradict_nothing(
    changes: Mapping[str, Any], tmp_path: Path
) -> None:
    found = read(tmp_path, line(), line(**{"value": 0.6, **changes}))
    assert values(found) == [0.5, 0.6]
    assert not found.problems
    first, second = (measurement(record.result) for record in found.records)
    assert first != second


def test_controls_of_several_labels_are_several_measurements(tmp_path: Path) -> None:
    raw = {"checkpoint_sha256": None, "seed": None}
    found = read(tmp_path, line(**raw, representation="raw pixels"), line(**raw, representation="random", value=0.6))
    assert values(found) == [0.5, 0.6]


def test_a_checkpoint_under_another_name_is_the_same_measurement(tmp_path: Path) -> None:
    found = read(tmp_path, line(representation="unknown of a.pth"), line(representation="unknown of b.pth"))
    assert values(found) == [0.5]
    assert "1 line repeats" in found.problems[0]
