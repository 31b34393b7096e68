"""The table of backbones, and how pixels become a network's input."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights

from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import BACKBONES, find_backbone
from vigil.extract.networks.hardware import PRECISIONS
from vigil.extract.networks.placement import FromPixels

EVERY = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
URLS = {name: one.sources[0].address for name, one in BACKBONES.items()}
TORCHVISION = [name for name, url in URLS.items() if "download.pytorch.org" in url]
PYTORCHVIDEO = [name for name, url in URLS.items() if "/pytorchvideo/" in url]


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (1, 64, 224, 224, 3), np.uint8))


def network_input(backbone, views, precision=torch.float32):
    return FromPixels(nn.Identity(), backbone.pixels, precision)(backbone.select(views))


def test_i3d_uses_all_frames_scaled_to_minus_1_to_1(views):
    backbone = BACKBONES["i3d"]
    assert backbone.select(views) is views
    expected = views.numpy().transpose(0, 4, 1, 2, 3) / 127.5 - 1
    np.testing.assert_allclose(network_input(backbone, views), expected, atol=1e-6)
    extremes = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1, 1)
    one_pixel = dataclasses.replace(backbone.pixels, size=1)
    normalise = FromPixels(nn.Identity(), one_pixel, torch.float32).normalise
    assert normalise(extremes.expand(1, 2, 1, 1, 3)).unique().tolist() == [-1, 1]


def test_only_i3d_sees_frames_at_their_own_size(views):
    wide = views[..., :180, :, :]
    for name, backbone in BACKBONES.items():
        sizes = network_input(backbone, wide).shape[-2:]
        assert sizes == ((180, 224) if name == "i3d" else backbone.input_shape[-2:])


def test_i3d_r50_uses_every_eighth_frame_normalised_as_published(views):
    every_eighth = views[:, ::8].numpy().transpose(0, 4, 1, 2, 3)
    expected = (every_eighth / 255 - 0.45) / 0.225
    np.testing.assert_allclose(network_input(BACKBONES["i3d_r50"], views), expected, atol=1e-5)


def test_each_colour_has_its_own_mean_and_deviation(views):
    got = network_input(BACKBONES["swin3d_t"], views)[0]
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (views[0, ::2, :, :, channel] / 255 - mean) / std
        np.testing.assert_allclose(got[channel], expected, atol=1e-5)


def test_halving_the_size_averages_four_pixels(views):
    got = network_input(BACKBONES["c3d"], views)[0]
    blocks = views[0].numpy().reshape(64, 112, 2, 112, 2, 3).mean(axis=(2, 4))
    expected = blocks.transpose(3, 0, 1, 2) - np.array([104, 117, 128])[:, None, None, None]
    np.testing.assert_allclose(got, expected, atol=1e-3)


@EVERY
def test_frames_are_spread_over_the_whole_clip(backbone):
    indices = list(backbone.frame_indices)
    gaps = np.diff([*indices, 64])
    assert indices[0] == 0
    assert gaps.max() - gaps.min() <= 1


@EVERY
@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_the_input_has_the_requested_precision_and_channels_last(views, backbone, precision):
    pixels = FromPixels(nn.Identity(), backbone.pixels, precision)
    got = pixels(views[:, : min(8, len(backbone.frame_indices))])
    assert got.dtype == precision
    assert got.is_contiguous(memory_format=torch.channels_last_3d)
    assert got.shape[-2:] == backbone.input_shape[-2:]


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_entries_match_its_metadata(name):
    backbone, official = BACKBONES[name], get_model_weights(name).DEFAULT
    documented = official.transforms()
    [source] = backbone.sources
    assert source.url == official.url
    assert source.sha256_prefix == official.url[-12:-4]
    assert source.num_bytes / 2**20 == pytest.approx(official.meta["_file_size"], abs=1e-3)
    pixels = backbone.pixels
    assert ([pixels.size] * 2, [*pixels.mean], [*pixels.std]) == (
        documented.crop_size,
        documented.mean,
        documented.std,
    )


@pytest.mark.parametrize("name", PYTORCHVIDEO)
def test_pytorchvideo_weights_have_the_urls_of_its_hub(name):
    module = {"i3d": "resnet", "slow": "resnet"}.get(name.split("_")[0], name.split("_")[0])
    hub = pytest.importorskip(f"pytorchvideo.models.hub.{module}")
    assert URLS[name] == hub.checkpoint_paths[name]


@pytest.mark.parametrize(
    ("name", "gmac"),
    [("s3d", 17.979 * 4), ("mvit_v2_s", 64.224), ("r3d_18", 40.697), ("x3d_s", 1.96)],
)
def test_flop_are_twice_the_documented_multiplications(name, gmac):
    """S3D's are documented for 16 frames, X3D's in SlowFast's model zoo."""
    backbone = BACKBONES[name]
    assert backbone.count_flop("AvgPool") / 2e9 == pytest.approx(gmac, rel=0.01)


@pytest.mark.slow
@EVERY
def test_operations_in_the_table_are_those_counted(backbone):
    assert backbone.gflop == round(backbone.count_flop(backbone.endpoint(None)) / 1e9)


def test_endpoints_are_joined_in_the_order_of_the_network():
    assert BACKBONES["i3d"].endpoint("Mixed_5c, Mixed_4d") == "Mixed_4d,Mixed_5c"
    assert BACKBONES["i3d"].shape_of("Mixed_4d,Mixed_5c") == (16, 1536)
    assert BACKBONES["i3d"].shape_of("AvgPool") == (7, 1024)
    pooled = "Mixed_4d:max,Mixed_4d,Mixed_5c"
    assert BACKBONES["i3d"].endpoint("Mixed_4d,Mixed_5c,Mixed_4d:max") == pooled
    assert BACKBONES["i3d"].shape_of(pooled) == (16, 2048)


@pytest.mark.parametrize(
    ("name", "endpoints", "able"),
    [
        ("i3d", "Mixed_4d,AvgPool", "Mixed_3b, Mixed_3c, "),
        ("i3d", "Mixed_4d,Mixed_4d", "Mixed_3b, Mixed_3c, "),
        ("i3d", "Mixed_4d,", "Mixed_3b, Mixed_3c, "),
        ("i3d", "Mixed_4d:min,Mixed_5c", "Mixed_3b, .*, Mixed_5c, each also with :max"),
        ("c3d", "fc6,fc6", "none of this backbone"),
    ],
)
def test_endpoints_that_cannot_be_joined_are_refused(name, endpoints, able):
    said = f"endpoint '{endpoints}' of {name} cannot be read in one pass: join different ones of"
    with pytest.raises(UserError, match=f"{said} {able}"):
        BACKBONES[name].endpoint(endpoints)


@EVERY
def test_the_last_endpoint_is_the_default(backbone):
    assert backbone.endpoint(None) == list(backbone.layout)[-1]
    for name in backbone.layout:
        assert backbone.endpoint(name) == name
    with pytest.raises(UserError, match=f"{backbone.name} has no endpoint 'fc8': use one of "):
        backbone.endpoint("fc8")


def test_the_maximum_over_the_frame_is_of_mixed_layers_only():
    assert BACKBONES["i3d"].endpoint("Mixed_4d:max") == "Mixed_4d:max"
    with pytest.raises(UserError, match=r"no endpoint 'AvgPool:max': .* or Mixed_3b:max and the"):
        BACKBONES["i3d"].endpoint("AvgPool:max")


def test_official_weights_are_downloaded_over_https():
    assert all(url.startswith("https://") for url in URLS.values())
    official = BACKBONES["i3d"].sources[0]
    assert official.git_blob_sha1 == "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"
    assert all(url.endswith(BACKBONES[name].sources[0].file_name) for name, url in URLS.items())


def test_no_two_weights_share_a_name_within_a_backbone_or_a_file():
    sources = [source for one in BACKBONES.values() for source in one.sources]
    assert len({source.file_name for source in sources}) == len(sources)
    for one in BACKBONES.values():
        assert len({source.name for source in one.sources}) == len(one.sources)


def test_unknown_backbones_are_refused():
    with pytest.raises(UserError, match="no backbone 'clip': use one of i3d, swin3d_t, "):
        find_backbone("clip")
