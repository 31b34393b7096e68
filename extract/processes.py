"""Processes of ours: spawned, so that they share no open video or lock, and deaf to Ctrl-C."""

import ctypes
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context, resource_tracker
from multiprocessing.process import BaseProcess
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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _run(parent: int, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """What the process does; it may hang in a decoder, and nobody would be left to end it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        target(*args)
