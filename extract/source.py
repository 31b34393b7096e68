"""A video to extract, and the identity by which its features are recognised later.

A video is a file, or a folder of pictures, which are its frames in the natural order of names.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vigil.extract.errors import VideoError

PIECE_BYTES = 1 << 20
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
PICTURE_FPS = 25.0
ASSUMED_FPS = 25.0
"""Frames per second of videos that state no rate."""
CHANGED = "the file changed while it was being read: run again when it is complete"
MASK = "_gt"
"""Suffix of the ground-truth folders and pictures in UCSD's and UBnormal's archives."""


@dataclass(frozen=True)
class RemoteFile:
    """A file behind an address, as its store describes it."""

    address: str
    """Without secrets; it is stored and shown."""
    key: str
    """What the library of the store calls it."""
    num_bytes: int
    modified_ns: int | None
    """Time of the last change, made different by other fingerprints; None: not known."""
    etag: str = ""
    """Fingerprint that the store gives each version; empty: none."""
    md5: str = ""
    """MD5 of the bytes, in base64; empty: not known."""


@dataclass(frozen=True)
class SourceVideo:
    """A video to extract: its path, and its name in every output."""

    path: Path
    """Of a remote video there is nothing until it has been fetched."""
    name: str
    """Relative to the folder of videos, with forward slashes."""
    picture_fps: float = PICTURE_FPS
    """Frames per second, if it is a folder of pictures."""
    input_fps: float | None = None
    """Frames per second, if it is a raw stream whose headers state no rate; None: assume 25."""
    remote: RemoteFile | None = None
    """What has to be fetched before the video can be read; None: it is here."""

    @property
    def origin(self) -> str:
        """Where it comes from: its address, or its path."""
        return str(self.path.absolute()) if self.remote is None else self.remote.address


@dataclass(frozen=True)
class VideoIdentity:
    """The video that a feature file was made from."""

    path: str
    """Relative to the folder of videos, with forward slashes."""
    num_bytes: int
    modified_ns: int
    digest: str
    """sha256 of the file's bytes; for a folder, of its pictures' digests and names in order."""


def composed(name: str) -> str:
    """Return a name in Unicode's normal form NFC, in which names are compared.

    Some systems and archives store "é" as one character, others as "e" and an accent.
    """
    return unicodedata.normalize("NFC", name)


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return the sort key that puts 2.jpg before 10.jpg."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def list_pictures(folder: Path) -> list[Path]:
    """List the pictures in a folder, in frame order; none if the folder is not a video.

    Hidden files and masks do not count, and a single picture is not a video.

    Raises:
        OSError: the folder cannot be read.
    """
    if folder.name.endswith(MASK):
        return []
    names = [
        name
        for name in os.listdir(folder)  # noqa: PTH208  (names are enough)
        if name.lower().endswith(PICTURE_ENDINGS)
        and not name.startswith(".")
        and not os.path.splitext(name)[0].endswith(MASK)  # noqa: PTH122  (a name, not a path)
    ]
    return [folder / name for name in sorted(names, key=natural_order)] if len(names) > 1 else []


def size_and_time(path: Path) -> tuple[int, int]:
    """Return size in bytes and modification time in ns; for pictures, the sum and the latest.

    Raises:
        OSError: it cannot be read.
    """
    status = [file.stat() for file in _files_of(path)] or [path.stat()]
    return sum(one.st_size for one in status), max(one.st_mtime_ns for one in status)


def _files_of(path: Path) -> list[Path]:
    return list_pictures(path) if path.is_dir() else [path]


def identify(video: SourceVideo, beat: Callable[[], None] = lambda: None) -> VideoIdentity:
    """Return the size, modification time and sha256 of a video.

    Args:
        video: the video to identify.
        beat: called for every piece of a file that is read.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        num_bytes, modified_ns = size_and_time(video.path)
        if not video.path.is_dir():
            digest = _digest(video.path, beat)
        else:
            # No name holds a zero byte, so different pictures never produce the same bytes.
            whole = hashlib.sha256()
            for picture in list_pictures(video.path):
                whole.update(f"{_digest(picture, beat)}  ".encode())
                whole.update(os.fsencode(picture.name) + b"\0")
            digest = whole.hexdigest()
    except OSError as error:
        raise _unreadable(error) from error
    return VideoIdentity(video.name, num_bytes, modified_ns, digest)


def _unreadable(error: OSError) -> VideoError:
    return VideoError(f"the file cannot be read ({error.strerror})", may_pass=True)


def _digest(path: Path, beat: Callable[[], None]) -> str:
    digest, piece = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(piece):
            digest.update(piece[:num_bytes])
            beat()
    return digest.hexdigest()


def require_unchanged(video: SourceVideo, identity: VideoIdentity) -> None:
    """Refuse a video that changed since it was identified, as one still being recorded does.

    Raises:
        VideoError: its size or modification time has changed, or it is gone.
    """
    try:
        found = size_and_time(video.path)
    except OSError as error:
        raise _unreadable(error) from error
    if found != (identity.num_bytes, identity.modified_ns):
        raise VideoError(CHANGED)
