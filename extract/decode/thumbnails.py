"""Thumbnails of a video, taken from the frames of which clips are made; many in one JPEG."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 160
"""The longer side of a thumbnail in pixels."""
COLUMNS, ROWS = 8, 8
"""Of a full sheet; the last sheet of a video, or of a part, has as many rows as it needs."""
JPEG_QUALITY = 65
STEP_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Sheet:
    """Thumbnails of a video in one picture: row by row, `COLUMNS` in each."""

    samples: range
    """What they show: numbers of the frames, repeated ones too, of which clips are made."""
    jpeg: bytes


@dataclass(frozen=True, eq=False)
class LiveSheet:
    """Thumbnails of a stream in one picture, arranged as in `Sheet`."""

    seconds: tuple[float, ...]
    """When each of them is seen, since the first frame of the piece; they increase."""
    jpeg: bytes


class Photographer:
    """Takes a thumbnail of every so many frames that pass; holds those of no more than two sheets.

    Frames are not changed. They have the proportions in which the video is shown, since decoders
    turn them upright and make their pixels square.
    """

    def __init__(self, step: int, first: int = 0, stop: int | None = None) -> None:
        """Take those of frames whose numbers are multiples of a step.

        Args:
            step: number of frames from one thumbnail to the next; 0: take none.
            first: number of the first frame that will pass.
            stop: number from which on frames belong to the next part of the video.
        """
        self._step, self._first, self._stop = step, first, stop
        self._taken: dict[int, Image.Image] = {}

    def watch(self, frames: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the same frames (H, W, 3) RGB."""
        for sample, frame in enumerate(frames, self._first):
            is_own = self._stop is None or sample < self._stop
            if self._step and is_own and sample % self._step == 0:
                self._taken[sample] = thumbnail(frame)
            yield frame

    def sheets(self, is_end: bool = False) -> Iterator[Sheet]:
        """Yield the sheets that are full; at the end of the video or part, also the last one."""
        while len(self._taken) >= (1 if is_end else COLUMNS * ROWS):
            samples = list(self._taken)[: COLUMNS * ROWS]
            pictures = [self._taken.pop(sample) for sample in samples]
            yield Sheet(range(samples[0], samples[-1] + 1, self._step), _jpeg(pictures))


class LivePhotographer:
    """Takes a thumbnail of a stream every second by its clock, whatever frame rate it states.

    Holds those of a sheet, and of the frames that pass between two calls of `sheets`.
    """

    def __init__(self, is_on: bool) -> None:
        """Begin a piece; take none if it is not on."""
        self._due = 0.0 if is_on else math.inf
        self._taken: list[tuple[float, Image.Image]] = []

    def watch(
        self, frames: Iterable[tuple[float, npt.NDArray[np.uint8]]]
    ) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
        """Yield the same frames (H, W, 3) RGB, each after its seconds."""
        for seconds, frame in frames:
            if seconds >= self._due:
                self._taken.append((seconds, thumbnail(frame)))
                self._due = (math.floor(seconds / STEP_SECONDS) + 1) * STEP_SECONDS
            yield seconds, frame

    def sheets(self, is_end: bool = False) -> Iterator[LiveSheet]:
        """Yield the sheets that are full; at the end of the piece, also the last one."""
        while len(self._taken) >= (1 if is_end else COLUMNS * ROWS):
            taken = self._taken[: COLUMNS * ROWS]
            del self._taken[: COLUMNS * ROWS]
            yield LiveSheet(tuple(one[0] for one in taken), _jpeg([one[1] for one in taken]))


def thumbnail_step(fps: float, clip_frames: int) -> int:
    """Number of frames from one thumbnail to the next: a second, and never more than a clip."""
    return min(max(round(fps * STEP_SECONDS), 1), clip_frames)


def thumbnail(frame: npt.NDArray[np.uint8]) -> Image.Image:
    """A frame (H, W, 3) RGB, reduced to a longer side of `SIDE` pixels."""
    height, width = frame.shape[:2]
    scale = SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    whole = Image.fromarray(frame)
    return whole.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _jpeg(pictures: list[Image.Image]) -> bytes:
    width, height = pictures[0].size
    sheet = Image.new("RGB", (COLUMNS * width, -(-len(pictures) // COLUMNS) * height))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, COLUMNS)
        sheet.paste(picture, (column * width, row * height))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()
