"""Several backbones on the same clips: one pass, one feature, and the origin of its parts."""

import dataclasses
import hashlib
import json

import h5py
import numpy as np
import pytest
import torch
from fake_backbone import BACKBONE, at_half_size
from torch import nn
from video_files import draw_frames, encode

from vigil.extract.engine import device
from vigil.extract.engine.cutting import cut_view
from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import BACKBONES, Pixels
from vigil.extract.networks.choice import find_backbones, find_endpoints, split_weights
from vigil.extract.networks.combinations import load_networks
from vigil.extract.sealed import FeatureFileError
from vigil.extract.spec import FeaturePart
from vigil.extract.store import read_features, write_features
from vigil.pipeline.cli import main
from vigil.pipeline.extraction import command as extraction

PRESETS = {
    "swin3d_b": 1024,
    "r3d_18": 512,
    "r2plus1d_18": 512,
    "s3d": 1024,
    "i3d_r50": 2048,
    "swin3d_b+r3d_18": 1536,
    "swin3d_b+r2plus1d_18": 1536,
    "swin3d_b+s3d": 2048,
    "swin3d_b+i3d_r50": 3072,
}
"""The nine networks of the second system, and the number of features of each."""


class Edges(nn.Module):
    """A network with weights, unlike the fake backbone, and with another input size."""

    def __init__(self, _endpoint="edges"):
        super().__init__()
        self.convolution = nn.Conv3d(3, 5, 3)
        self.norm = nn.BatchNorm3d(5)

    def forward(self, x):
        """(B, 3, T, 32, 32) -> (B, 1, 5)."""
        return self.norm(self.convolution(x)).float().mean(dim=(2, 3, 4))[:, None]


EDGES = dataclasses.replace(
    BACKBONE,
    name="edges",
    frame_indices=range(0, 64, 16),
    pixels=Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=32),
    layout={"edges": (1, 5)},
    build=Edges,
)


@pytest.fixture
def videos(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "fake", BACKBONE)
    monkeypatch.setitem(BACKBONES, "edges", EDGES)
    encode(tmp_path / "videos" / "a.mp4", draw_frames(130))
    return tmp_path / "videos"


@pytest.fixture
def extract(videos, tmp_path):
    """Return a function that extracts with a backbone and returns the feature file's path."""

    def run(backbone, *settings, weights="random", precision="fp32"):
        out = tmp_path / backbone
        fixed = ["--precision", precision, "--device", "cpu", "--workers", "0", "--overwrite"]
        chosen = ["--backbone", backbone, "--weights", weights, "--out", out]
        assert main(["extract", *map(str, [videos, *chosen, *settings]), *fixed]) == 0
        return out / "a.mp4.h5"

    return run


@pytest.mark.parametrize("settings", [(), ("--time-pool", "mean"), ("--views", "five")])
def test_features_are_concatenated(extract, settings):
    settings = (*settings, "--keep-clips")
    fake, edges = (read_features(extract(name, *settings)) for name in ("fake", "edges"))
    both = read_features(extract("fake+edges", *settings))
    joined = np.concatenate([fake.features, edges.features], axis=2)
    np.testing.assert_array_equal(both.features, joined)
    clips = np.concatenate([fake.clip_features, edges.clip_features], axis=2)
    np.testing.assert_array_equal(both.clip_features, clips)
    positions = 1 if "mean" in settings else 2
    size = positions * 3
    assert both.parts == (FeaturePart("fake", 0, positions, 3), FeaturePart("edges", size, 1, 5))
    assert (both.time_positions, both.channels) == (1, size + 5)
    assert (both.spec.backbone, both.spec.endpoint) == ("fake+edges", "colour+edges")
    assert not fake.parts
    assert not edges.parts


def test_a_file_names_its_parts(extract):
    with h5py.File(extract("edges+fake")) as file:
        assert json.loads(file.attrs["parts"]) == [
            {"name": "edges", "offset": 0, "time_positions": 1, "channels": 5},
            {"name": "fake", "offset": 5, "time_positions": 2, "channels": 3},
        ]


def test_views_are_cut_once_for_all_networks(extract, monkeypatch):
    calls = []

    def counting(clip, name):
        calls.append(name)
        return cut_view(clip, name)

    monkeypatch.setattr(device, "cut_view", counting)
    extract("fake+edges", "--views", "five")
    assert len(calls) == 5 * 3  # 130 frames are three clips


def test_parts_that_do_not_add_up_to_the_feature_are_damage(extract):
    path = extract("fake+edges")
    video = read_features(path)
    first, second = video.parts
    for parts in ((first,), (second, first), (first, dataclasses.replace(second, channels=4))):
        write_features(path, dataclasses.replace(video, parts=parts))
        with pytest.raises(FeatureFileError, match="its parts do not make up a feature"):
            read_features(path)


def test_the_digest_covers_the_weights_of_all_networks(extract):
    digests = {
        weights: read_features(extract("fake+edges", weights=weights)).spec.weights_digest
        for weights in ("random", "random:0", "random:1", "random,random:1")
    }
    assert digests["random"] == digests["random:0"]
    assert digests["random:1"] == digests["random,random:1"]  # the fake backbone has no weights
    assert digests["random"] != digests["random:1"]
    edges = read_features(extract("edges")).spec.weights_digest
    fake = read_features(extract("fake")).spec.weights_digest
    assert digests["random"] == hashlib.sha256(f"{fake} {edges}".encode()).hexdigest()


def test_each_network_has_a_weights_file_or_random_weights(extract, tmp_path):
    network = Edges()
    torch.save(network.state_dict(), tmp_path / "edges.pt")
    video = read_features(extract("fake+edges", weights=f"random:7,{tmp_path / 'edges.pt'}"))
    assert video.weights_name == f"random:7,{tmp_path / 'edges.pt'}"
    assert not video.weights_trained
    engine = extraction.rebuild_engine(
        video.spec,
        extraction.Weights(video.weights_name, video.spec.weights_digest, False),
        None,
        ("center",),
        extraction.ComputeOptions(device="cpu"),
    )
    assert engine.weights.digest == video.spec.weights_digest


def test_rungs_are_recorded_per_network_if_they_differ(extract):
    """The fake backbone has nothing to fold."""
    video = read_features(extract("fake+edges"))
    assert (video.rung, video.precision) == ("plain+folded", "fp32")
    assert read_features(extract("edges")).rung == "folded"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_backbones("i3d+nothing"), "no backbone 'nothing': use one of i3d, "),
        (lambda: find_backbones("s3d+i3d+s3d"), r"'s3d\+i3d\+s3d' repeats s3d: name each "),
        (
            lambda: find_endpoints(find_backbones("i3d+s3d"), "Mixed_4d"),
            r"endpoint 'Mixed_4d' is for 1 network, not 2: give one for each, joined by \+",
        ),
        (
            lambda: find_endpoints(find_backbones("i3d+s3d"), "Mixed_4d+Mixed_4d"),
            "s3d has no endpoint 'Mixed_4d': use one of AvgPool",
        ),
        (lambda: split_weights("a.pt", 2), "weights 'a.pt' are for 1 network, not 2: give auto"),
        (lambda: split_weights("auto,a,b", 2), "'auto,a,b' are for 3 networks, not 2"),
    ],
)
def test_invalid_combinations_are_refused_by_name(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_endpoints_and_weights_are_given_network_by_network():
    backbones = find_backbones("i3d+s3d")
    assert find_endpoints(backbones, None) == ("AvgPool", "AvgPool")
    assert find_endpoints(backbones, "Mixed_4d+AvgPool") == ("Mixed_4d", "AvgPool")
    assert split_weights("random:3", 2) == ("random:3", "random:3")
    assert split_weights("auto,b.pt", 2) == ("auto", "b.pt")
    assert split_weights("a,b.pt", 1) == ("a,b.pt",)


def test_random_weights_do_not_depend_on_torchs_initialization(monkeypatch):
    """Even in networks with biases, tokens and indices, which torch initializes in its own way."""
    digests = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        (network,) = load_networks("mvit_v2_s", None, "random")
        digests.add(network.weights.digest)
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), PRESETS.items(), ids=PRESETS)
def test_the_nine_networks_of_the_second_system_can_be_named(
    videos, extract, monkeypatch, name, size
):
    encode(videos / "a.mp4", draw_frames(20))  # one clip
    if "+" in name:
        monkeypatch.setitem(BACKBONES, "swin3d_b", at_half_size("swin3d_b"))
    monkeypatch.setattr(extraction, "RUNGS", ("plain",))
    video = read_features(extract(name))
    assert video.features.shape == (1, 32, size)
    assert [part.name for part in video.parts] == (name.split("+") if "+" in name else [])
