"""The decode worker: tasks in, clips out, over one connection; the clips lie in its ring.

It loads neither torch nor h5py, so that a process of it starts fast. What memory it needs is its
ring's and its decoder's, of which decord may read `READ_AHEAD_LIMIT_BYTES` ahead.
"""

import logging
import os
import resource
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from vigil.extract.errors import VideoError
from vigil.extract.parts import Part
from vigil.extract.pulse import Pulse
from vigil.extract.reader import (
    Clip,
    Finished,
    ReadingOptions,
    Restart,
    Split,
    check_decoder,
    decoder_name,
    read_part,
    read_video,
)
from vigil.extract.ring import ClipRing, Slot
from vigil.extract.source import SourceVideo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A video, or a part of it, to read; the number is in every message about it."""

    number: int
    video: SourceVideo
    decoder: str = "auto"
    part: Part | None = None
    may_split: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown decoders before a process is troubled with them.

        Raises:
            UserError: names the decoders there are.
        """
        check_decoder(self.decoder)


@dataclass(frozen=True)
class Release:
    """To the worker: the clip in a slot is no longer needed."""

    slot: int


@dataclass(frozen=True)
class ClipReady:
    """A clip lies in a slot, which stays as it is until it is released."""

    task: int
    clip_index: int
    """From the beginning of the video, in a part too."""
    slot: Slot
    decode_seconds: float
    """Without the time in which every slot was taken."""


@dataclass(frozen=True)
class Restarted:
    """The task's clips so far are void; it goes on, from its beginning, with another decoder."""

    task: int
    reason: str


@dataclass(frozen=True)
class WasSplit:
    """The end of a task: its video is to be read in these parts."""

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


class _UnwantedError(Exception):
    """Nobody wants clips any more."""


def worker_process(
    connection: Connection,
    ring: ClipRing,
    options: ReadingOptions,
    pulse: Pulse,
    memory_bytes: int,
) -> NoReturn:
    """Entry of a spawned process; leaves it without waiting for threads of a decoder.

    It may take so much memory besides what it has now and the ring's, which is shared.
    """
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _private_bytes() + memory_bytes
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A network on two cores lost more than half of its speed to one busy process beside it, and a
    # tenth to one that gives way so much. Where the network waits, this process has the core.
    os.nice(10)
    run_worker(connection, ring, options, pulse)
    os._exit(0)


def _private_bytes() -> int:
    """Writable memory of this process, as RLIMIT_DATA counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))


def run_worker(
    connection: Connection, ring: ClipRing, options: ReadingOptions, pulse: Pulse
) -> None:
    """Do the tasks that come over a connection, until its other end is closed."""
    line = _Line(connection, ring, pulse)
    try:
        while True:
            _do(line.next_task(), line, options)
    except _UnwantedError:
        return


def _do(task: Task, line: "_Line", options: ReadingOptions) -> None:
    """Read a video; whatever is in it, the next one is to be read too."""
    try:
        for message in _messages(task, line, options):
            line.send(message)
    except _UnwantedError:
        raise
    except VideoError as error:
        line.send(TaskFailed(task.number, error.reason, error.decoder, error.frame_index))
    except Exception as error:
        log.debug("%s", task.video.name, exc_info=True)
        reason = f"unexpected {type(error).__name__}: {error}"
        if isinstance(error, MemoryError):
            reason = "it takes more memory than a worker may have: raise --worker-memory-gib"
        decoder = decoder_name(line.pulse)
        line.send(TaskFailed(task.number, reason, decoder, line.pulse.num_frames))


def _messages(
    task: Task, line: "_Line", options: ReadingOptions
) -> Iterator[ClipReady | Restarted | WasSplit | TaskFinished]:
    first_clip = clip_index = task.part.first_clip if task.part else 0
    began = time.perf_counter()
    for read in _read(task, line, options):
        match read:
            case Clip():
                seconds = time.perf_counter() - began - line.take_waited_seconds()
                yield ClipReady(task.number, clip_index, line.ring.take(), seconds)
                clip_index += 1
                began = time.perf_counter()
            case Restart():
                clip_index = first_clip
                yield Restarted(task.number, read.reason)
            case Split():
                yield WasSplit(task.number, read.parts)
            case Finished():
                yield TaskFinished(task.number, read)


def _read(
    task: Task, line: "_Line", options: ReadingOptions
) -> Iterator[Clip | Restart | Split | Finished]:
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
    """The worker's end of the connection, and its ring: the two that can make it wait."""

    def __init__(self, connection: Connection, ring: ClipRing, pulse: Pulse) -> None:
        self.ring, self.pulse = ring, pulse
        self._connection = connection
        self._tasks: deque[Task] = deque()
        self._waited_seconds = 0.0

    def send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise _UnwantedError from error

    def next_task(self) -> Task:
        """Wait for a task."""
        while not self._tasks:
            self._receive()
        return self._tasks.popleft()

    def new_clip(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Memory for a clip; wait until a slot of the ring is free."""
        while self._has_message():
            self._receive()
        began = time.perf_counter()
        while (clip := self.ring.next_clip(shape)) is None:
            self.pulse.is_waiting = True
            self._receive()
        self.pulse.is_waiting = False
        self._waited_seconds += time.perf_counter() - began
        return clip

    def take_waited_seconds(self) -> float:
        """How long `new_clip` has waited since the last call."""
        seconds, self._waited_seconds = self._waited_seconds, 0.0
        return seconds

    def _has_message(self) -> bool:
        try:
            return self._connection.poll()
        except OSError as error:
            raise _UnwantedError from error

    def _receive(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _UnwantedError from error
        match message:
            case Release():
                self.ring.release(message.slot)
            case Task():
                self._tasks.append(message)
