"""`vigil report`: write the report of a RESULTS folder again, with the truth if it is given."""

import logging

from vigil.data.annotations import load_annotations
from vigil.data.matching import match_videos
from vigil.pipeline.options import ReportOptions
from vigil.pipeline.scoring.report.details import Truth
from vigil.pipeline.scoring.report.page import REPORT_NAME, write_report
from vigil.pipeline.scoring.results import Results, read_results

log = logging.getLogger(__name__)


def run_report(options: ReportOptions) -> int:
    """Write the report of a RESULTS folder again, and print its path.

    Returns:
        The exit code, 0.

    Raises:
        UserError: the folder does not hold finished results, or annotations fit none of its videos.
    """
    results = read_results(options.results)
    path = options.results / REPORT_NAME
    write_report(path, results, read_truth(options, results))
    print(path)
    return 0


def read_truth(options: ReportOptions, results: Results) -> Truth:
    """Video -> its annotation, for the videos that the annotations of the options name."""
    if not options.annotations:
        return {}
    annotations = load_annotations(options.annotations)
    matching = match_videos(annotations, [result.video for result in results.videos])
    if matching.missing:
        log.info("%d annotations are of videos without results", len(matching.missing))
    return matching.annotations
