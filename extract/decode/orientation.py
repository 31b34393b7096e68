"""How a frame must be turned and mirrored to be shown, as its display matrix says.

The matrix comes from the container (MP4, Matroska's projection), from the codec (SEI) or from EXIF,
and FFmpeg attaches it to frames. It maps a point (x, y) of the frame to (ax + cy, bx + dy).
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, cast

import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame

# After vflip the lines of a frame lie backwards in memory; every other filter copies them in order.
_FILTERS: dict[tuple[int, bool], list[tuple[str, str | None]]] = {
    (0, False): [],
    (1, False): [("transpose", "clock")],
    (2, False): [("vflip", None), ("hflip", None)],
    (3, False): [("transpose", "cclock")],
    (0, True): [("vflip", None), ("copy", None)],
    (1, True): [("transpose", "cclock_flip")],
    (2, True): [("hflip", None)],
    (3, True): [("transpose", "clock_flip")],
}


class Orientation(NamedTuple):
    """One of the eight ways to show a frame with upright sides."""

    quarter_turns: int = 0
    """Clockwise, 0..3, applied after mirroring."""
    is_mirrored: bool = False
    """Whether the frame is first turned upside down like a reflection in water."""

    @property
    def swaps_sides(self) -> bool:
        """Whether the width of the frame becomes its height."""
        return self.quarter_turns % 2 == 1

    @property
    def filters(self) -> list[tuple[str, str | None]]:
        """FFmpeg's filters, with their arguments, that show the frame."""
        return _FILTERS[self]


UPRIGHT = Orientation()


def orientation(frame: VideoFrame, previous: Orientation = UPRIGHT) -> Orientation:
    """Return how to show a frame; another angle than a quarter turn is rounded to the nearest.

    ``previous`` stays valid for frames without a matrix: some videos state it once.
    """
    matrix = _matrix(frame)
    return previous if matrix is None else _nearest(matrix)[0]


def rotation_ignored(frame: VideoFrame) -> float:
    """Return the degrees, -45..45 and clockwise, that `orientation` leaves out."""
    matrix = _matrix(frame)
    return 0.0 if matrix is None else _nearest(matrix)[1]


def _nearest(matrix: tuple[int, int, int, int]) -> tuple[Orientation, float]:
    a, b, c, d = matrix
    if a * d == b * c:  # it shows no picture at all: FFmpeg ignores it
        return UPRIGHT, 0.0
    degrees = math.degrees(math.atan2(b, a))
    turns = round(degrees / 90)
    return Orientation(turns % 4, a * d < b * c), degrees - 90 * turns


def _matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """Return a, b, c, d, in units of 2 ** -16; None if the frame has no matrix."""
    try:
        all_data = cast("Iterable[SideData]", frame.side_data)
    except ValueError:
        # PyAV cannot list the data if its FFmpeg has a kind that it has no name for, such as EXIF.
        Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment]
        all_data = cast("Iterable[SideData]", frame.side_data)
    for data in all_data:
        if data.type == Type.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            return a, b, c, d
    return None


def _unnamed(kinds: type[Type], value: object) -> Type:
    """Return a kind of side data for a number that PyAV does not know."""
    kind = object.__new__(kinds)
    kind._name_ = f"KIND_{value}"
    kind._value_ = value  # type: ignore[assignment]
    return kind
