"""I3D for inference, against the plain network and the reference figures."""

import numpy as np
import pytest
import torch
from i3d_reference import reference_clip, relative_error, seeded_state
from precisions import needs_bf16

from vigil.extract.networks.backbones import find_backbone
from vigil.extract.networks.fast_i3d import STEMS, FastI3D, _expected_mean, _folded
from vigil.extract.networks.i3d import I3D, LAYOUT
from vigil.extract.networks.weights import load_state, read_state


@pytest.fixture(scope="module")
def state():
    return seeded_state()


@pytest.fixture(scope="module")
def clip(shared_data):
    """The reference clip as pixels, (1, 64, 224, 224, 3)."""
    pixels = (reference_clip(shared_data) + 1) * 127.5
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def network(state, endpoint):
    plain = I3D(endpoint).eval().requires_grad_(False)
    load_state(plain, state, "seeded")
    return plain


def noise(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


def plain_features(plain, views):
    return plain(views.permute(0, 4, 1, 2, 3) / 127.5 - 1)


@pytest.mark.parametrize("endpoint", LAYOUT)
def test_every_endpoint_matches_the_plain_network(state, endpoint):
    size = 224 if endpoint == "AvgPool" else 32
    plain, views = network(state, endpoint), noise(1, 10, size, size)
    expected = plain_features(plain, views)
    with torch.inference_mode():
        actual = FastI3D(plain, torch.float32)(views)
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("endpoints", ["Mixed_3b,Mixed_3c", "Mixed_3c,Mixed_4f:max,Mixed_5c"])
@pytest.mark.parametrize("num_frames", [16, 10])
def test_joined_endpoints_are_the_single_ones_side_by_side(state, endpoints, num_frames):
    plain, views = network(state, endpoints), noise(1, num_frames, 32, 32)
    with torch.inference_mode():
        single = [plain_features(network(state, one), views) for one in endpoints.split(",")]
        positions = single[0].shape[1]
        repeated = [one[:, torch.arange(positions) * one.shape[1] // positions] for one in single]
        joined = plain_features(plain, views)
        fast = FastI3D(plain, torch.float32)(views)
    assert torch.equal(joined, torch.cat(repeated, dim=2))
    assert relative_error(fast, joined) < 1e-5
    shape = find_backbone("i3d").shape_of(endpoints)
    assert shape == (LAYOUT[endpoints.split(",")[0]][0], joined.shape[2])


def test_the_maximum_is_over_height_and_width(state):
    plain, views = network(state, "Mixed_3b:max"), noise(1, 8, 32, 32)
    maps = []
    plain.Mixed_3b.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.inference_mode():
        actual = plain_features(plain, views)
        fast = FastI3D(plain, torch.float32)(views)
    assert torch.equal(actual, maps[0].amax(dim=(3, 4)).transpose(1, 2))
    assert relative_error(fast, actual) < 1e-5


@pytest.mark.parametrize("block", STEMS.values(), ids=STEMS)
@pytest.mark.parametrize("num_frames", [8, 16, 24, 40])
def test_the_first_layers_are_the_same_in_blocks_and_in_pieces(state, block, num_frames):
    plain, views = network(state, "MaxPool3d_2a_3x3"), noise(2, num_frames, 32, 64)
    fast = FastI3D(plain, torch.float32, block)
    assert relative_error(fast(views), plain_features(plain, views)) < 1e-5


@pytest.mark.parametrize("block", STEMS.values(), ids=STEMS)
@pytest.mark.parametrize(
    "precision", [pytest.param(torch.bfloat16, marks=needs_bf16), torch.float32]
)
def test_16_bits_stay_close(state, block, precision):
    plain, views = network(state, "Mixed_4b"), noise(1, 8, 64, 64)
    error = relative_error(FastI3D(plain, precision, block)(views), plain_features(plain, views))
    assert error < {torch.bfloat16: 0.01, torch.float32: 1e-5}[precision]


def test_a_view_depends_neither_on_its_place_in_a_batch_nor_on_the_others(state):
    fast, views = FastI3D(network(state, "Mixed_5c"), torch.float32), noise(3, 16, 64, 64)
    with torch.inference_mode():
        features, turned = fast(views), fast(views.roll(1, dims=0))
        padded = fast(views[:1].expand(views.shape).contiguous())
    assert torch.equal(turned, features.roll(1, dims=0))
    assert torch.equal(padded, features[:1].expand(features.shape))
    alone = torch.cat([fast(view[None]) for view in views])
    assert relative_error(alone, features) < 1e-5


@needs_bf16
def test_the_plain_network_stays_as_it_is(state):
    plain, views = network(state, "Mixed_3b"), noise(1, 4, 32, 32)
    before = plain_features(plain, views)
    FastI3D(plain, torch.bfloat16)(views)
    assert torch.equal(plain_features(plain, views), before)
    assert {values.dtype for values in plain.parameters()} == {torch.float32}


@pytest.mark.parametrize("endpoint", LAYOUT)
def test_the_layout_is_that_of_the_table_on_other_devices_too(endpoint):
    with torch.device("meta"):
        fast = FastI3D(I3D(endpoint).eval(), torch.float16, STEMS["cubes"])
        features = fast(torch.empty(2, 64, 224, 224, 3, dtype=torch.uint8))
    assert features.shape == (2, *LAYOUT[endpoint])
    assert features.dtype == torch.float32


@pytest.mark.slow  # it equals the plain network, which test_i3d compares with the reference
def test_the_whole_network_matches_the_reference(state, golden, clip):
    expected = np.load(golden / "i3d_seeded_full.npz")["features"]
    with torch.inference_mode():
        actual = FastI3D(network(state, "AvgPool"), torch.float32)(clip)[0]
    assert relative_error(actual, expected) < 1e-4


@needs_bf16
def test_real_weights_on_a_real_clip(golden, shared_data, clip):
    path = shared_data / "weights" / "i3d_rgb_imagenet_partial.pt"
    plain = network(read_state(path), "Mixed_4d")
    expected = np.load(golden / "i3d_partial_endpoints.npz")["Mixed_4d"]
    with torch.inference_mode():
        exact = FastI3D(plain, torch.float32)(clip)[0]
        rough = FastI3D(plain, torch.bfloat16, STEMS["width"])(clip)[0]
    assert relative_error(exact, expected) < 1e-4
    assert relative_error(rough, expected) < 0.003  # 0.0034 with biases that compensate for nothing
    cosine = torch.cosine_similarity(rough.flatten(), exact.flatten(), dim=0)
    assert cosine > 0.9999


def test_the_mean_after_a_relu_matches_random_samples(state):
    unit = next(network(state, "Conv3d_1a_7x7").children())
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(100_000, 64, generator=generator, dtype=torch.float64)
    expected = (drawn * unit.bn.weight + unit.bn.bias).relu().mean(dim=0)
    torch.testing.assert_close(_expected_mean(unit), expected, atol=0.01, rtol=0.01)


def test_a_mean_passes_through_a_pool_to_the_next_bias(state):
    plain = network(state, "Conv3d_2b_1x1")
    fast = FastI3D(plain, torch.bfloat16)
    weight, bias = _folded([plain.Conv3d_2b_1x1])
    mean = _expected_mean(plain.Conv3d_1a_7x7)
    rounding = (weight.bfloat16().double() - weight).flatten(1)
    torch.testing.assert_close(
        list(fast.others.values())[-1].bias, (bias - rounding @ mean).float()
    )


@pytest.mark.parametrize("shape", [(1, 15, 32, 32), (1, 16, 31, 32), (1, 16, 32, 31)])
def test_odd_sizes_are_refused(state, shape):
    with pytest.raises(ValueError, match="have an odd size"):
        FastI3D(network(state, "Conv3d_1a_7x7"), torch.float32)(noise(*shape))


@pytest.mark.parametrize("endpoint", ["MaxPool3d_3a_3x3", "Mixed_4d", "Mixed_5c", "AvgPool"])
@pytest.mark.parametrize("size", [(34, 46), (66, 130), (86, 64), (118, 158)])
def test_maps_of_odd_sizes_match_the_plain_network(state, endpoint, size):
    plain, views = network(state, endpoint), noise(1, 10, *size)
    with torch.inference_mode():
        expected = plain_features(plain, views)
        for stem in STEMS.values():
            fast = FastI3D(plain, torch.float32, stem)
            assert relative_error(fast(views), expected) < 1e-5


@pytest.mark.parametrize("size", [(34, 46), (118, 158)])
def test_the_average_is_over_the_whole_map_and_two_time_positions(state, size):
    views = noise(1, 24, *size)
    with torch.inference_mode():
        means = FastI3D(network(state, "Mixed_5c"), torch.float32)(views)
        pooled = FastI3D(network(state, "AvgPool"), torch.float32)(views)
    torch.testing.assert_close(pooled, (means[:, :-1] + means[:, 1:]) / 2, rtol=1e-5, atol=1e-6)
