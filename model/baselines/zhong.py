"""Graph convolutions that clean the noisy segment labels a classifier is trained with.

Source: Zhong et al., "Graph Convolutional Label Noise Cleaner: Train a Plug-and-play Action
Classifier for Anomaly Detection", CVPR 2019; program github.com/jx-zhong-for-academic-purpose/
GCN-Anomaly-Detection, folder pygcn. For the segments of an anomalous video, the video's label is
noisy. A classifier and a cleaner of its predictions alternate. The classifier first learns the
noisy labels. Then, in each round, the cleaner learns the predictions over one graph of similar
features and one of near times: it should match the steady ones (direct supervision) and change
little on all (indirect supervision). The classifier then learns the cleaner's output. Scores come
from the classifier alone.
Departures: the classifier is a perceptron over features, not an action network over frames. Steady
segments are those whose prediction varies least over several passes with dropout; the program uses
ten views instead. All segments of a video are in its graph; the program's videos are longer. Normal
videos have the label 0 throughout. The cleaner's optimizer is Adam with a single learning rate.

Legend: N training bags, B bags, S segments, D stored features of a segment, F features of a segment
that enter, H features of a segment on the graphs.
"""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.detector import Detector, Output
from vigil.model.front import StoredBags
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, Settings, require


@dataclass(frozen=True)
class ZhongConfig(FrontConfig):
    """The classifier, the cleaner, and how they alternate."""

    classifier_size: int = 512
    """Width of the classifier's hidden layer."""
    cleaner_size: int = 512
    """Width of the cleaner's first layer."""
    node_size: int = 128
    """Width of the cleaner's second layer, whose features are compared."""
    graph_size: int = 32
    """Width between the two convolutions over each graph."""
    dropout: float = 0.6
    """Share of units that classifier and cleaner drop in training."""
    round_epochs: int = 5
    """Epochs of the classifier between one cleaning and the next."""
    cleaner_steps: int = 250
    """Steps of the cleaner at each cleaning, rounded up to whole epochs."""
    cleaner_batch: int = 32
    """Videos per batch of the cleaner."""
    cleaner_learning_rate: float = 1e-3
    """Learning rate of Adam for the cleaner."""
    cleaner_weight_decay: float = 5e-4
    """L2 penalty of the cleaner's weights."""
    num_passes: int = 10
    """Passes with dropout that distinguish steady predictions from others."""
    steady_share: float = 0.3
    """Share of the segments of a video that count as steady."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        share = self.steady_share
        require(share < 1, "steady_share", share, "at least 0 and below 1")
        require(self.num_passes >= 2, "num_passes", self.num_passes, "at least 2")


@dataclass(frozen=True)
class ZhongLoss(Settings):
    """The losses of the cleaner; the classifier has only one."""

    indirect_weight: float = 1.0
    """Weight of the indirect supervision, relative to 1 for the direct one."""
    ensemble_momentum: float = 0.5
    """Share of the running mean of the cleaner's outputs that is kept at each of its epochs."""

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        momentum = self.ensemble_momentum
        require(momentum <= 1, "ensemble_momentum", momentum, "from 0 to 1")


@dataclass(frozen=True, eq=False, kw_only=True)
class ZhongOutput(Output):
    """The classifier's output for a batch of bags, and its targets."""

    score_logits: Tensor
    """(B, S), unbounded; the scores before the sigmoid."""
    soft_labels: Tensor
    """(B, S), 0..1, the classifier's targets for the bags if they are anomalous."""


def similarity_graph(nodes: Tensor) -> Tensor:
    """Normalized edges (B, S, S), higher for segments with more similar features (B, S, H)."""
    products = nodes @ nodes.transpose(1, 2)
    return normalize_graph(torch.exp(products - products.amax(dim=2, keepdim=True)))


def time_graph(num_segments: int, device: torch.device) -> Tensor:
    """Normalized edges (S, S), higher for segments that are closer in time."""
    times = torch.arange(num_segments, device=device, dtype=torch.float32)
    return normalize_graph(torch.exp(-(times - times[:, None]).abs()))


def normalize_graph(weights: Tensor) -> Tensor:
    """Divide edges (..., S, S) by the square roots of the summed edges of both their ends."""
    roots = weights.sum(dim=-1).sqrt()
    return weights / roots.unsqueeze(-1) / roots.unsqueeze(-2)


def rescale(logits: Tensor) -> Tensor:
    """Scale each bag's logits (B, S) to 0..1, the lowest at 0 and the highest at 1."""
    least, greatest = logits.aminmax(dim=1, keepdim=True)
    return (logits - least) / (greatest - least).clamp(min=torch.finfo(logits.dtype).tiny)


class Cleaner(nn.Module):
    """Graph convolutions over the segments of a video.

    Its weights are buffers, because it is trained between the epochs by an optimizer of its own.
    """

    def __init__(self, num_features: int, config: ZhongConfig) -> None:
        """Build the layers, with fresh weights from torch's generator."""
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(num_features, config.cleaner_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.cleaner_size, config.node_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )
        self.similar_hidden = nn.Linear(config.node_size, config.graph_size, bias=False)
        self.similar_out = nn.Linear(config.graph_size, 1, bias=False)
        self.near_hidden = nn.Linear(config.node_size, config.graph_size, bias=False)
        self.near_out = nn.Linear(config.graph_size, 1, bias=False)
        for part in self.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                delattr(part, name)
                part.register_buffer(name, parameter.detach())

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, F) -> logits (B, S) of the segments being anomalous."""
        nodes = self.encoder(features)  # (B, S, H)
        similar, near = similarity_graph(nodes), time_graph(nodes.shape[1], nodes.device)
        by_features = similar @ self.similar_out(
            functional.relu(similar @ self.similar_hidden(nodes))
        )
        by_time = near @ self.near_out(functional.relu(near @ self.near_hidden(nodes)))
        logits: Tensor = (by_features + by_time).squeeze(-1) / 2
        return logits


class Zhong(Detector):
    """The classifier, and the cleaner that provides its targets."""

    def __init__(self, config: ZhongConfig, loss: ZhongLoss, shape: InputShape) -> None:
        """Build both, with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        self.classifier = nn.Sequential(
            nn.Linear(self.front.size, config.classifier_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.classifier_size, 1),
            nn.Flatten(start_dim=-2),
        )
        self.cleaner = Cleaner(self.front.size, config)
        self.has_cleaned = False

    def train(self, mode: bool = True) -> "Zhong":
        """Set the classifier's mode; the cleaner stays in evaluation mode."""
        super().train(mode)
        self.cleaner.eval()
        return self

    def begin_epoch(self, epoch: int, stored: StoredBags, class_indices: Tensor) -> None:
        """Train the cleaner when a round starts, except the first, which uses noisy labels."""
        self.has_cleaned = epoch > self.config.round_epochs
        if self.has_cleaned and (epoch - 1) % self.config.round_epochs == 0:
            self._train_cleaner(stored, (class_indices > 0).float())

    def forward(self, stored: Tensor) -> ZhongOutput:
        """Scores of (B, S, D) and, in training, their targets."""
        features = self.front(stored)  # (B, S, F)
        logits = self.classifier(features).float()  # (B, S)
        soft_labels = torch.ones_like(logits)
        if self.training and self.has_cleaned:
            with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
                soft_labels = rescale(self.cleaner(features))
        return ZhongOutput(
            scores=torch.sigmoid(logits), score_logits=logits, soft_labels=soft_labels
        )

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the cross-entropy of the classifier's outputs with the labels of the segments."""
        assert isinstance(output, ZhongOutput)
        labels = output.soft_labels * (class_indices > 0).float().unsqueeze(1)
        return {"total": functional.binary_cross_entropy_with_logits(output.score_logits, labels)}

    def _train_cleaner(self, stored: StoredBags, anomalous: Tensor) -> None:
        """Train the cleaner on predictions for bags (N, S, D); (N,) is 1 for anomalous ones."""
        config, loss = self.config, self.loss

        def load(rows: Tensor) -> Tensor:
            features: Tensor = self.front(stored[rows.to(stored.device)].to(self.device))
            return features

        batches = torch.split(torch.arange(len(stored)), config.cleaner_batch)
        predicted = [self._predict(load(rows)) for rows in batches]
        predictions, steady = (torch.cat(parts) for parts in zip(*predicted, strict=True))
        means = predictions.clone()  # (N, S)
        weights = [weight.requires_grad_() for weight in self.cleaner.buffers()]
        optimizer = torch.optim.Adam(
            weights, config.cleaner_learning_rate, weight_decay=config.cleaner_weight_decay
        )
        self.cleaner.train()
        for _ in range(ceil(config.cleaner_steps / len(batches))):
            for rows in torch.split(torch.randperm(len(stored)), config.cleaner_batch):
                features, rows = load(rows), rows.to(self.device)
                logits = self.cleaner(features)
                direct, indirect = cleaning_losses(
                    logits, predictions[rows], steady[rows], means[rows], anomalous[rows]
                )
                optimizer.zero_grad()
                (direct + loss.indirect_weight * indirect).backward()
                optimizer.step()
                means[rows] = means[rows].lerp(
                    torch.sigmoid(logits.detach()), 1 - loss.ensemble_momentum
                )
        self.cleaner.eval()
        for weight in weights:
            weight.requires_grad_(False).grad = None

    @torch.no_grad()
    def _predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier's mean scores (B, S) of (B, S, F), and 1 if steady, else 0 (B, S)."""
        self.classifier.train()
        passes = [self.classifier(features) for _ in range(self.config.num_passes)]
        variances, logits = torch.var_mean(torch.stack(passes), dim=0)  # each (B, S)
        num_steady = int(self.config.steady_share * features.shape[1]) + 1
        places = variances.topk(num_steady, dim=1, largest=False).indices
        return torch.sigmoid(logits), torch.zeros_like(logits).scatter(1, places, 1)


def cleaning_losses(
    logits: Tensor, predictions: Tensor, steady: Tensor, means: Tensor, anomalous: Tensor
) -> tuple[Tensor, Tensor]:
    """Direct and indirect supervision of the cleaner, each the mean over bags.

    Args:
        logits: (B, S) of the cleaner.
        predictions: (B, S), 0..1, of the classifier.
        steady: (B, S), 1 if an anomalous bag's prediction should be matched, else 0.
        means: (B, S), 0..1, the running mean of the cleaner's earlier outputs.
        anomalous: (B,), 1 or 0; the target of all segments of normal bags is 0.
    """
    anomalous = anomalous.unsqueeze(1)
    met = torch.where(anomalous > 0, steady, 1)
    errors = functional.binary_cross_entropy_with_logits(
        logits, anomalous * predictions, reduction="none"
    )
    direct = ((met * errors).sum(dim=1) / met.sum(dim=1)).mean()
    indirect = (anomalous * (torch.sigmoid(logits) - means).abs()).mean()
    return direct, indirect


METHOD = Method(ZhongConfig, ZhongLoss, Zhong)
