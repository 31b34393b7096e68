"""`make soak`: pass an hour of video through `vigil score`, and measure the memory it takes.

The plot shows the run's own memory over time, which should be flat. With `--kills`, a second run is
killed and started again, and must end with the same results.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import tyro
from matplotlib.figure import Figure

from bench.processes import cheap_vigil, running
from bench.reliability.compare import differences, results_content
from bench.reliability.soak_kills import score_killed
from bench.reliability.tiny import make_run
from bench.standin import NAME
from bench.videos import FPS, draw_video, repeat_video
from vigil.extract.errors import UserError

LONGEST = "0.mp4"
SCENE_SECONDS = 60
MAX_GROWTH = 0.1
"""Growth of memory from the first to the last quarter that still counts as flat."""


@dataclass(frozen=True)
class Options:
    """Score long videos, and plot the memory that takes.

    Exit code 1 unless the memory is flat, and kills change nothing.
    """

    minutes: float = 60
    """Total length of the videos."""
    videos: int = 4
    """Number of videos; the first has half of the total length, and is read in parts."""
    backbone: str = NAME
    """The network; by default a stand-in that only waits, like a fast device."""
    fps: int = FPS
    """Frames per second of the videos; a day of video is sooner read with few."""
    bits_per_pixel: float | None = None
    """Bits per pixel and frame of the videos; by default as many as in UCF-Crime."""
    kills: int = 0
    """Kill a second run so often: the last time while it scores, before while it extracts."""
    plot: Path = Path("docs/soak.png")
    """File of the plot."""


@dataclass(frozen=True)
class Sample:
    """Memory at a moment."""

    seconds: float
    """Since the start of the program."""
    num_bytes: int


def main(options: Options) -> int:
    """Print and plot what the runs did; return 0 if all is as it should be."""
    with tempfile.TemporaryDirectory(prefix="vigil-soak-") as name:
        folder = Path(name)
        videos = draw_hours(options, folder / "videos")
        run = make_run(folder, options.backbone)
        results = folder / "results"
        samples = score(scoring(videos, run, results))
        first, last = quarter_means(samples)
        plot(samples, options)
        print(
            f"{options.minutes:g} minutes of video in {samples[-1].seconds:.0f} s: mean of the "
            f"first quarter {first / 1e6:.0f} MB, of the last {last / 1e6:.0f} MB "
            f"({last / first - 1:+.1%}), "
            f"peak {max(sample.num_bytes for sample in samples) / 1e6:.0f} MB; "
            f"plot {options.plot}",
            flush=True,
        )
        changed = options.kills > 0 and kills_change(options, videos, run, results)
    return 0 if last <= (1 + MAX_GROWTH) * first and not changed else 1


def kills_change(options: Options, videos: Path, run: Path, results: Path) -> bool:
    """Kill a second run, print what happens, and return whether its results differ at last."""
    again = results.with_name("killed")
    arguments = scoring(videos, run, again)
    for news in score_killed(arguments, again, results, LONGEST, options.kills):
        print(news, flush=True)
    differing = differences(results_content(results), results_content(again))
    print(f"differing from the undisturbed run: {', '.join(differing) or 'nothing'}")
    return bool(differing)


def draw_hours(options: Options, folder: Path) -> Path:
    """Write the videos, which repeat one scene."""
    folder.mkdir()
    num_frames, bits = SCENE_SECONDS * options.fps, options.bits_per_pixel
    scene = draw_video(folder.parent / "scene.mp4", 320, 240, num_frames, bits, fps=options.fps)
    turns = max(2, round(options.minutes * 60 / SCENE_SECONDS))
    others = turns // 2 // max(1, options.videos - 1)
    repeat_video(scene, folder / LONGEST, turns - others * (options.videos - 1))
    for number in range(1, options.videos):
        repeat_video(scene, folder / f"{number}.mp4", others)
    return folder


def scoring(videos: Path, run: Path, results: Path) -> list[str]:
    """The arguments of `python` that score the videos."""
    where = videos, "--checkpoint", run, "--out", results
    return cheap_vigil("score", *where, "--workers", 2)


def score(arguments: list[str]) -> list[Sample]:
    """Run `vigil score` and sample its memory from its start to its end.

    Raises:
        UserError: it failed; contains its messages.
    """
    started = time.monotonic()
    with running(arguments) as program:
        samples = [Sample(time.monotonic() - started, held) for held in program.samples()]
        program.require_success()
    return samples


def quarter_means(samples: list[Sample]) -> tuple[float, float]:
    """Mean bytes in the first and in the last quarter of the time.

    Without the tenth at either end, in which the program starts or writes its results.

    Raises:
        UserError: there are too few samples.
    """
    tenth = len(samples) // 10
    steady = [sample.num_bytes for sample in samples[tenth : len(samples) - tenth]]
    quarter = len(steady) // 4
    if not quarter:
        raise UserError("the run was too short to compare its memory: increase --minutes")
    return fmean(steady[:quarter]), fmean(steady[-quarter:])


def plot(samples: list[Sample], options: Options) -> None:
    """Plot memory over time."""
    figure = Figure(figsize=(8, 3), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [sample.seconds for sample in samples], [sample.num_bytes / 1e6 for sample in samples]
    )
    axes.set(xlabel="seconds", ylabel="MB", ylim=(0, None))
    axes.set_title(
        f"vigil score, {options.minutes:g} minutes of video: memory of all its processes"
    )
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.plot)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.reliability.soak")))
    except UserError as error:
        sys.exit(f"error: {error}")
