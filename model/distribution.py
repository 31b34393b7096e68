"""Detection by the difference of the distributions of normal and anomalous segments.

Source: Bameri's program (github.com/FatemeBameri/Pytorch-Weakly-Anomaly-Detection), built on
RTFM: Tian et al., ICCV 2021 (github.com/tianyu0207/RTFM). Its densities have parameters set by
hand and are applied to the network's latent, which has no fixed scale; here they are fitted to
statistics of the features (see `model.densities`) before the first epoch. docs/methods.md lists
the departures from both.

Legend: N training bags, B bags of a batch, S segments, D stored features of a segment, F features
of a segment that enter the network, P statistics of a segment, K selected segments.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.detector import Detector, FitReport, Output
from vigil.model.front import FIT_BAGS, StoredBags
from vigil.model.losses import magnitude_loss
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, Settings, require
from vigil.model.statistics import (
    DistributionDifference,
    SegmentStatistics,
    neighbour_distance,
    report_of,
)
from vigil.model.temporal import MultiScaleTemporal

SelectBy = Literal["distance", "difference", "both"]

# Subtracted from the signals of dropped segments; larger than any, since they are standardized.
DROPPED = 1e3


@dataclass(frozen=True)
class DistributionConfig(FrontConfig):
    """The densities and the network of distribution-based detection."""

    projection_size: int = 32
    """Number of principal directions of the features along which densities are fitted."""
    num_fit_bags: int = 128
    """Bags of each kind, drawn at random, for fitting the densities; limits the time."""
    num_neighbours: int = 3
    """Segments on either side that a segment is compared with (Bameri's program: 3)."""
    select_by: SelectBy = "both"
    """Criterion for selecting the segments of a bag: the distance to their neighbours, the
    difference of the distributions, or both with equal weight."""
    num_selected: int = 3
    """Segments that represent their bag (RTFM: a tenth of 32)."""
    selection_dropout: float = 0.7
    """Share of segments excluded from selection, drawn anew each time (RTFM's program)."""
    temporal_size: int = 512
    """Width of the branches of the temporal network (RTFM)."""
    hidden_size: int = 512
    """Width of the detector's first hidden layer (RTFM's program)."""
    second_hidden_size: int = 128
    """Width of the detector's second hidden layer (RTFM's program)."""
    dropout: float = 0.7
    """Share of units dropped in training (RTFM's program)."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        share = self.selection_dropout
        require(share < 1, "selection_dropout", share, "at least 0 and below 1")


@dataclass(frozen=True)
class DistributionLoss(Settings):
    """The weights of the losses, which are RTFM's."""

    magnitude_weight: float = 1e-4
    """Weight of the magnitude loss, relative to 1 for the cross-entropy of the bags."""
    magnitude_margin: float = 100.0
    """Target magnitude of the selected segments of anomalous bags."""
    sparsity_weight: float = 8e-3
    """Weight of the norm of the scores of anomalous bags."""
    smoothness_weight: float = 8e-4
    """Weight of the squared differences of neighbouring scores in anomalous bags."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DistributionOutput(Output):
    """Scores, and the inputs of the losses."""

    latent: Tensor
    """(B, S, F + P), the input of the detector; its norm is the magnitude."""
    selection: Tensor
    """(B, S), unbounded; the segments with the highest values represent their bag."""


class DistributionModel(Detector):
    """A multi-scale temporal network over features and differences of distributions."""

    def __init__(self, config: DistributionConfig, loss: DistributionLoss, shape: InputShape):
        """Build the densities' tables and the network, with fresh weights.

        Args:
            config: the densities and the network.
            loss: the weights of the losses.
            shape: shape of the stored features and number of classes.
        """
        super().__init__(config, loss, shape)
        self.statistics = SegmentStatistics(
            self.front.size, config.projection_size, config.num_neighbours
        )
        num_statistics = len(self.statistics.names)
        self.difference = DistributionDifference(num_statistics)
        size = self.front.size + num_statistics
        self.temporal = MultiScaleTemporal(size, config.temporal_size)
        self.dropout = nn.Dropout(config.dropout)
        self.detection = nn.Sequential(
            nn.Linear(size, config.hidden_size),
            nn.ReLU(),
            self.dropout,
            nn.Linear(config.hidden_size, config.second_hidden_size),
            nn.ReLU(),
            self.dropout,
            nn.Linear(config.second_hidden_size, 1),
        )
        self.detection.apply(_initialize)
        self._report: FitReport | None = None

    def fit(self, stored: StoredBags, class_indices: Tensor) -> None:
        """Fit statistics and densities; all segments of anomalous bags count as anomalous."""
        self.front.fit(stored)
        normal, anomalous = (
            self._some_features(stored, kind) for kind in (class_indices == 0, class_indices > 0)
        )
        self.statistics.fit(torch.cat([normal, anomalous]))
        statistics = self.statistics(normal), self.statistics(anomalous)
        choices = self.difference.fit(*statistics)
        self._report = report_of(self.statistics, self.difference, choices)

    def describe_fit(self) -> FitReport | None:
        """Return the statistics, the compared families, and the chosen densities."""
        return self._report

    def _some_features(self, stored: StoredBags, of_kind: Tensor) -> Tensor:
        """Features (N, S, F) of random bags of a kind, drawn by torch's generator."""
        bags = of_kind.nonzero().squeeze(1).cpu()
        drawn = bags[torch.randperm(len(bags))[: self.config.num_fit_bags]].to(stored.device)
        batches = torch.split(drawn, FIT_BAGS)
        return torch.cat([self.front(stored[batch].to(self.device)) for batch in batches])

    def forward(self, stored: Tensor) -> DistributionOutput:
        """Scores and selection signals of a batch.

        Args:
            stored: (B, S, D) features as the feature files hold them, of any float type.
        """
        features = self.front(stored)  # (B, S, F)
        differences = self.difference(self.statistics(features))  # (B, S, P)
        latent = self.temporal(torch.cat([features, differences], dim=-1))  # (B, S, F + P)
        latent = self.dropout(latent)
        logits = self.detection(latent).squeeze(-1)  # (B, S)
        return DistributionOutput(
            scores=torch.sigmoid(logits.float()),
            latent=latent.float(),
            selection=self._selection(differences),
        )

    def _selection(self, differences: Tensor) -> Tensor:
        """Selection signal (B, S) of each segment, relative to the others of its bag.

        In training some segments are excluded, so that less conspicuous ones are learned, too.
        """
        signals = []
        if self.config.select_by != "distance":
            signals.append(differences.sum(dim=-1))
        if self.config.select_by != "difference":
            signals.append(neighbour_distance(differences, self.config.num_neighbours))
        signal = torch.stack([_standardized(values) for values in signals]).sum(dim=0)
        if self.training:
            is_excluded = torch.rand_like(signal) < self.config.selection_dropout
            signal = signal - DROPPED * is_excluded
        return signal

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return RTFM's losses, and their sum with the settings' weights."""
        assert isinstance(output, DistributionOutput)
        anomalous = (class_indices > 0).float()  # (B,)
        selected = output.selection.topk(min(self.config.num_selected, self.shape.num_segments))
        bag_scores = output.scores.gather(1, selected.indices).mean(dim=1)  # (B,)
        rows = selected.indices.unsqueeze(-1).expand(-1, -1, output.latent.shape[-1])
        magnitudes = output.latent.gather(1, rows).mean(dim=1).norm(dim=-1)  # (B,)
        parts = {
            "classification": functional.binary_cross_entropy(bag_scores, anomalous),
            "magnitude": magnitude_loss(magnitudes, anomalous, self.loss.magnitude_margin),
            "sparsity": (anomalous.unsqueeze(1) * output.scores).norm(),
            "smoothness": (anomalous @ output.scores.diff(dim=1).square()).sum(),
        }
        total = (
            parts["classification"]
            + self.loss.magnitude_weight * parts["magnitude"]
            + self.loss.sparsity_weight * parts["sparsity"]
            + self.loss.smoothness_weight * parts["smoothness"]
        )
        return {"total": total, **parts}


def _standardized(signal: Tensor) -> Tensor:
    """(B, S) with mean 0 and deviation 1 over each bag; 0 if a bag is constant."""
    centred = signal - signal.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    return centred / deviation.clamp(min=1e-6)


def _initialize(module: nn.Module) -> None:
    """Initialize a layer's weights as RTFM's program does."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


METHOD = Method(DistributionConfig, DistributionLoss, DistributionModel)
