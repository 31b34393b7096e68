"""Named views: crops of a frame or all of it, and how a device cuts them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional

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

FRAMES_AT_ONCE = 8
"""Frames that are squeezed together, so that their copy in float32 stays small."""

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


def cut_view(clip: torch.Tensor, name: str) -> torch.Tensor:
    """Return the named view of a clip, on the clip's device.

    Args:
        clip: (T, H, W, 3) uint8, no side below 224 pixels.
        name: a key of `VIEWS`, squeeze or whole.

    Returns:
        (T, 224, 224, 3) uint8, of whole (T, h, w, 3) with even h and w: without the frame's last
        row if its height is odd, and without its last column if its width is odd. It shares the
        clip's memory unless it is mirrored or squeezed.
    """
    height, width = clip.shape[1:3]
    if name == SQUEEZE:
        return torch.cat([_squeezed(frames) for frames in torch.split(clip, FRAMES_AT_ONCE)])
    if name == WHOLE:
        return clip[:, : height - height % 2, : width - width % 2]
    view = VIEWS[name]
    top, left = view.corner(height, width)
    cut = clip[:, top : top + VIEW_SIZE, left : left + VIEW_SIZE]
    return cut.flip(2) if view.mirrored else cut


def _squeezed(frames: torch.Tensor) -> torch.Tensor:
    """Frames (T, H, W, 3) uint8 resized to (T, 224, 224, 3) uint8, bilinear with antialiasing.

    Along an axis of n pixels, s = n / 224 >= 1, pixel i of the result is the mean of the pixels j,
    weighted by max(0, 1 - |j + 1/2 - (i + 1/2) s| / s), and rounded, a half upwards. Rows are
    resized first, then columns. On a CPU all of it is in integers, with weights of 16 bits, and so
    the same on every processor. CUDA has floating point only: there, of noise in
    341 x 256, one value in 25 differs, by 1.
    """
    pixels = frames.permute(0, 3, 1, 2)
    if frames.device.type == "cpu":
        resized = _resized(pixels, VIEW_SIZE)
    else:
        resized = _squeezed_in_floats(pixels)
    return resized.permute(0, 2, 3, 1)


def _squeezed_in_floats(pixels: torch.Tensor) -> torch.Tensor:
    """The same of (T, 3, H, W) -> (T, 3, 224, 224) uint8, for devices without integer kernels."""
    for height in (pixels.shape[2], VIEW_SIZE):
        pixels = _resized(pixels.float(), height).add_(0.5).floor_()
    return pixels.to(torch.uint8)


def _resized(pixels: torch.Tensor, height: int) -> torch.Tensor:
    size = (height, VIEW_SIZE)
    return functional.interpolate(pixels, size, mode="bilinear", antialias=True)
