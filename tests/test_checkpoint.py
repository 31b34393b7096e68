"""Checkpoints: written whole, read back equal, refused by name if anything does not fit."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import rewrite_config
from dying import Killed, dying
from safetensors.torch import load_file

from vigil.extract.spec import FeatureSpec
from vigil.model.config import LossConfig, ModelConfig
from vigil.model.joint import JointModel
from vigil.model.settings import InputShape
from vigil.pipeline.checkpoint import (
    MODEL_NAME,
    CheckpointConfig,
    CheckpointError,
    ResumeState,
    find_checkpoint,
    load_checkpoint,
    load_resume_state,
    remove_checkpoint,
    save_checkpoint,
    settle_checkpoint,
)
from vigil.pipeline.recipe import Recipe, TrainingConfig

MODEL = ModelConfig(
    lstm_size=4,
    attention_size=4,
    detection_size=4,
    second_attention_size=2,
    classification_size=4,
    standardize=True,
)
CONFIG = CheckpointConfig(
    recipe=Recipe(MODEL, LossConfig(margin=0.5), TrainingConfig(gradient_clip=2.0)),
    shape=InputShape(num_segments=8, time_positions=2, channels=3, num_classes=3),
    class_names=("Normal", "Arson", "Fighting"),
    spec=FeatureSpec("i3d", "logits", "0" * 64, num_segments=8, short_side=None),
    weights_name="rgb_imagenet.pt",
    weights_trained=True,
    precision="fp16",
    views=("center", "top_left"),
    threshold=0.1 + 0.2,  # not a short decimal
    threshold_rule="given",
    metrics={"auc": 2 / 3, "maa": 0.5, "separation": -0.25},
    seed=7,
    epoch=12,
    versions={"torch": "2.11"},
    created_at="2021-01-01T00:00:00+00:00",
)


def make_model(seed: int = 0) -> JointModel:
    torch.manual_seed(seed)
    model = JointModel(MODEL, LossConfig(), CONFIG.shape)
    model.fit(torch.randn(4, 8, 6) + 5, torch.zeros(4, dtype=torch.int64))
    return model


def same_weights(left: JointModel, right: JointModel) -> bool:
    other = right.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in left.state_dict().items())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run" / "best", CONFIG, make_model())
    return tmp_path / "run"


def test_a_checkpoint_reads_back_as_written(run: Path) -> None:
    for path in (run, run / "best"):
        checkpoint = load_checkpoint(path)
        assert checkpoint.config == CONFIG
        assert same_weights(checkpoint.model, make_model())
        assert not checkpoint.model.training
        assert checkpoint.folder == run / "best"
    features = torch.randn(2, 8, 6)
    expected = make_model().eval()(features)
    torch.testing.assert_close(checkpoint.model(features).scores, expected.scores)


def test_a_checkpoint_is_a_folder_of_plain_formats(run: Path) -> None:
    assert sorted(path.name for path in (run / "best").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    content = json.loads((run / "best" / "config.json").read_text())
    assert (content["format"], content["format_version"]) == ("vigil-checkpoint", 3)
    assert content["spec_digest"] == CONFIG.spec.digest
    assert content["class_names"] == ["Normal", "Arson", "Fighting"]
    assert "front.standardize.mean" in load_file(run / "best" / "model.safetensors")


def test_tensors_stored_in_16_bits_are_read_as_float32(run: Path, tmp_path: Path) -> None:
    known = load_checkpoint(run)
    rounded = {name: one.half().float() for name, one in known.model.state_dict().items()}
    save_checkpoint(tmp_path / "small", CONFIG, known.model.half())
    stored = load_file(tmp_path / "small" / MODEL_NAME)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    for name, tensor in load_checkpoint(tmp_path / "small").model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, rounded[name])


def test_a_model_file_is_copied_as_it_is(run: Path, tmp_path: Path) -> None:
    known = load_checkpoint(run)
    save_checkpoint(tmp_path / "copy", CONFIG, known.folder / MODEL_NAME)
    assert load_checkpoint(tmp_path / "copy").model_digest == known.model_digest


def test_best_and_last_are_distinguished(run: Path) -> None:
    save_checkpoint(run / "last", replace(CONFIG, epoch=20), make_model(seed=1))
    assert load_checkpoint(run).config.epoch == 12
    assert load_checkpoint(run, "last").config.epoch == 20
    assert load_checkpoint(run / "last").config.epoch == 20


def test_the_working_folder_can_be_loaded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, path in ((run, "."), (run / "best", "."), (run / "best", "..")):
        monkeypatch.chdir(folder)
        assert load_checkpoint(Path(path)).config == CONFIG
    with pytest.raises(CheckpointError, match="/ holds no checkpoint"):
        load_checkpoint(Path("/"))


def test_resume_state_reads_back_as_written(run: Path) -> None:
    state = ResumeState({"a.step": torch.tensor(3.0)}, {"scale": 65536.0, "_growth_tracker": 5})
    save_checkpoint(run / "last", CONFIG, make_model(), state)
    read = load_resume_state(run / "last")
    assert read.optimizer["a.step"].item() == 3
    assert read.scaler == state.scaler
    with pytest.raises(
        CheckpointError, match=r"best/optimizer\.safetensors is damaged \(it is not the"
    ):
        load_resume_state(run / "best")


def test_a_save_killed_anywhere_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """The save replaces epoch 12 by epoch 13."""
    models = {12: make_model(), 13: make_model(seed=1)}
    state = ResumeState({"a.step": torch.tensor(3.0)}, {})
    for after in count():
        best = tmp_path / str(after) / "best"
        save_checkpoint(best, replace(CONFIG, epoch=12), models[12], state)
        with dying(after) as calls:
            try:
                save_checkpoint(best, replace(CONFIG, epoch=13), models[13], state)
            except Killed:
                pass
            else:
                break
        found = load_checkpoint(best.parent)
        assert same_weights(found.model, models[found.config.epoch])
        assert load_resume_state(found.folder).optimizer["a.step"] == 3
        settle_checkpoint(best)
        assert load_checkpoint(best.parent).config.epoch == found.config.epoch
        assert [path.name for path in best.parent.iterdir()] == ["best"]
        save_checkpoint(best, replace(CONFIG, epoch=14), models[12])
        assert load_checkpoint(best.parent).config.epoch == 14
    assert calls.count("rename") == 2
    # The new folder is on disk under its final name before the old one is removed.
    last_rename = len(calls) - calls[::-1].index("rename")
    assert calls[last_rename] == "fsync"
    assert "unlink" not in calls[:last_rename]


def test_a_removal_killed_anywhere_leaves_no_partial_checkpoint(tmp_path: Path) -> None:
    model = make_model()
    for after in count():
        best = tmp_path / str(after) / "best"
        save_checkpoint(best, CONFIG, model)
        with dying(after) as calls:
            try:
                remove_checkpoint(best)
            except Killed:
                pass
            else:
                break
        if find_checkpoint(best, "best") is not None:
            assert same_weights(load_checkpoint(best).model, model)
        save_checkpoint(best, replace(CONFIG, epoch=14), model)
        assert load_checkpoint(best).config.epoch == 14
        assert [path.name for path in best.parent.iterdir()] == ["best"]
    assert not best.exists()
    assert calls == ["unlink", "fsync", "unlink", "rmdir"]


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: rewrite_config(folder / "config.json", change)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none holds no checkpoint .*best/config\.json"):
        load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"last/config\.json.*that vigil train wrote"):
        load_checkpoint(tmp_path, "last")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), r"config\.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("{}"), "is not the config of a check"),
        (edit(lambda c: c.update(format_version=1)), "format version 1, this program reads 3"),
        (edit(lambda c: c.pop("file_digests")), "lists no digests of the files beside it"),
        (
            lambda folder: (folder / "config.json").write_text(
                (folder / "config.json").read_text().replace('"Arson"', '"Arsom"')
            ),
            "its content does not match its digest",
        ),
        (edit(lambda c: c.update(extra=2)), r"config\.json is damaged .*extra"),
        (edit(lambda c: c.pop("threshold")), r"config\.json is damaged .*threshold"),
        (edit(lambda c: c.update(threshold="high")), r"damaged .*threshold"),
        (edit(lambda c: c.update(threshold=float("nan"))), "float values are not JSON compliant"),
        (edit(lambda c: c.update(recipe=None)), "recipe: None is not a recipe"),
        (edit(lambda c: c["recipe"]["model"].update(lstm_size=0)), "lstm_size = 0 is not allowed"),
        (edit(lambda c: c["spec"].update(clip_stride=32)), "digest is not that of the feature set"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5), "nested too deeply"),
        (
            edit(lambda c: c["recipe"]["model"].update(lstm_size=10**30)),
            "no model can have its sizes",
        ),
        (edit(lambda c: c["class_names"].pop()), "number of class names = 2 is not allowed"),
        (edit(lambda c: c["shape"].update(channels=4)), "it does not fit .* is .*, not "),
        (edit(lambda c: c["recipe"]["model"].update(temporal=False)), "temporal.* is unknown"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 90), "is not the file"),
    ],
)
def test_damage_is_refused_by_name(run: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(run / "best")
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(run)
    assert str(run / "best") in str(error.value)
    assert "\n" not in str(error.value)


def test_any_changed_byte_of_the_tensors_is_detected(run: Path) -> None:
    path = run / "best" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not the file that config\.json was written"):
        load_checkpoint(run)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "resume.json"])
def test_any_changed_byte_of_the_resume_state_is_detected(tmp_path: Path, name: str) -> None:
    state = ResumeState({"a.step": torch.tensor(3.0)}, {"scale": 65536.0})
    save_checkpoint(tmp_path / "last", CONFIG, make_model(), state)
    path = tmp_path / "last" / name
    path.write_bytes(path.read_bytes().replace(b"6", b"7").replace(b"a.step", b"b.step"))
    with pytest.raises(CheckpointError, match=rf"{name} is damaged \(it is not the file that"):
        load_resume_state(tmp_path / "last")


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    model = make_model()
    del model.detection.out.bias
    save_checkpoint(tmp_path / "best", CONFIG, model)
    with pytest.raises(CheckpointError, match=r"detection\.out\.bias is missing"):
        load_checkpoint(tmp_path)


def test_no_pickle_is_opened(run: Path) -> None:
    """A pickle in place of the tensors is refused unread, even if its digest matches."""
    path = run / "best" / "model.safetensors"
    torch.save(make_model().state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(lambda content: content["file_digests"].update({path.name: digest}))(run / "best")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(run)
