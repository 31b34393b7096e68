"""From decoded frames to the pixels of clips: upright, resized and RGB."""

import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.frame import VideoFrame

from vigil.extract.decode.orientation import Orientation, orientation

MAX_GRAPHS = 8
"""Kinds of frames, by format, size and orientation, for which filters are cached."""


class Converter:
    """Converts the frames of one video, which may change their kind, to one size."""

    def __init__(self, width: int, height: int, shown: Orientation) -> None:
        """Set the size in pixels, and how to show frames until one says something else."""
        self._size = width, height
        self._orientation = shown
        self._graphs: dict[tuple[str, int, int, Orientation], Graph] = {}

    def pixels(self, frame: VideoFrame, picture: VideoFrame) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) RGB pixels, in FFmpeg's memory.

        Args:
            frame: as it was decoded.
            picture: the same, deinterlaced.
        """
        self._orientation = orientation(frame, self._orientation)
        kind = picture.format.name, picture.width, picture.height, self._orientation
        if kind not in self._graphs:
            if len(self._graphs) == MAX_GRAPHS:
                self._graphs.clear()
            self._graphs[kind] = _conversion(picture, kind[-1], *self._size)
        self._graphs[kind].vpush(picture)
        width, height = self._size
        plane = self._graphs[kind].vpull().planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        return rows[:, : 3 * width].reshape(height, width, 3)


def _conversion(frame: VideoFrame, shown: Orientation, width: int, height: int) -> Graph:
    """Build the filters that turn frames of this kind upright, resize them and make them RGB.

    They are decord's filters, in its order: `VideoFrame.reformat` would shift the chroma of resized
    frames, and change 10-bit colours.
    """
    # FFmpeg scales to packed RGB of odd width without vector instructions. By way of planar RGB it
    # takes half the time, and the pixels are the same if several rows are combined into one.
    upright_height = frame.width if shown.swaps_sides else frame.height
    is_reduced = 8 * height <= 7 * upright_height
    by_planes = [("format", "gbrp")] if is_reduced and width % 2 else []
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    filters: list[tuple[str, str | None]] = [
        *shown.filters,
        ("scale", f"{width}:{height}:flags=bilinear"),
        *by_planes,
        ("format", "rgb24"),
        ("buffersink", None),
    ]
    graph.link_nodes(source, *(graph.add(*named) for named in filters)).configure()
    return graph
