"""The clip grid, against the contract's formula and against slicing a list of frames."""

import weakref
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.extract.clips import ClipGrid
from vigil.extract.errors import UserError

GRIDS = st.integers(1, 70).flatmap(
    lambda clip: st.integers(1, clip).map(lambda stride: ClipGrid(clip, stride))
)


def numbered_frames(num_frames: int):
    return (np.full((1, 2, 3), index % 251, np.uint8) for index in range(num_frames))


@given(st.integers(1, 3000), st.integers(1, 64))
def test_ranges_follow_the_contract(num_frames, stride):
    grid = ClipGrid(64, stride)
    num_clips = ceil(max(num_frames - 64, 0) / stride) + 1
    expected = [(k * stride, min(k * stride + 64, num_frames)) for k in range(num_clips)]
    assert grid.num_clips(num_frames) == num_clips
    assert grid.frame_ranges(num_frames).tolist() == [list(pair) for pair in expected]
    assert [grid.frame_range(k, num_frames) for k in range(num_clips)] == expected


@given(st.integers(1, 500), GRIDS)
def test_every_frame_is_in_a_clip_and_only_the_last_clip_is_short(num_frames, grid):
    ranges = grid.frame_ranges(num_frames)
    lengths = ranges[:, 1] - ranges[:, 0]
    assert {frame for start, stop in ranges for frame in range(start, stop)} == set(
        range(num_frames)
    )
    assert (lengths[:-1] == grid.clip_frames).all()
    assert 1 <= lengths[-1] <= grid.clip_frames


@given(st.integers(0, 200), GRIDS)
def test_cut_slices_and_pads_with_the_last_frame(num_frames, grid):
    frames = np.array(list(numbered_frames(num_frames))).reshape(-1, 1, 2, 3)
    clips = list(grid.cut(numbered_frames(num_frames)))
    ranges = grid.frame_ranges(num_frames)
    assert len(clips) == len(ranges)
    for clip, (start, stop) in zip(clips, ranges, strict=True):
        indices = np.minimum(np.arange(start, start + grid.clip_frames), stop - 1)
        np.testing.assert_array_equal(clip, frames[indices])


@given(st.integers(0, 200), GRIDS)
def test_clips_are_written_into_the_given_buffers(num_frames, grid):
    """Two alternating buffers are enough, each reused once the clip after it was yielded."""
    expected = list(grid.cut(numbered_frames(num_frames)))
    buffers = [np.zeros((grid.clip_frames, 1, 2, 3), np.uint8) for _ in range(2)]
    given = []

    def new_clip(shape):
        assert shape == (grid.clip_frames, 1, 2, 3)
        given.append(buffers[len(given) % 2])
        return given[-1]

    for index, clip in enumerate(grid.cut(numbered_frames(num_frames), new_clip)):
        assert clip is given[index]
        np.testing.assert_array_equal(clip, expected[index])
        buffers[(index + 1) % 2][:] = 255
    assert len(given) == len(expected)


@pytest.mark.parametrize("stride", [16, 64])
def test_cut_keeps_only_one_frame(stride):
    references, most = [], 0

    def frames():
        nonlocal most
        for _ in range(500):
            frame = np.zeros((1, 1, 3), np.uint8)
            references.append(weakref.ref(frame))
            yield frame
            del frame
            most = max(most, sum(reference() is not None for reference in references))

    for _ in ClipGrid(64, stride).cut(frames()):
        pass
    assert most == 1


def test_a_video_without_frames_has_no_clips():
    assert ClipGrid().num_clips(0) == 0
    assert ClipGrid().frame_ranges(0).shape == (0, 2)


def test_there_are_no_clips_beyond_the_last():
    for clip_index in (-1, 2):
        with pytest.raises(IndexError, match=f"no clip {clip_index} in a video of 100 frames"):
            ClipGrid().frame_range(clip_index, 100)


@pytest.mark.parametrize("stride", [0, -1, 65])
def test_a_stride_that_would_skip_frames_is_refused(stride):
    with pytest.raises(UserError, match=rf"clip stride {stride} is not in 1\.\.64.*use 64"):
        ClipGrid(64, stride)


def test_a_clip_without_frames_is_refused():
    with pytest.raises(UserError, match="clip length 0 is not positive: use 64"):
        ClipGrid(0, 1)
