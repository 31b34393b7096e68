"""Remote videos on their way through an engine: fetched ahead of it, and removed behind it."""

import logging
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Event, Thread

from vigil.extract.engine.activity import Activity
from vigil.extract.engine.dispatch import Engine, num_bytes
from vigil.extract.engine.plan import Plan
from vigil.extract.engine.writer import Extracted
from vigil.extract.errors import FailedVideo, VideoError, counted
from vigil.extract.remote.fetching import copy_path, fetch, is_copy
from vigil.extract.remote.stores import StoppedError
from vigil.extract.source import SourceVideo

COPIES_FOLDER = ".fetched"
"""Folder within a store of features for copies of remote videos; its lock is that of the store."""
DEFAULT_GIB = 20.0
CLOSE_SECONDS = 10.0
"""How long the end of a transfer is awaited, before its file is removed under it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetching:
    """How remote videos are fetched."""

    max_bytes: int
    """Of all copies together."""
    plan: Callable[[SourceVideo], Plan]
    """Plans a video again once its copy is here."""
    doubtful: frozenset[str] = frozenset()
    """Videos that have to be planned again."""


@dataclass(frozen=True)
class AlreadyThere:
    """A video that was fetched, and turned out to be the one that has features."""

    video: str


Outcome = Extracted | FailedVideo | AlreadyThere


class Copies:
    """Copies of remote videos, made one after another by a thread as long as there is room."""

    def __init__(self, videos: Sequence[SourceVideo], folder: Path, fetching: Fetching) -> None:
        """Start fetching, the largest first; copies that a killed run left are used."""
        self._fetching, self._folder = fetching, folder
        self._waiting = sorted(videos, key=num_bytes, reverse=True)
        self._sizes: dict[str, int] = {}
        """Video -> size of its copy that is here, or coming."""
        self._paths: dict[str, tuple[Path, str]] = {}
        """Video -> its copy, and the address."""
        self._arrived: list[SourceVideo] = []
        self._outcomes: list[FailedVideo | AlreadyThere] = []
        self._error: BaseException | None = None
        self._is_done = False
        self._changed, self._stopped = Condition(), Event()
        self._remove_others()
        log.info(
            "fetching %s (%.1f GB) to %s",
            counted(len(videos), "video"),
            sum(map(num_bytes, videos)) / 1e9,
            folder,
        )
        self._thread = Thread(target=self._run, name="vigil-fetch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop fetching, and remove all copies."""
        self._stopped.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def more(self) -> Sequence[SourceVideo] | None:
        """The copies that have come since the last call; None: there will be no more.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            arrived, self._arrived = self._arrived, []
            return None if self._is_done and not arrived else arrived

    def outcomes(self) -> Sequence[FailedVideo | AlreadyThere]:
        """The videos since the last call that no engine has to see."""
        with self._changed:
            outcomes, self._outcomes = self._outcomes, []
            return outcomes

    def origin(self, failed: FailedVideo) -> FailedVideo:
        """The failure of a copy, with the address of the video in place of the copy's path."""
        if failed.video not in self._paths:
            return failed
        path, address = self._paths[failed.video]
        return replace(failed, reason=failed.reason.replace(str(path), address))

    def remove(self, video: str) -> None:
        """Remove the copy of a video, if there is one, to make room for others."""
        if video in self._paths:
            self._paths.pop(video)[0].unlink(missing_ok=True)
        with self._changed:
            self._sizes.pop(video, None)
            self._changed.notify()

    def _remove_others(self) -> None:
        """Remove what killed runs left, except complete copies of the videos to fetch."""
        remotes = [one.remote for one in self._waiting if one.remote is not None]
        wanted = {copy_path(one, self._folder): one for one in remotes}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path not in wanted or not is_copy(path, wanted[path]):
                path.unlink()

    def _run(self) -> None:
        try:
            # Copies that are here already take room that must not be counted on.
            for video in sorted(self._waiting, key=self._is_missing):
                self._fetch(video)
        except StoppedError:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._is_done = True

    def _is_missing(self, video: SourceVideo) -> bool:
        assert video.remote is not None
        return not is_copy(copy_path(video.remote, self._folder), video.remote)

    def _fetch(self, video: SourceVideo) -> None:
        assert video.remote is not None
        try:
            self._await_room(video.name, video.remote.num_bytes)
            path = fetch(video.remote, self._folder, self._stopped)
        except VideoError as error:
            self.remove(video.name)
            failed = FailedVideo(video.name, error.reason, may_pass=error.may_pass)
            with self._changed:
                self._outcomes.append(failed)
            return
        self._paths[video.name] = path, video.remote.address
        self._pass_on(replace(video, path=path, remote=None))

    def _await_room(self, name: str, size: int) -> None:
        limit = self._fetching.max_bytes
        if size > limit:
            raise VideoError(
                f"it has {size / 2**30:.3g} GiB, and all copies together may have "
                f"{limit / 2**30:.3g}: raise fetch_gib"
            )
        with self._changed:
            while sum(self._sizes.values()) + size > limit and not self._stopped.is_set():
                self._changed.wait()
            self._sizes[name] = size
        if self._stopped.is_set():
            raise StoppedError

    def _pass_on(self, copy: SourceVideo) -> None:
        """Hand a copy to the engine, unless a second look shows that there is nothing to do."""
        found: list[FailedVideo | AlreadyThere] = []
        if copy.name in self._fetching.doubtful:
            plan = self._fetching.plan(copy)
            found += [self.origin(failed) for failed in plan.failed]
            found += [AlreadyThere(one.name) for one in plan.present]
        if found:
            self.remove(copy.name)
        with self._changed:
            self._outcomes += found
            self._arrived += [] if found else [copy]


def extract_fetched(
    engine: Engine,
    videos: Sequence[SourceVideo],
    store: Path,
    watch: Callable[[Activity], None],
    fetching: Fetching,
) -> Generator[Outcome]:
    """Extract videos of which some are remote; yield outcomes as `Engine.extract` does.

    A copy is removed after the outcome of its video, and all at the end.

    Raises:
        OSError, UserError, RuntimeError: as `Engine.extract`.
    """
    remote = [video for video in videos if video.remote is not None]
    here = [video for video in videos if video.remote is None]
    copies = Copies(remote, store / COPIES_FOLDER, fetching)
    outcomes = engine.extract(here, store, watch, copies.more)
    try:
        for outcome in outcomes:
            yield copies.origin(outcome) if isinstance(outcome, FailedVideo) else outcome
            copies.remove(outcome.video)
            yield from copies.outcomes()
        yield from copies.outcomes()
    finally:
        outcomes.close()
        copies.close()
