"""Run commands from within other commands, as if a user typed them one after the other."""

import contextlib
import logging
import shlex
import sys
from collections.abc import Sequence

from vigil.pipeline import cli
from vigil.pipeline.options import LogOptions

log = logging.getLogger(__name__)


def run_step(arguments: Sequence[str], logs: LogOptions) -> int:
    """Log a `vigil` command, run it, and return its exit code.

    Its output goes to standard error, because standard output belongs to the calling command.
    """
    log.info("$ vigil %s", shlex.join(arguments))
    flags = ["--quiet"] * logs.quiet + ["--verbose"] * logs.verbose
    flags += ["--log-json", str(logs.log_json)] if logs.log_json else []
    with contextlib.redirect_stdout(sys.stderr):
        return cli.main([*arguments, *flags])
