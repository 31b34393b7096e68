"""UR-DMU: memories of normal and of anomalous segments, with noise in the recall of the former.

Source: Zhou, Yu and Yang, "Dual Memory Units with Uncertainty Regulation for Weakly Supervised
Video Anomaly Detection", AAAI 2023; widths and weights are those of the authors' program,
henrryzh1/UR-DMU.

It departs from the program where that depends on the order of the videos or on equal numbers of
both kinds: the triplet and the magnitude loss use all pairs of a normal and an anomalous video
instead of pairing them in the order of the batch. As in the program, the divergence is summed over
the segments and averaged over the features.

Legend: B bags, S segments, D stored features of a segment, E width of the encoder, M prototypes of
a memory, K segments that represent a bag, S // 16 + 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.baselines.attention import EncoderConfig, GlobalLocalEncoder
from vigil.model.detector import Detector, Output
from vigil.model.methods import Method
from vigil.model.settings import InputShape, Settings


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
    """The weights of the losses, relative to 1 for that of the videos' scores."""

    memory_weight: float = 0.1
    """Weight of the memory loss, that of the segments' matches."""
    triplet_weight: float = 0.1
    """Weight of the triplet loss."""
    triplet_margin: float = 1.0
    """By how much anomalous segments should be farther from normal videos than normal ones."""
    divergence_weight: float = 1e-3
    """Weight of the divergence of normal videos' recall from a standard normal distribution."""
    magnitude_weight: float = 1e-4
    """Weight of the magnitude loss."""
    magnitude_margin: float = 100.0
    """By how much the recall of anomalous videos should be longer than that of normal ones."""


@dataclass(frozen=True, eq=False, kw_only=True)
class UrDmuOutput(Output):
    """UR-DMU's output for a batch of bags; a bag is represented by the mean of K segments."""

    noisy_scores: Tensor
    """(B, S), 0..1, with noise in the recall; normal bags are trained with these."""
    normal_match: Tensor
    """(B, S), 0..1, how well each segment matches the normal memory."""
    anomalous_match: Tensor
    """(B, S), 0..1, how well each segment matches the anomalous memory."""
    normal_features: Tensor
    """(B, E), the mean features of the segments that match the normal memory best."""
    anomalous_features: Tensor
    """(B, E), the mean features of the segments that match the anomalous memory best."""
    normal_recall: Tensor
    """(B, E), the normal memory's recall, with noise, at the segments that match it best."""
    anomalous_recall: Tensor
    """(B, E), the anomalous memory's recall at the segments that match it best."""
    mean: Tensor
    """(B, S, E), the mean of the distribution of the normal memory's recall."""
    log_variance: Tensor
    """(B, S, E), the log variance of this distribution."""


class UrDmu(Detector):
    """An encoder, two memories that augment its segments, and a classifier of both."""

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
        """Scores of stored features (B, S, D), and the inputs of the losses.

        The labels are not known here, so all bags are classified with and without noise; the losses
        choose.
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
        """Scores (B, S) of segments (B, S, E) and the sum of the memories' recalls for them."""
        logits = self.classifier(torch.cat([features, recalled], dim=-1))
        return torch.sigmoid(logits.squeeze(-1).float())

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the cross-entropy of the videos' scores, and the losses of the memories."""
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
        magnitude = recall_magnitude_loss(
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
        """Initialize the prototypes."""
        super().__init__()
        self.num_best = num_prototypes // 16 + 1
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, size))
        nn.init.uniform_(self.prototypes, -(size**-0.5), size**-0.5)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Segments (B, S, E) -> their match (B, S), 0..1 float32, and recall (B, S, E).

        The match is the mean over the prototypes that match best.
        """
        size = features.shape[-1]
        matches = torch.sigmoid((features @ self.prototypes.mT).float() / size**0.5)  # (B, S, M)
        best = matches.topk(self.num_best, dim=-1).values.mean(dim=-1)
        return best, matches @ self.prototypes


def num_standing(num_segments: int) -> int:
    """The number of segments that represent a bag, K."""
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

    In an anomalous bag some segments should match the anomalous memory, and some should not match
    the normal one; in a normal bag none should match the former, and all the latter.
    """
    some_match, some_miss = mean_of_highest(anomalous_match), mean_of_highest(1 - normal_match)
    of_anomalous = _nll(some_match) + _nll(some_miss)
    of_normal = (_nll(1 - anomalous_match) + _nll(normal_match)).mean(dim=1)
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

    It is summed over the segments of (B, S, E) and averaged over features and bags.
    """
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return _mean_over(divergence.sum(dim=1).mean(dim=1), normal)


def recall_magnitude_loss(
    normal_recall: Tensor, anomalous_recall: Tensor, anomalous: Tensor, margin: float
) -> Tensor:
    """The hinge loss by which anomalous recalls (B, E) should be longer than normal ones.

    The mean over pairs of a normal and an anomalous bag.
    """
    of_normal = torch.linalg.vector_norm(normal_recall, dim=-1)
    of_anomalous = torch.linalg.vector_norm(anomalous_recall, dim=-1)
    hinges = functional.relu(margin + of_normal.unsqueeze(1) - of_anomalous)
    return _mean_over_pairs(hinges, anomalous)


def _nll(probabilities: Tensor) -> Tensor:
    """The negative log-likelihood of each."""
    certainty = torch.ones_like(probabilities)
    return functional.binary_cross_entropy(probabilities, certainty, reduction="none")


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """Euclidean distances (B, B), by differences because products are inaccurate for short ones."""
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_over(values: Tensor, bags: Tensor) -> Tensor:
    """The mean of (B,) over the bags of a mask (B,)."""
    return (values * bags).sum() / bags.sum()


def _mean_over_pairs(values: Tensor, anomalous: Tensor) -> Tensor:
    """The mean of (B, B) over pairs of a normal bag, by row, and an anomalous one, by column."""
    return _mean_over(values, ~anomalous.unsqueeze(1) & anomalous)


METHOD = Method(UrDmuConfig, UrDmuLoss, UrDmu)
