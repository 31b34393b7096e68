"""Run the program in its own process, as a user does, or a function in one that is cheaper."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_python(*arguments, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def run_vigil(*arguments, **options) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "vigil.pipeline.cli", *arguments, **options)


def run_forked(target: Callable[..., object], *arguments) -> int | None:
    """The exit code of a function of a module in a process that need not import torch first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vigil.pipeline.extraction.command"])
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode
