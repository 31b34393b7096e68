"""Scores of a video: means over views, independent of other videos in the batch."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from vigil.extract.errors import UserError
from vigil.extract.networks.hardware import select_device
from vigil.model.config import LossConfig, ModelConfig
from vigil.model.joint import JointModel
from vigil.model.joint_plus import JointPlus, JointPlusConfig, JointPlusLoss
from vigil.model.settings import InputShape
from vigil.pipeline.scores import inference
from vigil.pipeline.scores.inference import score_videos, score_views


def make_model(**stages: bool) -> JointModel:
    torch.manual_seed(0)
    config = ModelConfig(
        lstm_size=4,
        attention_size=4,
        detection_size=4,
        second_attention_size=2,
        classification_size=4,
        **stages,  # type: ignore[arg-type]
    )
    return JointModel(config, LossConfig(), InputShape(6, 1, 5, 3))


def make_features(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_scores_and_probabilities_are_means_over_views() -> None:
    model, views = make_model(), make_features(4, 6, 5)
    result = score_views(model, views)
    alone = [score_views(model, view[None]) for view in views]
    for name in ("scores", "class_probabilities", "alpha", "beta"):
        mean = np.mean([getattr(view, name) for view in alone], axis=0)
        np.testing.assert_allclose(getattr(result, name), mean, atol=1e-6)
    assert result.scores.shape == (6,)
    assert result.scores.dtype == np.float64
    assert result.class_probabilities.sum() == pytest.approx(1)
    assert result.alpha is not None
    assert result.alpha.sum() == pytest.approx(1)


def test_classes_of_segments_are_means_over_views() -> None:
    torch.manual_seed(0)
    shape = InputShape(6, 1, 5, 3)
    model, features = (
        JointPlus(JointPlusConfig(), JointPlusLoss(), shape),
        make_features(2, 4, 6, 5),
    )
    for video, result in zip(
        features, score_videos(model, torch.from_numpy(features)), strict=True
    ):
        with torch.no_grad():
            logits = model(torch.from_numpy(video)).segment_class_logits
        assert logits is not None
        expected = logits.double().softmax(-1).mean(0).numpy()
        found = result.segment_class_probabilities
        assert found is not None
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
        # Its segment classes and scores are consistent: p(k) = score x share of k.
        np.testing.assert_allclose(found[:, 1:].sum(axis=1), result.scores, atol=1e-6)
    assert score_views(make_model(), features[0]).segment_class_probabilities is None


def test_nan_class_probabilities_are_not_finite() -> None:
    result = score_views(make_model(), make_features(1, 6, 5))
    assert result.is_finite
    broken = replace(result, segment_class_probabilities=np.full((6, 3), np.nan))
    assert not broken.is_finite


def test_videos_do_not_influence_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MAX_BAGS", 5)  # two videos of two views at once
    model, features = make_model(), make_features(7, 2, 6, 5)
    together = score_videos(model, torch.from_numpy(features))
    assert len(together) == 7
    for video, views in zip(together, features, strict=True):
        np.testing.assert_allclose(video.scores, score_views(model, views).scores, atol=1e-6)


def test_dropout_is_off() -> None:
    model, views = make_model().train(), make_features(2, 6, 5)
    np.testing.assert_array_equal(
        score_views(model, views).scores, score_views(model, views).scores
    )


def test_stages_that_are_off_have_no_attention() -> None:
    model = make_model(first_attention=False, second_attention=False)
    result = score_views(model, make_features(1, 6, 5))
    assert result.alpha is None
    assert result.beta is None


def test_half_features_are_scored_in_float32() -> None:
    views = make_features(2, 6, 5).astype(np.float16)
    exact = score_views(make_model(), views.astype(np.float32))
    np.testing.assert_array_equal(score_views(make_model(), views).scores, exact.scores)


def test_values_that_are_not_finite_are_refused() -> None:
    views = make_features(2, 6, 5)
    views[1, 2, 3] = np.inf
    with pytest.raises(UserError, match="values that are not finite: extract the video again"):
        score_views(make_model(), views)


@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 6, 4), (0, 6, 5)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"do not fit a model for \(views, 6, 5\)"):
        score_views(make_model(), np.zeros(shape, np.float32))


def test_devices() -> None:
    assert select_device("cpu") == torch.device("cpu")
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match=r"device 'cuda:99' is not on this machine: use auto or"):
        select_device("cuda:99")
    with pytest.raises(UserError, match="device 'gpu' is not on this machine"):
        select_device("gpu")


def test_requesting_missing_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"'cuda' is not on this machine: use auto or one of cpu$"):
        select_device("cuda")
