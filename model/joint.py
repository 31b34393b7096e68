"""The joint model: anomaly scores of the segments of a video and the class of the whole video.

Source: Majhi et al., "Weakly-supervised Joint Anomaly Detection and Classification", FG 2021,
section III; the widths are in its figures and in the authors' program.

Legend: B bags, S segments, D stored features of a segment (time positions x channels, time-major),
F features of a segment that enter the stages, H width of the LSTM, R width of the detector's
latent, K classes (the normal one has index 0).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vigil.model.config import LossConfig, ModelConfig
from vigil.model.detector import Detector, Output
from vigil.model.losses import joint_loss
from vigil.model.methods import Method
from vigil.model.settings import InputShape
from vigil.model.stages import (
    ClassificationHead,
    DetectionHead,
    FirstAttention,
    SecondAttention,
    TemporalEncoder,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class JointOutput(Output):
    """The joint model's output for a batch of bags."""

    score_logits: Tensor
    """(B, S), unbounded; the scores before the sigmoid."""
    class_logits: Tensor
    """(B, K), unbounded; class 0 is normal."""


class JointModel(Detector):
    """Temporal encoding, two attentions, and the two heads that they guide."""

    classifies = True

    def __init__(self, config: ModelConfig, loss: LossConfig, shape: InputShape) -> None:
        """Build the stages that the settings enable, with fresh weights from torch's generator.

        Args:
            config: the layers.
            loss: the weights of the losses.
            shape: shape of the stored features and number of classes.
        """
        super().__init__(config, loss, shape)
        input_size = self.front.size
        encoded_size = input_size + (config.lstm_size if config.temporal else 0)

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

    def forward(self, stored: Tensor) -> JointOutput:
        """Scores, attentions and class logits of a batch.

        Args:
            stored: (B, S, D) features as the feature files hold them, of any float type.
        """
        features = self.front(stored)  # (B, S, F)
        encoded = self.temporal(features)  # (B, S, H + F)

        alpha = None if self.first_attention is None else self.first_attention(features)  # (B, S)
        attended = _attend(encoded, alpha)  # F*, (B, S, H + F)
        score_logits, latent = self.detection(attended)  # (B, S), F_r (B, S, R)

        beta = None if self.second_attention is None else self.second_attention(latent)  # (B, S)
        attended_twice = _attend(attended, beta)  # F**, (B, S, H + F)
        class_logits = self.classification(attended_twice)  # (B, K)
        return JointOutput(
            scores=torch.sigmoid(score_logits),
            score_logits=score_logits,
            alpha=alpha,
            beta=beta,
            class_logits=class_logits,
        )

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the joint loss and its unweighted terms; see `joint_loss`."""
        return joint_loss(output, class_indices, class_weights, self, self.loss)


def _attend(features: Tensor, weights: Tensor | None) -> Tensor:
    """Scale each segment of (B, S, F) by 1 + its weight (B, S); without weights, by 1."""
    return features if weights is None else features + weights.unsqueeze(-1) * features


def _initialize(module: nn.Module) -> None:
    """Initialize a layer's weights like Keras by default, as the authors' program is in Keras.

    PyTorch's own scheme starts wide layers with much smaller weights and forget gates half closed.
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


METHOD = Method(ModelConfig, LossConfig, JointModel)
