"""Processes of ours: spawned, so that they share no open video or lock, and deaf to Ctrl-C."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1


def spawn(target: Callable[..., Any], args: tuple[Any, ...], name: str) -> BaseProcess:
    """A running process that ends with this one, even where that is killed.

    Ctrl-C in a terminal reaches every process; whoever started this one decides what becomes of it.
    """
    process = get_context("spawn").Process(
        target=_run, args=(os.getpid(), target, args), name=name, daemon=True
    )
    resource_tracker.ensure_running()  # starting it would lift the block below
    with _uninterrupted():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals that interrupt wait until the block is done: half a process would complain."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    kinds = signal.SIGINT, signal.SIGTERM
    handlers = {kind: handler for kind in kinds if callable(handler := signal.getsignal(kind))}
    for kind in handlers:
        signal.signal(kind, lambda *signalled: came.append(signalled))
    try:
        yield
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    for number, frame in came:
        handlers[signal.Signals(number)](number, frame)


def _run(parent: int, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """What the process does; it may hang in a decoder, and nobody would be left to end it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        target(*args)
