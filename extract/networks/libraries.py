"""Networks of torchvision and pytorchvideo without their heads.

Layers keep the libraries' names, so published weights files fit; the replacement of a head has no
weights. Each network maps (B, 3, T, H, W) to the pooled input of its head, (B, 1, C) float32. The
libraries are imported only when a network is built, because that takes a second.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

TORCHVISION_HEADS = ("head", "fc", "classifier")

# SlowFast's slow pathway sees a quarter of the frames, chosen as in PyTorchVideo's documentation:
# linspace(0, 31, 8), rounded down.
FAST_FRAMES, SLOW_FRAMES = 32, 8
SLOW_INDICES = [k * (FAST_FRAMES - 1) // (SLOW_FRAMES - 1) for k in range(SLOW_FRAMES)]


def torchvision_network(name: str, _endpoint: str) -> nn.Module:
    """A video network of torchvision, its weights not yet loaded."""
    from torchvision.models import get_model

    network: nn.Module = get_model(name, weights=None)
    head = next(head for head in TORCHVISION_HEADS if hasattr(network, head))
    setattr(network, head, _InsteadOfHead())
    return network


def pytorchvideo_network(name: str, _endpoint: str) -> nn.Module:
    """A network of pytorchvideo's model zoo, its weights not yet loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # importing it scripts a helper
        from pytorchvideo.models import hub

    blocks = getattr(hub, name)(pretrained=False).blocks
    blocks[-1] = _Pooled(blocks[-1].pool)
    return _SlowFast(blocks) if name.startswith("slowfast") else _Blocks(blocks)


class _InsteadOfHead(nn.Module):
    """Pass on the classifier's input as one time position."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, 1, C); S3D averages (B, C, T, H, W) afterwards: -> (B, 1, T, H, W, C)."""
        return x.float().movedim(1, -1)[:, None]


class _Pooled(nn.Module):
    """The head's own pooling, which has weights in X3D, and the mean over remaining positions."""

    def __init__(self, pool: nn.Module | None) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, 1, C) float32."""
        x = x if self.pool is None else self.pool(x)
        return x.float().mean(dim=(2, 3, 4))[:, None]


class _Blocks(nn.Module):
    """The blocks of a pytorchvideo network, one after another."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 1, C) float32."""
        return self._run(x)

    def _run(self, x: Tensor | list[Tensor]) -> Tensor:
        features: Any = x
        for block in self.blocks:
            features = block(features)
        result: Tensor = features
        return result


class _SlowFast(_Blocks):
    """SlowFast, selecting the frames of its slow pathway itself."""

    slow: Tensor

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__(blocks)
        self.register_buffer("slow", torch.tensor(SLOW_INDICES), persistent=False)
        for block in blocks:
            if isinstance(getattr(block, "multipathway_fusion", None), nn.Identity):
                # Equivalent, and `torch.fx` can trace it.
                block.multipathway_fusion = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, H, W) -> (B, 1, C) float32."""
        return self._run([x.index_select(2, self.slow), x])
