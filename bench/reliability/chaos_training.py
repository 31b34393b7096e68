"""`vigil train --resume`, killed again and again until it is done."""

import time
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

from bench.processes import Program, running
from bench.reliability.compare import training_content
from bench.reliability.faults import HANG_SECONDS, NOTHING, Tally, processes_left, strike
from bench.reliability.tiny import train_tiny

EPOCHS = 40


class Training:
    """A run that resumes after every kill, and its expected final files."""

    def __init__(self, folder: Path, features: Path, tally: Tally) -> None:
        """Train undisturbed as a reference, and measure how long that takes."""
        self._folder, self._features, self._tally = folder, features, tally
        started = time.monotonic()
        with self._start(folder / "undisturbed") as program:
            program.require_success()
        self._seconds = time.monotonic() - started
        self._expected = training_content(folder / "undisturbed")
        self._num_runs = 0

    def _start(self, run: Path) -> AbstractContextManager[Program]:
        temporary = str(self._folder / "tmp")
        return running(train_tiny(self._features, run, EPOCHS), TMPDIR=temporary)

    @property
    def _run(self) -> Path:
        return self._folder / f"run_{self._num_runs}"

    def disturb(self, kind: str, random: Random) -> None:
        """Kill a training; if it finishes before that, start another one."""
        while not self._train(kind, self._seconds * random.random(), random):
            self._tally.late[kind] += 1

    def finish(self) -> None:
        """Let the last training finish, then compare its files."""
        with self._start(self._run) as program:
            self._end(NOTHING, program, {0})
        self._compare()

    def _train(self, kind: str, moment_seconds: float, random: Random) -> bool:
        with self._start(self._run) as program:
            struck = strike(kind, program, moment_seconds, random)
            self._end(kind if struck else NOTHING, program, {-9} if struck else {0})
        if not struck:
            self._compare()
            self._num_runs += 1
        return struck

    def _end(self, kind: str, program: Program, expected: set[int]) -> None:
        code = program.wait(HANG_SECONDS)
        self._tally.end(kind, code, expected, program.messages())
        if code is not None and (left := processes_left(program)):
            self._tally.leftovers.append(f"{left} processes of a training after {kind}")

    def _compare(self) -> None:
        """Compare every file with those of the undisturbed training, bit for bit."""
        content = training_content(self._run)
        for name in sorted(content.keys() | self._expected.keys()):
            if name not in self._expected:
                self._tally.leftovers.append(f"{self._run.name}/{name}")
            elif name not in content:
                self._tally.lost.append(f"{self._run.name}/{name}")
            elif content[name] != self._expected[name]:
                self._tally.differing.append(f"{self._run.name}/{name}")
