"""Ours beside what was published: only where the protocol is the same, and what differs where it is not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfer import significance
from transfer.published import Published
from transfer.report_rows import Column, Row, Sample
from transfer.significance import Interval
from transfer.training_folder import differences


@dataclass(frozen=True)
class Beside:
    """A published number and ours, or why there is none.

    Attributes:
        published: the published one.
        title: of our method; empty if there is none.
        sample: what its runs say, or None.
        why: nothing is compared; else empty.
        remark: what is known to differ all the same, in words; empty if nothing is.
        doubt: why it cannot be judged whether both are the same; empty if it can.
    """

    published: Published
    title: str = ""
    sample: Sample | None = None
    why: str = ""
    remark: str = ""
    doubt: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less the published one."""
        return None if self.sample is None else self.sample.mean - self.published.value

    @property
    def interval(self) -> Interval | None:
        """Where 95 % of numbers like the published one would lie if it were measured of our method.

        Of several seeds, the interval of the mean of as many further ones as it was published of; of one run, over the
        test images. None if it is not known.
        """
        if self.sample is None:
            return None
        several = significance.future_interval(self.sample.values, self.published.runs)
        return several or self.sample.interval

    @property
    def is_inside(self) -> bool | None:
        """Whether the published number lies in the interval; None where that is not judged."""
        interval = self.interval
        if interval is None or self.doubt or (self.sample and len(self.sample.values) == 1):
            return None
        return interval[0] <= self.published.value <= interval[1]

    @property
    def verdict(self) -> str:
        """The same in words; empty where nothing is compared."""
        if self.sample is None:
            return ""
        judged = {True: "inside", False: "outside", None: f"not judged: {self.doubt or 'one run'}"}
        return judged[self.is_inside]


def beside_published(rows: Sequence[Row], published: Sequence[Published]) -> list[Beside]:
    """Every published number with each of our methods that may be its, or with the reason why there is none."""
    return [each for number in published for each in _beside(number, rows)]


def _beside(number: Published, rows: Sequence[Row]) -> Iterator[Beside]:
    if number.procedure.why:
        yield Beside(number, why=f"not measured here: {number.procedure.why}")
        return
    alike = [
        (row, column, sample) for row in rows for column, sample in row.samples.items() if number.measures_like(column)
    ]
    ours = [each for each in alike if number.procedure.counterpart(each[1].protocol_hash)]
    of_method = [each for each in ours if number.may_hold(each[0].source)]
    if not of_method:
        yield Beside(number, why=_why(number, [(column, sample) for _, column, sample in alike], bool(ours)))
    for row, column, sample in of_method:
        counterpart = number.procedure.counterpart(column.protocol_hash)
        assert counterpart is not None
        told = [*_pretraining(number, row.source), *([counterpart.but] if counterpart.but else [])]
        yield Beside(number, row.title, sample, remark="; ".join(told), doubt=_doubt(number, row.source))


def _why(number: Published, alike: Sequence[tuple[Column, Sample]], by_its_protocol: bool) -> str:
    if not alike:
        return f"no result of ours of this kind on {number.dataset}: {number.procedure.task}, {number.metric}"
    if by_its_protocol:
        return "no checkpoint of ours of this method and architecture"
    column, sample = alike[0]
    first = number.procedure.ours[0]
    settings = sample.records[0].result.details.get("settings")
    told = differences(first.settings, settings) if settings else ["settings that our line does not tell"]
    more = f", and {len(told) - 3} more" if len(told) > 3 else ""
    return (
        f"another protocol: published by {first.name} ({first.protocol_hash}), ours by {column.protocol} "
        f"({column.protocol_hash}), which differ in {'; '.join(told[:3])}{more}"
    )


_FACTS = {"dataset": "data set", "epochs": "epochs", "batch_size": "batch"}


def _pretraining(number: Published, source: Mapping[str, Any]) -> Iterator[str]:
    """What our checkpoint's pretraining is known to have otherwise, or does not say."""
    if source.get("method") not in number.methods:
        yield f"our file says only that it is of the origin {source.get('method')}"
    for fact, name in _FACTS.items():
        wanted, got = number.pretraining.get(fact), source.get(fact)
        if wanted is None:
            continue
        if got is None:
            yield f"{name}: ours does not say, published {wanted}"
        elif _plain(got) != _plain(wanted):
            yield f"{name}: ours {got}, published {wanted}"


def _doubt(number: Published, source: Mapping[str, Any]) -> str:
    """Why a checkpoint may not be what a number was published of."""
    if source.get("method") not in number.methods:
        return "may be another method"
    facts = [(number.pretraining.get(fact), source.get(fact)) for fact in ("epochs", "batch_size")]
    other = any(None not in pair and _plain(pair[0]) != _plain(pair[1]) for pair in facts)
    return "other pretraining" if other else ""


def _plain(fact: Any) -> str:
    return str(fact).lower().replace("-", "")
