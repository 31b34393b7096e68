"""The naive way to get the same features, for comparison: `python -m bench.naive VIDEOS OUT`.

It does what a first script would do: hold a whole video in memory as float32, run one view per pass
through the plain network in fp32, one video after another. Only the geometry is vigil's, so that
the features are comparable.
"""

from dataclasses import dataclass
from pathlib import Path

import decord
import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional
from tyro.conf import Positional

from bench import standin
from vigil.extract.clips import CLIP_FRAMES, VIEW_SIZE, ClipGrid
from vigil.extract.decode.decoder import frame_size
from vigil.extract.networks.backbones import Backbone, find_backbone
from vigil.extract.networks.hardware import select_device
from vigil.extract.networks.weights import load_weights
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.views import VIEWS, view_names


@dataclass(frozen=True)
class NaiveOptions:
    """Extract the features of videos the naive way, into one .npy file (V, 32, D) per video."""

    videos: Positional[Path]
    """Folder of videos."""
    out: Positional[Path]
    """Folder of the features."""
    backbone: str = "i3d"
    endpoint: str | None = None
    weights: str = "random"
    views: str = "five"
    device: str = "auto"


def main(options: NaiveOptions) -> None:
    """Extract one video after another."""
    standin.register()
    device = select_device(options.device)
    backbone = find_backbone(options.backbone)
    network = backbone.build(backbone.endpoint(options.endpoint)).eval()
    load_weights(network, options.weights, backbone.sources)
    network.to(device)
    options.out.mkdir(parents=True)
    for video in sorted(options.videos.iterdir()):
        features = extract_video(video, network, backbone, view_names(options.views), device)
        np.save(options.out / f"{video.name}.npy", features)


def extract_video(
    video: Path,
    network: nn.Module,
    backbone: Backbone,
    views: tuple[str, ...],
    device: torch.device,
    num_segments: int = 32,
) -> npt.NDArray[np.floating]:
    """(V, S, D) float32, the features of one video."""
    height, width = decord.VideoReader(str(video))[0].shape[:2]
    width, height = frame_size(width, height, 256)
    reader = decord.VideoReader(str(video), width=width, height=height)
    frames = torch.from_numpy(reader.get_batch(range(len(reader))).asnumpy()).float()
    clip_frames = ClipGrid(CLIP_FRAMES, CLIP_FRAMES).frame_ranges(len(frames))
    clips = []
    for start, stop in clip_frames.tolist():
        indices = torch.arange(start, start + CLIP_FRAMES).clamp(max=stop - 1)
        for name in views:
            top, left = VIEWS[name].corner(height, width)
            view = frames[indices, top : top + VIEW_SIZE, left : left + VIEW_SIZE]
            features = plain_features(network, backbone, view[None].to(device))
            clips.append(features.flatten().cpu().numpy())
    clips_NVD = np.stack(clips).reshape(len(clip_frames), len(views), -1)
    segments_SVD = pool_clips(clips_NVD, clip_frames, segment_ranges(len(frames), num_segments))
    return segments_SVD.transpose(1, 0, 2)


def plain_features(network: nn.Module, backbone: Backbone, views: Tensor) -> Tensor:
    """Run a plain network in fp32, in PyTorch's default memory format.

    Args:
        network: of the backbone, on the device of the views.
        backbone: describes the network's input.
        views: (B, 64, 224, 224, 3), 0..255.

    Returns:
        (B, time positions, channels).
    """
    pixels, size = backbone.pixels, (len(backbone.frame_indices), *[backbone.pixels.size] * 2)
    seen = views[:, list(backbone.frame_indices)].permute(0, 4, 1, 2, 3).contiguous().float()
    if seen.shape[2:] != size:
        seen = functional.interpolate(seen, size, mode="trilinear")
    mean, std = (seen.new_tensor(c).reshape(3, 1, 1, 1) for c in (pixels.mean, pixels.std))
    clips = (seen / 255 - mean) / std
    with torch.inference_mode():
        features: Tensor = network(clips)
    return features


if __name__ == "__main__":
    main(tyro.cli(NaiveOptions))
