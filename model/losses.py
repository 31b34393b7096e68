"""The losses of the joint model, each from scores and logits to one number.

Legend: A anomalous bags, N normal bags, B bags, S segments, K classes (the normal one has index 0).
Source: Majhi et al., FG 2021, section III; the ranking loss is that of Sultani et al., CVPR 2018.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.config import LossConfig
from vigil.model.detector import Output


def joint_loss(
    output: Output,
    class_indices: Tensor,
    class_weights: Tensor,
    model: nn.Module,
    config: LossConfig,
) -> dict[str, Tensor]:
    """Return the total loss of a batch with anomalous and normal bags, and its unweighted terms.

    Args:
        output: the model's output.
        class_indices: (B,) int64 true classes.
        class_weights: (K,) from `class_weights_of`.
        model: the model, whose dense layers are penalized.
        config: the weights of the losses.
    """
    anomalous = class_indices > 0
    detection = ranking_loss(output.scores[anomalous], output.scores[~anomalous], config)
    assert output.class_logits is not None, "the joint model names classes"
    classification = classification_loss(output.class_logits, class_indices, class_weights)
    attention = attention_loss(output.alpha, output.beta)
    penalty = dense_penalty(model) if config.dense_penalty else torch.zeros_like(detection)
    total = (
        config.detection_weight * detection
        + (1 - config.detection_weight) * classification
        + config.attention_weight * attention
        + config.dense_penalty * penalty
    )
    return {
        "total": total,
        "detection": detection,
        "classification": classification,
        "attention": attention,
        "dense_penalty": penalty,
    }


def ranking_loss(anomalous_scores: Tensor, normal_scores: Tensor, config: LossConfig) -> Tensor:
    """The multiple-instance ranking loss of scores (A, S) and (N, S).

    Every anomalous bag's highest score should exceed every normal bag's by the margin. The scores
    of an anomalous bag should be smooth and sparse; both sums stay within a bag, so the order of
    the bags does not matter.
    """
    gaps = anomalous_scores.amax(dim=1).unsqueeze(1) - normal_scores.amax(dim=1)  # (A, N)
    hinge = functional.relu(config.margin - gaps).sum(dim=0).mean()
    smoothness = anomalous_scores.diff(dim=1).square().sum()
    sparsity = anomalous_scores.sum()
    return hinge + config.smoothness_weight * smoothness + config.sparsity_weight * sparsity


def class_weights_of(class_indices: Tensor, num_classes: int) -> Tensor:
    """(K,) float32, 1 - (share of each class in the training set)."""
    counts = torch.bincount(class_indices, minlength=num_classes)
    return 1 - counts.float() / len(class_indices)


def classification_loss(
    class_logits: Tensor, class_indices: Tensor, class_weights: Tensor
) -> Tensor:
    """The mean over bags of the weighted cross-entropy of logits (B, K).

    PyTorch's own ``weight=`` differs, because it divides by the sum of the weights instead of B.
    """
    cross_entropy = functional.cross_entropy(class_logits, class_indices, reduction="none")
    return (class_weights[class_indices] * cross_entropy).mean()


def attention_loss(alpha: Tensor | None, beta: Tensor | None) -> Tensor:
    """The mean over bags of sum (1 - alpha)^2 + sum beta^2; a disabled stage adds nothing."""
    loss = torch.zeros(())
    if alpha is not None:
        loss = loss + (1 - alpha).square().sum(dim=1).mean()
    if beta is not None:
        loss = loss + beta.square().sum(dim=1).mean()
    return loss


def dense_penalty(model: nn.Module) -> Tensor:
    """The summed squared weights of all dense layers, without their biases."""
    dense = (module for module in model.modules() if isinstance(module, nn.Linear))
    return torch.stack([layer.weight.square().sum() for layer in dense]).sum()


def magnitude_loss(magnitudes: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The mean of (|margin - a| + n)^2 over all pairs of an anomalous bag a and a normal bag n.

    The loss is from Tian et al. (RTFM), ICCV 2021. Their program pairs bags by their positions in
    the batch; this is the mean over all orders. With x = |margin - a| it is
    mean(x^2) + 2 mean(x) mean(n) + mean(n^2), where each mean is over one kind of bags.

    Args:
        magnitudes: (B,) lengths of features.
        labels: (B,) 1 for anomalous bags, 0 for normal ones; both occur.
        margin: target length of anomalous bags.
    """
    shortfall = (margin - magnitudes).abs()
    of_anomalous = labels / labels.sum()
    of_normal = (1 - labels) / (1 - labels).sum()
    return (
        of_anomalous @ shortfall.square()
        + 2 * (of_anomalous @ shortfall) * (of_normal @ magnitudes)
        + of_normal @ magnitudes.square()
    )
