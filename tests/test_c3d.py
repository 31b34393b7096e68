"""C3D: its architecture, its four time positions, and the public names of its weights."""

from itertools import pairwise

import pytest
import torch
from i3d_reference import relative_error
from torch import nn

from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.c3d import C3D
from vigil.extract.networks.weights import load_weights, state_digest

SOURCES = BACKBONES["c3d"].sources


def in_order(network):
    """The same layers as a plain sequence, for one stretch of 16 frames."""
    conv = {name: module for name, module in network.named_children() if name != "fc6"}
    relu, pool = nn.ReLU(), nn.MaxPool3d(2)
    return nn.Sequential(
        *(conv["conv1"], relu, nn.MaxPool3d((1, 2, 2))),
        *(conv["conv2"], relu, pool),
        *(conv["conv3a"], relu, conv["conv3b"], relu, pool),
        *(conv["conv4a"], relu, conv["conv4b"], relu, pool),
        *(conv["conv5a"], relu, conv["conv5b"], relu, nn.MaxPool3d(2, padding=(0, 1, 1))),
        *(nn.Flatten(), network.fc6, relu),
    )


@pytest.fixture(scope="module")
def network():
    network = C3D()
    load_weights(network, "random", SOURCES)
    return network.eval()


@pytest.fixture(scope="module")
def digest(network):
    return state_digest(network)


@torch.inference_mode()
def test_every_16_frames_are_processed_independently(network):
    clip = torch.randn(1, 3, 32, 112, 112)
    expected = in_order(network)(torch.cat([clip[:, :, :16], clip[:, :, 16:]]))
    features = network(clip)
    assert features.shape == (1, 2, 4096)
    assert (features >= 0).all()
    assert relative_error(features[0], expected) < 1e-5


def test_layers_are_those_of_the_paper():
    """27.7 M in the convolutions, and 8192 x 4096 weights and 4096 biases of fc6."""
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in part.parameters()) for name, part in C3D().named_children()
        }
    assert sizes.pop("fc6") == 8192 * 4096 + 4096
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    expected = [27 * i * o + o for i, o in pairwise(widths)]
    assert list(sizes.values()) == expected


MMACTION2 = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
SEQUENCE = (0, 3, 6, 8, 11, 13, 16, 18)


@pytest.mark.parametrize("layout", ["own", "mmaction2", "sequence"])
def test_public_weights_load_under_the_names_they_have(network, digest, layout, tmp_path):
    state = network.state_dict()
    layers = [name for name, _ in network.named_children()]
    public = {
        "own": layers,
        "mmaction2": [f"{name}.conv" for name in MMACTION2] + ["fc6"],
        "sequence": [f"features.{index}" for index in SEQUENCE] + ["classifier.0"],
    }[layout]
    content = {
        f"{name}.{kind}": state[f"{layer}.{kind}"]
        for layer, name in zip(layers, public, strict=True)
        for kind in ("weight", "bias")
    }
    torch.save(content | {"fc8.weight": torch.zeros(1)}, tmp_path / "c3d.pickle")
    loaded = C3D()
    weights = load_weights(loaded, str(tmp_path / "c3d.pickle"), SOURCES)
    assert weights.digest == digest
