"""One evaluated video, and the type of a measure of several.

Legend: N videos, S segments, K classes (normal is 0).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vigil.pipeline.scores import metrics
from vigil.pipeline.scores.events import peak_score
from vigil.pipeline.scores.inference import VideoScores
from vigil.pipeline.scores.metrics import FloatArray, IntArray, Measure, Pieces

VideoMeasure = Callable[[IntArray], Measure]
"""A measure of N videos as a function of how often each counts, (N,)."""


@dataclass(frozen=True, eq=False)
class EvaluatedVideo:
    """One video with its truth and the model's output."""

    video: str
    class_index: int
    truth: npt.NDArray[np.bool_] | None
    """Anomalous frames; None for an anomalous video whose frames are not annotated."""
    num_frames: int
    segment_frames: IntArray
    scores: VideoScores
    other_class_indices: tuple[int, ...] = ()
    """The video's further classes, if it has several."""
    segment_seconds: FloatArray | None = None
    """(S, 2) the ranges of ``segment_frames`` in seconds; None if times are unknown."""
    named: FloatArray | None = None
    """(S, K) class probabilities of the video or span around each segment; None for methods that
    do not classify."""

    @property
    def label_index(self) -> int:
        """Index of the most probable class, normal included."""
        return int(np.argmax(self.scores.class_probabilities))

    @property
    def anomaly_index(self) -> int:
        """Index of the most probable anomalous class."""
        return 1 + int(np.argmax(self.scores.class_probabilities[1:]))

    @property
    def peak_score(self) -> float:
        """The highest score of the segments that hold frames."""
        return peak_score(self.scores.scores, self.segment_frames)

    @property
    def pieces(self) -> Pieces:
        """The frames as counts, all 0 if the truth is unknown."""
        if self.truth is None:
            nothing = np.zeros(len(self.scores.scores), np.int64)
            return Pieces(self.scores.scores, nothing, nothing)
        return metrics.frame_pieces(self.scores.scores, self.segment_frames, self.truth)
