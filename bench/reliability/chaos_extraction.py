"""`vigil extract`, disturbed again and again on one store."""

import time
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

from bench.processes import Program, cheap_vigil, running
from bench.reliability.chaos_store import DisturbedStore
from bench.reliability.disks import Disk
from bench.reliability.faults import (
    FULL_DISK,
    HANG_SECONDS,
    LITTLE_MEMORY,
    NOTHING,
    TWO_RUNS,
    WORKER_KILL,
    Tally,
    processes_left,
    strike,
)
from bench.standin import INSTANT
from vigil.extract.errors import UserError

CLIP_STRIDE = 4
START_SHARE = 0.3
"""Approximate share of a run's time before anything is extracted."""
LEAST_ROOM_BYTES, MOST_ROOM_BYTES = 1 << 10, 4 << 20
NO_SPACE_CODE, LOCKED_CODE, SOME_FAILED_CODE, INTERRUPTED_CODE = 1, 2, 3, 130


class Extraction:
    """A store that is being filled, and its expected final contents."""

    def __init__(
        self, folder: Path, disk: Disk | None, tally: Tally, decoders: tuple[str, ...]
    ) -> None:
        """Fill the reference stores, and measure how long that takes.

        Args:
            folder: holds the videos; everything else is created there.
            disk: holds the store, if its size can be changed.
            tally: of faults and outcomes.
            decoders: the one to use, then those that may replace it.

        Raises:
            UserError: extraction does not work even undisturbed.
        """
        self._folder, self._disk, self._tally = folder, disk, tally
        self._decoder = decoders[0]
        references = [folder / f"undisturbed_{decoder}" for decoder in decoders]
        for store, decoder in zip(references, decoders, strict=True):
            started = time.monotonic()
            with self._start(store, decoder) as program:
                code = program.process.wait()
                if code != SOME_FAILED_CODE:
                    raise UserError(f"undisturbed, its exit code is {code}: {program.messages()}")
            self._seconds = time.monotonic() - started
        self.reference = references[0]
        self._store = DisturbedStore(folder / "disk" / "store", references, tally)

    def _start(self, store: Path, decoder: str) -> AbstractContextManager[Program]:
        where = self._folder / "videos", "--out", store
        how = "--decoder", decoder, "--workers", 2, "--clip-stride", CLIP_STRIDE
        arguments = cheap_vigil("extract", *where, *how, backbone=INSTANT)
        return running(arguments, TMPDIR=str(self._folder / "tmp"))

    def _resume(self) -> AbstractContextManager[Program]:
        return self._start(self._store.folder, self._decoder)

    def disturb(self, kind: str, random: Random) -> None:
        """Damage files, then start a run and disturb it; repeat until that was in time."""
        if kind == FULL_DISK and self._disk is None:
            return
        share = random.random()
        while not self._disturb(kind, share, random):
            self._tally.late[kind] += 1
            share /= 2

    def _disturb(self, kind: str, share: float, random: Random) -> bool:
        self._store.spoil(random)
        whole = self._store.whole()
        moment_seconds = share * max(self._store.share_missing(), START_SHARE) * self._seconds
        if kind == FULL_DISK and self._disk is not None:
            self._disk.leave(random.randrange(LEAST_ROOM_BYTES, MOST_ROOM_BYTES))
        with self._resume() as program:
            if kind == TWO_RUNS:
                struck = self._second_run(program, moment_seconds)
            else:
                struck = kind == FULL_DISK or strike(kind, program, moment_seconds, random)
            code = self._end(kind if struck else NOTHING, program)
        if self._disk is not None:
            self._disk.resize()
        self._store.check(whole, is_complete=code == SOME_FAILED_CODE and kind != LITTLE_MEMORY)
        return struck

    def _second_run(self, program: Program, moment_seconds: float) -> bool:
        if program.wait(moment_seconds) is not None:
            return False
        with self._resume() as second:
            self._end(TWO_RUNS, second)
        return True

    def _end(self, kind: str, program: Program) -> int | None:
        code = program.wait(HANG_SECONDS)
        expected = {
            NOTHING: {SOME_FAILED_CODE},  # one file is not a video
            WORKER_KILL: {SOME_FAILED_CODE},
            TWO_RUNS: {SOME_FAILED_CODE, LOCKED_CODE},
            FULL_DISK: {SOME_FAILED_CODE, NO_SPACE_CODE},
            LITTLE_MEMORY: set(),  # any exit code will do, but it must end
            "kill -9": {-9},
            "SIGTERM": {SOME_FAILED_CODE, INTERRUPTED_CODE, -15},  # -15 while Python starts
            "SIGINT": {SOME_FAILED_CODE, INTERRUPTED_CODE, -2},
        }
        self._tally.end(kind, code, expected[kind], program.messages())
        if code is not None and (left := processes_left(program)):
            self._tally.leftovers.append(f"{left} processes of a run after {kind}")
        return code

    def finish(self) -> None:
        """Let a run finish, then compare everything."""
        with self._resume() as program:
            self._end(NOTHING, program)
        self._store.check_end()
