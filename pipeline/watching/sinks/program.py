"""A program that gets each alarm on its standard input."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress

from vigil.pipeline.watching.outbox import Letter
from vigil.pipeline.watching.sinks.sink import NotDelivered

LIMIT_SECONDS = 30.0
PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
"""Variables that programs get; any other may be the password of another sink or camera."""


class Program:
    """Runs a program per alarm, never through a shell; exit code 0 means delivered."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        """Describe it.

        Args:
            name: what the sink is called.
            command: the program's absolute path and its arguments.
            variables: of its environment, besides `PASSED_ON`.
            limit_seconds: time after which it is killed, with all that it started.
        """
        self.name = name
        self._command = list(command)
        self._variables = dict(variables)
        self._limit_seconds = limit_seconds

    def deliver(self, letter: Letter) -> None:
        """Run the program; raises like `Sink.deliver`."""
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=passed_on | self._variables,
                    start_new_session=True,
                )
            except OSError as error:
                raise NotDelivered(f"it does not start: {error.strerror}") from error
            try:
                process.communicate(letter.message.encode() + b"\n", self._limit_seconds)
            except subprocess.TimeoutExpired as error:
                reason = f"it runs longer than {self._limit_seconds:g} s, and was killed"
                raise NotDelivered(reason) from error
            finally:
                if process.poll() is None:
                    # A session of its own, hence a group that has the process's number.
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if process.returncode:
                said.seek(0)
                last = said.read(4096).decode(errors="replace").strip()
                raise NotDelivered(f"exit code {process.returncode}: {last}")

    def close(self) -> None:
        """Do nothing: no program runs between alarms."""
