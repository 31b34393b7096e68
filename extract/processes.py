"""Child processes: spawned, so that they inherit no open video or lock, and immune to Ctrl-C."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType, ModuleType
from typing import Any

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
