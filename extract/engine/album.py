"""The album of a video: the sheets of its thumbnails, and when each of these is seen.

    <root>/<video>/decord-0-30-64.jpg     a sheet: its reading, first sample, step and number
    <root>/<video>/album.json             the sheets in order, with the seconds of each thumbnail

Sheets are written as they come, so that a run which continues another one has those of the parts
that it need not decode again. ``album.json`` follows at the end; without it there is no album. That
a thumbnail cannot be written costs a video its album, never its features. The album of a stretch of
a stream is written at once, from sheets that were kept elsewhere; they count its thumbnails.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vigil.extract.decode.thumbnails import COLUMNS, LiveSheet, Sheet
from vigil.extract.decode.videos import EXCERPTS_MARK
from vigil.extract.files import make_folder, path_below, replace_file, sync

FORMAT = {"format": "vigil-album", "format_version": 1}
ALBUM_NAME = "album.json"
_SHEET = re.compile(r"([a-z0-9_]+)-(\d+)-(\d+)-(\d+)\.jpg")
_OURS = re.compile(rf"{_SHEET.pattern}|{re.escape(ALBUM_NAME)}|strip-\d+-\d+\.jpg")
"""Files in the folder of an album; strips are cut from it."""

LIVE = "live"
"""Stands for the reading in names of sheets of a stream."""
MIN_REACH_SECONDS = 3.0

log = logging.getLogger(__name__)


def album_folder(root: Path, video: str) -> Path:
    """Where the album of a video lies, and what is made of it."""
    return path_below(root, video)


def remove_album(folder: Path) -> None:
    """Remove an album and what was made of it, and no other file."""
    for path in album_files(folder):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or other files lie in it
        folder.rmdir()


def album_files(folder: Path) -> list[Path]:
    """The files of an album, and what was made of it."""
    return [path for path in _files(folder) if _OURS.fullmatch(path.name)]


def _files(folder: Path) -> list[Path]:
    """The files in a folder; none if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


class AlbumWriter:
    """Writes the album of a video while it is extracted."""

    def __init__(self, root: Path, video: str) -> None:
        """Write nothing yet."""
        self._root, self._folder = root, album_folder(root, video)
        self._video = video
        self._is_lost = False

    def begin(self, is_continued: bool) -> None:
        """Remove an earlier album; sheets stay if clips of the run that made them are used."""
        index = self._folder / ALBUM_NAME
        self._try(
            lambda: index.unlink(missing_ok=True) if is_continued else remove_album(self._folder)
        )

    def put(self, reading: str, sheet: Sheet) -> None:
        """Keep a sheet of a reading of the video."""
        shown = sheet.samples
        name = f"{reading}-{shown.start}-{shown.step}-{len(shown)}.jpg"

        def write() -> None:
            make_root(self._root)
            with replace_file(self._folder / name) as partial:
                partial.write_bytes(sheet.jpeg)

        self._try(write)

    def finish(self, reading: str, seconds: npt.NDArray[np.float64]) -> None:
        """Complete the album with the sheets of one reading; remove those of others.

        Args:
            reading: of which the features are.
            seconds: (M,) when each sample of the video is seen.
        """
        self._try(lambda: self._finish(reading, seconds))

    def _finish(self, reading: str, seconds: npt.NDArray[np.float64]) -> None:
        sheets: dict[int, dict[str, Any]] = {}
        for path in _files(self._folder):
            if not (match := _SHEET.fullmatch(path.name)):
                continue
            first, step, number = (int(one) for one in match.groups()[1:])
            shown = seconds[first : first + step * number : step]
            if match[1] == reading and len(shown) == number:
                sheets[first] = {"file": path.name, "seconds": np.round(shown, 3).tolist()}
            else:
                path.unlink()
        if not sheets:
            self.remove()
            return
        _write_index(self._folder, [sheets[first] for first in sorted(sheets)])

    def remove(self) -> None:
        """Remove all of it: the video has failed, or is read anew."""
        with suppress(OSError):
            remove_album(self._folder)

    def _try(self, write: Callable[[], object]) -> None:
        if self._is_lost:
            return
        try:
            write()
        except OSError as error:
            self._is_lost = True
            log.warning(
                "%s: it has no thumbnails, since %s cannot be written (%s)",
                *(self._video, self._folder, error.strerror),
            )
            self.remove()


def write_live_album(root: Path, video: str, sheets: Iterable[LiveSheet]) -> None:
    """Write the album of a stretch of a stream; none if there is no sheet.

    Args:
        root: folder of the albums.
        video: name of the stretch's result.
        sheets: one or more, in order, with seconds since the beginning of the stretch.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    folder = album_folder(root, video)
    try:
        make_folder(folder)
        number, index = 0, []
        for sheet in sheets:
            path = folder / f"{LIVE}-{number}-1-{len(sheet.seconds)}.jpg"
            path.write_bytes(sheet.jpeg)
            sync(path)
            index.append({"file": path.name, "seconds": np.round(sheet.seconds, 3).tolist()})
            number += len(sheet.seconds)
        if index:
            _write_index(folder, index)
        else:
            remove_album(folder)
    except OSError:
        with suppress(OSError):
            remove_album(folder)
        raise


def make_root(root: Path) -> None:
    """Create the folder of the albums, marked as one in which no videos are to be looked for.

    Raises:
        OSError: it cannot be created.
    """
    make_folder(root)
    (root / EXCERPTS_MARK).touch()


def _write_index(folder: Path, sheets: list[dict[str, Any]]) -> None:
    """Complete an album: now it exists."""
    size = _thumbnail_size(folder / sheets[0]["file"], len(sheets[0]["seconds"]))
    content = {**FORMAT, "columns": COLUMNS, "size": size, "sheets": sheets}
    with replace_file(folder / ALBUM_NAME) as partial:
        partial.write_text(json.dumps(content) + "\n", encoding="ascii")


def _thumbnail_size(sheet: Path, number: int) -> tuple[int, int]:
    with Image.open(sheet, formats=("JPEG",)) as picture:
        return picture.width // COLUMNS, picture.height // -(-number // COLUMNS)


@dataclass(frozen=True)
class Album:
    """The thumbnails of a video, in order of time."""

    folder: Path
    columns: int
    """Thumbnails in a row of a sheet."""
    size: tuple[int, int]
    """Width and height of a thumbnail."""
    sheets: tuple[tuple[str, tuple[float, ...]], ...]
    """File of each sheet, and the seconds at which its thumbnails are seen."""

    @cached_property
    def seconds(self) -> npt.NDArray[np.float64]:
        """(n,) when each thumbnail is seen."""
        return np.array([one for _, seconds in self.sheets for one in seconds])

    @cached_property
    def reach_seconds(self) -> float:
        """A moment farther from every thumbnail has none: its frames, or their sheet, are lost."""
        steps = np.diff(self.seconds)
        return max(MIN_REACH_SECONDS, float(np.median(steps)) if len(steps) else 0.0)

    def around(self, seconds: float, number: int = 0) -> list[int]:
        """The thumbnail nearest to a moment, with a number of those on each side, in order.

        Empty if none is near; neighbours behind a gap are left out, too.
        """
        there, reach = self.seconds, self.reach_seconds
        middle = int(np.abs(there - seconds).argmin())
        if abs(there[middle] - seconds) > reach:
            return []
        near = range(max(middle - number, 0), min(middle + number + 1, len(there)))
        return [i for i in near if abs(there[i] - there[middle]) <= abs(i - middle) * reach]

    def pictures(self, numbers: Collection[int]) -> Iterator[Image.Image]:
        """Yield thumbnails by their numbers, in order.

        Raises:
            OSError: a sheet is missing or damaged.
        """
        start, (width, height) = 0, self.size
        for name, seconds in self.sheets:
            wanted = [one - start for one in numbers if start <= one < start + len(seconds)]
            start += len(seconds)
            if wanted:
                with Image.open(self.folder / name, formats=("JPEG",)) as sheet:
                    for row, column in (divmod(one, self.columns) for one in wanted):
                        left, top = column * width, row * height
                        yield sheet.crop((left, top, left + width, top + height))


def read_album(folder: Path) -> Album | None:
    """The album in a folder; None if there is none, or a file of it is damaged or missing.

    It may come from elsewhere, so only names of sheets in this folder are accepted.
    """
    try:
        content = json.loads((folder / ALBUM_NAME).read_bytes())
        sheets = tuple((one["file"], tuple(one["seconds"])) for one in content["sheets"])
        columns, size = int(content["columns"]), tuple(int(one) for one in content["size"])
        is_ours = {key: content[key] for key in FORMAT} == FORMAT
        is_sound = columns > 0 and len(size) == 2 and min(size) > 0 and len(sheets) > 0
        for name, seconds in sheets:
            is_sound &= _SHEET.fullmatch(name) is not None and len(seconds) > 0
            is_sound &= all(type(one) in (int, float) and math.isfinite(one) for one in seconds)
            is_sound &= os.path.isfile(folder / name)  # noqa: PTH113  (Path.is_file may raise)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Album(folder, columns, (size[0], size[1]), sheets) if is_ours and is_sound else None
