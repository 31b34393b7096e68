"""The stages of the joint model, in the order of execution.

Legend: B bags, S segments, T time positions, C channels, D features of a segment, H width of the
LSTM, R width of the detector's latent, K classes (the normal one has index 0).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.config import DetectionActivation

# A dimension that hardly varies in the training videos may still vary elsewhere, so its deviation
# is at least this share of the root mean square deviation of all dimensions.
DEVIATION_FLOOR = 0.01

# Inputs of an LSTM for each of its units beyond which oneDNN's costs more than PyTorch's own.
WIDE = 4


class TimePool(nn.Module):
    """The mean of a segment's features over its time positions."""

    def __init__(self, time_positions: int) -> None:
        """Expect time-major features with ``time_positions`` per segment."""
        super().__init__()
        self.time_positions = time_positions

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, T * C) -> (B, S, C)."""
        num_bags, num_segments, size = features.shape
        positions = self.time_positions, size // self.time_positions
        return features.reshape(num_bags, num_segments, *positions).mean(dim=2)


class Standardize(nn.Module):
    """Standardizes features to mean 0 and deviation 1 per dimension, as measured by `fit`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        """Leave features as they are until `fit` is called or a checkpoint is loaded."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Measure the mean and deviation of each dimension over all segments of (B, S, D)."""
        count, total, total_of_squares = 0, torch.zeros(()), torch.zeros(())
        for features in batches:
            segments = features.flatten(0, 1).double()
            count += len(segments)
            total = total + segments.sum(dim=0)
            total_of_squares = total_of_squares + segments.square().sum(dim=0)
        mean = total / count
        variance = (total_of_squares / count - mean.square()).clamp(min=0)
        floor = DEVIATION_FLOOR * variance.mean().sqrt()
        deviation = torch.maximum(variance.sqrt(), floor)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        return (features - self.mean) / self.deviation


class TemporalEncoder(nn.Module):
    """An LSTM over the segments beside its own input: the skip keeps what the gates lose."""

    def __init__(self, num_features: int, lstm_size: int) -> None:
        """Build the LSTM."""
        super().__init__()
        self.lstm = nn.LSTM(num_features, lstm_size, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, H + D)."""
        only_weights_learn = torch.is_grad_enabled() and not features.requires_grad
        is_wide = self.lstm.input_size > WIDE * self.lstm.hidden_size
        # In 16 bits oneDNN has an LSTM for some CPUs only; PyTorch's own runs on all of them.
        in_16_bits = torch.is_autocast_enabled("cpu")
        with _without_onednn() if (only_weights_learn and is_wide) or in_16_bits else nullcontext():
            hidden, _ = self.lstm(features)
        return torch.cat([hidden, features], dim=-1)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Use PyTorch's own LSTM on a CPU: oneDNN's always computes the gradient of its input.

    With the paper's 7168 inputs to 1024 units, that is over a quarter of the products of a training
    step.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


class FirstAttention(nn.Module):
    """The weight of each segment for both tasks, relative to the others of its bag."""

    def __init__(self, num_segments: int, num_features: int, latent_size: int) -> None:
        """Build the layer for the latents, and the one from their mean to all weights."""
        super().__init__()
        self.latent = nn.Linear(num_features, latent_size)
        self.out = nn.Linear(latent_size, num_segments)

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, D) -> alpha (B, S), 0..1, summing to 1 over the segments."""
        normalized = functional.normalize(features, dim=-1)
        latent = functional.relu(self.latent(normalized)).mean(dim=1)  # (B, latent)
        return functional.softmax(self.out(latent).float(), dim=-1)


class DetectionHead(nn.Module):
    """The anomaly score of each segment, independent of the others."""

    def __init__(
        self, num_features: int, hidden_size: int, activation: DetectionActivation, dropout: float
    ) -> None:
        """Build the perceptron; the paper counts its input as the first of three layers."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(num_features, hidden_size)
        self.activation = nn.ReLU() if activation == "relu" else nn.Identity()
        self.out = nn.Linear(hidden_size, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> score logits (B, S) and the latent F_r (B, S, R)."""
        latent = self.activation(self.hidden(self.dropout(features)))
        logits = self.out(self.dropout(latent)).squeeze(-1)
        return logits.float(), latent


class SecondAttention(nn.Module):
    """The weight of each segment for classification, from the detector's latent."""

    def __init__(self, num_segments: int, num_features: int, latent_size: int) -> None:
        """Build the layer for the latents, and the one from all of them to all weights."""
        super().__init__()
        self.latent = nn.Linear(num_features, latent_size)
        self.out = nn.Linear(num_segments * latent_size, num_segments)

    def forward(self, detection_latent: Tensor) -> Tensor:
        """F_r (B, S, R) -> beta (B, S), each 0..1."""
        latent = functional.relu(self.latent(detection_latent))  # (B, S, latent)
        return torch.sigmoid(self.out(latent.flatten(1)).float())


class ClassificationHead(nn.Module):
    """The class of a bag from the mean of its segments."""

    def __init__(
        self, num_features: int, hidden_size: int, num_classes: int, dropout: float
    ) -> None:
        """Build the perceptron."""
        super().__init__()
        self.hidden = nn.Linear(num_features, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, D) -> class logits (B, K)."""
        hidden = functional.relu(self.hidden(features.mean(dim=1)))
        logits: Tensor = self.out(self.dropout(hidden))
        return logits.float()
