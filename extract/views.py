"""Named views: rectangles of a frame, flipped or not, and cutting them on the device."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from vigil.extract.decoder import VIEW_SIZE
from vigil.extract.errors import UserError


@dataclass(frozen=True)
class View:
    """A 224 x 224 rectangle of a frame, by its place in the free space around it."""

    down: float
    """0: at the top, 1: at the bottom."""
    right: float
    """0: at the left, 1: at the right."""
    mirrored: bool = False

    def corner(self, height: int, width: int, size: int = VIEW_SIZE) -> tuple[int, int]:
        """(top, left) in pixels of the view in a frame of the given size."""
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
"""Every view by name, in the order in which they are stored."""

VIEW_SETS = {"center": ("center",), "five": tuple(_CROPS), "ten": tuple(VIEWS)}

UNNAMED_CROP = re.compile(r"crop_\d{1,3}")
"""A view of imported features of which nobody knows where in the frame it lies."""


def view_names(text: str, unnamed: bool = False) -> tuple[str, ...]:
    """The names of a set (center, five, ten) or of a list of views with commas, in stored order.

    Args:
        text: from the command line.
        unnamed: also take crop_0 and the like, which imported features may have.

    Raises:
        UserError: names what is no view.
    """
    if text in VIEW_SETS:
        return VIEW_SETS[text]
    asked = [name.strip() for name in text.split(",")]
    crops = [name for name in asked if unnamed and UNNAMED_CROP.fullmatch(name)]
    unknown = [name for name in asked if name not in (*VIEWS, *crops)]
    if unknown:
        raise UserError(
            f"{', '.join(map(repr, unknown))} is no view: use center, five, ten, or names out of "
            + ", ".join(VIEWS)
        )
    return in_stored_order(asked)


def in_stored_order(names: Iterable[str]) -> tuple[str, ...]:
    """Views as `VIEWS` has them, each once, then unnamed crops by number."""
    order = {name: index for index, name in enumerate(VIEWS)}
    return tuple(
        sorted(set(names), key=lambda name: (order.get(name, len(order)), len(name), name))
    )


def cut_view(clip: torch.Tensor, name: str) -> torch.Tensor:
    """The named view of a clip, on the device where the clip is.

    Args:
        clip: (T, H, W, 3) uint8, no side below 224.
        name: a key of `VIEWS`.

    Returns:
        (T, 224, 224, 3) uint8; it shares the clip's memory unless it is mirrored.
    """
    height, width = clip.shape[1:3]
    view = VIEWS[name]
    top, left = view.corner(height, width)
    cut = clip[:, top : top + VIEW_SIZE, left : left + VIEW_SIZE]
    return cut.flip(2) if view.mirrored else cut
