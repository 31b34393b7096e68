"""The base of all methods' settings, and the shape of their input.

Importing this module does not import torch.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

TimePoolName = Literal["none", "mean"]


def require(valid: bool, name: str, value: object, allowed: str) -> None:
    """Reject a setting that is not valid.

    Raises:
        ValueError: names the setting, its value and what is allowed.
    """
    if not valid:
        raise ValueError(f"{name} = {value!r} is not allowed: it must be {allowed}")


def require_literal(name: str, value: object, literal: Any) -> None:
    """Reject a value that is not among those of a ``Literal``.

    Raises:
        ValueError: names the setting, its value and what is allowed.
    """
    choices = get_args(literal)
    require(value in choices, name, value, f"one of {', '.join(map(repr, choices))}")


@dataclass(frozen=True)
class InputShape:
    """The shape of a model's input features and the number of its classes."""

    num_segments: int
    time_positions: int
    channels: int
    num_classes: int
    """Including the normal class."""

    def __post_init__(self) -> None:
        """Reject empty shapes.

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


@dataclass(frozen=True)
class Settings:
    """Settings of a method, or of its losses."""

    def __post_init__(self) -> None:
        """Reject values that are invalid for the settings' types and names.

        Integers (``_size``, ``num_`` and others) must be at least 1, a ``dropout`` at least 0 and
        below 1, a ``_share`` from 0 to 1, any other number finite and at least 0.

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
    """No settings, for a method that is not trained in epochs."""


@dataclass(frozen=True)
class FrontConfig(Settings):
    """The processing of stored features before any network."""

    time_pool: TimePoolName = "none"
    """mean: average the stored time positions of a segment first, to need fewer weights."""
    scene_share: float = 0.0
    """Share of a video's mean feature, 0..1, that is subtracted from each of its segments: what is
    constant throughout a video describes its scene rather than the events in it."""
    standardize: bool = False
    """Standardize every dimension to mean 0 and deviation 1 over the training split first."""
