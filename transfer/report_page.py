"""The page of a report: one file with everything in it, without a script and without a request to anywhere."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import jinja2

from converters import __version__
from transfer.report_drawing import Drawn
from transfer.report_formats import Grid, published_grid
from transfer.report_provenance import Provenance
from transfer.report_published import Beside

_MARK = b'<meta name="generator" content="gsg-transfer report">'
_TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Attributes:
        summary: a sentence on what was read.
        problems: what to know before reading.
        comparison: of two methods, or None.
        tables: in their order.
        figures: in their order.
        absent: why other figures are not there.
        besides: published numbers with ours.
        provenance: of every number.
        files: that lie beside the page.
    """

    summary: str
    problems: tuple[str, ...]
    comparison: Grid | None
    tables: tuple[Grid, ...]
    figures: tuple[Drawn, ...]
    absent: tuple[str, ...]
    besides: tuple[Beside, ...]
    provenance: Provenance
    files: tuple[str, ...]


def is_report(path: Path) -> bool:
    """Whether a file is a page of this project; other tools call theirs likewise."""
    try:
        return _MARK in path.read_bytes()[:2000]
    except OSError:
        return False


def render(content: Content) -> str:
    """The page as HTML; all text from files is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    compared = published_grid([each for each in content.besides if each.sample is not None])
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title="Transfer of pretrained backbones",
        version=__version__,
        compared=compared,
        uncompared=_uncompared([each for each in content.besides if each.sample is None]),
        **vars(content),
    )
    return str(page)


def _uncompared(besides: Sequence[Beside]) -> list[tuple[str, Grid]]:
    """By their source, the numbers that ours does not stand beside, each with the reason."""
    parts = []
    for title, group in groupby(besides, key=lambda each: each.published.title):
        members = list(group)
        grid = published_grid(members)
        # what compares is empty throughout
        columns = [0, 1, 2, 3]
        rows = tuple((name, tuple(cells[column] for column in columns)) for name, cells in grid.rows)
        headers = tuple(grid.headers[column] for column in columns)
        sure = f"How sure we are: {members[0].published.sure}."
        parts.append((title, replace(grid, headers=headers, rows=rows, notes=(sure,))))
    return parts
