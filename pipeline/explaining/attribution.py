"""What each time position of a bag adds to a score: from the model back to its clips.

The score's log-odds are differentiated through the model, then through the pooling into segments.
Gradient times feature, summed over the channels of a time position, is its evidence. It is a linear
view of the model at this place, as Grad-CAM's is in space; biases and the standardization's means
are the same for every video and are nobody's evidence.

Legend: V views, S segments, K classes, n clips of a bag, T time positions of a clip, C channels,
D = T x C, F features of a segment as the model gets them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vigil.data.pooling import PoolingConfig, segment_features
from vigil.data.pooling_gradients import FloatArray, clip_gradient
from vigil.extract.errors import UserError
from vigil.model.detector import Detector, Output
from vigil.pipeline.explaining.moment import Bag


@dataclass(frozen=True, eq=False)
class Attribution:
    """Where in a bag the score of its segment comes from."""

    score: float
    """Of the segment in this bag, 0..1, the mean over the views."""
    gradient: FloatArray
    """(n, V, T, C) of what is explained, by the clips' features."""
    evidence: FloatArray
    """(n, T) gradient times feature, summed over views and channels."""
    attentions: dict[str, FloatArray]
    """Name -> (S,), the mean over the views; empty if the model has none."""


def attribute(
    model: Detector, bag: Bag, views: list[str], pooling: PoolingConfig, class_index: int | None
) -> Attribution:
    """Attribute the score of a bag's segment, or that of a class, to its clips.

    Args:
        model: on the CPU.
        bag: with its clips.
        views: over which scores are averaged.
        pooling: of the model's features of a segment.
        class_index: of the class whose logit is explained; None: the log-odds of the score.

    Raises:
        UserError: the method names no classes, or no gradient leads through it.
    """
    content = bag.features
    values = segment_features(content, views, pooling).values  # (V, S, F)
    given = torch.from_numpy(values).float().requires_grad_()
    with torch.enable_grad():
        output = model.eval()(given)
        target = _target(output, bag.segment, class_index)
        if not target.requires_grad:
            raise UserError(
                f"{type(model).__name__} cannot be explained: it computes without gradients"
            )
        (slope,) = torch.autograd.grad(target, given)
    if not (slope.isfinite().all() and slope.any()):
        raise UserError(
            f"the score there does not change with the features ({float(target):g} log-odds): "
            "explain another moment with --at"
        )
    rows = [content.views.index(view) for view in views]
    by_clip = clip_gradient(content, rows, pooling, slope.double().numpy())
    assert content.clip_features is not None
    shape = len(by_clip), len(rows), content.time_positions, content.channels
    clips = content.clip_features[:][:, rows].astype(np.float64)
    evidence = (by_clip * clips).reshape(shape).sum(axis=(1, 3))
    named = {"first attention (alpha)": output.alpha, "second attention (beta)": output.beta}
    return Attribution(
        score=float(output.scores[:, bag.segment].detach().double().mean()),
        gradient=by_clip.reshape(shape),
        evidence=evidence,
        attentions={
            name: weights.detach().double().mean(dim=0).numpy()
            for name, weights in named.items()
            if weights is not None
        },
    )


def _target(output: Output, segment: int, class_index: int | None) -> Tensor:
    """What is differentiated: the log-odds of the mean score, or the mean logit of a class.

    A class has a logit at each segment, or else one for the whole bag.
    """
    if class_index is None:
        return output.scores[:, segment].double().mean().logit()
    if output.segment_class_logits is not None:
        return output.segment_class_logits[:, segment, class_index].double().mean()
    if output.class_logits is None:
        raise UserError("the method names no classes: leave out --class-name")
    return output.class_logits[:, class_index].double().mean()
