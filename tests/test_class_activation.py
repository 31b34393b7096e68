"""Class activation: its sum is a derivative, and it lies where the score comes from."""

import numpy as np
import pytest
import torch
from fake_backbone import BACKBONE, as_network
from torch import nn

from vigil.extract.errors import UserError
from vigil.extract.networks import class_activation
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.class_activation import LAYERS, Activations, map_layer
from vigil.extract.networks.combinations import Network
from vigil.extract.networks.weights import Weights

CPU = torch.device("cpu")
JOINED = "Mixed_4d:max,Mixed_4d,Mixed_5c:max,Mixed_5c"


def random_network(endpoint):
    backbone = BACKBONES["i3d"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = backbone.build(endpoint).eval()
        for layer in module.modules():  # of a depth at which fresh weights leave nothing
            if isinstance(layer, nn.BatchNorm3d):
                nn.init.uniform_(layer.weight, 2.0, 3.0)
    return Network(backbone, endpoint, module, Weights("random:0", "0" * 64, False))


def draw_view():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (64, 48, 48, 3), np.uint8))


@pytest.mark.parametrize("endpoint", ["Mixed_4d:max,Mixed_4d", "Mixed_5c", "AvgPool"])
def test_its_sum_is_the_score_if_only_pooling_follows_the_layer(endpoint):
    network = random_network(endpoint)
    gradient = np.random.default_rng(1).standard_normal(BACKBONES["i3d"].shape_of(endpoint))
    found = Activations(network, "none", CPU).of(draw_view(), gradient)
    assert found.places.shape == ((16, 3, 3) if "4d" in endpoint else (8, 2, 2))
    expected = (found.features * gradient).sum()
    assert expected != 0
    assert found.places.sum() == pytest.approx(expected, rel=1e-4)


def test_its_sum_is_the_change_of_the_score_with_the_map():
    network = random_network(JOINED)
    gradient = np.random.default_rng(1).standard_normal(BACKBONES["i3d"].shape_of(JOINED))
    view = draw_view()
    activations = Activations(network, "none", CPU)
    assert activations.layer == "Mixed_4d"
    found = activations.of(view, gradient)

    def score(factor):
        layer = activations._network.network.get_submodule("Mixed_4d")
        hook = layer.register_forward_hook(lambda module, given, output: output * factor)
        with torch.no_grad():
            features = activations._network(view[None])[0].double().numpy()
        hook.remove()
        return (features * gradient).sum()

    slope = (score(1.01) - score(0.99)) / 0.02
    assert found.places.sum() == pytest.approx(slope, rel=0.02)
    np.testing.assert_allclose((found.features * gradient).sum(), score(1), rtol=1e-4)


def test_time_pool_spreads_the_gradient_over_the_positions():
    network = random_network("Mixed_5c")
    gradient = np.random.default_rng(1).standard_normal((1, 1024))
    pooled = Activations(network, "mean", CPU).of(draw_view(), gradient)
    every = Activations(network, "none", CPU).of(draw_view(), gradient.repeat(8, axis=0) / 8)
    np.testing.assert_allclose(pooled.places, every.places, rtol=1e-4, atol=1e-9)
    assert pooled.features.shape == (1, 1024)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_maps(name):
    """As `count_flop` does, the network runs without memory."""
    backbone = BACKBONES[name]
    shapes = []
    with torch.device("meta"):
        network, clip = (
            backbone.build(backbone.endpoint(None)).eval(),
            torch.empty(backbone.input_shape),
        )
        layer = network.get_submodule(map_layer(name, ""))
        layer.register_forward_hook(lambda module, given, output: shapes.append(output.shape))
        network(clip)
    (shape,) = shapes
    assert len(shape) == 5
    assert shape[3] == shape[4] > 1


def test_every_endpoint_of_i3d_has_a_layer():
    with torch.device("meta"):
        network = BACKBONES["i3d"].build("AvgPool")
    for endpoint in (*BACKBONES["i3d"].layout, *BACKBONES["i3d"].joined):
        network.get_submodule(map_layer("i3d", endpoint))


@pytest.mark.parametrize("name", ["swin3d_b", "slowfast_r50", "mvit_v2_s", "i3d+c3d"])
def test_networks_without_such_a_layer_are_refused(name):
    with pytest.raises(UserError, match="cannot be explained in space: use a model trained on"):
        map_layer(name, "AvgPool")


class Brightness(nn.Module):
    """The mean brightness of each of a clip's frames, from a map of 7 x 7 places."""

    def __init__(self):
        super().__init__()
        self.map = nn.AvgPool3d((1, 32, 32))

    def forward(self, x):
        """(B, 3, 2, 224, 224) -> (B, 2, 3)."""
        return self.map(x.float()).mean(dim=(3, 4)).transpose(1, 2)


def test_it_lies_where_the_picture_is_bright(monkeypatch):
    monkeypatch.setitem(class_activation.LAYERS, BACKBONE.name, "map")
    view = torch.zeros(64, 224, 224, 3, dtype=torch.uint8)
    first, second = BACKBONE.frame_indices
    view[first, 192:, :32] = 200
    view[second, :32, 160:192] = 100
    found = Activations(as_network(Brightness()), "none", CPU).of(view, np.ones((2, 3)))
    expected = np.zeros((2, 7, 7))
    expected[0, 6, 0], expected[1, 0, 5] = 3 * 200 / 49, 3 * 100 / 49
    np.testing.assert_allclose(found.places, expected, atol=1e-6)
