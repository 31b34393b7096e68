"""Multiple-instance ranking over more than the highest score, for features of a 3D ResNet.

Source: Dubey, Boragule, Jeon, "3D ResNet with Ranking Loss Function for Abnormal Activity Detection
in Videos", ICCAIS 2019 (arXiv 2002.01132). It differs from Sultani et al. in three ways: the
features, which are 512 values from the average pooling of a 3D ResNet-34, here whatever the
feature files hold (the closest backbone is r3d_18, of the same width); the widths of the
perceptron, 512-128-32-1 in the figure at shikha-gist/Anomaly-Activity-Detection---MILR; and the
ranking loss. Our source for the loss and the penalty's weight is a third party's reproduction,
Nebre38-169/Projet_MLA_Abnormal-Activity-in-video (ranking_loss.py, Training_Model.py), because the
authors have published no program and the equations of the paper were not available. We assume
equal weights of all terms, as for one pair of bags; the reproduction sums the first over anomalous
bags and averages the others. The optimizer is Adam, in the reproduction Adagrad.

Legend: A anomalous bags, N normal bags, S segments, R ranks after the first.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from vigil.model.baselines.sultani import Sultani, SultaniConfig, SultaniLoss, split_scores
from vigil.model.detector import Output
from vigil.model.losses import dense_penalty, ranking_loss
from vigil.model.methods import Method


@dataclass(frozen=True)
class DubeyConfig(SultaniConfig):
    """The layers of the perceptron."""

    hidden_size: int = 128
    """Width of the first layer."""


@dataclass(frozen=True)
class DubeyLoss(SultaniLoss):
    """The weights of the losses."""

    num_ranks: int = 3
    """How many of an anomalous video's highest scores should exceed a normal video's highest."""
    dense_penalty: float = 1e-2
    """Weight of the squared weights of all dense layers."""


class Dubey(Sultani):
    """Sultani's perceptron, with a loss that also uses the other scores of a bag."""

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses of the highest score, of the next ones, and within anomalous bags."""
        anomalous, normal = split_scores(output.scores, class_indices)
        margin = self.loss.margin
        ranking = ranking_loss(anomalous, normal, self.loss.ranking())
        next_ranks = next_ranks_loss(anomalous, normal, self.loss.num_ranks, margin)
        spread = spread_loss(anomalous, margin)
        penalty = dense_penalty(self)
        return {
            "total": ranking + next_ranks + spread + self.loss.dense_penalty * penalty,
            "ranking": ranking,
            "next_ranks": next_ranks,
            "spread": spread,
            "dense_penalty": penalty,
        }


def next_ranks_loss(anomalous: Tensor, normal: Tensor, num_ranks: int, margin: float) -> Tensor:
    """The hinge of `ranking_loss`, summed over the highest scores except the first.

    A normal bag always counts with its highest score. Ranks beyond the segments add nothing.
    """
    ranked = anomalous.topk(min(num_ranks, anomalous.shape[1]), dim=1).values[:, 1:]  # (A, R)
    gaps = ranked.unsqueeze(1) - normal.amax(dim=1).unsqueeze(-1)  # (A, N, R)
    return functional.relu(margin - gaps).sum(dim=(0, 2)).mean()


def spread_loss(anomalous: Tensor, margin: float) -> Tensor:
    """By how much the range of scores in an anomalous bag is below the margin, summed over bags."""
    spread = anomalous.amax(dim=1) - anomalous.amin(dim=1)  # (A,)
    return functional.relu(margin - spread).sum()


METHOD = Method(DubeyConfig, DubeyLoss, Dubey)
