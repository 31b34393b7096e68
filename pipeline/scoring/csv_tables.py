"""`summary.csv`, a row per video, and `events.csv`, a row per event."""

from pathlib import Path

from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.results import Results, VideoResult
from vigil.pipeline.text_files import clock_time, write_csv

EVENT_COLUMNS = (
    "video start_frame stop_frame start_seconds stop_seconds start_time stop_time "
    "peak_score class class_probability start_clock stop_clock"
)


def write_summary(path: Path, results: Results) -> None:
    """Write a row per video, by decreasing peak score."""
    write_csv(
        path,
        "video peak_score label label_probability num_events event_seconds duration_seconds "
        "num_frames_container num_frames_decoded num_frames_damaged warnings",
        ([*_summary_row(result), "; ".join(result.warnings)] for result in results.videos),
    )


def write_events(path: Path, results: Results) -> None:
    """Write a row per event, the videos by decreasing peak score; if there are clips, name them."""
    has_clips = any(event.clip for result in results.videos for event in result.events)
    write_csv(
        path,
        EVENT_COLUMNS + " clip" * has_clips,
        (
            [result.video, *event_row(one), *[one.clip.path if one.clip else ""] * has_clips]
            for result in results.videos
            for one in result.events
        ),
    )


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


def event_row(event: Event) -> list[object]:
    """The cells of an event that follow the name of its video, as `EVENT_COLUMNS` has them."""
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
        event.start_clock or "",
        event.stop_clock or "",
    ]
