"""Videos that failed: the list that a command leaves of them, and its exit code."""

from collections.abc import Iterable
from pathlib import Path

from vigil.extract.errors import FailedVideo, UserError
from vigil.pipeline.text_files import read_csv, write_csv

FAILURES_NAME = "failures.csv"


class FailuresError(UserError):
    """A list of failures is damaged."""


def exit_code(num_failed: int, num_done: int) -> int:
    """The exit code of a command over many videos: 0: none failed; 3: some did; 4: all did.

    ``num_done`` counts the videos whose output exists now, including those done by earlier runs.
    """
    if not num_failed:
        return 0
    return 3 if num_done else 4


def write_failures(folder: Path, failures: Iterable[FailedVideo]) -> None:
    """Write ``failures.csv``, a row per video; without failures, only its header."""
    rows = ([one.video, one.reason, one.decoder, one.frame] for one in failures)
    write_csv(folder / FAILURES_NAME, "video reason decoder frame", rows)


def read_failures(folder: Path) -> tuple[FailedVideo, ...]:
    """Read what `write_failures` wrote in a folder; empty if it wrote nothing.

    Raises:
        FailuresError: the file is damaged.
    """
    path = folder / FAILURES_NAME
    if not path.is_file():
        return ()
    try:
        return tuple(_failure(row) for row in read_csv(path))
    except (KeyError, ValueError) as error:
        raise FailuresError(
            f"{path} is damaged ({error}): run the vigil extract or score that wrote it again"
        ) from error


def _failure(row: dict[str, str]) -> FailedVideo:
    frame = int(row["frame"]) if row["frame"] else None
    return FailedVideo(row["video"], row["reason"], row["decoder"], frame)
