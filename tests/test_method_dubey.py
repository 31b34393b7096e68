"""Dubey's ranking losses against loops over pairs of bags."""

import numpy as np
import pytest
import torch

from vigil.model.baselines.dubey import (
    Dubey,
    DubeyConfig,
    DubeyLoss,
    next_ranks_loss,
    spread_loss,
)
from vigil.model.detector import Output
from vigil.model.losses import ranking_loss
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.training.learner import Bags, new_learner, train_epoch

SHAPE = InputShape(num_segments=8, time_positions=1, channels=6, num_classes=2)
CLASSES = torch.tensor([1, 1, 1, 0, 0])
WEIGHTS = torch.ones(2)


def scores_of(seed: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(size=(5, 8)))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 20])
def test_next_ranks_equal_loops(num_ranks: int) -> None:
    scores = scores_of(0)
    expected = 0.0
    for other in scores[3:].tolist():
        for bag in scores[:3].tolist():
            for score in sorted(bag, reverse=True)[1:num_ranks]:
                expected += max(0, 0.6 - score + max(other)) / 2
    loss = next_ranks_loss(scores[:3], scores[3:], num_ranks, margin=0.6)
    assert float(loss) == pytest.approx(expected)


def test_losses_of_two_bags_worked_out_by_hand() -> None:
    anomalous, normal = torch.tensor([[0.2, 0.9, 0.4]]), torch.tensor([[0.1, 0.3, 0.3]])
    # the second highest, 0.4, and the third, 0.2, against 0.3; highest less lowest is 0.7
    assert float(next_ranks_loss(anomalous, normal, 3, 1.0)) == pytest.approx(0.9 + 1.1)
    assert float(spread_loss(anomalous, 1.0)) == pytest.approx(0.3)
    assert float(spread_loss(anomalous, 0.7)) == pytest.approx(0.0, abs=1e-6)
    assert float(spread_loss(torch.full((2, 3), 0.5), 1.0)) == 2


def test_total_is_the_sum_of_the_parts() -> None:
    torch.manual_seed(0)
    model = Dubey(DubeyConfig(hidden_size=4, latent_size=3), DubeyLoss(), SHAPE)
    scores = scores_of(1)
    parts = model.losses(Output(scores=scores), CLASSES, WEIGHTS)
    ranking = ranking_loss(scores[:3], scores[3:], DubeyLoss().ranking())
    torch.testing.assert_close(parts["ranking"], ranking)
    expected = ranking + parts["next_ranks"] + parts["spread"] + 1e-2 * parts["dense_penalty"]
    torch.testing.assert_close(parts["total"], expected)


def test_order_within_a_side_changes_nothing() -> None:
    model = Dubey(DubeyConfig(hidden_size=4, latent_size=3), DubeyLoss(), SHAPE)
    scores = scores_of(2)
    loss = model.losses(Output(scores=scores), CLASSES, WEIGHTS)["total"]
    other = model.losses(Output(scores=scores[[2, 0, 1, 4, 3]]), CLASSES, WEIGHTS)["total"]
    torch.testing.assert_close(other, loss)


def test_it_learns_which_segments_are_anomalous() -> None:
    recipe = Recipe(
        DubeyConfig(hidden_size=16, latent_size=8, dropout=0.2),
        DubeyLoss(dense_penalty=1e-3),
        TrainingConfig(num_anomalous=8, num_normal=8, learning_rate=1e-2),
        "dubey",
    )
    features = torch.randn(16, 8, 6, generator=torch.Generator().manual_seed(0))
    features[:8, 2:5, 0] += 6
    bags = Bags(features, torch.tensor([1] * 8 + [0] * 8))
    learner = new_learner(recipe, SHAPE, 0, torch.device("cpu"))
    for epoch in range(1, 41):
        train_epoch(learner, bags, recipe, 0, epoch)
    scores = learner.model.eval()(features).scores[:8]
    elsewhere = scores[:, 2:5].amin(dim=1)
    usual = torch.cat([scores[:, :2], scores[:, 5:]], dim=1).amax(dim=1)
    assert (elsewhere > usual).all()
