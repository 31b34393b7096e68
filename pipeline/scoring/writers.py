"""The files that hold results: two tables, a row per file.

A new format is a module with a function like those of `csv_tables` or `formats`, its name in
`result_formats`, and a row here. Files of a video lie beside its JSON file, and are written as soon
as it is scored; files about all videos follow when all are done.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from vigil.extract.files import make_folder, sync
from vigil.pipeline.failures import FAILURES_NAME, write_failures
from vigil.pipeline.result_formats import DEFAULT_FORMATS
from vigil.pipeline.scoring.clips import clips_of, is_of_stream, remove_clips
from vigil.pipeline.scoring.csv_tables import write_events, write_summary
from vigil.pipeline.scoring.formats.chapters import write_chapters
from vigil.pipeline.scoring.formats.coco import write_coco
from vigil.pipeline.scoring.formats.cvat import write_cvat
from vigil.pipeline.scoring.formats.edit_list import write_edl
from vigil.pipeline.scoring.formats.label_studio import write_label_studio
from vigil.pipeline.scoring.formats.parquet import write_events_table, write_segments_table
from vigil.pipeline.scoring.formats.subtitles import write_srt, write_vtt
from vigil.pipeline.scoring.report.page import REPORT_NAME, remove_report, write_report
from vigil.pipeline.scoring.results import (
    MANIFEST_NAME,
    SUFFIX,
    Results,
    ResultsError,
    VideoResult,
    result_path,
    usable_name,
    video_path,
    write_manifest,
    write_result,
)
from vigil.pipeline.scoring.strips import write_strips


class Writer(NamedTuple):
    """What writes a file about all videos."""

    format: str
    """Name of its format, as in ``--format``."""
    write: Callable[[Path, Results], object]
    """Called with the path and the results."""


class VideoWriter(NamedTuple):
    """What writes a file about one video."""

    format: str
    write: Callable[[Path, VideoResult], object]


WRITERS = {
    "summary.csv": Writer("csv", write_summary),
    "events.csv": Writer("csv", write_events),
    FAILURES_NAME: Writer("json", lambda path, found: write_failures(path.parent, found.failures)),
    "events.parquet": Writer("parquet", write_events_table),
    "segments.parquet": Writer("parquet", write_segments_table),
    "label-studio.json": Writer("label-studio", write_label_studio),
    "coco.json": Writer("coco", write_coco),
    REPORT_NAME: Writer("html", write_report),
}
"""File name -> what writes it."""

VIDEO_WRITERS = {
    ".srt": VideoWriter("srt", write_srt),
    ".vtt": VideoWriter("vtt", write_vtt),
    ".edl": VideoWriter("edl", write_edl),
    ".ffmetadata": VideoWriter("chapters", write_chapters),
    ".cvat.xml": VideoWriter("cvat", write_cvat),
}
"""What follows the video's name in that of the file -> what writes it, besides the JSON file."""


def write_video(folder: Path, result: VideoResult, formats: Collection[str]) -> None:
    """Write the JSON file of a video, its files of these formats and the strips of its events.

    Others and clips are removed: they are of an earlier run, and may say something else. The clips
    of a stream stay; they were cut while it ran.

    Raises:
        ResultsError: the video's name cannot be used for its files.
        OSError: the disk is full or the folder cannot be written.
    """
    for suffix, writer in VIDEO_WRITERS.items():
        path = video_path(folder, result.video, suffix)
        if writer.format not in formats and os.path.isfile(path):  # noqa: PTH113  (is_file raises)
            path.unlink()
    if not is_of_stream(result):
        remove_clips(folder, result.video)
    _check_name(folder, result.video, formats)
    write_result(folder, result)
    write_beside(folder, result, formats)
    write_strips(folder, result)


def write_beside(folder: Path, result: VideoResult, formats: Collection[str]) -> list[Path]:
    """Write the files of a video of these formats beside its JSON file; returns their paths.

    Raises:
        ResultsError: the video's name cannot be used for them.
        OSError: the disk is full or the folder cannot be written.
    """
    _check_name(folder, result.video, formats)
    written = []
    for suffix, writer in VIDEO_WRITERS.items():
        if writer.format in formats:
            path = video_path(folder, result.video, suffix)
            with usable_name(path):
                writer.write(path, result)
            written.append(path)
    return written


def video_files(folder: Path, video: str) -> list[Path]:
    """The files of one video that are in RESULTS: its JSON file, those beside it, its clips."""
    beside = [video_path(folder, video, suffix) for suffix in (SUFFIX, *VIDEO_WRITERS)]
    return [*(path for path in beside if path.is_file()), *clips_of(folder, video)]


def _check_name(folder: Path, video: str, formats: Collection[str]) -> None:
    """Refuse a video (a folder of pictures) whose JSON file would be that of a format."""
    path = result_path(folder, video)
    for name, writer in WRITERS.items():
        if writer.format in formats and path == folder / name:
            raise ResultsError(
                f"{path} is the file of format {writer.format}: rename the video {video!r}, or "
                "leave the format out"
            )


def write_about_all(folder: Path, results: Results, formats: Collection[str]) -> list[Path]:
    """Write the files about all videos of these formats; returns their paths."""
    written = []
    for name, writer in WRITERS.items():
        if writer.format in formats:
            writer.write(folder / name, results)
            written.append(folder / name)
    return written


def write_overview(
    folder: Path, results: Results, formats: Collection[str] = DEFAULT_FORMATS
) -> None:
    """Write every file about all videos; the manifest, which marks a folder as finished, last."""
    write_about_all(folder, results, formats)
    write_manifest(folder, [result.video for result in results.videos], results.manifest)


def remove_overview(folder: Path) -> None:
    """Remove the files about all videos of an earlier run: without them RESULTS is unfinished."""
    make_folder(folder)
    for name in (MANIFEST_NAME, *WRITERS):
        (folder / name).unlink(missing_ok=True)
    remove_report(folder / REPORT_NAME)
    sync(folder)
