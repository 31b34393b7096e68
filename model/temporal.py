"""The multi-scale temporal network, which gives each segment its near and far context.

Source: Tian et al., "Weakly-supervised Video Anomaly Detection with Robust Temporal Feature
Magnitude Learning" (RTFM), ICCV 2021, section 3.1; widths, activations and initial weights are
those of its program (github.com/tianyu0207/RTFM, `Aggregate`).

Legend: B bags, S segments, F features of a segment, W width of each of the four branches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

DILATIONS = (1, 2, 4)


class MultiScaleTemporal(nn.Module):
    """A pyramid of dilated convolutions and a non-local block, added to their own input."""

    def __init__(self, num_features: int, width: int = 512) -> None:
        """Build the branches; RTFM's width is 512 for 2048 features."""
        super().__init__()
        self.pyramid = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(num_features, width, 3, dilation=dilation, padding=dilation),
                nn.ReLU(),
                nn.BatchNorm1d(width),
            )
            for dilation in DILATIONS
        )
        self.narrow = nn.Conv1d(num_features, width, 1, bias=False)
        self.non_local = NonLocalBlock(width)
        self.fuse = nn.Sequential(
            nn.Conv1d((len(DILATIONS) + 1) * width, num_features, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.BatchNorm1d(num_features),
        )
        self.apply(_initialize)

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, F) -> (B, S, F)."""
        over_time = features.transpose(1, 2)  # (B, F, S)
        near = [branch(over_time) for branch in self.pyramid]  # each (B, W, S)
        far = self.non_local(functional.relu(self.narrow(over_time)))  # (B, W, S)
        fused = self.fuse(torch.cat([*near, far], dim=1))  # (B, F, S)
        out: Tensor = features + fused.transpose(1, 2)
        return out


class NonLocalBlock(nn.Module):
    """Adds to each segment the others, weighted by similarity.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018: the dot product without softmax,
    divided by S. It starts as the identity, because its last layer starts at zero.
    """

    def __init__(self, width: int) -> None:
        """Build the three embeddings, half as wide, and the output layer."""
        super().__init__()
        inner = max(width // 2, 1)
        self.query = nn.Conv1d(width, inner, 1)
        self.key = nn.Conv1d(width, inner, 1)
        self.value = nn.Conv1d(width, inner, 1)
        norm = nn.BatchNorm1d(width)
        nn.init.zeros_(norm.weight)
        self.out = nn.Sequential(nn.Conv1d(inner, width, 1), norm)

    def forward(self, features: Tensor) -> Tensor:
        """(B, W, S) -> (B, W, S)."""
        query = self.query(features) / features.shape[2]  # divided first, for half precision
        similarity = self.key(features).transpose(1, 2) @ query  # (B, S of, S for)
        others = self.value(features) @ similarity  # (B, W / 2, S)
        result: Tensor = features + self.out(others)
        return result


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
