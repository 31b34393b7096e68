"""Excerpts: parts of videos as MP4 files that every browser plays, each with a contact sheet.

H.264 in 8-bit 4:2:0 is copied, without loss, if a keyframe lies shortly before the part; anything
else is encoded. Sound is kept, as AAC. Frames that are encoded are turned upright, get square
pixels, and are deinterlaced if they are flagged; a copy keeps what its file says about that.

Parts are found by time. If a file stores no times, or if its clock jumps, its frames are counted
from the beginning, and sound, which only a clock could place, is left out.
"""

from collections.abc import Callable
from contextlib import suppress

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vigil.extract.decode.counted_excerpts import pictures_of, write_counted
from vigil.extract.decode.decoder import NO_TIMESTAMPS, TIMES_MAY_JUMP, best_stream, open_container
from vigil.extract.decode.excerpt_request import Excerpt, Source, Written
from vigil.extract.decode.excerpt_tracks import all_frames
from vigil.extract.decode.interlacing import deinterlaced
from vigil.extract.decode.timed_excerpts import ClockJumpsError, TimedPart
from vigil.extract.errors import VideoError

SAME_SECONDS = 1.0
"""By so much a file's own length may differ from that of its timeline if its clock never jumps."""


def write_excerpt(
    source: Source, excerpt: Excerpt, beat: Callable[[], None] = lambda: None
) -> Written:
    """Write an excerpt and its contact sheet.

    Args:
        source: the video.
        excerpt: which part of it.
        beat: called for every packet or frame that is read.

    Raises:
        VideoError: the video is missing or cannot be decoded there.
        OSError: the disk is full or the folder cannot be written.
    """
    if source.path.is_dir():
        return write_counted(source, excerpt, pictures_of(source, beat))
    with open_container(source.path) as container:
        stream = best_stream(container)
        if _is_timed(container, stream, source):
            with suppress(ClockJumpsError):
                part = TimedPart(container, stream, source, excerpt, beat)
                if part.may_copy:
                    with suppress(VideoError, av.error.FFmpegError):  # it is encoded instead
                        return part.write(copy=True)
                return part.write(copy=False)
    with open_container(source.path) as container:
        stream = best_stream(container)
        frames = all_frames(container, stream, beat)
        frames = deinterlaced(frames, stream.codec_context.name)
        clocked = not container.format.flags & NO_TIMESTAMPS
        return write_counted(source, excerpt, frames, clocked)


def _is_timed(container: InputContainer, stream: VideoStream, source: Source) -> bool:
    """Whether the times in a file are those of its timeline, as far as it states its length."""
    if source.begins_at is not None:
        return True
    if container.format.flags & NO_TIMESTAMPS or not stream.time_base:
        return False
    ticks = stream.duration
    seconds = float(ticks * stream.time_base) if ticks else (container.duration or 0) / av.time_base
    more = source.duration_seconds - seconds
    if container.format.flags & TIMES_MAY_JUMP or container.format.name == "avi":
        return abs(more) <= SAME_SECONDS
    return not seconds or more <= SAME_SECONDS  # shorter than it says: it breaks off
