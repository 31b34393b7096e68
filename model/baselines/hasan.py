"""An auto-encoder of normal segments: what it cannot reproduce is anomalous.

Source: Hasan et al., "Learning Temporal Regularity in Video Sequences", CVPR 2016. Of its two
models this is the first, fully connected layers over features of motion; there histograms along
trajectories, here whatever the feature files hold. The second, convolutions over stacked
frames, is not built: a method sees features only, never frames. No official program of the first
is public.
Departures: the score is e / (e + v) with the error e of a segment and the variance v of normal
training features. The paper's regularity is 1 - (e - min e) / max e over the frames of a video,
which hides how videos differ. Reconstructions are unbounded, since standardized features are; the
optimizer is Adam, not AdaGrad. It learns without labels but for the choice of normal videos.

Legend: N training bags, B bags, S segments, D stored features of a segment, F features of a segment
that enter.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vigil.model.detector import Detector, InputShape, Output
from vigil.model.front import chosen_bags
from vigil.model.methods import Method
from vigil.model.settings import FrontConfig, Settings
from vigil.model.stages import Standardize


@dataclass(frozen=True)
class HasanConfig(FrontConfig):
    """The layers of the encoder; the decoder has the same in reverse."""

    first_size: int = 2000
    """Width of the layer after the features."""
    second_size: int = 1000
    """Width of the next."""
    third_size: int = 500
    """Width of the layer before the code."""
    code_size: int = 30
    """Width of the code, through which all has to pass."""


@dataclass(frozen=True)
class HasanLoss(Settings):
    """No weights: there is one loss. The paper's penalty on weights is training's weight_decay."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HasanOutput(Output):
    """What the auto-encoder says about a batch of bags."""

    errors: Tensor
    """(B, S), from 0 up: the mean squared difference of features from their reconstruction."""


class Hasan(Detector):
    """Encoder and decoder, with the variance that errors are measured by."""

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
    def fit(self, stored: Tensor, class_indices: Tensor) -> None:
        """Measure the variance of normal features, after their mean and deviation if asked for.

        It is the error of the best reconstruction that does not look at the segment.
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
        """The mean error of the normal segments; anomalous bags have no part in it."""
        assert isinstance(output, HasanOutput)
        normal = (class_indices == 0).float()  # (B,)
        return {"total": (normal * output.errors.mean(dim=1)).sum() / normal.sum()}


METHOD = Method(HasanConfig, HasanLoss, Hasan)
