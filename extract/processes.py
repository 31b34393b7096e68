"""Child processes: spawned, so that they inherit no open video or lock, and immune to Ctrl-C."""

import ctypes
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType, ModuleType
from typing import Any, TypeVar

Item = TypeVar("Item")

PR_SET_PDEATHSIG = 1
_ONE_AT_A_TIME = threading.Lock()


def spawn(target: Callable[..., Any], args: tuple[Any, ...], name: str) -> BaseProcess:
    """Start a process that ends with this one, even if this one is killed.

    It does not import the main program, so the target is a function of another module.
    Ctrl-C in a terminal reaches every process. The new one ignores it: its parent ends it.
    """
    process = get_context("spawn").Process(
        target=_run, args=(os.getpid(), target, args), name=name, daemon=True
    )
    resource_tracker.ensure_running()  # starting it later would lift the block below
    with _uninterrupted(), without_main():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def ask_each(
    work: Callable[[Connection, Sequence[Item]], None],
    items: Sequence[Item],
    name: str,
    stall_seconds: float,
) -> Iterator[tuple[Item, Any]]:
    """Yield each item with what a process says of it, or with the reason why it says nothing.

    A process that dies, or that is silent for too long, is ended over the item that it has reached,
    and another one gets those after it.

    Args:
        work: called in the process. It sends an answer for each item, in order; between them, None
            is a sign of life.
        items: at hand in the process as copies.
        name: of the process.
        stall_seconds: for how long it may be silent.

    Raises:
        OSError: the process sent it instead of an answer.
    """
    waiting = deque(items)
    while waiting:
        ours, theirs = Pipe()
        process = spawn(work, (theirs, list(waiting)), name)
        theirs.close()
        try:
            while waiting and ours.poll(stall_seconds):
                said = ours.recv()
                if isinstance(said, OSError):
                    raise said
                if said is not None:
                    yield waiting.popleft(), said
            if waiting:
                yield waiting.popleft(), f"reading it made no progress for {stall_seconds:g} s"
        except EOFError:
            yield waiting.popleft(), "the process reading it died"
        finally:
            process.kill()
            process.join()
            ours.close()


def limit_memory(num_bytes: int) -> None:
    """Let this process have no more writable memory, and leave no core if it crashes."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = num_bytes if most == resource.RLIM_INFINITY else min(num_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def without_main() -> Iterator[None]:
    """Processes spawned in the block do not import the program that is running.

    multiprocessing would import it, for what is defined there; a user's script, which calls vigil
    at its top level, would then run again in every process.
    """
    with _ONE_AT_A_TIME:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer interrupting signals to the end of the block: a half-started process prints errors."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[tuple[int, FrameType | None]] = []
    kinds = signal.SIGINT, signal.SIGTERM
    handlers = {kind: handler for kind in kinds if callable(handler := signal.getsignal(kind))}
    for kind in handlers:
        signal.signal(kind, lambda *signalled: deferred.append(signalled))
    try:
        yield
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    for number, frame in deferred:
        handlers[signal.Signals(number)](number, frame)


def _run(parent: int, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Run the target, and have the system kill it with its parent: it may hang in a decoder."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        target(*args)
