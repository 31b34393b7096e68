"""A video to extract, and the identity by which its features are recognised later."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from extract.errors import VideoError


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


def identify(video: SourceVideo) -> VideoIdentity:
    """Size, time of change and sha256 of a video file.

    Raises:
        VideoError: the file cannot be read.
    """
    try:
        status = video.path.stat()
        with video.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"the file cannot be read ({error.strerror})") from error
    return VideoIdentity(video.name, status.st_size, status.st_mtime_ns, digest)
