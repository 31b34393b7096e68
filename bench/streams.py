"""`python -m bench.streams VIDEO`: follow four streams in real time, two of which break.

Two cameras speak RTSP, one sends a transport stream over HTTP, one over UDP. After a quarter of the
time the first is cut off, after half of it the third; after three quarters the fourth changes its
resolution. Lag and memory are plotted, and must stay flat. It needs Debian's ffmpeg and what
`bench/rtsp_server.py` names. VIDEO is of H.264, and at least as long as the run.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import tyro
from matplotlib.figure import Figure

from bench.processes import ROOT, Program, cheap_vigil, own_memory, running
from bench.reliability.tiny import make_run
from bench.standin import INSTANT
from vigil.extract.errors import UserError

CAMERAS = ("rtsp-1", "rtsp-2", "http", "udp")
CUT = {"rtsp-1": 0.25, "http": 0.5}
"""Camera -> when it is cut off, as a share of the time."""
CUT_SECONDS = 20.0
RESIZED_AT = 0.75
OTHER_SIZE = "480:360"
SAMPLE_SECONDS = 2.0
FIRST_PORT = 8654
MAX_GROWTH = 0.1
MAX_MORE_LAG = 2.0
"""Seconds by which the median lag of the last fifth may exceed that of the first."""


@dataclass(frozen=True)
class Options:
    """Follow four streams, and check that neither lag nor memory grows; exit code 1 if one does."""

    video: tyro.conf.Positional[Path]
    """What the cameras show."""
    minutes: float = 20
    """How long."""
    backbone: str = INSTANT
    """The network that a tiny run uses; by default one that computes almost nothing."""
    checkpoint: Path | None = None
    """A run to score with instead; `starter` is that of vigil, with the whole network."""
    when_late: str = "drop-oldest"
    """What to do if the device is late."""
    plot: Path = Path("docs/live.png")
    """File of the plot."""


@dataclass
class Sample:
    """What is known at a moment."""

    seconds: float
    memory: int
    figures: dict[tuple[str, str], float] = field(default_factory=dict)
    """Name of a figure and a camera -> its value."""


class Camera:
    """A stream on loopback that can be cut off and changed."""

    def __init__(self, name: str, video: Path, port: int) -> None:
        """Start to send."""
        self.name, self._video, self._port = name, video, port
        self._size: str | None = None
        self.start()

    @property
    def address(self) -> str:
        """Where to find it."""
        scheme = self.name.partition("-")[0]
        return f"{scheme}://127.0.0.1:{self._port}" + ("/stream" if scheme != "udp" else "")

    def start(self) -> None:
        """Send from the beginning of the video."""
        self._process = subprocess.Popen(self._command(), stderr=subprocess.DEVNULL)

    def watch(self) -> None:
        """Send again if the other side hung up: ffmpeg then ends."""
        if self._process.poll() is not None and not self.is_cut:
            self.start()

    is_cut = False

    def cut(self) -> None:
        """Send nothing more."""
        self._process.kill()
        self._process.wait()

    def resize(self) -> None:
        """Send pictures of another size."""
        self.cut()
        self._size = OTHER_SIZE
        self.start()

    def _command(self) -> list[str]:
        if self.name.startswith("rtsp"):
            server = ROOT / "bench/rtsp_server.py"
            return ["/usr/bin/python3", str(server), str(self._video), str(self._port)]
        quick = ["-vf", f"scale={self._size}", "-c:v", "libx264", "-preset", "ultrafast", "-an"]
        how = quick if self._size else ["-c:v", "copy", "-an"]
        listen = ["-listen", "1"] if self.name == "http" else []
        source = ["ffmpeg", "-v", "error", "-re", "-i", str(self._video)]
        return [*source, *how, "-f", "mpegts", *listen, self.address]


def main(options: Options) -> int:
    """Print and plot what happened; return 0 if all is as it should be."""
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        cameras = [
            Camera(name, options.video, FIRST_PORT + number) for number, name in enumerate(CAMERAS)
        ]
        for camera in cameras:
            stack.callback(camera.cut)
        program = stack.enter_context(running(watching(options, folder, cameras)))
        samples = list(follow(options, program, cameras))
        program.process.terminate()
        program.require_success()
        pieces = re.findall(r"INFO: (\S+): (\d+x\d+), ", program.messages())
    plot(samples, options)
    return judge(samples, pieces)


def watching(options: Options, folder: Path, cameras: Sequence[Camera]) -> list[str]:
    """The arguments of `python` that follow the cameras."""
    table = folder / "cameras.toml"
    table.write_text(
        "\n".join(f'[[camera]]\nname = "{one.name}"\naddress = "{one.address}"' for one in cameras)
    )
    how = ["--cameras", table, "--out", folder / "results", "--when-late", options.when_late]
    how += ["--metrics", f"127.0.0.1:{FIRST_PORT + len(CAMERAS)}"]
    run = options.checkpoint or make_run(folder, options.backbone)
    return cheap_vigil("watch", *how, *([] if str(run) == "starter" else ["--checkpoint", run]))


def follow(options: Options, program: Program, cameras: Sequence[Camera]) -> Iterator[Sample]:
    """Sample until the time is over, and disturb the cameras meanwhile."""
    begun, total = time.monotonic(), 60 * options.minutes
    resized = False
    while (passed := time.monotonic() - begun) < total:
        if program.wait(SAMPLE_SECONDS) is not None:
            program.require_success()
            raise UserError(f"vigil watch ended early: {program.messages()[-2000:]}")
        for camera in cameras:
            since = passed - CUT.get(camera.name, 2) * total
            if 0 <= since < CUT_SECONDS and not camera.is_cut:
                camera.cut()
            camera.is_cut = 0 <= since < CUT_SECONDS
            camera.watch()
        if passed >= RESIZED_AT * total and not resized:
            cameras[CAMERAS.index("udp")].resize()
            resized = True
        yield Sample(passed, own_memory(program.memory()), figures())


def figures() -> dict[tuple[str, str], float]:
    """The figures by camera that vigil tells now; none before it does."""
    found = {}
    address = f"http://127.0.0.1:{FIRST_PORT + len(CAMERAS)}/metrics"
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1) as page:
        for line in page.read().decode().splitlines():
            if match := re.fullmatch(r'(\w+)\{camera="([^"]+)"\} (\S+)', line):
                found[match[1], match[2]] = float(match[3])
    return found


def judge(samples: Sequence[Sample], pieces: Sequence[tuple[str, str]]) -> int:
    """Print the figures of each camera, and return 0 if lag and memory are flat."""
    sizes = defaultdict(list)
    for camera, size in pieces:
        sizes[camera].append(size)
    is_flat = True
    for camera in CAMERAS:
        lags = [
            one.figures["vigil_lag_seconds", camera]
            for one in samples
            if ("vigil_lag_seconds", camera) in one.figures
        ]
        fifth = max(1, len(lags) // 5)
        first, last = median(lags[:fifth]), median(lags[-fifth:])
        is_flat &= last <= first + MAX_MORE_LAG
        final = samples[-1].figures
        num_clips = final.get(("vigil_clips_total", camera), 0)
        num_dropped = final.get(("vigil_clips_dropped_total", camera), 0)
        print(
            f"{camera}: lag {first:.2f} s in the first fifth, {last:.2f} s in the last, at most "
            f"{max(lags):.2f} s; {num_clips:.0f} clips, {num_dropped:.0f} dropped; "
            f"pieces {', '.join(sizes[camera])}"
        )
    steady = [one.memory for one in samples[len(samples) // 10 :]]
    quarter = len(steady) // 4
    before, after = median(steady[:quarter]), median(steady[-quarter:])
    print(
        f"memory: {before / 1e6:.0f} MB, at the end {after / 1e6:.0f} MB "
        f"({after / before - 1:+.1%})"
    )
    has_resumed = all(len(sizes[camera]) >= 2 for camera in (*CUT, "udp"))
    print(f"resumed after cuts, and followed the other size: {has_resumed}")
    return 0 if is_flat and has_resumed and after <= (1 + MAX_GROWTH) * before else 1


def plot(samples: Sequence[Sample], options: Options) -> None:
    """Plot lag and memory over time."""
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    minutes = [one.seconds / 60 for one in samples]
    for camera in CAMERAS:
        lags = [one.figures.get(("vigil_lag_seconds", camera), float("nan")) for one in samples]
        above.plot(minutes, lags, label=camera, linewidth=1)
    above.set(ylabel="lag, s", ylim=(0, None))
    above.legend(loc="upper left", ncols=4, fontsize="small")
    below.plot(minutes, [one.memory / 1e6 for one in samples], color="black", linewidth=1)
    below.set(xlabel="minutes", ylabel="memory, MB", ylim=(0, None))
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.plot)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.streams")))
    except UserError as error:
        sys.exit(f"error: {error}")
