"""Run the programs to be measured as a user does, in processes of their own."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench import standin
from bench.options import Options
from vigil.extract.errors import UserError

ROOT = Path(__file__).parent.parent
SMAPS_SECONDS, SAMPLE_SECONDS = 0.2, 1.0
MARK = "VIGIL_BENCH_MARK"
"""Environment variable that has the same value in all processes of one program."""


def cheap_vigil(*arguments: object, backbone: str = standin.NAME) -> list[str]:
    """The arguments of `python` that run vigil with the stand-ins among its backbones."""
    if arguments[0] == "extract":
        arguments += ("--backbone", backbone, "--weights", "random", "--precision", "fp32")
    return ["-m", "bench.vigil", *map(str, arguments)]


def vigil_extract(options: Options, videos: Path, out: Path, views: str = "five") -> list[str]:
    """The arguments of `python` that extract a folder of videos with vigil."""
    ours = {standin.NAME, standin.INSTANT} & set(options.backbone.split("+"))
    module = "bench.vigil" if ours else "vigil.pipeline.cli"
    arguments = ["-m", module, "extract", str(videos), "--out", str(out), "--views", views]
    if options.precisions:
        arguments += ["--precision", options.precisions[0]]
    if options.batch_size is not None:
        arguments += ["--batch-size", str(options.batch_size)]
    return arguments + _network_flags(options)


def naive_extract(options: Options, videos: Path, out: Path, views: str = "five") -> list[str]:
    """The arguments of `python` that extract a folder of videos the naive way."""
    where = str(videos), str(out)
    return ["-m", "bench.naive", *where, "--views", views, *_network_flags(options)]


def _network_flags(options: Options) -> list[str]:
    flags = ["--backbone", options.backbone, "--weights", options.weights]
    flags += ["--endpoint", options.endpoint] if options.endpoint else []
    return [*flags, "--device", options.device]


def run_python(arguments: list[str]) -> float:
    """Run `python` with these arguments and return the seconds it took.

    Raises:
        UserError: it failed; contains its messages.
    """
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(_failure(arguments, done.stderr))
    return time.perf_counter() - started


def _failure(arguments: list[str], messages: str) -> str:
    return f"python {' '.join(arguments)} failed: {messages.strip()[-2000:]}"


@dataclass(frozen=True)
class Program:
    """A running `python`, and all processes that it started."""

    process: subprocess.Popen[bytes]
    arguments: list[str]
    _mark: bytes
    _messages: IO[bytes]

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, -N after signal N; None if it still runs after ``seconds``."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def kill(self) -> int:
        """Kill its remaining processes, and return their number."""
        pids = self.family()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()  # in case it has just started and was not found
        self.process.wait()
        return len(pids)

    def family(self) -> list[int]:
        """The ids of its processes, including orphans."""
        pids = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended meanwhile, or is another user's
                if self._mark in environment.read_bytes().split(b"\0"):
                    pids.append(int(environment.parent.name))
        return pids

    def memory(self) -> Counter[str]:
        """Bytes that its processes hold now, by kind; pages that several share count once.

        Kinds are those of Linux's smaps_rollup: ``Pss_Anon`` and ``Pss_Shmem`` are the processes'
        own memory; ``Pss_File`` is their share of file pages, such as those of libraries, which
        other programs may share.
        """
        return sum(map(_resident, self.family()), Counter())

    def samples(self) -> Iterator[int]:
        """Yield the bytes of its own memory, every second until it ends."""
        while self.wait(SAMPLE_SECONDS) is None:
            yield own_memory(self.memory())

    def messages(self) -> str:
        """Its output on standard error so far."""
        descriptor = self._messages.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def require_success(self) -> None:
        """Wait for its end.

        Raises:
            UserError: it failed; contains its messages.
        """
        if self.process.wait() != 0:
            raise UserError(_failure(self.arguments, self.messages()))


@contextmanager
def running(arguments: list[str], **environment: str) -> Iterator[Program]:
    """Run `python` with some arguments; kill what still runs of it when the block ends.

    ``environment`` is added to this process's environment.
    """
    mark = secrets.token_hex(8)
    command = [sys.executable, *arguments]
    environment |= {**os.environ, **environment, MARK: mark}
    with tempfile.TemporaryFile() as messages:  # an unread pipe would fill up
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            start_new_session=True,  # protect it from Ctrl-C
        )
        program = Program(process, arguments, f"{MARK}={mark}".encode(), messages)
        try:
            yield program
        finally:
            program.kill()


def peak_memory(arguments: list[str]) -> Counter[str]:
    """Run `python`, and return the memory of its processes when their own memory peaked.

    Raises:
        UserError: it failed; contains its messages.
    """
    peak: Counter[str] = Counter()
    with running(arguments) as program:
        while program.process.poll() is None:
            peak = max(peak, program.memory(), key=own_memory)
            time.sleep(SMAPS_SECONDS)
        program.require_success()
    return peak


def own_memory(held: Counter[str]) -> int:
    """The bytes of the processes' own memory in a result of `Program.memory`."""
    return held["Pss_Anon"] + held["Pss_Shmem"]


def _resident(pid: int) -> Counter[str]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Counter()
    return Counter({line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines})
