"""Run the program in its own process, as a user does."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_python(*arguments, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def run_vigil(*arguments, **options) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "vigil.pipeline.cli", *arguments, **options)
