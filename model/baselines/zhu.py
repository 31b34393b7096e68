"""Zhu's ranking by attention: a bag's worth is the attention-weighted mean of its scores.

Source: Zhu and Newsam, "Motion-Aware Feature for Improved Video Anomaly Detection", BMVC 2019
(arXiv 1907.10211), its attention-based temporal MIL ranking model; there is no official program.
The perceptron has the widths and dropout of Sultani et al., CVPR 2018, which the paper builds on,
and of its program WaqasSultani/AnomalyDetectionCVPR2018; initial weights are PyTorch's.

It departs from the paper in its features, which are 1024 values from the bottleneck of an
autoencoder of optical flow there. Here they are the stored features, or with
``motion = "difference"`` their change between neighbouring time positions. The attention is a
softmax over the segments, so that the mean is a score; the loss is the mean over all pairs of an
anomalous and a normal bag.

Legend: B bags, S segments, T time positions, C channels, D stored features of a segment (T x C,
time-major), F features of a segment that enter the network.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.detector import Detector, Output
from vigil.model.front import StoredBags
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, Settings

Motion = Literal["stored", "difference"]


@dataclass(frozen=True)
class ZhuConfig(FrontConfig):
    """The layers of Zhu's detector."""

    motion: Motion = "stored"
    """Source of motion: the stored features themselves (of optical flow, for example), or their
    absolute difference from one time position to the next."""
    first_attention_size: int = 256
    """Width of the first layer of the attention."""
    second_attention_size: int = 64
    """Width of the second layer of the attention."""
    first_size: int = 512
    """Width of the first layer of the perceptron."""
    second_size: int = 32
    """Width of the second layer of the perceptron."""
    dropout: float = 0.6
    """Share of units that the perceptron drops in training."""


@dataclass(frozen=True)
class ZhuLoss(Settings):
    """The weights of the losses."""

    margin: float = 1.0
    """By how much an anomalous video's mean score should exceed a normal video's."""
    sparsity_weight: float = 8e-5
    """Weight of the mean scores of anomalous videos."""


class Zhu(Detector):
    """A perceptron that scores segments, and attention that weighs them."""

    def __init__(self, config: ZhuConfig, loss: ZhuLoss, shape: InputShape) -> None:
        """Build the layers, with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        self.perceptron = nn.Sequential(
            nn.Linear(self.front.size, config.first_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.first_size, config.second_size),
            nn.Dropout(config.dropout),
            nn.Linear(config.second_size, 1),
        )
        self.attention = nn.Sequential(
            nn.Linear(self.front.size, config.first_attention_size),
            nn.Tanh(),
            nn.Linear(config.first_attention_size, config.second_attention_size),
            nn.Tanh(),
            nn.Linear(config.second_attention_size, 1),
        )

    def fit(self, stored: StoredBags, class_indices: Tensor) -> None:
        """Measure mean and deviation of the training bags, if the settings require it."""
        self.front.fit(stored, change=self._moving)

    def forward(self, stored: Tensor) -> Output:
        """Scores and attention of stored features (B, S, D)."""
        features = self.front(self._moving(stored))  # (B, S, F)
        logits, attention = self.perceptron(features), self.attention(features)  # (B, S, 1) each
        return Output(
            scores=torch.sigmoid(logits.squeeze(-1).float()),
            alpha=attention.squeeze(-1).float().softmax(dim=1),
        )

    def _moving(self, stored: Tensor) -> Tensor:
        """The features (B, S, D) that represent motion."""
        return differences(stored, self.shape) if self.config.motion == "difference" else stored

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the ranking loss of the bags' worth, and the mean worth of anomalous bags."""
        assert output.alpha is not None
        worth = (output.alpha * output.scores).sum(dim=1)
        anomalous = class_indices > 0
        ranking = worth_ranking_loss(worth, anomalous, self.loss.margin)
        sparsity = (worth * anomalous).sum() / anomalous.sum()
        total = ranking + self.loss.sparsity_weight * sparsity
        return {"total": total, "ranking": ranking, "sparsity": sparsity}


def differences(stored: Tensor, shape: InputShape) -> Tensor:
    """Absolute change (B, S, D) of each value since the previous time position; 0 at the start."""
    positions = stored.reshape(len(stored), -1, shape.channels)  # (B, S * T, C)
    return positions.diff(dim=1, prepend=positions[:, :1]).abs().view(stored.shape)


def worth_ranking_loss(worth: Tensor, anomalous: Tensor, margin: float) -> Tensor:
    """The mean hinge of margin - worth of an anomalous bag + worth of a normal one, of (B,)."""
    hinges = functional.relu(margin - worth.unsqueeze(1) + worth)
    pairs = anomalous.unsqueeze(1) & ~anomalous
    return (hinges * pairs).sum() / pairs.sum()


METHOD = Method(ZhuConfig, ZhuLoss, Zhu)
