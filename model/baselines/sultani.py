"""Multiple-instance ranking by a perceptron over single segments.

Source: Sultani, Chen, Shah, "Real-world Anomaly Detection in Surveillance Videos", CVPR 2018.
Layers, initial weights and loss are those of the authors' program,
WaqasSultani/AnomalyDetectionCVPR2018 (TrainingAnomalyDetector_public.py): ReLU after the first
layer, none after the second, dropout after both. Departures: Adam instead of Adagrad; features as
stored (theirs are from C3D, scaled to length 1 and averaged over a segment).

Legend: A anomalous bags, N normal bags, B bags, S segments, D stored features of a segment,
F features of a segment that enter the perceptron.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vigil.model.config import LossConfig
from vigil.model.detector import Detector, Output
from vigil.model.losses import dense_penalty, ranking_loss
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, Settings


@dataclass(frozen=True)
class SultaniConfig(FrontConfig):
    """The layers of the perceptron."""

    hidden_size: int = 512
    """Width of the first layer."""
    latent_size: int = 32
    """Width of the second layer."""
    dropout: float = 0.6
    """Share of units dropped in training after either layer."""


@dataclass(frozen=True)
class SultaniLoss(Settings):
    """The weights of the losses."""

    smoothness_weight: float = 8e-5
    """Weight of the squared differences of neighbouring scores in anomalous videos."""
    sparsity_weight: float = 8e-5
    """Weight of the summed scores of anomalous videos."""
    margin: float = 1.0
    """By how much an anomalous video's highest score should exceed a normal video's."""
    dense_penalty: float = 1e-3
    """Weight of the squared weights of all dense layers."""

    def ranking(self) -> LossConfig:
        """The part of these settings that the ranking loss uses."""
        return LossConfig(
            smoothness_weight=self.smoothness_weight,
            sparsity_weight=self.sparsity_weight,
            margin=self.margin,
        )


class Sultani(Detector):
    """A perceptron that scores every segment independently."""

    def __init__(self, config: SultaniConfig, loss: SultaniLoss, shape: InputShape) -> None:
        """Build the layers, with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        self.perceptron = perceptron(self.front.size, config)

    def forward(self, stored: Tensor) -> Output:
        """The scores of stored features (B, S, D)."""
        logits = self.perceptron(self.front(stored)).squeeze(-1)  # (B, S)
        return Output(scores=torch.sigmoid(logits.float()))

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the authors' ranking loss, which is `ranking_loss`, and the penalty."""
        anomalous, normal = split_scores(output.scores, class_indices)
        ranking = ranking_loss(anomalous, normal, self.loss.ranking())
        penalty = dense_penalty(self)
        return {
            "total": ranking + self.loss.dense_penalty * penalty,
            "ranking": ranking,
            "dense_penalty": penalty,
        }


def perceptron(num_features: int, config: SultaniConfig) -> nn.Sequential:
    """Build the layers from (B, S, F) to logits (B, S, 1)."""
    layers = nn.Sequential(
        nn.Linear(num_features, config.hidden_size),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden_size, config.latent_size),
        nn.Dropout(config.dropout),
        nn.Linear(config.latent_size, 1),
    )
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return layers


def split_scores(scores: Tensor, class_indices: Tensor) -> tuple[Tensor, Tensor]:
    """Split (B, S) into (A, S) of anomalous bags, which come first in a batch, and (N, S)."""
    num_anomalous = int((class_indices > 0).sum())
    return scores[:num_anomalous], scores[num_anomalous:]


METHOD = Method(SultaniConfig, SultaniLoss, Sultani)
