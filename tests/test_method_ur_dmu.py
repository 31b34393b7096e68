"""UR-DMU's encoder, memories and losses against loops and the figures of the authors' program."""

import math
from statistics import fmean

import numpy as np
import pytest
import torch
from toy_training import SHAPE, auc_on_new_bags, fill, toy_bags, waves

from vigil.model.baselines.attention import GlobalLocalAttention, nearness
from vigil.model.baselines.ur_dmu import (
    Memory,
    UrDmu,
    UrDmuConfig,
    UrDmuLoss,
    divergence_loss,
    mean_of_best,
    mean_of_highest,
    memory_loss,
    recall_magnitude_loss,
    triplet_loss,
)
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig

SMALL = UrDmuConfig(
    embedding_size=16,
    num_heads=2,
    head_size=8,
    feedforward_size=16,
    num_layers=1,
    normal_memory_size=20,
    anomalous_memory_size=20,
    classifier_size=16,
    dropout=0.1,
)
ANOMALOUS = torch.tensor([True, False, True, False, False])


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(size=shape))


def norm(vector: torch.Tensor) -> float:
    return math.sqrt(sum(value**2 for value in vector.tolist()))


def pairs() -> list[tuple[int, int]]:
    """All pairs of a normal and an anomalous bag."""
    return [(1, 0), (1, 2), (3, 0), (3, 2), (4, 0), (4, 2)]


def test_nearness_equals_loops() -> None:
    weights = nearness(5, torch.device("cpu"))
    for column in range(5):
        raw = [math.exp(-abs(row - column) / math.e) for row in range(5)]
        np.testing.assert_allclose(weights[:, column], np.array(raw) / sum(raw), rtol=1e-6)


def test_attention_equals_loops() -> None:
    torch.manual_seed(0)
    layer, features = GlobalLocalAttention(6, num_heads=2, head_size=3), torch.randn(2, 5, 6)
    near, (weight, bias) = nearness(5, torch.device("cpu")), (layer.out.weight, layer.out.bias)
    for bag, attended in zip(features, layer(features), strict=True):
        parts = []
        for head in range(2):
            query, key, value, local = (
                bag @ layer.project.weight[start : start + 3].mT for start in range(3 * head, 24, 6)
            )
            for segment in range(5):
                logits = torch.stack([query[segment] @ other for other in key]) / math.sqrt(3)
                shares = logits.exp() / logits.exp().sum()
                parts.append(sum(shares[i] * value[i] for i in range(5)))
                parts.append(sum(near[segment, i] * local[i] for i in range(5)))
        heads = torch.stack(parts).view(2, 5, 6).transpose(0, 1).flatten(1)
        torch.testing.assert_close(attended, heads @ weight.mT + bias)


def test_memory_equals_loops() -> None:
    memory, features = Memory(33, 4).requires_grad_(False), torch.randn(1, 2, 4)
    match, recalled = memory(features)
    for segment in range(2):
        products = [float(slot @ features[0, segment]) / 2 for slot in memory.prototypes]
        weights = [1 / (1 + math.exp(-product)) for product in products]
        assert float(match[0, segment]) == pytest.approx(fmean(sorted(weights)[-3:]))
        expected = sum(w * slot for w, slot in zip(weights, memory.prototypes, strict=True))
        torch.testing.assert_close(recalled[0, segment], expected)


def test_the_best_of_32_segments_are_three() -> None:
    scores, features = random(0, 2, 32), random(1, 2, 32, 4)
    for bag in range(2):
        best = np.argsort(-scores[bag].numpy())[:3]
        assert float(mean_of_highest(scores)[bag]) == pytest.approx(float(scores[bag][best].mean()))
        expected = features[bag][best].mean(dim=0)
        torch.testing.assert_close(mean_of_best(features, scores)[bag], expected)


def test_memory_loss_equals_loops() -> None:
    normal_match, anomalous_match = random(0, 5, 4), random(1, 5, 4)
    of_anomalous = [
        -math.log(max(anomalous_match[bag].tolist()))
        - math.log(1 - min(normal_match[bag].tolist()))
        for bag in (0, 2)
    ]
    of_normal = [
        -math.log(1 - float(anomalous_match[bag, segment]))
        - math.log(float(normal_match[bag, segment]))
        for bag in (1, 3, 4)
        for segment in range(4)
    ]
    expected = fmean(of_anomalous) + fmean(of_normal)
    assert float(memory_loss(normal_match, anomalous_match, ANOMALOUS)) == pytest.approx(expected)


def test_triplet_loss_equals_loops() -> None:
    normal, other = random(0, 5, 3) - 0.5, random(1, 5, 3) - 0.5
    hinges = []
    for anchor, bag in pairs():
        unit = normal[anchor] / norm(normal[anchor])
        positive, negative = normal[bag] / norm(normal[bag]), other[bag] / norm(other[bag])
        hinges.append(max(0.0, 0.4 + norm(unit - positive) - norm(unit - negative)))
    assert 0 < sum(hinge > 0 for hinge in hinges) < len(hinges)
    assert float(triplet_loss(normal, other, ANOMALOUS, 0.4)) == pytest.approx(fmean(hinges))


def test_divergence_loss_equals_loops() -> None:
    mean, log_variance = random(0, 5, 4, 3), random(1, 5, 4, 3) - 0.5
    sums = [
        sum(
            -0.5 * (1 + float(v) - float(m) ** 2 - math.exp(v))
            for m, v in zip(mean[bag, :, feature], log_variance[bag, :, feature], strict=True)
        )
        for bag in (1, 3, 4)
        for feature in range(3)
    ]
    assert float(divergence_loss(mean, log_variance, ~ANOMALOUS)) == pytest.approx(fmean(sums))
    standard = torch.zeros(5, 4, 3)
    assert float(divergence_loss(standard, standard, ~ANOMALOUS)) == 0


def test_magnitude_loss_equals_loops() -> None:
    normal, anomalous = random(0, 5, 3), 3 * random(1, 5, 3)
    hinges = [max(0.0, 2 - norm(anomalous[bag]) + norm(normal[anchor])) for anchor, bag in pairs()]
    assert 0 < sum(hinge > 0 for hinge in hinges) < len(hinges)
    assert float(recall_magnitude_loss(normal, anomalous, ANOMALOUS, 2)) == pytest.approx(
        fmean(hinges)
    )


def test_losses_equal_the_authors_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures from the authors' program, its weights, input and noise filled in the same way.

    Triplet and magnitude are means over its pairings of normal and anomalous videos.
    """
    model = UrDmu(UrDmuConfig(dropout=0.0), UrDmuLoss(), InputShape(32, 1, 24, 2))
    fill(model)
    features, classes = 3 * waves(12, 32, 24, step=0.7), torch.tensor([1] * 6 + [0] * 6)
    monkeypatch.setattr(torch, "randn_like", lambda like: waves(*like.shape, step=0.9))
    parts = model.losses(model(features), classes, torch.ones(2))
    figures = {
        "video": 0.7298325,
        "memory": 2.7702365,
        "triplet": 0.8987438,
        "divergence": 0.0235180,
        "magnitude": 114.4982758,
    }
    for name, figure in figures.items():
        assert parts[name].item() == pytest.approx(figure, rel=1e-5), name
    expected = torch.tensor([[0.6282, 0.6282, 0.6284], [0.6281, 0.6284, 0.6285]])
    scores = model.eval()(features).scores[:2, :3]
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_total_is_the_weighted_sum_of_the_parts_and_reaches_every_weight() -> None:
    torch.manual_seed(0)
    model = UrDmu(SMALL, UrDmuLoss(), SHAPE)
    features, classes, _ = toy_bags(0)
    parts = model.losses(model(features), classes, torch.ones(2))
    expected = (
        parts["video"]
        + 0.1 * (parts["memory"] + parts["triplet"])
        + 1e-3 * parts["divergence"]
        + 1e-4 * parts["magnitude"]
    )
    torch.testing.assert_close(parts["total"], expected)
    parts["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_only_normal_bags_are_trained_with_noise() -> None:
    torch.manual_seed(0)
    model = UrDmu(SMALL, UrDmuLoss(), SHAPE)
    features, classes, _ = toy_bags(0)
    output = model(features)
    assert (output.noisy_scores != output.scores).all()
    scores = torch.where(classes.unsqueeze(1) > 0, output.scores, output.noisy_scores)
    video = [
        -math.log(worth if label else 1 - worth)
        for worth, label in zip(mean_of_highest(scores).tolist(), classes.tolist(), strict=True)
    ]
    losses = model.losses(output, classes, torch.ones(2))
    assert losses["video"].item() == pytest.approx(fmean(video), rel=1e-5)
    output = model.eval()(features)
    assert (output.noisy_scores == output.scores).all()


def test_bags_in_any_order_give_the_same_losses() -> None:
    torch.manual_seed(0)
    model, order = UrDmu(SMALL, UrDmuLoss(), SHAPE).eval(), torch.randperm(24)
    features, classes, _ = toy_bags(0)
    classes[:4] = 1  # unequal numbers
    losses = model.losses(model(features), classes, torch.ones(2))
    others = model.losses(model(features[order]), classes[order], torch.ones(2))
    for name, loss in losses.items():
        torch.testing.assert_close(others[name], loss, msg=name)


def test_it_learns_from_weak_labels() -> None:
    training = TrainingConfig(epochs=25, num_anomalous=12, num_normal=12, learning_rate=3e-3)
    assert auc_on_new_bags(Recipe(SMALL, UrDmuLoss(), training, "ur_dmu")) > 0.9
