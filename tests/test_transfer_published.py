"""The published numbers: as their sources print them, by which protocol of ours, and who may hold their method."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from converters import sources
from pretrain.config import load_config
from pretrain.loop import method_label
from tests import published_settings
from transfer import published, tasks
from transfer.published import NUMBERS, SETTINGS, Counterpart, Procedure, Published, read_published
from transfer.representations import raw_pixels
from transfer.results import Result, protocol_hash

PRETRAIN = Path(__file__).parents[1] / "configs" / "pretrain"


class Column(NamedTuple):
    """Procedure as named in the file; what is None is not known, or differs by row."""

    procedure: str
    dataset: str
    metric: str
    variant: str = ""
    epochs: int | None = None
    batch_size: int | None = None
    cifar: bool = False


class Row(NamedTuple):
    """Values as printed, in per cent; "-" for none."""

    method: str
    values: str
    epochs: int | None = None
    batch_size: int | None = None


class Table(NamedTuple):
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    runs: int = 1


GSG: dict[str, Any] = {"epochs": 100, "batch_size": 512}
CIFAR: dict[str, Any] = {"epochs": 200, "batch_size": 512, "cifar": True}

# Transcribed from the sources, not from the file that is tested.
TABLES = {
    "gsg-1": Table(
        "Lee & Lee 2023, Table 1",
        (
            Column("imagenet-knn", "imagenet", "accuracy", **GSG),
            Column("imagenet-linear", "imagenet", "best_accuracy", **GSG),
            Column("cifar10-knn", "cifar10", "accuracy", **CIFAR),
            Column("cifar10-linear", "cifar10", "accuracy", **CIFAR),
        ),
        (
            Row("SimSiam", "51.7 +- .11 | 67.9 +- .09 | 77.0 +- .67 | 82.7 +- .26"),
            Row("SimSiam+GSG", "58.4 +- .17 | 69.4 +- .02 | 82.2 +- .48 | 86.4 +- .28"),
            Row("BYOL", "56.5 +- .16 | 69.9 +- .02 | 85.4 +- .24 | 88.0 +- .09"),
            Row("BYOL+GSG", "62.2 +- .06 | 71.1 +- .12 | 89.4 +- .21 | 90.3 +- .16"),
        ),
        runs=3,
    ),
    "gsg-2": Table(
        "Lee & Lee 2023, Table 2",
        (
            Column("ericsson", "cifar10", "accuracy", **GSG),
            Column("ericsson", "aircraft", "mean_per_class", **GSG),
            Column("ericsson", "caltech101", "mean_per_class", **GSG),
            Column("ericsson", "cars", "accuracy", **GSG),
            Column("ericsson", "dtd", "accuracy", **GSG),
            Column("ericsson", "flowers", "mean_per_class", **GSG),
            Column("ericsson", "food", "accuracy", **GSG),
            Column("ericsson", "pets", "mean_per_class", **GSG),
            Column("sun397", "sun397", "accuracy", **GSG),
            Column("ericsson", "voc2007", "map_11point", **GSG),
        ),
        (
            Row("SimSiam", "90.0 | 39.7 | 86.5 | 31.8 | 70.9 | 88.8 | 61.6 | 81.4 | 57.8 | 80.5"),
            Row("SimSiam+GSG", "92.3 | 47.0 | 89.6 | 41.2 | 73.0 | 89.5 | 64.3 | 85.1 | 59.8 | 82.6"),
            Row("BYOL", "91.0 | 42.5 | 88.9 | 39.3 | 71.7 | 89.1 | 64.0 | 85.3 | 60.4 | 82.2"),
            Row("BYOL+GSG", "93.6 | 47.1 | 89.9 | 46.9 | 72.6 | 89.5 | 67.1 | 89.1 | 61.6 | 82.7"),
        ),
    ),
    "gsg-3": Table(
        "Lee & Lee 2023, Table 3",
        (
            Column("voc-detection", "voc_2007", "AP50", **GSG),
            Column("voc-detection", "voc_2007", "AP", **GSG),
            Column("voc-detection", "voc_2007", "AP75", **GSG),
            Column("coco-detection", "coco_2017", "AP50", **GSG),
            Column("coco-detection", "coco_2017", "AP", **GSG),
            Column("coco-detection", "coco_2017", "AP75", **GSG),
            Column("csail", "ade20k", "mIoU", **GSG),  # printed as a fraction: .2626
            Column("csail", "ade20k", "aAcc", **GSG),
        ),
        (
            Row("SimSiam", "77.0 | 48.8 | 52.2 | 50.7 | 31.2 | 32.8 | 26.26 | 65.63"),
            Row("SimSiam+GSG", "79.8 | 51.2 | 55.1 | 53.2 | 33.4 | 35.6 | 33.45 | 76.57"),
            Row("BYOL", "79.2 | 50.3 | 54.5 | 52.0 | 32.5 | 34.5 | 26.15 | 62.79"),
            Row("BYOL+GSG", "80.5 | 52.0 | 56.4 | 53.7 | 33.8 | 36.1 | 29.38 | 74.78"),
        ),
    ),
    "gsg-4": Table(
        "Lee & Lee 2023, Table 4",
        tuple(
            Column("imagenet-linear", "imagenet", "best_accuracy", epochs=100, batch_size=batch_size)
            for batch_size in (1024, 512, 256)
        ),
        (Row("SimSiam+GSG", "70.1 | 69.4 | 69.9"), Row("BYOL+GSG", "71.9 | 71.0 | 71.6")),
    ),
    "gsg-4-others": Table(
        "Lee & Lee 2023, Table 4",
        tuple(
            Column("imagenet-linear-other", "imagenet", "accuracy", batch_size=batch_size)
            for batch_size in (1024, 512, 256)
        ),
        (
            Row("End-to-end", "57.3 | 56.3 | 54.9"),
            Row("SimCLR", "62.8 | 60.7 | 57.5"),
        ),
    ),
    "gsg-4-negatives": Table(
        "Lee & Lee 2023, Table 4",
        tuple(
            Column("imagenet-linear-other", "imagenet", "accuracy", f"{negatives} negatives")
            for negatives in (1024, 512, 256)
        ),
        (
            Row("InstDisc", "54.1 | 52.0 | 50.0"),
            Row("MoCo v1", "57.5 | 56.4 | 54.7"),
        ),
    ),
    "ericsson-linear": Table(
        "Ericsson et al. 2021",
        (Column("ericsson", "cifar10", "accuracy"),),
        (Row("supervised", "91.47"), Row("DeepCluster-v2", "94.07")),
    ),
    "ericsson-others": Table(
        "Ericsson et al. 2021",
        (
            Column("finetuning", "cifar10", "accuracy"),
            Column("few-shot", "EuroSAT, 5-way 5-shot", "accuracy"),
            Column("few-shot", "ChestX, 5-way 50-shot", "accuracy"),
        ),
        (Row("DeepCluster-v2", "97.06 | 88.39 +- .49 | -"), Row("supervised", "- | - | 32.34 +- .45")),
    ),
    "ericsson-voc": Table(
        "Ericsson et al. 2021",
        tuple(Column("voc-detection", "voc_2007", metric) for metric in ("AP", "AP50", "AP75")),
        (Row("supervised", "51.99 | 81.53 | 56.21"), Row("BYOL", "- | 82.01 | -")),
    ),
    "ericsson-ade20k": Table(
        "Ericsson et al. 2021",
        (Column("csail", "ade20k", "mIoU"), Column("csail", "ade20k", "aAcc")),
        (
            Row("BYOL", "29.40 | 74.74"),
            Row("SeLa-v2", "29.56 | 74.71"),
            Row("SwAV", "29.61 | 74.87"),
            Row("DeepCluster-v2", "27.44 | 67.08"),
            Row("InsDis", "27.42 | 68.03"),
            Row("MoCo v1", "25.30 | 62.48"),
            Row("MoCo v2", "27.94 | 67.69"),
            Row("PIRL", "26.97 | 66.09"),
            Row("supervised", "25.63 | 61.83"),
        ),
    ),
    "simsiam-4": Table(
        "Chen & He 2021, Table 4",
        tuple(
            Column("imagenet-linear-other", "imagenet", "accuracy", epochs=epochs) for epochs in (100, 200, 400, 800)
        ),
        (
            Row("SimCLR", "66.5 | 68.3 | 69.8 | 70.4", batch_size=4096),
            Row("MoCo v2", "67.4 | 69.9 | 71.0 | 72.2", batch_size=256),
            Row("BYOL", "66.5 | 70.6 | 73.2 | 74.3", batch_size=4096),
            Row("SwAV", "66.5 | 69.1 | 70.7 | 71.8", batch_size=4096),
        ),
    ),
    "simsiam-4-own": Table(
        "Chen & He 2021, Table 4",
        tuple(
            Column("imagenet-linear", "imagenet", "best_accuracy", epochs=epochs, batch_size=256)
            for epochs in (100, 200, 400, 800)
        ),
        (Row("SimSiam", "68.1 | 70.0 | 70.8 | 71.3"),),
    ),
    "simsiam-code": Table(
        "facebookresearch/simsiam, README",
        tuple(
            Column("imagenet-linear", "imagenet", "best_accuracy", epochs=100, batch_size=batch_size)
            for batch_size in (512, 256)
        ),
        (Row("SimSiam", "68.1 | 68.3"),),
    ),
    "simsiam-4-supervised": Table(
        "Chen & He 2021",
        (Column("imagenet-linear-other", "imagenet", "accuracy"),),
        (Row("supervised", "76.5"),),
    ),
    "unigrad": Table(
        "fundamentalvision/UniGrad, README",
        tuple(
            Column("imagenet-linear-other", "imagenet", "accuracy", variant, epochs=100)
            for variant in ("original", "gradient form", "gradient form, momentum encoder")
        ),
        (
            Row("MoCo", "67.4 | 67.6 | 70.0"),
            Row("SimCLR", "62.7 | 67.6 | 70.0"),
            Row("SimSiam", "68.1 | 67.9 | 70.2"),
            Row("BYOL", "66.5 | 67.9 | 70.2"),
            Row("VICReg", "68.6 | 67.6 | 69.8"),
            Row("Barlow Twins", "68.7 | 67.6 | 70.0"),
            Row("UniGrad", "- | - | 70.3"),
        ),
    ),
    "unigrad-cutmix": Table(
        "fundamentalvision/UniGrad, README",
        (Column("imagenet-linear-other", "imagenet", "accuracy", epochs=800),),
        (Row("UniGrad", "74.9"),),
    ),
    "detectron2-voc": Table(
        "Detectron2",
        (Column("c4-voc", "voc_2007", "AP"), Column("c4-voc", "voc_2007", "AP50")),
        (Row("supervised", "51.9 | 80.3"),),
    ),
    "detectron2-coco": Table(
        "Detectron2",
        (Column("coco-supervised", "coco_2017", "AP", "1x"), Column("coco-supervised", "coco_2017", "AP", "3x")),
        (Row("supervised", "37.9 | 40.2"),),
    ),
    "moco-voc": Table(
        "facebookresearch/moco, README",
        tuple(Column("c4-voc", "voc_2007", metric) for metric in ("AP50", "AP", "AP75")),
        (
            Row("supervised", "81.3 | 53.5 | 58.8"),
            Row("MoCo v1", "81.5 | 55.9 | 62.6"),
            Row("MoCo v2", "82.4 | 57.0 | 63.6", epochs=200),
            Row("MoCo v2", "82.5 | 57.4 | 64.0", epochs=800),
        ),
        runs=5,
    ),
    "ade20k-csail": Table(
        "CSAILVision/semantic-segmentation-pytorch, README",
        tuple(
            Column("csail-upernet50", "ade20k", metric, variant)
            for variant in ("one scale", "several scales")
            for metric in ("mIoU", "aAcc")
        ),
        (Row("supervised", "40.44 | 79.80 | 41.55 | 80.23"),),
    ),
    "ade20k-mmseg": Table(
        "MMSegmentation",
        (
            Column("mmseg160k", "ade20k", "mIoU"),
            Column("mmseg-multiscale", "ade20k", "mIoU", "160,000 iterations"),
            Column("mmseg80k", "ade20k", "mIoU"),
            Column("mmseg-multiscale", "ade20k", "mIoU", "80,000 iterations"),
        ),
        (Row("supervised", "42.05 | 42.78 | 40.70 | 41.81"),),
    ),
    "mmselfsup": Table(
        "MMSelfSup",
        (
            Column("imagenet-linear-other", "imagenet", "accuracy", epochs=100),
            Column("voc07-svm", "voc2007", "mAP", epochs=100),
            Column("imagenet-linear-other", "imagenet", "accuracy", epochs=200),
            Column("voc07-svm", "voc2007", "mAP", epochs=200),
        ),
        (Row("SimSiam", "68.3 | 84.64 | 69.8 | 85.20"),),
    ),
}

CONTENT = yaml.safe_load(NUMBERS.read_text(encoding="utf-8"))
PROCEDURE_NAMES = {each["what"]: name for name, each in CONTENT["protocols"].items()}
ALL = read_published()
PROCEDURES = {PROCEDURE_NAMES[each.procedure.what]: each.procedure for each in ALL}
COUNTERPARTS = [
    pytest.param(procedure, counterpart, id=f"{name}: {counterpart.name}")
    for name, procedure in PROCEDURES.items()
    for counterpart in procedure.ours
]
every_counterpart = pytest.mark.parametrize(("procedure", "counterpart"), COUNTERPARTS)


class Key(NamedTuple):
    table: str
    method: str
    procedure: str
    dataset: str
    metric: str
    variant: str
    pretraining: tuple[tuple[str, Any], ...]


class Number(NamedTuple):
    """In per cent."""

    value: float
    deviation: float | None
    runs: int


def pretraining(column: Column, row: Row) -> tuple[tuple[str, Any], ...]:
    known = {
        "arch": "resnet18_cifar" if column.cifar else "resnet50",
        "dataset": "CIFAR-10" if column.cifar else "ImageNet",
        "epochs": row.epochs or column.epochs,
        "batch_size": row.batch_size or column.batch_size,
    }
    return tuple(sorted((name, value) for name, value in known.items() if value is not None))


def transcribed() -> Iterator[tuple[Key, Number]]:
    for name, table in TABLES.items():
        for row in table.rows:
            for column, cell in zip(table.columns, row.values.split(" | "), strict=True):
                if cell == "-":
                    continue
                value, _, deviation = cell.partition(" +- ")
                procedure, dataset, metric, variant, *_ = column
                key = Key(name, row.method, procedure, dataset, metric, variant, pretraining(column, row))
                yield key, Number(float(value), float(deviation) if deviation else None, table.runs)


def key_of(one: Published) -> Key:
    procedure = PROCEDURE_NAMES[one.procedure.what]
    known = tuple(sorted(one.pretraining.items()))
    return Key(one.table, one.method, procedure, one.dataset, one.metric, one.variant, known)


def number_of(one: Published) -> Number:
    return Number(100 * one.value, None if one.deviation is None else 100 * one.deviation, one.runs)


def same(expected: Number, found: Number) -> bool:
    return [each is None for each in expected] == [each is None for each in found] and all(
        abs(a - b) <= 1e-9 for a, b in zip(expected, found, strict=True) if a is not None and b is not None
    )


def number(table: str, method: str, **wanted: Any) -> Published:
    """The only number of a table, method, and whatever else is named."""
    (found,) = (
        each
        for each in ALL
        if (each.table, each.method) == (table, method)
        and all(getattr(each, name) == value for name, value in wanted.items())
    )
    return found


def leaves(settings: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in settings that holds nothing further."""
    inner = dict(enumerate(settings)) if isinstance(settings, list) else settings
    if not inner or not isinstance(inner, dict):
        yield path
        return
    for name, value in inner.items():
        yield from leaves(value, *path, name)


def changed(settings: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """The settings with another value at one place."""
    copy: dict[str, Any] = json.loads(json.dumps(settings))
    place: Any = copy
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = ["changed", place[path[-1]]]
    return copy


def result(**what: Any) -> Result:
    facts: dict[str, Any] = {
        "task": "knn",
        "dataset": "imagenet",
        "split": "val",
        "protocol": "native, 200-NN t 0.2",
        "protocol_hash": "0123456789ab",
        "metric": "accuracy",
        "value": 0.5,
        "unit": "share",
        "num_examples": 50_000,
        "interval": (0.49, 0.51),
        "representation": "simsiam",
        "checkpoint_sha256": "ab",
        "seed": 0,
        "details": {},
        "seconds": 1.0,
        "versions": {},
    }
    return Result(**{**facts, **what})


def read_changed(monkeypatch: pytest.MonkeyPatch, folder: Path, content: Mapping[str, Any]) -> tuple[Published, ...]:
    path = folder / "published.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr(published, "NUMBERS", path)
    return read_published()


# --- the numbers ---


def test_the_published_numbers_are_exactly_those_of_the_sources() -> None:
    expected, found = Counter(key for key, _ in transcribed()), Counter(map(key_of, ALL))
    assert found - expected == Counter(), "not in the sources, or twice"
    assert expected - found == Counter(), "missing"
    assert max(expected.values()) == 1, "two numbers of the sources cannot be told apart"


def test_every_published_value_deviation_and_number_of_runs_is_as_printed() -> None:
    expected = dict(transcribed())
    found = [(key_of(each), number_of(each)) for each in ALL]
    assert [(key, each, expected[key]) for key, each in found if not same(expected[key], each)] == []


def test_every_published_number_names_its_source_and_how_sure_it_is() -> None:
    assert [each for each in ALL if TABLES[each.table].source not in each.title] == []
    assert [each for each in ALL if not each.sure.strip()] == []


def test_a_number_that_its_source_only_rounds_is_not_called_certain() -> None:
    assert number("simsiam-4-supervised", "supervised").sure == "about"


def test_numbers_copied_from_other_papers_say_so() -> None:
    assert number("gsg-4-others", "End-to-end", value=0.573).sure.startswith("copied there from")


# --- procedures ---


def test_every_procedure_has_either_counterparts_of_ours_or_a_reason() -> None:
    assert [name for name, each in PROCEDURES.items() if bool(each.ours) == bool(each.why.strip())] == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ericsson", {"why": "no reason at all"}),
        ("ericsson", {"ours": []}),
        ("sun397", {"ours": [{"name": "ericsson-sklearn"}]}),
        ("sun397", {"why": ""}),
    ],
)
def test_a_procedure_with_both_or_neither_is_refused(
    name: str, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    protocols = {**CONTENT["protocols"], name: {**CONTENT["protocols"][name], **change}}
    with pytest.raises(AssertionError, match="either protocols of ours, or why there is none"):
        read_changed(monkeypatch, tmp_path, {**CONTENT, "protocols": protocols})


@pytest.mark.parametrize("values", [[70.1, 69.4], [70.1, 69.4, 69.9, 70.0]])
def test_a_row_of_more_or_fewer_values_than_columns_is_refused(
    values: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (table,) = (each for each in CONTENT["tables"] if each["id"] == "gsg-4")
    table = {**table, "rows": [{"method": "BYOL", "values": values}]}
    with pytest.raises(ValueError, match="zip"):
        read_changed(monkeypatch, tmp_path, {**CONTENT, "tables": [table]})


def test_counterparts_of_one_hash_have_one_name_and_the_other_way_round() -> None:
    ours = {(each.task, mine.name, mine.protocol_hash) for each in PROCEDURES.values() for mine in each.ours}
    assert [name for name, count in Counter((task, name) for task, name, _ in ours).items() if count > 1] == []
    assert [digest for digest, count in Counter(digest for *_, digest in ours).items() if count > 1] == []


def test_recorded_settings_are_those_of_the_protocols_today() -> None:
    recorded, current = json.loads(SETTINGS.read_text(encoding="utf-8")), published_settings.current()
    differ = [name for name in {**recorded, **current} if recorded.get(name) != current.get(name)]
    assert differ == [], (
        "these protocols are no longer what configs/published_settings.json says; if they still measure what the "
        "published numbers measured, run `python tests/published_settings.py`, else mend configs/published.yaml too"
    )


@every_counterpart
def test_result_of_a_counterparts_settings_is_matched(procedure: Procedure, counterpart: Counterpart) -> None:
    of_same_settings = result(protocol_hash=protocol_hash(json.loads(json.dumps(counterpart.settings))))
    assert procedure.counterpart(of_same_settings.protocol_hash) is counterpart


@every_counterpart
def test_result_of_any_changed_setting_is_not_matched(procedure: Procedure, counterpart: Counterpart) -> None:
    ways = list(leaves(counterpart.settings))
    assert len(ways) >= len(counterpart.settings) > 0
    others = {way: result(protocol_hash=protocol_hash(changed(counterpart.settings, way))) for way in ways}
    assert [way for way, each in others.items() if procedure.counterpart(each.protocol_hash) is not None] == []


@every_counterpart
def test_result_of_one_setting_more_or_fewer_is_not_matched(procedure: Procedure, counterpart: Counterpart) -> None:
    settings = counterpart.settings
    fewer = [{name: settings[name] for name in settings if name != left_out} for left_out in settings]
    for other in ({**settings, "another": 1}, *fewer):
        assert procedure.counterpart(protocol_hash(other)) is None


def test_procedure_without_counterparts_matches_no_result() -> None:
    hashes = {mine.protocol_hash for each in PROCEDURES.values() for mine in each.ours}
    others = [each for each in PROCEDURES.values() if not each.ours]
    assert others
    assert [each.what for each in others for digest in hashes if each.counterpart(digest) is not None] == []


@pytest.mark.parametrize("task", ["linear", "knn"])
def test_published_data_sets_and_metrics_are_named_as_in_results(task: str) -> None:
    ours = {(each.dataset, each.metric) for each in ALL if each.procedure.task == task}
    assert ours
    assert ours == {(dataset, tasks.find(dataset).METRIC) for dataset, _ in ours}


# --- which result, which checkpoint ---


def test_result_of_same_task_data_set_and_metric_measures_like_it_by_whatever_protocol() -> None:
    one = number("gsg-1", "SimSiam", dataset="imagenet", metric="accuracy")
    assert one.measures_like(result())
    assert one.measures_like(result(protocol="another", protocol_hash="ba9876543210", split="test"))


@pytest.mark.parametrize("other", [{"task": "probe"}, {"dataset": "cifar10"}, {"metric": "best_accuracy"}])
def test_result_of_another_task_data_set_or_metric_does_not_measure_like_it(other: dict[str, str]) -> None:
    assert not number("gsg-1", "SimSiam", dataset="imagenet", metric="accuracy").measures_like(result(**other))


def source(method: str | None, arch: str = "resnet50") -> dict[str, Any]:
    return {"arch": arch, "method": method, "branch": "online", "dataset": None, "epochs": None}


@pytest.mark.parametrize(
    ("method", "origin"),
    [
        ("SimSiam", "simsiam-symmetric-2views"),
        ("SimSiam+GSG", "simsiam-guided-4views"),
        ("BYOL", "byol-symmetric-2views"),
        ("BYOL+GSG", "byol-guided-4views"),
        *((method, "simsiam") for method in ("SimSiam", "SimSiam+GSG", "BYOL", "BYOL+GSG")),  # one format for all four
    ],
)
def test_checkpoint_may_hold_the_method_it_is_named_after_or_that_its_format_holds(method: str, origin: str) -> None:
    assert number("gsg-3", method, metric="mIoU").may_hold(source(origin))


@pytest.mark.parametrize(
    "other",
    [
        source("simsiam-guided-4views"),
        source("byol-symmetric-2views"),
        source("swav"),
        source("SimSiam"),  # its authors' name is none of a checkpoint
        source("unknown"),
        source(None),
        source("simsiam-symmetric-2views", arch="resnet18"),
        source("simsiam-symmetric-2views", arch="resnet18_cifar"),
        {"arch": "resnet50"},
        {"method": "simsiam-symmetric-2views"},
    ],
)
def test_checkpoint_of_another_or_no_method_or_another_architecture_may_not_hold_it(other: dict[str, Any]) -> None:
    assert not number("gsg-3", "SimSiam", metric="mIoU").may_hold(other)


def test_control_without_source_holds_no_published_method() -> None:
    control = raw_pixels().provenance.get("source", {})
    assert [each for each in ALL if each.may_hold(control)] == []


def test_method_that_no_checkpoint_is_known_of_is_held_by_none() -> None:
    unnamed = [each for each in ALL if each.method not in CONTENT["methods"]]
    assert {each.method for each in unnamed} == {"End-to-end", "InstDisc", "InsDis", "PIRL"}
    assert [each for each in unnamed if each.may_hold(source(each.method)) or each.may_hold(source(None))] == []


def test_every_origin_that_may_hold_a_method_is_a_source_that_can_be_read() -> None:
    assert {origin for each in ALL for origin in each.origins} <= set(sources.names())


@pytest.mark.parametrize(
    ("name", "method"),
    [("simsiam", "SimSiam"), ("simsiam_gsg", "SimSiam+GSG"), ("byol", "BYOL"), ("byol_gsg", "BYOL+GSG")],
)
@pytest.mark.parametrize(("folder", "dataset"), [("imagenet", "ImageNet"), ("cifar10", "CIFAR-10")])
def test_checkpoint_of_a_published_recipe_holds_its_method_and_no_other(
    name: str, method: str, folder: str, dataset: str
) -> None:
    config = load_config(PRETRAIN / f"{folder}_{name}.yaml", [])
    checkpoint = source(method_label(config), config.arch)
    table = [each for each in ALL if each.table == "gsg-1"]
    held = {(each.method, each.pretraining["dataset"]) for each in table if each.may_hold(checkpoint)}
    assert held == {(method, dataset)}
