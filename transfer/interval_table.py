"""The numbers of a trained detector or segmentor, as a table with their intervals."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from transfer.results import Result


def print_intervals(console: Console, numbers: Sequence[Result]) -> None:
    """A row for each number, in per cent.

    Args:
        console: of the main process.
        numbers: shares, with their intervals.
    """
    table = Table(title="per cent [95 % interval over the test images]", title_justify="left")
    for header in ("test set", "images", "metric", "", "interval"):
        table.add_column(header, justify="left" if header in ("test set", "metric") else "right")
    for result in numbers:
        low, high = (100 * bound for bound in result.interval)
        name = f"{result.dataset}_{result.split}"
        interval = f"[{low:.1f}, {high:.1f}]"
        table.add_row(name, str(result.num_examples), result.metric, f"{100 * result.value:.1f}", interval)
    console.print(table, soft_wrap=False)
    if any(result.dataset.startswith("sample") for result in numbers):
        console.print("The sample says that the pipeline works; it says nothing about any other data.")
