"""The decode worker: tasks in, clips out, over one connection; the clips lie in its ring.

It loads neither torch nor h5py, so its process starts fast. It needs the memory of its ring and its
decoder; decord may read `READ_AHEAD_LIMIT_BYTES` ahead.
"""

import gc
import logging
import os
import resource
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from vigil.extract.decode.decoder_table import AUTO, check_decoder, load_decoders
from vigil.extract.decode.live import LiveClip, LiveSource, PieceBegun, PieceEnded, read_stream
from vigil.extract.decode.live_copy import LiveCopy
from vigil.extract.decode.packet_ring import PacketRing
from vigil.extract.decode.parts import Part
from vigil.extract.decode.pulse import Pulse
from vigil.extract.decode.reader import (
    Clip,
    Finished,
    ReadingOptions,
    Restart,
    SplitVideo,
    read_end,
    read_part,
    read_video,
)
from vigil.extract.decode.ring import ClipRing, Slot
from vigil.extract.decode.thumbnails import LiveSheet, Sheet
from vigil.extract.errors import UserError, VideoError
from vigil.extract.source import SourceVideo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A video, or a part of it, to read; every message about it carries its number."""

    number: int
    video: SourceVideo
    decoder: str = AUTO
    part: Part | None = None
    may_split: bool = False
    only_end: bool = False
    """The clips of this part are there already: nothing but its end is wanted."""

    def __post_init__(self) -> None:
        """Refuse unknown decoders before the task is sent to a process.

        Raises:
            UserError: the decoder is unknown; names those that exist.
        """
        check_decoder(self.decoder)


@dataclass(frozen=True)
class StreamTask:
    """A stream to read, piece after piece, until one ends that does not go on."""

    number: int
    source: LiveSource


@dataclass(frozen=True)
class Release:
    """Tells the worker that the clip in a slot is no longer needed."""

    slot: int


@dataclass(frozen=True)
class ClipReady:
    """A clip is in a slot, and does not change until the slot is released."""

    task: int
    clip_index: int
    """Counted from the beginning of the video, even in a part."""
    slot: Slot
    decode_seconds: float
    """Without the time spent waiting for a free slot."""
    decoder: str
    seconds: npt.NDArray[np.float64] | None = None
    """As in `LiveClip`, for the clip of a stream."""
    is_static: bool = False
    """As in `Clip`."""


@dataclass(frozen=True)
class StreamNews:
    """A piece of a stream has begun or has ended, the last one with the task; or what it shows."""

    task: int
    news: PieceBegun | LiveSheet | LiveCopy | PieceEnded


@dataclass(frozen=True)
class SheetReady:
    """A sheet of thumbnails; the clips whose frames it shows came before it."""

    task: int
    sheet: Sheet


@dataclass(frozen=True)
class Restarted:
    """The task's clips and sheets so far are void; another decoder starts it again."""

    task: int
    reason: str


@dataclass(frozen=True)
class WasSplit:
    """The end of a task: its video must be read in these parts."""

    task: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class TaskFinished:
    """The end of a task: all its clips have been sent."""

    task: int
    finished: Finished


@dataclass(frozen=True)
class TaskFailed:
    """The end of a task: its clips so far are void."""

    task: int
    reason: str
    decoder: str
    frame_index: int
    may_pass: bool = False
    """As in `VideoError`."""


class _DisconnectedError(Exception):
    """The other end of the connection is closed."""


def worker_process(
    connection: Connection,
    ring: ClipRing,
    options: ReadingOptions,
    pulse: Pulse,
    memory_bytes: int,
    niceness: int,
    packets: PacketRing | None = None,
) -> NoReturn:
    """Run a worker in a spawned process, and exit without waiting for decoder threads.

    The process may use ``memory_bytes`` in addition to the shared ring and to what it has now, with
    the decoders loaded.
    """
    with suppress(UserError):  # the caller has checked those that it needs
        load_decoders(AUTO)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    required = _private_bytes() + memory_bytes
    limit = required if most == resource.RLIM_INFINITY else min(required, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(niceness)
    run_worker(connection, ring, options, pulse, packets)
    os._exit(0)


def _private_bytes() -> int:
    """Return the writable memory of this process, as RLIMIT_DATA counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))


def run_worker(
    connection: Connection,
    ring: ClipRing,
    options: ReadingOptions,
    pulse: Pulse,
    packets: PacketRing | None = None,
) -> None:
    """Do the tasks that arrive over a connection, until its other end is closed.

    The newest packets of streams are kept in ``packets``.
    """
    line = _Line(connection, ring, pulse, packets)
    try:
        while True:
            task = line.next_task()
            _do(task, line, options)
            if isinstance(task, StreamTask) or task.part is not None:
                # PyAV's frames are in cycles with their side data, and keep memory of the part's
                # decoder; over the parts of a day of video, that came to 400 MB.
                gc.collect()
    except _DisconnectedError:
        return


def _do(task: Task | StreamTask, line: "_Line", options: ReadingOptions) -> None:
    """Read a video or a stream; report any error, so that the worker can go on."""
    try:
        messages: Iterator[object]
        if isinstance(task, StreamTask):
            messages = _live_messages(task, line, options)
        else:
            messages = _messages(task, line, options)
        for message in messages:
            line.send(message)
    except _DisconnectedError:
        raise
    except VideoError as error:
        where = error.decoder, error.frame_index
        line.send(TaskFailed(task.number, error.reason, *where, error.may_pass))
    except Exception as error:
        log.debug("%s", task, exc_info=True)
        reason = f"unexpected {type(error).__name__}: {error}"
        if isinstance(error, MemoryError):
            reason = "it needs more memory than a worker may use: raise worker_memory_gib"
        pulse = line.pulse
        may_pass = isinstance(error, OSError | MemoryError)
        line.send(TaskFailed(task.number, reason, pulse.decoder, pulse.num_frames, may_pass))


def _messages(
    task: Task, line: "_Line", options: ReadingOptions
) -> Iterator[ClipReady | SheetReady | Restarted | WasSplit | TaskFinished]:
    first_clip = clip_index = task.part.first_clip if task.part else 0
    started = time.perf_counter()
    for read in _read(task, line, options):
        match read:
            case Clip():
                seconds = time.perf_counter() - started - line.take_waited_seconds()
                slot, decoder = line.ring.take(), line.pulse.decoder
                what = slot, seconds, decoder, None, read.is_static
                yield ClipReady(task.number, clip_index, *what)
                clip_index += 1
                started = time.perf_counter()
            case Sheet():
                yield SheetReady(task.number, read)
            case Restart():
                clip_index = first_clip
                yield Restarted(task.number, read.reason)
            case SplitVideo():
                yield WasSplit(task.number, read.parts)
            case Finished():
                yield TaskFinished(task.number, read)


def _live_messages(
    task: StreamTask, line: "_Line", options: ReadingOptions
) -> Iterator[ClipReady | StreamNews]:
    started = time.perf_counter()
    clip_index = 0
    for read in read_stream(task.source, options, line.new_clip, line.pulse, line.packets):
        if not isinstance(read, LiveClip):
            if isinstance(read, PieceBegun):
                clip_index = 0
            yield StreamNews(task.number, read)
            continue
        spent = time.perf_counter() - started - line.take_waited_seconds()
        slot, decoder = line.ring.take(), line.pulse.decoder
        what = slot, spent, decoder, read.seconds, read.is_static
        yield ClipReady(task.number, clip_index, *what)
        clip_index += 1
        started = time.perf_counter()


def _read(
    task: Task, line: "_Line", options: ReadingOptions
) -> Iterator[Clip | Sheet | Restart | SplitVideo | Finished]:
    if task.part is not None and task.only_end:
        return read_end(task.video, task.part, options, line.pulse)
    if task.part is not None:
        return read_part(task.video, task.part, options, line.new_clip, line.pulse)
    return read_video(
        task.video,
        options,
        task.decoder,
        line.new_clip,
        may_split=task.may_split,
        pulse=line.pulse,
    )


class _Line:
    """The worker's end of the connection, and its ring: the worker may have to wait for both."""

    def __init__(
        self, connection: Connection, ring: ClipRing, pulse: Pulse, packets: PacketRing | None
    ) -> None:
        self.ring, self.pulse, self.packets = ring, pulse, packets
        self._connection = connection
        self._tasks: deque[Task | StreamTask] = deque()
        self._waited_seconds = 0.0

    def send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise _DisconnectedError from error

    def next_task(self) -> Task | StreamTask:
        """Wait for a task."""
        while not self._tasks:
            self._receive()
        return self._tasks.popleft()

    def new_clip(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return memory for a clip, after waiting for a free slot of the ring."""
        while self._has_message():
            self._receive()
        started = time.perf_counter()
        while (clip := self.ring.next_clip(shape)) is None:
            self.pulse.is_waiting = True
            self._receive()
        self.pulse.is_waiting = False
        self._waited_seconds += time.perf_counter() - started
        return clip

    def take_waited_seconds(self) -> float:
        """Return how long `new_clip` has waited since the last call."""
        seconds, self._waited_seconds = self._waited_seconds, 0.0
        return seconds

    def _has_message(self) -> bool:
        try:
            return self._connection.poll()
        except OSError as error:
            raise _DisconnectedError from error

    def _receive(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _DisconnectedError from error
        match message:
            case Release():
                self.ring.release(message.slot)
            case Task() | StreamTask():
                self._tasks.append(message)
