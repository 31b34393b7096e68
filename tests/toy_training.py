"""Training on bags that a working method can distinguish."""

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.training.learner import Bags, new_learner, train_epoch

SHAPE = InputShape(num_segments=16, time_positions=2, channels=6, num_classes=2)


def auc_on_new_bags(recipe: Recipe) -> float:
    """Train a detector on weak labels and return its segment AUC on new bags."""
    (train, classes, _), (test, _, truth) = toy_bags(0), toy_bags(1)
    learner = new_learner(recipe, SHAPE, 0, torch.device("cpu"))
    learner.model.fit(train, classes)
    for epoch in range(1, recipe.training.epochs + 1):
        train_epoch(learner, Bags(train, classes), recipe, 0, epoch)
    with torch.no_grad():
        scores = learner.model.eval()(test).scores
    return float(roc_auc_score(truth.flatten(), scores.flatten()))


def toy_bags(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features (24, S, D), classes (24,) and anomalous segments (24, S): a run in every other bag.

    Anomalous segments are shifted, and jump from one time position to the next.
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(24, 16, 2, 6, generator=generator) / 2
    classes = torch.arange(24) % 2
    starts = torch.randint(0, 12, (24, 1), generator=generator)
    places = torch.arange(16)
    truth = (places >= starts) & (places < starts + 4) & (classes.unsqueeze(1) > 0)
    features[..., 0, :3] += 3 * truth.unsqueeze(-1)
    return features.flatten(2), classes, truth


def fill(model: torch.nn.Module) -> None:
    """Fill a model with weights that do not depend on a random generator."""
    for index, parameter in enumerate(model.parameters(), start=1):
        parameter.data = waves(*parameter.shape, step=index) / parameter.shape[-1] ** 0.5


def waves(*shape: int, step: float) -> Tensor:
    """Return values in -1..1 from a formula."""
    places = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64)
    return torch.sin(step * places).float().reshape(shape)
