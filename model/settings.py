"""What all settings of methods have in common. Importing this module does not import torch."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

TimePool = Literal["none", "mean"]


def require(valid: bool, name: str, value: object, allowed: str) -> None:
    """Refuse a setting.

    Raises:
        ValueError: it is not valid; names the setting, its value and what is allowed.
    """
    if not valid:
        raise ValueError(f"{name} = {value!r} is not allowed: it must be {allowed}")


def require_literal(name: str, value: object, literal: Any) -> None:
    """Refuse a value that is not one of a ``Literal``'s.

    Raises:
        ValueError: names the setting, its value and what is allowed.
    """
    choices = get_args(literal)
    require(value in choices, name, value, f"one of {', '.join(map(repr, choices))}")


@dataclass(frozen=True)
class Settings:
    """Settings of a method, or of its losses."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning, going by the settings' types and names.

        Whole numbers (``_size``, ``num_`` and others) are at least 1, a ``dropout`` is from 0 to
        below 1, a ``_share`` from 0 to 1, any other number is finite and from 0 up.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        kinds = get_type_hints(type(self))
        for field in fields(self):
            name, value, kind = field.name, getattr(self, field.name), kinds[field.name]
            if get_origin(kind) is Literal:
                require_literal(name, value, kind)
            elif kind is int:
                require(value >= 1, name, value, "at least 1")
            elif name.endswith("dropout"):
                require(0 <= value < 1, name, value, "at least 0 and below 1")
            elif name.endswith("_share"):
                require(0 <= value <= 1, name, value, "from 0 to 1")
            elif kind is float:
                require(0 <= value < math.inf, name, value, "a number from 0 up")


@dataclass(frozen=True)
class NoLoss(Settings):
    """Of a method that is not trained in epochs: there is nothing to set."""


@dataclass(frozen=True)
class FrontConfig(Settings):
    """What is done to stored features before any network."""

    time_pool: TimePool = "none"
    """mean: average the stored time positions of a segment first; a fraction of the weights."""
    scene_share: float = 0.0
    """Share of a video's mean feature that is taken off each of its segments, 0..1: what stays the
    same all through a video says more about its scene than about what happens there."""
    standardize: bool = False
    """Bring every dimension to mean 0 and deviation 1 of the training split first."""
