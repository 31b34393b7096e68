"""Nearest neighbours: segments and videos are classified by the nearest training videos.

Source: Cover and Hart, "Nearest neighbor pattern classification", IEEE Transactions on Information
Theory 13(1), 1967, as in scikit-learn's `KNeighborsClassifier`, with Euclidean distance. A video is
represented by the mean of its segments. A segment's score is the share of anomalous videos among
its neighbours; a video's class probabilities are the shares among its own neighbours.

Legend: N training bags, B bags, S segments, D stored features of a segment, F features of a segment
that enter, M stored videos, Q query points, K classes (the normal one has index 0).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vigil.model.detector import Detector, Output
from vigil.model.front import StoredBags
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, NoLoss, require

Weighting = Literal["uniform", "distance"]


@dataclass(frozen=True)
class KnnConfig(FrontConfig):
    """The nearest neighbours."""

    num_neighbors: int = 5
    """Neighbours that vote."""
    weighting: Weighting = "distance"
    """uniform: equal votes; distance: votes of inverse distance, so that few scores tie."""
    num_stored: int = 2048
    """Maximum number of training videos to store; of more, a random sample is stored."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        limit = f"at most num_stored = {self.num_stored}"
        require(self.num_neighbors <= self.num_stored, "num_neighbors", self.num_neighbors, limit)


class Knn(Detector):
    """The training videos and their classes, in memory of a fixed size."""

    classifies = True
    has_epochs = False
    videos: Tensor
    classes: Tensor
    count: Tensor

    def __init__(self, config: KnnConfig, loss: NoLoss, shape: InputShape) -> None:
        """Hold no videos until `fit` is called or a checkpoint is loaded."""
        super().__init__(config, loss, shape)
        self.register_buffer("videos", torch.zeros(config.num_stored, self.front.size))
        self.register_buffer("classes", torch.zeros(config.num_stored, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def fit(self, stored: StoredBags, class_indices: Tensor) -> None:
        """Store the training videos, or a random sample if there are too many."""
        self.front.fit(stored)
        rows = torch.arange(len(stored))
        if len(stored) > self.config.num_stored:
            rows = torch.randperm(len(stored))[: self.config.num_stored]
        for place, row in enumerate(torch.split(rows.to(stored.device), 1)):
            self.videos[place] = self.front(stored[row].to(self.device)).mean(dim=(0, 1))
        self.classes[: len(rows)] = class_indices[rows.to(class_indices.device)]
        self.count.fill_(len(rows))

    def forward(self, stored: Tensor) -> Output:
        """Scores and the logarithms of class shares of (B, S, D)."""
        features = self.front(stored)  # (B, S, F)
        normal_shares = self._shares(features.flatten(0, 1))[:, 0]  # (B * S,)
        class_shares = self._shares(features.mean(dim=1))  # (B, K)
        return Output(
            scores=(1 - normal_shares).clamp(min=0).reshape(features.shape[:2]),
            class_logits=class_shares.clamp(min=torch.finfo(torch.float32).tiny).log(),
        )

    def _shares(self, points: Tensor) -> Tensor:
        """(Q, F) -> (Q, K), 0..1, summing to 1: class shares among each point's neighbours."""
        # Distances computed by products are inaccurate if small, and depend on the rest of a batch.
        distances = torch.cdist(points, self.videos, compute_mode="donot_use_mm_for_euclid_dist")
        empty = torch.arange(len(self.videos), device=points.device) >= self.count
        distances = distances.masked_fill(empty, torch.inf)
        nearest, places = distances.topk(self.config.num_neighbors, largest=False)  # (Q, neighbors)
        if self.config.weighting == "uniform":
            votes = nearest.isfinite().float()
        else:  # neighbours at distance 0 equal the point, and only they vote if there are any
            same = nearest == 0
            votes = torch.where(same.any(dim=1, keepdim=True), same.float(), 1 / nearest)
        classes = functional.one_hot(self.classes[places], self.shape.num_classes)
        counts = (votes.unsqueeze(-1) * classes).sum(dim=1)  # (Q, K)
        return counts / counts.sum(dim=1, keepdim=True)


METHOD = Method(KnnConfig, NoLoss, Knn)
