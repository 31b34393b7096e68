"""Events against a literal implementation of their definition, segment by segment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.extract.segments import segment_ranges
from vigil.pipeline.scores.events import (
    EventRule,
    event_runs,
    find_events,
    label_of,
    peak_score,
)

PROBABILITIES = {"Normal": 0.6, "Arson": 0.1, "Fighting": 0.3}
RULE = EventRule(0.5, keep_share=1, join_seconds=0, min_seconds=0)


def brute_force_runs(scores, frames, seconds, rule):
    """Grow each opening segment to both sides, join near ones, and drop the short ones."""
    held = [index for index, (start, stop) in enumerate(frames) if stop > start]
    kept = [scores[index] >= rule.keep_share * rule.threshold for index in held]
    runs = set()
    for place, index in enumerate(held):
        if scores[index] >= rule.threshold:
            first = last = place
            while first > 0 and kept[first - 1]:
                first -= 1
            while last + 1 < len(held) and kept[last + 1]:
                last += 1
            runs.add((first, last))
    joined = []
    for first, last in sorted(runs):
        if joined:
            gap = seconds[held[first], 0] - seconds[held[joined[-1][1]], 1]
            if gap <= rule.join_seconds:
                joined[-1] = (joined[-1][0], last)
                continue
        joined.append((first, last))
    whole = seconds[held[-1], 1] - seconds[held[0], 0]
    return [
        held[first : last + 1]
        for first, last in joined
        if seconds[held[last], 1] - seconds[held[first], 0] >= min(rule.min_seconds, whole)
    ]


scores_and_frames = st.integers(1, 40).flatmap(
    lambda num_segments: st.tuples(
        st.lists(
            st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
            min_size=num_segments,
            max_size=num_segments,
        ).map(np.array),
        st.integers(1, 100).map(lambda frames: segment_ranges(frames, num_segments)),
    )
)


rules = st.builds(
    EventRule,
    threshold=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    keep_share=st.sampled_from([0.0, 0.4, 1.0]),
    join_seconds=st.sampled_from([0.0, 0.1, 1.0]),
    min_seconds=st.sampled_from([0.0, 0.2, 2.0, 100.0]),
)


@given(scores_and_frames, rules)
def test_runs_equal_the_brute_force(scored, rule):
    scores, frames = scored
    runs = event_runs(scores, frames, frames / 25, rule)
    assert [run.tolist() for run in runs] == brute_force_runs(scores, frames, frames / 25, rule)


@given(scores_and_frames)
def test_events_are_separate_ranges_of_the_video_and_contain_its_peak(scored):
    scores, frames = scored
    events = find_events(scores, frames, frames / 25, RULE, PROBABILITIES, "Normal")
    num_frames = frames[-1, 1]
    edges = [edge for event in events for edge in (event.start_frame, event.stop_frame)]
    assert edges == sorted(set(edges))
    assert all(0 <= edge <= num_frames for edge in edges)
    for event in events:
        assert event.start_seconds == event.start_frame / 25
        assert event.stop_seconds == event.stop_frame / 25
        assert event.class_name == "Fighting"
        assert event.class_probability == 0.3
    peak = peak_score(scores, frames)
    assert peak == max(scores[frames[:, 1] > frames[:, 0]])
    assert [event.peak_score for event in events if event.peak_score == peak] != [] or peak < 0.5


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.1, 0.9], [(0, 30)]),  # a second apart
        ([0.9, 0.1, 0.1, 0.9], [(0, 10), (30, 40)]),
        ([0.1, 0.3, 0.9, 0.3, 0.1], [(10, 40)]),  # 0.3 keeps an event, but opens none
        ([0.3, 0.3, 0.3], []),
        ([0.5], [(0, 10)]),
    ],
)
def test_events_open_last_and_join_by_the_rule(scores, expected):
    frames = segment_ranges(10 * len(scores), len(scores))
    rule = EventRule(0.5)
    events = find_events(np.array(scores), frames, frames / 10, rule, PROBABILITIES, "Normal")
    assert [(event.start_frame, event.stop_frame) for event in events] == expected


def test_a_short_event_is_dropped_unless_the_video_is_as_short():
    frames = segment_ranges(40, 4)
    scores = np.array([0.1, 0.9, 0.1, 0.1])
    rule = EventRule(0.5, min_seconds=1.0)
    assert not find_events(scores, frames, frames / 25, rule, PROBABILITIES, "Normal")
    assert find_events(scores[1:2], frames[:1], frames[:1] / 25, rule, PROBABILITIES, "Normal")


def test_events_where_the_classifier_sees_normal_are_dropped():
    frames = segment_ranges(40, 4)
    scores = np.array([0.9, 0.1, 0.1, 0.8])
    events = find_events(scores, frames, frames / 10, RULE, PROBABILITIES, "Normal")
    named = np.array([[0.3, 0.1, 0.6], [1.0, 0, 0], [1.0, 0, 0], [0.9, 0.0, 0.1]])
    kept = find_events(scores, frames, frames / 10, RULE, PROBABILITIES, "Normal", None, named)
    assert [event.start_frame for event in events] == [0, 30]
    assert [event.start_frame for event in kept] == [0]
    assert (label_of(kept, "Normal"), label_of((), "Normal")) == ("Fighting", "Normal")


def test_segments_without_frames_neither_bridge_nor_split_events():
    frames = np.array([[0, 0], [0, 1], [1, 1], [1, 2], [2, 2], [2, 3]])
    scores = np.array([1.0, 0.9, 0.0, 0.0, 1.0, 0.7])
    events = find_events(scores, frames, frames / 1.0, RULE, PROBABILITIES, "Normal")
    assert [(event.start_frame, event.stop_frame) for event in events] == [(0, 1), (2, 3)]
    assert events[0].peak_score == 0.9
    assert peak_score(scores, frames) == 0.9


def test_an_event_has_the_class_of_its_own_segments():
    frames = segment_ranges(60, 6)
    scores = np.array([0.9, 0.8, 0.1, 0.2, 0.7, 0.1])
    of_segments = np.array(
        [
            [0.5, 0.1, 0.4],
            [0.1, 0.7, 0.2],  # Arson, 0.4 to 0.3 with the one before
            [0.0, 0.0, 1.0],  # lies in no event
            [0.0, 0.0, 1.0],
            [0.8, 0.05, 0.15],
            [0.0, 1.0, 0.0],
        ]
    )
    events = find_events(
        scores, frames, frames / 25, RULE, PROBABILITIES, "Normal", segment_class_probabilities=None
    )
    assert [(one.class_name, one.class_probability) for one in events] == [("Fighting", 0.3)] * 2
    own = find_events(scores, frames, frames / 25, RULE, PROBABILITIES, "Normal", of_segments)
    assert [one.class_name for one in own] == ["Arson", "Fighting"]
    assert [one.class_probability for one in own] == pytest.approx([0.4, 0.15])
    assert own[0].class_shares == pytest.approx({"Arson": 4 / 7, "Fighting": 3 / 7})
    places = [(one.start_frame, one.stop_frame, one.peak_score) for one in own]
    assert places == [(one.start_frame, one.stop_frame, one.peak_score) for one in events]


def test_normal_looking_segments_weigh_less_in_an_events_class():
    frames = segment_ranges(30, 3)
    of_segments = np.array([[0.1, 0.9, 0.0], [0.98, 0.0, 0.02], [0.98, 0.0, 0.02]])
    (event,) = find_events(
        np.ones(3), frames, frames / 25, RULE, PROBABILITIES, "Normal", of_segments
    )
    assert (event.class_name, event.class_probability) == ("Arson", pytest.approx(0.3))
