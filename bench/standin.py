"""Networks that compute almost nothing, to measure the rest of vigil.

Their features are as large as I3D's. `standin` sleeps to be slower than decoding, so that without
backpressure clips would pile up as they would before a real network. `instant` does not sleep.
"""

import time
from functools import partial

from torch import Tensor, nn

from vigil.extract.networks.backbones import BACKBONES, Backbone, Pixels
from vigil.extract.networks.download import OfficialWeights

NAME, INSTANT = "standin", "instant"
TIME_POSITIONS, CHANNELS = 7, 1024
SECONDS_PER_VIEW = 0.014


class Standin(nn.Module):
    """The mean colour of seven frames, repeated to fill I3D's channels."""

    def __init__(self, seconds_per_view: float) -> None:
        """Sleep this long for each clip-view."""
        super().__init__()
        self._seconds_per_view = seconds_per_view

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 7, 224, 224) -> (B, 7, 1024) float32."""
        time.sleep(len(x) * self._seconds_per_view)
        colours = x[..., ::16, ::16].float().mean(dim=(3, 4)).transpose(1, 2)
        return colours.repeat(1, 1, CHANNELS // 3 + 1)[..., :CHANNELS]


def register() -> None:
    """Add both to `BACKBONES`."""
    for name, seconds in {NAME: SECONDS_PER_VIEW, INSTANT: 0.0}.items():
        BACKBONES[name] = _backbone(name, seconds)


def _backbone(name: str, seconds_per_view: float) -> Backbone:
    return Backbone(
        name=name,
        frame_indices=tuple(range(0, 56, 8)),
        pixels=Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        layout={"colours": (TIME_POSITIONS, CHANNELS)},
        build=partial(_build, seconds_per_view),
        sources=(
            OfficialWeights(
                name="none", file_name="none.pt", licence="none", url="https://example.org/none.pt"
            ),
        ),
    )


def _build(seconds_per_view: float, _endpoint: str) -> Standin:
    """A function of this module, so that a backbone can be sent to other processes."""
    return Standin(seconds_per_view)
