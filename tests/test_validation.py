"""The choice of epoch and threshold, against scikit-learn and a search over all thresholds."""

from dataclasses import replace
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from vigil.extract.segments import segment_ranges
from vigil.model.settings import InputShape
from vigil.pipeline.scores.inference import VideoScores
from vigil.pipeline.training.learner import DivergedError
from vigil.pipeline.training.validation import (
    FALLBACK_RULE,
    THRESHOLD_RULE,
    choose_threshold,
    rank,
    validate,
)

scores_of_both = st.tuples(
    st.lists(st.integers(0, 20), min_size=1, max_size=12),
    st.lists(st.integers(0, 20), min_size=1, max_size=12),
)


def youden(scores: np.ndarray, is_anomalous: np.ndarray, threshold: float) -> float:
    found = scores >= threshold
    return float(found[is_anomalous].mean() - found[~is_anomalous].mean())


@given(scores_of_both)
def test_no_threshold_is_better_than_the_chosen_one(sides: tuple[list[int], list[int]]) -> None:
    scores = np.array(sides[0] + sides[1]) / 20
    is_anomalous = np.arange(len(scores)) < len(sides[0])
    threshold, rule = choose_threshold(scores, is_anomalous)
    false_share, true_share, _ = roc_curve(is_anomalous, scores)
    best = (true_share - false_share).max()
    assert 0 <= threshold <= 1
    if rule == THRESHOLD_RULE:
        assert youden(scores, is_anomalous, threshold) == pytest.approx(best)
        assert best > 0
    else:
        assert (threshold, rule, best) == (0.5, FALLBACK_RULE, 0)


def test_the_threshold_lies_halfway_between_neighbouring_scores() -> None:
    scores = np.array([0.9, 0.7, 0.3, 0.1])
    threshold, _ = choose_threshold(scores, np.array([True, True, False, False]))
    assert threshold == pytest.approx(0.5)
    # The highest of two equally good thresholds: 0.9 alone, or 0.9, 0.5 and 0.4.
    scores = np.array([0.9, 0.5, 0.4, 0.2])
    threshold, _ = choose_threshold(scores, np.array([True, False, True, False]))
    assert threshold == pytest.approx(0.7)


def test_the_best_epoch() -> None:
    metrics = {"auc": 0.8, "maa": 0.4, "separation": 0.1}
    assert rank(metrics, "auc") == (0.8, 0.1)
    assert rank(metrics, "maa") == (0.4, 0.1)
    assert rank({**metrics, "auc": 0.75, "maa": 0.25}, "mean") == (0.5, 0.1)
    assert rank({**metrics, "separation": 0.2}, "auc") > rank(metrics, "auc")
    assert rank({**metrics, "separation": 0.9}, "auc") < rank({**metrics, "auc": 0.81}, "auc")


def test_measures_are_of_whole_videos() -> None:
    generator = np.random.default_rng(0)
    classes = np.array([0, 0, 0, 1, 1, 2])
    scores = [
        VideoScores(generator.uniform(size=8), generator.dirichlet(np.ones(4)), None, None)
        for _ in classes
    ]
    frames = np.array([segment_ranges(num_frames, 8) for num_frames in (80, 5, 80, 9, 3, 1)])
    bounds = np.arange(len(classes) + 1)
    bags = Mock(segment_frames=frames, class_indices=classes, bounds=bounds, places=lambda row: row)
    bags.__len__ = lambda _: len(classes)
    with patch("vigil.pipeline.training.validation.score_videos", return_value=scores):
        result = validate(Mock(shape=InputShape(8, 1, 3, 4)), bags, torch.empty(0))
    held = frames[:, :, 1] > frames[:, :, 0]
    peaks = np.array([max(video.scores[own]) for video, own in zip(scores, held, strict=True)])
    labels = [int(np.argmax(video.class_probabilities)) for video in scores]
    assert result.auc == pytest.approx(roc_auc_score(classes > 0, peaks))
    assert result.maa == pytest.approx(
        np.mean([np.mean([labels[i] == k for i in np.flatnonzero(classes == k)]) for k in range(3)])
    )
    assert result.separation == pytest.approx(peaks[3:].mean() - peaks[:3].mean())
    assert (result.threshold, result.threshold_rule) == choose_threshold(peaks, classes > 0)


@pytest.mark.parametrize("part", ["scores", "class_probabilities"])
def test_a_model_without_a_finite_answer_has_diverged(part: str) -> None:
    scores = [VideoScores(np.full(8, 0.5), np.full(3, 1 / 3), None, None) for _ in range(2)]
    broken = getattr(scores[1], part).copy()
    broken[0] = np.nan
    scores[1] = replace(scores[1], **{part: broken})
    frames = np.array([segment_ranges(80, 8)] * 2)
    bags = Mock(features=None, segment_frames=frames, class_indices=np.array([0, 1]))
    with (
        patch("vigil.pipeline.training.validation.score_videos", return_value=scores),
        pytest.raises(DivergedError, match="held-out videos are not finite; set a lower learning"),
    ):
        validate(Mock(shape=InputShape(8, 1, 3, 3)), bags, torch.empty(0))
