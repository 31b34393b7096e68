"""`report.html`: an HTML page of all results."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

from vigil.pipeline.pages import render_page
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.results import Results, SegmentScore, VideoResult
from vigil.pipeline.text_files import clock_time, write_text

REPORT_NAME = "report.html"
TEMPLATE_NAME = "report.html"

TIMELINE_WIDTH, TIMELINE_HEIGHT = 1000.0, 100.0
MAX_COLUMNS = 1000
"""A timeline of more segments, such as that of a day, is drawn in so many columns."""
MIN_DAMAGE_WIDTH = 3.0
MAX_TICKS = 8
TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
NUM_LIKELY_CLASSES = 3


@dataclass(frozen=True)
class Span:
    """A part of the time axis, in the units of the timeline, with its tooltip."""

    x: str
    width: str
    title: str


@dataclass(frozen=True)
class Timeline:
    """The SVG timeline of one video: time to the right, score 0..1 upwards."""

    line: str
    """SVG path of the score, constant over each column."""
    threshold_y: str
    columns: tuple[Span, ...]
    events: tuple[Span, ...]
    damage: tuple[Span, ...]
    ticks: tuple[Span, ...]
    """Times below the timeline; x in percent of its width."""


@dataclass(frozen=True)
class VideoSection:
    """The content of the page for one video."""

    result: VideoResult
    timeline: Timeline
    link: str | None
    """Relative URL of the video file; None if the file does not exist."""
    likely_classes: tuple[tuple[str, float], ...]


def write_report(path: Path, results: Results) -> None:
    """Write the page, with links relative to its folder."""
    write_text(path, render_report(results, path.parent))


def render_report(results: Results, folder: Path) -> str:
    """Render the page as HTML, with links relative to the folder."""
    videos = results.videos
    return render_page(
        TEMPLATE_NAME,
        manifest=results.manifest,
        sections=[video_section(video, folder) for video in videos],
        failures=results.failures,
        total_seconds=sum(video.duration_seconds for video in videos),
        num_events=sum(len(video.events) for video in videos),
        num_with_events=sum(bool(video.events) for video in videos),
        num_damaged=sum(video.num_frames_damaged > 0 for video in videos),
        height=TIMELINE_HEIGHT,
        width=TIMELINE_WIDTH,
    )


def video_section(result: VideoResult, folder: Path) -> VideoSection:
    """The content of the page for one result."""
    by_probability = sorted(result.class_probabilities.items(), key=lambda item: -item[1])
    return VideoSection(
        result=result,
        timeline=draw_timeline(result),
        link=video_link(result.source, folder),
        likely_classes=tuple(by_probability[:NUM_LIKELY_CLASSES]),
    )


def video_link(source: str | None, folder: Path) -> str | None:
    """URL of a video file relative to the folder, or None if the file does not exist.

    The leading ``./`` and the quoting keep any name a path, never a scheme, query or fragment.
    """
    if source is None or not os.path.isfile(source):  # noqa: PTH113  (Path.is_file may raise)
        return None
    relative = os.path.relpath(Path(source).resolve(), folder.resolve())
    return "./" + quote(os.fsencode(relative))


def draw_timeline(result: VideoResult) -> Timeline:
    """Draw the timeline of a result's scores and events."""
    scale = TIMELINE_WIDTH / (result.duration_seconds or 1.0)

    def span(start_seconds: float, stop_seconds: float, title: str, least: float = 0.0) -> Span:
        width = max((stop_seconds - start_seconds) * scale, least)
        times = f"{clock_time(start_seconds)} to {clock_time(stop_seconds, round_up=True)}"
        return Span(f"{start_seconds * scale:.2f}", f"{width:.2f}", f"{times}: {title}")

    held = [segment for segment in result.segments if segment.stop_frame > segment.start_frame]
    columns = columns_of(held)
    edges = [
        f"{seconds * scale:.2f} {_height(column.score)}"
        for column in columns
        for seconds in (column.start_seconds, column.stop_seconds)
    ]
    return Timeline(
        line="M" + " L".join(edges),
        threshold_y=_height(result.threshold),
        columns=tuple(
            span(one.start_seconds, one.stop_seconds, f"score {one.score:.3f}") for one in columns
        ),
        events=tuple(
            span(event.start_seconds, event.stop_seconds, event_title(event))
            for event in result.events
        ),
        damage=tuple(
            span(*seconds, "damaged frames", MIN_DAMAGE_WIDTH)
            for seconds in visible_damage(result, MIN_DAMAGE_WIDTH / scale)
        ),
        ticks=draw_ticks(result.duration_seconds),
    )


def columns_of(segments: Sequence[SegmentScore]) -> list[SegmentScore]:
    """Join consecutive segments to at most `MAX_COLUMNS`, each with the highest score in it."""
    if len(segments) <= MAX_COLUMNS:
        return list(segments)
    edges = [index * len(segments) // MAX_COLUMNS for index in range(MAX_COLUMNS + 1)]
    groups = (segments[first:past] for first, past in pairwise(edges))
    return [
        replace(
            group[0],
            stop_frame=group[-1].stop_frame,
            stop_seconds=group[-1].stop_seconds,
            score=max(segment.score for segment in group),
        )
        for group in groups
    ]


def event_title(event: Event) -> str:
    """The class of an event, and its time of day if that is known."""
    of_day = f", {event.start_clock} to {event.stop_clock}" if event.start_clock else ""
    return event.class_name + of_day


def visible_damage(result: VideoResult, apart_seconds: float) -> list[tuple[float, float]]:
    """The damaged ranges of a result, in seconds; those closer than this are merged."""
    places: list[tuple[float, float]] = []
    for place in result.damage:
        start_seconds = place.start_seconds
        if places and start_seconds - places[-1][1] < apart_seconds:
            start_seconds, _ = places.pop()
        places.append((start_seconds, place.stop_seconds))
    return places


def draw_ticks(duration_seconds: float) -> tuple[Span, ...]:
    """At most `MAX_TICKS` round times from 0 on, with x in percent of the duration."""
    fitting = (step for step in TICK_SECONDS if duration_seconds / step < MAX_TICKS)
    step = next(fitting, duration_seconds / MAX_TICKS)
    times = [index * step for index in range(MAX_TICKS) if index * step <= duration_seconds]
    length = duration_seconds or 1.0
    return tuple(Span(f"{100 * time / length:.2f}", "0", clock_time(time)) for time in times)


def _height(score: float) -> str:
    return f"{(1 - score) * TIMELINE_HEIGHT:.2f}"
