"""The actions that the backbone sees in an event: a hint to the reader, no part of the decision.

Legend: V views, S segments, D features, A actions.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vigil.extract.networks.actions import ActionLayer, action_names, find_action_layer
from vigil.extract.store import VideoFeatures
from vigil.pipeline.scores.events import Action, Event
from vigil.pipeline.scoring.results import VideoResult

MAX_ACTIONS = 3
MIN_PROBABILITY = 0.05
BLOCK_CLIPS = 64
"""Clips that are in memory at a time; an event may last for hours."""


def with_actions(result: VideoResult, features: VideoFeatures) -> VideoResult:
    """The same result, with the actions seen in its events if the features can tell."""
    if not result.events:
        return result
    layer = find_action_layer(features.spec, features.weights_name)
    if layer is None:
        return result
    names = action_names()
    events = tuple(
        replace(event, actions=likely_actions(seen_in(event, features, result.views, layer), names))
        for event in result.events
    )
    return replace(result, events=events)


def likely_actions(
    probabilities: npt.NDArray[np.float64], names: Sequence[str]
) -> tuple[Action, ...]:
    """The best few of all actions (A,), the most probable first; none that is improbable."""
    best = np.argsort(-probabilities, kind="stable")[:MAX_ACTIONS]
    return tuple(
        Action(names[index], float(probabilities[index]))
        for index in best
        if probabilities[index] >= MIN_PROBABILITY
    )


def seen_in(
    event: Event, features: VideoFeatures, views: Sequence[str], layer: ActionLayer
) -> npt.NDArray[np.float64]:
    """The mean probability (A,) of each action over the views and the clips that overlap an event.

    If clips are not stored, segments take their place, whose features are maxima over clips.
    """
    rows = [features.views.index(view) for view in views]
    clips, clip_frames = features.clip_features, features.clip_frames
    if clips is None or clip_frames is None:
        inside = _overlapping(features.segment_frames, event)
        of_segments = layer.probabilities(features.features[rows][:, inside])
        return np.asarray(of_segments.mean(axis=(0, 1)))
    inside = _overlapping(clip_frames, event)
    first, stop = inside[0], inside[-1] + 1
    total = np.zeros(len(layer.bias))
    for start in range(first, stop, BLOCK_CLIPS):
        block = clips[start : min(start + BLOCK_CLIPS, stop)][:, rows]
        total += layer.probabilities(block).mean(axis=1).sum(axis=0)
    total /= len(inside)
    return total


def _overlapping(ranges: npt.NDArray[np.int64], event: Event) -> npt.NDArray[np.int64]:
    """Indices of the frame ranges (n, 2) that share frames with an event."""
    starts = np.maximum(ranges[:, 0], event.start_frame)
    stops = np.minimum(ranges[:, 1], event.stop_frame)
    return np.flatnonzero(starts < stops)
