"""Training: from feature files and labels to a repeatable and resumable run."""

import csv
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from builders import (
    CHANNELS,
    MODEL,
    SPEC,
    TIME_POSITIONS,
    make_features,
    write_store,
    write_toy_store,
)
from dying import Killed, dying
from safetensors.numpy import load_file
from torch import nn

from vigil.data.annotations import AnnotationError
from vigil.data.storage import Storage
from vigil.extract.errors import UserError
from vigil.extract.locks import LockedError, locked
from vigil.extract.sealed import FeatureFileError
from vigil.model.methods import find_method
from vigil.model.settings import InputShape
from vigil.pipeline import cli
from vigil.pipeline.checkpoint import ResumeState, TrainingLengths, load_checkpoint, load_config
from vigil.pipeline.cli import main
from vigil.pipeline.logs import set_up_logging
from vigil.pipeline.options import LogOptions, TrainOptions
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.scores.inference import score_videos
from vigil.pipeline.training.learner import (
    DivergedError,
    bags_on_device,
    new_learner,
    restore,
    resume_state,
    train_epoch,
)
from vigil.pipeline.training.training_data import (
    LabelledFeatures,
    TrainingData,
    load_labelled_features,
    split_training,
)
from vigil.pipeline.training.training_log import TrainingLog
from vigil.pipeline.training.validation import choose_threshold, rank

CPU = torch.device("cpu")
NUM_VIDEOS = {"Normal": 12, "Arson": 6, "Fighting": 6}
RECIPE = Recipe(
    model=replace(MODEL, lstm_size=8, detection_size=8, standardize=True, dropout=0.2),
    training=TrainingConfig(
        epochs=4, learning_rate=1e-2, num_anomalous=5, num_normal=5, validation_fraction=0.3
    ),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_store(tmp_path_factory.mktemp("written"), NUM_VIDEOS)


@pytest.fixture
def features(written: Path, tmp_path: Path) -> Path:
    """A store of its own, which a test may change."""
    return Path(shutil.copytree(written, tmp_path / "features"))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "labels.csv")


def write_labels(path: Path, frames: str = "10,50", without: str = "", extra: str = "") -> Path:
    rows = ["video,class,start_frame,end_frame"]
    for name, number in NUM_VIDEOS.items():
        videos = [f"{name}/{name}{index}.mp4" for index in range(number)]
        end = "," if name == "Normal" else f",{frames}"
        rows += [f"{video},{name}{end}" for video in videos if video != without]
    path.write_text("\n".join(rows) + "\n" + extra)
    return path


def train(
    features: Path, labels: Path | None, out: Path, recipe: Recipe = RECIPE, **changes: Any
) -> None:
    annotations = () if labels is None else (labels,)
    options = TrainOptions(features, out, annotations, recipe=recipe, device="cpu")
    cli.run(replace(options, **changes))


def with_training(**changes: Any) -> Recipe:
    return replace(RECIPE, training=replace(RECIPE.training, **changes))


def read_log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def content_of(run: Path) -> dict[str, object]:
    """Return everything in a run that must be equal if the run is repeated."""
    tensors = {
        str(path.relative_to(run)): {
            name: value.tobytes() for name, value in load_file(path).items()
        }
        for path in sorted(run.rglob("*.safetensors"))
    }
    configs = {
        which: replace(load_config(run / which), created_at="") for which in ("best", "last")
    }
    splits = json.loads((run / "splits.json").read_text())
    return {**tensors, **configs, "log": (run / "log.csv").read_text(), "splits": splits}


def load_split(features: Path, labels: Path, *views: str, recipe: Recipe = RECIPE) -> TrainingData:
    return split_training(
        load_labelled_features(features, [labels], views or ["center"]), recipe, 0
    )


def test_a_run_from_end_to_end(
    features: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(features, labels, run, with_training(epochs=12))
    best, last = load_checkpoint(run), load_checkpoint(run, "last")
    answers = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(answers) == ["best_epoch", "validation_auc", "validation_maa", "threshold"]
    assert answers["best_epoch"] == str(best.config.epoch)
    assert float(answers["validation_auc"]) == pytest.approx(best.config.metrics["auc"], abs=1e-4)

    assert best.config.metrics["auc"] > 0.9  # the two segments that stand out are found
    assert best.config.metrics["maa"] > 0.6
    assert best.config.class_names == ("Normal", "Arson", "Fighting")
    assert best.config.spec == SPEC
    assert best.config.views == ("center",)
    assert last.config.epoch == 12
    assert any((run / "tensorboard").iterdir())
    log = read_log(run)
    assert [int(row["epoch"]) for row in log] == list(range(1, 13))
    assert float(log[-1]["loss/total"]) < float(log[0]["loss/total"])


def test_best_is_the_best_epoch_of_the_log(features: Path, labels: Path, tmp_path: Path) -> None:
    train(features, labels, tmp_path, with_training(epochs=6, selection="auc"))
    ranks = [
        rank(
            {name: float(row[f"validation/{name}"]) for name in ("auc", "maa", "separation")}, "auc"
        )
        for row in read_log(tmp_path)
    ]
    assert load_checkpoint(tmp_path).config.epoch == 1 + ranks.index(max(ranks))


def test_the_threshold_is_that_of_the_best_model_on_the_held_out_videos(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    train(features, labels, tmp_path / "run")
    best = load_checkpoint(tmp_path / "run")
    held_out = load_split(features, labels).validation
    peaks = [
        video.scores.max()
        for video in score_videos(best.model, torch.from_numpy(held_out.features))
    ]
    expected = choose_threshold(np.array(peaks), held_out.class_indices > 0)
    assert (best.config.threshold, best.config.threshold_rule) == expected


def test_two_epochs_and_two_resumed_equal_four(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    train(features, labels, tmp_path / "whole")
    halves = tmp_path / "halves"
    train(features, labels, halves, with_training(epochs=2))
    torch.manual_seed(12345)  # other random numbers of the process must not matter
    train(features, labels, halves, resume=True)
    assert content_of(halves) == content_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # from inside torch.compile
def test_a_compiled_model_learns_the_same_and_resumes_bit_for_bit(
    features: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))

    def recipe(epochs: int, *, compiled: bool, dropout: float) -> Recipe:
        model = replace(RECIPE.model, dropout=dropout)  # type: ignore[call-arg]
        return replace(with_training(epochs=epochs, compile=compiled), model=model)

    for compiled in (False, True):
        out = tmp_path / str(compiled)
        train(features, labels, out, recipe(4, compiled=compiled, dropout=0.0))
    plain, compiled_log = (
        [float(row["loss/total"]) for row in read_log(tmp_path / name)]
        for name in ("False", "True")
    )
    assert compiled_log == pytest.approx(plain, rel=1e-4)

    train(features, labels, tmp_path / "whole", recipe(4, compiled=True, dropout=0.3))
    for epochs in (2, 4):
        again = recipe(epochs, compiled=True, dropout=0.3)
        train(features, labels, tmp_path / "halves", again, resume=epochs == 4)
    assert content_of(tmp_path / "halves") == content_of(tmp_path / "whole")


def test_a_missing_compiler_is_reported_before_anything_is_written(
    features: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(UserError, match=r"\(No working C\+\+ compiler found\): on a CPU"):
        train(features, labels, tmp_path / "run", with_training(compile=True))
    assert not any((tmp_path / "run").glob("[!.]*"))


def test_a_killed_run_resumes_from_the_last_checkpoint(
    features: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_training(save_epochs=2)
    train(features, labels, tmp_path / "whole", recipe)

    def die_in_epoch_4(*arguments: Any) -> dict[str, float]:
        if arguments[-1] == 4:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr("vigil.pipeline.training.loop.train_epoch", die_in_epoch_4)
        with pytest.raises(KeyboardInterrupt):
            train(features, labels, killed, recipe)
    assert len(read_log(killed)) == 3
    assert load_checkpoint(killed, "last").config.epoch == 2
    train(features, labels, killed, recipe, resume=True)
    assert content_of(killed) == content_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_killed_anywhere_resumes_to_the_same_result(
    features: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call that changes the disk, while a new run replaces an earlier one."""
    data = load_split(features, labels)
    monkeypatch.setattr("vigil.pipeline.training.command.split_training", lambda *_: data)
    monkeypatch.setattr("vigil.pipeline.training.training_log.SummaryWriter", Mock())
    monkeypatch.setattr(os, "fsync", Mock())
    train(features, labels, tmp_path / "whole", with_training(epochs=2))
    train(features, labels, tmp_path / "before", with_training(epochs=1))
    for after in count():
        run = tmp_path / str(after)
        shutil.copytree(tmp_path / "before", run)
        with dying(after):
            try:
                train(features, labels, run, with_training(epochs=2), overwrite=True)
            except Killed:
                pass
            else:
                break
        train(features, labels, run, with_training(epochs=2), resume=True)
        assert content_of(run) == content_of(tmp_path / "whole")
        names = {".lock", "best", "last", "log.csv", "splits.json"}
        assert {path.name for path in run.iterdir()} == names
    assert after > 50


def test_resuming_a_finished_run_changes_nothing(
    features: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(features, labels, tmp_path / "run")
    before, printed = content_of(tmp_path / "run"), capsys.readouterr().out
    train(features, labels, tmp_path / "run", resume=True)
    assert content_of(tmp_path / "run") == before
    assert capsys.readouterr().out == printed


def test_resuming_a_run_that_does_not_exist_starts_it(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    train(features, labels, tmp_path / "run", resume=True)
    assert load_checkpoint(tmp_path / "run", "last").config.epoch == 4


def test_a_full_disk_ends_the_run_with_advice(
    features: Path,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    arguments = ["train", str(features), "--annotations", str(labels), "--epochs", "1"]
    arguments += ["--out", str(tmp_path / "run"), "--device", "cpu", "--lstm-size", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "no space is left for" in said
    assert "splits.json" in said
    assert main(arguments) == 0


def test_only_labels_of_videos_are_used(features: Path, labels: Path, tmp_path: Path) -> None:
    train(features, labels, tmp_path / "one")
    others = write_labels(tmp_path / "others.csv", frames="60,61")
    train(features, others, tmp_path / "two")
    without = write_labels(tmp_path / "without.csv", frames=",")
    train(features, without, tmp_path / "three")
    train(features, None, tmp_path / "four")  # labels from the folders' names
    contents = [content_of(tmp_path / name) for name in ("one", "two", "three", "four")]
    assert contents[0] == contents[1] == contents[2] == contents[3]


def test_equal_seeds_give_equal_runs(features: Path, labels: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(features, labels, tmp_path / name, seed=seed)
    one, two, three = (content_of(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["splits"] != three["splits"]
    assert one["last/model.safetensors"] != three["last/model.safetensors"]


def test_a_run_is_not_overwritten_without_request(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(features, labels, run, with_training(epochs=2))
    before = content_of(run)
    with pytest.raises(
        UserError, match=r"already holds a training run: continue it with --resume, st"
    ):
        train(features, labels, run)
    assert content_of(run) == before
    with pytest.raises(UserError, match=r"none\.csv"):
        train(features, tmp_path / "none.csv", run, overwrite=True)
    assert content_of(run) == before
    (run / "note.txt").write_text("mine")
    train(features, labels, run, overwrite=True)
    assert len(read_log(run)) == 4
    assert (run / "note.txt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": with_training(learning_rate=1e-3)}, r"learning_rate: 0\.01 != 0\.001"),
        (
            {"recipe": replace(RECIPE, model=MODEL)},
            "standardize: True != False; .*lstm_size: 8 != 4",
        ),
        (
            {"recipe": replace(RECIPE, model=replace(RECIPE.model, time_pool="mean"))},
            r"model\.time_pool: none != mean",
        ),
        ({"seed": 1}, "seed: 0 != 1"),
        ({"views": "top_left"}, r"views: \('center',\) != \('top_left',\)"),
    ],
)
def test_a_run_resumes_only_with_its_own_settings(
    features: Path, labels: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    train(features, labels, tmp_path / "run", with_training(epochs=1))
    with pytest.raises(UserError, match=f"cannot be resumed, because this differs: .*{message}"):
        train(features, labels, tmp_path / "run", resume=True, **changes)


def test_a_run_resumes_only_with_its_own_videos(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    train(features, labels, tmp_path / "run", with_training(epochs=1))
    fewer = write_labels(tmp_path / "fewer.csv", without="Arson/Arson2.mp4")
    with pytest.raises(
        UserError, match=r"differs: videos or labels, 1 in all, such as Arson/Arson2\.mp4"
    ):
        train(features, fewer, tmp_path / "run", resume=True)
    (tmp_path / "run" / "splits.json").unlink()
    with pytest.raises(UserError, match=r"splits\.json is missing or damaged"):
        train(features, labels, tmp_path / "run", resume=True)


def test_a_run_killed_in_its_first_epoch_starts_again(
    features: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "vigil.pipeline.training.loop.train_epoch", Mock(side_effect=KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            train(features, labels, tmp_path / "run")
    assert (tmp_path / "run" / "log.csv").exists()
    train(features, labels, tmp_path / "run")
    assert len(read_log(tmp_path / "run")) == 4


@pytest.mark.parametrize("name", ["best/photo.txt", "tensorboard/events", "log.csv"])
def test_a_folder_that_is_not_a_run_is_not_cleared(
    features: Path, labels: Path, tmp_path: Path, name: str
) -> None:
    other = tmp_path / "project" / name
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    for changes in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(
            UserError, match=f"is not a training run but holds {name.split('/')[0]}, .*gi"
        ):
            train(features, labels, tmp_path / "project", **changes)
    assert other.read_text() == "mine"
    with pytest.raises(UserError, match=r"labels\.csv is a file: give a folder"):
        train(features, labels, labels)


def test_contradictory_or_invalid_options_are_refused(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--overwrite starts over: give only one"):
        train(features, labels, tmp_path / "run", resume=True, overwrite=True)
    with pytest.raises(UserError, match="seed -1 is negative"):
        train(features, labels, tmp_path / "run", seed=-1)


def test_early_stopping(features: Path, labels: Path, tmp_path: Path) -> None:
    # With such small steps the first epochs hardly differ, so some epoch is no better.
    recipe = with_training(epochs=50, learning_rate=1e-9, early_stopping_epochs=2, save_epochs=100)
    train(features, labels, tmp_path, recipe)
    best, last = load_checkpoint(tmp_path).config, load_checkpoint(tmp_path, "last").config
    assert last.epoch == best.epoch + 2 < 50


def test_missing_and_extra_videos_are_named(
    features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = write_labels(
        tmp_path / "labels.csv",
        without="Normal/Normal3.mp4",
        extra="Arson/Gone1.mp4,Arson\nArson/Gone2.mp4,Arson\nGone3.mp4,Arson\nGone4.mp4,Arson\n",
    )
    train(features, labels, tmp_path / "run", with_training(epochs=1))
    assert "skipped 4 videos with an annotation but without features" in caplog.text
    assert "Arson/Gone1.mp4, Arson/Gone2.mp4, Gone3.mp4 and 1 more" in caplog.text
    assert "with features but without an annotation: Normal/Normal3.mp4" in caplog.text
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    gone = ["Arson/Gone1.mp4", "Arson/Gone2.mp4", "Gone3.mp4", "Gone4.mp4"]
    assert splits["without_features"] == gone
    assert splits["without_label"] == ["Normal/Normal3.mp4"]
    used = splits["train"] | splits["validation"]
    assert len(used) == len(splits["train"]) + len(splits["validation"]) == 23
    assert used["Arson/Arson0.mp4"] == "Arson"
    assert set(splits["validation"].values()) == set(NUM_VIDEOS)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"spec": replace(SPEC, clip_stride=32)}, UserError, "clip_stride: 64 != 32"),
        (
            {"views": ("top_left", "center")[:1], "features": None},
            FeatureFileError,
            "views top_left",
        ),
        ({"features": np.nan}, UserError, r"Normal/Normal0\.mp4: .* not finite \(view ce"),
    ],
)
def test_features_that_cannot_be_used_are_named(
    features: Path,
    labels: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[UserError],
    message: str,
) -> None:
    video = make_features("Normal/Normal0.mp4")
    if "features" in changes:
        value = changes["features"]
        array = video.features[:1] if value is None else np.full_like(video.features, value)
        changes = {**changes, "features": array}
    write_store(features, replace(video, **changes))
    with pytest.raises(error, match=message):
        train(features, labels, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mixed_precision_and_untrained_weights_are_warned_about(
    features: Path, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(features, labels, tmp_path / "one", with_training(epochs=1))
    assert "precision" not in caplog.text
    video = make_features("Normal/Normal0.mp4", precision="bf16", weights_trained=False)
    write_store(features, video)
    train(features, labels, tmp_path / "two", with_training(epochs=1))
    assert "different precisions (bf16, fp32)" in caplog.text
    assert "untrained weights" in caplog.text
    config = load_config(tmp_path / "two" / "best")
    assert (config.precision, config.weights_trained) == ("bf16+fp32", False)


def test_the_lengths_of_the_training_videos_are_recorded_and_long_ones_told(
    features: Path, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(features, labels, tmp_path / "one", with_training(epochs=1))
    assert load_config(tmp_path / "one" / "best").training_lengths == TrainingLengths(
        80, 80, 80, 25.0
    )
    assert "as long as" not in caplog.text
    write_store(features, make_features("Normal/Normal0.mp4", num_frames=161))
    train(features, labels, tmp_path / "two", with_training(epochs=1))
    assert load_config(tmp_path / "two" / "best").training_lengths == TrainingLengths(
        80, 80, 161, 25.0
    )
    assert "1 video is more than 2 times as long as the median of 80 frames" in caplog.text


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (["Normal", "Normal"], "there is no anomalous video among the 1 training videos"),
        (["Arson", "Arson"], "there is no normal video among the 1 training videos"),
        (["Normal", "Normal", "Arson"], "there is no anomalous video among the 1 held-out videos"),
    ],
)
def test_too_few_videos_of_a_kind(tmp_path: Path, videos: list[str], message: str) -> None:
    store = [make_features(f"{name}/{index}.mp4") for index, name in enumerate(videos)]
    write_store(tmp_path / "features", *store)
    with pytest.raises(UserError, match=f"{message}: training needs at least two normal"):
        train(tmp_path / "features", None, tmp_path / "run")


def test_missing_features_and_foreign_labels_are_refused(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="not a folder of features"):
        train(tmp_path / "none", labels, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no feature files"):
        train(tmp_path / "empty", None, tmp_path / "run")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("video,class\nelsewhere.mp4,Normal\n")
    with pytest.raises(AnnotationError, match="none of the annotated videos"):
        train(features, foreign, tmp_path / "run")


def test_every_view_is_a_bag_of_its_own(features: Path, labels: Path, tmp_path: Path) -> None:
    data = load_split(features, labels, "center", "top_left")
    bags = bags_on_device(data.train, torch.device("cpu"))
    assert len(bags.features) == len(bags.class_indices) == 2 * len(data.train)
    for row in range(len(bags.features)):
        np.testing.assert_array_equal(bags.features[row], data.train.features[row // 2, row % 2])
        assert bags.class_indices[row] == data.train.class_indices[row // 2]
    train(features, labels, tmp_path, with_training(epochs=1), views="center,top_left")
    assert load_checkpoint(tmp_path).config.views == ("center", "top_left")


def test_features_in_a_file_train_the_same(
    features: Path, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(features, labels, tmp_path / "memory")
    assert "streamed" not in caplog.text
    train(features, labels, tmp_path / "file", memory_gib=0)
    assert f"GB of features are streamed from disk, from a file in {tmp_path}" in caplog.text
    assert content_of(tmp_path / "file") == content_of(tmp_path / "memory")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_where_features_are_stored_changes_no_bit(
    features: Path, labels: Path, tmp_path: Path, dtype: type[np.floating]
) -> None:
    """On the device, gathered in memory as for a device that is too small, or in a file."""
    train_bags = load_split(features, labels).train
    in_memory = replace(train_bags, features=train_bags.features.astype(dtype))
    rows = range(len(in_memory))
    in_file = replace(in_memory, features=Storage(tmp_path, 0).take(in_memory.features, rows))
    resident, streamed = (bags_on_device(bags, CPU) for bags in (in_memory, in_file))
    assert (resident.is_resident, streamed.is_resident) == (True, False)
    outcomes = []
    for bags in (resident, resident._replace(is_resident=False), streamed):
        learner = new_learner(RECIPE, InputShape(8, TIME_POSITIONS, CHANNELS, 3), 0, CPU)
        learner.model.fit(bags.features, bags.class_indices)
        losses = [train_epoch(learner, bags, RECIPE, 0, epoch) for epoch in (1, 2, 3)]
        weights = {name: value.numpy() for name, value in learner.model.state_dict().items()}
        outcomes.append((losses, {name: value.tobytes() for name, value in weights.items()}))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_standardization_uses_only_the_training_videos(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    train(features, labels, tmp_path / "run", with_training(epochs=1))
    data = load_split(features, labels)
    segments = data.train.features.reshape(-1, TIME_POSITIONS * CHANNELS).astype(np.float64)
    state = load_checkpoint(tmp_path / "run").model.state_dict()
    np.testing.assert_allclose(state["front.standardize.mean"], segments.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        state["front.standardize.deviation"], segments.std(axis=0), rtol=1e-6
    )


def one_epoch(features: Path, labels: Path, recipe: Recipe) -> nn.Module:
    data = load_split(features, labels)
    shape = InputShape(8, TIME_POSITIONS, CHANNELS, 3)
    learner = new_learner(recipe, shape, 0, torch.device("cpu"))
    train_epoch(learner, bags_on_device(data.train, torch.device("cpu")), recipe, 0, 1)
    return learner.model


def test_gradients_are_clipped(features: Path, labels: Path) -> None:
    def gradient_norm(clip: float | None) -> float:
        model = one_epoch(features, labels, with_training(gradient_clip=clip))
        squares = [float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None]
        return float(np.sqrt(sum(squares)))

    assert gradient_norm(None) > 0.1
    assert gradient_norm(0.01) == pytest.approx(0.01, rel=1e-3)


def test_divergence_is_an_error(features: Path, labels: Path, tmp_path: Path) -> None:
    recipe = with_training(learning_rate=1e30)
    with pytest.raises(UserError, match=r"diverged: the loss of epoch \d is nan; set a lower lear"):
        train(features, labels, tmp_path / "one", recipe)
    one_batch = with_training(learning_rate=1e30, num_anomalous=50, num_normal=50)
    with pytest.raises(UserError, match="diverged: the scores of the held-out videos are not fin"):
        train(features, labels, tmp_path / "two", one_batch)


def test_half_precision_learns_the_same(
    features: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of CUDA, taken on the CPU."""
    exact = one_epoch(features, labels, RECIPE)
    scaler: Callable[..., object] = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=1024.0)
    )
    half = one_epoch(features, labels, RECIPE)
    for name, tensor in exact.state_dict().items():
        assert half.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(half.state_dict()[name], tensor, atol=0.05, rtol=0.1)


def test_half_precision_on_a_cpu_is_named_as_unused(caplog: pytest.LogCaptureFixture) -> None:
    recipe = replace(RECIPE, training=replace(RECIPE.training, amp=True))
    shape = InputShape(8, TIME_POSITIONS, CHANNELS, 3)
    learner = new_learner(recipe, shape, 0, torch.device("cpu"))
    assert not learner.scaler.is_enabled()
    assert "amp needs CUDA: training in float32 on cpu" in caplog.text


def test_half_precision_may_be_enabled_on_resuming() -> None:
    shape = InputShape(8, TIME_POSITIONS, CHANNELS, 3)
    learner = new_learner(RECIPE, shape, 0, torch.device("cpu"))
    learner = learner._replace(scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    restore(learner, learner.model, ResumeState(optimizer={}, scaler={}))
    assert learner.scaler.get_scale() == 8
    assert resume_state(learner).optimizer == {}


def test_the_progress_bar_is_shown_on_a_terminal_unless_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for quiet in (False, True):
        set_up_logging(LogOptions(quiet=quiet))
        with TrainingLog(tmp_path, 0, 1) as log:
            log.epoch(1, {"loss/total": 1.0, "validation/auc": 0.5, "validation/maa": 0.5})
        assert ("epoch" in capsys.readouterr().err) == (not quiet)


def test_progress_is_logged_without_a_terminal(
    features: Path, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(features, labels, tmp_path)
    assert "epoch 1/4 loss/total" in caplog.text
    assert "epoch 4/4 loss/total" in caplog.text


def test_a_second_run_in_the_same_folder_is_refused(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    with locked(tmp_path / "run"), pytest.raises(LockedError, match="another run is writing to"):
        train(features, labels, tmp_path / "run")
    assert not (tmp_path / "run" / "splits.json").exists()


def test_a_run_created_meanwhile_is_not_overwritten(
    features: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_slowly(*arguments: Any) -> LabelledFeatures:
        monkeypatch.undo()
        train(features, labels, tmp_path / "run", with_training(epochs=1))
        return load_labelled_features(*arguments)

    monkeypatch.setattr("vigil.pipeline.training.command.load_labelled_features", load_slowly)
    with pytest.raises(UserError, match="already holds a training"):
        train(features, labels, tmp_path / "run")


def test_a_run_resumes_only_with_its_own_split(
    features: Path, labels: Path, tmp_path: Path
) -> None:
    """Anomaly classes decide which videos are held out, even for a method that merges them."""
    kind = find_method("sultani")
    recipe = replace(RECIPE, method="sultani", model=kind.model(), loss=kind.loss())
    one_epoch = replace(recipe, training=replace(recipe.training, epochs=1))
    train(features, labels, tmp_path / "run", one_epoch)
    regrouped = tmp_path / "regrouped.csv"
    # 5 of 6 Arson videos join the 6 Fighting: of 11 and 1, 3 are held out, not 2 and 2.
    regrouped.write_text(re.sub("([0-4]).mp4,Arson", r"\1.mp4,Fighting", labels.read_text()))
    with pytest.raises(UserError, match=r"cannot be resumed, .*: which videos are held out, .*"):
        train(features, regrouped, tmp_path / "run", recipe, resume=True)


def test_weights_that_are_not_finite_end_the_training(features: Path, labels: Path) -> None:
    data = load_split(features, labels)
    shape = InputShape(SPEC.num_segments, TIME_POSITIONS, CHANNELS, 3)
    learner = new_learner(RECIPE, shape, 0, torch.device("cpu"))
    assert learner.optimizer is not None

    def spoil(*_: object) -> None:
        next(learner.model.parameters()).data[0] = float("nan")

    learner.optimizer.register_step_post_hook(spoil)
    bags = bags_on_device(data.train, torch.device("cpu"))
    one_step = with_training(num_anomalous=20, num_normal=20)
    with pytest.raises(DivergedError, match="the weights after epoch 1 are not finite"):
        train_epoch(learner, bags, one_step, 0, 1)
