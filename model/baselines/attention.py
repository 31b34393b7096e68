"""Global and local self-attention over the segments of a bag: the encoder of two methods.

Source: Zhou, Yu and Yang, "Dual Memory Units with Uncertainty Regulation for Weakly Supervised
Video Anomaly Detection", AAAI 2023 (its GL-MHSA), and the authors' program henrryzh1/UR-DMU,
`translayer.py`; the program of BN-WVAD uses it, too.

Legend: B bags, S segments, F features of a segment, E width of the embedding, H heads, C width of
a head.
"""

from dataclasses import dataclass
from math import e

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.settings import FrontConfig


@dataclass(frozen=True)
class EncoderConfig(FrontConfig):
    """The layers of the encoder, with the values of both programs."""

    embedding_size: int = 512
    """Width of a segment from the first convolution on."""
    num_layers: int = 2
    """Blocks of attention and perceptron."""
    num_heads: int = 4
    """Heads of each attention."""
    head_size: int = 128
    """Width of a head."""
    feedforward_size: int = 512
    """Width of the hidden layer of a block's perceptron."""
    dropout: float = 0.5
    """Share of units that the blocks drop in training."""


class GlobalLocalEncoder(nn.Module):
    """Relates segments to their neighbours by a convolution, and to all others by attention."""

    def __init__(self, num_features: int, config: EncoderConfig) -> None:
        """Build the convolution and the blocks, with PyTorch's initial weights as both programs."""
        super().__init__()
        self.embedding = nn.Conv1d(num_features, config.embedding_size, kernel_size=3, padding=1)
        self.blocks = nn.Sequential(*(_Block(config) for _ in range(config.num_layers)))

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, F) -> (B, S, E)."""
        embedded = functional.relu(self.embedding(features.mT)).mT
        encoded: Tensor = self.blocks(embedded)
        return encoded


class _Block(nn.Module):
    """A transformer layer with normalization first."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, hidden_size = config.embedding_size, config.feedforward_size
        self.attention = nn.Sequential(
            nn.LayerNorm(size),
            GlobalLocalAttention(size, config.num_heads, config.head_size),
            nn.Dropout(config.dropout),
        )
        self.perceptron = nn.Sequential(
            nn.LayerNorm(size),
            nn.Linear(size, hidden_size),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(hidden_size, size),
            nn.Dropout(config.dropout),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, E) -> (B, S, E)."""
        features = features + self.attention(features)
        transformed: Tensor = features + self.perceptron(features)
        return transformed


class GlobalLocalAttention(nn.Module):
    """Attention to all segments by similarity, beside fixed attention to nearby ones."""

    def __init__(self, size: int, num_heads: int, head_size: int) -> None:
        """Build the projections."""
        super().__init__()
        self.head_shape = num_heads, head_size
        inner_size = num_heads * head_size
        self.project = nn.Linear(size, 4 * inner_size, bias=False)
        self.out = nn.Linear(2 * inner_size, size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, E) -> (B, S, E)."""
        num_bags, num_segments, _ = features.shape
        projected = self.project(features).view(num_bags, num_segments, 4, *self.head_shape)
        queries, keys, values, local_values = projected.permute(2, 0, 3, 1, 4)  # (B, H, S, C) each
        attention_logits = queries @ keys.mT / self.head_shape[1] ** 0.5  # (B, H, S, S)
        from_all = attention_logits.softmax(dim=-1) @ values
        from_near = nearness(num_segments, features.device) @ local_values
        both = torch.cat([from_all, from_near], dim=-1)  # (B, H, S, 2C)
        attended: Tensor = self.out(both.transpose(1, 2).flatten(2))
        return attended


def nearness(num_segments: int, device: torch.device) -> Tensor:
    """Weights (S, S), exp(-|i - j| / e) with each column summing to 1, as in the program."""
    places = torch.arange(num_segments, device=device)
    weights = torch.exp(-(places - places.unsqueeze(1)).abs() / e)
    return weights / weights.sum(dim=0)
