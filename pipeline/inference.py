"""A model's scores of videos, averaged over views.

Legend: N videos, V views, S segments, D features of a segment, K classes (normal has index 0).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from extract.errors import UserError
from model.joint import JointModel

FloatArray = npt.NDArray[np.float64]

# Bags that go through the model at once; bounds the memory, not the result.
MAX_BAGS = 64


@dataclass(frozen=True, eq=False)
class VideoScores:
    """What a model says about one video."""

    scores: FloatArray
    """(S,), 0..1, 1 = anomalous."""
    class_probabilities: FloatArray
    """(K,), sums to 1."""
    alpha: FloatArray | None
    """(S,), first attention, sums to 1; None where the model lacks that stage."""
    beta: FloatArray | None
    """(S,), second attention, each 0..1; None where the model lacks that stage."""

    @property
    def is_finite(self) -> bool:
        """Whether the model had an answer: no score or probability is infinite or no number."""
        return bool(np.isfinite(self.scores).all() and np.isfinite(self.class_probabilities).all())


def select_device(name: str) -> torch.device:
    """The device of a name: auto (CUDA where there is one), cpu, cuda or cuda:N.

    Raises:
        UserError: there is no such device on this machine.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    known = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{gpu}" for gpu in range(num_gpus))]
    if name not in known:
        raise UserError(
            f"device {name!r} is not on this machine: use auto or one of {', '.join(known)}"
        )
    return torch.device(name)


def select_devices(names: str) -> tuple[torch.device, ...]:
    """The devices that share an extraction: one or more names with commas, or ``all`` GPUs.

    Raises:
        UserError: one of them is not on this machine, or a GPU is named twice.
    """
    if names == "all":
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not num_gpus:
            raise UserError("device 'all' means every GPU, and torch finds none: use auto or cpu")
        return tuple(torch.device("cuda", gpu) for gpu in range(num_gpus))
    devices = tuple(select_device(name.strip()) for name in names.split(","))
    gpus = [device.index or 0 for device in devices if device.type == "cuda"]
    if len(set(gpus)) < len(gpus):
        raise UserError(f"device {names!r} names a GPU twice: name each once, or use all")
    return devices


def score_views(model: JointModel, features: npt.NDArray[np.floating]) -> VideoScores:
    """The scores of one video from its views (V, S, D), computed in float32 on the model's device.

    Raises:
        UserError: the features have another shape than the model's, or are not finite.
    """
    return score_videos(model, features[np.newaxis])[0]


def score_videos(model: JointModel, features: npt.NDArray[np.floating]) -> list[VideoScores]:
    """The scores of each video from the views of all, (N, V, S, D), as `score_views` computes them.

    Raises:
        UserError: the features have another shape than the model's, or are not finite.
    """
    expected = (model.shape.num_segments, model.shape.feature_size)
    if features.shape[2:] != expected or features.shape[1] == 0:
        raise UserError(
            f"features of the shape {features.shape[1:]} do not fit a model for (views, "
            f"{expected[0]}, {expected[1]}): extract them with the model's own settings"
        )
    if not np.isfinite(features).all():
        raise UserError("the features hold values that are not finite: extract the video again")
    model.eval()
    step = max(1, MAX_BAGS // features.shape[1])
    return [
        scores
        for start in range(0, len(features), step)
        for scores in _score_batch(model, features[start : start + step])
    ]


@torch.inference_mode()
def _score_batch(model: JointModel, features: npt.NDArray[np.floating]) -> list[VideoScores]:
    num_videos, num_views = features.shape[:2]
    bags = torch.from_numpy(np.ascontiguousarray(features)).to(model.device).flatten(0, 1)
    output = model(bags)

    def mean_over_views(values: torch.Tensor) -> FloatArray:
        by_view = values.double().reshape(num_videos, num_views, -1)
        return np.asarray(by_view.mean(dim=1).cpu().numpy())

    scores = mean_over_views(output.scores)
    probabilities = mean_over_views(output.class_logits.softmax(dim=-1))
    alpha = None if output.alpha is None else mean_over_views(output.alpha)
    beta = None if output.beta is None else mean_over_views(output.beta)
    return [
        VideoScores(
            scores=scores[video],
            class_probabilities=probabilities[video],
            alpha=None if alpha is None else alpha[video],
            beta=None if beta is None else beta[video],
        )
        for video in range(num_videos)
    ]
