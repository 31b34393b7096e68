"""Frames as they are shown: turned, mirrored, with square pixels, at one size and in one format."""

from fractions import Fraction

from av.filter import Graph
from av.video.frame import VideoFrame

from vigil.extract.decode.decoder import displayed_size
from vigil.extract.decode.orientation import UPRIGHT, orientation


class Upright:
    """Turns the frames of a video upright; all get the size of the first one."""

    def __init__(
        self, pixel_format: str, pixel_aspect: Fraction | int = 1, max_width: int | None = None
    ) -> None:
        """Choose the form.

        Args:
            pixel_format: FFmpeg's name of it.
            pixel_aspect: width of a pixel divided by its height, before frames are turned.
            max_width: frames that are wider are reduced to it.
        """
        self._format, self._aspect, self._max_width = pixel_format, pixel_aspect, max_width
        self._shown, self._graphs = UPRIGHT, dict[tuple[object, ...], Graph]()
        self._size = 0, 0

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """(width, height) in pixels, both even, of all frames; this one decides if it is the first.

        Its matrix is valid for later frames without one.
        """
        self._shown = orientation(frame, self._shown)
        if self._size == (0, 0):
            width, height = displayed_size(frame, self._aspect)
            share = min((self._max_width or width) / width, 1)
            self._size = _even(width * share), _even(height * share)
        return self._size

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Return the frame as it is shown, without a time."""
        width, height = self.size(frame)
        kind = frame.width, frame.height, frame.format.name, self._shown
        if kind not in self._graphs:
            self._graphs[kind] = self._graph(frame, width, height)
        graph = self._graphs[kind]
        graph.push(frame)
        picture = graph.pull()
        assert isinstance(picture, VideoFrame)
        return picture

    def _graph(self, frame: VideoFrame, width: int, height: int) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1, 1000),
        )
        filters: list[tuple[str, str | None]] = [
            *self._shown.filters,
            ("scale", f"{width}:{height}"),
            ("setsar", "1"),
            ("format", self._format),
            ("buffersink", None),
        ]
        graph.link_nodes(source, *(graph.add(*named) for named in filters)).configure()
        return graph


def _even(number: float) -> int:
    return max(round(number) // 2 * 2, 2)
