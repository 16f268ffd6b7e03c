"""Mean ranks over the data sets of linear transfer, with their critical difference."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from transfer import significance
from transfer.report_drawing import WIDE, Drawn, look_of, saved
from transfer.report_rows import MAIN_METRICS, Column, Row


def ranked(rows: Sequence[Row]) -> tuple[list[str], npt.NDArray[np.float64], list[Column]]:
    """Methods with a number on all data sets of the linear transfer by one protocol, their scores, and the data sets.

    Of the protocols the one with most data sets counts; methods that lack one of its data sets are left out.

    Returns:
        Titles (K,), scores (D, K), columns (D,).
    """
    by_protocol: dict[str, dict[Column, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        for column, sample in row.samples.items():
            if column.task == "linear" and column.metric in MAIN_METRICS:
                by_protocol[column.protocol_hash][column][row.title] = sample.mean
    if not by_protocol:
        return [], np.zeros((0, 0)), []
    columns = max(by_protocol.values(), key=len)
    most = max(len(each) for each in columns.values())
    chosen = {column: scores for column, scores in columns.items() if len(scores) * 2 > most}
    # a data set counts once: of its splits the one that most methods have
    kept = {column.dataset: column for column in sorted(chosen, key=lambda column: len(chosen[column]))}
    chosen = {column: scores for column, scores in chosen.items() if kept[column.dataset] == column}
    titles = [row.title for row in rows if all(row.title in scores for scores in chosen.values())]
    scores = np.array([[each[title] for title in titles] for each in chosen.values()])
    return titles, scores, list(chosen)


def draw_ranks(rows: Sequence[Row]) -> Drawn | str:
    """Critical difference diagram (Demsar 2006, Figure 1)."""
    title = "Mean ranks of linear transfer"
    titles, scores, columns = ranked(rows)
    if len(titles) < 2 or len(columns) < 2:
        return (
            f"{title}: expected two methods or more with numbers on two data sets or more by one protocol, got "
            f"{len(titles)} methods on {len(columns)} data sets."
        )
    ranks = significance.mean_ranks(scores)
    critical = significance.critical_difference(len(titles), len(columns))
    figure = _diagram(titles, ranks, critical)
    caption = (
        f"{title} over {len(columns)} data sets ({', '.join(column.dataset for column in columns)}), 1 the best. "
        "Methods that a bar joins do not differ "
        f"(Nemenyi's test, 5 %, critical difference {critical:.2f}; Demsar 2006)."
    )
    lacking = sum(any(column.task == "linear" for column in row.samples) for row in rows) - len(titles)
    if lacking:
        caption += f" {lacking} {'method is' if lacking == 1 else 'methods are'} left out, for lack of one of them."
    return saved("figure-ranks", caption, figure)


def _diagram(titles: Sequence[str], ranks: npt.NDArray[np.float64], critical: float) -> Figure:
    order, count = np.argsort(ranks, kind="stable"), len(titles)
    groups = significance.cliques(ranks, critical)
    height = 0.7 + 0.17 * count + 0.1 * len(groups)
    figure = Figure((WIDE, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.xaxis.tick_top()
    axes.set(xlim=(1 - 0.1 * count, count * 1.1), ylim=(-(count + len(groups) * 0.6) - 0.8, 1.2), yticks=[])
    axes.set_xticks(range(1, count + 1))
    axes.plot([1, 1 + critical], [0.7, 0.7], color="black", marker="|")
    axes.annotate(f"critical difference {critical:.2f}", (1 + critical, 0.7), (4, -2), textcoords="offset points")
    for index, group in enumerate(groups):
        y = -0.3 - 0.6 * index
        axes.plot([ranks[group[0]] - 0.02, ranks[group[-1]] + 0.02], [y, y], color="black", linewidth=3)
    top = -0.6 * len(groups) - 0.4
    for place, index in enumerate(order):
        y, look = top - place, look_of(int(place))
        axes.plot([ranks[index], ranks[index]], [1.2, y], color="grey", linewidth=0.6)
        axes.plot([ranks[index]], [y], color=look["color"], marker=look["marker"])
        left = ranks[index] > (1 + count) / 2
        axes.annotate(
            f"{titles[index]}  {ranks[index]:.2f}" if left else f"{ranks[index]:.2f}  {titles[index]}",
            *((ranks[index], y), (-6 if left else 6, -3)),
            textcoords="offset points",
            horizontalalignment="right" if left else "left",
            parse_math=False,
        )
    return figure
