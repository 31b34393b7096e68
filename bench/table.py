"""What was measured, as one table, and the way to measure: in turns, and the best of each."""

import io
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure."""

    section: str
    what: str
    value: float
    unit: str
    ratio: float
    """To the figure it is compared with, which has ratio 1; above 1 is more of the unit."""
    note: str = ""


def shortest_seconds(
    variants: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, float]:
    """The shortest time in seconds that each variant took, all of them measured in turns.

    Turns spread what else the machine does over all variants; the shortest time has least of it.
    """
    if warm_up:
        for work in variants.values():
            work()
    seconds: dict[str, float] = {}
    for _ in range(repeats):
        for name, work in variants.items():
            begun = time.perf_counter()
            work()
            taken = time.perf_counter() - begun
            seconds[name] = min(taken, seconds.get(name, taken))
    return seconds


def figure(value: float) -> str:
    """A number with three significant digits, and no fewer than its integer part has."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def render(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table that lines up as plain text too."""
    table = Table("section", "what", box=box.MARKDOWN)
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("ratio", justify="right")
    table.add_column("note")
    for row in rows:
        ratio = f"{row.ratio:.2f}"
        table.add_row(row.section, row.what, figure(row.value), row.unit, ratio, row.note)
    text = io.StringIO()
    Console(file=text, width=10_000, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())
