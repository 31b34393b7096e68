"""Multiple-instance ranking over a causal convolutional network, between bags and within them.

Source: Zhang, Qing, Miao, "Temporal Convolutional Network with Complementary Inner Bag Loss for
Weakly Supervised Anomaly Detection", ICIP 2019. There is no official program, and only the abstract
of the paper was available: within an anomalous bag the gap between highest and lowest score should
be large, within a normal one small, and the network reads preceding segments. The rest is assumed:
the blocks, those of Bai, Kolter, Koltun, "An Empirical Evaluation of Generic Convolutional and
Recurrent Networks for Sequence Modeling" (arXiv 1803.01271) without its weight normalization; their
number and widths; the perceptron and the ranking loss between bags, those of Sultani et al.; the
form of the inner loss, a hinge for anomalous bags and the gap itself for normal ones, as in a third
party's program; and its weight, equal to that of the hinge between bags.

Legend: A anomalous bags, N normal bags, B bags, S segments, D stored features of a segment,
F features of a segment that enter the network, H width of the network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.baselines.sultani import SultaniConfig, SultaniLoss, perceptron, split_scores
from vigil.model.detector import Detector, Output
from vigil.model.losses import dense_penalty, ranking_loss
from vigil.model.methods import Method
from vigil.model.settings import InputShape


@dataclass(frozen=True)
class ZhangConfig(SultaniConfig):
    """The layers of the temporal network and of the perceptron over it."""

    temporal_size: int = 512
    """Width of the temporal network."""
    kernel_size: int = 2
    """Segments that a convolution reads."""
    num_blocks: int = 2
    """Blocks of two convolutions, each block with twice the dilation of the one before."""


@dataclass(frozen=True)
class ZhangLoss(SultaniLoss):
    """The weights of the losses."""

    inner_weight: float = 1.0
    """Weight of the inner-bag loss."""


class CausalBlock(nn.Module):
    """Two dilated convolutions over the past, beside their input."""

    def __init__(
        self, num_features: int, size: int, kernel_size: int, dilation: int, dropout: float
    ) -> None:
        """Build the convolutions, and one of width 1 if the sum needs it."""
        super().__init__()
        self.past = (kernel_size - 1) * dilation
        self.first = nn.Conv1d(num_features, size, kernel_size, dilation=dilation)
        self.second = nn.Conv1d(size, size, kernel_size, dilation=dilation)
        self.skip = nn.Identity() if num_features == size else nn.Conv1d(num_features, size, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, S) -> (B, H, S); a segment depends on itself and on earlier ones only."""
        hidden = features
        for convolution in (self.first, self.second):
            padded = functional.pad(hidden, (self.past, 0))
            hidden = self.dropout(functional.relu(convolution(padded)))
        return functional.relu(hidden + self.skip(features))


class Zhang(Detector):
    """A temporal network, and a perceptron that scores each segment of its output."""

    def __init__(self, config: ZhangConfig, loss: ZhangLoss, shape: InputShape) -> None:
        """Build the layers, with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        size = config.temporal_size
        self.temporal = nn.Sequential(
            *(
                CausalBlock(
                    size if block else self.front.size,
                    size,
                    config.kernel_size,
                    2**block,
                    config.dropout,
                )
                for block in range(config.num_blocks)
            )
        )
        self.perceptron = perceptron(size, config)

    def forward(self, stored: Tensor) -> Output:
        """The scores of stored features (B, S, D)."""
        features = self.front(stored)  # (B, S, F)
        encoded = self.temporal(features.mT).mT  # (B, S, H)
        logits = self.perceptron(encoded).squeeze(-1)  # (B, S)
        return Output(scores=torch.sigmoid(logits.float()))

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the ranking loss between bags, the loss within bags, and the penalty."""
        anomalous, normal = split_scores(output.scores, class_indices)
        ranking = ranking_loss(anomalous, normal, self.loss.ranking())
        inner = inner_bag_loss(anomalous, normal, self.loss.margin)
        penalty = dense_penalty(self.perceptron)
        return {
            "total": ranking + self.loss.inner_weight * inner + self.loss.dense_penalty * penalty,
            "ranking": ranking,
            "inner": inner,
            "dense_penalty": penalty,
        }


def inner_bag_loss(anomalous: Tensor, normal: Tensor, margin: float) -> Tensor:
    """The loss of the gaps between highest and lowest scores of (A, S) and (N, S).

    In an anomalous bag the gap should reach the margin, in a normal one it should be 0. As in the
    ranking loss, it is the sum over anomalous bags of the mean over normal ones.
    """
    anomalous_gaps = anomalous.amax(dim=1) - anomalous.amin(dim=1)  # (A,)
    normal_gaps = normal.amax(dim=1) - normal.amin(dim=1)  # (N,)
    return (functional.relu(margin - anomalous_gaps) + normal_gaps.mean()).sum()


METHOD = Method(ZhangConfig, ZhangLoss, Zhang)
