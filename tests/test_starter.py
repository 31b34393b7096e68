"""Making the starter: the scale of its scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from bench.starter import platt_scale, rescaled
from vigil.pipeline.checkpoint import MODEL_NAME, load_checkpoint, save_checkpoint
from vigil.pipeline.starter import STARTER, checkpoint_folder, is_starter


def test_platt_scaling_finds_the_line_behind_the_odds():
    generator = np.random.default_rng(0)
    peaks = generator.normal(4, 5, 20_000)
    is_anomalous = generator.random(len(peaks)) < expit(0.4 * peaks - 1.5)
    slope, intercept = platt_scale(peaks, is_anomalous)
    even = np.log(np.mean(~is_anomalous) / np.mean(is_anomalous))  # from the share to even odds
    assert slope == pytest.approx(0.4, abs=0.02)
    assert intercept == pytest.approx(-1.5 + even, abs=0.1)


def test_a_rescaled_model_has_the_scaled_odds_and_the_same_classes(tmp_path):
    shape = load_checkpoint(STARTER).config.shape
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, shape.num_segments, shape.feature_size, generator=generator)
    with torch.inference_mode():
        before = load_checkpoint(STARTER).model(features)
    config, model = rescaled(load_checkpoint(STARTER), 0.5, -1.25)
    save_checkpoint(tmp_path / "scaled", config, model)
    save_checkpoint(tmp_path / "copy", config, STARTER / MODEL_NAME)
    assert is_starter(load_checkpoint(tmp_path / "copy").model_digest)
    assert not is_starter(load_checkpoint(tmp_path / "scaled").model_digest)
    with torch.inference_mode():
        after = load_checkpoint(tmp_path / "scaled").model(features)
    odds = before.scores.double().logit()
    np.testing.assert_allclose(after.scores.double().logit(), 0.5 * odds - 1.25, atol=1e-3)
    assert torch.equal(after.class_logits, before.class_logits)
    assert replace(config.recipe, model=load_checkpoint(STARTER).config.recipe.model) == (
        load_checkpoint(STARTER).config.recipe
    )


def test_its_name_stands_for_it_unless_a_folder_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder(None) == checkpoint_folder(Path("starter")) == STARTER
    assert checkpoint_folder(Path("runs/starter")) == Path("runs/starter")
    Path("starter").mkdir()
    assert checkpoint_folder(Path("starter")) == Path("starter")
