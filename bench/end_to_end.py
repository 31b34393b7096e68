"""Videos in, feature files out: `vigil extract` against the naive way, on the same videos."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from bench.options import Options
from bench.processes import naive_extract, run_python, vigil_extract
from bench.table import Row
from bench.videos import chosen_videos
from vigil.extract.clips import CLIP_FRAMES, ClipGrid
from vigil.extract.store import SUFFIX
from vigil.extract.views import view_names

SECTION = "end to end"
VIEWS = "five"
NUM_DRAWN, DRAWN_FRAMES = 4, 128


def measure(options: Options, folder: Path) -> Iterator[Row]:
    """Yield the seconds that both take, including the start of Python.

    Each runs once, because the videos take most of the time.
    """
    sizes = [(320, 240)] * NUM_DRAWN
    videos = chosen_videos(options, folder, sizes, DRAWN_FRAMES)
    naive, store, log = folder / "naive", folder / "store", folder / "log.json"
    naive_seconds = run_python(naive_extract(options, videos, naive, VIEWS))
    arguments = vigil_extract(options, videos, store, VIEWS)
    seconds = run_python([*arguments, "--log-json", str(log)])
    names = [video.name for video in videos.iterdir()]
    num_frames = [num_decoded(store / f"{name}{SUFFIX}") for name in names]
    grid = ClipGrid(CLIP_FRAMES, CLIP_FRAMES)
    num_views = sum(len(grid.frame_ranges(n)) for n in num_frames) * len(view_names(VIEWS))
    agreement = f"cosine to the naive way at least {least_cosine(store, naive, names):.5f}"
    notes = {"naive": f"{len(names)} videos, {VIEWS} views", "vigil": f"{told(log)}; {agreement}"}
    for name, taken in {"naive": naive_seconds, "vigil": seconds}.items():
        ratio = naive_seconds / taken
        yield Row(SECTION, f"{name}, wall time", taken, "s", taken / naive_seconds)
        yield Row(SECTION, f"{name}, network", num_views / taken, "clip-views/s", ratio)
        rate = sum(num_frames) / taken
        yield Row(SECTION, f"{name}, videos", rate, "frames/s", ratio, notes[name])


def num_decoded(path: Path) -> int:
    """The number of decoded frames behind a feature file."""
    with h5py.File(path) as file:
        return int(file.attrs["num_frames_decoded"])


def least_cosine(store: Path, naive: Path, names: list[str]) -> float:
    """The lowest cosine between a video's features in a store and its naive ones."""
    cosines = []
    for name in names:
        with h5py.File(store / f"{name}{SUFFIX}") as file:
            features = np.asarray(file["segments/features"], dtype=np.float64).ravel()
        expected = np.load(naive / f"{name}.npy").astype(np.float64).ravel()
        lengths = np.linalg.norm(features) * np.linalg.norm(expected)
        cosines.append(float(features @ expected / lengths))
    return min(cosines)


def told(log: Path) -> str:
    """The load and the bottleneck that the run reported at its end (`extract.engine.activity`)."""
    messages = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    found = [re.search(r"device busy.*", message) for message in messages]
    return [match[0] for match in found if match][-1]
