"""`python -m bench.cluster`: what a cluster costs and survives, on nodes within this machine.

`overhead`: videos of a minute, extracted by vigil alone and with ``--cluster auto``, in turns. Work
counts from the plan to the summary, as the log files have them; the start of Ray stands apart.
`object-store`: the same videos the other way: actors decode, and send clips through Ray's object
store to an actor with the network. Pooling and writing are left out there.
`losses`: short videos on three nodes, of which two are killed one after the other, and the driver
once; the features must be those of one machine.

The network is a stand-in that sleeps 14 ms a clip, so decoding is the bottleneck, and what Ray
costs shows most.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
import numpy.typing as npt
import torch
import tyro

from bench import machine, standin
from bench.processes import ROOT, Program, cheap_vigil, run_python, running
from bench.table import Row, render
from bench.videos import draw_video
from vigil.extract.clips import CLIP_FRAMES, VIEW_SIZE, ClipGrid
from vigil.extract.decode.reader import Clip, ReadingOptions, read_video
from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import UserError
from vigil.extract.source import SourceVideo
from vigil.extract.store import SUFFIX, list_features
from vigil.pipeline.options import VIDEO_EXTENSIONS

Part = Literal["overhead", "object-store", "losses"]
PARTS: tuple[Part, ...] = get_args(Part)
MAX_ON_THE_WAY = 8
"""Clips between decoding and the network, as many as a ring holds."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    parts: tyro.conf.Positional[tuple[Part, ...]] = PARTS
    num_videos: int = 8
    """Videos of a minute."""
    num_short: int = 60
    """Videos for losses."""
    short: Path | None = None
    """Folder of videos, of which the first ones are used for losses; by default they are drawn, of
    five seconds."""
    repeats: int = 2
    """Turns, of which the shortest time counts."""


def draw_copies(folder: Path, number: int, seconds: int) -> Path:
    """Create a folder with a drawn video, 320x240 at 30 frames a second, and copies of it."""
    folder.mkdir()
    first = draw_video(folder / "000.mp4", 320, 240, 30 * seconds)
    for copy in range(1, number):
        shutil.copy(first, folder / f"{copy:03}.mp4")
    return folder


def extract(videos: Path, out: Path, *flags: str) -> list[str]:
    """The arguments of `python` that extract videos into a fresh folder."""
    return cheap_vigil("extract", videos, "--out", out, "--device", "cpu", *flags)


def timed(videos: Path, folder: Path, *flags: str) -> tuple[float, float]:
    """Seconds of work, and seconds before and after it, of an extraction."""
    out, log = folder / "out", folder / "log.json"
    for path in (out, log):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    wall = run_python(extract(videos, out, *flags, "--log-json", str(log)))
    said = [json.loads(line) for line in log.read_text().splitlines()]
    begun, ended = (
        next(datetime.fromisoformat(one["time"]) for one in said if re.search(what, one["message"]))
        for what in (r"\d to extract, ", r"^\d+ extracted.*, 0 failed")
    )
    work = (ended - begun).total_seconds()
    return work, wall - work


def overhead(options: Options, folder: Path) -> Iterator[Row]:
    """Yield the seconds a video of one machine, and those on a cluster."""
    videos = draw_copies(folder / "videos", options.num_videos, 60)
    ways: dict[str, tuple[str, ...]] = {"alone": (), "--cluster auto": ("--cluster", "auto")}
    taken = {way: [timed(videos, folder, *flags) for _ in [0]] for way, flags in ways.items()}
    for _ in range(options.repeats - 1):
        for way, flags in ways.items():
            taken[way].append(timed(videos, folder, *flags))
    alone = min(taken["alone"])[0]
    for way, times in taken.items():
        work, rest = min(times)
        yield Row("overhead", f"{way}, a video", work / options.num_videos, "s", work / alone)
        yield Row("overhead", f"{way}, start and end", rest, "s", rest / min(taken["alone"])[1])


class Decoding:
    """An actor that decodes."""

    def clips(self, path: Path) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the clips (64, H, W, 3) of a video."""
        reading = ReadingOptions(ClipGrid(CLIP_FRAMES, CLIP_FRAMES), 256)
        for message in read_video(SourceVideo(path, path.name), reading):
            if isinstance(message, Clip):
                yield message.pixels.copy()


class Computing:
    """An actor with the network."""

    def __init__(self) -> None:
        """Build it."""
        standin.register()
        self._network = standin.Standin(standin.SECONDS_PER_VIEW).eval()

    def feature(self, clip: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The feature (7, 1024) of a clip's center."""
        top, left = (clip.shape[1] - VIEW_SIZE) // 2, (clip.shape[2] - VIEW_SIZE) // 2
        view = clip[::8][:7, top : top + VIEW_SIZE, left : left + VIEW_SIZE]
        with torch.inference_mode():
            pixels = torch.from_numpy(view.astype(np.float32)).permute(3, 0, 1, 2)
            features: npt.NDArray[np.float32] = self._network(pixels[None])[0].numpy()
        return features


def object_store(options: Options, folder: Path) -> Iterator[Row]:
    """Yield the seconds a video if clips go through the object store, against the engine's."""
    ray: Any = import_module("ray")
    videos = draw_copies(folder / "videos", options.num_videos, 60)
    ray.init(
        "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", num_cpus=2
    )
    decoding = ray.remote(Decoding).options(num_cpus=1).remote()
    computing = ray.remote(Computing).options(num_cpus=1).remote()
    ray.get([decoding.__ray_ready__.remote(), computing.__ray_ready__.remote()])
    engine, store, num_bytes = [], [], 0
    for _ in range(options.repeats):
        engine.append(timed(videos, folder, "--workers", "1")[0])
        begun, on_the_way = time.perf_counter(), deque[Any]()
        for path in sorted(videos.iterdir()):
            how = {"num_returns": "streaming", "_generator_backpressure_num_objects": 4}
            for clip in decoding.clips.options(**how).remote(path):
                on_the_way.append(computing.feature.remote(clip))
                if len(on_the_way) > MAX_ON_THE_WAY:
                    ray.get(on_the_way.popleft())
        ray.get(list(on_the_way))
        store.append(time.perf_counter() - begun)
    num_bytes = ray.get(clip).nbytes
    ray.shutdown()
    alone = min(engine)
    note = f"{num_bytes / 1e6:.0f} MB a clip"
    for what, taken, said in (("engine", alone, ""), ("clips through Ray", min(store), note)):
        each = taken / options.num_videos
        yield Row("object store", f"{what}, a video", each, "s", taken / alone, said)


def losses(options: Options, folder: Path) -> Iterator[Row]:
    """Yield what two killed nodes and a killed driver cost.

    Raises:
        UserError: a feature differs from one machine's, or was computed twice after it was there.
    """
    videos, local, far = (folder / name for name in ("videos", "local", "far"))
    if options.short is None:
        draw_copies(videos, options.num_short, 5)
    else:
        videos.mkdir()
        found = find_videos([str(options.short)], VIDEO_EXTENSIONS).videos
        for number, video in enumerate(found[: options.num_short]):
            shutil.copy(video.path, videos / f"{number:03}{video.path.suffix}")
    alone = run_python(extract(videos, local))
    utils: Any = import_module("ray.cluster_utils")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    arguments = extract(videos, far, "--cluster", cluster.address)
    begun = time.perf_counter()
    with running(arguments) as first:
        _wait_for(far, options.num_short // 4, first)
        first.process.kill()
    before = _times(far)
    with running(arguments) as second:
        for share in (2, 3):
            _wait_for(far, share * options.num_short // 4, second)
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.insert(0, cluster.add_node(num_cpus=1))
        second.require_success()
    seconds = time.perf_counter() - begun
    cluster.shutdown()
    if _digests(far) != _digests(local):
        raise UserError("the features of the cluster are not those of one machine")
    if before.items() - _times(far).items():
        raise UserError("features were computed again that were there when the driver was killed")
    yield Row("losses", "alone", alone, "s", 1)
    note = f"{len(_times(far))} of {options.num_short} videos, same features, none twice"
    yield Row("losses", "driver killed once, node twice", seconds, "s", seconds / alone, note)


def _wait_for(store: Path, number: int, program: Program) -> None:
    while len([*store.rglob(f"*{SUFFIX}")]) < number:
        if program.wait(0.1) is not None:
            raise UserError(f"it ended before {number} videos: {program.messages()}")


def _times(store: Path) -> dict[str, int]:
    return {name: path.stat().st_mtime_ns for name, path in list_features(store).items()}


def _digests(store: Path) -> dict[str, bytes]:
    features = {}
    for name, path in list_features(store).items():
        with h5py.File(path) as file:
            features[name] = np.asarray(file["segments/features"]).tobytes()
    return features


def main(options: Options) -> None:
    """Print machine and table."""
    os.environ |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    measures = {"overhead": overhead, "object-store": object_store, "losses": losses}
    rows = []
    for part in options.parts:
        with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
            for row in measures[part](options, Path(folder)):
                print(row, file=sys.stderr)
                rows.append(row)
    lines = machine.describe(torch.device("cpu"), "bench.cluster")
    print("\n".join([*lines, "", render(rows)]))


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, prog="python -m bench.cluster"))
    except UserError as error:
        sys.exit(f"error: {error}")
