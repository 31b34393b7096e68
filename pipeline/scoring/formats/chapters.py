"""Chapters in FFmpeg's metadata format (https://ffmpeg.org/ffmpeg-formats.html#Metadata-2)."""

import re
from pathlib import Path

from vigil.pipeline.scoring.formats.events_in_words import event_line, milliseconds
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.text_files import write_text


def write_chapters(path: Path, result: VideoResult) -> None:
    """Write a chapter for each event of a video."""
    parts = [";FFMETADATA1\n"]
    for event in result.events:
        start, stop = milliseconds(event)
        title = re.sub(r"([=;#\\])", r"\\\1", event_line(event))
        parts.append(f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={stop}\ntitle={title}\n")
    write_text(path, "".join(parts))
