"""Contact sheets: a few frames of a video in one picture."""

from collections.abc import Iterable
from pathlib import Path

import av
from av.video.frame import VideoFrame
from PIL import Image

from vigil.extract.decode.decoder import best_stream, open_container
from vigil.extract.decode.upright import Upright
from vigil.extract.errors import VideoError
from vigil.extract.files import replace_file

COLUMNS, ROWS = 3, 3
FRAME_WIDTH = 320
GAP = 4
JPEG_QUALITY = 85


def write_sheet(video: Path, path: Path, start_seconds: float, stop_seconds: float) -> None:
    """Write frames from between two times of a video, at equal distances, as a JPEG.

    Args:
        video: a file whose times begin at 0.
        path: of the picture.
        start_seconds: where the first stretch starts; each frame is from the middle of one.
        stop_seconds: where the last one stops.

    Raises:
        VideoError: the video does not decode.
    """
    number = COLUMNS * ROWS
    step = (stop_seconds - start_seconds) / number
    times = [start_seconds + (index + 0.5) * step for index in range(number)]
    frames = frames_at(video, times)
    width, height = frames[0].size
    sheet = Image.new("RGB", (COLUMNS * (width + GAP) - GAP, ROWS * (height + GAP) - GAP))
    for index, frame in enumerate(frames):
        row, column = divmod(index, COLUMNS)
        sheet.paste(frame, (column * (width + GAP), row * (height + GAP)))
    with replace_file(path) as partial:
        sheet.save(partial, "JPEG", quality=JPEG_QUALITY)


def frames_at(video: Path, times: list[float]) -> list[Image.Image]:
    """The frames of a video that are shown at these times, upright and small.

    Raises:
        VideoError: the video does not decode.
    """
    found = []
    with open_container(video) as container:
        stream = best_stream(container)
        shown = Upright("rgb24", stream.sample_aspect_ratio or 1, FRAME_WIDTH)
        unit = stream.time_base
        assert unit is not None, "MP4 has one"
        for time in times:
            try:
                container.seek(max(int(time / unit), 0), stream=stream)
                frame = _shown_at(container.decode(stream), time)
            except av.error.FFmpegError as error:
                raise VideoError(f"it does not decode ({error.strerror})") from error
            found.append(Image.fromarray(shown(frame).to_ndarray()))
    return found


def _shown_at(frames: Iterable[VideoFrame], time: float) -> VideoFrame:
    """The last of some frames that starts by a time, or else the first one."""
    shown = None
    for frame in frames:
        if shown is not None and (frame.time or 0.0) > time:
            break
        shown = frame
    if shown is None:
        raise VideoError("it holds no frame")
    return shown
