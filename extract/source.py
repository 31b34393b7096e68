"""A video to extract, and the identity by which its features are recognised later."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extract.errors import VideoError

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceVideo:
    """A video to extract: where it is and what it is called in every output."""

    path: Path
    name: str
    """Relative to the folder of videos, with forward slashes."""


@dataclass(frozen=True)
class VideoIdentity:
    """Which video a feature file was made of."""

    path: str
    """Relative to the folder of videos, with forward slashes."""
    num_bytes: int
    modified_ns: int
    digest: str
    """sha256 of the file's bytes."""


def identify(video: SourceVideo, beat: Callable[[], None] = lambda: None) -> VideoIdentity:
    """Size, time of change and sha256 of a video file.

    Args:
        video: where it is.
        beat: called for every piece of the file that has been read.

    Raises:
        VideoError: the file cannot be read.
    """
    digest, piece = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES))
    try:
        status = video.path.stat()
        with video.path.open("rb", buffering=0) as file:
            while num_bytes := file.readinto(piece):
                digest.update(piece[:num_bytes])
                beat()
    except OSError as error:
        raise VideoError(f"the file cannot be read ({error.strerror})") from error
    return VideoIdentity(video.name, status.st_size, status.st_mtime_ns, digest.hexdigest())


def require_unchanged(video: SourceVideo, identity: VideoIdentity) -> None:
    """Refuse a file that was written to since it was identified, as by a camera that still records.

    Raises:
        VideoError: its size or time of change is another now, or it is gone.
    """
    try:
        status = video.path.stat()
    except OSError as error:
        raise VideoError(f"the file cannot be read ({error.strerror})") from error
    if (status.st_size, status.st_mtime_ns) != (identity.num_bytes, identity.modified_ns):
        raise VideoError("the file changed while it was being read: run again when it is complete")
