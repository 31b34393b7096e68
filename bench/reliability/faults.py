"""What is done to a running program, and what came of it."""

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
EXTRACTION_KILLS = (*SIGNALS, "kill -9", WORKER_KILL)  # kill -9 twice as often as each other
TWO_RUNS, FULL_DISK, LITTLE_MEMORY = "two runs at once", "full disk", "little memory"
HINDRANCES = (TWO_RUNS, FULL_DISK, LITTLE_MEMORY)

SPARE_MEMORY_BYTES = 64 << 20
HANG_SECONDS = 120
GRACE_SECONDS = 10
"""How long after the end of a run its processes may still be there."""


@dataclass
class Tally:
    """What was done, and what came of it."""

    codes: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """What was done -> exit codes of the runs it struck."""
    late: Counter[str] = field(default_factory=Counter)
    """Runs that had ended before they could be struck; others took their places."""
    lost: list[str] = field(default_factory=list)
    """Features or checkpoints that were there and are not any more."""
    differing: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    """Files and processes that should not be there."""
    unexpected: list[str] = field(default_factory=list)
    """Runs that hung, or ended as they should not."""

    def end(self, kind: str, code: int | None, expected: set[int], messages: str) -> None:
        """Note how a run ended; None: not at all."""
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
        """Everything that should not have been."""
        kinds = ("lost", "differing", "leftovers", "unexpected")
        return [f"{kind}: {what}" for kind in kinds for what in getattr(self, kind)]

    def table(self) -> str:
        """A row for everything that was done to runs."""
        rows = []
        for kind, codes in self.codes.items():
            ends = ", ".join(f"{code}: {number}" for code, number in sorted(codes.items()))
            rows.append((kind, str(codes.total()), str(self.late[kind]), ends))
        return markdown(("done to a run", ">times", ">too late", "exit codes"), rows)


def strike(kind: str, program: Program, moment_seconds: float, random: Random) -> bool:
    """Do one of the things that are done to a running program; False: it ended before.

    A kill of a worker waits until there is one.
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
    """Yield its decode workers."""
    for pid in program.family():
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                yield pid


def _starve(pid: int, random: Random) -> None:
    """Let a process take little memory besides what it has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    held = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    limit = held + random.randrange(SPARE_MEMORY_BYTES)
    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def processes_left(program: Program) -> int:
    """How many of a program's processes outlive it; they are killed."""
    waited_until = time.monotonic() + GRACE_SECONDS
    while program.family() and time.monotonic() < waited_until:
        time.sleep(0.05)
    return program.kill()
