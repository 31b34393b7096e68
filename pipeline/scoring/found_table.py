"""What scoring found, as a table on the terminal."""

from collections.abc import Iterator

from vigil.pipeline.logs import print_lines, print_table
from vigil.pipeline.scoring.results import Results, VideoResult
from vigil.pipeline.text_files import clock_time

HEADER = ("video", "label", "start", "stop", "peak")
MAX_ROWS = 50


def print_found(results: Results) -> None:
    """Print a row per event, and one per video without events, the highest peaks first.

    If there are more than `MAX_ROWS`, the others are counted.
    """
    rows = [row for result in results.videos for row in _rows_of(result)]
    rows += [(failed.video, "failed", "", "", "") for failed in results.failures]
    print_table(HEADER, rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        print_lines([f"and {len(rows) - MAX_ROWS} more rows: see summary.csv and events.csv"])


def _rows_of(result: VideoResult) -> Iterator[tuple[str, ...]]:
    if not result.events:
        yield result.video, result.label, "", "", f"{result.peak_score:.3f}"
    for event in result.events:
        start = event.start_clock or clock_time(event.start_seconds)
        stop = event.stop_clock or clock_time(event.stop_seconds, round_up=True)
        yield result.video, event.class_name, start, stop, f"{event.peak_score:.3f}"
