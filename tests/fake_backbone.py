"""A backbone so small that extraction with it is nearly free, and engines that use it."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vigil.extract.engine.dispatch import Engine
from vigil.extract.networks.backbones import BACKBONES, Backbone, Pixels
from vigil.extract.networks.combinations import Network
from vigil.extract.networks.download import OfficialWeights
from vigil.extract.networks.weights import Weights
from vigil.extract.spec import FeatureSpec

FRAMES = (0, 40)
"""The frames of a clip that it uses, one for each of its two time positions."""
SPEC = FeatureSpec("fake", "colour", "f" * 64, clip_stride=32, num_segments=8, short_side=None)


class MeanColour(nn.Module):
    """Exact in any order of addition, because the sums of integers stay below 2**24."""

    def forward(self, x):
        """(B, 3, 2, 224, 224) -> (B, 2, 3), the mean colour of each of the two frames."""
        return x.float().mean(dim=(3, 4)).transpose(1, 2)


class Deadly(MeanColour):
    """The same, but slow, and a black frame kills its process."""

    def forward(self, x):
        time.sleep(0.5)
        means = super().forward(x)
        if not means.any():
            os.kill(os.getpid(), signal.SIGKILL)
        return means


def build(_endpoint: str) -> MeanColour:
    return MeanColour()


BACKBONE = Backbone(
    name="fake",
    frame_indices=FRAMES,
    pixels=Pixels(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255)),
    layout={"colour": (2, 3)},
    build=build,
    sources=(
        OfficialWeights(name="none", file_name="a.pt", licence="none", url="https://nowhere/a.pt"),
    ),
)


def at_half_size(name: str) -> Backbone:
    """Return a backbone that accepts any size at half its size, which is four times as fast."""
    backbone = BACKBONES[name]
    return replace(backbone, pixels=replace(backbone.pixels, size=112))


def as_network(module: nn.Module) -> Network:
    weights = Weights("random:0", SPEC.weights_digest, False)
    return Network(BACKBONE, "colour", module, weights)


def make_engine(network=None, **changes) -> Engine:
    engine = Engine(
        networks=(as_network((network or MeanColour()).eval()),),
        spec=SPEC,
        views=("center",),
        devices=(torch.device("cpu"),),
        precision="fp32",
        num_workers=0,
    )
    return replace(engine, **changes)


def mean_colours(view: np.ndarray) -> np.ndarray:
    """The feature (6,) that `MeanColour` gives for a view (64, 224, 224, 3), recomputed."""
    return np.concatenate([view[frame].mean(axis=(0, 1)) for frame in FRAMES])
