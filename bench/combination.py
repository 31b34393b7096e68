"""A combination of networks in one pass, compared with each network alone plus one decoding.

The unit is CPU seconds of whole processes, which other load on the machine disturbs least; on CUDA,
where CPU time means little, it is seconds. A stand-in network measures start and decoding.
"""

import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import standin
from bench.options import Options
from bench.processes import run_python, vigil_extract
from bench.table import Row
from bench.videos import chosen_videos

SECTION = "combination"
USUAL = "swin3d_t+r3d_18"
SIZES = ((320, 240),)


def measure(options: Options, folder: Path, num_frames: int = 640) -> Iterator[Row]:
    """Yield the time of each network, of decoding, and of all networks in one pass.

    Args:
        options: if their backbone is a single network, the usual combination is used.
        folder: for videos and features.
        num_frames: of the generated video.
    """
    combination = options.backbone if "+" in options.backbone else USUAL
    videos = chosen_videos(options, folder, SIZES, num_frames)
    names = (*combination.split("+"), standin.NAME, combination)
    times: dict[str, float] = {}
    for turn in range(options.repeats):
        for name in names:
            out = folder / f"{turn}-{name}"
            seconds = _seconds(replace(options, backbone=name), videos, out)
            times[name] = min(seconds, times.get(name, seconds))
    start = times[standin.NAME]
    apart = sum(times[name] - start for name in combination.split("+")) + start
    unit = "s" if _on_gpu(options) else "s of CPU"
    for name in names:
        what = "start and decoding" if name == standin.NAME else name
        yield Row(SECTION, what, times[name], unit, times[name] / apart)


def _seconds(options: Options, videos: Path, out: Path) -> float:
    started, used = time.perf_counter(), _cpu_seconds()
    run_python(vigil_extract(options, videos, out, "center"))
    return time.perf_counter() - started if _on_gpu(options) else _cpu_seconds() - used


def _cpu_seconds() -> float:
    """CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _on_gpu(options: Options) -> bool:
    return options.device.startswith("cuda")
