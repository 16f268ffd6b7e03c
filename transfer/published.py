"""Published numbers with their sources and protocols, from configs/published.yaml."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from transfer.report_rows import Column
from transfer.results import Result, protocol_hash

_FOLDER = Path(__file__).resolve().parents[1] / "configs"
NUMBERS = _FOLDER / "published.yaml"
SETTINGS = _FOLDER / "published_settings.json"


@dataclass(frozen=True)
class Counterpart:
    """A protocol of ours that measures what a published one does.

    Attributes:
        name: as in results.
        settings: all of them.
        but: what is still different, in words; empty if nothing is known.
    """

    name: str
    settings: dict[str, Any]
    but: str

    @cached_property
    def protocol_hash(self) -> str:
        """Of the settings, as in results."""
        return protocol_hash(self.settings)


@dataclass(frozen=True)
class Procedure:
    """How a published number was measured.

    Attributes:
        what: in words.
        task: as in results; one that this project does not have if nothing of it measures that.
        ours: protocols of this project that do the same.
        why: there is none.
    """

    what: str
    task: str
    ours: tuple[Counterpart, ...]
    why: str

    def counterpart(self, protocol_hash: str) -> Counterpart | None:
        """That of a hash, if it measures the same."""
        return next((each for each in self.ours if each.protocol_hash == protocol_hash), None)


@dataclass(frozen=True)
class Published:
    """A published number.

    Attributes:
        table: short name of where it stands.
        title: the same in words.
        method: as its authors call it.
        methods: what checkpoints of ours of this method are called.
        origins: of foreign files that may hold this method.
        pretraining: what is known of it: arch, dataset, epochs, batch_size.
        procedure: how it was measured.
        dataset: as in results, where this project has it.
        metric: as in results.
        variant: which of several numbers of the same kind; empty if there is one.
        value: a share in 0..1.
        deviation: over the runs, likewise; None where none is given.
        runs: that the value is the mean of.
        sure: how sure we are of it, in words.
    """

    table: str
    title: str
    method: str
    methods: tuple[str, ...]
    origins: tuple[str, ...]
    pretraining: Mapping[str, Any]
    procedure: Procedure
    dataset: str
    metric: str
    variant: str
    value: float
    deviation: float | None
    runs: int
    sure: str

    def named(self, *, batch: bool = True) -> str:
        """Method with all that tells it from other numbers of the same table.

        Args:
            batch: whether to say the batch size.
        """
        known = self.pretraining
        parts = [self.method, self.variant, str(known.get("arch", ""))]
        parts += [f"{known['epochs']} epochs"] if "epochs" in known else []
        parts += [f"batch {known['batch_size']}"] if batch and "batch_size" in known else []
        return f"{', '.join(filter(None, parts))} ({self.title})"

    def measures_like(self, result: Result | Column) -> bool:
        """Whether a result, or a column of results, is of the same kind, data set and metric, by whatever protocol."""
        return (result.task, result.dataset, result.metric) == (self.procedure.task, self.dataset, self.metric)

    def may_hold(self, source: Mapping[str, Any]) -> bool:
        """Whether a checkpoint may be of this method and architecture.

        Args:
            source: of the checkpoint, as in a result's details; empty for a control.
        """
        known = source.get("method") in (*self.methods, *self.origins)
        return known and source.get("arch") == self.pretraining.get("arch")


def read_published() -> tuple[Published, ...]:
    """All published numbers, in the order of the file."""
    content = yaml.safe_load(NUMBERS.read_text(encoding="utf-8"))
    settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    procedures = {name: _procedure(each, settings) for name, each in content["protocols"].items()}
    return tuple(published for table in content["tables"] for published in _numbers(table, content, procedures))


def _procedure(entry: Mapping[str, Any], settings: Mapping[str, Any]) -> Procedure:
    task = entry["task"]
    ours = tuple(
        Counterpart(each["name"], settings[f"{task}: {each['name']}"], each.get("but", ""))
        for each in entry.get("ours", ())
    )
    assert bool(ours) != bool(entry.get("why")), f"{entry['what']}: either protocols of ours, or why there is none"
    return Procedure(entry["what"], task, ours, entry.get("why", ""))


def _numbers(
    table: Mapping[str, Any],
    content: Mapping[str, Any],
    procedures: Mapping[str, Procedure],
) -> Iterator[Published]:
    for row in table["rows"]:
        names = content["methods"].get(row["method"], {})
        for column, number in zip(table["columns"], row["values"], strict=True):
            if number is None:
                continue
            value, deviation = number if isinstance(number, list) else (number, None)
            protocol = content["protocols"][column["protocol"]]
            yield Published(
                table=table["id"],
                title=table["title"],
                method=row["method"],
                methods=tuple(names.get("is", ())),
                origins=tuple(names.get("may_be", ())),
                pretraining={
                    **table.get("pretraining", {}),
                    **column.get("pretraining", {}),
                    **row.get("pretraining", {}),
                },
                procedure=procedures[column["protocol"]],
                dataset=column.get("dataset") or protocol["dataset"],
                metric=column.get("metric") or protocol["metric"],
                variant=column.get("variant", ""),
                value=value / 100,
                deviation=None if deviation is None else deviation / 100,
                runs=table["runs"],
                sure=table["sure"],
            )
