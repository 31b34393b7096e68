"""How good a training would be on videos it does not know, where it is to know them all.

For each fold a model is trained without its videos and answers about them after every epoch. What
all folds say together chooses the epoch and the threshold of the model that is trained on all.
"""

import logging
from dataclasses import asdict
from pathlib import Path

import dacite
import numpy as np
import torch

from data.datasets import BagSet
from model.detector import InputShape
from pipeline.learner import bags_on_device, new_learner, train_epoch, where_it_fits
from pipeline.recipe import Recipe
from pipeline.results import read_json, write_json
from pipeline.training_data import TrainingData
from pipeline.validation import HeldOutAnswers, Validation, answer, judge

logger = logging.getLogger(__name__)


def cross_validate(
    data: TrainingData, recipe: Recipe, shape: InputShape, seed: int, device: torch.device
) -> list[Validation]:
    """The measures of every epoch, each video judged by the model that was trained without it.

    Args:
        data: with folds.
        recipe: the model, its losses, and how to train.
        shape: of the features and classes.
        seed: decides weights, batches and dropout of every fold's model.
        device: where to compute.

    Raises:
        DivergedError: a loss is not finite, or an answer is not.
    """
    answers: list[list[HeldOutAnswers]] = []
    classes = []
    for number, fold in enumerate(data.folds, start=1):
        logger.info("fold %d of %d, %d videos", number, len(data.folds), len(fold))
        train, held_out = data.without(fold)
        answers.append(_answers(train, held_out, recipe, shape, seed, device))
        classes.append(held_out.class_indices)
    class_indices = np.concatenate(classes)
    return [
        judge(_joined(of_folds), class_indices, shape.num_classes)
        for of_folds in zip(*answers, strict=True)
    ]


def _answers(
    train: BagSet,
    held_out: BagSet,
    recipe: Recipe,
    shape: InputShape,
    seed: int,
    device: torch.device,
) -> list[HeldOutAnswers]:
    """What a model says about held-out videos after each epoch."""
    bags = bags_on_device(train, device)
    features = where_it_fits(held_out.features, device)
    learner = new_learner(recipe, shape, seed, device)
    learner.model.fit(bags.features, bags.class_indices)
    answers = []
    for epoch in range(1, learner.num_epochs(recipe.training) + 1):
        train_epoch(learner, bags, recipe, seed, epoch)
        answers.append(answer(learner.model, held_out, features))
    return answers


def _joined(answers: tuple[HeldOutAnswers, ...]) -> HeldOutAnswers:
    """The answers of all folds, one after the other."""
    peaks, named = zip(*answers, strict=True)
    return HeldOutAnswers(
        np.concatenate(peaks), None if named[0] is None else np.concatenate(named)
    )


def write_validations(path: Path, validations: list[Validation]) -> None:
    """Keep the measures of all epochs, so that a training that goes on need not find them again."""
    write_json(path, {"epochs": [asdict(one) for one in validations]})


def read_validations(path: Path) -> list[Validation]:
    """What `write_validations` kept; nothing where that is missing or damaged."""
    try:
        return [dacite.from_dict(Validation, one) for one in read_json(path)["epochs"]]
    except (OSError, ValueError, TypeError, KeyError, dacite.DaciteError):
        return []
