"""The options of the measurements; a field's docstring is its help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tyro.conf import Positional

Section = Literal["network", "decode", "end-to-end", "memory", "start", "combination", "training"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class Options:
    """Measure extraction on this machine, and print one table of ratios."""

    sections: Positional[tuple[Section, ...]] = SECTIONS
    """What to measure; by default everything."""
    videos: Path | None = None
    """Folder of videos to decode and extract; by default some are drawn."""
    max_videos: int = 20
    """How many of those videos are extracted, evenly chosen."""
    backbone: str = "i3d"
    """The network."""
    endpoint: str | None = None
    """Its last layer, such as Mixed_4d; by default its end."""
    weights: str = "random"
    """A file of weights, auto, or random: that changes no speed, but makes 16 bits look worse."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precisions: tuple[Literal["fp32", "fp16", "bf16"], ...] = ()
    """Precisions of the network; by default those the device has instructions for. The first one
    is also that of vigil extract."""
    batch_size: int | None = None
    """Clip-views the network sees at once; by default as many as vigil extract gives it."""
    compile: bool = False
    """Measure a training step with torch.compile, too; needs a C++ compiler."""
    repeats: int = 3
    """How often each figure is measured, in turns with the others; the best is taken."""
    long: bool = False
    """Take 2 hours, not 10 minutes, for the long video whose memory is measured."""
    out: Path | None = None
    """Write what is printed to this file too."""
