"""Generate tiny video files of every kind."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUM_FRAMES = 20
UNEVEN_TIMES = [0, 10, 50, 60, 200, *range(233, 233 + 33 * 15, 33)]
"""Presentation times, in milliseconds, of the frames of a variable-rate video."""


def draw_frames(num_frames=NUM_FRAMES, width=256, height=240, seed=0) -> list[np.ndarray]:
    """Soft coloured patches that move; no two of the first 256 frames are alike."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 255, (height // 16 + 10, width // 16 + 10, 3)).repeat(16, 0)
    texture = texture.repeat(16, 1).astype(np.float64)
    for axis in (0, 1):  # a moving average
        sums = texture.cumsum(axis)
        texture = (
            sums.take(range(16, sums.shape[axis]), axis)
            - sums.take(range(sums.shape[axis] - 16), axis)
        ) / 16
    frames = []
    for index in range(num_frames):
        left, top = index % 16 * 8, index // 16 % 16 * 8
        frames.append(texture[top : top + height, left : left + width].astype(np.uint8))
    return frames


def encode(
    path: Path,
    frames: list[np.ndarray] | None = None,
    *,
    codec="libx264",
    pixel_format="yuv420p",
    times: list[int] | None = None,
    rotation=0,
    second: list[np.ndarray] | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    container_format: str | None = None,
) -> Path:
    """Write frames at 25 per second, or at ``times``; ``second`` becomes another video stream.

    ``options`` are those of the container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_format, options=options or {}) as container:
        streams = []
        for pictures in (draw_frames() if frames is None else frames, second):
            if pictures is None:
                continue
            stream = container.add_stream(codec, 25)
            stream.pix_fmt = pixel_format
            stream.height, stream.width = pictures[0].shape[:2]
            stream.thread_count = 1
            # With x264's macroblock tree, the same frames occasionally gave different bytes.
            alike = {"mbtree": "0"} if codec == "libx264" else {}
            stream.options = alike | (codec_options or {})
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            streams.append((stream, pictures))
        for stream, pictures in streams:
            for index, pixels in enumerate(pictures):
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                if times is not None:
                    picture.pts, picture.time_base = times[index], Fraction(1, 1000)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    return path


def damage(path: Path, packets: list[int], fill=0, keep=0.5) -> Path:
    """Overwrite packets of a video with a byte, except the given share at their beginning."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number in packets:
        position, size = places[number]
        kept = int(size * keep)
        content[position + kept : position + size] = bytes([fill]) * (size - kept)
    path.write_bytes(content)
    return path


def truncate(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def cut_packets(source: Path, path: Path, num_packets: int) -> Path:
    """Copy the first packets of a video, unchanged, into a new file."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if number < num_packets and packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return path
