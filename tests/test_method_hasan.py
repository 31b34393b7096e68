"""The auto-encoder against its layers by hand, and on normal segments that lie on a plane."""

from dataclasses import replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from vigil.model.baselines.hasan import Hasan, HasanConfig, HasanLoss, HasanOutput
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.training.learner import Bags, new_learner, train_epoch

SHAPE = InputShape(num_segments=6, time_positions=1, channels=8, num_classes=2)
CONFIG = HasanConfig(first_size=16, second_size=12, third_size=8, code_size=3)
CLASSES = torch.tensor([0] * 12 + [1] * 8)


def make_bags(seed: int = 0) -> torch.Tensor:
    """Normal segments lie on a plane; two segments of each anomalous bag do not."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(9))).Q
    within = torch.randn(20, 6, 2, generator=generator) @ axes[:2]
    bags = 2 * within + 0.1 * torch.randn(20, 6, 8, generator=generator)
    bags[12:, 2:4] += 3 * torch.randn(8, 2, 6, generator=generator) @ axes[2:]
    return bags


def test_errors_and_scores_equal_the_layers_by_hand() -> None:
    torch.manual_seed(0)
    model, bags = Hasan(CONFIG, HasanLoss(), SHAPE), make_bags()
    model.fit(bags, CLASSES)
    output = model(bags)
    values = bags.double().numpy()
    weights = [weight.detach().double().numpy() for weight in model.network.parameters()]
    assert [len(bias) for bias in weights[1::2]] == [16, 12, 8, 3, 8, 12, 16, 8]
    hidden = values
    for layer, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        hidden = hidden @ weight.T + bias
        hidden = np.tanh(hidden) if layer < 7 else hidden
    errors = ((hidden - values) ** 2).mean(axis=-1)
    variance = values[:12].var(axis=(0, 1)).mean()
    np.testing.assert_allclose(output.errors.detach(), errors, rtol=1e-4)
    np.testing.assert_allclose(output.scores.detach(), errors / (errors + variance), rtol=1e-4)


def test_anomalous_bags_are_not_learned_from() -> None:
    torch.manual_seed(0)
    model, bags = Hasan(replace(CONFIG, standardize=True), HasanLoss(), SHAPE), make_bags()
    model.fit(bags, CLASSES)
    learned = {name: value.clone() for name, value in model.state_dict().items()}
    model.fit(bags.where((CLASSES == 0)[:, None, None], 7.0), CLASSES)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, learned[name], rtol=0, atol=0)
    errors = torch.rand(20, 6)
    output = HasanOutput(scores=errors, errors=errors)
    total = model.losses(output, CLASSES, torch.ones(2))["total"]
    torch.testing.assert_close(total, errors[:12].mean())


def test_it_learns_what_is_normal() -> None:
    training = TrainingConfig(num_anomalous=8, num_normal=12, learning_rate=1e-2)
    recipe = Recipe(CONFIG, HasanLoss(), training, "hasan")
    learner, bags = new_learner(recipe, SHAPE, 0, torch.device("cpu")), make_bags()
    learner.model.fit(bags, CLASSES)
    losses = [
        train_epoch(learner, Bags(bags, CLASSES), recipe, 0, epoch)["total"]
        for epoch in range(1, 41)
    ]
    assert losses[-1] < losses[0] / 4
    labels = torch.zeros(20, 6)
    labels[12:, 2:4] = 1
    scores = learner.model.eval()(make_bags(1)).scores.detach()
    assert roc_auc_score(labels.flatten(), scores.flatten()) > 0.95
