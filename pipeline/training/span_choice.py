"""Choose the spans of long videos that an epoch trains on, one of each video.

The label of an anomalous video holds for at least one of its spans, and no more is known. So the
span with the highest peak score, by the model as it is before the epoch, stands for the video; this
is multiple-instance learning once more, with spans as instances. Every span of a normal video is
normal, and each epoch draws another one. Each video thus counts as often as without spans, and the
classes stay balanced.

Legend: N videos, R spans, V views, S segments, D features of a segment.
"""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vigil.model.detector import Detector
from vigil.pipeline.scores.inference import score_videos

IntArray = npt.NDArray[np.int64]


def choose_spans(
    model: Detector,
    features: Tensor,
    bounds: IntArray,
    is_anomalous: npt.NDArray[np.bool_],
    generator: np.random.Generator,
) -> IntArray:
    """Return (N,), the chosen span of each video; of equal peaks, the first.

    Args:
        model: scores the spans of anomalous videos, as the mean over views, without gradients.
        features: (R, V, S, D) on any device.
        bounds: (N + 1,); the spans of video i are those from bounds[i] up to bounds[i + 1].
        is_anomalous: (N,) whether a video's label is a class of anomaly.
        generator: draws the spans of normal videos.
    """
    chosen = generator.integers(bounds[:-1], bounds[1:])
    is_open = is_anomalous & (np.diff(bounds) > 1)
    for video in is_open.nonzero()[0]:
        first, stop = bounds[video : video + 2].tolist()
        peaks = [one.scores.max() for one in score_videos(model, features[first:stop])]
        chosen[video] = first + int(np.argmax(peaks))
    return chosen
