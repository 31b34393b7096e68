"""The page of an explanation, `explain.html`, and its figures as files beside it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from vigil.data.pooling import real_positions
from vigil.extract.networks.actions import action_names, find_action_layer
from vigil.extract.segments import segment_ranges
from vigil.pipeline.explaining.explanation import Explanation
from vigil.pipeline.explaining.figures import FloatArray, Steps, plot_places, plot_times
from vigil.pipeline.explaining.places import clips_around
from vigil.pipeline.logs import printable
from vigil.pipeline.pages import embedded, render_page
from vigil.pipeline.scores.events import Action, Event
from vigil.pipeline.scores.spans import seconds_at
from vigil.pipeline.scoring.event_actions import likely_actions, seen_in
from vigil.pipeline.starter import is_starter
from vigil.pipeline.text_files import write_text

PAGE_NAME, PLACES_NAME, TIMES_NAME = "explain.html", "explain-places.png", "explain-times.png"
MAX_SEGMENTS = 5


class SegmentRow(NamedTuple):
    """One of the highest segments of a video, as the page's table shows it."""

    start_seconds: float
    stop_seconds: float
    score: float
    class_name: str
    """The most probable class of anomaly there; empty if segments have no classes."""
    probability: float
    """Of that class."""
    role: str
    """Whether it belongs to an event."""


def write_explanation(folder: Path, found: Explanation) -> Path:
    """Write the figures and the page, and return the page's path.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    plot_places(folder / PLACES_NAME, found.pictures)
    _plot_times(folder / TIMES_NAME, found)
    result, moment = found.result, found.moment
    page = render_page(
        PAGE_NAME,
        video=printable(result.video),
        checkpoint=printable(str(found.checkpoint.folder)),
        label=result.label,
        threshold=result.threshold,
        threshold_rule=result.threshold_rule,
        moment=moment.segment,
        event=moment.event,
        is_left_out=moment.is_left_out,
        normal_class=found.checkpoint.config.class_names[0],
        num_events=result.num_events,
        explained=found.class_name,
        speaks_against=speaks_against(found),
        bag_score=found.attribution.score,
        has_spans=result.span_frames is not None,
        places=embedded(folder / PLACES_NAME),
        times=embedded(folder / TIMES_NAME),
        num_pictures=len(found.pictures),
        layer=found.layer,
        endpoint=found.features.spec.endpoint,
        views=result.views,
        attentions=list(found.attribution.attentions),
        method=found.checkpoint.config.recipe.method,
        classifies=found.checkpoint.config.recipe.classifies,
        rows=highest_segments(found),
        actions=actions_at(found),
        nearest=found.nearest,
        is_starter=is_starter(found.checkpoint.model_digest),
        warnings=result.warnings,
    )
    write_text(folder / PAGE_NAME, page)
    return folder / PAGE_NAME


def _plot_times(path: Path, found: Explanation) -> None:
    result, moment = found.result, found.moment.segment
    bag, offset = found.bag.features, found.bag.start_frame
    edges = segment_ranges(bag.num_frames_decoded, bag.spec.num_segments)
    segment_seconds = seconds_at(found.features, edges + offset)
    scores = Steps(found.timeline.seconds, found.timeline.scores.scores)
    plot_times(
        path,
        scores,
        result.threshold,
        [(event.start_seconds, event.stop_seconds) for event in result.events],
        (moment.start_seconds, moment.stop_seconds),
        evidence_over_time(found),
        {
            name: Steps(segment_seconds, weights)
            for name, weights in found.attribution.attentions.items()
        },
    )


def speaks_against(found: Explanation) -> bool:
    """Whether the clips that pictures are from speak more against the score than for it."""
    clips = clips_around(found.bag, found.attribution)
    return bool(found.attribution.evidence[clips].sum() < 0)


def evidence_over_time(found: Explanation) -> tuple[FloatArray, FloatArray]:
    """(P,) seconds of the bag's time positions, in order, and (P,) what each adds."""
    bag = found.bag.features
    assert bag.clip_frames is not None
    places = real_positions(
        bag.clip_frames, bag.time_positions, bag.spec.clip_frames, bag.clip_lengths
    )
    frames = np.floor(places.centres).astype(np.int64) + found.bag.start_frame
    return seconds_at(found.features, frames), found.attribution.evidence[
        places.clips, places.positions
    ]


def highest_segments(found: Explanation) -> list[SegmentRow]:
    """The highest segments of the video, the highest first, and what part they have in its label.

    The label is the class of the event with the highest segment. The event's class is the mean
    over its segments, or the video's if segments have none.
    """
    result = found.result
    by_class = dict(result.segment_class_probabilities or {})
    by_class.pop(found.checkpoint.config.class_names[0], None)
    highest = max(result.events, key=lambda event: event.peak_score, default=None)
    rows = []
    held = [index for index, one in enumerate(result.segments) if one.stop_frame > one.start_frame]
    for index in sorted(held, key=lambda one: -result.segments[one].score)[:MAX_SEGMENTS]:
        segment = result.segments[index]
        event = next((one for one in result.events if _holds(one, segment.start_frame)), None)
        role = "of the event that decides the label" if event == highest else "of another event"
        name = max(by_class, key=lambda one: by_class[one][index], default="")
        rows.append(
            SegmentRow(
                segment.start_seconds,
                segment.stop_seconds,
                segment.score,
                name,
                by_class[name][index] if name else 0.0,
                "of no event" if event is None else role,
            )
        )
    return rows


def _holds(event: Event, frame: int) -> bool:
    return event.start_frame <= frame < event.stop_frame


def actions_at(found: Explanation) -> tuple[Action, ...] | None:
    """The actions that the backbone sees in the event, or in the segment if it is in none.

    None if the features cannot tell.
    """
    layer = find_action_layer(found.features.spec, found.features.weights_name)
    if layer is None:
        return None
    event, place = found.moment.event, found.moment.segment
    if event is None:
        event = Event(
            place.start_frame,
            place.stop_frame,
            place.start_seconds,
            place.stop_seconds,
            place.score,
            found.result.label,
            0.0,
        )
    seen = seen_in(event, found.features, found.result.views, layer)
    return likely_actions(seen, action_names())
