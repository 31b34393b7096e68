"""Zhu's ranking by attention against numbers worked out by hand and by loops."""

from statistics import fmean

import numpy as np
import pytest
import torch
from toy_training import SHAPE, auc_on_new_bags, toy_bags

from vigil.model.baselines.zhu import (
    Motion,
    Zhu,
    ZhuConfig,
    ZhuLoss,
    differences,
    worth_ranking_loss,
)
from vigil.model.detector import Output
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig

SMALL = ZhuConfig(first_attention_size=16, second_attention_size=8, first_size=32, second_size=8)


def test_loss_of_two_bags_by_hand() -> None:
    model = Zhu(SMALL, ZhuLoss(sparsity_weight=0.5), InputShape(2, 1, 3, 2))
    scores = torch.tensor([[0.9, 0.5], [0.2, 0.6]])
    alpha = torch.tensor([[0.75, 0.25], [0.5, 0.5]])  # worth 0.8 and 0.4
    output = Output(scores=scores, alpha=alpha)
    losses = model.losses(output, torch.tensor([1, 0]), torch.ones(2))
    assert losses["ranking"].item() == pytest.approx(1 - 0.8 + 0.4)
    assert losses["sparsity"].item() == pytest.approx(0.8)
    assert losses["total"].item() == pytest.approx(0.6 + 0.5 * 0.8)


def test_ranking_loss_equals_loops() -> None:
    worth = torch.tensor(np.random.default_rng(0).uniform(size=7))
    anomalous = torch.tensor([True, False, False, True, True, False, False])
    hinges = [
        max(0.0, 0.3 - float(worth[bag]) + float(worth[other]))
        for bag in (0, 3, 4)
        for other in (1, 2, 5, 6)
    ]
    assert 0 < sum(hinge > 0 for hinge in hinges) < len(hinges)
    assert float(worth_ranking_loss(worth, anomalous, 0.3)) == pytest.approx(fmean(hinges))
    order = torch.tensor([6, 2, 0, 5, 3, 1, 4])
    torch.testing.assert_close(
        worth_ranking_loss(worth[order], anomalous[order], 0.3),
        worth_ranking_loss(worth, anomalous, 0.3),
    )


def test_attention_equals_loops() -> None:
    torch.manual_seed(0)
    model, (features, _, _) = Zhu(SMALL, ZhuLoss(), SHAPE).eval(), toy_bags(0)
    alpha = model(features[:2]).alpha
    first, second, last = (model.attention[index] for index in (0, 2, 4))
    for bag in range(2):
        logits = []
        for segment in features[bag]:
            hidden = np.tanh(first.weight.detach().numpy() @ segment.numpy() + first.bias.tolist())
            hidden = np.tanh(second.weight.detach().numpy() @ hidden + second.bias.tolist())
            logits.append(float(last.weight.detach().numpy()[0] @ hidden + last.bias.item()))
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(alpha[bag].detach(), expected, rtol=1e-5)


def test_differences_equal_loops() -> None:
    shape = InputShape(num_segments=3, time_positions=2, channels=4, num_classes=2)
    stored = torch.randn(2, 3, 8).half()
    found = differences(stored, shape).view(2, 6, 4)
    positions = stored.view(2, 6, 4)
    assert not found[:, 0].any()
    for place in range(1, 6):
        expected = (positions[:, place] - positions[:, place - 1]).abs()
        torch.testing.assert_close(found[:, place], expected)
    assert not differences(torch.ones(2, 3, 8), shape).any()


def test_the_motion_is_standardized() -> None:
    config = ZhuConfig(motion="difference", standardize=True)
    model, (features, classes, _) = Zhu(config, ZhuLoss(), SHAPE), toy_bags(0)
    model.fit(features, classes)
    moving = model.front(differences(features, SHAPE))
    torch.testing.assert_close(moving.mean(dim=(0, 1)), torch.zeros(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("motion", ["stored", "difference"])
def test_it_learns_from_weak_labels(motion: Motion) -> None:
    model = ZhuConfig(
        motion=motion,
        first_attention_size=16,
        second_attention_size=8,
        first_size=32,
        second_size=8,
        dropout=0.1,
    )
    training = TrainingConfig(epochs=60, num_anomalous=12, num_normal=12, learning_rate=1e-2)
    assert auc_on_new_bags(Recipe(model, ZhuLoss(), training, "zhu")) > 0.9
