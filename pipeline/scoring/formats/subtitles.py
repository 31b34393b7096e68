"""Subtitles that name events while they last: SubRip (.srt) and WebVTT (.vtt).

WebVTT: https://www.w3.org/TR/webvtt1/. SubRip has no standard; players read times and tags like
VLC and FFmpeg.
"""

import html
from pathlib import Path

from vigil.pipeline.scoring.formats.events_in_words import event_line, milliseconds
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.text_files import write_text

_SUBRIP = str.maketrans({"<": "<\N{WORD JOINER}", "{": "(", "}": ")"})
"""SubRip cannot escape: what follows < may be a tag, unless it is this invisible character, and
players that go by SSA hide what is in braces."""


def write_srt(path: Path, result: VideoResult) -> None:
    """Write the events of a video as SubRip; without events, an empty file."""
    cues = []
    for number, event in enumerate(result.events, start=1):
        text = event_line(event).translate(_SUBRIP).replace("-->", "->")
        start, stop = (_clock(time, ",") for time in milliseconds(event))
        cues.append(f"{number}\n{start} --> {stop}\n{text}\n\n")
    write_text(path, "".join(cues))


def write_vtt(path: Path, result: VideoResult) -> None:
    """Write the events of a video as WebVTT."""
    cues = ["WEBVTT\n\n"]
    for event in result.events:
        start, stop = (_clock(time, ".") for time in milliseconds(event))
        cues.append(f"{start} --> {stop}\n{html.escape(event_line(event), quote=False)}\n\n")
    write_text(path, "".join(cues))


def _clock(milliseconds: int, mark: str) -> str:
    """Time as hh:mm:ss and a mark before the thousandths; hours beyond 99 have more digits."""
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{mark}{thousandths:03}"
