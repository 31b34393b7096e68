"""`python -m bench.static_skip [VIDEOS]`: what --static skip saves, and what it changes.

The starter scores the videos with and without it. CPU time counts, of all processes, on which other
programs have little influence. Without videos, a night of a fixed camera is drawn: sensor noise, a
lamp that dims slowly, H.264 at 0.3 Mb/s with a keyframe every two seconds, and every three minutes
somebody in the distance who comes, stands still for a while, and goes on.
"""

import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import tyro
from tyro.conf import Positional

from bench.machine import describe
from bench.processes import run_python
from vigil.extract.errors import UserError
from vigil.extract.networks.hardware import select_device
from vigil.extract.store import feature_path, read_identity
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.results import VideoResult, read_results

WIDTH, HEIGHT, FPS = 320, 240, 25
BIT_RATE, KEYFRAME_SECONDS = 300_000, 2
NOISE, CONTRAST = 4.0, 25
"""Grey levels: standard deviation of a pixel's noise; difference of a figure from the ground."""
FIGURE = 24, 8
"""Height and width of a passer-by in pixels."""
EVERY_SECONDS, WALK_SECONDS, STAND_SECONDS = 180, 10, 10
MIN_WALKING_FRAMES = 4
"""A clip with fewer frames in which somebody walks does not count."""


@dataclass(frozen=True)
class Options:
    """Score videos with and without --static skip, and compare."""

    videos: Positional[tuple[Path, ...]] = ()
    """Videos with different names; without any, a night is drawn."""
    minutes: float = 10.0
    """Length of the night."""
    out: Path | None = None
    """Keep the results here."""


def main(options: Options) -> None:
    """Print what is saved, and the differences."""
    print(*describe(select_device("cpu"), "bench.static_skip"), sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as name:
        out = options.out or Path(name)
        videos = options.videos or (draw_night(Path(name) / "night.mp4", options.minutes),)
        seconds = {way: score(videos, out / way, way) for way in ("skip", "compute")}
        skip, compute = seconds["skip"], seconds["compute"]
        print(f"{skip:.0f} s of CPU time instead of {compute:.0f}: {compute / skip:.1f} times less")
        computed = {video.name: clips_computed(out / "skip", video.name) for video in videos}
        every = np.concatenate([*computed.values()])
        print(f"{np.mean(~every):.1%} of {len(every)} clips skipped")
        if not options.videos:
            tell_missed(computed["night.mp4"], options.minutes)
        tell_differences(out / "compute", out / "skip")


def score(videos: Sequence[Path], out: Path, way: str) -> float:
    """Score videos with the starter, and return the seconds of CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["-m", "vigil.pipeline.cli", "score", *(str(one.absolute()) for one in videos)]
    run_python([*arguments, "--out", str(out), "--static", way, "--format", "json"])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def clips_computed(results: Path, video: str) -> npt.NDArray[np.bool_]:
    """Which clips of a video were computed."""
    computed = read_identity(feature_path(results / "features", video)).clip_computed
    assert computed is not None  # they were scored with --static skip
    return computed


def tell_missed(computed: npt.NDArray[np.bool_], minutes: float) -> None:
    """Print how many clips that show somebody walking were skipped."""
    walking = np.array([figure_left(index) is not None for index in range(num_frames(minutes))])
    moving = walking & ~np.array([is_standing(index) for index in range(len(walking))])
    seen = np.add.reduceat(moving, np.arange(0, len(moving), 64)) >= MIN_WALKING_FRAMES
    missed = (seen & ~computed).sum()
    print(f"of {seen.sum()} clips in which somebody walks, {missed} skipped")


def tell_differences(compute: Path, skip: Path) -> None:
    """Print the largest change of a score, and the events lost and found."""
    every = {one.video: one for one in read_results(compute).videos}
    others = {one.video: one for one in read_results(skip).videos}
    changes = [(largest_change(every[name], others[name]), name) for name in every]
    lost = sum(len(missing(every[name].events, others[name].events)) for name in every)
    new = sum(len(missing(others[name].events, every[name].events)) for name in every)
    num_events = sum(len(one.events) for one in every.values())
    print(f"scores change by {max(changes)[0]:.3f} at most, in {max(changes)[1]}")
    print(f"of {num_events} events, {lost} lost; {new} others")


def largest_change(one: VideoResult, other: VideoResult) -> float:
    """The largest difference of the scores of a segment."""
    pairs = zip(one.segments, other.segments, strict=True)
    return max(abs(left.score - right.score) for left, right in pairs)


def missing(events: Sequence[Event], others: Sequence[Event]) -> list[Event]:
    """The events that overlap none of the others."""
    return [
        one
        for one in events
        if all(
            other.stop_frame <= one.start_frame or one.stop_frame <= other.start_frame
            for other in others
        )
    ]


def num_frames(minutes: float) -> int:
    """Number of frames of the night."""
    return round(60 * minutes * FPS)


def is_standing(index: int) -> bool:
    """Whether the passer-by of a frame stands still."""
    since = index / FPS % EVERY_SECONDS - EVERY_SECONDS / 2
    return WALK_SECONDS / 2 <= since < WALK_SECONDS / 2 + STAND_SECONDS


def figure_left(index: int) -> int | None:
    """The left edge of the passer-by in a frame; None: nobody is there."""
    since = index / FPS % EVERY_SECONDS - EVERY_SECONDS / 2
    walked = since - min(max(since - WALK_SECONDS / 2, 0), STAND_SECONDS)
    if not 0 <= walked < WALK_SECONDS:
        return None
    return int(walked / WALK_SECONDS * (WIDTH - FIGURE[1]))


def draw_frames(minutes: float) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames of the night, (HEIGHT, WIDTH) grey."""
    random = np.random.default_rng(0)
    coarse = random.integers(20, 90, (HEIGHT // 16, WIDTH // 16)).repeat(16, 0).repeat(16, 1)
    scene = coarse + random.integers(0, 20, (HEIGHT // 2, WIDTH // 2)).repeat(2, 0).repeat(2, 1)
    grain = random.normal(0, NOISE, (HEIGHT + 64, WIDTH + 64)).astype(np.float32)
    height, width = FIGURE
    for index in range(num_frames(minutes)):
        light = 1 + 0.2 * np.sin(2 * np.pi * index / FPS / 3600)
        picture = (scene * light).astype(np.float32)
        left = figure_left(index)
        if left is not None:
            picture[HEIGHT // 2 : HEIGHT // 2 + height, left : left + width] += CONTRAST
        down, right = random.integers(0, 64, 2)
        picture += grain[down : down + HEIGHT, right : right + WIDTH]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def draw_night(path: Path, minutes: float) -> Path:
    """Write the night as a video."""
    options = {"preset": "veryfast", "g": str(KEYFRAME_SECONDS * FPS)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = BIT_RATE
        for picture in draw_frames(minutes):
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, prog="python -m bench.static_skip"))
    except UserError as error:
        sys.exit(f"error: {error}")
