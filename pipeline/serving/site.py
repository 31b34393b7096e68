"""The RESULTS folders of a site: their names in addresses, and what is in them now."""

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vigil.extract.errors import UserError, counted
from vigil.extract.files import make_folder
from vigil.pipeline.scoring.report.details import Truth
from vigil.pipeline.scoring.results import (
    MANIFEST_NAME,
    Results,
    VideoResult,
    read_result,
    read_results,
    result_path,
)
from vigil.pipeline.serving.served_files import Text
from vigil.pipeline.serving.snapshot import Snapshot, video_file
from vigil.pipeline.serving.verdict_store import DATABASE_NAME, VerdictStore

CHECK_SECONDS = 1.0
"""How old an answer may be to the question whether files have changed."""
KEPT_VERSIONS = 8
"""Pages of so many earlier states can still open videos."""

Signature = tuple[int, int, int]
"""Of a file: inode, size, and when it was changed, in nanoseconds."""

log = logging.getLogger(__name__)


class SharedResults:
    """One RESULTS folder, read again when its files change, and the verdicts on it.

    While vigil writes to the folder, or if it is damaged, what was read last stays.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        database: Path,
        find_truth: Callable[[Results], Truth] = lambda _results: {},
    ) -> None:
        """Read the folder, and open the database of its verdicts.

        Raises:
            UserError: it does not hold finished results, or verdicts cannot be kept there.
        """
        self.folder = folder.resolve()
        self.name = name
        self.problem = ""
        """Why the files could not be read when they changed last; empty if they could."""
        self._find_truth = find_truth
        self._cache: dict[Path, tuple[Signature, VideoResult]] = {}
        self._lock = threading.Lock()
        self._versions: dict[str, Snapshot] = {}
        self._signatures = self._sign()
        self._snapshot = self._keep(self._read())
        self._checked = time.monotonic()
        make_folder(database.parent)
        self.verdicts = VerdictStore(database)

    def now(self) -> Snapshot:
        """The results as they are; those of before while another thread reads them again."""
        if time.monotonic() - self._checked >= CHECK_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._lock.release()
        return self._snapshot

    def page(self) -> Text:
        """The page of the report, which warns if newer files cannot be read."""
        found = self.now()
        if not self.problem:
            return found.page
        warning = (
            "These results are those of before: vigil is writing to the folder, or it is damaged "
            f"({self.problem})"
        )
        return found.page_with([warning])

    def at(self, version: str | None) -> Snapshot | None:
        """The results of a version, or those of now without one; None if it is too old."""
        return self.now() if version is None else self._versions.get(version)

    def _refresh(self) -> None:
        signatures = self._sign()
        if signatures != self._signatures or self.problem:
            try:
                self._snapshot = self._keep(self._read())
                self.problem = ""
            except UserError as error:
                if str(error) != self.problem:
                    log.warning("%s is shown as it was before: %s", self.folder, error)
                self.problem = str(error)
            self._signatures = signatures
        self._checked = time.monotonic()

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        kept = {**self._versions, snapshot.version: snapshot}
        self._versions = dict([*kept.items()][-KEPT_VERSIONS:])
        return snapshot

    def _sign(self) -> list[Signature | None]:
        """What tells that a file has changed: those of the manifest and of known videos."""
        return [sign(path) for path in (self.folder / MANIFEST_NAME, *self._cache)]

    def _read(self) -> Snapshot:
        results = read_results(self.folder, self._read_result)
        kept = {result_path(self.folder, one.video) for one in results.videos}
        self._cache = {path: found for path, found in self._cache.items() if path in kept}
        found = Snapshot(self.name, self.folder, results, self._find_truth(results))
        found.make()
        return found

    def _read_result(self, path: Path) -> VideoResult:
        """Read the result of a video, if its file has changed."""
        signature = sign(path)
        known, result = self._cache.get(path, (None, None))
        if result is None or signature is None or signature != known:
            result = read_result(path)
            if signature is not None:
                self._cache[path] = signature, result
        return result


@dataclass(frozen=True)
class Site:
    """All RESULTS that are served together."""

    members: tuple[SharedResults, ...]

    def find(self, name: str) -> SharedResults | None:
        """The results of a name in an address."""
        return next((one for one in self.members if one.name == name), None)


def open_site(
    folders: Sequence[Path],
    verdicts: Path | None = None,
    find_truth: Callable[[Results], Truth] = lambda _results: {},
) -> Site:
    """Read RESULTS folders, and open the databases of their verdicts.

    Args:
        folders: each written by vigil score.
        verdicts: folder for the databases; by default each lies in its RESULTS.
        find_truth: returns the annotations of results, for their timelines.

    Raises:
        UserError: a folder is given twice or does not hold finished results, or verdicts cannot be
            kept in their place.
    """
    names = site_names(folders)
    members = []
    for folder, name in zip(folders, names, strict=True):
        database = database_of(folder, verdicts)
        shared = SharedResults(folder, name, database, find_truth)
        _warn_of_others(shared)
        members.append(shared)
    return Site(tuple(members))


def site_names(folders: Sequence[Path]) -> list[str]:
    """A name for the address of each folder: its own, and a number if several have the same.

    Raises:
        UserError: a folder is given twice.
    """
    names: list[str] = []
    places: set[Path] = set()
    for folder in folders:
        place = folder.resolve()
        if place in places:
            raise UserError(f"{folder} is given twice: give each folder once")
        places.add(place)
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", place.name).strip("-") or "results"
        number, name = 1, plain
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def database_of(folder: Path, verdicts: Path | None) -> Path:
    """Where the verdicts on RESULTS lie: in it, or in a folder for those of many.

    There, a digest of where RESULTS lies tells apart folders of the same name.
    """
    if verdicts is None:
        return folder / DATABASE_NAME
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]
    (name,) = site_names([folder])
    return verdicts / f"{name}-{digest}.sqlite"


def sign(path: Path) -> Signature | None:
    """What tells whether a file is the same as before; None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _warn_of_others(shared: SharedResults) -> None:
    """Tell how many videos will not play because their files do not end like videos."""
    sources = [one.source for one in shared.now().videos if one.source is not None]
    others = [
        one
        for one in sources
        if os.path.isfile(one) and video_file(one) is None  # noqa: PTH113
    ]
    if others:
        log.warning(
            "%s: %s will not play, such as %s: only files with an extension of videos are served",
            shared.folder,
            counted(len(others), "video"),
            min(others),
        )
