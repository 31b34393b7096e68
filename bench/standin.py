"""vigil with a network that costs nothing, to see what the rest of it takes.

`python -m bench.standin` is `vigil` with one more backbone, `standin`. Its features are as large as
I3D's, and by sleeping it is slower than decoding: where nothing holds clips back, they pile up
before it as they would before a real network.
"""

import sys
import time

from torch import Tensor, nn

from extract.backbones import BACKBONES, Backbone
from extract.weights import WeightsSource
from pipeline import cli

NAME = "standin"
TIME_POSITIONS, CHANNELS = 7, 1024
SECONDS_PER_VIEW = 0.014


class Standin(nn.Module):
    """The mean colour of seven frames, as often as I3D has channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 7, 224, 224) -> (B, 7, 1024) float32."""
        time.sleep(len(x) * SECONDS_PER_VIEW)
        colours = x[..., ::16, ::16].float().mean(dim=(3, 4)).transpose(1, 2)
        return colours.repeat(1, 1, CHANNELS // 3 + 1)[..., :CHANNELS]


def register() -> None:
    """Add the backbone `standin` to those there are."""
    BACKBONES[NAME] = Backbone(
        name=NAME,
        frame_indices=tuple(range(0, 56, 8)),
        mean=127.5,
        std=127.5,
        layout={"colours": (TIME_POSITIONS, CHANNELS)},
        build=lambda _endpoint: Standin(),
        source=WeightsSource("https://example.org/none.pt", "none.pt", None, "none"),
    )


if __name__ == "__main__":
    register()
    sys.exit(cli.main())
