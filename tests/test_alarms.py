"""Alarms against annotated intervals, on cases worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.extract.segments import segment_ranges
from vigil.pipeline.scores.alarms import (
    ALARM_MEASURES,
    alarm_curve,
    alarm_levels,
    alarm_measures,
    alarms_of,
    compare,
    count_alarms,
    intervals_of,
    num_matched,
    overlap,
    why_unknown,
)
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.inference import VideoScores
from vigil.pipeline.scores.measures import evaluate_videos

FPS = 10
intervals = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 10)).map(lambda one: (one[0], one[0] + one[1])),
    max_size=5,
)


def scored(scores, truth, named=None, seconds_per_segment=2.0):
    """A video with one score per segment, and the segments that are anomalous."""
    values = np.array(scores, float)
    per_segment = round(seconds_per_segment * FPS)
    frames = segment_ranges(per_segment * len(values), len(values))
    return EvaluatedVideo(
        video="a.mp4",
        class_index=int(any(truth)),
        truth=np.repeat(np.array(truth, bool), per_segment),
        num_frames=per_segment * len(values),
        segment_frames=frames,
        scores=VideoScores(values, np.array([0.5, 0.5])),
        segment_seconds=frames / FPS,
        named=named,
    )


def measures_of(videos, threshold, weights=None):
    ones = np.ones(len(videos), np.int64) if weights is None else np.array(weights)
    functions = alarm_measures(count_alarms(videos, threshold, alarm_levels(videos)))
    return {name: function(ones).value for name, function in functions.items()}


def test_alarms_are_compared_with_intervals():
    found = compare([(0, 4), (10, 14), (30, 31)], [(3, 6), (11, 15), (50, 60)], 100.0)
    assert (found.num_alarms, found.num_false, found.num_intervals) == (3, 1, 3)
    assert found.num_found == 2
    assert found.num_matched == (1, 1)  # IoU 1/6 and 3/5
    assert found.delays == (0.0, 0.0)
    assert (found.alarm_seconds, found.seconds) == (9, 100.0)
    assert compare([(5, 9)], [(3, 8)], 10.0).delays == (2,)


@given(intervals, intervals, st.sampled_from([0.3, 0.5]))
def test_matching_is_symmetric_and_never_uses_anything_twice(alarms, truth, iou):
    matched = num_matched(alarms, truth, iou)
    assert matched == num_matched(truth, alarms, iou)
    assert matched <= min(len(alarms), len(truth))
    assert num_matched(alarms, alarms, iou) == len(alarms)


def test_one_alarm_over_two_intervals_finds_both_but_matches_one():
    found = compare([(0, 10)], [(0, 4), (5, 10)], 10.0)
    assert (found.num_found, found.num_false) == (2, 0)
    assert found.num_matched == (1, 1)
    assert overlap((0, 1), (1, 2)) == 0


def test_alarms_and_intervals_of_a_video_are_in_seconds():
    video = scored([0.1, 0.9, 0.5, 0.1, 0.1], [0, 1, 1, 0, 0])
    assert alarms_of(video, EventRule(0.8)) == [(2.0, 6.0)]
    assert intervals_of(video) == [(2.0, 6.0)]
    normal = np.tile([0.9, 0.1], (5, 1))
    assert alarms_of(replace(video, named=normal), EventRule(0.8)) == []


def test_measures_of_an_operator():
    videos = [
        scored([0.1, 0.9, 0.1, 0.1, 0.6, 0.1], [0, 1, 0, 0, 0, 0]),
        scored([0.7, 0.1, 0.1, 0.1, 0.1, 0.1], [0, 0, 0, 0, 0, 0]),
        scored([0.1, 0.1, 0.1, 0.1, 0.1, 0.65], [0, 0, 0, 0, 1, 1]),
    ]
    measures = measures_of(videos, 0.6)
    assert measures["false_alarms_per_hour"] == pytest.approx(2 / (36 / 3600))
    assert measures["false_alarms_per_day"] == pytest.approx(24 * 200)
    assert measures["event_recall"] == 1
    assert measures["event_recall_iou_0.5"] == 1
    assert measures["event_f1_iou_0.5"] == pytest.approx(2 * 2 / (2 + 4))
    assert measures["alarm_delay_seconds"] == pytest.approx(1)  # 0 and 2
    assert measures["footage_seconds_per_event"] == pytest.approx(4 * 2 / 2)
    # Without a false alarm, only 0.9 is left.
    assert measures["event_recall_at_1_a_day"] == 0.5
    # The normal video does not count: of the two false alarms, one is left.
    weighted = measures_of(videos, 0.6, [1, 0, 1])
    assert weighted["false_alarms_per_hour"] == pytest.approx(1 / (24 / 3600))
    assert weighted["event_recall_at_20_a_day"] == 1


def test_what_cannot_be_known_is_undefined():
    videos = [scored([0.9, 0.1], [0, 0])]
    measures = measures_of(videos, 0.5)
    assert measures["event_recall"] is None
    assert measures["false_alarms_per_hour"] == pytest.approx(900)
    assert tuple(measures) == ALARM_MEASURES
    timeless = [replace(videos[0], segment_seconds=None)]
    assert "times of segments" in why_unknown(timeless)
    functions = evaluate_videos(timeless, ["Normal", "Anomaly"], 0.5, 0, 0).measures
    assert "times of segments" in functions["event_recall"].undefined


def test_the_curve_goes_through_the_measures_at_each_threshold():
    videos = [
        scored([0.1, 0.9, 0.1, 0.1, 0.6, 0.1], [0, 1, 0, 0, 0, 0]),
        scored([0.1, 0.7, 0.2, 0.1, 0.1, 0.65], [0, 0, 0, 0, 1, 1]),
    ]
    levels = alarm_levels(videos)
    curve = alarm_curve(count_alarms(videos, 0.6, levels))
    for level, false_alarms, recall in zip(levels, *curve, strict=True):
        at = measures_of(videos, level)
        assert false_alarms == pytest.approx(at["false_alarms_per_hour"])
        assert recall == pytest.approx(at["event_recall"])
