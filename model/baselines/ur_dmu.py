"""UR-DMU: a memory of normal and one of anomalous segments, and noise in what the normal recalls.

Source: Zhou, Yu and Yang, "Dual Memory Units with Uncertainty Regulation for Weakly Supervised
Video Anomaly Detection", AAAI 2023, and the authors' program henrryzh1/UR-DMU, from which widths
and weights are.

It parts from the program where that depends on the order of the videos or on their numbers being
equal: the triplet and the magnitude loss take all pairs of a normal and an anomalous video instead
of pairing them in the order of the batch. As in the program, the divergence is summed over the
segments and averaged over the features.

Legend: B bags, S segments, D stored features of a segment, E width of the encoder, M prototypes of
a memory, K segments that stand for a bag, S // 16 + 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.baselines.attention import EncoderConfig, GlobalLocalEncoder
from vigil.model.detector import Detector, InputShape, Output
from vigil.model.methods import Method
from vigil.model.settings import Settings


@dataclass(frozen=True)
class UrDmuConfig(EncoderConfig):
    """The layers of UR-DMU."""

    normal_memory_size: int = 60
    """Prototypes of the memory of normal segments."""
    anomalous_memory_size: int = 60
    """Prototypes of the memory of anomalous segments."""
    classifier_size: int = 128
    """Width of the classifier's hidden layer."""


@dataclass(frozen=True)
class UrDmuLoss(Settings):
    """The weights of the losses beside that of the videos' scores."""

    memory_weight: float = 0.1
    """Weight of what the memories are to recognize."""
    triplet_weight: float = 0.1
    """Weight of the triplet loss."""
    triplet_margin: float = 1.0
    """By how much anomalous segments are to be farther from normal videos than normal ones."""
    divergence_weight: float = 1e-3
    """Weight of the divergence of what normal videos recall from a standard normal distribution."""
    magnitude_weight: float = 1e-4
    """Weight of the magnitude loss."""
    magnitude_margin: float = 100.0
    """By how much what anomalous videos recall is to be longer than what normal ones do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class UrDmuOutput(Output):
    """What UR-DMU says about a batch of bags; what stands for a bag is a mean of K segments."""

    noisy_scores: Tensor
    """(B, S), 0..1; what normal bags are trained by."""
    normal_match: Tensor
    """(B, S), 0..1, how much the memory of normal segments recognizes each."""
    anomalous_match: Tensor
    """(B, S), 0..1, likewise that of anomalous ones."""
    normal_features: Tensor
    """(B, E) of the segments that the memory of normal ones recognizes most."""
    anomalous_features: Tensor
    """(B, E) of those that the other does."""
    normal_recall: Tensor
    """(B, E), with noise, what the memory of normal segments recalls at the former."""
    anomalous_recall: Tensor
    """(B, E), what the memory of anomalous ones recalls at the latter."""
    mean: Tensor
    """(B, S, E) of the distribution of what the memory of normal segments recalls."""
    log_variance: Tensor
    """(B, S, E), likewise."""


class UrDmu(Detector):
    """An encoder, two memories that complete its segments, and a classifier of both."""

    def __init__(self, config: UrDmuConfig, loss: UrDmuLoss, shape: InputShape) -> None:
        """Build the layers, with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        size = config.embedding_size
        self.encoder = GlobalLocalEncoder(self.front.size, config)
        self.normal_memory = Memory(config.normal_memory_size, size)
        self.anomalous_memory = Memory(config.anomalous_memory_size, size)
        self.to_mean = nn.Linear(size, size)
        self.to_log_variance = nn.Linear(size, size)
        self.classifier = nn.Sequential(
            nn.Linear(2 * size, config.classifier_size),
            nn.ReLU(),
            nn.Linear(config.classifier_size, 1),
        )

    def forward(self, stored: Tensor) -> UrDmuOutput:
        """Scores of stored features (B, S, D), and what the losses compare.

        Which bags are normal is not known here, so all are classified with noise and without; the
        losses choose.
        """
        features = self.encoder(self.front(stored))  # (B, S, E)
        normal_match, normal_recalled = self.normal_memory(features)
        anomalous_match, anomalous_recalled = self.anomalous_memory(features)
        mean = self.to_mean(normal_recalled).float()
        log_variance = self.to_log_variance(normal_recalled).float()
        noisy = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
        anomalous_recall = self.to_mean(anomalous_recalled).float()
        return UrDmuOutput(
            scores=self._classify(features, mean + anomalous_recall),
            noisy_scores=self._classify(features, noisy + anomalous_recall),
            normal_match=normal_match,
            anomalous_match=anomalous_match,
            normal_features=mean_of_best(features.float(), normal_match),
            anomalous_features=mean_of_best(features.float(), anomalous_match),
            normal_recall=mean_of_best(noisy, normal_match),
            anomalous_recall=mean_of_best(anomalous_recall, anomalous_match),
            mean=mean,
            log_variance=log_variance,
        )

    def _classify(self, features: Tensor, recalled: Tensor) -> Tensor:
        """(B, S) scores of segments (B, S, E) and what the memories add to them."""
        logits = self.classifier(torch.cat([features, recalled], dim=-1))
        return torch.sigmoid(logits.squeeze(-1).float())

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """The cross-entropy of the videos' scores, and what shapes the memories."""
        assert isinstance(output, UrDmuOutput)
        loss: UrDmuLoss = self.loss
        anomalous = class_indices > 0
        scores = torch.where(anomalous.unsqueeze(1), output.scores, output.noisy_scores)
        video = functional.binary_cross_entropy(mean_of_highest(scores), anomalous.float())
        memory = memory_loss(output.normal_match, output.anomalous_match, anomalous)
        triplet = triplet_loss(
            output.normal_features, output.anomalous_features, anomalous, loss.triplet_margin
        )
        divergence = divergence_loss(output.mean, output.log_variance, ~anomalous)
        magnitude = magnitude_loss(
            output.normal_recall, output.anomalous_recall, anomalous, loss.magnitude_margin
        )
        total = (
            video
            + loss.memory_weight * memory
            + loss.triplet_weight * triplet
            + loss.divergence_weight * divergence
            + loss.magnitude_weight * magnitude
        )
        return {
            "total": total,
            "video": video,
            "memory": memory,
            "triplet": triplet,
            "divergence": divergence,
            "magnitude": magnitude,
        }


class Memory(nn.Module):
    """Learned prototypes, and how segments match them."""

    def __init__(self, num_prototypes: int, size: int) -> None:
        """Draw the prototypes."""
        super().__init__()
        self.num_best = num_prototypes // 16 + 1
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, size))
        nn.init.uniform_(self.prototypes, -(size**-0.5), size**-0.5)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Segments (B, S, E) -> their match (B, S), 0..1 float32, and what they recall (B, S, E).

        The match is the mean over the prototypes that match best.
        """
        size = features.shape[-1]
        matches = torch.sigmoid((features @ self.prototypes.mT).float() / size**0.5)  # (B, S, M)
        best = matches.topk(self.num_best, dim=-1).values.mean(dim=-1)
        return best, matches @ self.prototypes


def num_standing(num_segments: int) -> int:
    """How many segments stand for a bag, K."""
    return num_segments // 16 + 1


def mean_of_highest(scores: Tensor) -> Tensor:
    """(B,), the mean of the K highest of (B, S)."""
    return scores.topk(num_standing(scores.shape[1]), dim=1).values.mean(dim=1)


def mean_of_best(features: Tensor, matches: Tensor) -> Tensor:
    """(B, E), the mean of (B, S, E) over the K segments with the highest matches (B, S)."""
    best = matches.topk(num_standing(matches.shape[1]), dim=1).indices  # (B, K)
    picked = features.gather(1, best.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
    return picked.mean(dim=1)


def memory_loss(normal_match: Tensor, anomalous_match: Tensor, anomalous: Tensor) -> Tensor:
    """The sum of four mean cross-entropies of matches (B, S).

    In anomalous bags the memory of anomalous segments is to recognize some, and that of normal
    ones is not to recognize some; in normal bags they are to recognize none and all.
    """
    some_match, some_miss = mean_of_highest(anomalous_match), mean_of_highest(1 - normal_match)
    of_anomalous = _surprise(some_match) + _surprise(some_miss)
    of_normal = (_surprise(1 - anomalous_match) + _surprise(normal_match)).mean(dim=1)
    return _mean_over(of_anomalous, anomalous) + _mean_over(of_normal, ~anomalous)


def triplet_loss(
    normal_features: Tensor, anomalous_features: Tensor, anomalous: Tensor, margin: float
) -> Tensor:
    """The mean triplet loss over pairs of a normal and an anomalous bag, all features (B, E).

    The normal bag's normal features are the anchor, the anomalous bag's normal ones the positive
    and its anomalous ones the negative; each is brought to length 1.
    """
    normal = functional.normalize(normal_features, dim=-1)
    to_positive = _distances(normal, normal)
    to_negative = _distances(normal, functional.normalize(anomalous_features, dim=-1))
    return _mean_over_pairs(functional.relu(margin + to_positive - to_negative), anomalous)


def divergence_loss(mean: Tensor, log_variance: Tensor, normal: Tensor) -> Tensor:
    """The Kullback-Leibler divergence from a standard normal distribution, in normal bags.

    Of (B, S, E), summed over the segments, and the mean over features and bags.
    """
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return _mean_over(divergence.sum(dim=1).mean(dim=1), normal)


def magnitude_loss(
    normal_recall: Tensor, anomalous_recall: Tensor, anomalous: Tensor, margin: float
) -> Tensor:
    """How far recalls (B, E) of anomalous bags are from being longer than those of normal ones.

    The mean hinge over pairs of a normal and an anomalous bag.
    """
    of_normal = torch.linalg.vector_norm(normal_recall, dim=-1)
    of_anomalous = torch.linalg.vector_norm(anomalous_recall, dim=-1)
    hinges = functional.relu(margin + of_normal.unsqueeze(1) - of_anomalous)
    return _mean_over_pairs(hinges, anomalous)


def _surprise(probabilities: Tensor) -> Tensor:
    """The cross-entropy of each with certainty."""
    certainty = torch.ones_like(probabilities)
    return functional.binary_cross_entropy(probabilities, certainty, reduction="none")


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """(B, B) Euclidean distances, by differences: matrix products lose the short ones."""
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_over(values: Tensor, bags: Tensor) -> Tensor:
    """The mean of (B,) over the bags of a mask (B,)."""
    return (values * bags).sum() / bags.sum()


def _mean_over_pairs(values: Tensor, anomalous: Tensor) -> Tensor:
    """The mean of (B, B) over pairs of a normal bag, by row, and an anomalous one, by column."""
    return _mean_over(values, ~anomalous.unsqueeze(1) & anomalous)


METHOD = Method(UrDmuConfig, UrDmuLoss, UrDmu)
