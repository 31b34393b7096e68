"""The losses against the authors' figure and against loops that follow the paper."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from vigil.model.config import LossConfig, ModelConfig
from vigil.model.joint import JointModel, JointOutput
from vigil.model.losses import (
    attention_loss,
    class_weights_of,
    classification_loss,
    dense_penalty,
    joint_loss,
    ranking_loss,
)
from vigil.model.settings import InputShape

seeds = st.integers(0, 2**32 - 1)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(size=shape))


def ranking_loss_by_loops(
    anomalous: torch.Tensor, normal: torch.Tensor, config: LossConfig
) -> float:
    hinges = [
        sum(max(0.0, config.margin - float(max(bag)) + float(max(other))) for bag in anomalous)
        for other in normal
    ]
    loss = sum(hinges) / len(hinges)
    for bag in anomalous.tolist():
        loss += config.sparsity_weight * sum(bag)
        for left, right in pairwise(bag):
            loss += config.smoothness_weight * (left - right) ** 2
    return loss


def test_ranking_loss_equals_the_authors_figure(golden: Path) -> None:
    with np.load(golden / "ranking_loss.npz") as file:
        anomalous, normal = (
            torch.tensor(file[f"{side}_scores"]) for side in ("anomalous", "normal")
        )
        figure = float(file["loss"])
    assert float(ranking_loss(anomalous, normal, LossConfig())) == pytest.approx(figure, rel=1e-6)
    assert figure == pytest.approx(30.378405, abs=1e-6)


@settings(max_examples=30)
@given(seeds, st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.floats(0, 2))
def test_ranking_loss_equals_loops(
    seed: int, num_anomalous: int, num_normal: int, num_segments: int, margin: float
) -> None:
    config = LossConfig(margin=margin, smoothness_weight=0.3, sparsity_weight=0.2)
    anomalous = random(seed, num_anomalous, num_segments)
    normal = random(seed + 1, num_normal, num_segments)
    expected = ranking_loss_by_loops(anomalous, normal, config)
    assert float(ranking_loss(anomalous, normal, config)) == pytest.approx(expected)


@settings(max_examples=30)
@given(seeds, st.data())
def test_no_loss_crosses_videos(seed: int, data: st.DataObject) -> None:
    config = LossConfig(smoothness_weight=1.0)
    anomalous, normal = random(seed, 5, 4), random(seed + 1, 3, 4)
    order = data.draw(st.permutations(range(5)))
    loss = ranking_loss(anomalous, normal, config)
    torch.testing.assert_close(ranking_loss(anomalous[order], normal, config), loss)
    torch.testing.assert_close(ranking_loss(anomalous, normal.flip(0), config), loss)


@settings(max_examples=30)
@given(seeds, st.integers(2, 6), st.integers(1, 8))
def test_classification_loss_equals_loops(seed: int, num_classes: int, num_bags: int) -> None:
    logits = 4 * random(seed, num_bags, num_classes)
    classes = torch.tensor(np.random.default_rng(seed).integers(num_classes, size=num_bags))
    weights = class_weights_of(classes, num_classes)
    expected = 0.0
    for row, index in zip(logits, classes.tolist(), strict=True):
        share = classes.tolist().count(index) / num_bags
        expected -= (1 - share) * float(torch.log(row.exp()[index] / row.exp().sum()))
    expected /= num_bags
    assert float(classification_loss(logits, classes, weights)) == pytest.approx(expected, abs=1e-6)


def test_classification_loss_is_not_pytorchs_weighted_cross_entropy() -> None:
    logits, classes = 3 * random(0, 12, 4), torch.tensor([0] * 6 + [1, 1, 1, 2, 2, 3])
    weights = class_weights_of(classes, 4).double()
    ours = classification_loss(logits, classes, weights)
    theirs = functional.cross_entropy(logits, classes, weight=weights)
    torch.testing.assert_close(ours, theirs * weights[classes].sum() / 12)
    assert float(theirs) / float(ours) > 1.4


def test_class_weights_are_one_minus_the_share() -> None:
    weights = class_weights_of(torch.tensor([0, 0, 1, 3]), 4)
    assert weights.tolist() == [0.5, 0.75, 1.0, 0.75]


def test_attention_loss_equals_loops() -> None:
    alpha, beta = random(0, 3, 5), random(1, 3, 5)
    of_alpha = sum((1 - value) ** 2 for bag in alpha.tolist() for value in bag) / 3
    of_beta = sum(value**2 for bag in beta.tolist() for value in bag) / 3
    assert float(attention_loss(alpha, beta)) == pytest.approx(of_alpha + of_beta)
    assert float(attention_loss(alpha, None)) == pytest.approx(of_alpha)
    assert float(attention_loss(None, beta)) == pytest.approx(of_beta)
    assert float(attention_loss(None, None)) == 0


def small_model() -> JointModel:
    torch.manual_seed(0)
    config = ModelConfig(
        lstm_size=4,
        attention_size=4,
        detection_size=4,
        second_attention_size=4,
        classification_size=4,
        dropout=0.0,
    )
    return JointModel(config, LossConfig(), InputShape(6, 1, 5, 3))


def test_total_is_the_weighted_sum_of_the_parts() -> None:
    model, classes = small_model(), torch.tensor([0, 2, 0, 1, 1])
    config = LossConfig(detection_weight=0.7, attention_weight=0.1, dense_penalty=0.01)
    output = model(random(0, 5, 6, 5))
    weights = class_weights_of(classes, 3)
    parts = joint_loss(output, classes, weights, model, config)
    detection = ranking_loss(output.scores[[1, 3, 4]], output.scores[[0, 2]], config)
    torch.testing.assert_close(parts["detection"], detection)
    expected = (
        0.7 * parts["detection"]
        + 0.3 * parts["classification"]
        + 0.1 * parts["attention"]
        + 0.01 * parts["dense_penalty"]
    )
    torch.testing.assert_close(parts["total"], expected)


def test_dense_penalty_covers_only_dense_weights() -> None:
    model = small_model()
    expected = sum(
        float((parameter.detach() ** 2).sum())
        for name, parameter in model.named_parameters()
        if name.endswith("weight") and "lstm" not in name
    )
    assert dense_penalty(model).item() == pytest.approx(expected)


def test_gradient_reaches_every_weight() -> None:
    model, classes = small_model(), torch.tensor([0, 2, 0, 1])
    output = model(random(0, 4, 6, 5))
    weights = class_weights_of(classes, 3)
    joint_loss(output, classes, weights, model, LossConfig())["total"].backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_saturated_scores_give_a_finite_loss() -> None:
    logits = torch.tensor([[1e4, -1e4]]).repeat(4, 1)
    output = JointOutput(
        scores=torch.sigmoid(logits), score_logits=logits, class_logits=torch.full((4, 2), 1e4)
    )
    classes = torch.tensor([0, 0, 1, 1])
    parts = joint_loss(output, classes, class_weights_of(classes, 2), small_model(), LossConfig())
    assert torch.isfinite(parts["total"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detection_weight": 1.1}, "detection_weight = 1.1 is not allowed: it must be from 0 to"),
        ({"margin": -1.0}, "margin = -1.0 is not allowed: it must be a number from 0 up"),
        ({"sparsity_weight": float("nan")}, "sparsity_weight = nan is not allowed"),
        ({"attention_weight": float("inf")}, "attention_weight = inf is not allowed"),
    ],
)
def test_invalid_weights_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)
