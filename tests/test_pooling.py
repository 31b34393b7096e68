"""Features by time position, against a loop over every frame's position."""

from dataclasses import replace

import numpy as np
import pytest
from builders import SPEC, make_features
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vigil.data.pooling import PoolingConfig, pool_positions, segment_features
from vigil.extract.clips import ClipGrid
from vigil.extract.errors import UserError
from vigil.extract.segments import range_centres, segment_ranges

POSITIONS = PoolingConfig(pooling="positions", window_frames=(64,))


def clip_frames(num_frames, stride):
    return ClipGrid(64, stride).frame_ranges(num_frames)


def plain(clips, frames, segments, time_positions, window):
    """The definition, computed position by position."""
    found = []
    for clip, (start, stop) in zip(clips, frames, strict=True):
        values = clip.reshape(time_positions, -1)
        for position in range(time_positions):
            centre = start + (position + 0.5) * 64 / time_positions
            if position == 0:
                centre = min(centre, stop - 1)
            if centre < stop:
                found.append((centre, values[position].astype(np.float64)))
    found.sort(key=lambda one: one[0])
    windows = [
        (centre, np.mean([v for c, v in found if abs(c - centre) <= window / 2], axis=0))
        for centre, _ in found
    ]
    pooled = []
    for segment in segments:
        own = [value for centre, value in windows if segment[0] <= centre < segment[1]]
        middle = range_centres(segment[None])[0]
        nearest = min(windows, key=lambda one: abs(one[0] - middle))[1]
        pooled.append(np.max(own, axis=0) if own else nearest)
    return np.array(pooled)


@settings(max_examples=60)
@given(
    num_frames=st.integers(1, 400),
    stride=st.sampled_from([16, 32, 64]),
    time_positions=st.sampled_from([1, 2, 7, 16]),
    window=st.integers(1, 130),
    seed=st.integers(0, 99),
)
def test_it_is_the_maximum_over_sliding_means(num_frames, stride, time_positions, window, seed):
    # A seventh of a clip is not exact in binary: rounding decides at the very end of a window.
    assume(time_positions != 7 or window % 2)
    frames = clip_frames(num_frames, stride)
    segments = segment_ranges(num_frames, 8)
    clips = np.random.default_rng(seed).standard_normal((len(frames), 2, time_positions * 3))
    pooled = pool_positions(clips, frames, segments, time_positions, 64, window)
    assert pooled.shape == (8, 2, 3)
    for view in range(2):
        expected = plain(clips[:, view], frames, segments, time_positions, window)
        np.testing.assert_allclose(pooled[:, view], expected, atol=1e-9)


@settings(max_examples=40)
@given(
    num_frames=st.integers(1, 300),
    time_positions=st.sampled_from([2, 4, 16]),
    factor=st.sampled_from([2, 4]),
    seed=st.integers(0, 99),
)
def test_a_frame_rate_spreads_positions_over_the_video(num_frames, time_positions, factor, seed):
    """A video in which every frame counts several times, against the same with real frames."""
    num_samples = factor * num_frames
    samples = np.arange(num_samples) // factor
    grid = ClipGrid(64, 64)
    shown = grid.frame_ranges(num_samples)
    clips = np.random.default_rng(seed).standard_normal((len(shown), 2, time_positions * 3))
    segments = segment_ranges(num_frames, 8)
    pooled = pool_positions(
        clips,
        grid.source_ranges(samples, num_frames),
        segments,
        time_positions,
        64,
        64 / factor,
        np.diff(shown)[:, 0],
    )
    expected = pool_positions(clips, shown, factor * segments, time_positions, 64, 64)
    # What is rounded to frames differs: a first position beyond the end of a short clip, and the
    # centre of a segment without positions.
    assume(num_samples % 64 == 0 or num_samples % 64 > 64 / time_positions)
    centres = (np.arange(num_samples * time_positions // 64 + 1) + 0.5) * 64 / time_positions
    own, _ = np.histogram(centres, np.append(factor * segments[:, 0], num_samples))
    np.testing.assert_array_equal(pooled[own > 0], expected[own > 0])


def test_windows_are_as_long_as_clips_have_them():
    samples = np.arange(320) // 4
    spec = replace(SPEC, frame_rate=100.0)
    ranges = ClipGrid(64, 64).source_ranges(samples, 80)
    clips = np.random.default_rng(0).standard_normal((5, 2, 6)).astype(np.float16)
    video = make_features(
        num_frames=80, spec=spec, clip_features=clips, clip_frames=ranges, num_frames_sampled=320
    )
    found = segment_features(video, ["center"], POSITIONS).values
    lengths = np.full(5, 64)
    expected = pool_positions(clips[:, :1], ranges, video.segment_frames, 2, 64, 16, lengths)
    np.testing.assert_array_equal(found[0], expected[:, 0])


def video_with_clips(num_frames=330, **changes):
    frames = clip_frames(num_frames, 64)
    clips = np.random.default_rng(0).standard_normal((len(frames), 2, 6)).astype(np.float16)
    return make_features("a.mp4", num_frames, clip_features=clips, clip_frames=frames, **changes)


def test_views_come_in_the_requested_order():
    video = video_with_clips()
    both = segment_features(video, ["top_left", "center"], POSITIONS)
    alone = segment_features(video, ["center"], POSITIONS)
    assert (both.time_positions, both.channels, both.values.shape) == (1, 3, (2, 8, 3))
    np.testing.assert_array_equal(both.values[1], alone.values[0])


def test_several_windows_are_concatenated():
    video = video_with_clips()
    both = segment_features(video, ["center"], PoolingConfig("positions", (16, 64)))
    assert (both.time_positions, both.channels) == (1, 6)
    for place, window in enumerate((16, 64)):
        alone = segment_features(video, ["center"], PoolingConfig("positions", (window,))).values
        np.testing.assert_array_equal(both.values[..., 3 * place : 3 * place + 3], alone)


def test_stored_segments_are_used_unchanged():
    video = video_with_clips()
    found = segment_features(video, ["center"], PoolingConfig())
    np.testing.assert_array_equal(found.values, video.features[:1])
    assert (found.time_positions, found.channels) == (2, 3)


def test_the_last_clip_counts_even_if_it_is_short():
    frames = clip_frames(340, 64)  # the last one has 20 frames, its middle would be beyond them
    clips = np.arange(len(frames), dtype=float).reshape(-1, 1, 1)
    pooled = pool_positions(clips, frames, segment_ranges(340, 2), 1, 64, 64)
    assert pooled[1, 0, 0] == len(frames) - 1


def test_without_clips_there_are_no_positions():
    with pytest.raises(UserError, match=r"its clips are not stored.*extract with --keep-clips"):
        segment_features(make_features(), ["center"], POSITIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "frames"}, "pooling = 'frames' .* one of 'clips', 'positions'"),
        ({"window_frames": (0,)}, r"window_frames = \[0\] .* numbers from 1 up"),
        ({"window_frames": ()}, r"window_frames = \[\] "),
    ],
)
def test_invalid_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PoolingConfig(**change)
