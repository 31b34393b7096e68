"""The details of a video in a report, loaded when it is opened."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vigil.data.annotations import Annotation
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.scoring.strips import album_of

Truth = Mapping[str, Annotation]
"""Video -> its annotation."""

MAX_CURVES = 6
MIN_CLASS_SCORE = 0.05
"""Classes whose score stays below have no curve."""


def details_of(result: VideoResult, folder: Path, truth: Annotation | None) -> dict[str, Any]:
    """Everything that the report shows of one video, as JSON; names are never keys in it.

    Args:
        result: of the video.
        folder: of the page.
        truth: its annotation, if it is known.
    """
    held = result.held_segments
    return {
        "source": result.source,
        "link": video_link(result.source, folder),
        "fps": result.fps,
        "num_frames": result.num_frames_decoded,
        "num_frames_container": result.num_frames_container,
        "num_damaged": result.num_frames_damaged,
        "num_lost": result.num_frames_lost,
        "views": result.views,
        "span_frames": result.span_frames,
        "static_share": result.static_share,
        "recorded_at": result.recorded_at,
        "recorded_at_source": result.recorded_at_source,
        "threshold": result.threshold,
        "threshold_rule": result.threshold_rule,
        "warnings": result.warnings,
        "probabilities": sorted(result.class_probabilities.items(), key=lambda item: -item[1]),
        "edges": [round(one.start_seconds, 3) for one in held]
        + [round(held[-1].stop_seconds, 3) for _ in held[:1]],
        "scores": [round(one.score, 4) for one in held],
        "class_scores": class_scores(result),
        "damage": [[one.start_seconds, one.stop_seconds] for one in result.damage],
        "actions": [[[one.name, one.probability] for one in e.actions] for e in result.events],
        "shares": [[*event.class_shares.items()] for event in result.events],
        "clips": [_clip(event) for event in result.events],
        "album": _album(folder, result.video),
        "left_out": [_place(event) for event in result.left_out],
        "truth": None if truth is None else _truth(truth, result),
    }


def _clip(event: Event) -> dict[str, object] | None:
    """Where the clip of an event is, and that with a caption, and the second at which it starts."""
    if event.clip is None:
        return None
    clip = {"link": url(event.clip.path), "start": event.clip.start_seconds}
    annotated = event.clip.annotated
    return clip if annotated is None else clip | {"annotated": url(annotated)}


def _album(folder: Path, video: str) -> dict[str, object] | None:
    """The sheets of a video's thumbnails, each with its link, and when each is seen."""
    album = album_of(folder, video)
    if album is None:
        return None
    place = url(album.folder.relative_to(folder).as_posix())
    sheets = [[f"{place}/{name}", seconds] for name, seconds in album.sheets]
    reach = album.reach_seconds
    return {"columns": album.columns, "size": album.size, "reach": reach, "sheets": sheets}


def _place(event: Event) -> list[object]:
    """A candidate that is no event: seconds, peak, class, and time of day if it is known."""
    return [
        round(event.start_seconds, 3),
        round(event.stop_seconds, 3),
        event.peak_score,
        event.class_name,
        event.start_clock,
    ]


def class_scores(result: VideoResult) -> list[tuple[str, list[float]]]:
    """Class -> its class score in each segment with frames, for those that reach highest.

    A class score is the segment's score times the class's share among the anomalous classes.
    Empty if the model names classes of whole videos only.
    """
    found = result.segment_class_probabilities
    if found is None:
        return []
    anomalous = [*found][1:]  # the first is normal
    curves: list[tuple[str, list[float]]] = [(name, []) for name in anomalous]
    for index, segment in enumerate(result.segments):
        if segment.stop_frame > segment.start_frame:
            total = sum(found[name][index] for name in anomalous) or 1.0
            for name, curve in curves:
                curve.append(round(segment.score * found[name][index] / total, 4))
    reaching = [one for one in curves if max(one[1], default=0.0) >= MIN_CLASS_SCORE]
    return sorted(reaching, key=lambda one: -max(one[1]))[:MAX_CURVES]


def _truth(truth: Annotation, result: VideoResult) -> dict[str, Any]:
    """The classes of a video, and its anomalous seconds; None if they are not annotated."""
    seconds = None
    if truth.intervals is not None and result.fps > 0:
        seconds = [[one.start / result.fps, one.stop / result.fps] for one in truth.intervals]
    return {"classes": truth.class_names, "intervals": seconds}


def video_link(source: str | None, folder: Path) -> str | None:
    """URL of a video file relative to the folder, or None if the file does not exist.

    The leading ``./`` and the quoting keep any name a path, never a scheme, query or fragment.
    """
    if source is None or not os.path.isfile(source):  # noqa: PTH113  (Path.is_file may raise)
        return None
    relative = os.path.relpath(Path(source).resolve(), folder.resolve())
    return url(relative)


def url(path: str) -> str:
    """URL of a path relative to the page's folder."""
    return "./" + quote(os.fsencode(path))
