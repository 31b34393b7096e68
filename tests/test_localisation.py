"""mAP at an overlap, against a recomputation on sets of frames, video by video."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.extract.segments import segment_ranges
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.events import true_runs
from vigil.pipeline.scores.inference import VideoScores
from vigil.pipeline.scores.localisation import (
    IOU_THRESHOLDS,
    Proposals,
    find_proposals,
    localisation_measures,
    match,
    overlaps,
)
from vigil.pipeline.scores.measures import evaluate_videos

CLASS_NAMES = ("Normal", "Arson", "Fighting")
NAMES = [*(f"map_iou_{threshold}" for threshold in IOU_THRESHOLDS), "map_iou_mean"]
NO_CLASS = (0.4, 0.3, 0.3)
ARSON, FIGHTING = (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)


def video(class_index, scores, intervals=(), probabilities=NO_CLASS, of_segments=None, **changes):
    """A video with ten frames a segment."""
    truth = np.zeros(10 * len(scores), bool)
    for start, stop in intervals:
        truth[start:stop] = True
    said = VideoScores(
        np.array(scores, float),
        np.array(probabilities),
        segment_class_probabilities=None if of_segments is None else np.array(of_segments),
    )
    frames = segment_ranges(len(truth), len(scores))
    return EvaluatedVideo("v", class_index, truth, len(truth), frames, said, **changes)


def measured(videos, num_classes=3, weights=None):
    counts = np.ones(len(videos), np.int64) if weights is None else np.array(weights)
    functions = localisation_measures(videos, num_classes, "")
    assert list(functions) == NAMES
    return [function(counts).value for function in functions.values()]


# ------------------------------------------------------------------------ a second implementation


def segment_class_score(one, segment, index):
    said = one.scores
    rows = said.segment_class_probabilities
    row = said.class_probabilities if rows is None else rows[segment]
    return said.scores[segment] * row[index] / sum(row[1:])


def brute_force_proposals(one, index):
    """Return (rank, set of frames) of each proposal, found segment by segment."""
    held = [s for s, (start, stop) in enumerate(one.segment_frames) if stop > start]
    values = [segment_class_score(one, segment, index) for segment in held]
    low, high = min(values), max(values)
    top = sorted(values)[-max(1, len(values) // 16) :]
    found, run = [], []
    for segment, value in [*zip(held, values, strict=True), (None, -1.0)]:
        if value > 0 and value >= low + 0.4 * (high - low):
            run.append((segment, value))
        elif run:
            frames = {f for s, _ in run for f in range(*one.segment_frames[s])}
            found.append((max(v for _, v in run) + 0.7 * sum(top) / len(top), frames))
            run = []
    return found


def brute_force_ap(videos, index, iou):
    """AP over one list of proposals; each interval is matched once, equal ranks count together."""
    flags, num_intervals = [], 0
    for one in videos:
        free = [set(range(*run)) for run in true_runs(one.truth)] * (one.class_index == index)
        num_intervals += len(free)
        proposed = [] if index in one.other_class_indices else brute_force_proposals(one, index)
        for rank, frames in sorted(proposed, key=lambda item: -item[0]):
            overlap = [len(frames & other) / len(frames | other) for other in free]
            right = bool(overlap) and max(overlap) >= iou
            if right:
                del free[overlap.index(max(overlap))]
            flags.append((round(rank, 9), right))
    if not num_intervals:
        return None
    total = 0.0
    for rank, right in flags:
        reached = [other for at, other in flags if at >= rank]
        total += right * sum(reached) / len(reached)
    return total / num_intervals


def brute_force_map(videos, num_classes=3):
    of_ious = []
    for iou in IOU_THRESHOLDS:
        of_classes = [brute_force_ap(videos, index, iou) for index in range(1, num_classes)]
        known = [value for value in of_classes if value is not None]
        of_ious.append(sum(known) / len(known) if known else None)
    return [*of_ious, None if None in of_ious else sum(of_ious) / len(of_ious)]


@st.composite
def videos_of_three_classes(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    videos = []
    for _ in range(draw(st.integers(1, 5))):
        num_segments, class_index = int(generator.integers(1, 20)), int(generator.integers(3))
        truth = generator.choice([0, 1], num_segments).repeat(10) * (class_index > 0)
        truth = np.roll(truth, generator.integers(10)).astype(bool)
        # Only a few values, so ranks are often equal; 0 proposes nothing.
        scores = generator.choice([0.0, 0.25, 0.5, 1.0], num_segments)
        rows = generator.choice([0.25, 0.5], (num_segments, 3))
        of_segments = rows if generator.random() < 0.5 else None
        one = video(class_index, scores, (), rows[0], of_segments)
        others = {1: (2,), 2: (1,)}.get(class_index, ()) if generator.random() < 0.2 else ()
        # Sometimes fewer frames than segments, so some segments hold none.
        num_frames = int(generator.choice([len(truth), num_segments // 2 + 1]))
        frames = segment_ranges(num_frames, num_segments)
        some = {"segment_frames": frames, "num_frames": num_frames, "truth": truth[:num_frames]}
        videos.append(replace(one, **some, other_class_indices=others))
    return videos


@given(videos_of_three_classes())
def test_the_measures_equal_a_count_on_sets_of_frames(videos):
    assert measured(videos) == pytest.approx(brute_force_map(videos))


@given(videos_of_three_classes(), st.data())
def test_a_weight_repeats_its_video(videos, data):
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(videos), max_size=len(videos)))
    copies = [one for one, weight in zip(videos, weights, strict=True) for _ in range(weight)]
    expected = brute_force_map(copies) if copies else [None] * 6
    assert measured(videos, weights=weights) == pytest.approx(expected)


@given(videos_of_three_classes())
def test_map_never_rises_with_the_required_overlap(videos):
    values = measured(videos)[:-1]
    if values[0] is not None:
        assert values == sorted(values, reverse=True)
        assert 0 <= values[-1] <= values[0] <= 1


ranges = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=5).map(
    lambda pairs: np.array([(a, a + n) for a, n in pairs], np.int64).reshape(-1, 2)
)


@given(ranges, ranges)
def test_overlaps_are_shares_of_frames(first, second):
    expected = [[iou(set(range(*a)), set(range(*b))) for b in second] for a in first]
    found = overlaps(first, second)
    assert found.shape == (len(first), len(second))
    assert found.tolist() == expected


def iou(one, other):
    return len(one & other) / len(one | other)


# ------------------------------------------------------------------------------- cases by hand


def test_perfect_predictions_have_map_1_with_a_tight_interval():
    videos = [
        video(1, [0, 1, 0, 1], [(10, 20), (30, 40)], ARSON),
        video(2, [1, 1, 0, 0], [(0, 20)], FIGHTING),
        video(2, [1, 1, 1], [(0, 30)], FIGHTING),  # anomalous throughout
        video(0, [0, 0, 0]),
    ]
    measures = evaluate_videos(videos, CLASS_NAMES, 0.5, 20, seed=0).measures
    for name in NAMES:
        one = measures[name]
        assert (one.value, one.low, one.high) == (1.0, 1.0, 1.0), name


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0, 40), [1, 1, 1, 1, 1, 1]),
        ((10, 50), [1, 1, 1, 1, 1, 1]),  # 30 of 50
        ((20, 60), [1, 1, 1, 0, 0, 0.6]),  # 20 of 60
        ((30, 70), [1, 0, 0, 0, 0, 0.2]),  # 10 of 70
        ((40, 80), [0, 0, 0, 0, 0, 0]),
        ((0, 80), [1, 1, 1, 1, 1, 1]),  # exactly half
        ((0, 8), [1, 1, 0, 0, 0, 0.4]),  # exactly a fifth
    ],
)
def test_shifted_predictions_fail_above_their_overlap(interval, expected):
    one = video(1, [1, 1, 1, 1, 0, 0, 0, 0], [interval], ARSON)
    assert measured([one]) == pytest.approx(expected)


def test_the_right_place_with_the_wrong_class_is_wrong():
    assert measured([video(1, [0, 1], [(10, 20)], (0.1, 0.0, 0.9))]) == [0.0] * 6


def test_false_alarms_count_if_they_rank_higher():
    right = video(1, [0, 0.5], [(10, 20)], ARSON)
    louder, quieter = (video(0, [0, score], (), ARSON) for score in (0.9, 0.1))
    assert measured([right, louder]) == [0.5] * 6
    assert measured([right, quieter]) == [1.0] * 6
    # Equal ranks count together, whichever video comes first.
    same = video(0, [0, 0.5], (), ARSON)
    assert measured([right, same]) == measured([same, right]) == [0.5] * 6


def test_segment_classes_distinguish_two_anomalies_of_one_video():
    apart = [ARSON, NO_CLASS, NO_CLASS, FIGHTING]
    scores, probabilities = [1, 0, 0, 1], (0.2, 0.4, 0.4)
    first = video(1, scores, [(0, 10)], probabilities, apart)
    second = video(2, scores, [(30, 40)], probabilities, apart)
    assert measured([first]) == measured([second]) == [1.0] * 6
    # With only the video's classes, both places are proposed equally for both classes.
    whole = replace(first, scores=replace(first.scores, segment_class_probabilities=None))
    assert measured([whole]) == [0.5] * 6


def test_a_model_of_two_classes_is_evaluated_by_its_scores_alone():
    two = [
        video(1, [0, 0.5], [(10, 20)], (0.9, 0.1)),
        video(0, [0.4, 0.0], (), (0.1, 0.9)),
    ]
    assert measured(two, num_classes=2) == [1.0] * 6
    np.testing.assert_array_equal(two[0].scores.segment_class_scores, [[0], [0.5]])


def test_scores_are_shared_among_the_anomalous_classes():
    rows = np.random.default_rng(0).dirichlet(np.ones(4), 5)
    rows[0] = [1, 0, 0, 0]  # certain that it is normal: no class at all
    scores = np.linspace(0.1, 0.9, 5)
    of_segments = VideoScores(scores, rows[1], segment_class_probabilities=rows)
    shares = of_segments.segment_class_scores
    assert shares.shape == (5, 3)
    assert shares.sum(axis=1) == pytest.approx([0, *scores[1:]])
    assert shares[3] == pytest.approx(scores[3] * rows[3, 1:] / (1 - rows[3, 0]))
    of_video = VideoScores(scores, rows[1]).segment_class_scores
    assert of_video == pytest.approx(np.outer(scores, rows[1, 1:] / rows[1, 1:].sum()))


def test_an_interval_is_matched_once_by_the_best_ranked():
    proposals = Proposals(np.array([[0, 5], [5, 12], [20, 30]]), np.array([0.5, 0.9, 0.1]))
    intervals = np.array([[0, 12], [20, 30]])
    assert match(proposals, intervals, 0.4).tolist() == [False, True, True]
    assert match(proposals, intervals, 0.7).tolist() == [False, False, True]
    assert match(proposals, intervals[:0], 0.1).tolist() == [False, False, False]


def test_proposals_reach_four_tenths_of_the_range():
    scores = np.array([0.2, 0.4, 0.39, 1.0, 0.0, 0.0])
    found = find_proposals(scores, segment_ranges(60, 6))
    assert found.frames.tolist() == [[10, 20], [30, 40]]
    assert found.ranks == pytest.approx([0.4 + 0.7, 1.0 + 0.7])
    assert find_proposals(np.zeros(6), segment_ranges(60, 6)).frames.shape == (0, 2)


def test_undefined_measures_have_a_reason():
    functions = localisation_measures([video(0, [0.5])], 3, "")
    reasons = {function(np.ones(1, np.int64)).undefined for function in functions.values()}
    assert reasons == {"no class has annotated intervals"}
    unknown = replace(video(1, [0.5]), truth=None)
    measures = evaluate_videos([unknown], CLASS_NAMES, 0.5, 0, seed=0).measures
    expected = "anomalous videos without annotated frames: 1 (v)"
    assert Counter(measures[name].undefined for name in NAMES) == {expected: 6}
