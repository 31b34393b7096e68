"""Faults that are injected into a running program, and a tally of outcomes."""

import os
import resource
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.processes import Program
from bench.table import markdown

WORKER_KILL, TRAINING_KILL = "kill -9 of a worker", "kill -9 of a training"
NOTHING = "nothing"
SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
EXTRACTION_KILLS = (*SIGNALS, "kill -9", WORKER_KILL)  # kill -9 twice as often as the others
TWO_RUNS, FULL_DISK, LITTLE_MEMORY = "two runs at once", "full disk", "little memory"
HINDRANCES = (TWO_RUNS, FULL_DISK, LITTLE_MEMORY)

SPARE_MEMORY_BYTES = 64 << 20
HANG_SECONDS = 120
GRACE_SECONDS = 10
"""How long the processes of a run may outlive it."""


@dataclass
class Tally:
    """The faults injected so far, and their outcomes."""

    codes: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Fault -> exit codes of the runs it struck."""
    late: Counter[str] = field(default_factory=Counter)
    """Runs that had ended before the fault struck; others replaced them."""
    lost: list[str] = field(default_factory=list)
    """Features or checkpoints that have disappeared."""
    differing: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    """Files and processes that should not be there."""
    unexpected: list[str] = field(default_factory=list)
    """Runs that hung, or ended with the wrong exit code."""

    def end(self, kind: str, code: int | None, expected: set[int], messages: str) -> None:
        """Record the exit code of a run; None if it did not end."""
        if code is None or (expected and code not in expected):
            self.unexpected.append(f"{kind}: exit code {code}: {messages[-1000:]}")
        else:
            self.codes[kind][code] += 1

    def summary(self) -> str:
        """The counts that should be 0."""
        return (
            f"{len(self.lost)} files lost, {len(self.differing)} differing, "
            f"{len(self.leftovers)} leftovers, {len(self.unexpected)} unexpected ends"
        )

    def problems(self) -> list[str]:
        """Everything that should not have happened."""
        kinds = ("lost", "differing", "leftovers", "unexpected")
        return [f"{kind}: {what}" for kind in kinds for what in getattr(self, kind)]

    def table(self) -> str:
        """A Markdown table with a row for each kind of fault."""
        rows = []
        for kind, codes in self.codes.items():
            ends = ", ".join(f"{code}: {number}" for code, number in sorted(codes.items()))
            rows.append((kind, str(codes.total()), str(self.late[kind]), ends))
        return markdown(("fault", ">times", ">too late", "exit codes"), rows)


def strike(kind: str, program: Program, moment_seconds: float, random: Random) -> bool:
    """Inject a fault into a running program; return False if it ended before.

    The kill of a worker waits until there is one.
    """
    if program.wait(moment_seconds) is not None:
        return False
    pid = program.process.pid
    if kind == WORKER_KILL:
        return _kill_worker(program, random)
    with suppress(ProcessLookupError):
        if kind == LITTLE_MEMORY:
            _starve(random.choice([pid, *workers(program)]), random)
        else:
            os.kill(pid, SIGNALS.get(kind, signal.SIGKILL))
        return True
    return False


def _kill_worker(program: Program, random: Random) -> bool:
    while program.process.poll() is None:
        for pid in random.sample(found := sorted(workers(program)), len(found)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


def workers(program: Program) -> Iterator[int]:
    """Yield the process ids of its decode workers."""
    for pid in program.family():
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                yield pid


def _starve(pid: int, random: Random) -> None:
    """Limit a process to little more memory than it has now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    held = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    limit = held + random.randrange(SPARE_MEMORY_BYTES)
    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def processes_left(program: Program) -> int:
    """Kill the processes that outlive a program; return their number."""
    waited_until = time.monotonic() + GRACE_SECONDS
    while program.family() and time.monotonic() < waited_until:
        time.sleep(0.05)
    return program.kill()
