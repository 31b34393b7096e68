"""The files that recorders put into folders, each as soon as it is complete, the oldest first.

A thread of its own owns all that is known of them. The system tells it of changes; besides, it
searches the folders again and again, because network file systems do not tell of what other
machines do. Neither its memory nor its share of the time grows with the number of files.
"""

import heapq
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vigil.extract.errors import VideoError
from vigil.extract.source import SourceVideo, identify
from vigil.pipeline.watching.complete_files import NEVER_SEEN, Watched
from vigil.pipeline.watching.folder_search import FolderSearch, FoundFile
from vigil.pipeline.watching.notifications import changed_paths
from vigil.pipeline.watching.seen_files import BEFORE, SeenFile, SeenFiles

SEARCH_SECONDS = 10.0
"""At least between two searches."""
MAX_SHARE = 0.05
"""Of the time, that searches take."""
STEP_SECONDS = 0.05
"""After so much of a search, files that have become complete have their turn."""
MAX_WAITING = 10_000
"""Complete files that wait; the newest of more are dropped, and found again by a later search."""
MAX_READ_AHEAD = 8
"""Complete files whose content is known, and that were not taken yet."""

log = logging.getLogger(__name__)


class _Stopped(Exception):  # noqa: N818 - it is not an error
    """The thread is to end while it reads a file."""


@dataclass(frozen=True)
class Recording:
    """A file that is complete."""

    camera: str
    name: str
    """Of the video in RESULTS."""
    path: Path
    num_bytes: int
    modified_ns: int
    digest: str
    """The sha256 of its content; empty if it could not be read."""

    @property
    def completed_at(self) -> float:
        """When it was last changed, in seconds since 1970."""
        return self.modified_ns / 1e9


@dataclass
class RecorderFolders:
    """Watches the folders; `take` returns what is complete."""

    search: FolderSearch
    seen: SeenFiles
    settle_seconds: Callable[[str], float]
    """Camera -> how long a file must be unchanged if nobody knows whether it is open."""
    start_of: Callable[[str, Path], float | None]
    """When a recording starts, in seconds since 1970; None if that is not known."""
    from_now: bool = False
    """Whether files that are there at the very first start are left alone."""
    num_lost: int = 0
    """Files that were removed or renamed before they were read."""
    _open: dict[str, str] = field(default_factory=dict)
    """Every file that is growing, waiting, or taken -> its camera."""
    _growing: dict[str, Watched] = field(default_factory=dict)
    _complete: list[tuple[float, str, Watched]] = field(default_factory=list)
    """A heap, the oldest first."""
    _ready: queue.Queue[Recording] = field(default_factory=queue.Queue)
    _unreadable: queue.Queue[tuple[Recording, str]] = field(default_factory=queue.Queue)
    """Each with why."""
    _returned: queue.Queue[tuple[Recording, bool]] = field(default_factory=queue.Queue)
    """Those that were taken, each with whether it is to be read again."""
    _searching: Iterator[FoundFile] | None = None
    _searched_at: float | None = None
    """When the first search ended."""
    _looked_at: float | None = None
    """When all files of the first search had been looked at once."""
    _has_settled: bool = False
    """Whether they were looked at again when those that do not change had become complete."""
    _next_search: float = 0.0
    _search_seconds: float = 0.0
    _error: BaseException | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to watch."""
        self._thread = threading.Thread(target=self._run, name="vigil-folders", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to watch."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def require_running(self) -> None:
        """Raise what has ended the thread, if anything has."""
        if self._error is not None:
            raise self._error

    def take(self, number: int) -> list[Recording]:
        """At most so many complete recordings that were not taken before, the oldest first.

        Each must be given back by `done`, `again` or `lose`.
        """
        taken: list[Recording] = []
        while len(taken) < number and not self._ready.empty():
            taken.append(self._ready.get())
        return taken

    def take_unreadable(self) -> list[tuple[Recording, str]]:
        """The complete files that could not be read, each with why; as by `take`."""
        taken: list[tuple[Recording, str]] = []
        while not self._unreadable.empty():
            taken.append(self._unreadable.get())
        return taken

    def done(self, recording: Recording) -> None:
        """Give back a recording that was dealt with, and is in the index."""
        self._returned.put((recording, False))

    def again(self, recording: Recording) -> None:
        """Give back a recording that must be read again when it is complete."""
        self._returned.put((recording, True))

    def lose(self, recording: Recording) -> None:
        """Give back a recording that was removed before it was read."""
        self._count_lost(recording.name, logging.WARNING)
        self._returned.put((recording, False))

    @property
    def num_waiting(self) -> int:
        """Complete files that were not taken yet."""
        return len(self._complete) + self._ready.qsize()

    @property
    def is_exhausted(self) -> bool:
        """Whether everything that was complete at the start has been taken and given back."""
        growing, files = [*self._growing], [*self._open]
        is_all_growing = self._searched_at is not None and len(growing) == len(files)
        return is_all_growing and (not growing or self._has_settled)

    def is_idle(self, camera: str) -> bool:
        """Whether no file of a camera is known that will still be scored."""
        return self._searched_at is not None and camera not in [*self._open.values()]

    def _run(self) -> None:
        try:
            for changed in changed_paths(self.search.roots, self._stopped):
                self._take_back()
                for path in changed:
                    if (found := self.search.at(path)) is not None:
                        self._consider(found)
                self._continue_search()
                self._settle()
                while self._ready.qsize() < MAX_READ_AHEAD and self._complete:
                    self._read_oldest()
        except _Stopped:
            pass
        except BaseException as error:  # `require_running` raises it
            self._error = error

    def _take_back(self) -> None:
        while not self._returned.empty():
            recording, is_again = self._returned.get()
            if is_again:
                watched = Watched(recording.path, self.settle_seconds(recording.camera))
                self._growing[recording.name] = watched
            else:
                self._open.pop(recording.name, None)

    def _continue_search(self) -> None:
        """Look at some more files, if it is time to."""
        begun = time.monotonic()
        if self._searching is None:
            if begun < self._next_search:
                return
            self._searching, self._search_seconds = self.search.everything(), 0.0
        is_first = self._searched_at is None
        is_left = is_first and self.from_now and self.seen.is_new
        for found in self._searching:
            if is_left:
                self._leave(found)
            else:
                self._consider(found)
            if time.monotonic() - begun > STEP_SECONDS:
                self._search_seconds += time.monotonic() - begun
                return
        self._search_seconds += time.monotonic() - begun
        self._searching = None
        now = time.monotonic()
        self._next_search = now + max(SEARCH_SECONDS, self._search_seconds / MAX_SHARE)
        if is_first:
            self.seen.note_search()
            self._searched_at = now
        self.seen.forget_retries_of_gone()

    def _consider(self, found: FoundFile) -> None:
        """Wait until a file is complete, unless it is known."""
        if found.name in self._open:
            return
        if not self.seen.is_known(found.name, found.num_bytes, found.modified_ns):
            self._open[found.name] = found.camera
            self._growing[found.name] = Watched(found.path, self.settle_seconds(found.camera))

    def _leave(self, found: FoundFile) -> None:
        """Note a file that is not to be scored."""
        seen = SeenFile(
            found.name,
            found.camera,
            str(found.path),
            found.num_bytes,
            found.modified_ns,
            BEFORE,
        )
        self.seen.record(seen, time.time())

    def _settle(self) -> None:
        """Queue the files that have become complete."""
        begun = time.monotonic()
        longest = max((one.settle_seconds for one in self._growing.values()), default=0.0)
        for name, watched in [*self._growing.items()]:
            try:
                if not watched.is_complete():
                    continue
            except OSError as error:
                self._give_up(name, watched, f"the file cannot be read ({error.strerror})")
                continue
            start = self.start_of(name, watched.path)
            moment = watched.size_and_time[1] / 1e9 if start is None else start
            del self._growing[name]
            heapq.heappush(self._complete, (moment, name, watched))
        if self._looked_at is not None:
            self._has_settled |= begun - self._looked_at >= longest
        elif self._searched_at is not None:
            self._looked_at = time.monotonic()
        if len(self._complete) > MAX_WAITING:
            self._complete.sort()  # a sorted list is a heap
            for _, name, _ in self._complete[MAX_WAITING // 2 :]:
                del self._open[name]
            del self._complete[MAX_WAITING // 2 :]

    def _read_oldest(self) -> None:
        """Read the oldest complete file for its digest."""
        _, name, watched = heapq.heappop(self._complete)
        camera, path = self._open[name], watched.path
        try:
            identity = identify(SourceVideo(path, name), self._beat)
        except VideoError as error:
            self._give_up(name, watched, error.reason)
            return
        size_and_time = identity.num_bytes, identity.modified_ns
        if size_and_time != watched.size_and_time:
            self._growing[name] = watched  # it has changed since
            return
        self._ready.put(Recording(camera, name, path, *size_and_time, identity.digest))

    def _beat(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    def _give_up(self, name: str, watched: Watched, reason: str) -> None:
        """Pass on that a file cannot be read, or forget it."""
        was_growing = self._growing.pop(name, None) is not None
        is_there = os.path.lexists(watched.path)
        if is_there and watched.size_and_time != NEVER_SEEN:
            file = watched.path, *watched.size_and_time, ""
            self._unreadable.put((Recording(self._open[name], name, *file), reason))
            return
        del self._open[name]  # if it is still there, the next search finds it
        if is_there:
            self.search.tell_once(f"{name}: {reason}; it is tried again later")
        else:  # some recorders rename a file when it is complete
            self._count_lost(name, logging.INFO if was_growing else logging.WARNING)

    def _count_lost(self, name: str, level: int) -> None:
        self.num_lost += 1
        log.log(level, "%s was removed or renamed before it was read", name)
