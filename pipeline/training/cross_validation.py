"""Validate a training that uses all videos, by cross-validation over folds.

For each fold, a model is trained without its videos and predicts them after every epoch. The
predictions of all folds together choose the epoch and the threshold of the model that is trained on
all videos. Models of different folds are calibrated slightly differently, but their scores are
ranked together because one threshold must fit all; the AUC is therefore slightly below that within
each fold.

Legend: E epochs, N videos of a fold.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vigil.extract.files import make_folder, replace_file
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.training.learner import bags_on_device, new_learner, train_epoch, where_it_fits
from vigil.pipeline.training.ranks import ALONE, Ranks
from vigil.pipeline.training.training_data import TrainingData, splits_of
from vigil.pipeline.training.validation import HeldOutAnswers, Validation, answer, validate_answers

logger = logging.getLogger(__name__)


def cross_validate(
    data: TrainingData,
    recipe: Recipe,
    shape: InputShape,
    seed: int,
    device: torch.device,
    folder: Path,
    ranks: Ranks = ALONE,
) -> list[Validation]:
    """The measures of every epoch; each video is evaluated by the model trained without it.

    Args:
        data: training data with folds.
        recipe: the model, its losses, and how to train.
        shape: of the features and classes.
        seed: determines weights, batches and dropout of every fold's model.
        device: the device to train on.
        folder: stores each fold's predictions; a stored fold of the same training is not trained
            again.
        ranks: those that share the training; the first one reads and writes the folder.

    Raises:
        DivergedError: a loss or a score is not finite.
        OSError: the disk is full or the folder cannot be written.
    """
    made_of = _digest(data, recipe, shape, seed)
    of_folds, of_videos = [], []
    class_of = dict(zip(data.train.videos, data.train.class_indices, strict=True))
    for number, fold in enumerate(data.folds, start=1):
        path = folder / f"{number}.safetensors"
        answers = ranks.of_first(partial(_read, path, made_of))
        if len(answers) < recipe.training.epochs:
            logger.info("fold %d of %d, %d videos", number, len(data.folds), len(fold))
            answers = _answers(data, fold, recipe, shape, seed, device, ranks)
            ranks.of_first(partial(_write, path, answers, made_of))
        else:
            logger.info("fold %d of %d is already done", number, len(data.folds))
        of_folds.append(answers[: recipe.training.epochs])
        of_videos += [class_of[video] for video in fold]
    class_indices = np.array(of_videos)
    return ranks.of_first(
        lambda: [
            validate_answers(_joined(answers), class_indices, shape.num_classes)
            for answers in zip(*of_folds, strict=True)
        ]
    )


def _answers(
    data: TrainingData,
    fold: Sequence[str],
    recipe: Recipe,
    shape: InputShape,
    seed: int,
    device: torch.device,
    ranks: Ranks,
) -> list[HeldOutAnswers]:
    """Train without the videos of a fold, and return the predictions for them after each epoch."""
    train, held_out = data.without(fold)
    bags = bags_on_device(train, device)
    features = where_it_fits(held_out.features, device)
    learner = new_learner(recipe, shape, seed, device, ranks)
    learner.model.fit(bags.stored(ranks), bags.class_indices)
    answers = []
    for epoch in range(1, recipe.training.epochs + 1):
        train_epoch(learner, bags, recipe, seed, epoch)
        answers.append(answer(learner.model, held_out, features, ranks))
    return answers


def _joined(answers: Sequence[HeldOutAnswers]) -> HeldOutAnswers:
    """The predictions of all folds, concatenated."""
    peaks, named = zip(*answers, strict=True)
    return HeldOutAnswers(
        np.concatenate(peaks), None if named[0] is None else np.concatenate(named)
    )


def _digest(data: TrainingData, recipe: Recipe, shape: InputShape, seed: int) -> str:
    """sha256 of everything a fold's predictions depend on except the number of epochs."""
    training = replace(recipe.training, epochs=1, early_stopping_epochs=None, save_epochs=1)
    bags = data.train
    settings = asdict(replace(recipe, training=training)), asdict(shape), asdict(bags.spec)
    content = json.dumps([*settings, bags.views, seed, splits_of(data)])
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()


def _write(path: Path, answers: Sequence[HeldOutAnswers], made_of: str) -> None:
    """Store the predictions of a fold: tensors ``peaks`` and ``named``, each (E, N)."""
    peaks, named = zip(*answers, strict=True)
    tensors = {"peaks": np.stack(peaks)}
    if named[0] is not None:
        tensors["named"] = np.stack(named)
    make_folder(path.parent)
    with replace_file(path) as partial:
        partial.write_bytes(save(tensors, {"made_of": made_of}))


def _read(path: Path, made_of: str) -> list[HeldOutAnswers]:
    """The predictions stored by `_write`; none if missing, damaged or of another training."""
    try:
        with safe_open(path, "np") as file:
            if file.metadata()["made_of"] != made_of:
                return []
            names = set(file.keys())
            peaks = file.get_tensor("peaks")
            named = file.get_tensor("named") if "named" in names else [None] * len(peaks)
    except (OSError, SafetensorError, TypeError, KeyError):
        return []
    return [HeldOutAnswers(*epoch) for epoch in zip(peaks, named, strict=True)]
