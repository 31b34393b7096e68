"""The clip and the seeded weights from which I3D's reference figures were computed."""

import zlib
from functools import cache
from itertools import islice
from math import prod

import numpy as np
import torch

from vigil.extract.decode.decoder import probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.networks.i3d import I3D

VIDEO = "cctv/train/RoadAccidents/RoadAccidents336_x264.mp4"


def relative_error(actual, expected) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def reference_clip(shared_data, video: str = VIDEO) -> torch.Tensor:
    """The network's input: frames 0..63, rows 8..231, columns 48..271."""
    path = shared_data / video
    decoder = AvDecoder(path, probe(path), 320, 240)
    frames = np.array(list(islice(decoder, 64)))[:, 8:232, 48:272]
    decoder.close()
    return torch.from_numpy(frames.transpose(3, 0, 1, 2)[None] / np.float32(127.5) - 1)


@cache
def seeded_state() -> dict[str, torch.Tensor]:
    """Return the whole state dict, including `logits`, by the rule of the reference figures."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in I3D().state_dict().items()}
    shapes["logits.conv3d.weight"], shapes["logits.conv3d.bias"] = (400, 1024, 1, 1, 1), (400,)
    return {name: torch.from_numpy(_seeded(name, tuple(shape))) for name, shape in shapes.items()}


def _seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("conv3d.weight"):
        values = random.standard_normal(shape) * np.sqrt(2 / prod(shape[1:]))
    elif name.endswith(("bn.weight", "bn.running_var")):
        values = random.uniform(0.5, 1.5, shape)
    elif name.endswith("num_batches_tracked"):
        values = np.zeros(shape)
    else:
        values = random.standard_normal(shape) * 0.1
    return values.astype(np.float32)
