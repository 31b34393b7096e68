"""Cut the named views of a clip, on the device that computes its features."""

import torch
from torch.nn import functional

from vigil.extract.clips import VIEW_SIZE
from vigil.extract.views import SQUEEZE, VIEWS, WHOLE

FRAMES_AT_ONCE = 8
"""Frames that are squeezed together, so that their copy in float32 stays small."""


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
