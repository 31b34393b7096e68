"""Choose the spans of long videos that an epoch trains on, one of each video.

The label of an anomalous video holds for at least one of its spans, and no more is known. So one
span stands for the video: the one with the highest peak score, by the model as it is before the
epoch. Every span of a normal video is normal, and the one with the highest peak has most to teach:
if quiet spans of anomalous videos were chosen by mistake, those like them in normal videos are
corrected at once. This is multiple-instance learning once more, with spans as instances. Only a
random half of a video's spans are candidates in an epoch, because the first choices, of a model
that knows nothing, would otherwise confirm themselves. Each video counts as often as without spans,
so the classes stay balanced.

Legend: N videos, R spans, V views, S segments, D features of a segment.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vigil.model.detector import Detector
from vigil.pipeline.scores.inference import score_videos

IntArray = npt.NDArray[np.int64]


def choose_spans(
    model: Detector,
    features: Tensor,
    bounds: IntArray,
    generator: np.random.Generator,
    held: IntArray | None = None,
) -> IntArray:
    """Return (N,), the chosen span of each video; of equal peaks, the first.

    A video whose spans are not here gets -1, if it has several.

    Args:
        model: scores the candidates, as the mean over views, without gradients.
        features: (R, V, S, D) on any device.
        bounds: (N + 1,); the spans of video i are those from bounds[i] up to bounds[i + 1].
        generator: draws the candidates: half of a video's spans, rounded up.
        held: (R,) row of ``features`` of each span, below 0 if it is not here; None: all are here.
    """
    chosen = bounds[:-1].copy()
    for video in (np.diff(bounds) > 1).nonzero()[0]:
        spans = np.arange(*bounds[video : video + 2])
        drawn = np.sort(generator.choice(spans, -(-len(spans) // 2), replace=False))
        rows = drawn if held is None else held[drawn]
        if rows[0] < 0:  # all spans of a video are in one place
            chosen[video] = -1
            continue
        scored = score_videos(model, features[torch.from_numpy(rows).to(features.device)])
        chosen[video] = drawn[np.argmax([one.scores.max() for one in scored])]
    return chosen
