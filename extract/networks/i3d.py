"""Inception I3D, the plain and readable network (Carreira & Zisserman, CVPR 2017).

Layers have the names of pytorch-i3d, the usual PyTorch conversion of the Kinetics weights, so its
state dicts load unchanged. Padding is TensorFlow's 'SAME', as in the training of the weights.
Shapes are for a clip of 64 frames of 224 x 224; B clips, T time positions, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vigil.extract.networks.layouts import I3D as LAYOUT
from vigil.extract.networks.layouts import MAX, layer_of

# Channels in and out, kernel, stride.
_CONVOLUTIONS = {
    "Conv3d_1a_7x7": (3, 64, 7, 2),
    "Conv3d_2b_1x1": (64, 64, 1, 1),
    "Conv3d_2c_3x3": (64, 192, 3, 1),
}

# Kernel and stride over (time, height, width).
_POOLS = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}

# Channels in, and widths of the convolutions b0, b1a, b1b, b2a, b2b, b3b.
_MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that the output has ceil(size / stride) elements."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad ``x`` (B, C, T, H, W) with zeros as 'SAME' does; an odd one goes to the end."""
    padding: list[int] = []
    for axis in (4, 3, 2):
        padding += same_padding(x.shape[axis], kernel[axis - 2], stride[axis - 2])
    return functional.pad(x, padding) if any(padding) else x


class ConvUnit(nn.Module):
    """Convolution, batch norm (epsilon 0.001), ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        """Use a cubic kernel, and the same stride on all axes."""
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=0.001, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, out, T / stride, H / stride, W / stride), >= 0."""
        padded = pad_same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return functional.relu(self.bn(self.conv3d(padded)))


class MaxPool(nn.Module):
    """Maximum pooling with 'SAME' padding; zeros are neutral, as its inputs are never negative."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        """Kernel and stride over (time, height, width)."""
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W), >= 0."""
        return torch.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception block: four branches on the same input, concatenated."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        """Widths of the convolutions b0, b1a, b1b, b2a, b2b, b3b."""
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = ConvUnit(in_channels, b0, 1)
        self.b1a = ConvUnit(in_channels, b1a, 1)
        self.b1b = ConvUnit(b1a, b1b, 3)
        self.b2a = ConvUnit(in_channels, b2a, 1)
        self.b2b = ConvUnit(b2a, b2b, 3)
        self.b3a = MaxPool((3, 3, 3), (1, 1, 1))
        self.b3b = ConvUnit(in_channels, b3b, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, b0 + b1b + b2b + b3b, T, H, W)."""
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


def _layer(name: str) -> nn.Module:
    if name in _CONVOLUTIONS:
        return ConvUnit(*_CONVOLUTIONS[name])
    if name in _POOLS:
        return MaxPool(*_POOLS[name])
    return Mixed(*_MIXED[name])


def clip_features(x: Tensor, endpoint: str) -> Tensor:
    """(B, T, C) float32 from its layer's output (B, C, T, H, W), of any height and width."""
    x = x.float()  # 16-bit average pooling is imprecise, and missing on the CPU
    if endpoint == "AvgPool":
        x = functional.avg_pool3d(x, (2, *x.shape[3:]), stride=1)
    pooled = x.amax(dim=(3, 4)) if endpoint.endswith(MAX) else x.mean(dim=(3, 4))
    return pooled.transpose(1, 2)


def side_by_side(features: Sequence[Tensor]) -> Tensor:
    """(B, T, sum of C) from several (B, t, C), of which the longest has T positions.

    A position of a deeper layer covers T / t of them, rounded up, and is repeated for each.
    """
    if len(features) == 1:
        return features[0]
    longest = max(one.shape[1] for one in features)
    repeated = [one.repeat_interleave(-(-longest // one.shape[1]), dim=1) for one in features]
    return torch.cat([one[:, :longest] for one in repeated], dim=2)


class I3D(nn.Module):
    """I3D up to an endpoint; later layers are not built."""

    def __init__(self, endpoint: str = "AvgPool") -> None:
        """Build the layers up to and including ``endpoint``.

        Args:
            endpoint: a key of `LAYOUT`, or several of `I3D_JOINED` joined by commas, in its order;
                their features are put side by side.
        """
        super().__init__()
        names, self.endpoints = list(LAYOUT), tuple(endpoint.split(","))
        for name in names[: names.index(layer_of(self.endpoints[-1])) + 1]:
            if name != "AvgPool":
                self.add_module(name, _layer(name))

    def forward(self, x: Tensor) -> Tensor:
        """Compute clip features.

        Args:
            x: (B, 3, 64, H, W), RGB in [-1, 1]; the weights were trained with 224 x 224.

        Returns:
            (B, T, C) float32: the endpoint's output averaged over height and width, or with
            ``:max`` its maximum over them; for `AvgPool` the average over two time positions with
            stride 1, that is 7 x 1024: over 2 x 7 x 7 for 224 x 224 (paper, IV-A).
        """
        features: list[Tensor] = []
        for name, layer in self.named_children():
            x = layer(x)
            read = (one for one in self.endpoints[:-1] if layer_of(one) == name)
            features += [clip_features(x, endpoint) for endpoint in read]
        return side_by_side([*features, clip_features(x, self.endpoints[-1])])
