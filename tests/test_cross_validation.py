"""Folds: each video is evaluated by a model not trained on it; the run's model uses all videos."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import CHANNELS, MODEL, TIME_POSITIONS, write_toy_store

from vigil.model.methods import find_method
from vigil.model.settings import InputShape
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.options import TrainOptions
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.training.command import run_train
from vigil.pipeline.training.cross_validation import cross_validate
from vigil.pipeline.training.learner import bags_on_device, new_learner, train_epoch
from vigil.pipeline.training.training_data import (
    TrainingData,
    load_labelled_features,
    split_training,
)
from vigil.pipeline.training.validation import HeldOutAnswers, Validation, answer, validate_answers

CPU = torch.device("cpu")
RECIPE = Recipe(
    model=replace(MODEL, lstm_size=8, detection_size=8, standardize=True, dropout=0.2),
    training=TrainingConfig(
        epochs=3, learning_rate=1e-2, num_anomalous=5, num_normal=5, validation_folds=3
    ),
)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of three classes, with a single Arson video; no test changes them."""
    folder = tmp_path_factory.mktemp("features")
    return write_toy_store(folder, {"Normal": 10, "Arson": 1, "Fighting": 8})


def load(features: Path, recipe: Recipe = RECIPE) -> TrainingData:
    return split_training(load_labelled_features(features, [], ["center"]), recipe, 0)


def train(features: Path, out: Path, recipe: Recipe = RECIPE, **changes: Any) -> None:
    run_train(replace(TrainOptions(features, out, recipe=recipe, device="cpu"), **changes))


def evaluate_folds(features: Path, folder: Path, recipe: Recipe = RECIPE) -> list[Validation]:
    data = load(features, recipe)
    return cross_validate(data, recipe, shape_of(data), 0, CPU, folder)


def shape_of(data: TrainingData) -> InputShape:
    return InputShape(data.train.spec.num_segments, TIME_POSITIONS, CHANNELS, len(data.class_names))


def test_with_folds_all_videos_are_trained_on(features: Path) -> None:
    data = load(features)
    assert len(data.train) == 19
    assert len(data.validation) == 0
    dealt = [video for fold in data.folds for video in fold]
    assert sorted(dealt) == [v for v in data.train.videos if not v.startswith("Arson")]
    train_bags, held_out = data.without(data.folds[1])
    assert held_out.videos == data.folds[1]
    assert sorted(train_bags.videos + held_out.videos) == list(data.train.videos)
    row = data.train.videos.index(held_out.videos[0])
    assert np.array_equal(held_out.features[0], data.train.features[row])


def test_each_video_is_evaluated_by_a_model_not_trained_on_it(
    features: Path, tmp_path: Path
) -> None:
    data = load(features)
    found = evaluate_folds(features, tmp_path / "folds")
    assert len(found) == RECIPE.training.epochs
    peaks, named, classes = [], [], []
    for fold in data.folds:
        others, own = data.without(fold)
        learner = new_learner(RECIPE, shape_of(data), 0, CPU)
        bags = bags_on_device(others, CPU)
        learner.model.fit(bags.features, bags.class_indices)
        train_epoch(learner, bags, RECIPE, 0, 1)
        train_epoch(learner, bags, RECIPE, 0, 2)
        said = answer(learner.model, own, torch.from_numpy(own.features))
        peaks += said.peaks.tolist()
        assert said.named is not None
        named += said.named.tolist()
        classes += own.class_indices.tolist()
    expected = validate_answers(
        HeldOutAnswers(np.array(peaks), np.array(named)), np.array(classes), 3
    )
    assert found[1] == expected


def test_the_model_uses_all_videos_and_the_threshold_comes_from_the_folds(
    features: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(features, run)
    best, last = load_checkpoint(run), load_checkpoint(run, "last")
    data = load(features)
    found = evaluate_folds(features, tmp_path / "folds")
    chosen = found[best.config.epoch - 1]
    assert best.config.metrics == chosen.metrics
    assert (best.config.threshold, best.config.threshold_rule) == (
        chosen.threshold,
        chosen.threshold_rule,
    )
    learner = new_learner(RECIPE, shape_of(data), 0, CPU)
    bags = bags_on_device(data.train, CPU)
    learner.model.fit(bags.features, bags.class_indices)
    for epoch in (1, 2, 3):
        train_epoch(learner, bags, RECIPE, 0, epoch)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(last.model.state_dict()[name], value), name
    splits = json.loads((run / "splits.json").read_text())
    assert (len(splits["train"]), splits["validation"]) == (19, {})
    assert splits["folds"] == [list(fold) for fold in data.folds]


def test_a_resumed_run_retrains_no_finished_fold(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(features, tmp_path / "whole")
    trained: list[int] = []

    def die_in(epoch: int) -> Any:
        def dying(*arguments: Any) -> dict[str, float]:
            trained.append(arguments[-1])
            if len(trained) == epoch:
                raise KeyboardInterrupt
            return train_epoch(*arguments)

        return dying

    killed = tmp_path / "killed"
    for number in (5, 5, 5):  # in the second fold, in the third one, in the run's own model
        trained.clear()
        with monkeypatch.context() as patch:
            for place in ("loop", "cross_validation"):
                patch.setattr(f"vigil.pipeline.training.{place}.train_epoch", die_in(number))
            with pytest.raises(KeyboardInterrupt):
                train(features, killed, resume=killed.exists())
    with monkeypatch.context() as patch:
        patch.setattr("vigil.pipeline.training.cross_validation.train_epoch", None)
        train(features, killed, resume=True)
    for which in ("best", "last"):
        one, other = (load_checkpoint(run, which) for run in (killed, tmp_path / "whole"))
        assert replace(one.config, created_at="") == replace(other.config, created_at="")
        assert all(
            torch.equal(value, other.model.state_dict()[name])
            for name, value in one.model.state_dict().items()
        )


def test_a_run_with_more_epochs_evaluates_the_folds_again(features: Path, tmp_path: Path) -> None:
    train(features, tmp_path / "run")
    longer = replace(RECIPE, training=replace(RECIPE.training, epochs=4))
    train(features, tmp_path / "run", longer, resume=True)
    train(features, tmp_path / "whole", longer)
    one, other = (load_checkpoint(tmp_path / run, "last").config for run in ("run", "whole"))
    assert one.epoch == 4
    assert (one.metrics, one.threshold) == (other.metrics, other.threshold)


@pytest.mark.parametrize("method", ["sultani", "svm"])
def test_methods_of_two_classes_and_methods_without_epochs(
    features: Path, tmp_path: Path, method: str
) -> None:
    kind = find_method(method)
    recipe = replace(RECIPE, method=method, model=kind.model(), loss=kind.loss())
    train(features, tmp_path / "run", recipe)
    config = load_checkpoint(tmp_path / "run", "last").config
    assert config.epoch == (1 if method == "svm" else 3)
    assert config.metrics["auc"] > 0.5
    data = load(features, recipe)
    shape = replace(shape_of(data), num_classes=len(data.class_names))
    training = replace(recipe.training, epochs=config.epoch)
    found = cross_validate(
        data, replace(recipe, training=training), shape, 0, CPU, tmp_path / "run" / "folds"
    )
    assert found[-1].metrics == config.metrics


def test_only_results_of_the_same_training_are_reused(
    features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = tmp_path / "folds"
    shorter = replace(RECIPE, training=replace(RECIPE.training, epochs=2))
    found = evaluate_folds(features, folder)
    caplog.clear()
    assert evaluate_folds(features, folder) == found
    assert evaluate_folds(features, folder, shorter) == found[:2]
    assert caplog.text.count("is already done") == 6
    (folder / "2.safetensors").write_bytes(b"damaged")
    caplog.clear()
    assert evaluate_folds(features, folder) == found
    assert caplog.text.count("is already done") == 2
    other = replace(RECIPE, training=replace(RECIPE.training, learning_rate=1e-3))
    caplog.clear()
    assert evaluate_folds(features, folder, other) != found
    assert "is already done" not in caplog.text
