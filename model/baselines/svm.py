"""Support vector machines on whole videos: the baseline row of the published tables.

Source: Sultani et al., "Real-world Anomaly Detection in Surveillance Videos", CVPR 2018, section 4:
a linear machine separates the features of anomalous from those of normal videos, and its output for
a segment is the segment's score. Majhi et al., FG 2021, quote its row.
Departures: there is one machine per class against all others, so that videos get a class, too; that
of Normal, negated, is the detector. Errors are weighted by the rarity of their side. The score is
the sigmoid of the raw margin, not of one calibrated on held-out folds (Platt), because small sets
cannot spare them, and the order of the scores, hence the AUC, is the same.

Legend: N training bags, B bags, S segments, D stored features of a segment, F features of a segment
that enter, K classes (the normal one has index 0).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vigil.model.detector import Detector, Output
from vigil.model.front import StoredBags
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, NoLoss, require

VideoPool = Literal["mean", "max"]
MAX_ITERATIONS = 20_000


@dataclass(frozen=True)
class SvmConfig(FrontConfig):
    """The support vector machines."""

    video_pool: VideoPool = "mean"
    """How the features of segments are pooled to those of a video."""
    cost: float = 1.0
    """Cost of an error relative to that of a narrow margin, scikit-learn's C."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        require(self.cost > 0, "cost", self.cost, "a number above 0")


class Svm(Detector):
    """Linear support vector machines, one per class against the others."""

    classifies = True
    has_epochs = False
    weight: Tensor
    bias: Tensor

    def __init__(self, config: SvmConfig, loss: NoLoss, shape: InputShape) -> None:
        """Make all margins 0 until `fit` is called or a checkpoint is loaded."""
        super().__init__(config, loss, shape)
        self.register_buffer("weight", torch.zeros(shape.num_classes, self.front.size))
        self.register_buffer("bias", torch.zeros(shape.num_classes))

    @torch.no_grad()
    def fit(self, stored: StoredBags, class_indices: Tensor) -> None:
        """Train all machines; their optimum is unique, and so does not depend on a seed."""
        from sklearn.svm import LinearSVC

        self.front.fit(stored)
        rows = torch.split(torch.arange(len(stored), device=stored.device), 1)
        videos = torch.cat([self._pool(self.front(stored[row].to(self.device))) for row in rows])
        features, classes = videos.cpu().numpy(), class_indices.cpu().numpy()
        for index in range(self.shape.num_classes):
            inside = classes == index
            if not inside.any():  # the smallest weights that exclude the class
                self.weight[index], self.bias[index] = 0, -1
                continue
            # For 1610 videos of 1024 dimensions the dual needs 87 iterations, the primal 11,000.
            machine = LinearSVC(
                C=self.config.cost,
                dual=True,
                class_weight="balanced",
                max_iter=MAX_ITERATIONS,
                random_state=0,
            )
            machine.fit(features, inside)
            self.weight[index] = torch.from_numpy(machine.coef_[0])
            self.bias[index] = float(machine.intercept_[0])

    def forward(self, stored: Tensor) -> Output:
        """Scores and class margins of (B, S, D)."""
        features = self.front(stored)  # (B, S, F)
        normal_margins = (features * self.weight[0]).sum(dim=-1) + self.bias[0]  # (B, S)
        videos = self._pool(features)  # (B, F)
        margins = (videos.unsqueeze(1) * self.weight).sum(dim=-1) + self.bias  # (B, K)
        return Output(scores=torch.sigmoid(-normal_margins), class_logits=margins)

    def _pool(self, features: Tensor) -> Tensor:
        """(B, S, F) -> (B, F), the features of whole videos."""
        return features.mean(dim=1) if self.config.video_pool == "mean" else features.amax(dim=1)


METHOD = Method(SvmConfig, NoLoss, Svm)
