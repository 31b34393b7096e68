"""The joint model: anomaly scores of the segments of a video and the class of the whole video.

Source: Majhi et al., "Weakly-supervised Joint Anomaly Detection and Classification", FG 2021,
section III; the widths are in its figures and in the authors' program.

Legend: B bags, S segments, D stored features of a segment (time positions x channels, time-major),
F features of a segment that enter the stages, H width of the LSTM, R width of the detector's
latent, K classes (the normal one has index 0).
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ModelConfig, require
from model.stages import (
    ClassificationHead,
    DetectionHead,
    FirstAttention,
    SecondAttention,
    Standardize,
    TemporalEncoder,
    TimePool,
)


@dataclass(frozen=True)
class InputShape:
    """What a model is built for: the shape of its features and the number of its classes."""

    num_segments: int
    time_positions: int
    channels: int
    num_classes: int
    """The normal class included."""

    def __post_init__(self) -> None:
        """Refuse empty shapes.

        Raises:
            ValueError: names the number, its value and what is allowed.
        """
        for field in fields(self):
            minimum = 2 if field.name == "num_classes" else 1
            value = getattr(self, field.name)
            require(value >= minimum, field.name, value, f"at least {minimum}")

    @property
    def feature_size(self) -> int:
        """Stored features of a segment, D."""
        return self.time_positions * self.channels


class JointOutput(NamedTuple):
    """What the model says about a batch of bags; all float32, also under autocast."""

    scores: Tensor
    """(B, S), 0..1, 1 = anomalous."""
    score_logits: Tensor
    """(B, S), unbounded; the scores before the sigmoid."""
    alpha: Tensor | None
    """(B, S), first attention, 0..1, sums to 1 over a bag; None where that stage is off."""
    beta: Tensor | None
    """(B, S), second attention, each 0..1; None where that stage is off."""
    class_logits: Tensor
    """(B, K), unbounded; class 0 is normal."""


class JointModel(nn.Module):
    """Temporal encoding, two attentions, and the two heads that they guide."""

    def __init__(self, config: ModelConfig, shape: InputShape) -> None:
        """Build the stages that the settings switch on, with fresh weights from torch's generator.

        Args:
            config: the layers.
            shape: the stored features and the classes it is for.
        """
        super().__init__()
        self.config = config
        self.shape = shape
        pooled = config.time_pool == "mean"
        input_size = shape.channels if pooled else shape.feature_size
        encoded_size = input_size + (config.lstm_size if config.temporal else 0)

        self.time_pool = TimePool(shape.time_positions) if pooled else nn.Identity()
        self.standardize = Standardize(input_size) if config.standardize else nn.Identity()
        self.temporal = (
            TemporalEncoder(input_size, config.lstm_size) if config.temporal else nn.Identity()
        )
        self.first_attention = (
            FirstAttention(shape.num_segments, input_size, config.attention_size)
            if config.first_attention
            else None
        )
        self.detection = DetectionHead(
            encoded_size, config.detection_size, config.detection_activation, config.dropout
        )
        self.second_attention = (
            SecondAttention(shape.num_segments, config.detection_size, config.second_attention_size)
            if config.second_attention
            else None
        )
        self.classification = ClassificationHead(
            encoded_size, config.classification_size, shape.num_classes, config.dropout
        )
        self.apply(_initialize)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.parameters()).device

    def fit_standardize(self, batches: Iterable[Tensor]) -> None:
        """Measure mean and deviation on the stored features of the training split, once.

        Does nothing where the settings do not ask for it.

        Args:
            batches: stored features (B, S, D), together every training bag.
        """
        if isinstance(self.standardize, Standardize):
            self.standardize.fit(self.time_pool(features.float()) for features in batches)

    def forward(self, stored: Tensor) -> JointOutput:
        """Scores, attentions and class logits of a batch.

        Args:
            stored: (B, S, D) features as the feature files hold them, of any float type.
        """
        features = self.standardize(self.time_pool(stored.float()))  # (B, S, F)
        encoded = self.temporal(features)  # (B, S, H + F)

        alpha = None if self.first_attention is None else self.first_attention(features)  # (B, S)
        attended = _attend(encoded, alpha)  # F*, (B, S, H + F)
        score_logits, latent = self.detection(attended)  # (B, S), F_r (B, S, R)

        beta = None if self.second_attention is None else self.second_attention(latent)  # (B, S)
        attended_twice = _attend(attended, beta)  # F**, (B, S, H + F)
        class_logits = self.classification(attended_twice)  # (B, K)
        return JointOutput(torch.sigmoid(score_logits), score_logits, alpha, beta, class_logits)


def _attend(features: Tensor, weights: Tensor | None) -> Tensor:
    """(B, S, F) with each segment raised by its weight (B, S); unchanged without weights."""
    return features if weights is None else features + weights.unsqueeze(-1) * features


def _initialize(module: nn.Module) -> None:
    """Draw a layer's weights as Keras does by default, since the authors' program is in Keras.

    PyTorch's own scheme starts wide layers much smaller, and forget gates half closed.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LSTM):
        weights = dict(module.named_parameters())
        nn.init.xavier_uniform_(weights["weight_ih_l0"])
        nn.init.orthogonal_(weights["weight_hh_l0"])
        nn.init.zeros_(weights["bias_ih_l0"])
        nn.init.zeros_(weights["bias_hh_l0"])
        _, forget_gate, _, _ = weights["bias_ih_l0"].data.chunk(4)
        nn.init.ones_(forget_gate)
