"""The cost of starting: the help text, and one short video against the naive way."""

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

from bench.options import Options
from bench.processes import naive_extract, run_python, vigil_extract
from bench.table import Row, shortest_seconds
from bench.videos import FPS, draw_video

SECTION = "start"
VIEWS = "center"


def measure(options: Options, folder: Path) -> Iterator[Row]:
    """Yield the seconds of `vigil --help`, and those of one video of 2 seconds."""
    commands = {
        "bare Python": ["-c", "pass"],
        "vigil --help": ["-m", "vigil.pipeline.cli", "--help"],
    }
    helped = {name: partial(run_python, command) for name, command in commands.items()}
    yield from _rows(shortest_seconds(helped, options.repeats))
    videos = folder / "videos"
    videos.mkdir()
    draw_video(videos / "short.mp4", 320, 240, 2 * FPS)
    outputs = (folder / f"output_{number}" for number in count())
    extracted = {
        "naive, a video of 2 s": lambda: run_python(
            naive_extract(options, videos, next(outputs), VIEWS)
        ),
        "vigil extract, a video of 2 s": lambda: run_python(
            vigil_extract(options, videos, next(outputs), VIEWS)
        ),
    }
    yield from _rows(shortest_seconds(extracted, options.repeats, warm_up=False))


def _rows(seconds: dict[str, float]) -> Iterator[Row]:
    first = next(iter(seconds.values()))
    for name, taken in seconds.items():
        yield Row(SECTION, name, taken, "s", taken / first)
