"""A report's tables as text: what stands in each cell, then as Markdown, LaTeX (booktabs) and CSV."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.published import Published
from transfer.report_comparison import Compared, Paired
from transfer.report_published import Beside
from transfer.report_rows import Sample
from transfer.report_tables import CONTRADICTION, NO_RECORD, OTHER_PROTOCOL, SEVERAL_RECIPES, Cell, Place, Table

_MARKS = {NO_RECORD: "–", OTHER_PROTOCOL: "≠", CONTRADICTION: "!", SEVERAL_RECIPES: "?"}  # of empty cells
LEVEL = 0.05  # of significance
_FINE = 0.1  # per cent: a smaller deviation needs a second digit


@dataclass(frozen=True)
class Text:
    """A cell.

    Attributes:
        main: its number; a mark where there is none.
        under: its interval and number of runs, or nothing.
        bold: whether it is emphasised.
        why: the cell is empty, or nothing.
    """

    main: str
    under: str = ""
    bold: bool = False
    why: str = ""


@dataclass(frozen=True)
class Grid:
    """A table as text.

    Attributes:
        name: for files.
        title: in words.
        headers: of each column but the first, lines from the general to the special.
        rows: title and cells of each row.
        below: likewise of rows that are set apart.
        notes: sentences below it.
        lines: the same for CSV: a number, or a reason for none, with all that belongs to it in each.
    """

    name: str
    title: str
    headers: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, tuple[Text, ...]], ...]
    below: tuple[tuple[str, tuple[Text, ...]], ...]
    notes: tuple[str, ...]
    lines: tuple[dict[str, Any], ...]


def grid_of(table: Table) -> Grid:
    """A table's text."""
    rows, below = (
        tuple((title, tuple(map(_text, cells))) for title, cells in part) for part in (table.rows, table.published)
    )
    lines = [
        _line(title, place, cell)
        for title, cells in (*table.rows, *table.published)
        for place, cell in zip(table.places, cells, strict=True)
    ]
    whys = {cell.why for _, cells in table.rows for cell in cells}
    marks = [f"{mark} {why}" for why, mark in _MARKS.items() if why in whys]
    notes = (*table.notes, *([f"Marks: {', '.join(marks)}."] if marks else []))
    return Grid(table.name, table.title, table.headers, rows, below, notes, tuple(lines))


def _text(cell: Cell) -> Text:
    if cell.sample is not None:
        main, under = _of_sample(cell.sample)
        return Text(main, under + (f", {cell.left_out} contradicting left out" if cell.left_out else ""), cell.best)
    if cell.published is not None:
        return Text(printed(cell.published), _runs(cell.published))
    return Text(_MARKS.get(cell.why, ""), why=cell.why)


def _of_sample(sample: Sample) -> tuple[str, str]:
    """Mean and deviation; interval and number of runs."""
    digits = 1 if sample.deviation is None or 100 * sample.deviation >= _FINE else 2
    spread = "" if sample.deviation is None else f" ± {100 * sample.deviation:.{digits}f}"
    interval = "" if sample.interval is None else f"{interval_text(sample.interval, digits)}, "
    number = f"n = {len(sample.values)}"
    if sample.on_top:
        number += f" ({len(sample.on_top)} on top ± {100 * float(np.std(sample.on_top, ddof=1)):.{digits}f})"
    return f"{100 * sample.mean:.{digits}f}{spread}", interval + number


def interval_text(interval: tuple[float, float], digits: int = 1) -> str:
    """In per cent."""
    low, high = (f"{100 * end:.{digits}f}" for end in interval)
    return f"[{low}, {high}]"


def _runs(number: Published) -> str:
    """How many runs a published number is of; nothing where its deviation is of something else."""
    return "" if number.runs == 1 and number.deviation is not None else f"n = {number.runs}"


def printed(number: Published) -> str:
    """A published number as its source prints it, in per cent."""
    deviation = "" if number.deviation is None else f" ± {100 * number.deviation:.2f}"
    digits = 1 if round(100 * number.value, 1) == round(100 * number.value, 4) else 2
    return f"{100 * number.value:.{digits}f}{deviation}"


def _line(title: str, place: Place, cell: Cell) -> dict[str, Any]:
    column, sample, number = place.column, cell.sample, cell.published
    low, high = sample.interval if sample is not None and sample.interval is not None else (None, None)
    return {
        "method": title,
        "task": column.task,
        "data_set": column.dataset,
        "split": column.split,
        "metric": column.metric,
        "protocol": column.protocol,
        "protocol_hash": column.protocol_hash,
        "images": column.num_examples,
        "data": column.data,
        "batch_size": place.batch_size,
        "published": number is not None,
        "runs": len(sample.values) if sample else number.runs if number else 0,
        "mean": sample.mean if sample else number.value if number else None,
        "deviation": sample.deviation if sample else number.deviation if number else None,
        "low": low,
        "high": high,
        "significantly_best": cell.best,
        "why_empty": cell.why,
    }


def published_grid(besides: Sequence[Beside]) -> Grid:
    """Every published number with ours beside it."""
    headers = (("data set",), ("metric",), ("ours",), ("published",), ("difference",), ("95 % interval",), ("",))
    rows = [(each.published.named(), tuple(_beside(each))) for each in besides]
    notes = (
        "Per cent. The interval is where 95 % of numbers like the published one would lie if our method were measured: "
        "for several seeds of ours, of the mean of as many runs as were published (Student's t); for one run of ours, "
        "over its test images. One run is not judged, since other seeds may move more, and neither is another "
        "pretraining or a file that may be of another method.",
        "Numbers are compared only where the protocol's hash is that of the published procedure.",
    )
    lines = tuple(_published_line(each) for each in besides)
    return Grid("published", "Published numbers and ours", headers, tuple(rows), (), notes, lines)


def _beside(each: Beside) -> Iterator[Text]:
    number = each.published
    yield Text(number.dataset, number.procedure.what)
    yield Text(number.metric)
    yield Text(*_of_sample(each.sample)) if each.sample else Text("–", each.why, why=each.why)
    yield Text(printed(number), _runs(number))
    yield Text("" if each.difference is None else f"{100 * each.difference:+.2f}")
    yield Text("" if each.interval is None else interval_text(each.interval, 2))
    yield Text(each.verdict, "; ".join(filter(None, [each.title, each.remark])))


def _published_line(each: Beside) -> dict[str, Any]:
    number, sample = each.published, each.sample
    low, high = each.interval or (None, None)
    return {
        "source": number.title,
        "method": number.method,
        "variant": number.variant,
        "task": number.procedure.task,
        "data_set": number.dataset,
        "metric": number.metric,
        "procedure": number.procedure.what,
        "epochs": number.pretraining.get("epochs"),
        "batch_size": number.pretraining.get("batch_size"),
        "published": number.value,
        "published_deviation": number.deviation,
        "published_runs": number.runs,
        "sure": number.sure,
        "ours": each.title,
        "runs": len(sample.values) if sample else 0,
        "mean": sample.mean if sample else None,
        "deviation": sample.deviation if sample else None,
        "difference": each.difference,
        "low": low,
        "high": high,
        "inside": each.is_inside,
        "verdict": each.verdict,
        "why_empty": each.why,
        "remark": each.remark,
    }


def comparison_grid(paired: Paired) -> Grid:
    """Two methods on every task."""
    headers = (
        *((paired.first,), (paired.second,), ("difference", "95 % interval"), ("p", "Holm's correction; alone")),
        *(("could have been shown", "with 80 % power"), ("test",)),
    )
    rows = tuple((_task(each), tuple(_compared(each))) for each in paired.tasks)
    notes = [
        "Per cent. Bold: the difference is significant (5 %, Holm's correction over the tasks). Intervals are of one "
        "task each.",
        "One run each: for other test images, training held fixed; nothing is said of other seeds. Several seeds: for "
        "other seeds and other test images, by variances of both levels and Student's t. One run against several: the "
        "one is given the others' deviation, which it cannot show itself.",
        "What could have been shown: the smallest true difference that is found in 80 % of such comparisons, at 5 % "
        "for one task alone.",
    ]
    if paired.ranks:
        first, second, number, p = paired.ranks
        notes.append(
            f"Mean ranks over {number} data sets of linear transfer: {first:.2f} and {second:.2f}; Wilcoxon's "
            f"signed-rank test over them: p {p:.3g} (Demsar 2006)."
        )
    lines = tuple(_comparison_line(paired, each) for each in paired.tasks)
    title = f"{paired.first} and {paired.second}"
    return Grid("comparison", title, headers, rows, (), (*notes, *paired.problems), lines)


def _task(each: Compared) -> str:
    column = each.column
    return f"{column.dataset}, {column.task}, {column.metric}, {column.protocol} ({column.protocol_hash})"


def _compared(each: Compared) -> Iterator[Text]:
    comparison = each.comparison
    for mean, number in zip((each.first, each.second), each.num_runs, strict=True):
        yield Text(f"{100 * mean:.2f}", f"n = {number}")
    interval = interval_text((comparison.low, comparison.high), 2)
    yield Text(f"{100 * comparison.difference:+.2f}", interval, each.adjusted < LEVEL)
    yield Text(f"{each.adjusted:.3g}", f"{comparison.p:.3g}")
    # equal predictions have no variance, from which no power follows
    yield Text(f"{100 * comparison.detectable:.2f}" if comparison.detectable else "")
    yield Text(each.test, f"{each.column.num_examples} images")


def _comparison_line(paired: Paired, each: Compared) -> dict[str, Any]:
    column, comparison = each.column, each.comparison
    return {
        "first": paired.first,
        "second": paired.second,
        "task": column.task,
        "data_set": column.dataset,
        "metric": column.metric,
        "protocol": column.protocol,
        "protocol_hash": column.protocol_hash,
        "images": column.num_examples,
        "mean_first": each.first,
        "mean_second": each.second,
        "runs_first": each.num_runs[0],
        "runs_second": each.num_runs[1],
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "p": comparison.p,
        "p_holm": each.adjusted,
        "detectable": comparison.detectable,
        "test": each.test,
    }


def to_markdown(grid: Grid) -> str:
    """A table in GitHub's Markdown, with title and notes."""
    headers = ["", *("<br>".join(map(_markdown, filter(None, header))) for header in grid.headers)]
    lines = [headers, ["---", *["---:"] * len(grid.headers)]]
    for title, cells in (*grid.rows, *grid.below):
        lines.append([_markdown(title), *map(_markdown_cell, cells)])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {_markdown(note)}" for note in grid.notes)
    return f"### {_markdown(grid.title)}\n\n{body}\n\n{notes}\n"


def _markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\|*_`<>[]&~$#" else c for c in " ".join(text.split()))


def _markdown_cell(cell: Text) -> str:
    main, under = _markdown(cell.main), _markdown(cell.under)
    return "<br>".join(filter(None, [f"**{main}**" if cell.bold else main, under]))


# Latin-1's letters that pdfLaTeX knows without a package
_ACCENTED = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ"

_ROWS_OF_A_PAGE = 30
_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "–": "--", "≠": r"$\neq$", "<": r"$<$", ">": r"$>$", "|": r"$|$", "\n": " "},
}


def to_latex(grid: Grid) -> str:
    """A table for a document with the packages that its first line names; over several pages if it has many rows."""
    if len(grid.rows) > _ROWS_OF_A_PAGE:
        return _long_latex(grid)
    width = len(grid.headers)
    headers = " & ".join(["", *(_stacked([_latex(each) for each in header if each]) for header in grid.headers)])
    bodies = [
        "\n".join(" & ".join(["{}" + _latex(title), *map(_latex_cell, cells)]) + r" \\" for title, cells in part)
        for part in (grid.rows, grid.below)
        if part
    ]
    notes = " ".join(_latex(note) for note in grid.notes)
    return "\n".join(
        [
            "% \\usepackage{booktabs, graphicx}",
            r"\begin{table}",
            rf"\caption{{{_latex(grid.title)}. {notes}}}",
            rf"\label{{tab:{grid.name}}}",
            r"\centering",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * width}}}",
            r"\toprule",
            headers + r" \\",
            r"\midrule",
            "\n\\midrule\n".join(bodies),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _long_latex(grid: Grid) -> str:
    headers = " & ".join(["", *(_latex(", ".join(filter(None, header))) for header in grid.headers)])
    lines = [
        " & ".join(["{}" + _latex(title), *(_latex(" ".join(filter(None, [c.main, c.under]))) for c in cells)]) + r" \\"
        for title, cells in (*grid.rows, *grid.below)
    ]
    share = 0.75 / len(grid.headers)
    columns = rf"*{{{len(grid.headers)}}}{{>{{\raggedright\arraybackslash}}p{{{share:.3f}\linewidth}}}}"
    notes = " ".join(map(_latex, grid.notes))
    return "\n".join(
        [
            "% \\usepackage{array, booktabs, longtable}",
            r"{\tiny\setlength{\tabcolsep}{2pt}",
            rf"\begin{{longtable}}{{>{{\raggedright\arraybackslash}}p{{.2\linewidth}}{columns}}}",
            rf"\caption{{{_latex(grid.title)}. {notes}}}\label{{tab:{grid.name}}}\\",
            r"\toprule",
            headers + r" \\",
            r"\midrule",
            r"\endhead",
            *lines,
            r"\bottomrule",
            r"\end{longtable}}",
            "",
        ]
    )


def _latex(text: str) -> str:
    """Text for pdfLaTeX with its default fonts; what these do not have becomes a question mark."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(_LATEX.get(c) or (c if c.isascii() or c in _ACCENTED else "?") for c in plain)


def _latex_cell(cell: Text) -> str:
    main = rf"\textbf{{{_latex(cell.main)}}}" if cell.bold else _latex(cell.main)
    return _stacked([main, *([rf"{{\scriptsize {_latex(cell.under)}}}"] if cell.under else [])])


def _stacked(parts: Sequence[str]) -> str:
    lines = r"\\".join(parts)
    return rf"\shortstack[r]{{{lines}}}" if len(parts) > 1 else lines


def to_csv(grid: Grid) -> str:
    """A line for each cell, with shares in 0..1 and all digits; empty where there is nothing."""
    file = io.StringIO()
    rows = csv.DictWriter(file, list(grid.lines[0]) if grid.lines else [], lineterminator="\n")
    rows.writeheader()
    rows.writerows(grid.lines)
    return file.getvalue()


FORMATS: dict[str, Callable[[Grid], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}
