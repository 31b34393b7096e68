"""Edit decision lists (CMX3600), with which video editors cut the events out of a video.

The events are played one after the other. Timecode counts frames at the nearest whole rate without
dropping numbers (29.97 counts 30 to the second), as editors do for a file of one of their rates.
Files of other rates are played at 25 frames a second or whatever the project has, so there timecode
is time in 25ths of a second.
"""

from pathlib import Path

from vigil.pipeline.scoring.formats.events_in_words import event_line, frames_at, one_line
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.text_files import write_text

EDITORS_RATES = (24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60)
OTHER_RATE = 25
TOLERANCE = 1e-4
"""Share by which a rate may differ; 24000/1001 and 24 differ by ten times as much."""
RECORD_START_SECONDS = 3600
"""Programmes begin at one hour, by custom."""


def write_edl(path: Path, result: VideoResult) -> None:
    """Write an edit for each event of a video, with its class and score as a comment."""
    fps = editors_rate(result.fps)
    name = one_line(result.video)
    lines = [f"TITLE: {name}", "FCM: NON-DROP FRAME", ""]
    base = round(fps)
    recorded = RECORD_START_SECONDS * base
    for number, event in enumerate(result.events, start=1):
        start, stop = frames_at(event, fps)
        record_stop = recorded + stop - start
        codes = (timecode(frame, base) for frame in (start, stop, recorded, record_stop))
        lines += [
            f"{number:03}  AX       V     C        {' '.join(codes)}",
            f"* FROM CLIP NAME: {name}",
            f"* COMMENT: {event_line(event)} ({fps:.6g} FPS)",
            "",
        ]
        recorded = record_stop
    write_text(path, "\n".join(lines))


def editors_rate(fps: float) -> float:
    """The frame rate that editors give a video: its own if they know it, else 25."""
    known = (rate for rate in EDITORS_RATES if abs(fps - rate) <= TOLERANCE * rate)
    return next(known, OTHER_RATE)


def timecode(frame: int, base: int) -> str:
    """The number of a frame as hh:mm:ss:ff, with so many frames to the second."""
    seconds, rest = divmod(frame, base)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}:{rest:02}"
