"""The I3D network, against reference figures computed with another implementation of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from i3d_reference import reference_clip, relative_error, seeded_state

from vigil.extract.networks.i3d import I3D, LAYOUT, pad_same, same_padding
from vigil.extract.networks.weights import load_state, read_state


def outputs_of_every_endpoint(network, clip):
    """Return each layer's spatial mean, (time positions, channels), and the last output."""
    means = {}
    for name, layer in network.named_children():

        def keep(_layer, _inputs, output, name=name):
            means[name] = output[0].mean(dim=(2, 3)).T.numpy()

        layer.register_forward_hook(keep)
    with torch.inference_mode():
        return means, network.eval()(clip)[0].numpy()


@pytest.fixture(scope="module")
def clip(shared_data):
    return reference_clip(shared_data)


def test_every_endpoint_up_to_mixed_4d_matches_the_reference(golden, shared_data, clip):
    path = shared_data / "weights" / "i3d_rgb_imagenet_partial.pt"
    network = I3D("Mixed_4d")
    load_state(network, read_state(path), path.name)
    means, output = outputs_of_every_endpoint(network, clip)
    reference = np.load(golden / "i3d_partial_endpoints.npz")
    assert list(means) == list(reference)
    for name, expected in reference.items():
        assert means[name].shape == LAYOUT[name]
        assert relative_error(means[name], expected) < 1e-4, name
    np.testing.assert_allclose(output, means["Mixed_4d"], rtol=1e-6)


def test_the_whole_network_matches_the_reference(golden, clip):
    network = I3D()
    load_state(network, seeded_state(), "seeded")
    means, output = outputs_of_every_endpoint(network, clip)
    expected = np.load(golden / "i3d_seeded_full.npz")["features"]
    assert output.shape == LAYOUT["AvgPool"] == (7, 1024)
    assert relative_error(output, expected) < 1e-4
    assert {name: mean.shape for name, mean in means.items()} == {
        name: layout for name, layout in LAYOUT.items() if name != "AvgPool"
    }


def test_an_endpoint_has_the_layers_before_it_and_no_others():
    for endpoint in LAYOUT:
        names = list(LAYOUT)[: list(LAYOUT).index(endpoint) + 1]
        with torch.device("meta"):
            network = I3D(endpoint)
        assert [name for name, _ in network.named_children()] == [
            name for name in names if name != "AvgPool"
        ]


def padding_by_sliding_windows(size, kernel, stride):
    """TensorFlow's 'SAME': the fewest zeros with ceil(size / stride) windows, more at the end."""
    wanted, total = -(-size // stride), 0
    while size + total < kernel or len(range(0, size + total - kernel + 1, stride)) < wanted:
        total += 1
    return total // 2, total - total // 2


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 4))
def test_padding_is_that_of_tensorflow(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    windows = (size + before + after - kernel) // stride + 1
    assert windows == -(-size // stride)
    if kernel >= stride:  # otherwise some elements may be left over at the end without padding
        assert (before, after) == padding_by_sliding_windows(size, kernel, stride)


def test_padding_goes_to_the_right_axes():
    x = torch.ones(1, 1, 3, 4, 5)
    padded = pad_same(x, (3, 2, 7), (1, 2, 2))
    assert padded.shape == (1, 1, 5, 4, 11)
    inside = padded[:, :, 1:4, :, 3:8]
    assert inside.sum() == padded.sum() == x.numel()
    assert pad_same(x, (1, 1, 1), (1, 1, 1)) is x
