"""`python -m bench.live_and_files VIDEO...`: is a video that runs scored like its file?

Each video is scored by `vigil score`, and played as a stream to `vigil watch`. Scores and events
must be the same, but for rounding.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from bench.processes import run_python
from vigil.extract.errors import UserError
from vigil.pipeline.scoring.results import VideoResult, read_results

MAX_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Options:
    """Compare the scores of videos with those of the same videos played; exit code 1 if unlike."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Videos with different names."""


def main(options: Options) -> int:
    """Print the largest differences; return 0 if there are none but for rounding."""
    by_stem = {path.stem: path.absolute() for path in options.videos}
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as name:
        folder = Path(name)
        cameras = folder / "cameras.toml"
        tables = [
            f'[[camera]]\nname = "{stem}"\naddress = "file://{path}"\n'
            for stem, path in by_stem.items()
        ]
        cameras.write_text("\n".join(tables), encoding="utf-8")
        scored, played = folder / "scored", folder / "played"
        cli = ["-m", "vigil.pipeline.cli"]
        run_python([*cli, "score", *map(str, by_stem.values()), "--out", str(scored)])
        run_python([*cli, "watch", "--cameras", str(cameras), "--once", "--out", str(played)])
        files = {Path(one.video).stem: one for one in read_results(scored).videos}
        streams = {one.video.partition("/")[0]: one for one in read_results(played).videos}
    worst = max(difference(files[stem], streams[stem]) for stem in by_stem)
    events = sum(len(one.events) for one in files.values())
    print(f"{len(by_stem)} videos, {events} events: scores differ by at most {worst:.1e}")
    return 0 if worst <= MAX_DIFFERENCE else 1


def difference(file: VideoResult, stream: VideoResult) -> float:
    """The largest difference of a score; infinite if segments, labels or events differ."""

    def places(result: VideoResult) -> list[tuple[int, int]]:
        segments = [(one.start_frame, one.stop_frame) for one in result.segments]
        return segments + [(one.start_frame, one.stop_frame) for one in result.events]

    if places(file) != places(stream) or file.label != stream.label:
        return float("inf")
    pairs = zip(file.segments, stream.segments, strict=True)
    return float(np.max([abs(one.score - other.score) for one, other in pairs]))


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.live_and_files")))
    except UserError as error:
        sys.exit(f"error: {error}")
