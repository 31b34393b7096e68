"""`python -m bench.serve`: `vigil serve` with many clients at once on this machine, drawn results.

Clients and server share its cores. Figures go to standard output.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import tyro

from bench.machine import describe
from bench.report import draw_results
from vigil.extract.networks.hardware import select_device
from vigil.pipeline.scoring.results import Results, write_manifest, write_result

VIDEO_BYTES = 1 << 30
RANGE_BYTES = 1 << 20
NUM_RANGES = 10
"""Of a megabyte each, that a client reads of a video."""
Work = Callable[[httpx2.AsyncClient, int], Awaitable[object]]


@dataclass(frozen=True)
class Options:
    """Serve drawn results, and use them with many clients at once."""

    clients: int = 200
    """Number of clients."""
    videos: int = 1000
    """Number of videos in the results; each has three events on average."""


@dataclass(frozen=True)
class Served:
    """A server and what it serves."""

    address: str
    """Of its RESULTS."""
    api: str
    pid: int
    results: Results


async def measure(served: Served, num_clients: int) -> None:
    """Print figures of each kind of use."""
    names = [one.video for one in served.results.by_name]
    events = [(one.video, event) for one in served.results.by_name for event in one.events]

    async def page(client: httpx2.AsyncClient, _index: int) -> None:
        for path in ("", "report/index.js", "report/app.js", "report/report.css"):
            (await client.get(served.address + path)).raise_for_status()

    async def details(client: httpx2.AsyncClient, index: int) -> None:
        path = f"report/videos/{index % len(names)}.js"
        (await client.get(served.address + path)).raise_for_status()

    async def ranges(client: httpx2.AsyncClient, index: int) -> None:
        for number in range(NUM_RANGES):
            start = (index * 7919 + number * 104729) * 1024 % (VIDEO_BYTES - RANGE_BYTES)
            headers = {"Range": f"bytes={start}-{start + RANGE_BYTES - 1}"}
            answer = await client.get(f"{served.address}video/0", headers=headers)
            assert (answer.status_code, len(answer.content)) == (206, RANGE_BYTES)

    async def verdicts(client: httpx2.AsyncClient, index: int) -> None:
        video, event = events[index % len(events)]
        given = {
            "video": video,
            "start_frame": event.start_frame,
            "stop_frame": event.stop_frame,
            "reviewer": f"person {index}",
            "verdict": "right",
            "true_class": event.class_name,
            "reviewed_at": "2024-05-03T00:00:00Z",
        }
        answer = await client.put(f"{served.api}/verdicts", json={"verdicts": [given]})
        assert answer.json()["kept"] == 1

    await report("page, index, program and style", page, served, num_clients)
    await report("details of a video", details, served, num_clients)
    await report(f"{NUM_RANGES} ranges of 1 MiB of a video", ranges, served, num_clients)
    await report("a verdict", verdicts, served, num_clients)
    held = [await hold(served) for _ in range(num_clients)]
    print(f"{num_clients} clients that read nothing: {state_of(served.pid)}")
    await report("beside them, details of a video", details, served, 1)
    for connection in held:
        connection.close()


async def report(what: str, work: Work, served: Served, num_clients: int) -> None:
    """Have all clients work at the same time, and print how long each took."""
    limits = httpx2.Limits(max_connections=None)

    async def timed(index: int) -> float:
        async with httpx2.AsyncClient(limits=limits, timeout=600, trust_env=False) as client:
            await ready.wait()
            begun = time.monotonic()
            await work(client, index)
            return time.monotonic() - begun

    ready = asyncio.Event()
    tasks = [asyncio.create_task(timed(index)) for index in range(num_clients)]
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    ready.set()
    took = sorted(await asyncio.gather(*tasks))
    total = time.monotonic() - begun
    print(
        f"{what}: {num_clients} clients, each {_milliseconds(took)} ms (median, slowest), all in "
        f"{total:.2f} s; {state_of(served.pid)}",
        flush=True,
    )


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.0f}, {1000 * seconds[-1]:.0f}"


async def hold(served: Served) -> asyncio.StreamWriter:
    """Ask for a whole video, and read nothing of it."""
    place = urlsplit(served.address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1)
    writer.write(f"GET {place.path}video/0 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readexactly(1)
    return writer


def state_of(pid: int) -> str:
    """Memory, threads and open files of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    memory = int(status["VmRSS"].split()[0]) / 1024
    files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  (names only)
    return f"{memory:.0f} MiB, {status['Threads'].strip()} threads, {files} files"


def main(options: Options) -> None:
    """Print a figure a line."""
    print(*describe(select_device("cpu"), "bench.serve"), sep="\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "results"
        video = Path(temporary) / "video.mp4"
        with video.open("wb") as file:
            file.truncate(VIDEO_BYTES)
        drawn = draw_results(options.videos)
        results = replace(
            drawn, videos=tuple(replace(one, source=str(video)) for one in drawn.videos)
        )
        for result in results.videos:
            write_result(folder, result)
        write_manifest(folder, [one.video for one in results.videos], results.manifest)
        begun = time.monotonic()
        command = [sys.executable, "-m", "vigil.pipeline.cli", "serve", str(folder), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            address = program.stdout.readline().strip()
            print(f"videos: {len(results.videos)}")
            print(f"seconds to start: {time.monotonic() - begun:.1f}; {state_of(program.pid)}")
            place, api = f"{address}results/results/", f"{address}api/results/results"
            asyncio.run(measure(Served(place, api, program.pid, results), options.clients))
            begun = time.monotonic()
            program.send_signal(signal.SIGINT)
            program.wait()
            print(f"seconds to end on Ctrl-C: {time.monotonic() - begun:.1f}")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m bench.serve"))
