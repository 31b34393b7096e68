"""Decoders on one core: frames per second by size, compared with resizing after decoding."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import decord
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from bench import machine
from bench.options import Options
from bench.table import Row, shortest_seconds
from bench.videos import chosen_videos
from vigil.extract.clips import CLIP_FRAMES
from vigil.extract.decode.decoder import Decoder, best_stream, frame_size, probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.decoder_decord import DecordDecoder
from vigil.extract.errors import VideoError

SECTION = "decode"
SIZES = ((320, 240), (1280, 720), (1920, 1080))

DecoderType = type[DecordDecoder] | type[AvDecoder]
Way = Callable[[Path, tuple[int, int]], int]
"""Video, (width, height) of its frames -> number of its frames."""


def measure(options: Options, folder: Path, num_frames: int = 150) -> Iterator[Row]:
    """Yield each decoder's rate for each size of video; frames get the short side 256.

    Args:
        options: which videos, and how often.
        folder: for the videos.
        num_frames: of each generated video.
    """
    by_size: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for video in sorted(chosen_videos(options, folder, SIZES, num_frames).iterdir()):
        info = probe(video)
        by_size[info.width, info.height].append(video)
    for (width, height), videos in sorted(by_size.items()):
        kept = [None] if min(width, height) < 256 else []
        for short_side in (*kept, 256):
            yield from _measure_size(videos, frame_size(width, height, short_side), options.repeats)


def _measure_size(videos: list[Path], size: tuple[int, int], repeats: int) -> Iterator[Row]:
    num_frames: dict[str, int] = {}
    variants: dict[str, Callable[[], int]] = {}
    with machine.one_core(), machine.threads(1):
        for name, way in WAYS.items():
            variants[name] = partial(_decode_all, way, videos, size)
            try:
                num_frames[name] = variants[name]()
            except (VideoError, decord.DECORDError):
                del variants[name]  # for example decord with AV1
        seconds = shortest_seconds(variants, repeats, warm_up=False)
    info = probe(videos[0])
    where = f"{info.width}x{info.height} to {size[0]}x{size[1]}"
    rates = {name: num_frames[name] / taken for name, taken in seconds.items()}
    for name, rate in rates.items():
        ratio = rate / next(iter(rates.values()))
        yield Row(SECTION, f"{where}, {name}", rate, "frames/s", ratio)


def _decode_all(way: Way, videos: list[Path], size: tuple[int, int]) -> int:
    return sum(way(video, size) for video in videos)


def decode_with(kind: DecoderType, video: Path, size: tuple[int, int]) -> int:
    """Decode a video with one of vigil's decoders and return its number of frames."""
    decoder: Decoder = kind(video, probe(video), *size)
    try:
        return sum(1 for _ in decoder)
    finally:
        decoder.close()


def decode_then_resize(video: Path, size: tuple[int, int]) -> int:
    """Decode 64 frames at a time in full size, resize them, and return the number of frames."""
    reader = decord.VideoReader(str(video), num_threads=1)
    for start in range(0, len(reader), CLIP_FRAMES):
        stop = min(start + CLIP_FRAMES, len(reader))
        _resize(reader.get_batch(range(start, stop)).asnumpy(), size)
    return len(reader)


def decode_and_resize(video: Path, size: tuple[int, int]) -> int:
    """Decode each frame in full size, resize it with torch, and return the number of frames."""
    num_frames = 0
    with av.open(str(video)) as container:
        stream = best_stream(container)
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            _resize(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)[None], size)
            num_frames += 1
    return num_frames


def _resize(frames: npt.NDArray[np.uint8], size: tuple[int, int]) -> None:
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if planes.shape[2:] != size[::-1]:
        functional.interpolate(planes, size[::-1], mode="bilinear", antialias=True)


WAYS: dict[str, Way] = {
    "decord, clips in full size": decode_then_resize,
    "PyAV, frames in full size": decode_and_resize,
    "vigil with decord": partial(decode_with, DecordDecoder),
    "vigil with PyAV": partial(decode_with, AvDecoder),
}
"""The first one is the baseline."""
