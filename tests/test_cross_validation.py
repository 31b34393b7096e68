"""Folds: every video is judged by a model that never saw it, and the run's model saw them all."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import CHANNELS, MODEL, TIME_POSITIONS, make_features, write_store

from model.detector import InputShape
from model.methods import find_method
from pipeline.checkpoint import load_checkpoint
from pipeline.cross_validation import cross_validate, read_validations, write_validations
from pipeline.learner import bags_on_device, new_learner, train_epoch
from pipeline.options import TrainOptions
from pipeline.recipe import Recipe, TrainingConfig
from pipeline.training import run_train
from pipeline.training_data import TrainingData, load_labelled_features, split_training
from pipeline.validation import HeldOutAnswers, answer, judge

CPU = torch.device("cpu")
RECIPE = Recipe(
    model=replace(MODEL, lstm_size=8, detection_size=8, standardize=True, dropout=0.2),
    training=TrainingConfig(
        epochs=3, learning_rate=1e-2, num_anomalous=5, num_normal=5, validation_folds=3
    ),
)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """19 videos; in an anomalous one two segments stand out. Of Arson there is but one."""
    videos = []
    for name, number in {"Normal": 10, "Arson": 1, "Fighting": 8}.items():
        for index in range(number):
            video = make_features(f"{name}/{name}{index}.mp4", seed=len(videos))
            if name != "Normal":
                video.features[:, 3:5, 0] += 4
            videos.append(video)
    return write_store(tmp_path / "features", *videos)


def load(features: Path, recipe: Recipe = RECIPE) -> TrainingData:
    return split_training(load_labelled_features(features, [], ["center"]), recipe, 0)


def train(features: Path, out: Path, recipe: Recipe = RECIPE, **changes: Any) -> None:
    run_train(replace(TrainOptions(features, out, recipe=recipe, device="cpu"), **changes))


def shape_of(data: TrainingData) -> InputShape:
    return InputShape(data.train.spec.num_segments, TIME_POSITIONS, CHANNELS, len(data.class_names))


def test_folds_leave_everything_to_train_on(features: Path) -> None:
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


def test_each_video_is_judged_by_the_model_without_it(features: Path) -> None:
    data = load(features)
    found = cross_validate(data, RECIPE, shape_of(data), 0, CPU)
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
    expected = judge(HeldOutAnswers(np.array(peaks), np.array(named)), np.array(classes), 3)
    assert found[1] == expected


def test_the_model_is_that_of_all_videos_and_its_threshold_that_of_the_folds(
    features: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(features, run)
    best, last = load_checkpoint(run), load_checkpoint(run, "last")
    data = load(features)
    found = read_validations(run / "cross_validation.json")
    assert found == cross_validate(data, RECIPE, shape_of(data), 0, CPU)
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


def test_a_run_that_goes_on_does_not_ask_the_folds_again(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(features, tmp_path / "whole")

    def die_in_epoch_3(*arguments: Any) -> dict[str, float]:
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.train_epoch", die_in_epoch_3)
        with pytest.raises(KeyboardInterrupt):
            train(features, killed)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.cross_validate", None)
        train(features, killed, resume=True)
    for which in ("best", "last"):
        one, other = (load_checkpoint(run, which) for run in (killed, tmp_path / "whole"))
        assert replace(one.config, created_at="") == replace(other.config, created_at="")
        assert all(
            torch.equal(value, other.model.state_dict()[name])
            for name, value in one.model.state_dict().items()
        )
    longer = replace(RECIPE, training=replace(RECIPE.training, epochs=4))
    (killed / "cross_validation.json").write_text("{}")  # as if damaged
    train(features, killed, longer, resume=True)
    assert len(read_validations(killed / "cross_validation.json")) == 4
    assert load_checkpoint(killed, "last").config.epoch == 4


@pytest.mark.parametrize("method", ["sultani", "svm"])
def test_methods_of_two_classes_and_methods_without_epochs(
    features: Path, tmp_path: Path, method: str
) -> None:
    kind = find_method(method)
    recipe = replace(RECIPE, method=method, model=kind.model(), loss=kind.loss())
    train(features, tmp_path / "run", recipe)
    found = read_validations(tmp_path / "run" / "cross_validation.json")
    assert len(found) == (1 if method == "svm" else 3)
    assert found[-1].auc > 0.5


def test_what_is_kept_comes_back_and_what_is_damaged_does_not(tmp_path: Path) -> None:
    one = judge(HeldOutAnswers(np.array([0.1, 0.9]), None), np.array([0, 1]), 2)
    path = tmp_path / "kept.json"
    write_validations(path, [one, replace(one, auc=0.25)])
    assert read_validations(path) == [one, replace(one, auc=0.25)]
    for content in ("", "[]", '{"epochs": [{"auc": "high"}]}', json.dumps({"epochs": [1]})):
        path.write_text(content)
        assert read_validations(path) == []
    assert read_validations(tmp_path / "none.json") == []
    assert asdict(one)["maa"] == 1.0
