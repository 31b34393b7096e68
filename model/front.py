"""The front end of every network: the mean over time positions, and standardization.

Legend: N training bags, B bags, S segments, D stored features of a segment (time positions x
channels, time-major), F features of a segment that enter the network.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from vigil.model.settings import FrontConfig, InputShape
from vigil.model.stages import Standardize, TimePool

# Bags that are measured at a time; this limits memory and does not affect the result.
FIT_BAGS = 64


class StoredBags(Protocol):
    """Training bags (N, S, D) of any float type, some of which are read at a time.

    A tensor is one; features that several processes share are another.
    """

    @property
    def device(self) -> torch.device:
        """Where bags are read to."""

    def __len__(self) -> int:
        """The number of bags, N."""

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """The bags with these numbers, int64 on the device."""


def chosen_bags(stored: StoredBags, chosen: Tensor) -> Iterator[Tensor]:
    """Yield the chosen (N,) bags of all (N, S, D) in batches, because all may not fit in memory."""
    for rows in torch.split(chosen.nonzero().squeeze(1).to(stored.device), FIT_BAGS):
        yield stored[rows]


class FrontEnd(nn.Module):
    """Turns stored features into the input of a network, in float32."""

    def __init__(self, config: FrontConfig, shape: InputShape) -> None:
        """Build the parts that the settings enable."""
        super().__init__()
        pooled = config.time_pool == "mean"
        self.size = shape.channels if pooled else shape.feature_size
        """Output features of a segment, F."""
        self.time_pool = TimePool(shape.time_positions) if pooled else nn.Identity()
        self.scene_share = config.scene_share
        self.standardize = Standardize(self.size) if config.standardize else nn.Identity()

    def fit(
        self,
        stored: StoredBags,
        chosen: Tensor | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Measure mean and deviation of training bags (N, S, D), if the settings require it.

        Args:
            stored: the bags.
            chosen: (N,) bool, the bags to measure; None: all.
            change: applied to the bags first, as before `forward`.
        """
        if isinstance(self.standardize, Standardize):
            if chosen is None:
                chosen = torch.ones(len(stored), dtype=torch.bool)
            batches = chosen_bags(stored, chosen)
            changed = batches if change is None else map(change, batches)
            self.standardize.fit(map(self._without_scene, changed))

    def forward(self, stored: Tensor) -> Tensor:
        """(B, S, D) of any float type -> (B, S, F) float32."""
        features: Tensor = self.standardize(self._without_scene(stored))
        return features

    def _without_scene(self, stored: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, F), minus a share of the mean over the segments of a bag."""
        features: Tensor = self.time_pool(stored.float())
        if self.scene_share == 0:
            return features
        return features - self.scene_share * features.mean(dim=1, keepdim=True)
