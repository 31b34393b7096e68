"""Several backbones on the same clips: `swin3d_b+i3d_r50`.

Each clip is decoded and uploaded once and passed to each network in turn; their features are
concatenated. A single backbone is a combination of one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from vigil.extract.networks.backbones import Backbone
from vigil.extract.networks.choice import find_backbones, find_endpoints, split_weights
from vigil.extract.networks.download import Progress
from vigil.extract.networks.weights import Weights, load_weights
from vigil.extract.spec import FeaturePart


@dataclass(frozen=True, eq=False)
class Network:
    """A backbone built up to an endpoint, with its weights."""

    backbone: Backbone
    endpoint: str
    module: nn.Module
    """Plain, in float32, on the CPU."""
    weights: Weights


def load_networks(
    backbone: str, endpoint: str | None, weights: str, progress: Progress | None = None
) -> tuple[Network, ...]:
    """Build the networks of a combination, in its order, and load their weights.

    Args:
        backbone: names joined by plus signs.
        endpoint: as for `find_endpoints`.
        weights: as for `split_weights`, each of them as for `load_weights`.
        progress: called as a download advances.

    Raises:
        UserError: no such backbone or endpoint.
        WeightsError: weights cannot be obtained or do not fit.
    """
    backbones = find_backbones(backbone)
    endpoints = find_endpoints(backbones, endpoint)
    names = split_weights(weights, len(backbones))
    networks = []
    for one, end, name in zip(backbones, endpoints, names, strict=True):
        module = one.build(end)
        networks.append(
            Network(one, end, module, load_weights(module, name, one.sources, progress))
        )
    return tuple(networks)


def joint_weights(networks: Sequence[Network]) -> Weights:
    """The identity of all networks' weights together; for a single network, its own."""
    if len(networks) == 1:
        return networks[0].weights
    digests = " ".join(network.weights.digest for network in networks)
    return Weights(
        name=",".join(network.weights.name for network in networks),
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        trained=all(network.weights.trained for network in networks),
    )


def feature_parts(networks: Sequence[Network], time_pool: str) -> tuple[FeaturePart, ...]:
    """The position of each network's values in a feature."""
    layouts = [network.backbone.shape_of(network.endpoint) for network in networks]
    if time_pool == "mean":
        layouts = [(1, channels) for _, channels in layouts]
    ends = accumulate(positions * channels for positions, channels in layouts)
    return tuple(
        FeaturePart(network.backbone.name, end - positions * channels, positions, channels)
        for network, (positions, channels), end in zip(networks, layouts, ends, strict=True)
    )
