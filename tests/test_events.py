"""Events against a literal implementation of their definition, segment by segment."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.extract.segments import segment_ranges
from vigil.pipeline.scores.events import event_runs, find_events, peak_score

PROBABILITIES = {"Normal": 0.6, "Arson": 0.1, "Fighting": 0.3}


def brute_force_runs(scores, frames, threshold):
    """Mark the segments above the threshold, fill gaps of one, and collect contiguous runs."""
    held = [index for index, (start, stop) in enumerate(frames) if stop > start]
    found = [scores[index] >= threshold for index in held]
    filled = list(found)
    for position in range(1, len(found) - 1):
        if found[position - 1] and found[position + 1]:
            filled[position] = True
    runs, run = [], []
    for index, inside in zip(held, filled, strict=True):
        if inside:
            run.append(index)
        elif run:
            runs.append(run)
            run = []
    return [*runs, run] if run else runs


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


@given(scores_and_frames, st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_runs_equal_the_brute_force(scored, threshold):
    scores, frames = scored
    runs = event_runs(scores, frames, threshold)
    assert [run.tolist() for run in runs] == brute_force_runs(scores, frames, threshold)


@given(scores_and_frames)
def test_events_are_separate_ranges_of_the_video_and_contain_its_peak(scored):
    scores, frames = scored
    events = find_events(scores, frames, frames / 25, 0.5, PROBABILITIES, "Normal")
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
        ([0.9, 0.1, 0.9], [(0, 30)]),
        ([0.9, 0.1, 0.1, 0.9], [(0, 10), (30, 40)]),
        ([0.1, 0.9, 0.1], [(10, 20)]),
        ([0.1, 0.4, 0.1], []),
        ([0.5], [(0, 10)]),
    ],
)
def test_one_segment_is_bridged_and_two_are_not(scores, expected):
    frames = segment_ranges(10 * len(scores), len(scores))
    events = find_events(np.array(scores), frames, frames / 10, 0.5, PROBABILITIES, "Normal")
    assert [(event.start_frame, event.stop_frame) for event in events] == expected


def test_segments_without_frames_neither_bridge_nor_split_events():
    frames = np.array([[0, 0], [0, 1], [1, 1], [1, 2], [2, 2], [2, 3]])
    scores = np.array([1.0, 0.9, 0.0, 0.0, 1.0, 0.7])
    events = find_events(scores, frames, frames / 1.0, 0.5, PROBABILITIES, "Normal")
    assert [(event.start_frame, event.stop_frame) for event in events] == [(0, 3)]
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
        scores, frames, frames / 25, 0.5, PROBABILITIES, "Normal", segment_class_probabilities=None
    )
    assert [(one.class_name, one.class_probability) for one in events] == [("Fighting", 0.3)] * 2
    own = find_events(scores, frames, frames / 25, 0.5, PROBABILITIES, "Normal", of_segments)
    assert [one.class_name for one in own] == ["Arson", "Fighting"]
    assert [one.class_probability for one in own] == pytest.approx([0.4, 0.15])
    assert [replace(one, class_name="Fighting", class_probability=0.3) for one in own] == list(
        events
    )


def test_normal_looking_segments_weigh_less_in_an_events_class():
    frames = segment_ranges(30, 3)
    of_segments = np.array([[0.1, 0.9, 0.0], [0.98, 0.0, 0.02], [0.98, 0.0, 0.02]])
    (event,) = find_events(
        np.ones(3), frames, frames / 25, 0.5, PROBABILITIES, "Normal", of_segments
    )
    assert (event.class_name, event.class_probability) == ("Arson", pytest.approx(0.3))
