"""Excerpts of videos without usable times: their frames are counted from the beginning."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice

from av.video.frame import VideoFrame

from vigil.extract.decode.decoder_table import for_folder
from vigil.extract.decode.excerpt_request import Excerpt, Source, Written, add_sheet, ends_early
from vigil.extract.decode.excerpt_tracks import Encoder, open_mp4
from vigil.extract.files import replace_file

LONGEST_STEP_SECONDS = 60.0


def pictures_of(source: Source, beat: Callable[[], None]) -> Iterator[VideoFrame]:
    """Yield the frames of a folder of pictures."""
    from vigil.extract.decode.decoder_pictures import probe_pictures

    info = probe_pictures(source.path, source.fps)
    with closing(for_folder().open(source.path, info, info.width, info.height)) as decoder:
        for pixels in decoder:
            beat()
            yield VideoFrame.from_ndarray(pixels, format="rgb24")


def write_counted(
    source: Source, excerpt: Excerpt, frames: Iterator[VideoFrame], clocked: bool = False
) -> Written:
    """Write an excerpt of a video whose frames are counted, without sound.

    ``clocked``: the frames have times, from which steps are taken that are no jumps.
    """
    wanted, seconds, event_at = excerpt.frames(source.fps), 0.0, math.nan
    previous, usual = None, 1 / source.fps
    with replace_file(excerpt.path) as partial, open_mp4(partial) as output:
        encoder: Encoder | None = None
        for index, frame in enumerate(islice(frames, wanted.start, wanted.stop), wanted.start):
            encoder = encoder or Encoder(output, source.fps, frame)
            if previous is not None:
                seconds += _step(previous, frame, usual) if clocked else usual
            if index == excerpt.event_frames[0]:
                event_at = seconds
            encoder.write(frame, seconds)
            previous = frame
        if encoder is None or math.isnan(event_at):
            raise ends_early()
        encoder.finish()
    written = Written(max(excerpt.event_seconds[0] - event_at, 0.0), is_copy=False)
    add_sheet(excerpt, written)
    return written


def _step(previous: VideoFrame, frame: VideoFrame, usual: float) -> float:
    """Seconds from one frame to the next; as usual if the clock jumps."""
    if previous.time is None or frame.time is None:
        return usual
    step = frame.time - previous.time
    return step if 0 < step <= LONGEST_STEP_SECONDS else usual
