"""--keep-days, --keep-gib: the oldest results are removed, with their features and clips."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vigil.extract.engine.album import album_files, album_folder, remove_album
from vigil.extract.errors import counted
from vigil.extract.store import feature_path
from vigil.pipeline.scoring.clips import clip_path
from vigil.pipeline.scoring.strips import THUMBNAILS_FOLDER
from vigil.pipeline.scoring.writers import video_files
from vigil.pipeline.watching.ledger import Ledger
from vigil.pipeline.watching.overview import Overview
from vigil.pipeline.watching.seen_files import SeenFile, SeenFiles

RETENTION_SECONDS = 600.0
"""Between two rounds."""
MAX_REMOVED = 1000
"""Results that a round removes, since scoring waits meanwhile."""

log = logging.getLogger(__name__)


@dataclass
class Retention:
    """Removes results by age and size."""

    folder: Path
    """RESULTS."""
    store: Path
    """Of the features."""
    seen: SeenFiles
    ledger: Ledger
    overview: Overview
    keep_days: float | None = None
    keep_gib: float | None = None
    _next: float = 0.0

    def apply(self) -> None:
        """Remove what is too old or too much, if it is time to."""
        if (self.keep_days is None and self.keep_gib is None) or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + RETENTION_SECONDS
        removed = list(islice(self._surplus(), MAX_REMOVED))
        if self.overview.discard([one.name for one in removed]):
            self.overview.refresh(now=True)  # first, so that it never names what is gone
        for one in removed:
            remove_results(self.folder, self.store, one.name)
        self.seen.forget_results(removed)
        if removed:
            log.info("removed the results of %s", counted(len(removed), "recording"))
        if self.keep_days is not None:
            self.ledger.prune(self.keep_days, self._exists)
            self.seen.forget_gone(time.time() - 86400 * self.keep_days)
        if len(removed) == MAX_REMOVED:
            self._next = 0.0

    def _surplus(self) -> Iterator[SeenFile]:
        """Yield the recordings whose results are to be removed, the oldest first."""
        before = -1.0 if self.keep_days is None else time.time() - 86400 * self.keep_days
        allowed = float("inf") if self.keep_gib is None else self.keep_gib * 2**30
        total = self.seen.total_bytes()
        for done_at, file in self.seen.oldest_results():
            if done_at >= before and total <= allowed:
                return
            total -= file.result_bytes
            yield file

    def _exists(self, camera: str, video: str) -> bool:
        """Whether a recording that was scored still lies in its folder."""
        path = self.seen.path_of(video)
        return path is not None and os.path.lexists(path)


def result_bytes(folder: Path, store: Path, name: str) -> int:
    """Size of all files of a recording in RESULTS."""
    album = album_files(album_folder(folder / THUMBNAILS_FOLDER, name))
    paths = [*video_files(folder, name), feature_path(store, name), *album]
    return sum(path.stat().st_size for path in paths if path.is_file())


def remove_results(folder: Path, store: Path, name: str) -> None:
    """Remove all files of a recording in RESULTS, and the folders that are empty then.

    Folders of features stay: a feature file may be about to be written there.
    """
    feature_path(store, name).unlink(missing_ok=True)
    album = album_folder(folder / THUMBNAILS_FOLDER, name)
    remove_album(album)
    places = [clip_path(folder, name, 1).parent, album.parent]
    for path in video_files(folder, name):
        path.unlink(missing_ok=True)
        places.append(path.parent)
    for place in places:
        with suppress(OSError):  # it is not empty
            while place != folder:
                place.rmdir()
                place = place.parent


def remove_empty_folders(root: Path) -> None:
    """Remove the empty folders below a folder."""
    for parent, _, _ in os.walk(root, topdown=False):
        if Path(parent) != root:
            with suppress(OSError):
                os.rmdir(parent)  # noqa: PTH106
