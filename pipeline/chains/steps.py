"""Run commands from within other commands, as if a user typed them one after the other."""

import contextlib
import logging
import shlex
import sys
from dataclasses import replace
from typing import Any

from vigil.pipeline import cli
from vigil.pipeline.arguments import arguments_of
from vigil.pipeline.options import LogOptions

log = logging.getLogger(__name__)


def run_step(options: Any, logs: LogOptions) -> int:
    """Log the `vigil` command with these options, run it, and return its exit code.

    Its output goes to standard error, because standard output belongs to the calling command.
    """
    log.info("$ vigil %s", shlex.join(arguments_of(options)))
    with contextlib.redirect_stdout(sys.stderr):
        return cli.run(replace(options, logs=logs))
