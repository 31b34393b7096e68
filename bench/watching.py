"""`python -m bench.watching`: kill `vigil watch` while recorders write, and see what it remembers.

A script plays the recorders of three cameras. Most segments are renamed into place; others grow
while they are open, come late, are cut off, are renamed later, or repeat an earlier one. Meanwhile
the watch is killed again and again. In the end every content must have been dealt with once, every
alarm must be there once, and every result must be the bytes that `vigil score` writes.
"""

import json
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import median, quantiles

import tyro

from bench.processes import Program, cheap_vigil, running
from bench.reliability.tiny import HEIGHT, WIDTH, make_run
from bench.standin import INSTANT
from bench.videos import draw_video
from vigil.extract.errors import UserError

FRAMES = 90
KINDS = ("whole", "whole", "growing", "copied", "late", "renamed", "cut off", "repeated")
"""How segments come, in turns; those that are late come after the next ones."""
CUT_SHARE = 0.6
LATE_DROPS = 6
PIECES = 4
"""In which a growing file is written."""
FIRST = datetime(2026, 11, 30, 10, 0, 0)
THRESHOLD = 0.3
"""So low that there are events."""
PATIENCE_SECONDS = 180.0
STEPS = 8
"""In which the time between two files passes."""


@dataclass(frozen=True)
class Options:
    """Kill vigil watch while files come, and check what it recorded; exit code 1 if that is wrong.

    Prints the time from the end of a file to its result.
    """

    segments: int = 60
    """Number of files."""
    cameras: int = 3
    """Number of cameras, which take turns."""
    every: float = 4.0
    """Seconds from one file to the next."""
    kills: int = 5
    """How often the watch is killed, evenly spread over the files."""
    seed: int = 0
    """Seed that decides when exactly it is killed."""
    backbone: str = INSTANT
    """The network; by default one that computes almost nothing."""


@dataclass
class Recorders:
    """Plays the recorders: writes the segments into a folder."""

    options: Options
    made: Path
    """Where the finished segments are taken from."""
    folder: Path
    names: list[str] = field(default_factory=list)
    """Of the segments, in the order of recording."""
    _late: list[tuple[int, int]] = field(default_factory=list)
    """Drop after which a late segment comes, and its number."""

    def make(self) -> None:
        """Encode all segments."""
        for number in range(self.options.segments):
            camera = f"camera{number % self.options.cameras}"
            start = FIRST + timedelta(seconds=(number // self.options.cameras) * FRAMES // 30)
            self.names.append(f"{camera}/{camera}_{start:%Y%m%d_%H%M%S}.mp4")
            path = self.made / self.names[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_video(path, WIDTH, HEIGHT, FRAMES, seed=number)

    def drop(self) -> Iterator[int]:
        """Write one segment after the other; yield after each."""
        for number in range(self.options.segments):
            kind = KINDS[number % len(KINDS)]
            if kind == "late":
                self._late.append((number + LATE_DROPS, number))
            else:
                self._write(number, kind)
            for due, late in [*self._late]:
                if due <= number or number == self.options.segments - 1:
                    self._late.remove((due, late))
                    self._write(late, "whole")
            yield number

    def _write(self, number: int, kind: str) -> None:
        content = (self.made / self.names[number]).read_bytes()
        path = self.folder / self.names[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "repeated" and number >= self.options.cameras:
            earlier = self.names[number - self.options.cameras]
            content = (self.made / earlier).read_bytes()
        if kind == "cut off":
            content = content[: int(CUT_SHARE * len(content))]
        if kind == "growing":
            with path.open("wb") as file:
                for piece in range(PIECES):
                    start, stop = (len(content) * at // PIECES for at in (piece, piece + 1))
                    file.write(content[start:stop])
                    file.flush()
                    time.sleep(0.5)
        elif kind == "copied":
            path.write_bytes(content)
        else:
            partial = path.with_suffix(".part")
            partial.write_bytes(content)
            partial.replace(path)
        if kind == "renamed":
            time.sleep(0.5)
            path.rename(path.with_name(f"kept_{path.name}"))


@dataclass
class Watch:
    """`vigil watch`, started again after each kill."""

    arguments: list[str]
    stack: ExitStack
    program: Program | None = None
    down: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it did not watch, in seconds since 1970."""
    _down_since: float | None = None

    def start(self) -> None:
        """Start it."""
        self._down_since = self._down_since or time.time()
        self.program = self.stack.enter_context(running(self.arguments))

    def rest(self, seconds: float) -> None:
        """Wait, and note when it has come up."""
        assert self.program is not None
        time.sleep(seconds)
        if self._down_since is not None and "watching " in self.program.messages():
            self.down.append((self._down_since, time.time()))
            self._down_since = None

    def kill(self) -> None:
        """Kill it, and start it again."""
        assert self.program is not None
        if self.program.process.poll() is not None:
            raise UserError(f"the watch ended on its own: {self.program.messages()}")
        self.program.kill()
        self.start()

    def stop(self) -> int | None:
        """Stop it as systemd does; returns the exit code."""
        assert self.program is not None
        self.program.process.terminate()
        return self.program.wait(60)


def main(options: Options) -> int:
    """Print what was recorded, and how late; return 0 if nothing is wrong."""
    with tempfile.TemporaryDirectory(prefix="vigil-watching-") as name, ExitStack() as stack:
        folder = Path(name)
        run = make_run(folder, options.backbone)
        recorders = Recorders(options, folder / "made", folder / "recorders")
        recorders.make()
        recorders.folder.mkdir()
        results, reference = folder / "results", folder / "reference"
        how = "--checkpoint", run, "--threshold", THRESHOLD, "--workers", 1
        watch = Watch(cheap_vigil("watch", recorders.folder, "--out", results, *how), stack)
        watch.start()
        disturb(watch, recorders, options)
        contents = {_digest(path) for path in _files(recorders.folder)}
        _await(results, contents, watch)
        code = watch.stop()
        with running(cheap_vigil("score", recorders.folder, "--out", reference, *how)) as program:
            program.process.wait()
        problems = [] if code == 0 else [f"exit code {code} after SIGTERM"]
        problems += [*check(results, reference, contents)]
        print(report(results, options, watch.down))
        print(*problems, f"{options.kills} kills, {len(problems)} problems", sep="\n")
        return 1 if problems else 0


def disturb(watch: Watch, recorders: Recorders, options: Options) -> None:
    """Write all files, and kill the watch meanwhile."""
    random, spaces = Random(options.seed), options.segments / (options.kills + 1)
    kills = {round(spaces * turn): random.uniform(0, 1.5) for turn in range(1, options.kills + 1)}
    for number in recorders.drop():
        if number in kills:
            watch.rest(kills[number])
            watch.kill()
            print(f"killed after {number + 1} files", file=sys.stderr)
        for _ in range(STEPS):
            watch.rest(options.every / STEPS)


def check(results: Path, reference: Path, contents: set[tuple[str, str]]) -> Iterator[str]:
    """Yield what is wrong with RESULTS, given those of vigil score on the same files."""
    rows = _rows(results)
    once = Counter(
        (camera, digest) for camera, digest, _, outcome, *_ in rows if outcome != "repeated"
    )
    if missing := contents - once.keys():
        yield f"not recorded: {sorted(missing)}"
    if more := [content for content, number in once.items() if number > 1]:
        yield f"recorded more than once: {more}"
    for _, _, video, outcome, *_ in rows:
        ours, theirs = (folder / f"{video}.json" for folder in (results, reference))
        if outcome == "scored" and ours.read_bytes() != theirs.read_bytes() and theirs.exists():
            yield f"{video} differs from what vigil score writes"
    lines = (results / "events.jsonl").read_text().splitlines()
    sent = Counter((one["event"], one["sequence"]) for one in map(json.loads, lines))
    if twice := [key for key, number in sent.items() if number > 1]:
        yield f"alarms more than once: {twice}"
    with closing(sqlite3.connect(results / "watch.sqlite")) as database:
        alarms = {*database.execute("SELECT event, sequence FROM alarms")}
        texts = [json.loads(row[0]) for row in database.execute("SELECT message FROM alarms")]
    if alarms != sent.keys():
        yield f"alarms that are recorded or sent only: {alarms ^ sent.keys()}"
    told = {one["video"] for one in texts if one["video"]}
    with_events = {
        video
        for _, _, video, outcome, *_ in rows
        if outcome == "scored" and json.loads((results / f"{video}.json").read_text())["events"]
    }
    if silent := with_events - told:
        yield f"without an alarm: {sorted(silent)}"


def report(results: Path, options: Options, down: list[tuple[float, float]]) -> str:
    """The outcomes, and the times from the end of a file to its result."""
    rows = _rows(results)
    outcomes = Counter(outcome for *_, outcome, _, _ in rows)
    both: dict[bool, list[float]] = {True: [], False: []}
    for *_, outcome, completed, scored in rows:
        if outcome == "scored":
            was_up = not any(start <= completed <= stop for start, stop in down)
            both[was_up].append(scored - completed)
    return "\n".join(
        (
            f"{options.segments} files of {options.cameras} cameras: "
            + ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())),
            f"from the end of a file to its result: {_spread(both[True])}",
            f"if it ended while the watch was down or starting: {_spread(both[False])}",
        )
    )


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "no file"
    high = quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return (
        f"median {median(seconds):.1f} s, 95 % {high:.1f} s, longest {max(seconds):.1f} s "
        f"({len(seconds)} files)"
    )


def _await(results: Path, contents: set[tuple[str, str]], watch: Watch) -> None:
    """Wait until everything is recorded, but not for ever: what is missing is told later."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        watch.rest(1)
        if contents <= {(camera, digest) for camera, digest, *_ in _rows(results)}:
            return


def _rows(results: Path) -> list[tuple[str, str, str, str, float, float]]:
    if not (results / "watch.sqlite").exists():
        return []
    with closing(sqlite3.connect(results / "watch.sqlite")) as database:
        return database.execute(
            "SELECT camera, digest, video, outcome, completed_at, scored_at FROM videos"
        ).fetchall()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.mp4") if path.is_file()]


def _digest(path: Path) -> tuple[str, str]:
    """Camera and content of a file."""
    return path.parent.name, sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.watching")))
    except UserError as error:
        sys.exit(f"error: {error}")
