"""RESULTS, the folder that scoring leaves: a JSON file per video, tables, a manifest.

Names of files come from outside and may hold anything a file system allows, commas and line breaks
included: tables quote them, and bytes that are not UTF-8 come back as the same bytes.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dacite

from extract.errors import FailedVideo, UserError
from extract.store import replace_file
from pipeline.events import Event

FORMAT = "vigil-result"
MANIFEST_FORMAT = "vigil-results"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SUMMARY_NAME = "summary.csv"
EVENTS_NAME = "events.csv"
FAILURES_NAME = "failures.csv"
SUFFIX = ".json"

# A container's count may differ from the decoded one by this much without a word.
MAX_FRAME_MISMATCH = 2


class ResultsError(UserError):
    """A folder of results is missing, incomplete or not one of ours."""


@dataclass(frozen=True)
class SegmentScore:
    """The score of one segment, 0..1, and where it lies; it may hold no frames (start = stop)."""

    start_frame: int
    stop_frame: int
    start_seconds: float
    stop_seconds: float
    score: float


@dataclass(frozen=True)
class VideoResult:
    """What the model says about one video."""

    video: str
    """Path relative to the folder of videos, with forward slashes."""
    source: str | None
    """Where the video file was; None where scoring started from feature files."""
    label: str
    """The most probable of all classes, normal included."""
    class_probabilities: dict[str, float]
    peak_score: float
    threshold: float
    events: tuple[Event, ...]
    segments: tuple[SegmentScore, ...]
    views: tuple[str, ...]
    fps: float
    num_frames_container: int
    """What the container promises; 0 where it does not say."""
    num_frames_decoded: int
    num_frames_damaged: int
    spec_digest: str
    """Of the settings that the features were extracted with."""
    warnings: tuple[str, ...]

    @property
    def duration_seconds(self) -> float:
        """The end of the last segment."""
        return max(segment.stop_seconds for segment in self.segments)

    @property
    def label_probability(self) -> float:
        """Probability of the label, 0..1."""
        return self.class_probabilities[self.label]

    @property
    def event_seconds(self) -> float:
        """Summed length of the events."""
        return sum(event.stop_seconds - event.start_seconds for event in self.events)


@dataclass(frozen=True)
class Results:
    """All of a RESULTS folder."""

    manifest: dict[str, Any]
    videos: tuple[VideoResult, ...]
    """By falling peak score."""
    failures: tuple[FailedVideo, ...]


def result_path(folder: Path, video: str) -> Path:
    """Where the result of a video lies: ``<folder>/<video path relative to its root>.json``."""
    return folder / (video + SUFFIX)


def write_result(folder: Path, result: VideoResult) -> None:
    """Write the JSON file of one video."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(result)}
    write_json(result_path(folder, result.video), content)


def read_result(path: Path) -> VideoResult:
    """The result that `write_result` wrote.

    Raises:
        ResultsError: the file is missing, or not such a file.
    """
    content = _read_json(path, FORMAT)
    try:
        return dacite.from_dict(VideoResult, content, dacite.Config(cast=[tuple], strict=True))
    except (dacite.DaciteError, TypeError) as error:
        raise ResultsError(f"{path} is no result of vigil score ({error}): score again") from error


def write_tables(folder: Path, results: Iterable[VideoResult]) -> None:
    """Write ``summary.csv``, a row a video by falling peak score, and ``events.csv``."""
    ranked = by_peak_score(results)
    _write_csv(
        folder / SUMMARY_NAME,
        "video peak_score label label_probability num_events event_seconds duration_seconds "
        "num_frames_container num_frames_decoded num_frames_damaged warnings",
        ([*_summary_row(result), "; ".join(result.warnings)] for result in ranked),
    )
    _write_csv(
        folder / EVENTS_NAME,
        "video start_frame stop_frame start_seconds stop_seconds start_time stop_time "
        "peak_score class class_probability",
        ([result.video, *_event_row(event)] for result in ranked for event in result.events),
    )


def write_failures(folder: Path, failures: Iterable[FailedVideo]) -> None:
    """Write ``failures.csv`` anew, a row a video; with no failure it holds the header only."""
    rows = ([one.video, one.reason, one.decoder, one.frame] for one in failures)
    _write_csv(folder / FAILURES_NAME, "video reason decoder frame", rows)


def by_peak_score(results: Iterable[VideoResult]) -> list[VideoResult]:
    """The results by falling peak score, equal ones by name."""
    return sorted(results, key=lambda result: (-result.peak_score, result.video))


def clock_time(seconds: float, round_up: bool = False) -> str:
    """Time in a video as h:mm:ss, rounded down, or up for the end of an event."""
    minutes, second = divmod(math.ceil(seconds) if round_up else math.floor(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def _summary_row(result: VideoResult) -> list[object]:
    return [
        result.video,
        f"{result.peak_score:.6f}",
        result.label,
        f"{result.label_probability:.6f}",
        len(result.events),
        f"{result.event_seconds:.3f}",
        f"{result.duration_seconds:.3f}",
        result.num_frames_container,
        result.num_frames_decoded,
        result.num_frames_damaged,
    ]


def _event_row(event: Event) -> list[object]:
    return [
        event.start_frame,
        event.stop_frame,
        f"{event.start_seconds:.3f}",
        f"{event.stop_seconds:.3f}",
        clock_time(event.start_seconds),
        clock_time(event.stop_seconds, round_up=True),
        f"{event.peak_score:.6f}",
        event.class_name,
        f"{event.class_probability:.6f}",
    ]


def write_manifest(folder: Path, videos: Sequence[str], content: dict[str, Any]) -> None:
    """Write ``manifest.json``: which videos the results are about, and how they came about.

    It is written last: a folder without one is unfinished.
    """
    header = {"format": MANIFEST_FORMAT, "format_version": FORMAT_VERSION}
    write_json(folder / MANIFEST_NAME, {**header, **content, "videos": sorted(videos)})


def read_results(folder: Path) -> Results:
    """Everything in a RESULTS folder, for the videos that its manifest lists.

    Raises:
        ResultsError: the folder has no manifest, or a file in it is missing or not ours.
    """
    manifest = _read_json(folder / MANIFEST_NAME, MANIFEST_FORMAT)
    videos = [read_result(result_path(folder, video)) for video in manifest["videos"]]
    return Results(manifest, tuple(by_peak_score(videos)), _read_failures(folder / FAILURES_NAME))


def _read_failures(path: Path) -> tuple[FailedVideo, ...]:
    if not path.is_file():
        return ()
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return tuple(_read_failure(row) for row in csv.DictReader(file))
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path} is damaged ({error}): run vigil score again") from error


def _read_failure(row: dict[str, str]) -> FailedVideo:
    frame = int(row["frame"]) if row["frame"] else None
    return FailedVideo(row["video"], row["reason"], row["decoder"], frame)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON that any reader takes: ASCII, two spaces, no NaN; whole or not at all.

    Raises:
        ValueError: the content holds a number that is not finite.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with replace_file(path) as partial:
        partial.write_bytes(text.encode("utf-8", errors="surrogateescape"))


def _write_csv(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header.split())
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _read_json(path: Path, expected_format: str) -> dict[str, Any]:
    if not path.is_file():
        raise ResultsError(f"{path} is not there: finish vigil score for this folder first")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ResultsError(f"{path} is damaged ({error}): run vigil score again") from error
    if not isinstance(content, dict) or content.pop("format", None) != expected_format:
        raise ResultsError(f"{path} was not written by vigil score: is this the right folder?")
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise ResultsError(
            f"{path} is of another format version than {FORMAT_VERSION}: run vigil score again"
        )
    return content
