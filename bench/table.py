"""Measure variants in turns, keeping the best time of each, and print figures as one table."""

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """To the baseline figure, whose ratio is 1; above 1 means more of the unit."""
    note: str = ""


def shortest_seconds(
    variants: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, float]:
    """The shortest time in seconds that each variant took, all of them measured in turns.

    Turns spread other load on the machine over all variants; the shortest time has least of it.
    """
    if warm_up:
        for work in variants.values():
            work()
    seconds: dict[str, float] = {}
    for _ in range(repeats):
        for name, work in variants.items():
            started = time.perf_counter()
            work()
            taken = time.perf_counter() - started
            seconds[name] = min(taken, seconds.get(name, taken))
    return seconds


def figure(value: float) -> str:
    """A number with three significant digits, and no fewer than its integer part has."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def render(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    return markdown(
        ("section", "what", ">value", "unit", ">ratio", "note"),
        [
            (row.section, row.what, figure(row.value), row.unit, f"{row.ratio:.2f}", row.note)
            for row in rows
        ],
    )


def markdown(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned as plain text too; columns named ``>...`` are right-aligned."""
    table = Table(box=box.MARKDOWN)
    for name in header:
        table.add_column(name.lstrip(">"), justify="right" if name[0] == ">" else "left")
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=10_000, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())
