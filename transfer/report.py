"""Tables, figures and tests from result lines: python transfer/report.py [RUNS ...] [--compare A B]."""

import sys
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import re
import tempfile
from collections.abc import Sequence

from rich.console import Console

from converters.checkpoint import atomic_write
from converters.errors import ArgumentParser, InputError, printable, reports_input_errors
from transfer.published import read_published
from transfer.report_comparison import Paired, check_two, compare_rows, find_row
from transfer.report_curves import read_curves
from transfer.report_figures import draw_figures
from transfer.report_formats import FORMATS, Grid, comparison_grid, grid_of, published_grid
from transfer.report_page import Content, is_report, render
from transfer.report_provenance import provenance_of
from transfer.report_published import beside_published
from transfer.report_records import read_records
from transfer.report_rows import Row, rows_of
from transfer.report_tables import Material, build_tables

PAGE = "report.html"
_OWN = re.compile(
    r"(table-[1-4]|published|comparison)\.(md|csv|tex)|figure-(4|5|6|7|path|collapse|gradients|ranks)\.(png|pdf)"
)
_MOST_LINES = 20  # of problems on a terminal


@reports_input_errors
def main() -> int:
    """Run the command; returns its exit code: 0 if the report is written, 2 where nothing can be shown."""
    parser = ArgumentParser(description="Tables, figures and tests from result lines.")
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[Path("runs")], help="folders, with all below, or files (default: runs)"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two methods, by name, a part of it, or the first digits of a checkpoint's sha256",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/report"), help="folder of the report")
    return _run(parser.parse_args(), Console(highlight=False, soft_wrap=True, markup=False))


def _run(args: argparse.Namespace, console: Console) -> int:
    _check_output(args.output)
    read = read_records(args.runs)
    rows, told = rows_of(read.records)
    curves, of_curves = read_curves(args.runs)
    problems = [*read.problems, *told, *of_curves]
    for problem in problems[:_MOST_LINES]:
        print(f"warning: {printable(problem, length=1000)}", file=sys.stderr)
    if len(problems) > _MOST_LINES:
        print(f"warning: and {len(problems) - _MOST_LINES} more, which are on the page", file=sys.stderr)
    paired, refusal = None, None
    two = None
    if args.compare:
        two = find_row(rows, args.compare[0]), find_row(rows, args.compare[1])
        check_two(*two)
    try:
        paired = _compare(*two, console) if two else None
    except InputError as error:  # the tables do not depend on it
        refusal = error
    published = read_published()
    tables = [grid_of(table) for table in build_tables(Material(rows, read.contradicting, published))]
    if not tables:
        raise InputError("expected numbers that a table shows, got none; evaluate first")
    besides = beside_published(rows, published)
    with tempfile.TemporaryDirectory() as scratch:
        figures, absent = draw_figures(rows, curves, Path(scratch))
    comparison = comparison_grid(paired) if paired else None
    grids = [*tables, published_grid(besides), *([comparison] if comparison else [])]
    files = [f"{grid.name}.{suffix}" for grid in grids for suffix in FORMATS]
    files += [f"{figure.name}.{suffix}" for figure in figures for suffix in ("pdf", "png")]
    checkpoints = {each for row in rows for each in row.checkpoints}
    content = Content(
        summary=f"{len(read.records)} numbers of {len(rows)} methods and {len(checkpoints)} checkpoints.",
        problems=tuple(problems),
        comparison=comparison,
        tables=tuple(tables),
        figures=tuple(figures),
        absent=tuple(absent),
        besides=tuple(besides),
        provenance=provenance_of(rows),
        files=tuple(files),
    )
    page = render(content)
    _write(args.output, grids, page)
    for figure in figures:
        figure.write(args.output)
    _forget(args.output, {PAGE, *files})
    console.print(f"{content.summary[:-1]}: {len(tables)} tables, {len(figures)} figures")
    console.print(f"the page: {args.output / PAGE}; tables as .md, .csv and .tex and figures as .pdf beside it")
    if refusal is not None:
        raise refusal
    return 0


def _check_output(output: Path) -> None:
    """Refuse a folder that holds something else than an earlier report, and make a new one."""
    try:
        names = [each.name for each in output.iterdir()] if output.exists() else []
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}; choose another --output") from error
    names = [name for name in names if not name.startswith(f".{PAGE}.")]  # of a first report that was killed
    if names and not is_report(output / PAGE):
        raise InputError(
            f"{output} holds other files ({', '.join(sorted(names)[:3])}); expected a new folder or one of an earlier "
            "report: choose another --output"
        )


def _compare(first: Row, second: Row, console: Console) -> Paired:
    paired = compare_rows(first, second, lambda text: console.print(printable(text, length=1000)))
    for problem in paired.problems:
        print(f"warning: {printable(problem, length=1000)}", file=sys.stderr)
    for each in paired.tasks:
        comparison = each.comparison
        text = (
            f"{each.column.dataset}, {each.column.task}, {each.column.metric}: {100 * each.first:.2f} and "
            f"{100 * each.second:.2f}, difference {100 * comparison.difference:+.2f} "
            f"[{100 * comparison.low:+.2f}, {100 * comparison.high:+.2f}], p {each.adjusted:.3g} with Holm's "
            f"correction ({each.test})"
        )
        if comparison.detectable:  # of equal predictions no variance is known, from which power would follow
            text += f"; {100 * comparison.detectable:.2f} could have been shown"
        console.print(printable(text, length=1000))
    return paired


def _write(output: Path, grids: Sequence[Grid], page: str) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}; choose another --output") from error
    # the page first: a folder that has it is known as a report's, even if the rest is cut short
    with atomic_write(output / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    for grid in grids:
        for suffix, form in FORMATS.items():
            with atomic_write(output / f"{grid.name}.{suffix}") as temporary:
                temporary.write_text(form(grid), encoding="utf-8")


def _forget(output: Path, files: set[str]) -> None:
    """Remove what an earlier report has left that this one lacks, and nothing else."""
    for path in output.iterdir():
        if path.name not in files and _OWN.fullmatch(path.name) and path.is_file():
            path.unlink()


if __name__ == "__main__":
    raise SystemExit(main())
