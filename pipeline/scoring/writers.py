"""The files about all videos in RESULTS: one table, a row per format.

A new format is a module with a function like those of `csv_tables`, and a row here. Besides them,
each video has a JSON file, written as soon as it is scored (`results.write_result`).
"""

from collections.abc import Callable
from pathlib import Path

from vigil.extract.files import make_folder, sync
from vigil.pipeline.failures import FAILURES_NAME, write_failures
from vigil.pipeline.scoring.csv_tables import write_events, write_summary
from vigil.pipeline.scoring.report.page import REPORT_NAME, remove_report, write_report
from vigil.pipeline.scoring.results import MANIFEST_NAME, Results, write_manifest

WRITERS: dict[str, Callable[[Path, Results], object]] = {
    "summary.csv": write_summary,
    "events.csv": write_events,
    FAILURES_NAME: lambda path, results: write_failures(path.parent, results.failures),
    REPORT_NAME: write_report,
}
"""File name -> the function that writes it, given its path and the results."""


def write_overview(folder: Path, results: Results) -> None:
    """Write every file about all videos; the manifest, which marks a folder as finished, last."""
    for name, write in WRITERS.items():
        write(folder / name, results)
    write_manifest(folder, [result.video for result in results.videos], results.manifest)


def remove_overview(folder: Path) -> None:
    """Remove the files about all videos of an earlier run: without them RESULTS is unfinished."""
    make_folder(folder)
    for name in (MANIFEST_NAME, *WRITERS):
        (folder / name).unlink(missing_ok=True)
    remove_report(folder / REPORT_NAME)
    sync(folder)
