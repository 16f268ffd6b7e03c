"""How a report's figures are drawn: legible at the width of a paper's column, told apart without colours."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from converters.checkpoint import atomic_write

COLUMN, WIDE = 3.3, 6.9  # inches: of one column of a paper, and of two
_DPI = 200
_LONG_LABEL = 50  # characters: two of them side by side would not fit
STYLE: dict[Any, Any] = {
    **{"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7},
    **{"ytick.labelsize": 7, "lines.linewidth": 1.2, "lines.markersize": 4, "axes.grid": True, "grid.alpha": 0.3},
    **{"pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False},
}
# Okabe & Ito 2008, "Color Universal Design": told apart with any kind of colour blindness; black comes last
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_LINES = ("-", "--", "-.", ":")
MARKERS = "os^Dv<>Phx"


@dataclass(frozen=True)
class Drawn:
    """A figure.

    Attributes:
        name: of its files.
        caption: in words.
        png: its content.
        pdf: likewise.
    """

    name: str
    caption: str
    png: bytes
    pdf: bytes

    def write(self, folder: Path) -> None:
        """Write NAME.png and NAME.pdf."""
        for suffix, content in (("png", self.png), ("pdf", self.pdf)):
            with atomic_write(folder / f"{self.name}.{suffix}") as temporary:
                temporary.write_bytes(content)


def saved(name: str, caption: str, figure: Figure) -> Drawn:
    """A figure as files."""
    content = {}
    for suffix, facts in (("png", {}), ("pdf", {"CreationDate": None})):  # equal figures are equal files
        file = io.BytesIO()
        figure.savefig(file, format=suffix, dpi=_DPI, metadata=facts)
        content[suffix] = file.getvalue()
    return Drawn(name, caption, **content)


def plain(text: str) -> str:
    """Text that is no formula, for labels of a legend."""
    return text.replace("$", r"\$")


def look_of(index: int) -> dict[str, Any]:
    """Of a line by its place: colour, dashes and marker all differ."""
    marker = MARKERS[index % len(MARKERS)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": _LINES[index % len(_LINES)], "marker": marker}


def panels_of(count: int, height: float = 2.2) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, as wide as one column of a paper if there is one, of both otherwise."""
    columns = min(count, 2)
    lines = -(-count // columns)
    figure = Figure((COLUMN if columns == 1 else WIDE, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def legend_of(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, below them, where it hides nothing; each label once."""
    labelled = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = 1 if figure.get_figwidth() < WIDE or max(map(len, labelled)) > _LONG_LABEL else 2
    figure.legend(list(labelled.values()), list(labelled), loc="outside lower center", ncols=columns, frameon=False)


def with_left_out(caption: str, number: int, most: int, what: str) -> str:
    """A caption that says how many of what it could have shown it shows."""
    return f"{caption}. The first {most} of {number} {what}." if number > most else f"{caption}."
