"""`vigil report`: formats and clips of a RESULTS folder, made from its JSON files."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

from vigil.data.annotations import load_annotations
from vigil.data.matching import match_videos
from vigil.extract.errors import UserError, counted
from vigil.extract.locks import locked
from vigil.pipeline.failures import exit_code
from vigil.pipeline.option_checks import wants_clips
from vigil.pipeline.options import ReportOptions
from vigil.pipeline.result_formats import ALWAYS, read_formats
from vigil.pipeline.scoring.clips import add_clips, lacks_clips
from vigil.pipeline.scoring.report.details import Truth
from vigil.pipeline.scoring.report.page import REPORT_NAME, write_report
from vigil.pipeline.scoring.results import Results, read_results
from vigil.pipeline.scoring.writers import WRITERS, write_about_all, write_beside

log = logging.getLogger(__name__)

HTML = WRITERS[REPORT_NAME].format


def run_report(options: ReportOptions) -> int:
    """Write formats of a RESULTS folder again, and print the paths of files about all videos.

    Returns:
        The exit code: 0, or 3 if videos lack clips that were asked for.

    Raises:
        UserError: the folder does not hold finished results, a format cannot be written, or
            annotations fit none of the videos.
    """
    folder, formats = options.results, set(read_formats(options.format)) - {ALWAYS}
    if options.annotations and HTML not in formats:
        raise UserError("--annotations are shown by the report: add html to --format")
    results, num_failed = read_results(folder), 0
    truth = read_truth(options, results)
    if wants_clips(options):
        with locked(folder):
            videos = add_clips(folder, results.videos, options.clip_margin, options.annotate)
        results = replace(results, videos=tuple(videos))
        num_failed = sum(lacks_clips(result) for result in videos)
        formats |= _written(folder)  # which do not name the clips yet
    if truth:
        formats.remove(HTML)
        write_report(folder / REPORT_NAME, results, truth)
        print(folder / REPORT_NAME)
    _write(folder, results, formats)
    return exit_code(num_failed, len(results.videos))


def read_truth(options: ReportOptions, results: Results) -> Truth:
    """Video -> its annotation, for the videos that the annotations of the options name."""
    if not options.annotations:
        return {}
    annotations = load_annotations(options.annotations)
    matching = match_videos(annotations, [result.video for result in results.videos])
    if matching.missing:
        log.info("%d annotations are of videos without results", len(matching.missing))
    return matching.annotations


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
