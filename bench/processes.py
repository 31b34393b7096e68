"""Running the programs to be measured, as a user does: in processes of their own."""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench import standin
from bench.options import Options
from extract.errors import UserError

ROOT = Path(__file__).parent.parent
SMAPS_SECONDS = 0.2


def vigil_extract(options: Options, videos: Path, out: Path, views: str = "five") -> list[str]:
    """The arguments of `python` that extract a folder of videos with vigil."""
    module = "bench.standin" if options.backbone == standin.NAME else "pipeline.cli"
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
    """The seconds that `python` took with these arguments.

    Raises:
        UserError: it failed; says with what.
    """
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(_failure(arguments, done.stderr))
    return time.perf_counter() - begun


def _failure(arguments: list[str], messages: str) -> str:
    return f"python {' '.join(arguments)} failed: {messages.strip()[-2000:]}"


def peak_memory(arguments: list[str]) -> Counter[str]:
    """Bytes at the moment when `python` and all that it started held most of their own, by kind.

    Pages that several processes share count once. Kinds are those of Linux's smaps_rollup:
    ``Pss_Anon`` and ``Pss_Shmem`` are what they hold themselves; ``Pss_File`` are pages of files,
    which whoever else has the same library loaded takes a share of.

    Raises:
        UserError: it failed; says with what.
    """
    command = [sys.executable, *arguments]
    peak: Counter[str] = Counter()
    with tempfile.TemporaryFile("w+") as messages:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=messages, text=True
        )
        while process.poll() is None:
            now: Counter[str] = sum(map(_resident, _family(process.pid)), Counter())
            peak = max(peak, now, key=own_memory)
            time.sleep(SMAPS_SECONDS)
        messages.seek(0)
        if process.returncode != 0:
            raise UserError(_failure(arguments, messages.read()))
    return peak


def own_memory(held: Counter[str]) -> int:
    """Bytes that processes hold themselves, out of what `peak_memory` tells."""
    return held["Pss_Anon"] + held["Pss_Shmem"]


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
        children.setdefault(parent, []).append(int(status.parent.name))
    waiting = [pid]
    while waiting:
        waiting += children.get(waiting[0], [])
        yield waiting.pop(0)


def _resident(pid: int) -> Counter[str]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Counter()
    return Counter({line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines})
