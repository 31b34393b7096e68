"""Generated features: random numbers, shifted in the segments of an anomaly.

Legend: V views, S segments, D features.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vigil.data.annotations import Annotation, frame_truth
from vigil.extract.segments import segment_ranges
from vigil.extract.source import VideoIdentity
from vigil.extract.spec import FeatureSpec
from vigil.extract.store import VideoFeatures

FPS = 30.0
MEDIAN_FRAMES, SPREAD_FRAMES = 2500, 1.0
"""Of the training videos, whose lengths no list contains: a log-normal distribution."""
MIN_FRAMES, MAX_FRAMES = 100, 150_000
ANOMALOUS_SHARE = 0.1, 0.4
"""Range of the share of anomalous frames in an anomalous training video."""
APART, APART_OF_CLASS = 1.0, 1.0
"""Largest shift of anomalous segments, in units of the noise: in a direction of all anomalies, and
in one of their class."""


@dataclass(frozen=True)
class Drawing:
    """How features are generated."""

    channels: int
    seed: int

    def generator(self, *names: object) -> np.random.Generator:
        """Random numbers that depend only on the seed and the names."""
        text = " ".join(map(str, (self.seed, *names)))
        digest = hashlib.sha256(text.encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def direction(self, name: str) -> npt.NDArray[np.float32]:
        """A direction (D,) with about a tenth of its values nonzero."""
        generator = self.generator("direction", name)
        is_used = generator.random(self.channels) < 0.1
        return (generator.random(self.channels) * is_used).astype(np.float32)


def draw_features(
    drawing: Drawing,
    video: str,
    annotation: Annotation,
    num_frames: int | None,
    views: Sequence[str],
) -> VideoFeatures:
    """Generate the features of a video as `vigil extract --time-pool mean` would store them.

    Args:
        drawing: seed and size.
        video: its path.
        annotation: its class, and its anomalous frames if known; otherwise they are random.
        num_frames: of the video; None: random.
        views: names of the views.
    """
    generator = drawing.generator(video.rpartition("/")[2])
    if num_frames is None:
        length = MEDIAN_FRAMES * np.exp(SPREAD_FRAMES * generator.standard_normal())
        num_frames = int(np.clip(length, MIN_FRAMES, MAX_FRAMES))
    spec = FeatureSpec("i3d", "logits", "0" * 64, time_pool="mean")
    frames = segment_ranges(num_frames, spec.num_segments)
    share = _anomalous_share(annotation, frames, num_frames, generator)
    apart = APART * drawing.direction("anomaly")
    apart += APART_OF_CLASS * drawing.direction(annotation.class_name)
    scene = generator.standard_normal(drawing.channels, np.float32) / 2
    noise = generator.standard_normal((len(views), spec.num_segments, drawing.channels), np.float32)
    values = np.maximum(noise + scene + share[:, None] * apart, 0)
    return VideoFeatures(
        features=values.astype(np.float16),
        segment_frames=frames,
        segment_seconds=frames / FPS,
        views=tuple(views),
        spec=spec,
        time_positions=1,
        channels=drawing.channels,
        weights_name="drawn, of no network",
        weights_trained=False,
        precision="fp16",
        device="cpu",
        decoder="none",
        video=VideoIdentity(video, 0, 0, "0" * 64),
        fps=FPS,
        width=320,
        height=240,
        num_frames_container=num_frames,
        num_frames_decoded=num_frames,
        duration_container=num_frames / FPS,
        created_at="",
    )


def _anomalous_share(
    annotation: Annotation,
    segment_frames: npt.NDArray[np.int64],
    num_frames: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """(S,) the share of each segment's frames that is anomalous."""
    truth = np.zeros(num_frames, np.bool_)
    if annotation.intervals is not None:
        truth = frame_truth(annotation, num_frames)
    elif annotation.is_anomalous:
        length = int(generator.uniform(*ANOMALOUS_SHARE) * num_frames)
        start = int(generator.integers(num_frames - length + 1))
        truth[start : start + length] = True
    before = np.concatenate([[0], np.cumsum(truth)])
    start, stop = segment_frames.T
    share = (before[stop] - before[start]) / np.maximum(stop - start, 1)
    return np.asarray(share, np.float32)
