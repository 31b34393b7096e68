"""The decode workers of a run: started, given tasks, watched, replaced when they die."""

import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess

from vigil.extract.decode.live import PieceEnded
from vigil.extract.decode.packet_ring import PacketRing
from vigil.extract.decode.pulse import Pulse
from vigil.extract.decode.reader import ReadingOptions
from vigil.extract.decode.ring import MIN_SLOTS, ClipRing
from vigil.extract.decode.worker import (
    ClipReady,
    Release,
    Restarted,
    SheetReady,
    StreamNews,
    StreamTask,
    Task,
    TaskFailed,
    TaskFinished,
    WasSplit,
    run_worker,
    worker_process,
)
from vigil.extract.processes import spawn

WATCH_SECONDS = 1.0
"""Interval at which workers should be checked."""
MEMORY_SIGNALS = (signal.SIGABRT, signal.SIGKILL)
"""Signals that end a process when memory runs out."""
MAX_TASKS = 200
"""Tasks after which a worker is replaced, because decoders leak memory on damaged videos."""

NICENESS = 10
"""Of workers that may wait for the network. On two cores, a busy process cost it more than half its
speed, and one at this niceness a tenth. While the network waits, a worker has the core."""

Message = ClipReady | SheetReady | Restarted | WasSplit | TaskFinished | TaskFailed | StreamNews


@dataclass(frozen=True)
class WorkerDied:
    """A worker died while it had a task."""

    task: int
    reason: str
    decoder: str
    """Empty if none had been chosen yet."""
    frame_index: int
    """Number of frames decoded before its death."""
    may_pass: bool = False
    """Whether memory or time were short, of which there may be more another time."""


@dataclass(frozen=True)
class WorkerLimits:
    """Time and memory that a worker may use before it is stopped."""

    stall_seconds: float = 60.0
    """Time without a heartbeat, which comes with each frame, and with each block of a file scan."""
    memory_bytes: int = 4 << 30
    """Memory beyond that of an idle worker and the clips it shares."""


@dataclass(eq=False)
class _Worker:
    ring: ClipRing
    pulse: Pulse
    packets: PacketRing | None
    connection: Connection | None = None
    runner: threading.Thread | BaseProcess | None = None
    task: int | None = None
    num_held: int = 0
    """Slots of the ring with clips that are still needed."""
    num_tasks: int = 0
    """Assigned to this process."""
    num_beats: int = 0
    """At the last check."""
    still_seconds: float = 0.0
    """Time without a heartbeat."""


@dataclass
class WorkerPool:
    """Up to ``limit`` decode workers, each a process with a ring of its own.

    A ring outlives its worker, so the clips of a dead worker can still be read.
    """

    options: ReadingOptions
    limit: int
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    in_thread: bool = False
    """Run the only worker in a thread of this process, for debugging."""
    num_wanted: int = 1
    """How many may run; a worker is started only when there is a task for it."""
    niceness: int = NICENESS
    min_slots: int = MIN_SLOTS
    """Of each ring."""
    packet_bytes: int = 0
    """How much each worker keeps of the packets of its stream."""
    _workers: list[_Worker] = field(default_factory=list)
    _watched_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Create the rings; their memory is allocated when it is first used."""
        for _ in range(self.limit):
            ring = ClipRing(min_slots=self.min_slots)
            packets = PacketRing(self.packet_bytes) if self.packet_bytes else None
            self._workers.append(_Worker(ring, Pulse(), packets))

    def close(self) -> None:
        """Stop the workers, even in the middle of a task, and free the rings."""
        for worker in self._workers:
            _stop(worker)
        for worker in self._workers:
            worker.ring.close()

    @property
    def rings(self) -> Sequence[ClipRing]:
        """The workers' rings, by worker index."""
        return tuple(worker.ring for worker in self._workers)

    def packets(self, index: int) -> PacketRing | None:
        """The packets that a worker keeps; they outlive it, and the pool."""
        return self._workers[index].packets

    @property
    def connections(self) -> list[Connection]:
        """The connections on which messages arrive."""
        return [worker.connection for worker in self._workers if worker.connection is not None]

    @property
    def num_running(self) -> int:
        """Number of running workers."""
        return len(self.connections)

    def _free(self) -> _Worker | None:
        """A worker without a task: a running one, else one to start if more may run, else None."""
        idle = [worker for worker in self._workers if worker.task is None]
        for worker in idle:
            if worker.num_tasks >= MAX_TASKS:
                _stop(worker)
            elif worker.runner is not None and worker.runner.is_alive():
                return worker
        if self.num_running >= min(self.num_wanted, self.limit):
            return None
        # Clips that another worker left in a ring must be read before a new one writes there.
        stopped = [worker for worker in idle if worker.connection is None]
        return next((worker for worker in stopped if worker.num_held == 0), None)

    def assign(self, task: Task | StreamTask) -> bool:
        """Assign a task to a worker; return False if none is free."""
        worker = self._free()
        if worker is None:
            return False
        if worker.connection is None:
            self._start(worker)
        worker.task = task.number
        worker.num_tasks += 1
        worker.still_seconds = 0.0
        worker.pulse.begin()
        _send(worker, task)
        return True

    def _start(self, worker: _Worker) -> None:
        worker.connection, theirs = Pipe()
        if self.in_thread:

            def run() -> None:
                with theirs:
                    run_worker(theirs, worker.ring, self.options, worker.pulse, worker.packets)

            worker.runner = threading.Thread(target=run, name="vigil-worker", daemon=True)
            worker.runner.start()
            return
        limits = self.limits.memory_bytes, self.niceness
        arguments = theirs, worker.ring, self.options, worker.pulse, *limits, worker.packets
        worker.runner = spawn(worker_process, arguments, "vigil-worker")
        theirs.close()

    def receive(self, connection: Connection) -> tuple[int, Message | WorkerDied | None]:
        """Index of the worker behind a connection, and its next message.

        The message is None if a worker died without a task.
        """
        index = next(i for i, worker in enumerate(self._workers) if worker.connection is connection)
        worker = self._workers[index]
        try:
            message: Message = connection.recv()
        except (EOFError, OSError):
            return index, self._report_death(worker)
        if isinstance(message, ClipReady):
            worker.num_held += 1
        elif _is_end(message):
            worker.task = None
        return index, message

    def _report_death(self, worker: _Worker) -> WorkerDied | None:
        runner, task = worker.runner, worker.task
        if runner is not None:
            runner.join(1)  # the connection may close a moment before the process ends
        is_stalled = worker.still_seconds >= self.limits.stall_seconds
        _stop(worker)
        if task is None:
            return None
        code = runner.exitcode if isinstance(runner, BaseProcess) else None
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        is_memory_short = code is not None and -code in MEMORY_SIGNALS
        if is_memory_short:
            how += ", possibly out of memory: raise worker_memory_gib"
        reason = f"the decoder process died ({how})"
        if is_stalled:
            reason = f"no heartbeat for {self.limits.stall_seconds:g} s: raise stall_seconds"
        where = worker.pulse.decoder, worker.pulse.num_frames
        return WorkerDied(task, reason, *where, may_pass=is_stalled or is_memory_short)

    def watch(self) -> None:
        """Kill stalled workers; `receive` then reports their deaths."""
        now = time.monotonic()
        # If the whole program stood still, such as while it was suspended, no worker has stalled.
        passed = min(now - self._watched_at, 2 * WATCH_SECONDS)
        if passed < WATCH_SECONDS:
            return
        self._watched_at = now
        for worker in self._workers:
            num_beats, runner = worker.pulse.num_beats, worker.runner
            if num_beats != worker.num_beats or worker.pulse.is_waiting:
                worker.num_beats, worker.still_seconds = num_beats, 0.0
            elif worker.task is not None and isinstance(runner, BaseProcess):
                worker.still_seconds += passed
                if worker.still_seconds >= self.limits.stall_seconds:
                    runner.kill()

    def release(self, index: int, slot_index: int) -> None:
        """Let a worker use a slot again."""
        worker = self._workers[index]
        worker.num_held -= 1
        _send(worker, Release(slot_index))


def _is_end(message: Message) -> bool:
    """Whether it is the last one about its task."""
    if isinstance(message, StreamNews):
        return isinstance(message.news, PieceEnded) and not message.news.goes_on
    return isinstance(message, WasSplit | TaskFinished | TaskFailed)


def _send(worker: _Worker, message: Task | StreamTask | Release) -> None:
    """Send a message; a worker's death is noticed when its messages are read."""
    if worker.connection is None:
        return
    try:
        worker.connection.send(message)
    except OSError:
        return


def _stop(worker: _Worker) -> None:
    if worker.connection is not None:
        worker.connection.close()
    if isinstance(worker.runner, BaseProcess):
        worker.runner.kill()
    if worker.runner is not None:
        worker.runner.join()
    worker.connection = worker.runner = worker.task = None
    worker.num_tasks = 0
