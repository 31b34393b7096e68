"""Named views, against slicing and flipping with numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import resize

from vigil.extract.engine.cutting import _squeezed_in_floats, cut_view
from vigil.extract.errors import UserError
from vigil.extract.views import VIEW_SETS, VIEWS, in_stored_order, view_names

CROPS = ["center", "top_left", "top_right", "bottom_left", "bottom_right"]
IN_ORDER = [*CROPS, *(f"{name}_mirrored" for name in CROPS)]


def test_views_are_named_and_ordered_as_in_the_contract():
    assert list(VIEWS) == IN_ORDER
    assert VIEW_SETS["center"] == ("center",)
    assert VIEW_SETS["five"] == tuple(CROPS)
    assert VIEW_SETS["ten"] == tuple(IN_ORDER)


@settings(max_examples=8)
@given(st.integers(224, 300), st.integers(224, 300))
def test_views_are_slices_of_the_frame(height, width):
    clip = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    top, left = (height - 224) // 2, (width - 224) // 2
    slices = {
        "center": clip[:, top : top + 224, left : left + 224],
        "top_left": clip[:, :224, :224],
        "top_right": clip[:, :224, -224:],
        "bottom_left": clip[:, -224:, :224],
        "bottom_right": clip[:, -224:, -224:],
    }
    for name in CROPS:
        np.testing.assert_array_equal(cut_view(torch.from_numpy(clip), name), slices[name])
        mirrored = cut_view(torch.from_numpy(clip), f"{name}_mirrored")
        np.testing.assert_array_equal(mirrored, slices[name][:, :, ::-1])


def test_the_center_of_320_x_240_matches_the_reference_figures():
    rows = torch.arange(240, dtype=torch.uint8).reshape(1, 240, 1, 1).expand(1, 240, 320, 3)
    columns = torch.arange(320).remainder(256).to(torch.uint8).reshape(1, 1, 320, 1)
    cut = cut_view(rows, "center")[0, :, :, 0]
    assert (int(cut[0, 0]), int(cut[-1, 0])) == (8, 231)
    cut = cut_view(columns.expand(1, 240, 320, 3), "center")[0, :, :, 0]
    assert (int(cut[0, 0]), int(cut[0, -1])) == (48, 271 - 256)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("center", ("center",)),
        ("five", tuple(CROPS)),
        ("ten", tuple(IN_ORDER)),
        ("top_right, center", ("center", "top_right")),
        ("center_mirrored,bottom_left,center_mirrored", ("bottom_left", "center_mirrored")),
        ("squeeze", ("squeeze",)),
        (
            "whole,squeeze,center,top_left_mirrored",
            ("center", "top_left_mirrored", "squeeze", "whole"),
        ),
    ],
)
def test_views_come_in_stored_order_however_they_are_requested(text, names):
    assert view_names(text) == names


def test_views_of_whole_frames_come_between_named_and_unnamed_crops():
    names = ["crop_0", "whole", "bottom_right_mirrored", "squeeze"]
    assert in_stored_order(names) == ("bottom_right_mirrored", "squeeze", "whole", "crop_0")


@pytest.mark.parametrize("text", ["", "middle", "center,,five", "center;top_left"])
def test_an_unknown_view_is_named(text):
    message = r"unknown view .*: use center, five, ten, or names from center"
    with pytest.raises(UserError, match=message):
        view_names(text)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def weights(num_pixels):
    """(224, n), how much each pixel of an axis counts in each pixel of its squeezed form."""
    scale = num_pixels / 224
    centres = (np.arange(224)[:, None] + 0.5) * scale
    distances = np.abs(np.arange(num_pixels) + 0.5 - centres) / scale
    triangles = np.clip(1 - distances, 0, None)
    return triangles / triangles.sum(axis=1, keepdims=True)


def squeezed_in_numpy(clip):
    """The definition in float64."""
    rows, columns = weights(clip.shape[1]), weights(clip.shape[2])
    narrow = np.floor(np.einsum("xw,thwc->thxc", columns, clip, optimize=True) + 0.5)
    return np.floor(np.einsum("yh,thxc->tyxc", rows, narrow, optimize=True) + 0.5).astype(int)


SIZES = [(256, 341), (256, 455), (455, 256), (225, 301), (1080, 1920)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_squeeze_is_as_defined(height, width):
    clip = pixels(1, height, width)
    expected = squeezed_in_numpy(clip)
    exact = cut_view(torch.from_numpy(clip), "squeeze")
    floats = _squeezed_in_floats(torch.from_numpy(clip).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    for squeezed in (exact, floats):
        assert (squeezed.shape, squeezed.dtype) == ((1, 224, 224, 3), torch.uint8)
        error = np.abs(squeezed.numpy().astype(int) - expected)
        assert error.max() <= 1
        assert (error > 0).mean() < 0.1  # noise has many means close to a half


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_squeeze_is_what_torchvision_makes(height, width):
    clip = torch.from_numpy(pixels(9, height // 4 + 224, width // 4 + 224))
    expected = resize(clip.permute(0, 3, 1, 2), [224, 224], antialias=True).permute(0, 2, 3, 1)
    assert torch.equal(cut_view(clip, "squeeze"), expected)


def test_squeezing_224_x_224_changes_nothing():
    clip = torch.from_numpy(pixels(9, 224, 224))
    assert torch.equal(cut_view(clip, "squeeze"), clip)
    floats = _squeezed_in_floats(clip.permute(0, 3, 1, 2))
    assert torch.equal(floats.permute(0, 2, 3, 1), clip)


@settings(max_examples=8)
@given(st.integers(224, 500), st.integers(224, 500), st.integers(0, 255))
def test_a_constant_frame_stays_constant(height, width, value):
    clip = torch.full((2, height, width, 3), value, dtype=torch.uint8)
    assert cut_view(clip, "squeeze").unique().tolist() == [value]
    assert _squeezed_in_floats(clip.permute(0, 3, 1, 2)).unique().tolist() == [value]


@pytest.mark.parametrize(
    ("height", "width", "kept"),
    [
        (256, 341, (256, 340)),
        (341, 256, (340, 256)),
        (225, 225, (224, 224)),
        (256, 456, (256, 456)),
    ],
)
def test_whole_leaves_out_an_odd_last_row_and_column(height, width, kept):
    clip = pixels(2, height, width)
    view = cut_view(torch.from_numpy(clip), "whole").numpy()
    np.testing.assert_array_equal(view, clip[:, : kept[0], : kept[1]])
