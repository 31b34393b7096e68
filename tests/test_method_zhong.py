"""Graphs, cleaner and its supervision against the program's formulae in numpy, and its rounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from vigil.model.baselines.zhong import (
    Cleaner,
    Zhong,
    ZhongConfig,
    ZhongLoss,
    cleaning_losses,
    rescale,
    similarity_graph,
    time_graph,
)
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.training.learner import (
    Bags,
    Learner,
    new_learner,
    restore,
    resume_state,
    train_epoch,
)

SHAPE = InputShape(num_segments=8, time_positions=1, channels=6, num_classes=2)
CONFIG = ZhongConfig(
    classifier_size=32,
    cleaner_size=32,
    node_size=32,
    graph_size=16,
    dropout=0.2,
    round_epochs=2,
    cleaner_steps=100,
    cleaner_learning_rate=1e-2,
)
CLASSES = torch.tensor([0] * 10 + [1] * 10)
RECIPE = Recipe(
    CONFIG, ZhongLoss(), TrainingConfig(num_anomalous=5, num_normal=5, learning_rate=1e-2), "zhong"
)


def make_bags(seed: int = 0) -> torch.Tensor:
    """Anomalous bags hold two adjacent outlying segments."""
    bags = torch.randn(20, 8, 6, generator=torch.Generator().manual_seed(seed))
    bags[10:, 3:5, 0] += 4
    return bags


def new_zhong(seed: int = 0) -> Learner:
    learner = new_learner(RECIPE, SHAPE, seed, torch.device("cpu"))
    learner.model.fit(make_bags(), CLASSES)
    return learner


def train(learner: Learner, epochs: range) -> None:
    for epoch in epochs:
        train_epoch(learner, Bags(make_bags(), CLASSES), RECIPE, 0, epoch)


def normalized(weights: np.ndarray) -> np.ndarray:
    roots = np.diag(weights.sum(axis=1) ** -0.5)
    return roots @ weights @ roots


def graphs_in_numpy(nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Graphs of one video's segments (S, H), as in the program's ``models.py`` and ``utils.py``."""
    products = nodes @ nodes.T
    similar = np.exp(products - products.max(axis=1, keepdims=True))
    near = np.empty_like(similar)
    for i, j in np.ndindex(near.shape):
        near[i, j] = np.exp(-abs(i - j))
    return normalized(similar), normalized(near)


def test_graphs_equal_the_programs() -> None:
    nodes = torch.randn(3, 5, 4)
    for video, graph in zip(nodes.double().numpy(), similarity_graph(nodes), strict=True):
        similar, near = graphs_in_numpy(video)
        np.testing.assert_allclose(graph, similar, rtol=1e-4)
        np.testing.assert_allclose(time_graph(5, nodes.device), near, rtol=1e-5)


def test_cleaner_equals_the_programs_network() -> None:
    torch.manual_seed(0)
    cleaner, features = Cleaner(6, CONFIG).eval(), torch.randn(3, 8, 6)
    assert not list(cleaner.parameters())
    state = {name: value.double().numpy() for name, value in cleaner.state_dict().items()}
    for video, logits in zip(features.double().numpy(), cleaner(features), strict=True):
        nodes = np.maximum(video @ state["encoder.0.weight"].T + state["encoder.0.bias"], 0)
        nodes = np.maximum(nodes @ state["encoder.3.weight"].T + state["encoder.3.bias"], 0)
        expected = np.zeros(8)
        for graph, name in zip(graphs_in_numpy(nodes), ("similar", "near"), strict=True):
            hidden = np.maximum(graph @ (nodes @ state[f"{name}_hidden.weight"].T), 0)
            expected += (graph @ (hidden @ state[f"{name}_out.weight"].T))[:, 0] / 2
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_supervision_equals_the_programs() -> None:
    torch.manual_seed(0)
    logits, predictions, means = torch.randn(4, 8), torch.rand(4, 8), torch.rand(4, 8)
    steady = (torch.rand(4, 8).argsort(dim=1) < 3).float()
    anomalous = torch.tensor([1.0, 1.0, 0.0, 0.0])
    directs, indirects = [], []
    for bag in range(4):
        answers = 1 / (1 + np.exp(-logits[bag].double().numpy()))
        labels = predictions[bag].double().numpy() * anomalous[bag].item()
        errors = -labels * np.log(answers) - (1 - labels) * np.log(1 - answers)
        chosen = steady[bag].numpy() > 0 if anomalous[bag] else np.full(8, True)
        directs.append(errors[chosen].mean())
        changes = np.abs(answers - means[bag].double().numpy())
        indirects.append(changes.mean() if anomalous[bag] else 0.0)
    direct, indirect = cleaning_losses(logits, predictions, steady, means, anomalous)
    assert direct.item() == pytest.approx(np.mean(directs), rel=1e-5)
    assert indirect.item() == pytest.approx(np.mean(indirects), rel=1e-5)


def test_rescaling_fills_0_to_1_and_survives_constant_answers() -> None:
    torch.testing.assert_close(
        rescale(torch.tensor([[-3.0, 1.0, 0.0], [2.0, 2.0, 2.0]])),
        torch.tensor([[0.0, 1.0, 0.75], [0.0, 0.0, 0.0]]),
    )


def test_steady_segments_are_the_share_that_dropout_moves_least() -> None:
    torch.manual_seed(0)
    model = Zhong(replace(CONFIG, steady_share=0.3, dropout=0.0), ZhongLoss(), SHAPE)
    predictions, steady = model._predict(make_bags())
    torch.testing.assert_close(predictions, model.eval()(make_bags()).scores.detach())
    assert steady.sum(dim=1).tolist() == [3] * 20  # as the program: <= the int(0.3 * 8)-th, from 0


def test_first_round_learns_the_labels_of_videos_and_later_ones_the_cleaners() -> None:
    learner, bags = new_zhong(), make_bags()
    train(learner, range(1, 3))
    before = {name: value.clone() for name, value in learner.model.cleaner.state_dict().items()}
    assert (learner.model(bags).soft_labels == 1).all()
    train(learner, range(3, 4))
    moved = learner.model.cleaner.state_dict()
    assert all(not torch.equal(moved[name], before[name]) for name in before)
    output = learner.model.train()(bags)
    expected = rescale(learner.model.cleaner(bags))
    torch.testing.assert_close(output.soft_labels, expected)
    loss = learner.model.losses(output, CLASSES, torch.ones(2))["total"]
    labels = expected * CLASSES[:, None]
    errors = torch.nn.BCELoss()(output.scores, labels)
    torch.testing.assert_close(loss, errors)
    again = {name: value.clone() for name, value in moved.items()}
    train(learner, range(4, 5))
    assert all(torch.equal(moved[name], again[name]) for name in again)


def test_training_resumes_exactly_across_a_cleaning() -> None:
    whole, half, resumed = new_zhong(), new_zhong(), new_zhong(seed=7)
    train(whole, range(1, 5))
    train(half, range(1, 3))
    restore(resumed, half.model, resume_state(half))
    train(resumed, range(3, 5))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_cleaned_labels_and_scores_find_the_segments() -> None:
    learner, bags = new_zhong(), make_bags(1)
    train(learner, range(1, 8))
    labels = torch.zeros(20, 8)
    labels[10:, 3:5] = 1
    scores = learner.model.eval()(bags).scores.detach()
    assert roc_auc_score(labels.flatten(), scores.flatten()) > 0.95
    soft_labels = rescale(learner.model.cleaner(bags[10:]))
    assert roc_auc_score(labels[10:].flatten(), soft_labels.flatten()) > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZhongConfig(steady_share=1.0), "steady_share = 1.0 is not allowed"),
        (lambda: ZhongConfig(num_passes=1), "num_passes = 1 is not allowed: it must be at least 2"),
        (lambda: ZhongLoss(ensemble_momentum=1.5), "ensemble_momentum = 1.5 is not allowed"),
    ],
)
def test_invalid_settings_are_refused(make, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
