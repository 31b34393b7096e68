"""Kinetics' actions, as I3D's own classifier names them from features at the network's end.

Feature files hold what the classifier reads, and it is one linear layer: no network runs again.
Legend: T time positions, C channels, D = T x C (time-major), A actions.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from vigil.extract.networks.backbones import COMMA, find_backbone
from vigil.extract.networks.download import WeightsError, cached_weights
from vigil.extract.networks.i3d_conversion import LOGITS
from vigil.extract.networks.weights import load_state, read_state, state_digest
from vigil.extract.spec import FeatureSpec

BACKBONE = "i3d"
UNPOOLED, POOLED = "Mixed_5c", "AvgPool"
WEIGHT_SHAPE = (400, 1024, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class ActionLayer:
    """The classifier behind an endpoint."""

    weight: Tensor
    """(A, C) float32."""
    bias: Tensor
    """(A,) float32."""
    endpoint: str
    """Its input; of endpoints that are joined, the last one."""
    channels: int
    """Of a position of a feature, in which the input comes last."""
    step: int = 1
    """Positions of a feature from one of the input to the next."""

    def probabilities(self, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """The probability of each action, (..., A), for features (..., D).

        As in the network, it is the softmax of the logits' mean over time. What the network
        averages over neighbouring positions first counts the outer ones half.
        """
        by_position = features.reshape(*features.shape[:-1], -1, self.channels)
        own = by_position[..., :: self.step, -self.weight.shape[1] :]
        positions = torch.from_numpy(own.astype(np.float32))
        if self.endpoint == UNPOOLED and positions.shape[-2] > 1:
            positions = (positions[..., :-1, :] + positions[..., 1:, :]) / 2
        logits = functional.linear(positions.mean(dim=-2), self.weight, self.bias)
        probabilities: npt.NDArray[np.float64] = logits.double().softmax(dim=-1).numpy()
        return probabilities


@lru_cache(maxsize=4)
def find_action_layer(spec: FeatureSpec, weights_name: str) -> ActionLayer | None:
    """The classifier of the weights that made features, if it can read them and is at hand.

    Args:
        spec: of the features.
        weights_name: path of the weights file. If it holds other weights by now, or none, those in
            the cache are tried; nothing is downloaded.

    Returns:
        None for features of another network, of a layer before its end or of another program; for
        weights that no file at hand holds together with 400 logits. The answer is remembered.
    """
    endpoint = spec.endpoint.split(COMMA)[-1]
    at_end = spec.backbone == BACKBONE and endpoint in (UNPOOLED, POOLED)
    # Mixed_5c averaged over all positions has lost what the pool at the end does with them.
    is_lost = endpoint == UNPOOLED and spec.time_pool == "mean"
    if not at_end or is_lost or spec.origin is not None:
        return None
    for path in (Path(weights_name), *map(cached_weights, find_backbone(BACKBONE).sources)):
        try:
            layer = _read_layer(path, spec)
        except (WeightsError, OSError):  # not there, damaged, or of another network
            continue
        if layer:
            return layer
    return None


def _read_layer(path: Path, spec: FeatureSpec) -> ActionLayer | None:
    """The classifier in a file; None if it has none, or its other layers are not the spec's."""
    state = read_state(path)
    weight, bias = state.get(f"{LOGITS}.weight"), state.get(f"{LOGITS}.bias")
    if weight is None or bias is None:
        return None
    if weight.shape != WEIGHT_SHAPE or bias.shape != WEIGHT_SHAPE[:1]:
        return None
    backbone, endpoint = find_backbone(BACKBONE), spec.endpoint.split(COMMA)[-1]
    network = backbone.build(spec.endpoint)
    load_state(network, state, str(path))
    if state_digest(network) != spec.weights_digest:
        return None
    positions, channels = backbone.shape_of(spec.endpoint)
    step = positions // backbone.layout[endpoint][0]
    return ActionLayer(weight.flatten(1).float(), bias.float(), endpoint, channels, step)


def action_names() -> tuple[str, ...]:
    """The 400 actions in the classifier's order, which is alphabetical."""
    from torchvision.models.video import R3D_18_Weights  # takes a second

    return tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"])
