"""Robust temporal feature magnitude learning: anomalous segments have long features.

Source: Tian et al., "Weakly-supervised Video Anomaly Detection with Robust Temporal Feature
Magnitude Learning", ICCV 2021; layers, initial weights, losses and their weights are those of the
authors' program, tianyu0207/RTFM (model.py, train.py, main.py, option.py). Departures: the
magnitude loss uses all pairs of an anomalous and a normal bag, the average of the program's random
pairs; smoothness does not extend from one video into the next, as it does in the program; the width
of the branches stays 512 for features of any size; a bag has one view, whereas the program averages
ten crops.

Legend: B bags, S segments, D stored features of a segment, F features of a segment that enter the
network, W width of a branch, k selected segments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.detector import Detector, Output
from vigil.model.losses import magnitude_loss
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, Settings
from vigil.model.temporal import MultiScaleTemporal


@dataclass(frozen=True)
class RtfmConfig(FrontConfig):
    """The layers of the temporal network and of the perceptron over it."""

    branch_size: int = 512
    """Width of each of the four branches of the temporal network."""
    hidden_size: int = 512
    """Width of the perceptron's first layer."""
    latent_size: int = 128
    """Width of the perceptron's second layer."""
    dropout: float = 0.7
    """Share of units, and of the segments to select from, that are dropped in training."""
    num_selected: int = 3
    """Segments that represent a video, those with the longest features; a tenth of the 32."""


@dataclass(frozen=True)
class RtfmLoss(Settings):
    """The weights of the losses."""

    margin: float = 100.0
    """Target length of the features of anomalous segments; that of normal ones is 0."""
    magnitude_weight: float = 1e-4
    """Weight of the squared differences from these lengths."""
    smoothness_weight: float = 8e-4
    """Weight of the squared differences of neighbouring scores in anomalous videos."""
    sparsity_weight: float = 8e-3
    """Weight of the norm of all scores of the anomalous videos of a batch."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RtfmOutput(Output):
    """The method's output for a batch of bags."""

    video_scores: Tensor
    """(B,), 0..1, the mean score of the selected segments."""
    magnitudes: Tensor
    """(B,), from 0 up, the length of the mean feature of the selected segments."""


class Rtfm(Detector):
    """A temporal network; the lengths of its features select the segments to learn from."""

    def __init__(self, config: RtfmConfig, loss: RtfmLoss, shape: InputShape) -> None:
        """Build the layers, with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        self.temporal = MultiScaleTemporal(self.front.size, config.branch_size)
        self.dropout = nn.Dropout(config.dropout)
        self.perceptron = nn.Sequential(
            nn.Linear(self.front.size, config.hidden_size),
            nn.ReLU(),
            self.dropout,
            nn.Linear(config.hidden_size, config.latent_size),
            nn.ReLU(),
            self.dropout,
            nn.Linear(config.latent_size, 1),
        )
        self.num_selected = min(config.num_selected, shape.num_segments)
        self.perceptron.apply(_initialize)

    def forward(self, stored: Tensor) -> RtfmOutput:
        """Scores of the segments (B, S, D), and of each bag from its selected segments."""
        features = self.dropout(self.temporal(self.front(stored))).float()  # (B, S, F)
        scores = torch.sigmoid(self.perceptron(features).squeeze(-1).float())  # (B, S)
        lengths = features.detach().norm(dim=-1)  # (B, S)
        selectable = self.dropout(torch.ones_like(lengths))
        selected = (lengths * selectable).topk(self.num_selected, dim=1).indices  # (B, k)
        rows = selected.unsqueeze(-1).expand(-1, -1, features.shape[-1])
        return RtfmOutput(
            scores=scores,
            video_scores=scores.gather(1, selected).mean(dim=1),
            magnitudes=features.gather(1, rows).mean(dim=1).norm(dim=-1),
        )

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the videos' cross-entropy, the magnitude loss, smoothness and sparsity."""
        assert isinstance(output, RtfmOutput)
        config: RtfmLoss = self.loss
        labels = (class_indices > 0).float()
        detection = functional.binary_cross_entropy(output.video_scores, labels)
        magnitude = magnitude_loss(output.magnitudes, labels, config.margin)
        smoothness = (output.scores.diff(dim=1).square().sum(dim=1) * labels).sum()
        sparsity = (output.scores * labels.unsqueeze(-1)).norm()
        total = (
            detection
            + config.magnitude_weight * magnitude
            + config.smoothness_weight * smoothness
            + config.sparsity_weight * sparsity
        )
        return {
            "total": total,
            "detection": detection,
            "magnitude": magnitude,
            "smoothness": smoothness,
            "sparsity": sparsity,
        }


def _initialize(layer: nn.Module) -> None:
    """Initialize a layer's weights as the program does."""
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


METHOD = Method(RtfmConfig, RtfmLoss, Rtfm)
