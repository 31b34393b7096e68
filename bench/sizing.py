"""`python -m bench.sizing`: how many cameras of 25 frames a second this machine follows.

The engine of `vigil watch` follows drawn streams that come as fast as they are read, so decoding,
thumbnails, network and the messages between them share the machine as they do there. What a result
needs after its features is left out; that is little. Random weights do not change the speed.
"""

import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro

from bench import standin
from bench.machine import describe, num_cores
from bench.table import figure, markdown
from bench.videos import draw_video, repeat_video
from vigil.extract.clips import CLIP_FRAMES
from vigil.extract.decode.live import LiveSource
from vigil.extract.decode.worker import ClipReady
from vigil.extract.engine.dispatch import Engine
from vigil.extract.engine.live import LiveStreams, News, Piece, SeenClip, _Camera
from vigil.extract.errors import UserError
from vigil.extract.networks.combinations import joint_weights, load_networks
from vigil.extract.networks.hardware import choose_precision, select_devices
from vigil.extract.spec import FeatureSpec
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.extraction.command import make_engine
from vigil.pipeline.options import ComputeOptions
from vigil.pipeline.starter import STARTER

FPS = 25
SIZES = ((640, 360), (1920, 1080))
STEP = 4
"""Besides every clip, every fourth one is computed, as `--when-late sparser` may do."""
DRAWN_SECONDS, NUM_REPEATS = 10, 15
WARM_UP_SECONDS = 1.5
"""Not measured: until clips that were decoded while the network was loaded are gone."""
MIN_CLIPS = 6
DECODING = "decoding alone"


@dataclass(frozen=True)
class Options:
    """Print a table: clips a second, and cameras, by layer, precision and size of the picture."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seconds: float = 6.0
    """How long each figure is measured; up to four times as long until there are 6 clips."""
    dry: bool = False
    """Try the program: tiny pictures, and a network that computes almost nothing."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Width and height of the pictures."""
        return ((96, 64),) if self.dry else SIZES


@dataclass(frozen=True)
class Case:
    """What is measured."""

    backbone: str
    endpoint: str | None
    label: str
    precision: str


class Enough(Exception):  # noqa: N818 - it is not an error
    """Ends a measurement."""


class SparseStreams(LiveStreams):
    """Computes the first of every ``step`` clips, and drops the others."""

    step = 1

    def _take(self, camera: _Camera, worker: int, clip: ClipReady) -> None:
        super()._take(camera, worker, clip)
        if clip.clip_index % self.step:
            self._drop(camera, newest=True)


@dataclass
class Meter:
    """Counts clips from the end of the warm-up on."""

    seconds: float
    times: list[float] = field(default_factory=list)
    """When a clip was told, the dropped ones too."""
    num_computed: int = 0
    _warm_at: float = math.inf

    def hear(self, _piece: Piece, news: News) -> None:
        """Count a clip; raises `Enough` when there are."""
        if not isinstance(news, SeenClip):
            return
        now, is_computed = time.perf_counter(), news.features is not None
        if is_computed and self._warm_at == math.inf:
            self._warm_at = now + WARM_UP_SECONDS
        if now < self._warm_at:
            return
        self.num_computed += is_computed and bool(self.times)
        self.times.append(now)
        lasted = now - self.times[0]
        if lasted >= 4 * self.seconds or (
            lasted >= self.seconds and self.num_computed >= MIN_CLIPS
        ):
            raise Enough

    @property
    def rate(self) -> float:
        """Clips a second, of cameras that are followed, computed or not."""
        if len(self.times) < 2:
            raise UserError("the streams ended too soon: lower --seconds")
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def cases(options: Options) -> list[Case]:
    """What is measured: decoding, then the layers, each in fp32 and what vigil would choose."""
    decoding = Case(standin.INSTANT, None, DECODING, "fp32")
    if options.dry:
        return [decoding, replace(decoding, label="nothing")]
    (device, *_) = select_devices(options.device)
    best = choose_precision("auto", [device])
    starter = load_checkpoint(STARTER).config.spec.endpoint
    layers = {**{name: name for name in ("Mixed_4d", "Mixed_4f", "AvgPool")}, "starter": starter}
    return [decoding] + [
        Case("i3d", layer, label, precision)
        for label, layer in layers.items()
        for precision in dict.fromkeys(("fp32", best))
    ]


def engine_of(case: Case, options: Options, thumbnails: Path) -> Engine:
    """The engine as `vigil watch` has it."""
    networks = load_networks(case.backbone, case.endpoint, "random")
    endpoint = "+".join(network.endpoint for network in networks)
    spec = FeatureSpec(case.backbone, endpoint, joint_weights(networks).digest)
    compute = ComputeOptions(device=options.device, precision=case.precision)  # type: ignore[arg-type]
    return replace(make_engine(networks, spec, ("center",), compute), thumbnails=thumbnails)


def measure(engine: Engine, video: Path, step: int, options: Options, folder: Path) -> float:
    """Clips a second that the machine keeps up with."""
    sources = [LiveSource(str(number), f"file://{video}") for number in range(num_cores())]
    meter = Meter(options.seconds)
    live = SparseStreams(sources, meter.hear)
    live.step = step
    try:
        with closing(engine.extract((), folder / "features", live=live)) as run:
            for _ in run:
                pass
    except Enough:
        pass
    return meter.rate


def rows(options: Options, folder: Path) -> Iterator[list[str]]:
    """Yield the table's rows."""
    videos = []
    for width, height in options.sizes:
        drawn = draw_video(folder / f"{height}.mp4", width, height, DRAWN_SECONDS * FPS, fps=FPS)
        videos.append(repeat_video(drawn, folder / f"{height}-long.mp4", NUM_REPEATS))
    for case in cases(options):
        engine = engine_of(case, options, folder / "thumbnails")
        cells = [case.label, "" if case.label == DECODING else case.precision]
        for video in videos:
            rate = measure(engine, video, 1, options, folder)
            cells += [figure(rate), figure(rate * CLIP_FRAMES / FPS), ""]
            if case.label != DECODING:
                cells[-1] = figure(
                    measure(engine, video, STEP, options, folder) * CLIP_FRAMES / FPS
                )
        yield cells


def header(sizes: Sequence[tuple[int, int]]) -> list[str]:
    """The names of the columns."""
    columns = ["layer", "precision"]
    for width, height in sizes:
        size = f">{width}x{height}"
        columns += [f"{size}: clips/s", ">cameras", ">every 4th clip: cameras"]
    return columns


def main(options: Options) -> None:
    """Print the table."""
    standin.register()
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as name:
        found = list(rows(options, Path(name)))
    device = select_devices(options.device)[0]
    print(*describe(device, "bench.sizing"), f"threads: {torch.get_num_threads()}", sep="\n")
    print()
    print(markdown(header(options.sizes), found))


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, prog="python -m bench.sizing"))
    except UserError as error:
        sys.exit(f"error: {error}")
