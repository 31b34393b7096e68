"""Sultani's perceptron and loss against loops that follow the authors' program."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from vigil.model.baselines.sultani import Sultani, SultaniConfig, SultaniLoss, split_scores
from vigil.model.detector import Output
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.training.learner import Bags, new_learner, train_epoch

SHAPE = InputShape(num_segments=8, time_positions=1, channels=6, num_classes=2)
CLASSES = torch.tensor([1, 1, 1, 0, 0])
WEIGHTS = torch.ones(2)


def make_model(**loss: float) -> Sultani:
    torch.manual_seed(0)
    return Sultani(SultaniConfig(hidden_size=5, latent_size=3), SultaniLoss(**loss), SHAPE)


def scores_of(seed: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(size=(5, 8)))


def test_forward_is_the_perceptron_of_the_program() -> None:
    model = make_model().eval()
    features = torch.randn(4, 8, 6)
    first, second, last = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in model.perceptron
        if isinstance(layer, torch.nn.Linear)
    )
    hidden = np.maximum(features.numpy() @ first[0].T + first[1], 0)
    logits = (hidden @ second[0].T + second[1]) @ last[0].T + last[1]
    expected = 1 / (1 + np.exp(-logits[..., 0]))
    np.testing.assert_allclose(model(features).scores.detach().numpy(), expected, rtol=1e-5)


def test_loss_equals_the_programs_by_loops() -> None:
    scores, model = scores_of(0), make_model()
    anomalous, normal = scores[:3].tolist(), scores[3:].tolist()
    hinges = [sum(max(0, 1 - max(bag) + max(other)) for bag in anomalous) for other in normal]
    expected = sum(hinges) / 2
    expected += 8e-5 * sum(sum(bag) for bag in anomalous)
    expected += 8e-5 * sum((b - a) ** 2 for bag in anomalous for a, b in pairwise(bag))
    squares = sum(
        float((parameter.detach() ** 2).sum())
        for name, parameter in model.named_parameters()
        if name.endswith("weight")
    )
    parts = model.losses(Output(scores=scores), CLASSES, WEIGHTS)
    assert float(parts["ranking"]) == pytest.approx(expected)
    assert parts["dense_penalty"].item() == pytest.approx(squares)
    assert parts["total"].item() == pytest.approx(expected + 1e-3 * squares)


def test_loss_of_two_bags_worked_out_by_hand() -> None:
    scores = torch.tensor([[0.2, 0.9, 0.4], [0.1, 0.3, 0.3]])
    model = make_model(smoothness_weight=0.1, sparsity_weight=0.01, dense_penalty=0.0)
    parts = model.losses(Output(scores=scores), torch.tensor([1, 0]), WEIGHTS)
    # hinge 1 - 0.9 + 0.3, smoothness 0.7^2 + 0.5^2 = 0.74, sparsity 1.5
    assert parts["total"].item() == pytest.approx(0.4 + 0.074 + 0.015)


def test_constant_bags_have_no_smoothness_loss() -> None:
    scores = torch.full((5, 8), 0.4)
    with_it, without = (
        make_model(smoothness_weight=weight).losses(Output(scores=scores), CLASSES, WEIGHTS)
        for weight in (9.0, 0.0)
    )
    assert with_it["total"] == without["total"]


def test_order_within_a_side_changes_nothing() -> None:
    scores, model = scores_of(1), make_model(smoothness_weight=1.0)
    loss = model.losses(Output(scores=scores), CLASSES, WEIGHTS)["total"]
    other = model.losses(Output(scores=scores[[2, 0, 1, 4, 3]]), CLASSES, WEIGHTS)["total"]
    torch.testing.assert_close(other, loss)


def test_split_scores_parts_the_bags_by_class() -> None:
    anomalous, normal = split_scores(scores_of(0), CLASSES)
    assert (len(anomalous), len(normal)) == (3, 2)


def test_it_learns_which_segments_are_anomalous() -> None:
    recipe = Recipe(
        SultaniConfig(hidden_size=16, latent_size=8, dropout=0.2),
        SultaniLoss(),
        TrainingConfig(num_anomalous=8, num_normal=8, learning_rate=1e-2),
        "sultani",
    )
    features = torch.randn(16, 8, 6, generator=torch.Generator().manual_seed(0))
    features[:8, 3, 0] += 6
    bags = Bags(features, torch.tensor([1] * 8 + [0] * 8))
    learner = new_learner(recipe, SHAPE, 0, torch.device("cpu"))
    for epoch in range(1, 41):
        train_epoch(learner, bags, recipe, 0, epoch)
    scores = learner.model.eval()(features).scores[:8]
    assert (scores.argmax(dim=1) == 3).all()
