"""Long videos in spans: against short videos of their own, whatever their start."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from builders import SPEC, make_features, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.spans import cut, span_starts
from vigil.extract.clips import ClipGrid
from vigil.extract.errors import UserError
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.pipeline.checkpoint import TrainingLengths, load_checkpoint
from vigil.pipeline.option_values import read_span
from vigil.pipeline.scores.inference import score_views
from vigil.pipeline.scores.spans import score_spans, seconds_at
from vigil.pipeline.scores.video_scoring import (
    length_warnings,
    rate_warnings,
    score_video,
)

NUM_FRAMES = 8 * 64 * 9 + 17


def with_clips(num_frames, num_skipped=0, seed=5):
    """The features of a video whose clips are known, without the first of its clips."""
    grid = SPEC.grid
    drawn = np.random.default_rng(seed).random(
        (grid.num_clips(num_frames), *make_features().features.shape[::2]), np.float32
    )
    clips = drawn[num_skipped:]
    num_frames -= num_skipped * grid.stride
    clip_frames = grid.frame_ranges(num_frames)
    segments = segment_ranges(num_frames, SPEC.num_segments)
    return replace(
        make_features("long.mp4", num_frames),
        features=np.moveaxis(pool_clips(clips, clip_frames, segments), 0, 1),
        clip_features=clips,
        clip_frames=clip_frames,
        frame_seconds=np.arange(num_frames + 1) / 25,
    )


@pytest.fixture
def checkpoint(tmp_path):
    return load_checkpoint(write_checkpoint(tmp_path / "run"))


@given(
    st.integers(1, 3000),
    st.integers(1, 700),
    st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
)
def test_spans_cover_a_video_start_with_clips_and_overlap(num_frames, span_frames, clip):
    starts = ClipGrid(*clip).frame_ranges(num_frames)[:, 0]
    spans = span_starts(num_frames, max(span_frames, clip[0]), starts)
    assert spans[0][0] == 0
    assert spans[-1][1] == num_frames
    assert {start for start, _ in spans} <= set(starts.tolist())
    for (start, stop), (later, later_stop) in pairwise(spans):
        assert start < later <= stop
        assert stop <= later_stop
    if num_frames <= 1.5 * max(span_frames, clip[0]):
        assert spans == [(0, num_frames)]


def test_a_span_is_like_a_video_of_its_own():
    features = with_clips(NUM_FRAMES)
    start, stop = 5 * 64, 5 * 64 + 8 * 64
    piece = cut(features, start, stop)
    short = with_clips(stop, num_skipped=5)
    np.testing.assert_array_equal(piece.features, short.features)
    np.testing.assert_array_equal(piece.clip_frames, short.clip_frames)
    for pooling in (PoolingConfig(), PoolingConfig("positions", (32, 64))):
        np.testing.assert_array_equal(
            segment_features(piece, ["center"], pooling).values,
            segment_features(short, ["center"], pooling).values,
        )


def test_a_span_is_cut_with_a_frame_rate_too():
    features = with_clips(NUM_FRAMES)
    num_sampled = 2 * NUM_FRAMES
    grid = SPEC.grid
    num_clips = grid.num_clips(num_sampled)
    starts = np.arange(num_clips) * 32
    features = replace(
        features,
        spec=replace(SPEC, frame_rate=50.0),
        num_frames_sampled=num_sampled,
        clip_features=np.random.default_rng(0).random((num_clips, *features.features.shape[::2])),
        clip_frames=np.stack([starts, np.minimum(starts + 32, NUM_FRAMES)], axis=1),
    )
    piece = cut(features, 64, 64 + 512)
    assert (piece.num_frames_decoded, piece.num_frames_sampled) == (512, 1024)
    assert len(piece.clip_lengths) == len(piece.clip_frames) == 16
    assert np.isfinite(segment_features(piece, ["center"], PoolingConfig()).values).all()


def test_a_short_video_is_scored_as_before(checkpoint):
    features = with_clips(768)
    for span in ("auto", "whole", 20.48, 1000.0):
        timeline = score_video(checkpoint, "a", features, span=span)
        expected = score_views(checkpoint.model, features.features)
        assert timeline.span_frames is None
        np.testing.assert_array_equal(timeline.scores.scores, expected.scores)
        np.testing.assert_array_equal(timeline.frames, features.segment_frames)


def test_a_long_video_has_one_timeline_of_its_spans(checkpoint):
    config = replace(checkpoint.config, training_lengths=TrainingLengths(100, 512, 900, 25.0))
    features = with_clips(NUM_FRAMES)
    timeline = score_video(checkpoint._replace(config=config), "a", features, span="auto")
    assert timeline.span_frames == 512
    frames = timeline.frames
    assert frames[0, 0] == 0
    assert frames[-1, 1] == NUM_FRAMES
    np.testing.assert_array_equal(frames[1:, 0], frames[:-1, 1])
    np.testing.assert_array_equal(timeline.seconds, frames / 25)
    assert np.diff(frames).max() == pytest.approx(512 / SPEC.num_segments, abs=1)
    # In the first quarter only the first span counts, at its own places.
    first = score_views(checkpoint.model, cut(features, 0, 512).features)
    places = (frames[:, 1] <= 256).nonzero()[0]
    own = np.searchsorted(segment_ranges(512, SPEC.num_segments)[:, 1], frames[places, 0], "right")
    np.testing.assert_allclose(timeline.scores.scores[places], first.scores[own])
    assert timeline.named.shape == (len(frames), 3)
    np.testing.assert_allclose(timeline.named.sum(axis=1), 1)
    rows = timeline.scores.segment_class_probabilities
    assert rows is not None
    np.testing.assert_allclose(rows.sum(axis=1), 1)


@pytest.mark.parametrize("num_skipped", [1, 3, 4, 11])
def test_a_shifted_start_changes_little(checkpoint, num_skipped):
    """Spans then lie elsewhere; the blend must not have seams where they end."""
    features, later = with_clips(NUM_FRAMES), with_clips(NUM_FRAMES, num_skipped)
    pooling = PoolingConfig()
    one = score_spans(checkpoint.model, features, ["center"], pooling, 512)
    other = score_spans(checkpoint.model, later, ["center"], pooling, 512)
    shift = num_skipped * 64
    centres = np.arange(600, NUM_FRAMES - 1100)
    values = [
        timeline.scores.scores[np.searchsorted(timeline.frames[:, 1], at, side="right")]
        for timeline, at in ((one, centres + shift), (other, centres))
    ]
    # A model with random weights and features without any continuity: the worst case.
    spread = values[0].std()
    assert np.abs(values[0] - values[1]).mean() < spread
    np.testing.assert_allclose(values[0].mean(), values[1].mean(), atol=spread / 4)


def test_the_same_spans_give_the_same_scores_after_a_shift(checkpoint):
    features, later = with_clips(NUM_FRAMES), with_clips(NUM_FRAMES, 4)
    one = score_spans(checkpoint.model, features, ["center"], PoolingConfig(), 512)
    other = score_spans(checkpoint.model, later, ["center"], PoolingConfig(), 512)
    at = np.arange(512, NUM_FRAMES - 1024)  # away from both ends
    values = [
        timeline.scores.scores[np.searchsorted(timeline.frames[:, 1], frames, side="right")]
        for timeline, frames in ((one, at + 256), (other, at))
    ]
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)


def test_times_of_frames_are_the_files_own_or_interpolated():
    features = with_clips(NUM_FRAMES)
    uneven = np.sort(np.random.default_rng(0).random(NUM_FRAMES + 1)).cumsum()
    exact = replace(features, frame_seconds=uneven)
    assert seconds_at(exact, np.array([3, NUM_FRAMES])).tolist() == uneven[[3, -1]].tolist()
    older = replace(features, frame_seconds=None)
    np.testing.assert_allclose(seconds_at(older, np.arange(50)), np.arange(50) / 25)


class TestWarnings:
    def lengths(self, checkpoint, features, span, known):
        config = replace(checkpoint.config, training_lengths=known)
        scored = score_video(checkpoint._replace(config=config), "a", features, span=span)
        return length_warnings(config, features, scored)

    def test_segments_longer_than_in_training_are_told(self, checkpoint):
        features, known = with_clips(NUM_FRAMES), TrainingLengths(100, 512, 900, 25.0)
        (said,) = self.lengths(checkpoint, features, "whole", known)
        assert said.startswith(f"A segment lasts {NUM_FRAMES / 25 / SPEC.num_segments:.1f} seconds")
        assert said.endswith("use --span auto.")
        assert self.lengths(checkpoint, features, "auto", known) == []
        assert len(self.lengths(checkpoint, features, 100.0, known)) == 1

    def test_features_without_clips_are_scored_whole_and_told(self, checkpoint):
        features = replace(
            with_clips(NUM_FRAMES), clip_features=None, clip_frames=None, frame_seconds=None
        )
        (said,) = self.lengths(checkpoint, features, "auto", TrainingLengths(100, 512, 900, 25.0))
        assert "extract with --keep-clips" in said

    def test_an_older_checkpoint_does_not_know_its_lengths(self, checkpoint):
        (said,) = self.lengths(checkpoint, with_clips(NUM_FRAMES), "auto", None)
        assert "does not record" in said
        assert self.lengths(checkpoint, with_clips(NUM_FRAMES), 20.0, None) == []
        assert self.lengths(checkpoint, with_clips(1000), "auto", None) == []


def test_another_frame_rate_than_in_training_is_told(checkpoint):
    config = replace(checkpoint.config, training_lengths=TrainingLengths(100, 512, 900, 30.0))
    features = with_clips(1000)
    for fps, is_told in ((5.0, True), (14.9, True), (15.0, False), (60.0, False), (61.0, True)):
        assert bool(rate_warnings(config, replace(features, fps=fps))) is is_told
    (said,) = rate_warnings(config, replace(features, fps=5.0))
    assert said.startswith(
        "It has 5 frames a second, the training videos had 30: a clip of the net"
    )
    assert "12.8 seconds" in said
    sampled = replace(SPEC, frame_rate=25.0)
    assert rate_warnings(config, replace(features, fps=5.0, spec=sampled)) == []


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "long", ""])
def test_a_span_that_is_no_length_is_refused(text):
    with pytest.raises(UserError, match="use auto, whole, or a number of seconds above 0"):
        read_span(text)
    assert read_span("12.5") == 12.5
