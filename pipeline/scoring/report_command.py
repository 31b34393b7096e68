"""`vigil report`: formats and clips of a RESULTS folder, made from its JSON files."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

from vigil.extract.errors import counted
from vigil.extract.locks import locked
from vigil.pipeline.failures import exit_code
from vigil.pipeline.option_checks import check_clips
from vigil.pipeline.options import ReportOptions
from vigil.pipeline.result_formats import ALWAYS, read_formats
from vigil.pipeline.scoring.clips import add_clips, lacks_clips
from vigil.pipeline.scoring.results import Results, read_results
from vigil.pipeline.scoring.writers import WRITERS, write_about_all, write_beside

log = logging.getLogger(__name__)


def run_report(options: ReportOptions) -> int:
    """Write formats of a RESULTS folder again, and print the paths of files about all videos.

    Returns:
        The exit code: 0, or 3 if videos lack clips that were asked for.

    Raises:
        UserError: the folder does not hold finished results, or a format cannot be written.
    """
    check_clips(options)
    folder, formats = options.results, set(read_formats(options.format)) - {ALWAYS}
    results, num_failed = read_results(folder), 0
    if options.clips:
        with locked(folder):
            videos = add_clips(folder, results.videos, options.clip_margin)
        results = replace(results, videos=tuple(videos))
        num_failed = sum(lacks_clips(result) for result in videos)
        formats |= _written(folder)  # which do not name the clips yet
    _write(folder, results, formats)
    return exit_code(num_failed, len(results.videos))


def _write(folder: Path, results: Results, formats: set[str]) -> None:
    num_written: Counter[str] = Counter()
    for result in results.videos:
        for path in write_beside(folder, result, formats):
            num_written[path.suffix] += 1
    for suffix, number in num_written.items():
        log.info("%s written", counted(number, f"{suffix} file"))
    for path in write_about_all(folder, results, formats):
        print(path)


def _written(folder: Path) -> set[str]:
    """The formats of the files about all videos that are there."""
    return {row.format for name, row in WRITERS.items() if (folder / name).is_file()} - {ALWAYS}
