"""Peak memory of `vigil extract` against the length of the video: it should not grow.

The network is a stand-in, because a real one would add the same to both and hide any growth.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import standin
from bench.options import Options
from bench.processes import own_memory, peak_memory, vigil_extract
from bench.table import Row
from bench.videos import FPS, draw_video, repeat_video

SECTION = "memory"
SCENE_SECONDS = 10
BITS_PER_PIXEL = 0.2  # as few as in a quiet scene, because only the length matters


def measure(
    options: Options, folder: Path, lengths_seconds: tuple[int, int] | None = None
) -> Iterator[Row]:
    """Yield the peak for a short and for a long video, each 320x240.

    Args:
        options: the long video has 10 minutes, or with ``long`` 2 hours; the short one has 2.
        folder: for the videos.
        lengths_seconds: overrides these lengths.
    """
    scene_seconds = min(SCENE_SECONDS, *(lengths_seconds or (SCENE_SECONDS,)))
    num_frames = scene_seconds * FPS
    scene = draw_video(folder / "scene.mp4", 320, 240, num_frames, BITS_PER_PIXEL)
    cheap = replace(options, backbone=standin.NAME, weights="random", endpoint=None)
    shortest = 0
    for seconds in lengths_seconds or (120, 7200 if options.long else 600):
        video = repeat_video(scene, folder / f"{seconds}.mp4", seconds // scene_seconds)
        peak = peak_memory(vigil_extract(cheap, video, folder / f"store_{seconds}"))
        video.unlink()
        own = own_memory(peak)
        shortest = shortest or own
        note = (
            f"{peak['Pss_Shmem'] / 1e6:.0f} of it shared; {peak['Pss_File'] / 1e6:.0f} MB more "
            "are file pages, shared with other programs"
        )
        what = f"peak, video of {seconds / 60:.3g} minutes"
        yield Row(SECTION, what, own / 1e6, "MB", own / shortest, note)
