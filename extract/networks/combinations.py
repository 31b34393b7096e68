"""Several backbones on the same clips: `swin3d_b+i3d_r50`.

Each clip is decoded and uploaded once and passed to each network in turn; their features are
concatenated. A single backbone is a combination of one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from vigil.extract.errors import UserError, counted
from vigil.extract.networks.backbones import BACKBONES, Backbone, find_backbone
from vigil.extract.networks.download import Progress
from vigil.extract.networks.weights import Weights, load_weights
from vigil.extract.spec import FeaturePart
from vigil.extract.views import SQUEEZE, WHOLE

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
    """The backbones of a combination, or the single one of that name.

    Raises:
        UserError: a backbone does not exist, or is named twice.
    """
    names = name.split(JOINT)
    backbones = tuple(find_backbone(name) for name in names)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"backbone {name!r} repeats {repeated[0]}: name each backbone once")
    return backbones


def find_endpoints(backbones: Sequence[Backbone], text: str | None) -> tuple[str, ...]:
    """The endpoint of each backbone, from names joined by plus signs; None: the defaults.

    Raises:
        UserError: there is not one endpoint per backbone, or an endpoint does not exist.
    """
    names = [None] * len(backbones) if text is None else text.split(JOINT)
    if len(names) != len(backbones):
        raise UserError(
            f"endpoint {text!r} is for {counted(len(names), 'network')}, not {len(backbones)}: "
            "give one for each, joined by +, for example Mixed_4d+AvgPool"
        )
    return tuple(one.endpoint(name) for one, name in zip(backbones, names, strict=True))


def require_fit(backbones: Sequence[Backbone], views: Sequence[str]) -> None:
    """Refuse the view whole for backbones that need frames of a fixed size.

    Raises:
        UserError: names these backbones, and those that take any size.
    """
    fixed = [one.name for one in backbones if not one.pixels.any_size]
    if WHOLE in views and fixed:
        able = ", ".join(one.name for one in BACKBONES.values() if one.pixels.any_size)
        raise UserError(
            f"{', '.join(fixed)} cannot use the view {WHOLE!r}, because its frames have any size: "
            f"use the backbone {able}, or the view {SQUEEZE!r}, which also shows the whole frame"
        )


def split_weights(text: str, num_networks: int) -> tuple[str, ...]:
    """The weights of each network: auto or random for all, or one for each, joined by commas.

    Raises:
        UserError: there is not one per network.
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
    layouts = [network.backbone.layout[network.endpoint] for network in networks]
    if time_pool == "mean":
        layouts = [(1, channels) for _, channels in layouts]
    ends = accumulate(positions * channels for positions, channels in layouts)
    return tuple(
        FeaturePart(network.backbone.name, end - positions * channels, positions, channels)
        for network, (positions, channels), end in zip(networks, layouts, ends, strict=True)
    )
