"""The options of the measurements; a field's docstring is its help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tyro.conf import Positional

Section = Literal[
    "network", "decode", "end-to-end", "memory", "start", "combination", "training", "views"
]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class Options:
    """Measure extraction on this machine, and print one table of ratios."""

    sections: Positional[tuple[Section, ...]] = SECTIONS
    """Measurements to make; by default all."""
    videos: Path | None = None
    """Folder of videos to decode and extract; by default some are generated."""
    max_videos: int = 20
    """Number of videos to use from that folder, evenly spaced."""
    backbone: str = "i3d"
    """The network."""
    endpoint: str | None = None
    """Its last layer, such as Mixed_4d; by default the network's end."""
    weights: str = "random"
    """A weights file, auto, or random; random does not change the speed, but exaggerates the error
    of 16 bits."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precisions: tuple[Literal["fp32", "fp16", "bf16"], ...] = ()
    """Precisions of the network; by default those the device has instructions for. vigil extract
    uses the first one."""
    batch_size: int | None = None
    """Clip-views per batch; by default as many as vigil extract uses."""
    compile: bool = False
    """Measure a training step with torch.compile, too; needs a C++ compiler."""
    repeats: int = 3
    """How often to measure each figure, in turns with the others; the best counts."""
    long: bool = False
    """Measure memory with a video of 2 hours instead of 10 minutes."""
    out: Path | None = None
    """Also write the output to this file."""
