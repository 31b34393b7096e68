"""BN-WVAD: segments far from the running mean of a batch normalization are anomalous.

Source: Zhou et al., "BatchNorm-based Weakly Supervised Video Anomaly Detection", IEEE TCSVT 2024
(arXiv 2311.15367, 2023); widths and weights are those of the authors' program, cool-xuan/BN-WVAD.
The mean is that of all segments, most of which are normal. A segment's distance from it is both the
criterion for selecting segments for the loss, and one factor of the score.

It departs from the program where that depends on the order of the videos or on equal numbers of
both kinds: the loss uses all pairs of a selected normal and a selected anomalous segment instead of
pairing them in the order of the batch, and each normal video contributes a fraction of its last
rank. The program's scores p are unbounded; ours are p / (p + r), with r the usual distance.
Variances include the epsilon of the normalization.

Legend: B bags, S segments, D stored features of a segment, E width of the encoder, L = 2
normalizations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.baselines.attention import EncoderConfig, GlobalLocalEncoder
from vigil.model.detector import Detector, Output
from vigil.model.methods import Method
from vigil.model.settings import InputShape, Settings, require


@dataclass(frozen=True)
class BnWvadConfig(EncoderConfig):
    """The layers of BN-WVAD."""

    dropout: float = 0.0
    """Share of units that the encoder drops in training."""
    first_norm_size: int = 32
    """Width of the first normalization; a 16th of the encoder's."""
    second_norm_size: int = 16
    """Width of the second normalization; a 32nd of the encoder's."""


@dataclass(frozen=True)
class BnWvadLoss(Settings):
    """The weights of the losses, and the selection of segments for them."""

    sample_ratio: float = 0.2
    """Share of the segments of every anomalous video that are selected as anomalous."""
    batch_ratio: float = 0.4
    """Share of all segments of a batch's anomalous videos that are also selected as anomalous."""
    margin: float = 1.0
    """By how much anomalous segments should be farther from the mean than normal ones."""
    first_weight: float = 5.0
    """Weight of this separation at the first normalization."""
    second_weight: float = 20.0
    """Weight of this separation at the second normalization."""
    normal_weight: float = 1.0
    """Weight of the norm of a normal video's scores from the classifier."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        for name in ("sample_ratio", "batch_ratio"):
            require(getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")


@dataclass(frozen=True, eq=False, kw_only=True)
class BnWvadOutput(Output):
    """BN-WVAD's output for a batch of bags."""

    classified: Tensor
    """(B, S), 0..1, the classifier's own scores."""
    distances: Tensor
    """(B, L, S), from 0 up, of each segment from the running mean, in running deviations."""


class BnWvad(Detector):
    """An encoder, and a classifier whose normalizations measure the distance of a segment."""

    def __init__(self, config: BnWvadConfig, loss: BnWvadLoss, shape: InputShape) -> None:
        """Build the layers, with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        sizes = config.embedding_size, config.first_norm_size, config.second_norm_size
        self.encoder = GlobalLocalEncoder(self.front.size, config)
        self.hidden = nn.ModuleList([nn.Linear(*sizes[:2]), nn.Linear(*sizes[1:])])
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in sizes[1:])
        self.out = nn.Linear(sizes[-1], 1)
        # A normalized feature of C dimensions has a root mean square norm of sqrt(C).
        self.usual_distance = sum(size**0.5 for size in sizes[1:])

    def forward(self, stored: Tensor) -> BnWvadOutput:
        """Scores and distances of stored features (B, S, D)."""
        features = self.encoder(self.front(stored)).flatten(0, 1)  # (B * S, E)
        distances = []
        for hidden, norm in zip(self.hidden, self.norms, strict=True):
            latent = hidden(features)
            features = functional.relu(norm(latent))
            distances.append(distance_from_mean(latent.float(), norm))  # after the mean's update
        classified = torch.sigmoid(self.out(features).float()).view(stored.shape[:2])
        stacked = torch.stack(distances).view(len(distances), *stored.shape[:2])
        product = stacked.sum(dim=0) * classified
        scores = product / (product + self.usual_distance)
        return BnWvadOutput(scores=scores, classified=classified, distances=stacked.transpose(0, 1))

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the weighted sum of the separation at both normalizations and the normal loss."""
        assert isinstance(output, BnWvadOutput)
        loss: BnWvadLoss = self.loss
        anomalous = class_indices > 0
        normal = normal_loss(output.classified, ~anomalous)
        first, second = (
            separation_loss(distances, anomalous, loss) for distances in output.distances.unbind(1)
        )
        total = (
            loss.normal_weight * normal + loss.first_weight * first + loss.second_weight * second
        )
        return {"total": total, "normal": normal, "separation_1": first, "separation_2": second}


def distance_from_mean(latent: Tensor, norm: nn.Module) -> Tensor:
    """Mahalanobis distances (M,) of (M, C) from the running mean, for independent dimensions."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = (norm.running_var + norm.eps).sqrt()
    distances: Tensor = torch.linalg.vector_norm((latent - norm.running_mean) / deviation, dim=-1)
    return distances


def normal_loss(classified: Tensor, normal: Tensor) -> Tensor:
    """The mean over normal bags of the Euclidean norm of their scores (B, S)."""
    norms: Tensor = torch.linalg.vector_norm(classified, dim=1)
    return (norms * normal).sum() / normal.sum()


def separation_loss(distances: Tensor, anomalous: Tensor, loss: BnWvadLoss) -> Tensor:
    """The hinge loss by which selected anomalous segments should be farther than normal ones.

    The mean over all pairs of the hinge of margin + normal distance - anomalous distance.

    Args:
        distances: (B, S) from the mean.
        anomalous: (B,) bool, whether each bag is anomalous.
        loss: the margin, and the numbers of segments to select.
    """
    anomalous_weights, normal_weights = (
        weights.flatten() for weights in selection_weights(distances.detach(), anomalous, loss)
    )
    flat = distances.flatten()
    hinges = functional.relu(loss.margin + flat.unsqueeze(1) - flat)  # (normal, anomalous)
    num_pairs = anomalous_weights.sum() * normal_weights.sum()
    return normal_weights @ hinges @ anomalous_weights / num_pairs


def selection_weights(
    distances: Tensor, anomalous: Tensor, loss: BnWvadLoss
) -> tuple[Tensor, Tensor]:
    """Weights (B, S) of segments selected as anomalous, 0 or 1, and as normal, 0..1.

    Anomalous: the farthest segments of every anomalous video, at least one, and the farthest of all
    anomalous videos. Normal: the same number, as the farthest of every normal video; a remainder
    is divided equally.
    """
    num_segments = distances.shape[1]
    in_video = _ranks(distances)
    in_batch = _ranks(distances.masked_fill(~anomalous.unsqueeze(1), -torch.inf).flatten())
    num_in_video = max(1, int(num_segments * loss.sample_ratio))
    num_in_batch = ((anomalous.sum() * num_segments).double() * loss.batch_ratio).floor()
    farthest = (in_video < num_in_video) | (in_batch.view_as(in_video) < num_in_batch)
    of_anomalous = (farthest & anomalous.unsqueeze(1)).to(distances.dtype)
    num_in_normal = of_anomalous.sum() / (~anomalous).sum()
    of_normal = (num_in_normal - in_video).clamp(0, 1) * ~anomalous.unsqueeze(1)
    return of_anomalous, of_normal


def _ranks(values: Tensor) -> Tensor:
    """The rank of each value along the last dimension, the highest at 0."""
    return values.argsort(dim=-1, descending=True).argsort(dim=-1)


METHOD = Method(BnWvadConfig, BnWvadLoss, BnWvad)
