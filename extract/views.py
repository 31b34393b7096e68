"""Named views: crops of a frame, or all of it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vigil.extract.clips import VIEW_SIZE
from vigil.extract.errors import UserError


@dataclass(frozen=True)
class View:
    """A 224 x 224 rectangle of a frame, placed by shares of the free space around it."""

    down: float
    """0: at the top, 1: at the bottom."""
    right: float
    """0: at the left, 1: at the right."""
    mirrored: bool = False

    def corner(self, height: int, width: int, size: int = VIEW_SIZE) -> tuple[int, int]:
        """Return (top, left) of the view in pixels, in a frame of the given size."""
        return int((height - size) * self.down), int((width - size) * self.right)


_CROPS = {
    "center": View(0.5, 0.5),
    "top_left": View(0, 0),
    "top_right": View(0, 1),
    "bottom_left": View(1, 0),
    "bottom_right": View(1, 1),
}
_MIRRORED = {f"{name}_mirrored": View(v.down, v.right, True) for name, v in _CROPS.items()}

VIEWS = {**_CROPS, **_MIRRORED}
"""Every crop by name, in the order in which they are stored."""

SQUEEZE = "squeeze"
"""All of a frame, brought to 224 x 224: every side is seen, at the cost of one view."""

WHOLE = "whole"
"""All of a frame at its own size, for networks that take any size."""

_STORED = (*VIEWS, SQUEEZE, WHOLE)


VIEW_SETS = {"center": ("center",), "five": tuple(_CROPS), "ten": tuple(VIEWS)}

UNNAMED_CROP = re.compile(r"crop_\d{1,3}")
"""A view of imported features at an unknown place in the frame."""


def view_names(text: str, unnamed: bool = False) -> tuple[str, ...]:
    """Return the views of a set (center, five, ten) or a comma-separated list, in stored order.

    Args:
        text: the set or the list.
        unnamed: also accept names such as crop_0, which imported features may have.

    Raises:
        UserError: names the unknown views.
    """
    if text in VIEW_SETS:
        return VIEW_SETS[text]
    requested = [name.strip() for name in text.split(",")]
    crops = [name for name in requested if unnamed and UNNAMED_CROP.fullmatch(name)]
    unknown = [name for name in requested if name not in (*_STORED, *crops)]
    if unknown:
        raise UserError(
            f"unknown view {', '.join(map(repr, unknown))}: use center, five, ten, or names from "
            + ", ".join(_STORED)
        )
    return in_stored_order(requested)


def in_stored_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return each view once: those in `VIEWS`, squeeze, whole, then unnamed crops by number."""
    order = {name: index for index, name in enumerate(_STORED)}
    return tuple(
        sorted(set(names), key=lambda name: (order.get(name, len(order)), len(name), name))
    )
