"""Gradients by clips: Euler's identity, and differences of what the pooling itself returns."""

from dataclasses import replace

import numpy as np
import pytest
from builders import SPEC, VIEWS, make_features

from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.pooling_gradients import clip_gradient
from vigil.extract.clips import ClipGrid
from vigil.extract.segments import pool_clips

CONFIGS = {
    "clips": PoolingConfig(),
    "positions": PoolingConfig(pooling="positions", window_frames=(16, 40)),
}


def with_clips(num_frames, sampled=0):
    """A video with distinct clip features, and segments that are pooled from them."""
    spec = replace(SPEC, clip_frames=32, clip_stride=16)
    content = make_features(num_frames=num_frames, spec=spec)
    ranges = ClipGrid(32, 16).frame_ranges(sampled or num_frames)
    if sampled:
        ranges = ranges * num_frames // sampled
    shape = len(ranges), len(VIEWS), content.features.shape[2]
    clips = np.random.default_rng(1).random(shape)
    pooled = np.moveaxis(pool_clips(clips, ranges, content.segment_frames), 0, 1)
    return replace(
        content,
        features=pooled,
        clip_features=clips,
        clip_frames=ranges,
        num_frames_sampled=sampled,
        views=VIEWS,
    )


def pooled_from(content, clips, config):
    changed = np.moveaxis(pool_clips(clips, content.clip_frames, content.segment_frames), 0, 1)
    content = replace(content, clip_features=clips, features=changed)
    return segment_features(content, VIEWS[:1], config).values


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("num_frames", "sampled"), [(200, 0), (37, 0), (5, 0), (150, 300)])
def test_it_is_the_transpose_of_the_pooling(name, num_frames, sampled):
    config, content = CONFIGS[name], with_clips(num_frames, sampled)
    values = segment_features(content, VIEWS[:1], config).values
    generator = np.random.default_rng(2)
    outer = generator.standard_normal(values.shape)
    gradient = clip_gradient(content, [0], config, outer)
    clips = content.clip_features
    assert (gradient * clips[:, :1]).sum() == pytest.approx((outer * values).sum(), rel=1e-9)

    step = 1e-7 * generator.standard_normal(clips.shape)
    ahead = pooled_from(content, clips + step, config)
    behind = pooled_from(content, clips - step, config)
    change = (outer * (ahead - behind)).sum() / 2
    assert (gradient * step[:, :1]).sum() == pytest.approx(change, rel=1e-4, abs=1e-12)


def test_clips_are_needed():
    with pytest.raises(ValueError, match="needs stored clips"):
        clip_gradient(make_features(), [0], PoolingConfig(), np.zeros((1, 8, 6)))
