"""Segments, and pooling clips into them, against brute force."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.extract.clips import ClipGrid
from vigil.extract.segments import (
    pool_clips,
    range_centres,
    segment_of_clips,
    segment_ranges,
)

FRAMES = st.integers(1, 700)
SEGMENTS = st.integers(1, 40)
STRIDES = st.integers(1, 64)


def brute_force_pool(features, clip_frames, num_frames, num_segments):
    """The contract read literally, one clip and one segment at a time."""

    def centre(start, stop):
        return (start + stop - 1) // 2

    segments = [
        (k * num_frames // num_segments, (k + 1) * num_frames // num_segments)
        for k in range(num_segments)
    ]
    centres = [centre(*pair) for pair in clip_frames.tolist()]
    pooled = []
    for start, stop in segments:
        mine = [k for k, middle in enumerate(centres) if start <= middle < stop]
        if not mine:
            wanted = centre(start, stop)
            mine = [min(range(len(centres)), key=lambda k: (abs(centres[k] - wanted), k))]
        pooled.append(np.max([features[k] for k in mine], axis=0))
    return np.array(pooled)


@given(FRAMES, SEGMENTS)
def test_segments_partition_the_frames(num_frames, num_segments):
    ranges = segment_ranges(num_frames, num_segments)
    held = [frame for start, stop in ranges for frame in range(start, stop)]
    lengths = ranges[:, 1] - ranges[:, 0]
    assert held == list(range(num_frames))
    assert len(ranges) == num_segments
    assert lengths.max() - lengths.min() <= 1
    edges = [k * num_frames // num_segments for k in range(num_segments + 1)]
    assert ranges.tolist() == [list(pair) for pair in pairwise(edges)]


@given(FRAMES, SEGMENTS, STRIDES)
def test_every_clip_belongs_to_the_one_segment_that_holds_its_centre(
    num_frames, num_segments, stride
):
    clips = ClipGrid(64, stride).frame_ranges(num_frames)
    segments = segment_ranges(num_frames, num_segments)
    centres = (clips[:, 0] + clips[:, 1] - 1) // 2
    np.testing.assert_array_equal(range_centres(clips), centres)
    holds = (segments[:, :1] <= centres) & (centres < segments[:, 1:])
    assert (holds.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(segment_of_clips(clips, segments), holds.argmax(axis=0))


@given(FRAMES, SEGMENTS, STRIDES, st.integers(0, 2**32 - 1))
def test_pooling_follows_the_contract(num_frames, num_segments, stride, seed):
    clips = ClipGrid(64, stride).frame_ranges(num_frames)
    features = np.random.default_rng(seed).standard_normal((len(clips), 2, 3)).astype(np.float16)
    pooled = pool_clips(features, clips, segment_ranges(num_frames, num_segments))
    assert pooled.dtype == np.float16
    expected = brute_force_pool(features, clips, num_frames, num_segments)
    np.testing.assert_array_equal(pooled, expected)


@given(FRAMES, SEGMENTS, STRIDES)
def test_no_clip_is_lost(num_frames, num_segments, stride):
    """With one distinct feature per clip, each must appear in the pooled maximum."""
    clips = ClipGrid(64, stride).frame_ranges(num_frames)
    pooled = pool_clips(
        np.eye(len(clips), dtype=np.float32), clips, segment_ranges(num_frames, num_segments)
    )
    np.testing.assert_array_equal(pooled.max(axis=0), np.ones(len(clips)))


def test_an_empty_segment_uses_the_earlier_of_two_equally_near_clips():
    clips = np.array([[0, 3], [6, 9]])  # centres 1 and 7
    segments = np.array([[0, 3], [3, 6], [6, 9]])  # the middle one has its centre at 4
    pooled = pool_clips(np.array([[1.0], [2.0]]), clips, segments)
    assert pooled.ravel().tolist() == [1, 1, 2]


def test_a_video_shorter_than_its_segments_has_its_one_clip_everywhere():
    feature = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    pooled = pool_clips(feature, np.array([[0, 5]]), segment_ranges(5, 32))
    np.testing.assert_array_equal(pooled, np.repeat(feature, 32, axis=0))


@given(FRAMES, SEGMENTS, st.integers(0, 2**32 - 1))
def test_pooling_undoes_spreading(num_frames, num_segments, seed):
    ranges = segment_ranges(num_frames, num_segments)
    values = np.random.default_rng(seed).standard_normal((num_segments, 2))
    spread = np.repeat(values, ranges[:, 1] - ranges[:, 0], axis=0)
    frames = np.stack([np.arange(num_frames), np.arange(num_frames) + 1], axis=1)
    held = ranges[:, 1] > ranges[:, 0]
    np.testing.assert_array_equal(pool_clips(spread, frames, ranges)[held], values[held])


def test_features_without_their_clips_are_refused():
    with pytest.raises(ValueError, match="2 clip features for 1 clips"):
        pool_clips(np.zeros((2, 1)), np.array([[0, 4]]), segment_ranges(4, 2))
    with pytest.raises(ValueError, match="0 clip features for 0 clips"):
        pool_clips(np.zeros((0, 1)), np.zeros((0, 2), np.int64), segment_ranges(4, 2))
