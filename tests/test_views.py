"""Named views, against slicing and flipping with numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.extract.errors import UserError
from vigil.extract.views import VIEW_SETS, VIEWS, cut_view, view_names

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
    ],
)
def test_views_come_in_stored_order_however_they_are_requested(text, names):
    assert view_names(text) == names


@pytest.mark.parametrize("text", ["", "middle", "center,,five", "center;top_left"])
def test_an_unknown_view_is_named(text):
    message = r"unknown view .*: use center, five, ten, or names from center"
    with pytest.raises(UserError, match=message):
        view_names(text)
