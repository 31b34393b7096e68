"""The table of backbones, and how pixels and weights reach a network."""

import copy
import warnings

import numpy as np
import pytest
import torch
from i3d_reference import relative_error

from extract.backbones import BACKBONES, PRECISIONS, find_backbone, place_network
from extract.errors import UserError
from extract.i3d import ConvUnit
from extract.weights import load_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (1, 3, 64, 224, 224), np.uint8))


def test_i3d_sees_all_frames_between_minus_1_and_1(views):
    normalised = BACKBONES["i3d"].normalise(views, torch.float32)
    np.testing.assert_allclose(normalised, views.numpy() / 127.5 - 1, atol=1e-6)
    extremes = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1, 1)
    assert BACKBONES["i3d"].normalise(extremes, torch.float32).flatten().tolist() == [-1, 1]


def test_i3d_r50_sees_every_eighth_frame_normalised_as_published(views):
    normalised = BACKBONES["i3d_r50"].normalise(views, torch.float32)
    expected = (views[:, :, ::8].numpy() / 255 - 0.45) / 0.225
    np.testing.assert_allclose(normalised, expected, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_input_comes_in_the_precision_asked_for(views, precision):
    assert (
        BACKBONES["i3d"].normalise(views[:, :, :8], PRECISIONS[precision]).dtype
        == {
            "fp32": torch.float32,
            "fp16": torch.float16,
            "bf16": torch.bfloat16,
        }[precision]
    )


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
    place_network(network, CPU, torch.float32)
    pixels = backbone.normalise(views[..., :112, :112], torch.float32)
    with torch.inference_mode():
        ours, expected = network(pixels), theirs(pixels)
    assert ours.shape == (1, *backbone.layout["AvgPool"]) == (1, 1, 2048)
    assert relative_error(ours[:, 0], expected) < 1e-5


def test_placing_changes_the_precision_of_convolutions_only():
    network = place_network(ConvUnit(3, 4, 3), CPU, torch.bfloat16)
    assert not network.training
    assert network.conv3d.weight.dtype == torch.bfloat16
    assert network.bn.running_var.dtype == network.bn.weight.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_bf16_stays_close_to_fp32():
    torch.manual_seed(0)
    network = torch.nn.Sequential(ConvUnit(3, 8, 3, 2), ConvUnit(8, 8, 3, 2))
    half = place_network(copy.deepcopy(network), CPU, torch.bfloat16)
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        exact = place_network(network, CPU, torch.float32)(clip)
        rough = half(clip.bfloat16())
    assert relative_error(rough.float(), exact) < 0.02


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
