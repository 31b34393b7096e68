"""Videos that are scored while they are recorded: against their complete files."""

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import SPEC, make_features, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.data.pooling import PoolingConfig
from vigil.data.spans import WHOLE_SPANS
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.scores.inference import score_views
from vigil.pipeline.scores.rolling import RollingTimeline
from vigil.pipeline.scores.spans import score_spans, whole_timeline

POOLING = PoolingConfig()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("run"))).model


def a_video(num_frames, seed=0):
    """The features of a video at 25 frames a second, with its clips."""
    clip_frames = SPEC.grid.frame_ranges(num_frames)
    shape = len(clip_frames), *make_features().features.shape[::2]
    clips = np.random.default_rng(seed).random(shape, np.float32)
    segments = segment_ranges(num_frames, SPEC.num_segments)
    return replace(
        make_features("long.mp4", num_frames),
        features=np.moveaxis(pool_clips(clips, clip_frames, segments), 0, 1),
        segment_seconds=segments / 25,
        clip_features=clips,
        clip_frames=clip_frames,
        frame_seconds=np.arange(num_frames + 1) / 25,
        fps=25.0,
    )


def as_it_runs(model, video, span_frames, dropped=()):
    """The timeline as it was told, clip by clip, and every update."""
    kind = replace(video, clip_features=None, clip_frames=None, frame_seconds=None)
    rolling = RollingTimeline(model, kind, video.views, POOLING, span_frames)
    updates, num_known = [], 0
    for index, (_, stop) in enumerate(video.clip_frames.tolist()):
        features = None if index in dropped else video.clip_features[index]
        updates.append(rolling.add(video.frame_seconds[num_known:stop], features))
        num_known = stop
    updates.append(rolling.finish())
    timeline = None
    for update in filter(None, updates):
        kept = None if timeline is None or not update.first else timeline.cells(0, update.first)
        assert kept is None or len(kept.frames) == update.first, "no cell is left out"
        timeline = update.timeline if kept is None else kept.followed_by(update.timeline)
    return timeline, updates


@settings(max_examples=40)
@given(num_frames=st.integers(1, 4000), span_frames=st.integers(64, 900))
def test_a_timeline_that_grows_ends_as_that_of_the_file(model, num_frames, span_frames):
    video = a_video(num_frames)
    told, _ = as_it_runs(model, video, span_frames)
    if num_frames <= WHOLE_SPANS * span_frames:
        expected = whole_timeline(video, score_views(model, video.features))
    else:
        expected = score_spans(model, video, video.views, POOLING, span_frames)
    np.testing.assert_array_equal(told.frames, expected.frames)
    np.testing.assert_allclose(told.seconds, expected.seconds, atol=1e-9)
    np.testing.assert_allclose(told.scores.scores, expected.scores.scores, atol=1e-6)
    np.testing.assert_allclose(told.named, expected.named, atol=1e-6)


def test_a_cell_is_told_within_two_spans_and_memory_does_not_grow(model):
    video, span = a_video(20_000), 320
    kind = replace(video, clip_features=None, clip_frames=None, frame_seconds=None)
    rolling = RollingTimeline(model, kind, video.views, POOLING, span)
    num_known, lags, held = 0, [], []
    for (_, stop), features in zip(video.clip_frames.tolist(), video.clip_features, strict=True):
        update = rolling.add(video.frame_seconds[num_known:stop], features)
        num_known = stop
        if update is not None:
            lags.append(num_known - int(update.timeline.frames[-1, 1]))
        held.append(len(rolling._clips) + len(rolling._scored) + len(rolling._seconds) / span)
    assert max(lags) <= 2 * span
    assert max(held) == pytest.approx(max(held[: len(held) // 4]), rel=0.1)


def test_a_dropped_clip_takes_the_features_of_the_nearest_one(model):
    video, span = a_video(3000), 320
    told, _ = as_it_runs(model, video, span, dropped={3, 8})  # no span begins or ends there
    clips = video.clip_features.copy()
    clips[3], clips[8] = clips[2], clips[7]
    expected = score_spans(model, replace(video, clip_features=clips), video.views, POOLING, span)
    np.testing.assert_allclose(told.scores.scores, expected.scores.scores, atol=1e-6)


def test_places_of_which_no_clip_was_computed_score_nothing(model):
    video, span = a_video(64 * 60), 320
    told, _ = as_it_runs(model, video, span, dropped=set(range(20, 40)))
    inside = (told.frames[:, 0] >= 21 * 64 + span) & (told.frames[:, 1] <= 38 * 64 - span)
    assert inside.sum() > 5
    assert (told.scores.scores[inside] == 0).all()
    assert (told.scores.scores[~inside] > 0).mean() > 0.8


def test_a_stream_without_frames_has_no_timeline(model):
    video = a_video(10)
    rolling = RollingTimeline(model, video, video.views, POOLING, 320)
    assert rolling.finish() is None
    assert math.isfinite(as_it_runs(model, video, 320)[0].scores.scores[0])
