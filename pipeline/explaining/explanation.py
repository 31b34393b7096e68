"""An explanation: everything found about why a moment of a video has its score."""

import logging
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vigil.data.pooling import real_positions
from vigil.extract.engine.dispatch import Engine
from vigil.extract.networks.actions import action_names, find_action_layer
from vigil.extract.networks.class_activation import Activations
from vigil.extract.source import SourceVideo
from vigil.extract.store import VideoFeatures
from vigil.pipeline.checkpoint import Checkpoint
from vigil.pipeline.explaining.attribution import Attribution, attribute
from vigil.pipeline.explaining.moment import Bag, Moment, bag_around, find_moment
from vigil.pipeline.explaining.nearest import Neighbour, find_nearest
from vigil.pipeline.explaining.places import Picture, clips_around, find_pictures
from vigil.pipeline.option_values import read_moment, read_span, read_threshold
from vigil.pipeline.options import ExplainOptions
from vigil.pipeline.scores.events import Action, Event, EventRule
from vigil.pipeline.scores.spans import Timeline, seconds_at
from vigil.pipeline.scores.video_scoring import score_video
from vigil.pipeline.scoring.event_actions import likely_actions, seen_in
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.scoring.score_store import video_result
from vigil.pipeline.scoring.thresholds import threshold_for

MAX_SEGMENTS = 5

FloatArray = npt.NDArray[np.float64]

log = logging.getLogger(__name__)


class SegmentRow(NamedTuple):
    """One of the highest segments of a video."""

    start_seconds: float
    stop_seconds: float
    score: float
    class_name: str
    """The most probable class of anomaly there; empty if segments have no classes."""
    probability: float
    """Of that class."""
    role: str
    """Whether it belongs to an event."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a moment of a video has its score."""

    checkpoint: Checkpoint
    features: VideoFeatures
    result: VideoResult
    """Of the whole video."""
    timeline: Timeline
    moment: Moment
    class_name: str | None
    """The class whose logit is explained; None: the score is."""
    bag: Bag
    attribution: Attribution
    layer: str
    """At which the pictures were made."""
    pictures: list[Picture]
    """In order of time, each with the map of activation over its places."""
    nearest: list[Neighbour] | None
    """None: no features of training videos were given."""

    @property
    def speaks_against(self) -> bool:
        """Whether the clips that pictures are from speak more against the score than for it."""
        clips = clips_around(self.bag, self.attribution)
        return bool(self.attribution.evidence[clips].sum() < 0)

    @property
    def evidence_over_time(self) -> tuple[FloatArray, FloatArray]:
        """(P,) seconds of the bag's time positions, in order, and (P,) what each adds."""
        bag = self.bag.features
        assert bag.clip_frames is not None
        places = real_positions(
            bag.clip_frames, bag.time_positions, bag.spec.clip_frames, bag.clip_lengths
        )
        frames = np.floor(places.centres).astype(np.int64) + self.bag.start_frame
        return seconds_at(self.features, frames), self.attribution.evidence[
            places.clips, places.positions
        ]

    @property
    def highest_segments(self) -> list[SegmentRow]:
        """The highest segments of the video, the highest first, and their part in its label.

        The label is the class of the event with the highest segment. The event's class is the mean
        over its segments, or the video's if segments have none.
        """
        result = self.result
        by_class = dict(result.segment_class_probabilities or {})
        by_class.pop(self.checkpoint.config.class_names[0], None)
        highest = max(result.events, key=lambda event: event.peak_score, default=None)
        rows = []
        held = [one for one in enumerate(result.segments) if one[1].stop_frame > one[1].start_frame]
        for index, segment in sorted(held, key=lambda one: -one[1].score)[:MAX_SEGMENTS]:
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

    @property
    def actions(self) -> tuple[Action, ...] | None:
        """The actions that the backbone sees in the event, or in the segment if it is in none.

        None if the features cannot tell.
        """
        layer = find_action_layer(self.features.spec, self.features.weights_name)
        if layer is None:
            return None
        event, place = self.moment.event, self.moment.segment
        if event is None:
            event = Event(
                place.start_frame,
                place.stop_frame,
                place.start_seconds,
                place.stop_seconds,
                place.score,
                self.result.label,
                0.0,
            )
        seen = seen_in(event, self.features, self.result.views, layer)
        return likely_actions(seen, action_names())


def explain(
    checkpoint: Checkpoint,
    video: SourceVideo,
    features: VideoFeatures,
    engine: Engine,
    options: ExplainOptions,
    class_index: int | None,
) -> Explanation:
    """Explain a moment of a video.

    Args:
        checkpoint: with its model on the CPU.
        video: whose frames are read again.
        features: of it, with clips.
        engine: whose network made the features.
        options: of the command.
        class_index: of the class whose logit is explained; None: the score is.

    Raises:
        UserError: there is no such moment, or it cannot be explained.
    """
    config, views = checkpoint.config, list(engine.views)
    threshold, why = threshold_for(config, video.name, read_threshold(options.threshold))
    span = read_span(options.span)
    timeline = score_video(checkpoint, video.name, features, views, threshold, span)
    rule = EventRule(threshold=threshold)
    result = video_result(checkpoint, video.name, features, timeline, rule, views, video.path)
    result = replace(result, threshold_rule=why)
    moment = find_moment(result, read_moment(options.at))
    place = moment.segment
    bag = bag_around(features, timeline.span_frames, place.start_frame, place.stop_frame)
    pooling = config.recipe.features
    attribution = attribute(checkpoint.model, bag, views, pooling, class_index)
    (network,) = engine.networks
    activations = Activations(network, config.spec.time_pool, engine.devices[0])
    log.info("computing where in the frames the score comes from, at %s", activations.layer)
    pictures = find_pictures(video, features, bag, views, attribution, activations)
    nearest = None
    if options.features is not None:
        nearest = find_nearest(checkpoint, bag, views, options.features)
    return Explanation(
        checkpoint=checkpoint,
        features=features,
        result=result,
        timeline=timeline,
        moment=moment,
        class_name=options.class_name,
        bag=bag,
        attribution=attribution,
        layer=activations.layer,
        pictures=pictures,
        nearest=nearest,
    )


def _holds(event: Event, frame: int) -> bool:
    return event.start_frame <= frame < event.stop_frame
