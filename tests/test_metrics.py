"""Measures against scikit-learn on expanded frames and against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from vigil.extract.segments import segment_ranges
from vigil.pipeline.scores import metrics

NO_VALUE = metrics.Measure(None, "not there")


@st.composite
def scored_videos(draw, min_videos=1, max_videos=5):
    """Videos as (segment scores, segment ranges, frame truth); ties and short videos are common."""
    videos = []
    for _ in range(draw(st.integers(min_videos, max_videos))):
        num_segments = draw(st.integers(1, 8))
        num_frames = draw(st.integers(1, 40))
        levels = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 1.0])
        scores = np.array(draw(st.lists(levels, min_size=num_segments, max_size=num_segments)))
        truth = np.array(draw(st.lists(st.booleans(), min_size=num_frames, max_size=num_frames)))
        videos.append((scores, segment_ranges(num_frames, num_segments), truth))
    return videos


def ranking_of(videos):
    return metrics.rank_frames([metrics.frame_pieces(*video) for video in videos])


def expanded(videos, weights=None):
    """Truth and score of every frame, each video repeated as often as its weight says."""
    weights = [1] * len(videos) if weights is None else weights
    chosen = [video for video, weight in zip(videos, weights, strict=True) for _ in range(weight)]
    truth = np.concatenate([[], *(truth for _, _, truth in chosen)]).astype(bool)
    scores = [np.repeat(scores, ranges[:, 1] - ranges[:, 0]) for scores, ranges, _ in chosen]
    return truth, np.concatenate([[], *scores])


@given(scored_videos(), st.data())
def test_frame_measures_equal_scikit_learn_on_every_frame_under_any_weights(videos, data):
    counts = st.lists(st.integers(0, 3), min_size=len(videos), max_size=len(videos))
    weights = data.draw(counts)
    ranking = ranking_of(videos)
    truth, scores = expanded(videos, weights)

    auc = metrics.roc_auc(ranking, np.array(weights))
    if truth.any() and not truth.all():
        assert auc.value == pytest.approx(oracle.roc_auc_score(truth, scores), abs=1e-12)
    else:
        missing = "anomalous" if not truth.any() else "normal"
        assert auc == metrics.Measure(None, f"there is nothing {missing} in the truth")

    area = metrics.precision_recall_auc(ranking, np.array(weights))
    if truth.any():
        precisions, recalls, _ = oracle.precision_recall_curve(truth, scores)
        assert area.value == pytest.approx(oracle.auc(recalls, precisions), abs=1e-12)
    else:
        assert area == metrics.Measure(None, "there is nothing anomalous in the truth")

    precision = metrics.average_precision(ranking, np.array(weights))
    if truth.any():
        expected = oracle.average_precision_score(truth, scores)
        assert precision.value == pytest.approx(expected, abs=1e-12)
    else:
        assert precision.value is None
        assert "nothing anomalous" in precision.undefined


@given(scored_videos(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0, 1.5]))
def test_false_alarm_rate_is_the_share_of_normal_frames_at_or_above(videos, threshold):
    truth, scores = expanded(videos)
    rate = metrics.false_alarm_rate(ranking_of(videos), threshold)
    if truth.all():
        assert rate.value is None
    else:
        assert rate.value == pytest.approx(np.mean(scores[~truth] >= threshold))


@given(scored_videos())
def test_curve_counts_what_each_threshold_finds(videos):
    truth, scores = expanded(videos)
    curve = metrics.found_at_thresholds(ranking_of(videos))
    assert list(curve.thresholds) == sorted(set(scores), reverse=True)
    for index, threshold in enumerate(curve.thresholds):
        assert curve.true_positives[index] == np.sum(truth & (scores >= threshold))
        assert curve.false_positives[index] == np.sum(~truth & (scores >= threshold))


def test_videos_rank_like_items():
    scores = np.array([0.9, 0.2, 0.9, 0.4])
    is_anomalous = np.array([True, False, False, True])
    auc = metrics.roc_auc(metrics.rank_videos(scores, is_anomalous))
    assert auc.value == pytest.approx(oracle.roc_auc_score(is_anomalous, scores))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30), st.data()
)
def test_classification_equals_scikit_learn(pairs, data):
    true_class, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    weights = np.array(
        data.draw(st.lists(st.integers(1, 3), min_size=len(pairs), max_size=len(pairs)))
    )
    confusion = metrics.confusion_matrix(true_class, predicted, 4, weights)
    expected = oracle.confusion_matrix(
        true_class, predicted, labels=range(4), sample_weight=weights
    )
    assert np.array_equal(confusion, expected)

    repeated = np.repeat(np.arange(len(pairs)), weights)
    true_class, predicted = true_class[repeated], predicted[repeated]
    present = sorted(set(true_class))
    recall = oracle.recall_score(
        true_class, predicted, labels=present, average="macro", zero_division=0
    )
    assert metrics.mean_class_accuracy(confusion).value == pytest.approx(recall)
    assert metrics.accuracy(confusion).value == pytest.approx(np.mean(true_class == predicted))

    anomalous = true_class > 0
    top1 = metrics.accuracy(confusion[1:])
    if anomalous.any():
        expected_top1 = np.mean(predicted[anomalous] == true_class[anomalous])
        assert top1.value == pytest.approx(expected_top1)
    else:
        assert top1 == metrics.Measure(None, "there are no videos of these classes")

    recalls = metrics.class_recalls(confusion, ["Normal", "a", "b", "c"])
    for index, measure in enumerate(recalls):
        assert (measure.value is not None) == (index in present)
    assert metrics.class_recalls(np.zeros((1, 1), np.int64), ["Abuse"])[0].undefined == (
        "no video of class Abuse"
    )


def test_measures_of_nothing_are_undefined_with_a_reason():
    assert (
        metrics.mean_class_accuracy(np.zeros((3, 3), np.int64)).undefined == "there are no videos"
    )


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5))
@settings(max_examples=30)
def test_resamples_keep_the_number_of_anomalous_and_normal_videos(is_anomalous, seed):
    flags = np.array(is_anomalous)
    resamples = metrics.resample_videos(flags, 20, seed)
    assert len(resamples) == 20
    for counts in resamples:
        assert counts[flags].sum() == flags.sum()
        assert counts[~flags].sum() == (~flags).sum()
    again = metrics.resample_videos(flags, 20, seed)
    assert all(np.array_equal(a, b) for a, b in zip(resamples, again, strict=True))


def test_interval_agrees_with_an_explicit_bootstrap():
    generator = np.random.default_rng(3)
    ranges = segment_ranges(40, 4)
    flags = np.arange(12) < 5
    videos = [
        (generator.random(4), ranges, (generator.random(40) < 0.5) & anomalous)
        for anomalous in flags
    ]
    ranking = ranking_of(videos)
    resamples = metrics.resample_videos(flags, 60, seed=1)
    measure = metrics.with_interval(lambda w: metrics.roc_auc(ranking, w), resamples, 12)

    values = [oracle.roc_auc_score(*expanded(videos, counts)) for counts in resamples]
    low, high = np.quantile(values, [0.025, 0.975])
    assert (measure.low, measure.high) == pytest.approx((low, high))
    assert measure.value == pytest.approx(oracle.roc_auc_score(*expanded(videos)))


def test_no_interval_without_resamples_or_without_a_value():
    assert metrics.with_interval(lambda _: metrics.Measure(0.5), [], 2) == metrics.Measure(0.5)
    drawn = metrics.with_interval(lambda _: NO_VALUE, [np.ones(2, np.int64)], 2)
    assert drawn == NO_VALUE


@given(st.integers(1, 300), st.integers(2, 50))
def test_thinned_curves_keep_both_ends_and_the_order(num_points, max_points):
    x = np.linspace(0, 1, num_points) ** 2
    picked = metrics.thin_indices(x, np.sqrt(x), max_points)
    assert picked[0] == 0
    assert picked[-1] == num_points - 1
    assert len(picked) <= max(max_points, 2)
    assert np.all(np.diff(picked) > 0)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_mean_average_precision_equals_scikit_learn_over_classes_that_videos_have(n, k, seed):
    rng = np.random.default_rng(seed)
    has_class, scores = rng.random((n, k)) < 0.4, rng.integers(0, 4, (n, k)) / 4
    rankings = [metrics.rank_videos(scores[:, c], has_class[:, c]) for c in range(k)]
    value = metrics.mean_average_precision(rankings)
    present = has_class.any(axis=0)
    if present.any():
        expected = oracle.average_precision_score(has_class[:, present], scores[:, present])
        assert value.value == pytest.approx(expected)
    else:
        assert value.undefined
