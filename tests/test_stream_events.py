"""Events of streams while they happen, against those of the complete recording."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from builders import CLASS_NAMES, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.inference import VideoScores
from vigil.pipeline.scores.rolling import Update
from vigil.pipeline.scores.spans import Timeline
from vigil.pipeline.scoring.score_store import events_of
from vigil.pipeline.watching import stream_events
from vigil.pipeline.watching.stream_events import StreamEvents

RULE = EventRule(threshold=0.8, keep_share=0.5, join_seconds=1.0, min_seconds=1.0)
BEGAN = datetime(2026, 11, 30, 2, 15, tzinfo=UTC).timestamp()
CELL_SECONDS = 0.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("run")))


def a_timeline(scores, first=0, kind=1):
    """Cells of half a second with these scores, all looking like one class."""
    cells = np.arange(first, first + len(scores))
    frames = np.stack([cells, cells + 1], axis=1) * 10
    named = np.full((len(scores), len(CLASS_NAMES)), 0.1)
    named[:, kind] = 1 - 0.1 * (len(CLASS_NAMES) - 1)
    video = VideoScores(np.array(scores, float), named[0], segment_class_probabilities=named)
    return Timeline(video, frames, frames * CELL_SECONDS / 10, named, 320)


def told(checkpoint, scores, sizes=(4,), inherited=(), began_at=BEGAN, kind=1):
    """The messages about a stream whose cells come in pieces of these sizes, in turn."""
    events = StreamEvents(checkpoint, RULE, "front", began_at, inherited)
    messages, first, turn = [], 0, 0
    while first < len(scores):
        size = sizes[turn % len(sizes)]
        part = a_timeline(scores[first : first + size], first, kind)
        messages.append(events.take(Update(first, part)))
        first, turn = first + size, turn + 1
    return events, messages


def flat(messages):
    return [alarm for some in messages for alarm in some]


def latest(messages):
    """Event -> its last message."""
    return {alarm.event: alarm for alarm in flat(messages)}


QUIET, LOUD = [0.1], [0.9]


def test_an_event_is_opened_and_closed_once(checkpoint):
    _, messages = told(checkpoint, QUIET * 8 + LOUD * 8 + QUIET * 12)
    opened, closed = flat(messages)
    assert opened.event == closed.event
    assert (opened.is_open, closed.is_open) == (True, False)
    assert (opened.start_seconds, opened.stop_seconds) == (4, 6), "as far as it is known"
    assert (closed.start_seconds, closed.stop_seconds) == (4, 8)
    assert closed.start_time == datetime.fromtimestamp(BEGAN + 4, UTC).astimezone().isoformat()
    assert opened.label == CLASS_NAMES[1]
    assert math.isclose(sum(opened.class_shares.values()), 1)
    assert messages[2] == [opened], "as soon as it is long enough"


def test_a_rising_peak_is_told(checkpoint):
    scores = QUIET * 4 + [0.82] * 4 + [0.85] * 4 + [0.97] * 4 + QUIET * 8
    _, messages = told(checkpoint, scores)
    assert [(one.peak_score, one.is_open) for one in flat(messages)] == [
        (0.82, True),
        (0.97, True),
        (0.97, False),
    ]


@settings(max_examples=60)
@given(
    scores=st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.85, 0.95]), min_size=8, max_size=120),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_in_the_end_there_are_the_events_of_the_recording(checkpoint, scores, sizes):
    scores = [*QUIET * 4, *scores, *QUIET * 12]  # a video of a moment may be one event
    _, messages = told(checkpoint, scores, sizes)
    _, expected = events_of(checkpoint, a_timeline(scores), RULE)
    last = latest(messages).values()
    ranges = {(one.start_seconds, one.stop_seconds) for one in last}
    assert {(event.start_seconds, event.stop_seconds) for event in expected} <= ranges
    assert not any(one.is_open for one in last)
    for event in {one.event for one in flat(messages)}:
        of_event = [one for one in flat(messages) if one.event == event]
        assert [one.is_open for one in of_event].count(False) == 1
        assert not of_event[-1].is_open


def test_a_place_that_the_end_revises_is_closed(checkpoint):
    events, messages = told(checkpoint, QUIET * 4 + LOUD * 8)
    revised = events.take(Update(4, a_timeline(QUIET * 10, 4)))
    (opened,) = flat(messages)
    (closed,) = revised
    assert (closed.event, closed.is_open) == (opened.event, False)
    again = events.take(Update(4, a_timeline(LOUD * 10, 4)))
    assert {(one.event, one.is_open) for one in again} == {(opened.event, True)}, "the same again"


def test_what_looks_normal_around_is_no_event(checkpoint):
    _, messages = told(checkpoint, QUIET * 4 + LOUD * 8 + QUIET * 8, kind=0)
    assert flat(messages) == []


def test_cells_are_dropped_in_quiet_places_and_events_go_on(checkpoint):
    events, _ = told(checkpoint, QUIET * 20 + LOUD * 8 + QUIET * 20 + LOUD * 4)
    num_cells = events.quiet_cells(before_seconds=23)
    assert num_cells
    dropped = events.drop(num_cells)
    assert not (dropped.scores.scores[-4:] >= RULE.keep_threshold).any()
    (going_on,) = events.left
    after = events.take(Update(52, a_timeline(LOUD * 4 + QUIET * 8, 52)))
    assert {one.event for one in after} == {going_on.event}
    assert events.quiet_cells(before_seconds=0) == 0


@pytest.mark.parametrize(("pause", "goes_on"), [(20, True), (200, False)])
def test_an_event_goes_on_after_a_short_interruption(checkpoint, monkeypatch, pause, goes_on):
    before, messages = told(checkpoint, QUIET * 8 + LOUD * 8)
    (opened,) = flat(messages)
    left = before.left
    assert [(one.event, one.is_open) for one in left] == [(opened.event, True)]
    after, messages = told(
        checkpoint, LOUD * 8 + QUIET * 8, inherited=left, began_at=BEGAN + 8 + pause
    )
    now = BEGAN + 8 + pause + 8
    last = [*flat(messages), *after.close_inherited(now + stream_events.CONTINUE_SECONDS)]
    assert ({one.event for one in last} == {opened.event}) is goes_on
    assert not last[-1].is_open
    if goes_on:
        assert last[0].start_time == opened.start_time
    else:
        assert (opened.event, False) in [(one.event, one.is_open) for one in last]
