"""An autoencoder of normal segments: what it cannot reconstruct is anomalous.

Source: Hasan et al., "Learning Temporal Regularity in Video Sequences", CVPR 2016. This is the
first of its two models, fully connected layers over features of motion, which are histograms along
trajectories there and whatever the feature files hold here. The second, convolutions over stacked
frames, is not implemented, because a method sees only features, never frames. No official program
of the first is public.
Departures: the score is e / (e + v) with the error e of a segment and the variance v of normal
training features. The paper's regularity is 1 - (e - min e) / max e over the frames of a video,
which hides the differences between videos. Reconstructions are unbounded, because standardized
features are; the optimizer is Adam, not AdaGrad. Labels are only used to select normal videos.

Legend: N training bags, B bags, S segments, D stored features of a segment, F features of a segment
that enter.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vigil.model.detector import Detector, Output
from vigil.model.front import StoredBags, chosen_bags
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, InputShape, Settings
from vigil.model.stages import Standardize


@dataclass(frozen=True)
class HasanConfig(FrontConfig):
    """The layers of the encoder; the decoder mirrors them."""

    first_size: int = 2000
    """Width of the layer after the features."""
    second_size: int = 1000
    """Width of the next layer."""
    third_size: int = 500
    """Width of the layer before the code."""
    code_size: int = 30
    """Width of the code, the bottleneck."""


@dataclass(frozen=True)
class HasanLoss(Settings):
    """No weights for the only loss. The paper's penalty on weights is weight_decay of training."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HasanOutput(Output):
    """The autoencoder's output for a batch of bags."""

    errors: Tensor
    """(B, S), from 0 up: the mean squared difference of features from their reconstruction."""


class Hasan(Detector):
    """Encoder and decoder, with the variance that errors are compared with."""

    variance: Tensor

    def __init__(self, config: HasanConfig, loss: HasanLoss, shape: InputShape) -> None:
        """Build the layers, with fresh weights from torch's generator."""
        super().__init__(config, loss, shape)
        size = self.front.size
        encoder = (config.first_size, config.second_size, config.third_size, config.code_size)
        layers: list[nn.Module] = []
        for inner, outer in pairwise((size, *encoder, *encoder[-2::-1], size)):
            layers += [nn.Linear(inner, outer), nn.Tanh()]
        self.network = nn.Sequential(*layers[:-1])  # the reconstruction itself is linear
        self.register_buffer("variance", torch.ones(()))

    @torch.no_grad()
    def fit(self, stored: StoredBags, class_indices: Tensor) -> None:
        """Measure the variance of normal features, after standardizing them if required.

        It is the error of the best reconstruction that is the same for all segments.
        """
        normal = class_indices == 0
        self.front.fit(stored, normal)
        measured = Standardize(self.front.size).to(self.device)
        measured.fit(self.front(bags.to(self.device)) for bags in chosen_bags(stored, normal))
        self.variance.copy_(measured.deviation.square().mean())

    def forward(self, stored: Tensor) -> HasanOutput:
        """Scores and errors of (B, S, D)."""
        features = self.front(stored)  # (B, S, F)
        errors = (self.network(features).float() - features).square().mean(dim=-1)
        return HasanOutput(scores=errors / (errors + self.variance), errors=errors)

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the mean error of the normal segments; anomalous bags are ignored."""
        assert isinstance(output, HasanOutput)
        normal = (class_indices == 0).float()  # (B,)
        return {"total": (normal * output.errors.mean(dim=1)).sum() / normal.sum()}


METHOD = Method(HasanConfig, HasanLoss, Hasan)
