"""The contract that every method keeps: shapes, ranges, independence of bags, checkpoints."""

from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from vigil.model.detector import Detector
from vigil.model.methods import METHODS, find_method
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig, load_recipe
from vigil.pipeline.training.learner import Bags, new_learner, restore, resume_state, train_epoch

SHAPE = InputShape(num_segments=8, time_positions=2, channels=6, num_classes=3)
CPU = torch.device("cpu")
CLASSES = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 1, 2])
ROOT = Path(__file__).parent.parent


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def recipe_of_method(name: str) -> Recipe:
    method = find_method(name)
    shape = replace(SHAPE, num_classes=3 if method.detector.classifies else 2)
    assert shape.num_classes >= 2
    training = TrainingConfig(num_anomalous=3, num_normal=3, epochs=2, learning_rate=1e-3)
    return Recipe(small(method.model()), method.loss(), training, method=name)


def small(settings):  # type: ignore[no-untyped-def]
    """Limit every width to 4, since only shapes matter here."""
    sizes = {
        field.name: min(getattr(settings, field.name), 4)
        for field in fields(settings)
        if field.name.endswith("_size")
    }
    return replace(settings, **sizes)


def make_bags(seed: int = 0) -> Bags:
    """Anomalous bags hold one outlying segment."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(CLASSES), 8, 12, generator=generator)
    features[CLASSES > 0, 3] += 4
    return Bags(features, CLASSES)


def bags_for(model_class: type[Detector]) -> Bags:
    bags = make_bags()
    return bags if model_class.classifies else bags._replace(class_indices=(CLASSES > 0).long())


@cache
def trained(name: str) -> Detector:
    """A trained model that tests share and must not change."""
    recipe = recipe_of_method(name)
    bags = bags_for(find_method(name).detector)
    shape = replace(SHAPE, num_classes=int(bags.class_indices.max()) + 1)
    learner = new_learner(recipe, shape, 0, CPU)
    learner.model.fit(bags.features, bags.class_indices)
    for epoch in (1, 2):
        losses = train_epoch(learner, bags, recipe, 0, epoch)
        assert all(np.isfinite(value) for value in losses.values())
        assert not losses or next(iter(losses)) == "total"
    return learner.model.eval()


def test_outputs_have_the_shapes_and_ranges_of_the_contract(name: str) -> None:
    model = trained(name)
    output = model(make_bags(1).features[:5].half())
    assert output.scores.shape == (5, 8)
    assert output.scores.dtype == torch.float32
    assert ((output.scores >= 0) & (output.scores <= 1)).all()
    assert (output.class_logits is not None) == model.classifies
    if output.class_logits is not None:
        assert output.class_logits.shape == (5, model.shape.num_classes)
    if output.alpha is not None:
        torch.testing.assert_close(output.alpha.sum(dim=1), torch.ones(5))


def test_scores_of_a_bag_do_not_depend_on_the_others(name: str) -> None:
    model, features = trained(name), make_bags(1).features
    together = model(features).scores
    alone = torch.cat([model(bag[None]).scores for bag in features])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    order = torch.randperm(len(features))
    torch.testing.assert_close(model(features[order]).scores, together[order], atol=1e-5, rtol=1e-4)


def test_the_state_contains_all_that_is_learned(name: str) -> None:
    model = trained(name)
    with torch.device("meta"):
        other = type(model)(model.config, model.loss, model.shape)
    other.load_state_dict(model.state_dict(), assign=True)
    features = make_bags(1).features
    torch.testing.assert_close(other.eval()(features).scores, model(features).scores)


def test_training_repeats_and_resumes_exactly(name: str) -> None:
    whole = trained(name).state_dict()
    kind = trained(name)
    recipe, bags = recipe_of_method(name), bags_for(type(kind))
    learner = new_learner(recipe, kind.shape, 0, CPU)
    learner.model.fit(bags.features, bags.class_indices)
    train_epoch(learner, bags, recipe, 0, 1)
    resumed = new_learner(recipe, kind.shape, 7, CPU)
    restore(resumed, learner.model, resume_state(learner))
    train_epoch(resumed, bags, recipe, 0, 2)
    for key, tensor in resumed.model.state_dict().items():
        torch.testing.assert_close(tensor, whole[key], rtol=0, atol=0)


def test_every_method_has_a_recipe_file_with_its_name(name: str) -> None:
    if name == "joint":
        return
    recipe = load_recipe(ROOT / "configs" / f"{name}.toml")
    assert recipe.method == name
