"""Joint detection and classification in which every segment has a class: our own variant.

One network detects: a residual convolution over the segments gives each a logit s_t, and the mean
of the highest logits is the video's, with the negative log-likelihood as loss. Another classifies:
each segment has logits c_t of all classes, and their mean over the video is the video's, as in
Majhi et al. An event gets its class from its own segments. Classification does not disturb
detection, because the two share no weights.

Differences from Majhi et al. (FG 2021): the mean of several highest segments instead of the highest
(as in RTFM, Tian et al., ICCV 2021), likelihood instead of ranking, convolution instead of the
LSTM, no attention, and equal weight for every class of anomaly, however rare.

Legend: B bags, S segments, D stored features of a segment, F features that enter, H hidden width,
K classes (the normal one has index 0).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.model.detector import Detector, Output
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, Settings, TimePoolName


@dataclass(frozen=True)
class JointPlusConfig(FrontConfig):
    """The layers."""

    time_pool: TimePoolName = "mean"
    """mean: average the stored time positions of a segment first, to need fewer weights."""
    standardize: bool = True
    """Standardize every dimension to mean 0 and deviation 1 over the training split first."""
    hidden_size: int = 128
    """Width of the hidden layers for detection."""
    class_size: int = 64
    """Width of the hidden layer for classification."""
    num_layers: int = 1
    """Convolutions over the segments; the dilation doubles from one to the next."""
    kernel_size: int = 3
    """Segments that a convolution sees."""
    num_top: int = 3
    """Segments that represent a bag, those with the highest logits."""
    dropout: float = 0.6
    """Share of units dropped in training before the first layer and the head of detection."""
    class_dropout: float = 0.8
    """The same for classification, which has few videos per class to learn from."""
    naming_share: float = 0.0
    """Share of classification's log-odds of a video being anomalous that is added to the logits of
    its segments, except in training: whether a video is anomalous is then up to both networks."""


@dataclass(frozen=True)
class JointPlusLoss(Settings):
    """The weights of the losses."""

    classification_weight: float = 1.0
    """Weight of the classification loss, relative to 1 for detection."""
    smoothness_weight: float = 0.0
    """Weight of the squared differences of neighbouring scores in anomalous bags."""
    sparsity_weight: float = 0.0
    """Weight of the summed scores of anomalous bags."""


@dataclass(frozen=True, eq=False, kw_only=True)
class JointPlusOutput(Output):
    """Scores and classes, and the other input of the losses."""

    bag_logits: Tensor
    """(B,), unbounded, of a bag being anomalous."""


class JointPlus(Detector):
    """A residual convolution that detects and a perceptron that classifies, at every segment."""

    classifies = True
    config: JointPlusConfig
    loss: JointPlusLoss

    def __init__(self, config: JointPlusConfig, loss: JointPlusLoss, shape: InputShape) -> None:
        """Build the layers with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        width, kernel = config.hidden_size, config.kernel_size
        self.embed = nn.Linear(self.front.size, width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding="same", dilation=2**layer)
            for layer in range(config.num_layers)
        )
        self.detection = nn.Linear(width, 1)
        self.class_embed = nn.Linear(self.front.size, config.class_size)
        self.classification = nn.Linear(config.class_size, shape.num_classes)
        self.dropout = nn.Dropout(config.dropout)
        self.class_dropout = nn.Dropout(config.class_dropout)

    def forward(self, stored: Tensor) -> JointPlusOutput:
        """Scores and classes of segments and bags from stored features (B, S, D)."""
        features = self.front(stored)  # (B, S, F)
        hidden = functional.relu(self.embed(self.dropout(features)))  # (B, S, H)
        for convolution in self.convolutions:
            context = convolution(hidden.transpose(1, 2)).transpose(1, 2)
            hidden = hidden + functional.relu(context)
        logits = self.detection(self.dropout(hidden)).squeeze(-1).float()  # s, (B, S)
        named = functional.relu(self.class_embed(self.class_dropout(features)))
        classes = self.classification(self.class_dropout(named)).float()  # c, (B, S, K)

        num_top = min(self.config.num_top, logits.shape[1])
        bag_logits = logits.topk(num_top, dim=1).values.mean(dim=1)
        class_logits = classes.mean(dim=1)
        if not self.training and self.config.naming_share:
            log_odds = class_logits[:, 1:].logsumexp(dim=1) - class_logits[:, 0]
            logits = logits + self.config.naming_share * log_odds.unsqueeze(-1)
        return JointPlusOutput(
            scores=torch.sigmoid(logits),
            class_logits=class_logits,
            segment_class_logits=class_log_probabilities(logits, classes[..., 1:]),
            bag_logits=bag_logits,
        )

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the negative log-likelihood of "anomalous or not" and of the class."""
        assert isinstance(output, JointPlusOutput)
        assert output.class_logits is not None
        is_anomalous = (class_indices > 0).float()
        detection = functional.binary_cross_entropy_with_logits(output.bag_logits, is_anomalous)
        nll = functional.cross_entropy(output.class_logits, class_indices, reduction="none")
        weights = balanced(class_weights, is_anomalous.mean())
        classification = (weights[class_indices] * nll).mean()
        scores = output.scores * is_anomalous.unsqueeze(-1)
        smoothness = scores.diff(dim=1).square().sum() / is_anomalous.sum()
        sparsity = scores.sum() / is_anomalous.sum()
        total = (
            detection
            + self.loss.classification_weight * classification
            + self.loss.smoothness_weight * smoothness
            + self.loss.sparsity_weight * sparsity
        )
        return {
            "total": total,
            "detection": detection,
            "classification": classification,
            "smoothness": smoothness,
            "sparsity": sparsity,
        }


def balanced(class_weights: Tensor, anomalous_share: Tensor) -> Tensor:
    """Weights (K,) with which normal counts as half of a batch, and anomalous classes equally.

    Args:
        class_weights: (K,) 1 - share of each class in the training set.
        anomalous_share: () share of the bags of a batch that are anomalous, of whatever class.
    """
    shares = 1 - class_weights
    of_anomalies = shares[1:] / shares[1:].sum()
    in_batches = torch.cat([(1 - anomalous_share).reshape(1), anomalous_share * of_anomalies])
    target = torch.full_like(shares, 0.5 / (len(shares) - 1))
    target[0] = 0.5
    return target / in_batches


def class_log_probabilities(logits: Tensor, anomaly_logits: Tensor) -> Tensor:
    """(..., K) log-probabilities of normal and of each class of anomaly.

    Args:
        logits: (...), of being anomalous.
        anomaly_logits: (..., K - 1), of the class if anomalous.
    """
    of_class = functional.logsigmoid(logits).unsqueeze(-1) + anomaly_logits.log_softmax(dim=-1)
    return torch.cat([functional.logsigmoid(-logits).unsqueeze(-1), of_class], dim=-1)


METHOD = Method(JointPlusConfig, JointPlusLoss, JointPlus)
