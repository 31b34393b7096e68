"""Place a network on a device in its fastest form that passes a self-test.

The forms, called rungs, are tried from the top. Each computes a generated clip, and its features
are compared with those of the plain network in float32, the last rung, which needs no test.
"""

import copy
import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.extract.clips import VIEW_SIZE
from vigil.extract.networks.backbones import Backbone, Pixels
from vigil.extract.networks.fast_i3d import POSITIONS_AT_ONCE, STEMS, FastI3D
from vigil.extract.networks.folding import fold_batch_norms
from vigil.extract.networks.hardware import PRECISIONS, cpu_has
from vigil.extract.networks.i3d import I3D

log = logging.getLogger(__name__)

RUNGS = ("folded", "plain")
"""The rungs of every device; "compiled" goes above them on CUDA, where it is asked for."""

TOLERANCES = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.15}
"""Largest relative error (L2) with which a rung passes: at least three times the error with random
weights, which is itself far larger than with trained ones."""

CPU_TEST_FRAMES = 2 * POSITIONS_AT_ONCE + 2
"""Frames of I3D's generated clip on a CPU: enough for two of the pieces that its stem computes."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A network ready to compute features on a device."""

    run: Callable[[Tensor], Tensor]
    """Views (B, 64, 224, 224, 3) uint8, contiguous, on the device -> (B, time positions, channels)
    float32 there; other even sizes, too, if the backbone takes any size."""
    rung: str
    """compiled, folded or plain."""
    precision: str
    """The precision it computes in, a key of `PRECISIONS`: fp32 if the requested one failed."""


class FromPixels(nn.Module):
    """A network that takes normalised pixels, with convolutions and matrices in a precision.

    Everything else stays in float32: norms cost nothing there and keep small variances exact.
    Autocast converts in between.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, pixels: Pixels, precision: torch.dtype) -> None:
        """Prepare the network, changing it in place."""
        super().__init__()
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last_3d)
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                module.to(precision)
        self.size = None if pixels.any_size else pixels.size
        self.precision = precision
        self.register_buffer("mean", 255 * torch.tensor(pixels.mean)[:, None, None, None])
        self.register_buffer("std", 255 * torch.tensor(pixels.std)[:, None, None, None])

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 -> the network's output."""
        is_lower = self.precision != torch.float32
        with torch.autocast(frames.device.type, self.precision, enabled=is_lower):
            features: Tensor = self.network(self.normalise(frames))
        return features

    def normalise(self, frames: Tensor) -> Tensor:
        """Turn pixels (B, T, H, W, 3) uint8 into the network's input (B, 3, T, size, size).

        Networks for any size get (B, 3, T, H, W). Only the order of the axes changes: in memory the
        channels stay last.
        """
        x = frames.permute(0, 4, 1, 2, 3).float()
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = functional.interpolate(x, (x.shape[2], self.size, self.size), mode="trilinear")
        return ((x - self.mean) / self.std).to(self.precision)


def place(
    network: nn.Module,
    backbone: Backbone,
    device: torch.device,
    precision: str,
    *,
    batch_size: int = 1,
    rungs: Sequence[str] = RUNGS,
    view_size: tuple[int, int] = (VIEW_SIZE, VIEW_SIZE),
) -> Placed:
    """Place a network on a device, on the first rung that passes its test.

    Logs a warning for every rung that fails. If all do, the plain network in float32 is used.

    Args:
        network: plain, in float32, on the CPU; it is not changed.
        backbone: the network's row in the table of backbones.
        device: the device to compute on.
        precision: key of `PRECISIONS`.
        batch_size: views in a batch; CUDA is tested, and chooses its kernels, for this size.
        rungs: compiled (CUDA only), folded or plain, in the order to try.
        view_size: height and width of the views that it is tested with.

    Raises:
        torch.OutOfMemoryError: the network or the batch does not fit in the device's memory.
    """
    exact = _build("plain", network, backbone, device, "fp32")
    clip = _generated_clip(network, backbone, device, view_size)
    expected = None
    for rung in rungs:
        if rung == "folded" and not _has_batch_norm(network):
            continue
        if (rung, precision) == ("plain", "fp32"):
            break
        try:
            module = _build(rung, network, backbone, device, precision)
            expected = _run(exact, clip) if expected is None else expected
            batch = clip if device.type == "cpu" else clip.repeat(batch_size, 1, 1, 1, 1)
            problem = _disagreement(_run(module, batch), expected, TOLERANCES[precision])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of every type: kernels, compilers and drivers differ
            problem = textwrap.shorten(f"fails with {type(error).__name__}: {error}", 300)
        if problem is None:
            return Placed(_views_runner(module, backbone), rung, precision)
        log.warning(
            "%s: the %s network in %s %s: trying the next form", device, rung, precision, problem
        )
    return Placed(_views_runner(exact, backbone), "plain", "fp32")


def _build(
    rung: str, network: nn.Module, backbone: Backbone, device: torch.device, precision: str
) -> nn.Module:
    """Build the network of a rung; its input is the frames that the backbone samples, as pixels."""
    dtype = PRECISIONS[precision]
    if rung == "compiled":
        if device.type != "cuda":
            raise ValueError("it is slower than the folded form on a CPU: use it on CUDA")
        folded = _build("folded", network, backbone, device, precision)
        folded.compile(dynamic=False)
        return folded
    if rung == "plain":
        return FromPixels(copy.deepcopy(network), backbone.pixels, dtype).to(device)
    if isinstance(network, I3D):
        return FastI3D(network, dtype, _stem(device, precision)).to(device)
    folded = fold_batch_norms(network) if _has_batch_norm(network) else copy.deepcopy(network)
    return FromPixels(folded, backbone.pixels, dtype).to(device)


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm3d) for module in network.modules())


def _stem(device: torch.device, precision: str) -> tuple[int, int, int]:
    """The block of the fastest stem in `STEMS`: larger blocks pay off with a matrix unit."""
    if precision == "fp32":
        return STEMS["direct"]
    has_matrix_unit = device.type == "cuda" or cpu_has(f"amx_{precision}")
    return STEMS["cubes" if has_matrix_unit else "width"]


def _generated_clip(
    network: nn.Module, backbone: Backbone, device: torch.device, view_size: tuple[int, int]
) -> Tensor:
    """(1, T, *view_size, 3) uint8: moving blobs of colour under fine noise, like real clips."""
    num_frames = len(backbone.frame_indices)
    if device.type == "cpu" and isinstance(network, I3D):  # others need all their frames
        num_frames = min(num_frames, CPU_TEST_FRAMES)
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand(1, 3, -(-num_frames // 4), 14, 14, generator=generator)
    smooth = functional.interpolate(blobs, (num_frames, *view_size), mode="trilinear")
    clip = 230 * smooth + 25 * torch.rand(smooth.shape, generator=generator)
    return clip.permute(0, 2, 3, 4, 1).to(device, torch.uint8).contiguous()


def _run(module: nn.Module, frames: Tensor) -> Tensor:
    # TensorFloat-32 keeps only 10 of float32's 23 bits and is on by default.
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        features: Tensor = module(frames)
        return features


def _views_runner(module: nn.Module, backbone: Backbone) -> Callable[[Tensor], Tensor]:
    return lambda views: _run(module, backbone.select(views))


def _disagreement(actual: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """Why features (B, T, C) of a repeated clip differ from the right ones (1, T, C); else None."""
    if not actual.isfinite().all():
        return "computes values that are not finite"
    error = (actual - expected).flatten(1).norm(dim=1).max()
    if not error <= tolerance * expected.norm():
        relative = float(error / expected.norm())
        return f"is off by {relative:.2g} (relative error; allowed: {tolerance:g})"
    return None
