"""The thumbnails of a stream, until they are in the albums of its stretches.

A stretch is written long after its frames were seen. Until then its sheets lie on the disk, in a
file without a name: whatever ends the process also removes it. A picture that cannot be kept is
lost with a warning; nothing else is.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vigil.extract.decode.thumbnails import LiveSheet
from vigil.extract.engine.album import make_root, write_live_album
from vigil.extract.files import temporary_file, write_at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlbumSettings:
    """Where thumbnails of streams are kept."""

    root: Path
    """Folder of the albums."""
    has_room: Callable[[], bool] = lambda: True
    """Whether the disk has room for more than results and alarms."""


@dataclass(frozen=True)
class _Kept:
    """A sheet in the file."""

    place: int
    num_bytes: int
    seconds: tuple[float, ...]


class StreamAlbum:
    """The sheets of one piece that are in no album yet, or not in all."""

    def __init__(self, settings: AlbumSettings | None, camera: str) -> None:
        """Begin a piece; without settings, no sheets will come."""
        self._settings, self._camera = settings, camera
        self._file: IO[bytes] | None = None
        self._sheets: list[_Kept] = []
        self.complete_until = math.inf if settings is None else 0.0
        """Seconds of the piece up to which no further thumbnail will come."""
        self._is_warned = False

    def add(self, sheet: LiveSheet) -> None:
        """Keep the next sheet."""
        assert self._settings is not None
        self.complete_until = sheet.seconds[-1]
        if self._settings.has_room():
            self._try(lambda: self._append(sheet))
        else:
            self._warn("since the disk is nearly full (--min-free-gib)")

    def write(self, video: str, start: float, stop: float) -> None:
        """Write the album of a stretch, and forget what no later stretch shows.

        Args:
            video: name of the stretch's result.
            start: of the stretch, in seconds of the piece. A sheet across it is in both albums.
            stop: likewise.
        """
        shown = [one for one in self._sheets if one.seconds[0] < stop and one.seconds[-1] >= start]
        self._try(lambda: self._write(video, start, shown))
        self._try(lambda: self._forget(stop))
        self._is_warned = False

    def close(self) -> None:
        """Remove the sheets that are in no album."""
        self._sheets = []
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, sheet: LiveSheet) -> None:
        assert self._settings is not None
        if self._file is None:
            make_root(self._settings.root)
            self._file = temporary_file(self._settings.root)
        last = self._sheets[-1] if self._sheets else _Kept(0, 0, ())
        place = last.place + last.num_bytes
        write_at(self._file, sheet.jpeg, place)
        self._sheets.append(_Kept(place, len(sheet.jpeg), sheet.seconds))

    def _write(self, video: str, start: float, shown: list[_Kept]) -> None:
        if shown:
            assert self._settings is not None
            assert self._file is not None
            file = self._file
            moved = (_read(file, one, start) for one in shown)
            write_live_album(self._settings.root, video, moved)

    def _forget(self, until: float) -> None:
        """Begin the file anew, with the sheets that end after some seconds of the piece."""
        file, left = self._file, [one for one in self._sheets if one.seconds[-1] >= until]
        if file is None or len(left) == len(self._sheets):
            return
        self._file, self._sheets = None, []
        with file:
            for one in left:
                self._append(_read(file, one))

    def _try(self, step: Callable[[], object]) -> None:
        try:
            step()
        except OSError as error:
            self._warn(f"which cannot be written ({error.strerror})")

    def _warn(self, why: str) -> None:
        """Say once in each stretch that thumbnails are lost."""
        if not self._is_warned:
            assert self._settings is not None
            log.warning("%s: thumbnails are lost, %s", self._camera, why)
        self._is_warned = True


def _read(file: IO[bytes], kept: _Kept, start: float = 0.0) -> LiveSheet:
    """A sheet, with seconds since a start."""
    jpeg = os.pread(file.fileno(), kept.num_bytes, kept.place)
    return LiveSheet(tuple(one - start for one in kept.seconds), jpeg)
