"""Tables of a report: which runs are one row, which numbers share a column, what is bold, and what stands in the files.

The files in tests/golden are what a fixed set of results gives as Markdown, CSV and LaTeX. After an intended change:
REWRITE_GOLDEN=1 python -m pytest tests/test_transfer_report_tables.py -k golden; then look at what git says differs.
"""

import csv
import hashlib
import html.parser
import io
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from scipy import stats

from transfer.published import Counterpart, Procedure, Published, read_published
from transfer.report_formats import (
    Grid,
    Text,
    grid_of,
    printed,
    published_grid,
    to_csv,
    to_latex,
    to_markdown,
)
from transfer.report_published import Beside, beside_published
from transfer.report_records import Record, Records, read_records
from transfer.report_rows import Column, Row, Sample, column_of, rows_of, significantly_best
from transfer.report_tables import Material, Table, build_tables
from transfer.results import Result, append, current_versions, protocol_hash

GOLDEN = Path(__file__).parent / "golden"
NAN = math.nan
PATH = {"name": "native", "size": None, "ties": "to the smallest decay"}
KNN = {"k": 1, "similarity": "cosine", "temperature": None}
FPN = {"iterations": 24000, "freeze": 4}
SGD = {"epochs": 90, "lr": 30.0}


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def result(value: float, **changes: Any) -> Result:
    """A result, by default of logistic regression on an own checkpoint.

    Args:
        value: share.
        changes: `half` is the width of its interval to either side; `method`, `seed`, `recipe`, `batch`, `epochs` and
            `arch` make an own checkpoint; `settings`, `data`, `reading` and `run_seed` go to the details; the others
            are fields of a result.
    """
    method, seed, half = changes.pop("method", "simsiam"), changes.pop("seed", 0), changes.pop("half", 0.01)
    recipe, batch, epochs = (changes.pop(*each) for each in (("recipe", "r1"), ("batch", 512), ("epochs", 100)))
    settings, arch = changes.pop("settings", PATH), changes.pop("arch", "resnet50")
    source = {"arch": arch, "method": method, "dataset": "ImageNet", "epochs": epochs, "seed": seed}
    details = {"settings": settings, "data": changes.pop("data", "d0"), "reading": f"own, {arch}, online"}
    details["source"] = {**source, "batch_size": batch, "recipe": recipe}
    details |= {name: changes.pop(name) for name in ("run_seed", "reading") if name in changes}
    fields: dict[str, Any] = {
        **{"task": "linear", "dataset": "cifar10", "split": "test", "protocol": "native", "metric": "accuracy"},
        **{"protocol_hash": protocol_hash(settings), "value": value, "unit": "share", "num_examples": 10_000},
        **{"interval": (value - half, value + half), "representation": f"{method}, {arch}, {epochs} epochs"},
        **{"checkpoint_sha256": digest(method, arch, recipe, batch, epochs, seed), "seed": seed, "details": details},
        **{"seconds": 1.0, "versions": current_versions()},
    }
    return Result(**{**fields, **changes})


def seeds(values: Sequence[float], **changes: Any) -> list[Result]:
    return [result(value, **{**changes, "seed": seed}) for seed, value in enumerate(values)]


def foreign(value: float, label: str, **changes: Any) -> Result:
    """Of a file that says nothing of its pretraining."""
    return result(
        value,
        **{"seed": None, "recipe": None, "batch": None, "epochs": None, "method": "moco", "representation": label},
        **{"checkpoint_sha256": digest(label), **changes},
    )


def control(value: float, label: str, seed: int | None = None, **changes: Any) -> Result:
    """Without a checkpoint, and so without a source."""
    details = {"settings": changes.pop("settings", PATH), "data": changes.pop("data", "d0")}
    fields = {"representation": label, "checkpoint_sha256": None, "seed": seed, "details": details}
    return result(value, **{**fields, "protocol_hash": protocol_hash(details["settings"]), **changes})


def read(results: Iterable[Result], folder: Path) -> Records:
    append(results, folder / "results.jsonl")
    return read_records([folder])


def records(results: Iterable[Result]) -> list[Record]:
    return [Record(each, Path("results.jsonl"), number) for number, each in enumerate(results, start=1)]


def rows(*results: Result) -> list[Row]:
    return rows_of(records(results))[0]


def tables(*results: Result, published: Sequence[Published] = (), contradicting: Sequence[Result] = ()) -> list[Table]:
    return build_tables(Material(rows(*results), records(contradicting), published))


def table(*results: Result, name: str = "table-2", **material: Any) -> Grid:
    return next(grid_of(each) for each in tables(*results, **material) if each.name == name)


def cells(grid: Grid) -> dict[str, list[Text]]:
    return {title: list(line) for title, line in (*grid.rows, *grid.below)}


def numbers(grid: Grid) -> dict[str, list[str]]:
    return {title: [cell.main for cell in line] for title, line in cells(grid).items()}


def only_sample(row: Row) -> Sample:
    (sample,) = row.samples.values()
    return sample


# Which runs are one row.


def test_own_checkpoints_of_one_recipe_and_several_seeds_are_one_row() -> None:
    (row,) = rows(*seeds([0.5, 0.6, 0.7]))
    assert only_sample(row).values == (0.5, 0.6, 0.7)
    assert only_sample(row).on_top == ()
    assert len(row.checkpoints) == 3
    assert row.title == "simsiam, resnet50, 100 epochs"


def test_control_with_several_seeds_is_one_row_for_each_architecture() -> None:
    labels = "random initialisation, resnet18", "random initialisation, resnet50"
    found = rows(*(control(0.1 * seed, label, seed) for label in labels for seed in range(3)))
    assert [row.title for row in found] == list(labels)
    assert [only_sample(row).values for row in found] == [(0.0, 0.1, 0.2)] * 2
    assert [(row.source, row.checkpoints) for row in found] == [({}, [])] * 2


def test_raw_pixels_are_one_run() -> None:
    (row,) = rows(control(0.3, "raw pixels, 32 x 32"))
    assert (only_sample(row).values, only_sample(row).on_top) == ((0.3,), ())


def test_foreign_files_are_a_row_each_even_with_one_label() -> None:
    found = rows(*(foreign(0.5, "moco, unknown", checkpoint_sha256=digest(name)) for name in "ab"))
    assert len(found) == 2
    assert len({row.title for row in found}) == 2
    assert all(len(only_sample(row).values) == 1 for row in found)
    assert {row.title for row in found} == {f"moco, unknown, {digest(name)[:8]}" for name in "ab"}


def test_one_foreign_file_on_several_tasks_is_one_row() -> None:
    (row,) = rows(foreign(0.5, "moco"), foreign(0.6, "moco", dataset="dtd"), foreign(0.7, "moco", task="knn"))
    assert len(row.samples) == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"recipe": "r2"}, ", recipe r2"), ({"batch": 256}, ", batch 256"), ({"reading": "target"}, "read as target")],
)
def test_one_label_with_another_recipe_batch_size_or_reading_is_another_row(
    changes: Mapping[str, Any], told: str
) -> None:
    found = rows(*seeds([0.5, 0.6]), *seeds([0.7, 0.8], **changes))
    assert [only_sample(row).values for row in found] == [(0.5, 0.6), (0.7, 0.8)]
    assert told in found[1].title
    assert told not in found[0].title


def test_two_checkpoints_with_one_label_recipe_and_seed_are_no_repeats_and_this_is_said() -> None:
    twice = [result(0.5), result(0.6, checkpoint_sha256="f" * 64), result(0.7, seed=1)]
    found, told = rows_of(records(twice))
    assert [only_sample(row).values for row in found] == [(0.5,), (0.6,), (0.7,)]
    assert len({row.title for row in found}) == 3
    assert told[0].startswith("2 checkpoints call themselves simsiam, resnet50, 100 epochs, seed 0: each has a row")


def test_titles_tell_rows_apart_even_where_a_label_imitates_another_title() -> None:
    found = rows(result(0.1), result(0.2, batch=256), foreign(0.3, "simsiam, resnet50, 100 epochs, batch 512"))
    assert len({row.title for row in found}) == 3


def test_seeds_of_a_detector_on_one_checkpoint_are_one_run_of_the_method() -> None:
    runs = [result(0.5 + 0.01 * i, run_seed=i, task="detection", metric="AP", half=0.02) for i in range(3)]
    (row,) = rows(*runs)
    sample = only_sample(row)
    assert sample.values == pytest.approx((0.51,))
    assert sample.deviation is None
    assert sample.on_top == pytest.approx((0.50, 0.51, 0.52))
    # of the test images alone, which all three runs share
    assert sample.interval == pytest.approx((0.49, 0.53), abs=1e-4)
    (cell,) = cells(table(*runs, name="table-3"))[row.title]
    assert (cell.main, cell.under) == ("51.0", "[49.0, 53.0], n = 1 (3 on top ± 1.0)")


def test_seeds_of_a_detector_nested_in_those_of_pretraining_count_as_one_each() -> None:
    values = {0: (0.5, 0.52, 0.54), 1: (0.6,), 2: (0.7, 0.9)}
    runs = [result(value, seed=seed, run_seed=i) for seed, each in values.items() for i, value in enumerate(each)]
    (row,) = rows(*runs)
    sample, means = only_sample(row), (0.52, 0.6, 0.8)
    assert sample.values == pytest.approx(means)
    assert sample.mean == pytest.approx(np.mean(means))
    assert sample.deviation == pytest.approx(np.std(means, ddof=1))
    assert (sample.on_top, len(sample.records)) == ((), 6)


# Which numbers share a column.

APART: Mapping[str, Mapping[str, Any]] = {
    "protocol": {"settings": {**PATH, "size": 224}},
    "data": {"data": "d1"},
    "images": {"num_examples": 9_000},
    "split": {"split": "val"},
    "metric": {"metric": "mean_per_class"},
    "task": {"task": "probe"},
}


@pytest.mark.parametrize("changes", APART.values(), ids=APART)
def test_numbers_that_may_not_be_compared_share_no_column(changes: Mapping[str, Any]) -> None:
    first, second = result(0.5), result(0.6, method="byol", **changes)
    assert column_of(first) != column_of(second)
    found = tables(first, second)
    for each in found:
        for place in range(len(each.places)):
            assert sum(line[place].sample is not None for _, line in each.rows) == 1


@pytest.mark.parametrize("kind", ["protocol", "data", "images", "split"])
def test_columns_that_may_not_be_compared_are_told_apart_and_the_note_says_by_what(kind: str) -> None:
    told = {"protocol": "size: None and 224", "data": "data", "images": "images", "split": "split"}
    found = table(result(0.5), result(0.6, method="byol", **APART[kind]))
    (note,) = (each for each in found.notes if "differ in" in each)
    assert told[kind] in note
    assert len(set(found.headers)) == 2


def test_note_on_split_and_images_does_not_blame_the_data() -> None:
    for kind in ("split", "images"):
        notes = table(result(0.5), result(0.6, **APART[kind])).notes
        assert not any("other images or labels" in note for note in notes)


def test_note_does_not_blame_the_data_where_settings_were_not_recorded() -> None:
    unknown = [control(0.5, "raw", protocol_hash="a" * 12), control(0.6, "raw", protocol_hash="b" * 12)]
    for each in unknown:
        del each.details["settings"]
    (note,) = (each for each in table(*unknown).notes if "a" * 12 in each and "b" * 12 in each)
    assert "the data" not in note
    bare = control(0.6, "raw", protocol_hash="b" * 12)
    del bare.details["settings"]
    (note,) = (each for each in table(result(0.5), bare).notes if "b" * 12 in each)
    assert "None and" not in note
    assert "and None" not in note


def test_columns_that_differ_in_images_are_told_apart_in_csv() -> None:
    lines = table(result(0.5), result(0.6, data="d1")).lines
    unlike = {"mean", "low", "high"}
    assert len({tuple(str(v) for k, v in line.items() if k not in unlike) for line in lines}) == 2


def test_data_sets_stand_in_the_order_of_the_papers_table_then_by_name() -> None:
    names = ["cifar10", "aircraft", "caltech101", "cars", "dtd", "flowers", "food", "pets", "sun397", "voc2007"]
    grid = table(*(result(0.5, dataset=name) for name in ("zebra", *reversed(names), "apples")))
    assert [header[0] for header in grid.headers] == [*names, "apples", "zebra"]


def test_each_table_takes_its_tasks_alone() -> None:
    found = tables(
        *(result(0.5, task=task) for task in ("knn", "probe", "linear")),
        *(
            result(0.5, task="detection", metric=metric, dataset="coco_2017")
            for metric in ("AP75", "AP", "AP50", "APs")
        ),
        *(result(0.5, task="segmentation", metric=metric, dataset="ade20k") for metric in ("aAcc", "mIoU")),
        *(result(0.5, metric="calibration_error"),),
    )
    assert {each.name: [(p.column.task, p.column.metric) for p in each.places] for each in found} == {
        "table-1": [("knn", "accuracy"), ("probe", "accuracy")],
        "table-2": [("linear", "accuracy")],
        "table-3": [
            *(("detection", "AP50"), ("detection", "AP"), ("detection", "AP75")),
            *(("segmentation", "mIoU"), ("segmentation", "aAcc")),
        ],
    }


# Mean, deviation, interval.


@pytest.mark.parametrize("values", [(0.5, 0.6), (0.81, 0.79, 0.83), tuple(np.linspace(0.2, 0.7, 10).tolist())])
def test_mean_deviation_and_interval_of_seeds_are_those_of_scipy(values: tuple[float, ...]) -> None:
    sample = only_sample(rows(*seeds(values))[0])
    assert sample.mean == pytest.approx(stats.tmean(values), abs=1e-12)
    assert sample.deviation == pytest.approx(stats.tstd(values), abs=1e-12)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert sample.interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_run_has_its_own_interval_and_no_deviation() -> None:
    sample = only_sample(rows(result(0.5, interval=(0.41, 0.57)))[0])
    assert (sample.mean, sample.deviation, sample.interval) == (0.5, None, (0.41, 0.57))
    (cell,) = cells(table(result(0.5, interval=(0.41, 0.57))))["simsiam, resnet50, 100 epochs"]
    assert (cell.main, cell.under) == ("50.0", "[41.0, 57.0], n = 1")


def test_one_run_whose_interval_is_not_known_shows_none() -> None:
    grid = table(result(0.5, interval=(NAN, NAN)))
    (cell,) = cells(grid)["simsiam, resnet50, 100 epochs"]
    assert (cell.main, cell.under) == ("50.0", "n = 1")
    assert (grid.lines[0]["low"], grid.lines[0]["high"]) == (None, None)


def test_cell_of_several_seeds_shows_mean_deviation_interval_and_number() -> None:
    (cell,) = cells(table(*seeds([0.5, 0.6, 0.7])))["simsiam, resnet50, 100 epochs"]
    assert (cell.main, cell.under) == ("60.0 ± 10.0", "[35.2, 84.8], n = 3")


def test_small_deviation_is_shown_with_a_digit_more() -> None:
    (cell,) = cells(table(*seeds([0.5, 0.5004])))["simsiam, resnet50, 100 epochs"]
    assert cell.main == "50.02 ± 0.03"


def test_equal_values_of_several_seeds_are_shown_as_such() -> None:
    (cell,) = cells(table(*seeds([0.5, 0.5, 0.5])))["simsiam, resnet50, 100 epochs"]
    assert (cell.main, cell.under) == ("50.00 ± 0.00", "[50.00, 50.00], n = 3")


# What is bold.


def bold(*results: Result) -> list[str]:
    return [title for title, line in cells(table(*results)).items() if line[0].bold]


def test_difference_of_two_methods_is_welchs_where_images_are_many() -> None:
    a, b = (0.80, 0.82, 0.81, 0.84), (0.79, 0.75, 0.80)
    first, second = (only_sample(rows(*seeds(each, half=0.0))[0]) for each in (a, b))
    expected = stats.ttest_ind(a, b, equal_var=False)
    found = first.against(second)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_image_noise_of_both_methods_is_added_to_that_of_their_seeds() -> None:
    first, second = (only_sample(rows(*seeds(each, half=0.0196))[0]) for each in ((0.8, 0.8), (0.7, 0.7)))
    # without any spread over seeds a normal test of two independent standard errors of .01
    assert first.against(second).p == pytest.approx(2 * stats.norm.sf(0.1 / 0.0002**0.5), rel=1e-3)


def test_clearly_best_of_several_seeds_is_bold_and_no_other() -> None:
    strong = seeds([0.80, 0.81, 0.805], method="byol")
    weak = [*seeds([0.70, 0.71, 0.705]), *seeds([0.60, 0.61, 0.605], method="moco")]
    assert bold(*weak, *strong) == ["byol, resnet50, 100 epochs"]


def test_best_is_not_bold_if_one_of_the_others_is_close() -> None:
    close = seeds([0.80, 0.83, 0.77], method="byol")
    assert not bold(*seeds([0.80, 0.82, 0.81]), *close, *seeds([0.1, 0.11, 0.12], method="moco"))


def test_best_is_not_bold_within_the_noise_of_the_images() -> None:
    assert bold(*seeds([0.80, 0.801, 0.802]), *seeds([0.78, 0.781, 0.782], method="byol"))
    assert not bold(*seeds([0.80, 0.801, 0.802], half=0.04), *seeds([0.78, 0.781, 0.782], method="byol", half=0.04))


def test_best_is_not_bold_where_the_noise_of_the_images_is_not_known() -> None:
    unknown = {"interval": (NAN, NAN)}
    assert not bold(*seeds([0.80, 0.801, 0.802], **unknown), *seeds([0.78, 0.781, 0.782], method="byol", **unknown))


def test_nothing_is_bold_between_single_runs_whatever_their_difference() -> None:
    assert not bold(result(0.99, half=0.0), result(0.1, half=0.0, method="byol"))


def test_nothing_is_bold_where_the_best_and_one_other_are_single_runs() -> None:
    single = [result(0.99, half=0.0), result(0.2, half=0.0, method="byol")]
    assert not bold(*single, *seeds([0.10, 0.11, 0.12], method="moco"))


def test_nothing_is_bold_beside_a_single_run_whose_other_seeds_are_not_known() -> None:
    pair = [*seeds([0.80, 0.81, 0.805]), *seeds([0.70, 0.71, 0.705], method="byol")]
    assert bold(*pair)
    assert not bold(*pair, result(0.1, method="moco"))
    assert not bold(*pair, foreign(0.1, "moco, unknown"))
    assert not bold(*pair, control(0.1, "random initialisation, resnet50", 0))


def test_raw_pixels_have_no_seeds_and_keep_nothing_from_being_bold() -> None:
    pair = [*seeds([0.80, 0.81, 0.805]), *seeds([0.70, 0.71, 0.705], method="byol")]
    assert bold(*pair, control(0.3, "raw pixels, 32 x 32")) == ["simsiam, resnet50, 100 epochs"]


def test_single_row_is_never_bold() -> None:
    assert not bold(*seeds([0.80, 0.81, 0.805]))


def test_equal_rows_are_not_bold() -> None:
    assert not bold(*seeds([0.5, 0.5, 0.5], half=0.0), *seeds([0.5, 0.5, 0.5], half=0.0, method="byol"))


def test_row_that_is_bold_alone_is_not_bold_after_the_correction_over_many_rows() -> None:
    best, close = seeds([0.80, 0.82, 0.84], half=0.0), (0.72, 0.75, 0.77)
    first, other = (only_sample(rows(*seeds(each, half=0.0))[0]) for each in ((0.80, 0.82, 0.84), close))
    p = first.against(other).p
    assert 0.01 < p < 0.05
    assert bold(*best, *seeds(close, half=0.0, method="m0"))
    many = [each for i in range(5) for each in seeds(close, half=0.0, method=f"m{i}")]
    # five equal p values: Holm's correction is Bonferroni's
    assert bool(bold(*best, *many)) == (5 * p < 0.05)
    assert 5 * p > 0.05


def test_nothing_is_bold_between_two_checkpoints_with_several_trainings_on_top_of_each() -> None:
    methods = "simsiam", "byol"
    runs = [result(0.7 + 0.01 * i + 0.1 * (m == "byol"), run_seed=i, method=m) for m in methods for i in range(3)]
    grid = table(*runs)
    assert not any(cell.bold for line in cells(grid).values() for cell in line)
    assert any(note.startswith("Several trainings on top of one checkpoint are one run") for note in grid.notes)


def _equal_methods(
    draw: np.random.Generator, num_runs: Sequence[int], spread: Sequence[float], images: float
) -> dict[int, Sample]:
    """Of one true value: an error of the images for each method, and one of each seed. What has one run has no seed."""
    samples = {}
    for index, (number, deviation) in enumerate(zip(num_runs, spread, strict=True)):
        values = 0.5 + images * draw.standard_normal() + deviation * draw.standard_normal(number)
        interval = (0.5 - 1.96 * images, 0.5 + 1.96 * images)
        runs = records(SIMULATED[index][:number] if number > 1 else [control(0.5, "raw pixels")])
        samples[index] = Sample(
            tuple(each._replace(result=_with(each.result, interval)) for each in runs), tuple(values.tolist())
        )
    return samples


def _with(result: Result, interval: tuple[float, float]) -> Result:
    return Result(**{**vars(result), "interval": interval})


SIMULATED = [seeds([0.5] * 5, method=f"m{i}") for i in range(4)]


@pytest.mark.parametrize(
    ("num_runs", "spread", "images"),
    [
        ((3, 3), (0.01, 0.01), 0.0),
        ((3, 3), (0.01, 0.01), 0.01),
        ((5, 5), (0.01, 0.01), 0.003),
        ((2, 2), (0.01, 0.01), 0.01),
        ((3, 3), (0.01, 0.05), 0.0),
        ((3, 1), (0.01, 0.0), 0.005),  # raw pixels: no seeds
        ((3, 3, 3, 1), (0.01, 0.01, 0.01, 0.0), 0.005),
    ],
)
def test_equal_methods_are_bold_in_at_most_six_per_cent_of_columns(
    num_runs: Sequence[int], spread: Sequence[float], images: float
) -> None:
    draw, trials = np.random.default_rng(7), 2000
    found = sum(significantly_best(_equal_methods(draw, num_runs, spread, images)) is not None for _ in range(trials))
    assert found / trials <= 0.06


def test_methods_that_do_differ_are_found() -> None:
    draw = np.random.default_rng(7)
    found = 0
    for _ in range(200):
        samples = _equal_methods(draw, (3, 3), (0.01, 0.01), 0.005)
        better = Sample(samples[1].records, tuple(value + 0.08 for value in samples[1].values))
        found += significantly_best({0: samples[0], 1: better}) == 1
    assert found >= 190


# Empty cells.


def why(grid: Grid, row: str, index: int) -> str:
    return cells(grid)[row][index].why


def test_cell_without_a_record_says_so() -> None:
    grid = table(result(0.5), result(0.5, dataset="dtd"), result(0.6, method="byol"))
    assert numbers(grid)["byol, resnet50, 100 epochs"] == ["60.0", "–"]
    assert why(grid, "byol, resnet50, 100 epochs", 1) == "no record"
    assert any("no record: it was not measured" in note for note in grid.notes)
    assert "Marks: – no record." in grid.notes


@pytest.mark.parametrize("kind", ["protocol", "data", "images"])
def test_cell_that_was_measured_otherwise_says_so(kind: str) -> None:
    grid = table(result(0.5), result(0.6, method="byol", **APART[kind]))
    assert sorted(numbers(grid)["simsiam, resnet50, 100 epochs"]) == ["50.0", "≠"]
    assert sorted(numbers(grid)["byol, resnet50, 100 epochs"]) == ["60.0", "≠"]


def test_cell_of_contradicting_records_says_so(tmp_path: Path) -> None:
    found = read([result(0.5), result(0.6), result(0.7, dataset="dtd"), result(0.4, method="byol")], tmp_path)
    grid = grid_of(build_tables(Material(rows_of(found.records)[0], found.contradicting, ()))[0])
    assert numbers(grid) == {
        "simsiam, resnet50, 100 epochs": ["!", "70.0"],
        "byol, resnet50, 100 epochs": ["40.0", "–"],
    }


def test_contradiction_of_one_seed_costs_the_row_that_seed_alone(tmp_path: Path) -> None:
    found = read([*seeds([0.5, 0.6, 0.7]), result(0.9, seed=1)], tmp_path)
    (row,) = rows_of(found.records)[0]
    assert only_sample(row).values == (0.5, 0.7)
    assert len(found.problems) == 1


def test_contradiction_of_another_recipe_is_not_told_of_this_one(tmp_path: Path) -> None:
    ours, theirs = {"recipe": "r1"}, {"recipe": "r2"}
    contradiction = [result(0.5, **ours), result(0.6, **ours)]
    others = [result(0.7, dataset="dtd", **each) for each in (ours, theirs)]
    found = read([*contradiction, *others, result(0.4, method="byol")], tmp_path)
    grid = grid_of(build_tables(Material(rows_of(found.records)[0], found.contradicting, ()))[0])
    title = "simsiam, resnet50, 100 epochs"
    assert numbers(grid)[f"{title}, batch 512, recipe r1"] == ["!", "70.0"]
    assert numbers(grid)[f"{title}, batch 512, recipe r2"] == ["–", "70.0"]


# By batch size.


def test_batch_sizes_of_one_method_are_columns_of_a_table_of_their_own() -> None:
    several = [each for size in (256, 1024) for each in seeds([0.5, 0.6 + size / 1e5], batch=size, recipe=f"r{size}")]
    grid = table(*several, result(0.4, method="byol"), name="table-4")
    assert [header[-1] for header in grid.headers] == ["batch 256", "batch 1024"]
    assert {title: [cell.main for cell in line] for title, line in grid.rows} == {
        "simsiam, resnet50, 100 epochs": ["55.1 ± 7.3", "55.5 ± 7.8"]
    }
    assert [line["batch_size"] for line in grid.lines] == [256, 1024]


def test_method_of_one_batch_size_is_no_study_of_it() -> None:
    found = tables(*seeds([0.5, 0.6]), *seeds([0.5, 0.6], method="byol", batch=256))
    assert [each.name for each in found] == ["table-2"]


def test_batch_size_that_was_not_measured_is_an_empty_cell() -> None:
    both = [result(0.5, batch=size, recipe=f"r{size}", method=m) for m in ("byol", "moco") for size in (256, 512)]
    grid = table(*both[:3], result(0.7, batch=128, recipe="r128", method="moco"), name="table-4")
    assert numbers(grid) == {
        "byol, resnet50, 100 epochs": ["–", "50.0", "50.0"],
        "moco, resnet50, 100 epochs": ["70.0", "50.0", "–"],
    }


def test_contradiction_at_one_batch_size_is_not_told_of_another(tmp_path: Path) -> None:
    contradiction = [result(value, batch=256, recipe="r256") for value in (0.5, 0.6)]
    others = [result(0.7, batch=size, recipe=f"r{size}", dataset="dtd") for size in (128, 256)]
    # another method has both columns of the first data set
    full = [result(0.4, batch=size, recipe=f"r{size}", method="byol") for size in (128, 256)]
    found = read([*contradiction, *others, *full], tmp_path)
    made = build_tables(Material(rows_of(found.records)[0], found.contradicting, ()))
    (grid,) = (grid_of(each) for each in made if each.name == "table-4")
    assert [header[::3] for header in grid.headers[:2]] == [("cifar10", "batch 128"), ("cifar10", "batch 256")]
    assert numbers(grid)["simsiam, resnet50, 100 epochs"][:2] == ["–", "!"]


def test_two_recipes_of_one_batch_size_are_both_shown_or_neither() -> None:
    found = tables(
        result(0.5, recipe="a"),
        result(0.9, recipe="b"),
        result(0.7, recipe="c", batch=256),
        result(0.3, recipe="d", batch=256),
    )
    shown = [
        cell.sample.mean
        for each in found
        if each.name == "table-4"
        for _, line in each.rows
        for cell in line
        if cell.sample is not None
    ]
    assert sorted(shown) in ([], [0.3, 0.5, 0.7, 0.9])


# Published numbers.


def number(value: float, procedure: Procedure, **changes: Any) -> Published:
    pretraining = {"arch": "resnet50", "dataset": "ImageNet", "epochs": 100, "batch_size": 512}
    fields: dict[str, Any] = {
        **{"table": "t", "title": "Some & Body 2021, Table 1", "method": "SimSiam", "methods": ("simsiam",)},
        **{"origins": ("moco",), "pretraining": pretraining, "procedure": procedure, "dataset": "cifar10"},
        **{"metric": "accuracy", "variant": "", "value": value, "deviation": None, "runs": 1, "sure": "certain"},
    }
    return Published(**{**fields, **changes})


PUBLISHED = "SimSiam, resnet50, 100 epochs, batch 512 (Some & Body 2021, Table 1)"
LINEAR = Procedure("logistic regression", "linear", (Counterpart("native", PATH, ""),), "")
NEIGHBOUR = Procedure("1-NN", "knn", (Counterpart("native, 1-NN", KNN, "the vote is another one"),), "")
FROZEN = Procedure("frozen detector", "detection", (Counterpart("published", FPN, ""),), "")
PROBE = Procedure("linear layer", "probe", (Counterpart("sgd", SGD, ""),), "")
ABSENT = Procedure("finetuned", "finetuning", (), "this project does not finetune")


def test_published_number_stands_in_columns_of_its_protocol_alone() -> None:
    published = [number(0.9, LINEAR, deviation=0.001, runs=3)]
    grid = table(
        *(result(0.5), result(0.6, settings={**PATH, "size": 224}), result(0.7, dataset="dtd")), published=published
    )
    # this one stands last, with a rule above
    ((name, line),) = grid.below
    assert name == PUBLISHED
    hashes = [header[2] for header in grid.headers]
    shown = {hashes[i] for i, cell in enumerate(line) if cell.main}
    assert shown == {f"native ({protocol_hash(PATH)})"}
    assert [cell.main for cell in line].count("90.0 ± 0.10") == 1
    assert {cell.why for cell in line if not cell.main} == {"not published"}


def test_published_numbers_do_not_decide_what_is_bold() -> None:
    grid = table(
        *seeds([0.80, 0.81, 0.805]), *seeds([0.7, 0.71, 0.705], method="byol"), published=[number(0.99, LINEAR)]
    )
    assert {title: line[0].bold for title, line in cells(grid).items()} == {
        "simsiam, resnet50, 100 epochs": True,
        "byol, resnet50, 100 epochs": False,
        PUBLISHED: False,
    }


def test_published_numbers_of_several_batch_sizes_are_never_one_another() -> None:
    sizes = {256: 0.691, 512: 0.692, 1024: 0.693}
    pretraining = {"arch": "resnet50", "dataset": "ImageNet", "epochs": 100}
    published = [number(v, LINEAR, pretraining={**pretraining, "batch_size": size}) for size, v in sizes.items()]
    grid = table(result(0.5), published=published)
    assert sorted(cell.main for _, line in grid.below for cell in line) == ["69.1", "69.2", "69.3"]


def test_published_numbers_of_several_variants_are_never_one_another() -> None:
    published = [number(v, LINEAR, variant=name) for name, v in {"plain": 0.691, "with momentum": 0.692}.items()]
    grid = table(result(0.5), published=published)
    assert sorted(cell.main for _, line in grid.below for cell in line) == ["69.1", "69.2"]


def test_every_published_number_of_a_columns_protocol_stands_in_it() -> None:
    published = read_published()
    kinds = {
        (each.procedure.task, each.dataset, each.metric, c.protocol_hash)
        for each in published
        for c in each.procedure.ours
    }
    assert kinds
    for task, dataset, metric, digits in sorted(kinds):
        ours = result(0.5, task=task, dataset=dataset, metric=metric, protocol_hash=digits)
        wanted = [
            printed(each)
            for each in published
            if (each.procedure.task, each.dataset, each.metric) == (task, dataset, metric)
            and each.procedure.counterpart(digits)
        ]
        (grid,) = map(grid_of, tables(ours, published=published))
        assert sorted(cell.main for _, line in grid.below for cell in line) == sorted(wanted)


def test_published_number_of_a_batch_size_stands_in_its_column_alone() -> None:
    pretraining = {"arch": "resnet50", "dataset": "ImageNet", "epochs": 100}
    published = [number(0.69, LINEAR, pretraining={**pretraining, "batch_size": size}) for size in (256, 512)]
    ours = [result(0.5, batch=size, recipe=f"r{size}") for size in (256, 512)]
    grid = table(*ours, published=published, name="table-4")
    placed = {tuple(cell.main for cell in line) for _, line in grid.below}
    assert placed in ({("69.0", "69.0")}, {("69.0", ""), ("", "69.0")})


def test_published_numbers_are_printed_as_their_sources_print_them() -> None:
    assert printed(number(0.77, LINEAR, deviation=0.0067)) == "77.0 ± 0.67"
    assert printed(number(0.88, LINEAR)) == "88.0"
    assert printed(number(0.9147, LINEAR)) == "91.47"
    assert printed(number(0.3345, LINEAR)) == "33.45"


def beside(published: Published, *results: Result) -> list[Beside]:
    return beside_published(rows(*results), [published])


@pytest.mark.parametrize("published", [0.495, 0.9])
def test_one_run_beside_a_published_number_is_not_judged_since_other_seeds_are_not_known(published: float) -> None:
    (found,) = beside(number(published, LINEAR), result(0.495))
    assert (found.why, found.remark) == ("", "")
    assert found.difference == pytest.approx(0.495 - published)
    assert found.interval == pytest.approx((0.485, 0.505))
    assert (found.is_inside, found.verdict) == (None, "not judged: one run")


@pytest.mark.parametrize(
    ("ours", "told"),
    [({"epochs": 200}, "other pretraining"), ({"batch": 256}, "other pretraining"), ({"method": "moco"}, "another")],
)
def test_another_pretraining_or_an_unknown_method_is_not_judged(ours: Mapping[str, Any], told: str) -> None:
    (found,) = beside(number(0.505, LINEAR), *seeds([0.50, 0.51], **ours))
    assert found.difference == pytest.approx(0.0)
    assert found.is_inside is None
    assert told in found.verdict


def test_several_seeds_beside_a_published_mean_are_judged_by_where_such_a_mean_would_lie() -> None:
    values, runs = (0.50, 0.52, 0.51, 0.53), 3
    (found,) = beside(number(0.55, LINEAR, runs=runs), *seeds(values))
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * (1 / 4 + 1 / runs) ** 0.5
    assert found.interval == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert found.difference == pytest.approx(np.mean(values) - 0.55)
    assert found.is_inside is bool(abs(np.mean(values) - 0.55) <= half)


def test_published_numbers_of_equal_methods_lie_inside_in_95_of_100() -> None:
    draw, inside, trials = np.random.default_rng(3), 0, 1000
    shell = tuple(records(seeds([0.5] * 3)))
    for _ in range(trials):
        values = tuple((0.5 + 0.01 * draw.standard_normal(3)).tolist())
        theirs = float(np.mean(0.5 + 0.01 * draw.standard_normal(3)))
        inside += bool(Beside(number(theirs, LINEAR, runs=3), "a", Sample(shell, values)).is_inside)
    assert 0.93 <= inside / trials <= 0.97


def test_one_run_of_an_unknown_interval_is_neither_inside_nor_outside() -> None:
    (found,) = beside(number(0.5, LINEAR), result(0.495, interval=(NAN, NAN)))
    assert (found.interval, found.is_inside) == (None, None)
    assert found.difference == pytest.approx(-0.005)


def test_what_is_known_to_differ_in_pretraining_is_said() -> None:
    (found,) = beside(number(0.5, NEIGHBOUR), result(0.5, task="knn", settings=KNN, epochs=200, batch=256))
    assert found.sample is not None
    for told in ("epochs: ours 200, published 100", "batch: ours 256, published 512", "the vote is another one"):
        assert told in found.remark


def test_what_pretraining_does_not_say_is_said() -> None:
    (found,) = beside(number(0.5, LINEAR), foreign(0.5, "moco, resnet50, unknown"))
    for told in ("only that it is of the origin moco", "epochs: ours does not say, published 100"):
        assert told in found.remark
    assert "batch: ours does not say, published 512" in found.remark


def test_spelling_of_a_data_set_is_no_difference_in_pretraining() -> None:
    pretraining = {"arch": "resnet50", "dataset": "Image-Net", "epochs": 100, "batch_size": 512}
    (found,) = beside(number(0.5, LINEAR, pretraining=pretraining), result(0.5))
    assert found.remark == ""


def test_every_row_that_may_be_the_published_method_stands_beside_it() -> None:
    found = beside(number(0.5, LINEAR), result(0.4), foreign(0.3, "moco"), result(0.2, method="byol"))
    assert [each.title for each in found] == ["simsiam, resnet50, 100 epochs", "moco"]


REASONS: Mapping[str, tuple[Procedure, Result, str]] = {
    "not measured here": (ABSENT, result(0.5), "not measured here: this project does not finetune"),
    "no result on the data set": (LINEAR, result(0.5, dataset="dtd"), " on cifar10: linear, accuracy"),
    "another method": (LINEAR, result(0.5, method="byol"), "no checkpoint of ours of this method and architecture"),
    "another architecture": (LINEAR, result(0.5, arch="resnet18"), "no checkpoint of ours of this method"),
    "another protocol": (LINEAR, result(0.5, settings={**PATH, "size": 224}), "which differ in size: None and 224"),
}


@pytest.mark.parametrize(("procedure", "ours", "told"), REASONS.values(), ids=REASONS)
def test_where_nothing_is_compared_the_reason_stands(procedure: Procedure, ours: Result, told: str) -> None:
    (found,) = beside(number(0.5, procedure), ours)
    assert told in found.why
    assert (found.sample, found.difference, found.interval, found.is_inside) == (None, None, None, None)


def test_reason_names_both_protocols_and_their_hashes() -> None:
    other = {**PATH, "size": 224}
    (found,) = beside(number(0.5, LINEAR), result(0.5, settings=other, protocol="at 224 px"))
    assert f"published by native ({protocol_hash(PATH)}), ours by at 224 px ({protocol_hash(other)})" in found.why


@pytest.mark.parametrize("changes", [{"task": "knn"}, {"metric": "mean_per_class"}])
def test_reason_does_not_deny_results_of_another_kind_on_the_data_set(changes: Mapping[str, Any]) -> None:
    (found,) = beside(number(0.5, LINEAR), result(0.5, **changes))
    assert found.sample is None
    assert found.why != "no result of ours on cifar10"


def test_reason_is_in_words_where_our_settings_were_not_recorded() -> None:
    ours = result(0.5, protocol_hash="a" * 12)
    del ours.details["settings"]
    (found,) = beside(number(0.5, LINEAR), ours)
    assert "and None" not in found.why
    assert "a" * 12 in found.why


def test_printed_interval_and_verdict_agree() -> None:
    (found,) = beside(number(0.77, LINEAR, runs=3), *seeds([0.7705, 0.7706, 0.7707]))
    cells = dict(
        zip(
            ("set", "metric", "ours", "published", "difference", "interval", "verdict"),
            published_grid([found]).rows[0][1],
            strict=True,
        )
    )
    assert cells["verdict"].main == "outside"
    low, high = map(float, re.findall(r"[\d.]+", cells["interval"].main))
    assert not low <= float(cells["published"].main.split()[0]) <= high


# What stands in the files.

SPECIAL = (
    r"50 % of a_b & c #1 {x} ~y ^z \alpha | <b>*bold*</b> $x$ `code` [l](u) &amp; ~~s~~ é ß ½ « ñ",
    "[in brackets] 日本",
    "*starred*",
    "a -- b --- c 'd' \"e\"",
    "line\nbreak\tand tab\r",
)


def golden_results() -> list[Result]:
    """All kinds of cells: bold, empty for every reason, published, one run, several runs, seeds of two levels."""
    guided, plain = {"method": "simsiam-guided"}, {"method": "simsiam"}
    knn = {"task": "knn", "protocol": "native, 1-NN", "settings": KNN, "half": 0.004}
    dense = {"task": "detection", "protocol": "published", "settings": FPN, "dataset": "voc_2007", "half": 0.02}
    low = {"settings": {**PATH, "size": 96}, "protocol": "native, 96 px"}
    return [
        *seeds([0.801, 0.809, 0.805], **guided),
        *seeds([0.702, 0.711, 0.704], **plain),
        *(
            control(0.31, "raw pixels, 32 x 32"),
            *(control(0.40 + 0.02 * i, "random initialisation, resnet50", i) for i in (0, 1)),
        ),
        *(foreign(0.65, SPECIAL[0], half=0.012), foreign(0.64, SPECIAL[0], dataset="dtd", num_examples=1880)),
        *(foreign(0.55 + 0.01 * i, label, dataset="dtd", num_examples=1880) for i, label in enumerate(SPECIAL[1:4])),
        *(
            result(0.61, method="byol"),
            result(0.62, method="byol"),
            result(0.5, method="byol", dataset="dtd", num_examples=1880),
        ),
        *seeds([0.731, 0.732], method="moco", **low),
        *seeds([0.7712, 0.7716, 0.7709], **knn, **guided),
        *seeds([0.731, 0.733, 0.732], **knn, **plain),
        *seeds([0.650, 0.661], **plain, batch=256, recipe="r256"),
        *(result(0.48 + 0.01 * i, run_seed=i, metric="AP", **dense, **guided) for i in range(3)),
        *(result(0.70 + 0.01 * i, run_seed=i, metric="AP50", **dense, **guided) for i in range(3)),
        *(result(0.47, run_seed=0, metric="AP", **dense, **plain),),
    ]


def golden_published() -> list[Published]:
    theirs = {"title": "Some & Body 2021, Table 1", "runs": 3}
    return [
        number(0.77, NEIGHBOUR, deviation=0.0067, **theirs),
        number(
            0.822, NEIGHBOUR, deviation=0.0048, **theirs, method="SimSiam+GSG", methods=("simsiam-guided",), origins=()
        ),
        number(0.7195, LINEAR),
        number(0.71, LINEAR, dataset="dtd", method="BYOL", methods=("byol",)),
        number(0.488, FROZEN, dataset="voc_2007", metric="AP"),
        number(0.684, PROBE, dataset="imagenet"),
        number(0.9706, ABSENT),
        number(0.5, Procedure("the same at 48 px", "linear", (Counterpart("48 px", {**PATH, "size": 48}, ""),), "")),
    ]


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> list[Grid]:
    found = read(golden_results(), tmp_path_factory.mktemp("golden"))
    found_rows, published = rows_of(found.records)[0], golden_published()
    made = build_tables(Material(found_rows, found.contradicting, published))
    return [*map(grid_of, made), published_grid(beside_published(found_rows, published))]


def test_golden_tables_show_all_kinds_of_cells(grids: Sequence[Grid]) -> None:
    assert [grid.name for grid in grids] == ["table-1", "table-2", "table-3", "table-4", "published"]
    shown = [cell for grid in grids for _, line in (*grid.rows, *grid.below) for cell in line]
    assert {"–", "≠", "!"} <= {cell.main for cell in shown}
    assert any(cell.bold for cell in shown)
    assert {"n = 1", "n = 2", "n = 3"} <= {cell.under.rpartition(", ")[2] for cell in shown}
    whys = " ".join(cell.why for cell in shown)
    for told in ("not published", "no result of ours", "not measured here", "another protocol: published by"):
        assert told in whys
    assert {"inside", "outside"} <= {cell.main for cell in shown}
    assert all(grid.below for grid in grids[:3])


def _rewritten(path: Path, text: str) -> str:
    """The golden file's content; written first if this is asked for."""
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8", newline="")
    assert path.is_file(), f"{path} is missing; {_HOW}"
    return path.read_bytes().decode()


_HOW = (
    "if this is as it should be, write it by REWRITE_GOLDEN=1 python -m pytest tests/test_transfer_report_tables.py "
    "-k golden, and look at what git says differs"
)
FORMS = {"md": to_markdown, "tex": to_latex}
NAMES = ("table-1", "table-2", "table-3", "table-4", "published")


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_text_is_that_of_the_golden_file(name: str, suffix: str, grids: Sequence[Grid]) -> None:
    (text,) = (FORMS[suffix](grid) for grid in grids if grid.name == name)
    expected = _rewritten(GOLDEN / f"{name}.{suffix}", text)
    for number, (ours, golden) in enumerate(zip(text.split("\n"), expected.split("\n"), strict=False), start=1):
        assert ours == golden, f"line {number} of {name}.{suffix}; {_HOW}"
    assert text == expected, f"{name}.{suffix} is shorter or longer; {_HOW}"


@pytest.mark.parametrize("name", NAMES)
def test_csv_is_that_of_the_golden_file(name: str, grids: Sequence[Grid]) -> None:
    """Numbers up to rounding, which differs from one SciPy to another."""
    (text,) = (to_csv(grid) for grid in grids if grid.name == name)
    ours, golden = (list(csv.reader(io.StringIO(each))) for each in (text, _rewritten(GOLDEN / f"{name}.csv", text)))
    assert len(ours) == len(golden), f"{name}.csv; {_HOW}"
    for number, lines in enumerate(zip(ours, golden, strict=True), start=1):
        one, other = ([_number(field) for field in line] for line in lines)
        assert one == other, f"line {number} of {name}.csv; {_HOW}"


def _number(field: str) -> str:
    return f"{float(field):.10g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", field) else field


def test_golden_folder_holds_nothing_else() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.{s}" for name in NAMES for s in (*FORMS, "csv")}


class _Cells(html.parser.HTMLParser):
    """Text of the cells of HTML's tables, a list for each row; bold ones in bold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = tag
        elif tag == "br" and self._inside:
            self.rows[-1][-1] += "\n"
        elif tag == "strong":
            self.bold.append("")
        elif self._inside:
            self.rows[-1][-1] += f"<{tag}>"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def rendered(markdown: str) -> _Cells:
    """As GitHub's Markdown: CommonMark with tables and strikethrough."""
    return _Cells(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))


def test_markdown_has_as_many_cells_in_every_line(grids: Sequence[Grid]) -> None:
    for grid in grids:
        lines = [line for line in to_markdown(grid).split("\n") if line.startswith("|")]
        assert len(lines) == 2 + len(grid.rows) + len(grid.below)
        assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {len(grid.headers) + 2}
        found = rendered(to_markdown(grid))
        assert {len(row) for row in found.rows} == {len(grid.headers) + 1}
        assert len(found.bold) == sum(cell.bold for _, line in grid.rows for cell in line)


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    "label", [*SPECIAL, "&lt;b&gt; &copy; 1", "~~no~~ ~one~", "a\\|b", "trailing \\", "| |", "![i](x)"]
)
def test_markdown_shows_a_label_as_it_is(label: str) -> None:
    grid = table(foreign(0.5, label), *seeds([0.5, 0.6]))
    found = rendered(to_markdown(grid)).rows
    assert [len(row) for row in found] == [2, 2, 2]
    assert plain(found[1][0]) == plain(label)
    assert found[1][1] == "50.0\n[49.0, 51.0], n = 1"


def test_markdown_keeps_dollars_from_becoming_formulas() -> None:
    title = next(line for line in to_markdown(table(foreign(0.5, "costs $5 or $6"))).split("\n") if "costs" in line)
    assert re.search(r"(?<!\\)\$.*(?<!\\)\$", title) is None


def test_csv_reads_back_to_the_same_labels_and_numbers(grids: Sequence[Grid]) -> None:
    for grid in grids:
        back = list(csv.DictReader(io.StringIO(to_csv(grid), newline="")))
        assert len(back) == len(grid.lines)
        for ours, theirs in zip(grid.lines, back, strict=True):
            assert list(ours) == list(theirs)
            for key, value in ours.items():
                if isinstance(value, float):
                    assert float(theirs[key]) == value
                else:
                    assert theirs[key] == ("" if value is None else str(value))


def test_csv_of_ours_says_the_numbers_of_the_cells() -> None:
    values = (0.123456789, 0.2, 0.3)
    (line,) = csv.DictReader(io.StringIO(to_csv(table(*seeds(values)))))
    assert [float(line["mean"]), float(line["deviation"])] == [float(np.mean(values)), float(np.std(values, ddof=1))]
    assert (line["runs"], line["published"], line["significantly_best"], line["why_empty"]) == (
        "3",
        "False",
        "False",
        "",
    )


@pytest.mark.parametrize("label", ['quote " and, comma', "line\nbreak", "é 日本", "=1+1"])
def test_csv_keeps_a_label(label: str) -> None:
    (line,) = csv.DictReader(io.StringIO(to_csv(table(foreign(0.5, label))), newline=""))
    assert label in line["method"]


LATEX = shutil.which("pdflatex")
needs_latex = pytest.mark.skipif(LATEX is None, reason="pdflatex is not installed")


def compiled(folder: Path, *grids: Grid) -> str:
    """Compile tables, and return pdfTeX's log; an error stops it and is shown."""
    assert LATEX is not None
    body = "\n\\clearpage\n".join(map(to_latex, grids))
    # with what the table's own comment asks for, and nothing else
    packages = "\n".join(re.findall(r"^% (\\usepackage.*)", body, re.MULTILINE)[: len(grids)])
    document = f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{body}\\end{{document}}\n"
    (folder / "tables.tex").write_text(document, encoding="utf-8")
    command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[log.find("\n!") :][:800]
    return log


@needs_latex
def test_latex_of_the_golden_tables_compiles(grids: Sequence[Grid], tmp_path: Path) -> None:
    log = compiled(tmp_path, *grids)
    assert "Missing character" not in log
    assert f"({len(grids)} pages" in log


@needs_latex
@pytest.mark.parametrize(
    "labels",
    [
        [chr(code) for code in range(0x20, 0x7F)],
        [chr(code) for code in range(0xA0, 0x100)],
        [f"a{chr(code)}b" for code in (*range(1, 0x20), 0x7F, *range(0x80, 0xA0))],
        ["[1cm] bracket", "*", "* star", "[]", "日本 Ω Ж ∞ 😀", "-", "%", r"\end{tabular}", r"\input{/etc/passwd}"],
    ],
    ids=["ASCII", "Latin-1", "control characters", "what a row may not begin with"],
)
def test_latex_compiles_with_any_label(labels: Sequence[str], tmp_path: Path) -> None:
    lines = [foreign(0.5, label, protocol=label, checkpoint_sha256=digest(label)) for label in labels]
    grid = table(*lines[:1], *(Result(**{**vars(line), "protocol": "p"}) for line in lines))
    assert len(grid.rows) == len(labels)
    compiled(tmp_path, grid)


def test_latex_has_as_many_cells_in_every_line(grids: Sequence[Grid]) -> None:
    for grid in grids:
        body = to_latex(grid).partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        lines = [line for line in body.split("\n") if line.endswith(r" \\")]
        assert len(lines) == 1 + len(grid.rows) + len(grid.below)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(grid.headers)}


def test_column_is_all_that_decides_what_may_be_compared() -> None:
    assert set(Column._fields) == {
        *("task", "dataset", "split", "metric", "protocol", "protocol_hash", "data", "num_examples")
    }
