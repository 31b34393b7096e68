"""The decode workers of a run: started, given tasks, replaced when they die."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess

from extract.processes import spawn
from extract.reader import ReadingOptions
from extract.ring import ClipRing
from extract.worker import (
    ClipReady,
    Release,
    Restarted,
    Task,
    TaskFailed,
    TaskFinished,
    WasSplit,
    run_worker,
    worker_process,
)

Message = ClipReady | Restarted | WasSplit | TaskFinished | TaskFailed


@dataclass(frozen=True)
class WorkerDied:
    """A worker is gone, and with it what it was at."""

    task: int
    reason: str


@dataclass(eq=False)
class _Worker:
    ring: ClipRing
    connection: Connection | None = None
    runner: threading.Thread | BaseProcess | None = None
    task: int | None = None
    num_held: int = 0
    """Slots of the ring with clips that are still needed."""


@dataclass
class WorkerPool:
    """Up to ``limit`` decode workers, each a process with a ring of its own.

    A ring outlives its worker: clips of one that died can still be read.
    """

    options: ReadingOptions
    limit: int
    in_thread: bool = False
    """Run the one worker in a thread of this process, to look for errors."""
    num_wanted: int = 1
    """How many may run; more are started only when there is something for them to do."""
    _workers: list[_Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the rings; their memory is taken when it is first used."""
        self._workers = [_Worker(ClipRing()) for _ in range(self.limit)]

    def close(self) -> None:
        """Stop the workers, whatever they are at, and free the rings."""
        for worker in self._workers:
            _stop(worker)
        for worker in self._workers:
            worker.ring.close()

    @property
    def rings(self) -> Sequence[ClipRing]:
        """Every worker's ring, by its index."""
        return tuple(worker.ring for worker in self._workers)

    @property
    def connections(self) -> list[Connection]:
        """Where messages come from."""
        return [worker.connection for worker in self._workers if worker.connection is not None]

    @property
    def num_running(self) -> int:
        """Workers there are."""
        return len(self.connections)

    def _free(self) -> _Worker | None:
        """A worker without a task; one that is still to be started only if it is wanted."""
        resting = [worker for worker in self._workers if worker.task is None]
        for worker in resting:
            if worker.runner is not None and worker.runner.is_alive():
                return worker
        if self.num_running >= min(self.num_wanted, self.limit):
            return None
        # What another worker left in a ring must have been read before a new one writes there.
        stopped = [worker for worker in resting if worker.connection is None]
        return next((worker for worker in stopped if worker.num_held == 0), None)

    def assign(self, task: Task) -> bool:
        """Give a task to a worker; False where none is free."""
        worker = self._free()
        if worker is None:
            return False
        if worker.connection is None:
            self._start(worker)
        worker.task = task.number
        _tell(worker, task)
        return True

    def _start(self, worker: _Worker) -> None:
        worker.connection, theirs = Pipe()
        if self.in_thread:

            def run() -> None:
                with theirs:
                    run_worker(theirs, worker.ring, self.options)

            worker.runner = threading.Thread(target=run, name="vigil-worker", daemon=True)
            worker.runner.start()
            return
        worker.runner = spawn(worker_process, (theirs, worker.ring, self.options), "vigil-worker")
        theirs.close()

    def receive(self, connection: Connection) -> tuple[int, Message | WorkerDied | None]:
        """Index of the worker behind a connection, and its next message.

        None where a worker has died that had nothing to do.
        """
        index = next(i for i, worker in enumerate(self._workers) if worker.connection is connection)
        worker = self._workers[index]
        try:
            message: Message = connection.recv()
        except (EOFError, OSError):
            return index, self._bury(worker)
        if isinstance(message, ClipReady):
            worker.num_held += 1
        elif not isinstance(message, Restarted):
            worker.task = None
        return index, message

    def _bury(self, worker: _Worker) -> WorkerDied | None:
        runner, task = worker.runner, worker.task
        if runner is not None:
            runner.join(1)  # the connection may end a moment before the process
        _stop(worker)
        if task is None:
            return None
        code = runner.exitcode if isinstance(runner, BaseProcess) else None
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerDied(task, f"the decoder's process died ({how})")

    def release(self, index: int, slot_index: int) -> None:
        """Let a worker use a slot again."""
        worker = self._workers[index]
        worker.num_held -= 1
        _tell(worker, Release(slot_index))


def _tell(worker: _Worker, message: Task | Release) -> None:
    """Send a message; that a worker has died is found when its messages are read."""
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
        worker.runner.terminate()
    if worker.runner is not None:
        worker.runner.join()
    worker.connection = worker.runner = worker.task = None
