"""What every method is to training, scoring and checkpoints: a network from bags to scores.

Legend: N training bags, B bags of a batch, S segments, D stored features of a segment (time
positions x channels, time-major), K classes (the normal one has index 0).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vigil.model.front import FrontEnd
from vigil.model.settings import require


@dataclass(frozen=True)
class InputShape:
    """What a model is built for: the shape of its features and the number of its classes."""

    num_segments: int
    time_positions: int
    channels: int
    num_classes: int
    """The normal class included."""

    def __post_init__(self) -> None:
        """Refuse empty shapes.

        Raises:
            ValueError: names the number, its value and what is allowed.
        """
        for field in fields(self):
            minimum = 2 if field.name == "num_classes" else 1
            value = getattr(self, field.name)
            require(value >= minimum, field.name, value, f"at least {minimum}")

    @property
    def feature_size(self) -> int:
        """Stored features of a segment, D."""
        return self.time_positions * self.channels


@dataclass(frozen=True, eq=False, kw_only=True)
class Output:
    """What a model says about a batch of bags; all float32, also under autocast.

    Methods derive from it what their losses need beside this.
    """

    scores: Tensor
    """(B, S), 0..1, 1 = anomalous."""
    class_logits: Tensor | None = None
    """(B, K), unbounded; None from methods that only tell anomalous from normal."""
    segment_class_logits: Tensor | None = None
    """(B, S, K), of each segment by itself; None from methods that name whole videos only."""
    alpha: Tensor | None = None
    """(B, S), attention that detection is led by, summing to 1 over a bag; None without one."""
    beta: Tensor | None = None
    """(B, S), attention that classification is led by, each 0..1; None without one."""


class DensityPair(NamedTuple):
    """The fitted densities of one quantity, to be drawn."""

    title: str
    at: npt.NDArray[np.float64]
    """(G,) increasing values of the quantity."""
    normal: npt.NDArray[np.float64]
    """(G,) its density in normal bags."""
    anomalous: npt.NDArray[np.float64]
    """(G,) its density in anomalous bags."""


class FitReport(NamedTuple):
    """What `Detector.fit` found, for people."""

    findings: dict[str, Any]
    """For a JSON file."""
    densities: Sequence[DensityPair]


class Detector(nn.Module, ABC):
    """A method: a network with its losses. Everything it learns is in its parameters and buffers.

    Stored features go through ``self.front`` before any layer, and those after it are built
    for ``self.front.size`` features. One without parameters learns in `fit` alone, and is not
    trained in epochs.
    """

    classifies = False
    """Whether it names classes, or only tells anomalous from normal."""

    def __init__(self, config: Any, loss: Any, shape: InputShape) -> None:
        """Keep what it is built for, and build the front end.

        Args:
            config: of the layers, of the method's own type, a `FrontConfig`.
            loss: of the losses, likewise.
            shape: the stored features and the classes it is for.
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

    def fit(self, stored: Tensor, class_indices: Tensor) -> None:
        """Learn, once before the first epoch, what does not come from gradients.

        Here it is mean and deviation of the training bags, where the settings ask for them. Random
        numbers come from torch's generator.

        Args:
            stored: (N, S, D) all training bags, of any float type, on any device.
            class_indices: (N,) int64 true classes.
        """
        self.front.fit(stored)

    def describe_fit(self) -> FitReport | None:
        """What `fit` found, right after it; None where there is nothing to tell."""
        return None

    def begin_epoch(self, epoch: int, stored: Tensor, class_indices: Tensor) -> None:
        """Prepare for an epoch, counted from 1, given what `fit` is given; here nothing."""

    @abstractmethod
    def forward(self, stored: Tensor) -> Output:
        """What it says about stored features (B, S, D) of any float type."""

    def losses(
        self, output: Output, class_indices: Tensor, class_weights: Tensor
    ) -> dict[str, Tensor]:
        """The number that training minimizes as ``total``, first, and its parts by name.

        A method without parameters has none: nothing is minimized.

        Args:
            output: what `forward` said about a batch with both kinds of bags, anomalous first.
            class_indices: (B,) int64 true classes.
            class_weights: (K,) 1 - share of each class in the training set.
        """
        return {}
