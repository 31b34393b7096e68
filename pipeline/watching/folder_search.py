"""Which files in the watched folders are recordings, of which camera, and under which name.

The names are those that `vigil score FOLDER` gives, below the camera's name if a folder has one.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vigil.extract.decode.videos import EXCERPTS_MARK, why_not
from vigil.pipeline.calibration import NO_CAMERA
from vigil.pipeline.watching.cameras import Camera, Cameras

MAX_TOLD = 10_000
"""Messages about single files that are remembered, so that each is logged once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundFile:
    """A file that a recorder has written, or writes."""

    camera: str
    name: str
    """Of the video in RESULTS."""
    path: Path
    num_bytes: int
    modified_ns: int


@dataclass
class FolderSearch:
    """Finds recordings."""

    cameras: Cameras
    camera_of: Callable[[str], str]
    """Of a path below a folder without a name of its own."""
    extensions: set[str]
    results: Path
    """RESULTS, in which nothing is a recording."""
    follow_links: bool = False
    _owners: dict[str, Camera] = field(default_factory=dict)
    """Camera -> the source in which it was found first."""
    _told: set[str] = field(default_factory=set)

    @property
    def roots(self) -> list[Path]:
        """The watched folders."""
        return [source.folder.absolute() for source in self.cameras.folders]

    def tell_of_streams(self) -> None:
        """Warn of folders that are those of a stream's name, although they may be empty yet."""
        for stream in self.cameras.streams:
            for source in self.cameras.folders:
                is_there = not source.name and (source.folder / stream.name).is_dir()
                if is_there and self.camera_of(f"{stream.name}/any") == stream.name:
                    self._is_free(stream.name, source)

    def everything(self) -> Iterator[FoundFile]:
        """Yield all recordings, folder by folder."""
        for source, root in zip(self.cameras.folders, self.roots, strict=True):
            for parent, folders, files in os.walk(root, onerror=self._unreadable):
                if EXCERPTS_MARK in files or self._is_ours(Path(parent)):
                    folders.clear()
                    continue
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in files:
                    if self._is_video(name) and (found := self._file(source, Path(parent, name))):
                        yield found

    def at(self, path: Path) -> FoundFile | None:
        """The recording at a path that the system named; None if it is none, or gone."""
        for source, root in zip(self.cameras.folders, self.roots, strict=True):
            if not path.is_relative_to(root) or not self._is_video(path.name):
                continue
            is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
            if is_hidden or self._is_ours(path.parent) or (path.parent / EXCERPTS_MARK).exists():
                return None
            return self._file(source, path)
        return None

    def tell_once(self, message: str) -> None:
        """Log a warning unless it was logged before."""
        if message not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(message)
            log.warning("%s", message)

    def _is_video(self, name: str) -> bool:
        _, extension = os.path.splitext(name)  # noqa: PTH122  (a name, not a path)
        return not name.startswith(".") and extension.lower() in self.extensions

    def _is_ours(self, folder: Path) -> bool:
        """Whether a folder is RESULTS, or lies in it."""
        return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self.results))

    def _file(self, source: Camera, path: Path) -> FoundFile | None:
        below = str(path)[len(str(source.folder.absolute())) :].lstrip("/")
        name = f"{source.name}/{below}" if source.name else below
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                if reason := why_not(path, None if self.follow_links else source.folder):
                    self.tell_once(f"{name}: {reason}")
                    return None
                status = path.stat()
        except OSError:
            return None  # gone meanwhile
        if not stat.S_ISREG(status.st_mode):
            return None
        camera = source.name or self.camera_of(below)
        if camera == NO_CAMERA:
            camera = Path(os.path.realpath(source.folder)).name or "camera"
        if not self._is_free(camera, source):
            return None
        if (owner := self._owners.setdefault(camera, source)) is not source:
            self.tell_once(
                f"{owner.address} and {source.address} both hold files of camera {camera!r}, and "
                "those in the second are not scored: give both a name with --cameras, or name the "
                "folder above them"
            )
            return None
        return FoundFile(camera, name, path, status.st_size, status.st_mtime_ns)

    def _is_free(self, camera: str, source: Camera) -> bool:
        """Whether no stream has the name of a camera, whose events would mix with its own."""
        is_free = all(stream.name != camera for stream in self.cameras.streams)
        if not is_free:
            self.tell_once(
                f"{source.address} holds files of camera {camera!r}, which is also the name of a "
                "stream: the files are not scored, because events of one would go on in the "
                "other; give the stream another name with --cameras"
            )
        return is_free

    def _unreadable(self, error: OSError) -> None:
        self.tell_once(f"{error.filename} cannot be searched ({error.strerror}): tried again later")
