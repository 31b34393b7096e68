"""Several backbones on the same clips: `swin3d_b+i3d_r50`.

Each clip is decoded and uploaded once, each network sees it in turn, and their features lie side by
side in one. A single backbone is a combination of one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from vigil.extract.backbones import Backbone, find_backbone
from vigil.extract.download import Progress
from vigil.extract.errors import UserError, counted
from vigil.extract.spec import FeaturePart
from vigil.extract.weights import Weights, load_weights

JOINT = "+"


@dataclass(frozen=True, eq=False)
class Network:
    """A backbone built up to an endpoint, with its weights."""

    backbone: Backbone
    endpoint: str
    module: nn.Module
    """Plain, in float32, on the CPU."""
    weights: Weights


def find_backbones(name: str) -> tuple[Backbone, ...]:
    """The backbones of a combination, or the one of that name.

    Raises:
        UserError: names the backbones there are, or one that is there twice.
    """
    names = name.split(JOINT)
    backbones = tuple(find_backbone(name) for name in names)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"backbone {name!r} has {repeated[0]} more than once: name each once")
    return backbones


def find_endpoints(backbones: Sequence[Backbone], text: str | None) -> tuple[str, ...]:
    """The endpoint of each backbone, as joined by plus signs; the default ones for None.

    Raises:
        UserError: there are more or fewer than backbones, or one has no such endpoint.
    """
    names = [None] * len(backbones) if text is None else text.split(JOINT)
    if len(names) != len(backbones):
        raise UserError(
            f"endpoint {text!r} is for {counted(len(names), 'network')}, not {len(backbones)}: "
            "give one for each, joined by +, such as Mixed_4d+AvgPool"
        )
    return tuple(one.endpoint(name) for one, name in zip(backbones, names, strict=True))


def split_weights(text: str, num_networks: int) -> tuple[str, ...]:
    """The weights of each network: one text for all of them, or one each, joined by commas.

    Raises:
        UserError: there are more or fewer than networks.
    """
    names = tuple(text.split(",")) if num_networks > 1 else (text,)
    if len(names) == 1 and text.partition(":")[0] in ("auto", "random"):
        names *= num_networks
    if len(names) != num_networks:
        raise UserError(
            f"weights {text!r} are for {counted(len(names), 'network')}, not {num_networks}: "
            "give auto, random, or one for each, joined by commas"
        )
    return names


def load_networks(
    backbone: str, endpoint: str | None, weights: str, progress: Progress | None = None
) -> tuple[Network, ...]:
    """The networks of a combination, in its order.

    Args:
        backbone: names joined by plus signs.
        endpoint: as `find_endpoints` takes them.
        weights: as `split_weights` takes them; of each network as `load_weights` does.
        progress: told how a download goes.

    Raises:
        UserError: no such backbone or endpoint.
        WeightsError: weights cannot be had, or do not fit.
    """
    backbones = find_backbones(backbone)
    endpoints = find_endpoints(backbones, endpoint)
    names = split_weights(weights, len(backbones))
    networks = []
    for one, end, name in zip(backbones, endpoints, names, strict=True):
        module = one.build(end)
        networks.append(Network(one, end, module, load_weights(module, name, one.source, progress)))
    return tuple(networks)


def joint_weights(networks: Sequence[Network]) -> Weights:
    """What identifies the weights of all networks; of one, its own."""
    if len(networks) == 1:
        return networks[0].weights
    digests = " ".join(network.weights.digest for network in networks)
    return Weights(
        name=",".join(network.weights.name for network in networks),
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        trained=all(network.weights.trained for network in networks),
    )


def feature_parts(networks: Sequence[Network], time_pool: str) -> tuple[FeaturePart, ...]:
    """Where each network's values lie in a feature."""
    layouts = [network.backbone.layout[network.endpoint] for network in networks]
    if time_pool == "mean":
        layouts = [(1, channels) for _, channels in layouts]
    ends = accumulate(positions * channels for positions, channels in layouts)
    return tuple(
        FeaturePart(network.backbone.name, end - positions * channels, positions, channels)
        for network, (positions, channels), end in zip(networks, layouts, ends, strict=True)
    )
