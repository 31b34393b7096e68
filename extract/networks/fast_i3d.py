"""I3D for inference: the function of `extract.networks.i3d` in fewer and larger steps.

Batch norm is folded into the convolutions in float64, and the input's scale into the first one.
'SAME' padding becomes the convolutions' own if it is symmetric. The 1x1x1 convolutions that read
the same input are merged. Maxima are taken axis by axis. ReLU commutes with pooling and
concatenation, so the next convolution applies it. In 16 bits, rounded weights would shift every
feature; the biases, which stay in float32 on a CPU, compensate for that (Nagel et al., Data-free
quantization, ICCV 2019, section 4.2). Tensors are (B, C, T, H, W) in channels_last_3d, that is
(B, T, H, W, C) in memory.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.extract.networks.folding import folded
from vigil.extract.networks.i3d import (
    I3D,
    ConvUnit,
    MaxPool,
    Mixed,
    clip_features,
    same_padding,
    side_by_side,
)
from vigil.extract.networks.layouts import layer_of

Block = tuple[int, int, int]

STEMS: dict[str, Block] = {"direct": (1, 1, 1), "width": (1, 1, 2), "cubes": (2, 2, 2)}
"""Blocks of pixels (time, height, width) whose channels the first convolution reads as one pixel.

A 7x7x7 convolution with stride 2 on 3 channels equals a 4x4x4 one with stride 1 on the 24 channels
of 2x2x2 cubes, and the same holds on each axis alone. Matrix units need many channels, but on each
axis in blocks an eighth of the weights is zero.
"""

PIXEL_SCALE = 127.5
"""Pixels minus this are -127.5, -126.5, ... 127.5, which fp16 and bf16 represent exactly."""

POSITIONS_AT_ONCE = 8
"""Time positions per piece of the first layers on a CPU, so that intermediates fit its cache."""


class FastI3D(nn.Module):
    """I3D up to the endpoint of the plain network it is built from."""

    def __init__(self, plain: I3D, precision: torch.dtype, block: Block = STEMS["direct"]) -> None:
        """Build it from ``plain``, which is not changed; ``block`` is one of `STEMS`."""
        super().__init__()
        first, *others = plain.children()
        self.first = _First(first, others[:1], precision, block)
        mean = self.first.mean
        self.others = nn.ModuleDict()
        for name, layer in list(plain.named_children())[2:]:
            self.others[name], mean = _fast(layer, mean, precision)
        self.endpoints = plain.endpoints
        self.eval()

    def forward(self, views: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8, even sizes -> (B, time positions, C) float32, as `I3D`."""
        x = self.first(views)
        features: list[Tensor] = []
        for name, layer in self.others.items():
            x = layer(x)
            read = (one for one in self.endpoints[:-1] if layer_of(one) == name)
            features += [clip_features(x.relu(), endpoint) for endpoint in read]
        return side_by_side([*features, clip_features(x.relu_(), self.endpoints[-1])])


def _fast(layer: nn.Module, mean: Tensor, precision: torch.dtype) -> tuple[nn.Module, Tensor]:
    """Convert a layer, given the mean of each input channel; return it and its output's mean."""
    if isinstance(layer, MaxPool):
        return _MaxPool(layer), mean  # a lower bound of the true mean, which is good enough
    if isinstance(layer, Mixed):
        mixed = _Mixed(layer, mean, precision)
        return mixed, mixed.mean
    assert isinstance(layer, ConvUnit)
    unit = _Unit([layer], mean, precision)
    return unit, unit.mean


def _folded(units: Sequence[ConvUnit]) -> tuple[Tensor, Tensor]:
    """Joint weight and bias, float64, of units that read the same input."""
    states = [folded(unit.conv3d, unit.bn).state_dict() for unit in units]
    return torch.cat([s["weight"] for s in states]), torch.cat([s["bias"] for s in states])


def _expected_mean(unit: ConvUnit) -> Tensor:
    """The mean of each channel after the ReLU, (C,) float64, according to batch norm.

    Batch norm's outputs have mean m and deviation s. If they are normally distributed, their
    positive part has the mean m Phi(m / s) + s phi(m / s).
    """
    mean, deviation = unit.bn.bias.double(), unit.bn.weight.double().abs().clamp(min=1e-12)
    ratio = mean / deviation
    density = torch.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    expected: Tensor = mean * torch.special.ndtr(ratio) + deviation * density
    return expected.detach()


class _Convolution(nn.Module):
    """A convolution in a precision, unbiased for an input with the given mean."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        precision: torch.dtype,
        stride: Block = (1, 1, 1),
        padding: int = 0,
    ) -> None:
        super().__init__()
        rounded = weight.to(precision, memory_format=torch.channels_last_3d)
        shift = (rounded - weight).sum(dim=(2, 3, 4)) @ mean
        self.weight = nn.Buffer(rounded)
        self.bias = nn.Buffer((bias - shift).float())
        self.stride, self.padding = stride, (padding,) * 3

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":  # conv3d calls this too, but requires a bias of the input's type
            return torch.mkldnn_convolution(
                x, self.weight, self.bias, self.padding, self.stride, (1, 1, 1), groups=1
            )
        return functional.conv3d(x, self.weight, self.bias.to(x.dtype), self.stride, self.padding)


class _Unit(_Convolution):
    """The ReLU of the previous layer, then units that read the same input, without their own."""

    def __init__(self, units: Sequence[ConvUnit], mean: Tensor, precision: torch.dtype) -> None:
        weight, bias = _folded(units)
        super().__init__(weight, bias, mean, precision, padding=weight.shape[2] // 2)
        self.mean = torch.cat([_expected_mean(unit) for unit in units])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.relu())


class _First(nn.Module):
    """The first convolution, which reads pixels, and the pool after it."""

    def __init__(
        self, unit: nn.Module, pools: Sequence[nn.Module], precision: torch.dtype, block: Block
    ) -> None:
        super().__init__()
        assert isinstance(unit, ConvUnit)
        weight, bias = _folded([unit])
        weight = functional.pad(weight, [zeros for b in block[::-1] for zeros in (0, b - 1)])
        weight = _join_blocks(weight.permute(0, 2, 3, 4, 1) / PIXEL_SCALE, block)
        stride = 2 // block[0], 2 // block[1], 2 // block[2]
        mean = weight.new_zeros(weight.shape[1])
        self.convolution = _Convolution(weight, bias, mean, precision, stride)
        self.mean = _expected_mean(unit)
        self.pools = nn.Sequential(*(_MaxPool(pool) for pool in pools))
        self.block = block

    def forward(self, views: Tensor) -> Tensor:
        if any(size % 2 for size in views.shape[1:4]):
            raise ValueError(f"views of the shape {tuple(views.shape)} have an odd size")
        blocks = _join_blocks(self._padded(views), self.block)
        kernel, stride = self.convolution.weight.shape[2], self.convolution.stride[0]
        positions = views.shape[1] // 2
        step = POSITIONS_AT_ONCE if views.device.type == "cpu" else positions
        pieces = []
        for start in range(0, positions, step):
            last = min(start + step, positions) - 1
            piece = blocks[:, :, start * stride : last * stride + kernel]
            pieces.append(self.pools(self.convolution(piece)))
        return torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0]

    def _padded(self, views: Tensor) -> Tensor:
        """Pixels with 'SAME' padding, 2 and 3 zeros, and one more to fill the last block."""
        sizes = [size + 4 + b for size, b in zip(views.shape[1:4], self.block, strict=True)]
        pixels = views.new_zeros(len(views), *sizes, 3, dtype=self.convolution.weight.dtype)
        inside = pixels[:, 2:, 2:, 2:][tuple(map(slice, views.shape))]
        inside.copy_(views).sub_(PIXEL_SCALE)
        return pixels


def _join_blocks(x: Tensor, block: Block) -> Tensor:
    """(B, T, H, W, C) -> (B, t h w C, T / t, H / h, W / w) for blocks of (t, h, w)."""
    batch, time, height, width, channels = x.shape
    t, h, w = block
    x = x.reshape(batch, time // t, t, height // h, h, width // w, w, channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4).permute(0, 4, 1, 2, 3)


class _MaxPool(nn.Module):
    """Max pooling with 'SAME' padding, for values of any sign."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        assert isinstance(plain, MaxPool)
        self.kernel, self.stride = plain.kernel, plain.stride

    def forward(self, x: Tensor) -> Tensor:
        for axis, kernel, stride in zip((2, 3, 4), self.kernel, self.stride, strict=True):
            if kernel > 1:
                x = _maximum_along(x, axis, kernel, stride)
        return x


def _maximum_along(x: Tensor, axis: int, kernel: int, stride: int) -> Tensor:
    """The maximum over windows along one axis; windows at its ends hold fewer elements."""
    before, _ = same_padding(x.shape[axis], kernel, stride)
    x = x.movedim(axis, 0)
    maximum = x[::stride].clone()
    for offset in range(-before, kernel - before):
        if offset != 0:
            first = -(offset // stride) if offset < 0 else 0
            others = x[first * stride + offset :: stride]
            inside = maximum[first : first + len(others)]
            inside.clamp_(min=others[: len(inside)])
    return maximum.movedim(0, axis)


class _Mixed(nn.Module):
    """An Inception block with the three 1x1x1 convolutions of its input merged."""

    def __init__(self, plain: Mixed, mean: Tensor, precision: torch.dtype) -> None:
        super().__init__()
        heads = plain.b0, plain.b1a, plain.b2a
        self.heads = _Unit(heads, mean, precision)
        self.widths = [head.conv3d.out_channels for head in heads]
        b0, b1a, b2a = torch.split(self.heads.mean, self.widths)
        self.b1b = _Unit([plain.b1b], b1a, precision)
        self.b2b = _Unit([plain.b2b], b2a, precision)
        self.b3a = _MaxPool(plain.b3a)
        self.b3b = _Unit([plain.b3b], mean, precision)
        self.mean = torch.cat([b0, self.b1b.mean, self.b2b.mean, self.b3b.mean])

    def forward(self, x: Tensor) -> Tensor:
        b0, b1a, b2a = torch.split(self.heads(x), self.widths, dim=1)
        return torch.cat([b0, self.b1b(b1a), self.b2b(b2a), self.b3b(self.b3a(x))], dim=1)
