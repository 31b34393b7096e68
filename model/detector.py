"""The interface of every method to training, scoring and checkpoints: from bags to scores.

Legend: N training bags, B bags of a batch, S segments, D stored features of a segment (time
positions x channels, time-major), K classes (the normal one has index 0).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vigil.model.front import FrontEnd, StoredBags
from vigil.model.settings import InputShape


@dataclass(frozen=True, eq=False, kw_only=True)
class Output:
    """A model's output for a batch of bags; all float32, even under autocast.

    Methods extend it with whatever else their losses need. The first dimension of every tensor is
    that of the bags, because several processes may each compute some of a batch.
    """

    scores: Tensor
    """(B, S), 0..1, 1 = anomalous."""
    class_logits: Tensor | None = None
    """(B, K), unbounded; None from methods that only detect anomalies."""
    segment_class_logits: Tensor | None = None
    """(B, S, K), of each segment; None from methods that only classify whole videos."""
    alpha: Tensor | None = None
    """(B, S), attention that guides detection, summing to 1 over a bag; None if not used."""
    beta: Tensor | None = None
    """(B, S), attention that guides classification, each 0..1; None if not used."""


class DensityPair(NamedTuple):
    """The fitted densities of one quantity, to be plotted."""

    title: str
    at: npt.NDArray[np.float64]
    """(G,) increasing values of the quantity."""
    normal: npt.NDArray[np.float64]
    """(G,) its density in normal bags."""
    anomalous: npt.NDArray[np.float64]
    """(G,) its density in anomalous bags."""


class FitReport(NamedTuple):
    """The findings of `Detector.fit`, for the user."""

    findings: dict[str, Any]
    """For a JSON file."""
    densities: Sequence[DensityPair]


class Detector(nn.Module, ABC):
    """A method: a network with its losses. Everything it learns is in its parameters and buffers.

    Stored features pass through ``self.front`` before any layer, and the layers after it are built
    for ``self.front.size`` features. A method without parameters learns only in `fit` and is not
    trained in epochs.
    """

    classifies = False
    """Whether it classifies, or only detects anomalies."""
    has_epochs = True
    """Whether it is trained by epochs; if not, it has no parameters and learns only in `fit`."""

    def __init__(self, config: Any, loss: Any, shape: InputShape) -> None:
        """Store the settings and build the front end.

        Args:
            config: settings of the layers, a subclass of `FrontConfig` specific to the method.
            loss: settings of the losses, specific to the method.
            shape: shape of the stored features and number of classes.
        """
        super().__init__()
        self.config = config
        self.loss = loss
        self.shape = shape
        self.front = FrontEnd(config, shape)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(chain(self.parameters(), self.buffers())).device

    def fit(self, stored: StoredBags, class_indices: Tensor) -> None:
        """Learn everything that does not come from gradients; called before the first epoch.

        The default measures the mean and deviation of the training bags if the settings require
        them. Random numbers come from torch's generator.

        Args:
            stored: (N, S, D) all training bags, on any device.
            class_indices: (N,) int64 true classes.
        """
        self.front.fit(stored)

    def describe_fit(self) -> FitReport | None:
        """Return the findings of `fit`, directly after it; None if there are none."""
        return None

    def begin_epoch(self, epoch: int, stored: StoredBags, class_indices: Tensor) -> None:
        """Prepare for an epoch, counted from 1, with the arguments of `fit`; by default nothing."""

    @abstractmethod
    def forward(self, stored: Tensor) -> Output:
        """Return the output for stored features (B, S, D) of any float type."""

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss that training minimizes as ``total``, first, and its terms by name.

        A method without parameters returns nothing, because nothing is minimized.

        Args:
            output: output of `forward` for a batch with both kinds of bags, anomalous first.
            class_indices: (B,) int64 true classes.
            class_weights: (K,) 1 - share of each class in the training set.
        """
        return {}
