"""The table of backbones, and how pixels and weights reach a network."""

import warnings

import numpy as np
import pytest
import torch
from i3d_reference import relative_error

from extract.backbones import BACKBONES, PRECISIONS, find_backbone
from extract.errors import UserError
from extract.weights import load_weights


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (1, 64, 224, 224, 3), np.uint8))


def test_i3d_sees_all_frames_between_minus_1_and_1(views):
    backbone = BACKBONES["i3d"]
    assert backbone.select(views) is views
    normalised = backbone.normalise(views, torch.float32)
    expected = views.numpy().transpose(0, 4, 1, 2, 3) / 127.5 - 1
    np.testing.assert_allclose(normalised, expected, atol=1e-6)
    extremes = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1, 1)
    assert backbone.normalise(extremes, torch.float32).flatten().tolist() == [-1, 1]


def test_i3d_r50_sees_every_eighth_frame_normalised_as_published(views):
    backbone = BACKBONES["i3d_r50"]
    normalised = backbone.normalise(backbone.select(views), torch.float32)
    every_eighth = views[:, ::8].numpy().transpose(0, 4, 1, 2, 3)
    np.testing.assert_allclose(normalised, (every_eighth / 255 - 0.45) / 0.225, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_the_input_has_the_precision_asked_for_and_its_channels_last(views, backbone, precision):
    normalised = backbone.normalise(views[:, :8], precision)
    assert normalised.dtype == precision
    assert normalised.is_contiguous(memory_format=torch.channels_last_3d)


def test_i3d_r50_is_the_network_of_pytorchvideo_before_its_head(views):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models.hub import i3d_r50
    backbone = BACKBONES["i3d_r50"]
    network = backbone.build("AvgPool")
    load_weights(network, "random", backbone.source)
    theirs = i3d_r50(pretrained=False).eval()
    theirs.load_state_dict(network.state_dict(), strict=False)
    head = theirs.blocks[-1]
    head.proj = head.dropout = torch.nn.Identity()
    assert head.pool.kernel_size == (4, 7, 7)
    head.pool = torch.nn.AvgPool3d((4, 4, 4))  # for a quarter of the pixels: it is quicker
    pixels = backbone.normalise(backbone.select(views)[:, :, :112, :112], torch.float32)
    with torch.inference_mode():
        ours, expected = network.eval()(pixels), theirs(pixels)
    assert ours.shape == (1, *backbone.layout["AvgPool"]) == (1, 1, 2048)
    assert relative_error(ours[:, 0], expected) < 1e-5


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_the_last_endpoint_is_the_default(backbone):
    assert backbone.endpoint(None) == "AvgPool"
    for name in backbone.layout:
        assert backbone.endpoint(name) == name
    with pytest.raises(UserError, match=f"{backbone.name} has no endpoint 'fc6': use one of .*Avg"):
        backbone.endpoint("fc6")


def test_official_weights_come_over_a_safe_connection():
    assert all(backbone.source.url.startswith("https://") for backbone in BACKBONES.values())
    blob = BACKBONES["i3d"].source.git_blob_sha1
    assert blob == "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"


def test_unknown_backbones_are_refused():
    with pytest.raises(UserError, match="no backbone 'c3d': use one of i3d, i3d_r50"):
        find_backbone("c3d")
