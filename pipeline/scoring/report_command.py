"""`vigil report`: formats of a RESULTS folder, made from its JSON files."""

import logging
from collections import Counter

from vigil.extract.errors import counted
from vigil.pipeline.options import ReportOptions
from vigil.pipeline.result_formats import ALWAYS, read_formats
from vigil.pipeline.scoring.results import read_results
from vigil.pipeline.scoring.writers import write_about_all, write_beside

log = logging.getLogger(__name__)


def run_report(options: ReportOptions) -> int:
    """Write formats of a RESULTS folder again, and print the paths of files about all videos.

    Returns:
        The exit code, 0.

    Raises:
        UserError: the folder does not hold finished results, or a format cannot be written.
    """
    formats = [name for name in read_formats(options.format) if name != ALWAYS]
    results = read_results(options.results)
    num_written: Counter[str] = Counter()
    for result in results.videos:
        for path in write_beside(options.results, result, formats):
            num_written[path.suffix] += 1
    for suffix, number in num_written.items():
        log.info("%s written", counted(number, f"{suffix} file"))
    for path in write_about_all(options.results, results, formats):
        print(path)
    return 0
