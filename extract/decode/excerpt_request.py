"""Excerpts as they are asked for, and what comes of them."""

from dataclasses import dataclass
from pathlib import Path

from vigil.extract.decode.contact_sheet import write_sheet
from vigil.extract.errors import VideoError


@dataclass(frozen=True)
class Excerpt:
    """A part of a video to be written: an event and some seconds around it."""

    path: Path
    """The MP4 file; the contact sheet lies beside it, as .jpg."""
    event_seconds: tuple[float, float]
    """From the first frame on."""
    event_frames: tuple[int, int]
    """Half-open."""
    margin_seconds: float

    @property
    def seconds(self) -> tuple[float, float]:
        """Where the excerpt starts and stops, as far as the video reaches."""
        start, stop = self.event_seconds
        return start - self.margin_seconds, stop + self.margin_seconds

    def frames(self, fps: float) -> range:
        """The frames of the excerpt, if frames are counted."""
        margin = round(self.margin_seconds * fps)
        return range(max(self.event_frames[0] - margin, 0), self.event_frames[1] + margin)

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.path.with_suffix(".jpg")


@dataclass(frozen=True)
class Source:
    """A video, and what its results say of its timeline."""

    path: Path
    fps: float
    duration_seconds: float
    begins_at: float | None = None
    """Of packets of a stream: when the timeline begins by the file's own clock, from which they may
    be far away. None: with the first frame of the file."""
    may_copy: bool = True
    """Whether the file describes its pictures as they are."""


@dataclass(frozen=True)
class Written:
    """An excerpt that lies on the disk."""

    start_seconds: float
    """When it starts, from the first frame of the video on."""
    is_copy: bool


def add_sheet(excerpt: Excerpt, written: Written) -> None:
    """Write the contact sheet of an excerpt that lies on the disk.

    Raises:
        VideoError: the excerpt does not decode.
        OSError: the disk is full or the folder cannot be written.
    """
    start, stop = (seconds - written.start_seconds for seconds in excerpt.event_seconds)
    write_sheet(excerpt.path, excerpt.sheet, start, stop)


def ends_early() -> VideoError:
    """The error of a video from whose event no frame was read."""
    return VideoError("it ends before the event, or cannot be decoded there")
