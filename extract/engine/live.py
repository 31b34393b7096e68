"""The cameras of a run: connected, read in pieces, thinned when the devices are late.

Each camera has a worker, which only reads: whoever stops reading falls behind the camera until it
hangs up. So what is too much is dropped here, as whole clips, and said. The news of a camera are in
order, clips included; features come back from the devices in any order.
"""

import itertools
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vigil.extract.decode.live import LiveSource, PieceBegun, PieceEnded
from vigil.extract.decode.live_copy import LiveCopy
from vigil.extract.decode.reader import ReadingOptions
from vigil.extract.decode.ring import LIVE_SLOTS, ClipRing
from vigil.extract.decode.thumbnails import LiveSheet
from vigil.extract.decode.worker import (
    ClipReady,
    StreamNews,
    StreamTask,
    TaskFailed,
)
from vigil.extract.engine.absence import Absence
from vigil.extract.engine.device import ClipDone, ClipWork
from vigil.extract.engine.pool import WorkerDied, WorkerLimits, WorkerPool

MAX_WAITING = 1
"""Clips of a camera that may wait for a device, while another lies at one: the worker needs the
other two of the `LIVE_SLOTS`, or it would stop reading."""
CALM_CLIPS = 16
"""After so many clips in time, a thinned camera is thinned half as much."""
MAX_THINNING = 16
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
"""Seconds before a lost camera is tried again; they double with each attempt in vain."""
STEADY_SECONDS = 30.0
"""A piece at least so long proves that a camera works."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SeenClip:
    """The next clip of a piece."""

    index: int
    seconds: npt.NDArray[np.float64]
    """(n,) times of the frames that no clip before it has shown, since the piece began."""
    features: npt.NDArray[np.floating] | None
    """(V, D); None: there was no time for it, and it was dropped."""
    arrived_at: float
    """When its last frame had been read, by `time.monotonic`."""
    is_static: bool = False
    """Whether its features are those of the last computed clip before it."""


Piece: TypeAlias = tuple[str, int]
"""A camera, and the number of the piece, from 0 on."""
News: TypeAlias = PieceBegun | SeenClip | LiveSheet | LiveCopy | PieceEnded
"""Of a piece. Sheets and packets come after the clips whose frames they show, dropped or not."""
Hear = Callable[[Piece, News], None]
"""Called with the news of cameras, those of each camera in order."""


@dataclass(eq=False)
class _Camera:
    source: LiveSource
    absence: Absence
    piece: int = -1
    """Of the worker's task, or of the last one."""
    task: int | None = None
    began: float | None = None
    """When the piece began, monotonic; None: nothing has arrived."""
    is_connected: bool = False
    """Whether anything has arrived since it was called."""
    try_at: float | None = 0.0
    """When to connect, monotonic; None: it ended for good."""
    num_vain: int = 0
    thinning: int = 1
    """One clip of so many is computed."""
    num_calm: int = 0
    turn: int = 0
    """When a device got its last clip, in clips of all cameras."""
    reference: int | None = None
    """Index of the last clip of the piece that was not static and has not been dropped."""
    reference_features: npt.NDArray[np.floating] | None = None
    """None: they are not back."""
    waiting: deque[ClipWork] = field(default_factory=deque)
    pending: deque["_Pending"] = field(default_factory=deque)
    """News that cannot be told yet, because a clip before them is not back."""


@dataclass(eq=False)
class _Pending:
    piece: int
    news: News
    awaits: int | None = None
    """Index of the clip whose features it needs; None: it can be told."""


class LiveStreams:
    """Follows cameras until it is closed, or until all of them have ended for good."""

    def __init__(self, sources: Sequence[LiveSource], hear: Hear, packet_bytes: int = 0) -> None:
        """Name the cameras; `start` connects to them.

        The newest packets of each are kept, so many bytes of them.
        """
        self._cameras = {one.name: _Camera(one, Absence(one.name)) for one in sources}
        self._hear, self._packet_bytes = hear, packet_bytes
        self._numbers, self._turns = itertools.count(), itertools.count(1)
        self._tasks: dict[int, _Camera] = {}
        self._lent: Counter[int] = Counter()
        """Of each worker, clips at a device that has not uploaded them yet."""
        self._dtype: type[np.floating] = np.float32

    def start(
        self,
        options: ReadingOptions,
        limits: WorkerLimits,
        first_worker: int,
        dtype: type[np.floating],
    ) -> None:
        """Make a worker for each camera, numbered from ``first_worker`` on.

        Features are told as ``dtype``.
        """
        # FFmpeg's own time limits come first; this one is for a decoder that hangs.
        count = len(self._cameras)
        self._pool = WorkerPool(
            options,
            count,
            limits,
            num_wanted=count,
            niceness=0,
            min_slots=LIVE_SLOTS,
            packet_bytes=self._packet_bytes,
        )
        self._first, self._dtype = first_worker, dtype

    def close(self) -> None:
        """Hang up."""
        self._pool.close()

    @property
    def rings(self) -> Sequence[ClipRing]:
        """The workers' rings."""
        return self._pool.rings

    @property
    def connections(self) -> list[Connection]:
        """The connections on which messages arrive."""
        return self._pool.connections

    @property
    def are_over(self) -> bool:
        """Whether nothing will come any more."""
        return all(
            camera.task is None and camera.try_at is None and not camera.pending
            for camera in self._cameras.values()
        )

    def watch(self) -> None:
        """Connect to cameras whose time has come, and replace workers that hang."""
        self._pool.watch()
        for camera in self._cameras.values():
            is_due = camera.try_at is not None and time.monotonic() >= camera.try_at
            if camera.task is None and is_due:
                task = StreamTask(next(self._numbers), camera.source)
                if self._pool.assign(task):
                    camera.task, camera.try_at, camera.began = task.number, None, None
                    self._tasks[task.number] = camera

    def receive(self, connection: Connection) -> None:
        """Handle the next message of a worker."""
        worker, message = self._pool.receive(connection)
        camera = None if message is None else self._tasks.get(message.task)
        if camera is None:
            if isinstance(message, ClipReady):
                self._pool.release(worker, message.slot.index)
            return
        name = camera.source.name
        match message:
            case ClipReady():
                self._take(camera, worker, message)
            case StreamNews(news=PieceBegun() as begun):
                camera.piece += 1
                camera.began, camera.is_connected = time.monotonic(), True
                camera.absence.ends()
                camera.reference = None
                camera.pending.append(_Pending(camera.piece, begun))
            case StreamNews(news=LiveSheet() as sheet):
                camera.pending.append(_Pending(camera.piece, sheet))
            case StreamNews(news=LiveCopy() as copy):
                copied = replace(copy, ring=self._pool.packets(worker))
                camera.pending.append(_Pending(camera.piece, copied))
            case StreamNews(news=PieceEnded(goes_on=True) as ended):
                camera.pending.append(_Pending(camera.piece, ended))
                camera.began, camera.num_vain = None, 0
            case StreamNews(news=PieceEnded() as ended):
                self._end(camera, ended)
            case TaskFailed() | WorkerDied():
                self._end(camera, PieceEnded(message.reason, message.frame_index))
        self._tell(name, camera)

    def _take(self, camera: _Camera, worker: int, clip: ClipReady) -> None:
        """Queue a clip for the devices, unless it is static; or drop one if they are late."""
        assert clip.seconds is not None  # every clip of a stream has them
        key = camera.source.name, -1 - camera.piece, clip.clip_index
        seen = SeenClip(clip.clip_index, clip.seconds, None, time.monotonic())
        if clip.is_static and camera.reference is not None:
            self._pool.release(worker, clip.slot.index)
            seen = replace(seen, is_static=True, features=camera.reference_features)
            awaits = camera.reference if seen.features is None else None
            camera.pending.append(_Pending(camera.piece, seen, awaits))
            return
        camera.reference, camera.reference_features = clip.clip_index, None
        camera.pending.append(_Pending(camera.piece, seen, clip.clip_index))
        camera.waiting.append(ClipWork(key, self._first + worker, clip.slot))
        if self._may_wait(camera):
            return
        if clip.clip_index % camera.thinning:
            self._drop(camera, newest=True)
        if len(camera.waiting) <= MAX_WAITING:
            camera.num_calm += 1
            if camera.num_calm >= CALM_CLIPS and camera.thinning > 1:
                camera.thinning, camera.num_calm = camera.thinning // 2, 0
            return
        camera.num_calm = 0
        self._drop(camera)
        if camera.source.when_late == "sparser":
            camera.thinning = min(2 * camera.thinning, MAX_THINNING)

    def _may_wait(self, camera: _Camera) -> bool:
        """Whether the worker may wait for a slot, and so for the devices."""
        return camera.source.when_late == "keep-all" or camera.source.can_end

    def _drop(self, camera: _Camera, newest: bool = False) -> None:
        work = camera.waiting.pop() if newest else camera.waiting.popleft()
        self._pool.release(work.worker - self._first, work.slot.index)
        self._conclude(camera, work.key[1], work.key[2], None)

    def _conclude(
        self,
        camera: _Camera,
        attempt: int,
        index: int,
        features: npt.NDArray[np.floating] | None,
    ) -> None:
        clip = -1 - attempt, index
        for pending in camera.pending:
            seen = pending.news
            if isinstance(seen, SeenClip) and (pending.piece, pending.awaits) == clip:
                is_static = seen.is_static and features is not None
                pending.news = replace(seen, features=features, is_static=is_static)
                pending.awaits = None
        if (camera.piece, camera.reference) == clip:
            # After a drop, the next clip is computed even if it is static.
            camera.reference_features = features
            camera.reference = None if features is None else index

    def _end(self, camera: _Camera, ended: PieceEnded) -> None:
        """Note the end of a task, and when to connect again."""
        now, began = time.monotonic(), camera.began
        if camera.task is not None:
            del self._tasks[camera.task]
        camera.task = camera.began = None
        if not camera.is_connected:
            camera.absence.lasts(ended.reason)
        elif began is None:  # between two pieces
            log.warning("%s: %s", camera.source.name, ended.reason)
        else:
            camera.pending.append(_Pending(camera.piece, ended))
        camera.absence.begins()
        camera.is_connected = False
        is_steady = began is not None and now - began >= STEADY_SECONDS
        camera.num_vain = 0 if is_steady else camera.num_vain + 1
        pause = min(FIRST_PAUSE * 2 ** (camera.num_vain - 1), LAST_PAUSE) if camera.num_vain else 0
        # With jitter, so that cameras behind one switch do not all come at once.
        pause *= random.uniform(0.5, 1.0)
        camera.try_at = None if camera.source.can_end else now + pause

    def next_clip(self) -> ClipWork | None:
        """The next clip for a device: of the camera that has waited longest for its turn.

        A device may take long to upload a clip, so it gets one of a camera at a time.
        """
        waiting = [
            camera
            for camera in self._cameras.values()
            if camera.waiting
            and (self._may_wait(camera) or not self._lent[camera.waiting[0].worker])
        ]
        if not waiting:
            return None
        camera = min(waiting, key=lambda camera: camera.turn)
        camera.turn = next(self._turns)
        work = camera.waiting.popleft()
        self._lent[work.worker] += 1
        return work

    def is_mine(self, worker: int) -> bool:
        """Whether a worker's number is one of these."""
        return worker >= self._first

    def release(self, worker: int, slot_index: int) -> None:
        """Let a worker use a slot again, whose clip a device has uploaded."""
        self._lent[worker] -= 1
        self._pool.release(worker - self._first, slot_index)

    def keep(self, clip: ClipDone) -> bool:
        """Take a clip's features; return False if it is not of a camera."""
        name, attempt, index = clip.key
        if attempt >= 0:
            return False
        camera = self._cameras[name]
        with np.errstate(over="ignore"):  # noticed when they are scored
            self._conclude(camera, attempt, index, clip.features.astype(self._dtype))
        self._tell(name, camera)
        return True

    def _tell(self, name: str, camera: _Camera) -> None:
        """Tell what is known, in order."""
        while camera.pending and camera.pending[0].awaits is None:
            told = camera.pending.popleft()
            self._hear((name, told.piece), told.news)
