"""RESULTS, the folder that scoring writes: a JSON file per video, tables, a manifest."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import dacite

from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.files import NAME_ERRNOS, path_below
from vigil.pipeline.failures import read_failures
from vigil.pipeline.scores.events import Event, EventRule
from vigil.pipeline.scores.frame_warnings import DamagedFrames
from vigil.pipeline.text_files import read_json, write_json

FORMAT = "vigil-result"
MANIFEST_FORMAT = "vigil-results"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SUFFIX = ".json"

_COLUMNS = (
    "video",
    "label",
    "label_probability",
    "peak_score",
    "num_events",
    "event_seconds",
    "duration_seconds",
    "warnings",
)
"""Of a table of results."""

Kind = TypeVar("Kind")


class ResultsError(UserError):
    """A results folder is missing, incomplete or not written by vigil."""


@dataclass(frozen=True)
class SegmentScore:
    """The score of one segment, 0..1, and its range, which may hold no frames (start = stop)."""

    start_frame: int
    stop_frame: int
    start_seconds: float
    stop_seconds: float
    score: float


@dataclass(frozen=True)
class VideoResult:
    """The model's output for one video."""

    video: str
    """Path relative to the folder of videos, with forward slashes."""
    source: str | None
    """Path of the video file; None if scoring started from feature files."""
    label: str
    """The class of the event with the highest peak; the normal class if there are no events. In
    results of earlier versions, the most probable class of the video."""
    class_probabilities: dict[str, float]
    peak_score: float
    threshold: float
    events: tuple[Event, ...]
    segments: tuple[SegmentScore, ...]
    views: tuple[str, ...]
    fps: float
    num_frames_container: int
    """Frame count declared by the container; 0 if it declares none."""
    num_frames_decoded: int
    num_frames_damaged: int
    spec_digest: str
    """Digest of the spec of the features."""
    warnings: tuple[str, ...]
    num_frames_lost: int = 0
    """The damaged frames that are missing."""
    damage: tuple[DamagedFrames, ...] = ()
    segment_class_probabilities: dict[str, tuple[float, ...]] | None = None
    """Class -> its probability in each segment; None if the model classifies whole videos only."""
    recorded_at: str | None = None
    """Time of day of the first frame; None if it is not known."""
    recorded_at_source: str | None = None
    """Where that comes from: name, template, creation_time, or stream (it was seen live)."""
    rule: EventRule | None = None
    """What counted as an event; None in results of earlier versions."""
    left_out: tuple[Event, ...] = ()
    """Candidates that are no events, because the classifier sees normal around them."""
    span_frames: int | None = None
    """Length of the spans in which a long video was scored; None: it was scored as a whole."""
    threshold_rule: str | None = None
    """How the threshold was chosen; None in results of earlier versions."""
    static_share: float | None = None
    """Share of the clips that were not computed, since nothing moved; None: all were to be."""

    def __post_init__(self) -> None:
        """Reject results that cannot be shown.

        Raises:
            ValueError: there are no segments, the label has no probability, or a class has not one
                for each segment.
        """
        if not self.segments or self.label not in self.class_probabilities:
            raise ValueError("it has no segments, or no probability for its label")
        by_class = self.segment_class_probabilities or {}
        if any(len(one) != len(self.segments) for one in by_class.values()):
            raise ValueError("its class probabilities are not one for each segment")

    @property
    def duration_seconds(self) -> float:
        """The end of the last segment."""
        return max(segment.stop_seconds for segment in self.segments)

    @property
    def held_segments(self) -> list[SegmentScore]:
        """The segments that hold frames, in order of time."""
        return [one for one in self.segments if one.stop_frame > one.start_frame]

    @property
    def label_probability(self) -> float:
        """Probability of the label, 0..1."""
        return self.class_probabilities[self.label]

    @property
    def num_events(self) -> int:
        """Number of events."""
        return len(self.events)

    @property
    def event_seconds(self) -> float:
        """Total length of the events."""
        return sum(event.stop_seconds - event.start_seconds for event in self.events)


@dataclass(frozen=True)
class _CheckpointOf:
    path: str


@dataclass(frozen=True)
class _Manifest:
    """The fields of ``manifest.json`` that the report needs."""

    videos: tuple[str, ...]
    created_at: str
    checkpoint: _CheckpointOf
    threshold: float
    warnings: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Results:
    """The content of a RESULTS folder."""

    manifest: dict[str, Any]
    videos: tuple[VideoResult, ...]
    """By decreasing peak score."""
    failures: tuple[FailedVideo, ...]

    @property
    def by_name(self) -> list[VideoResult]:
        """The videos in the order of the manifest: by name."""
        return sorted(self.videos, key=lambda result: result.video)

    @property
    def warnings(self) -> tuple[str, ...]:
        """About all videos, a sentence each; those about one are in its result."""
        return tuple(self.manifest.get("warnings", ()))

    def table(self) -> list[dict[str, Any]]:
        """A row per video, by decreasing peak score; those without an answer come last.

        ``failure`` is why a video has no answer, and its other values are then None.
        """
        rows = [{name: getattr(one, name) for name in _COLUMNS} for one in self.videos]
        nothing = dict.fromkeys(_COLUMNS)
        failed = [nothing | {"video": one.video, "failure": one.reason} for one in self.failures]
        return [*({**row, "failure": None} for row in rows), *failed]

    def event_table(self) -> list[dict[str, Any]]:
        """A row per event: the video and what an `Event` says, without what has parts itself."""
        left_out = "class_shares", "actions", "clip"
        names = [one.name for one in fields(Event) if one.name not in left_out]
        return [
            {"video": result.video, **{name: getattr(event, name) for name in names}}
            for result in self.videos
            for event in result.events
        ]


def result_path(folder: Path, video: str) -> Path:
    """The result file of a video: ``<folder>/<video path relative to its root>.json``."""
    return video_path(folder, video, SUFFIX)


def video_path(folder: Path, video: str, suffix: str) -> Path:
    """A file about a video: ``<folder>/<video path relative to its root><suffix>``."""
    return path_below(folder, video + suffix)


@contextmanager
def usable_name(path: Path) -> Iterator[None]:
    """Run a block that writes a file about a video.

    Raises:
        ResultsError: the video's name cannot be used for the file.
        OSError: anything else that the block raises, such as a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NAME_ERRNOS:
            raise
        raise ResultsError(
            f"{path} cannot be written ({error.strerror}): rename the video"
        ) from error


def write_result(folder: Path, result: VideoResult) -> None:
    """Write the JSON file of one video.

    Raises:
        ResultsError: the video's name cannot be used for a result file.
        OSError: the disk is full or the folder cannot be written.
    """
    path = result_path(folder, result.video)
    if path == folder / MANIFEST_NAME:
        raise ResultsError(f"{path} is reserved for the list of all results: rename the video")
    with usable_name(path):
        write_json(path, result_content(result))


def result_content(result: VideoResult) -> dict[str, Any]:
    """The content of the JSON file of one video, as its published schema has it."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(result)}
    if result.static_share is None:
        del content["static_share"]
    for event in (*content["events"], *content["left_out"]):
        if event["clip"] is None:
            del event["clip"]
        elif event["clip"]["annotated"] is None:
            del event["clip"]["annotated"]
    return content


def read_result(path: Path) -> VideoResult:
    """Read a result written by `write_result`.

    Raises:
        ResultsError: the file is missing or not a result.
    """
    return _from_json(path, VideoResult, _read_json(path, FORMAT), strict=True)


def by_peak_score(results: Iterable[VideoResult]) -> list[VideoResult]:
    """The results by decreasing peak score, ties by name."""
    return sorted(results, key=lambda result: (-result.peak_score, result.video))


def write_manifest(folder: Path, videos: Sequence[str], content: dict[str, Any]) -> None:
    """Write ``manifest.json``: the videos of the results, and how these were made.

    Written last, so a folder without it is unfinished.
    """
    header = {"format": MANIFEST_FORMAT, "format_version": FORMAT_VERSION}
    write_json(folder / MANIFEST_NAME, {**header, **content, "videos": sorted(videos)})


def read_results(folder: Path, read: Callable[[Path], VideoResult] = read_result) -> Results:
    """Read a RESULTS folder, for the videos in its manifest.

    Args:
        folder: written by vigil score.
        read: what reads the result of a video.

    Raises:
        ResultsError: the folder has no manifest, or a file is missing or invalid.
    """
    path = folder / MANIFEST_NAME
    manifest = _read_json(path, MANIFEST_FORMAT)
    names = _from_json(path, _Manifest, manifest, strict=False).videos
    videos = [read(result_path(folder, video)) for video in names]
    return Results(manifest, tuple(by_peak_score(videos)), read_failures(folder))


def _from_json(path: Path, kind: type[Kind], content: dict[str, Any], *, strict: bool) -> Kind:
    reading = dacite.Config(strict=strict, cast=[tuple], type_hooks={float: _as_float})
    try:
        return dacite.from_dict(kind, content, reading)
    except (dacite.DaciteError, ArithmeticError, TypeError, ValueError) as error:
        raise ResultsError(
            f"{path} is not a result of vigil score ({error}): score again"
        ) from error


def _as_float(value: object) -> object:
    """Convert an int to float, which may overflow; return anything else unchanged."""
    return float(value) if type(value) is int else value


def _read_json(path: Path, expected_format: str) -> dict[str, Any]:
    if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises if a name is too long)
        raise ResultsError(f"{path} does not exist: finish vigil score for this folder first")
    try:
        content = read_json(path)
    except ValueError as error:
        raise ResultsError(f"{path} is damaged ({error}): run vigil score again") from error
    if content.pop("format", None) != expected_format:
        raise ResultsError(f"{path} was not written by vigil score: give another folder")
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise ResultsError(
            f"{path} has a format version other than {FORMAT_VERSION}: run vigil score again"
        )
    return content
