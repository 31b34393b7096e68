"""Runs checks at the same time, each in a process of its own.

Whatever is checked may hang (a network file system, a driver, a camera) or take its process with it
(a decoder, a driver). So a check is ended when its time is up, and its other findings count.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from vigil.extract.errors import UserError
from vigil.extract.processes import spawn
from vigil.pipeline.doctor.finding import PROBLEM, Check, Finding, without_login

MAX_AT_ONCE = 8
_ENDING_SECONDS = 5.0
"""A process that has said all may take so long to end; nobody waits for it any longer."""


def run_checks(checks: Sequence[Check]) -> list[Finding]:
    """Run checks, and return their findings in the order of the checks."""
    found: dict[int, list[Finding]] = {}
    waiting = list(enumerate(checks))[::-1]
    running: dict[Connection, tuple[int, _Child]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < MAX_AT_ONCE:
                number, check = waiting.pop()
                child = _Child.of(check)
                running[child.connection] = number, child
            deadline = min(child.deadline for _, child in running.values())
            ready = set(wait(list(running), max(0.0, deadline - time.monotonic())))
            for connection, (number, child) in list(running.items()):
                if child.advance(connection in ready):
                    del running[connection]
                    found[number] = child.findings
    finally:
        for _, child in running.values():
            child.process.kill()
    return [finding for number in sorted(found) for finding in found[number]]


@dataclass
class _Child:
    """A check while it runs."""

    check: Check
    process: BaseProcess
    connection: Connection
    deadline: float
    findings: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, check: Check) -> "_Child":
        connection, theirs = Pipe()
        process = spawn(_run, (theirs, check), f"vigil doctor: {check.name}")
        theirs.close()
        return cls(check, process, connection, time.monotonic() + check.seconds)

    def advance(self, is_ready: bool) -> bool:
        """Take a finding if one is there; return whether there will be no more."""
        if not is_ready:
            if time.monotonic() < self.deadline:
                return False
            self._fail(f"no answer within {self.check.seconds:g} s", self.check.remedy)
        else:
            with suppress(EOFError, ConnectionResetError):
                finding = self.connection.recv()
                if finding is not None:
                    self.findings.append(finding)
                    return False
                self._end()
                return True
            self.process.join(_ENDING_SECONDS)
            code = self.process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            self._fail(f"the process that looked at it ended early ({how})")
        self._end()
        return True

    def _fail(self, found: str, remedy: str = "") -> None:
        self.findings.append(Finding(self.check.name, PROBLEM, found, remedy))

    def _end(self) -> None:
        self.process.kill()
        self.process.join(_ENDING_SECONDS)
        self.connection.close()


def _run(connection: Connection, check: Check) -> None:
    """Send each finding, and None at the end; an error becomes a finding, too."""
    try:
        module, _, name = check.target.partition(":")
        for finding in getattr(import_module(module), name)(*check.arguments):
            connection.send(finding)
    except Exception as error:  # of any type: whatever is wrong, the other checks go on
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        reason = without_login(" ".join(words.split()))
        connection.send(Finding(check.name, PROBLEM, reason))
    connection.send(None)
