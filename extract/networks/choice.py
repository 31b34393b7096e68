"""What is chosen with the words for backbones, endpoints and weights, one or several of each.

Nothing is loaded or fetched here, so that a wrong word is told at once.
"""

from collections.abc import Sequence
from pathlib import Path

from vigil.extract.errors import UserError, counted
from vigil.extract.networks.backbones import BACKBONES, Backbone, find_backbone
from vigil.extract.networks.named_weights import is_random, named_sources, require_file
from vigil.extract.views import SQUEEZE, WHOLE

JOINT = "+"


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


def check_weights(text: str, backbones: Sequence[Backbone]) -> None:
    """Refuse weights of these networks that have an unknown name, or a file that is not there.

    Raises:
        UserError: names them.
    """
    for one, name in zip(backbones, split_weights(text, len(backbones)), strict=True):
        if not is_random(name) and not named_sources(name, one.sources):
            require_file(Path(name))


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
