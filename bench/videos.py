"""Videos to measure with: generated like surveillance footage, or chosen among a user's."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from bench.options import Options
from vigil.extract.decode.videos import find_videos
from vigil.pipeline.options import VIDEO_EXTENSIONS

FPS = 30
NUM_PATCHES = 6
# Bits per pixel and frame: 1.8 Mb/s at 320x240, as in UCF-Crime; larger frames get fewer bits per
# pixel, 8 Mb/s at 1080p.
BITS_PER_PIXEL = {240: 0.78, 720: 0.2, 1080: 0.13}


def draw_video(
    path: Path,
    width: int,
    height: int,
    num_frames: int,
    bits_per_pixel: float | None = None,
    seed: int = 0,
    fps: int = FPS,
) -> Path:
    """Write a video of a fixed camera: a textured scene, moving textured patches, and noise.

    The path's extension selects the container. The encoder's settings are common ones (CABAC,
    deblocking, B-frames), because they and the bit rate decide how long decoding takes.
    """
    bits = bits_per_pixel or BITS_PER_PIXEL.get(height, 0.2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", fps, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = int(bits * width * height * fps)
        for picture in _Scene(width, height, seed).draw(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode(None))
    return path


class _Scene:
    """Brightness and colour of a fixed camera's pictures, as the planes of yuv420p."""

    def __init__(self, width: int, height: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._width, self._height = width, height
        self._still = np.full((height * 3 // 2, width), 128, np.uint8)
        self._still[:height] = self._texture(height, width)
        side = height // 5
        self._patches = [self._texture(side, side) for _ in range(NUM_PATCHES)]
        self._starts = self._random.integers(0, [height - side, width - side], (NUM_PATCHES, 2))
        self._steps = self._random.uniform(-3, 3, (NUM_PATCHES, 2)) * height / 240
        self._noise = self._random.integers(0, 12, (height + 64, width + 64), np.uint8)

    def _texture(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """A coarse pattern with a fine one on top, (height, width), 40 to 200."""
        coarse = self._random.integers(40, 160, (height // 16 + 1, width // 16 + 1), np.uint8)
        fine = self._random.integers(0, 40, (height // 2 + 1, width // 2 + 1), np.uint8)
        large = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
        small = fine.repeat(2, 0).repeat(2, 1)[:height, :width]
        return np.asarray(large + small, np.uint8)

    def draw(self, num_frames: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield frames (3 / 2 x height, width)."""
        for index in range(num_frames):
            picture = self._still.copy()
            places = (self._starts + index * self._steps).astype(int)
            for patch, (top, left) in zip(self._patches, places, strict=True):
                top %= self._height - len(patch)
                left %= self._width - len(patch)
                picture[top : top + len(patch), left : left + len(patch)] = patch
            down, right = self._random.integers(0, 64, 2)
            noise = self._noise[down : down + self._height, right : right + self._width]
            picture[: self._height] += noise
            yield picture


def repeat_video(source: Path, path: Path, times: int) -> Path:
    """Write the packets of a video repeatedly, shifted in time; nothing is encoded again."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        rate = template.average_rate or FPS
        length = round(template.frames / rate / (template.time_base or 1))
        for turn in range(times):
            old.seek(0)
            for packet in old.demux(template):
                if packet.dts is None or packet.pts is None:
                    continue  # the demuxer's end marker
                packet.pts += turn * length
                packet.dts += turn * length
                packet.stream = stream
                new.mux(packet)
    return path


def chosen_videos(
    options: Options, folder: Path, sizes: Sequence[tuple[int, int]], num_frames: int
) -> Path:
    """Create a folder with links to the user's videos, evenly chosen.

    If there are none, it holds generated ones, one for each (width, height) of ``sizes``.
    """
    videos = folder / "videos"
    videos.mkdir()
    if options.videos is None:
        for number, (width, height) in enumerate(sizes):
            draw_video(videos / f"{number:03}.mp4", width, height, num_frames)
        return videos
    found = find_videos([str(options.videos)], VIDEO_EXTENSIONS).videos
    count = min(options.max_videos, len(found))
    for number in range(count):
        source = found[number * len(found) // count].path.absolute()
        (videos / f"{number:03}{source.suffix}").symlink_to(source)
    return videos
