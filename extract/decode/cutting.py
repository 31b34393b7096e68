"""Writes excerpts in a process of its own, because damaged videos can crash or hang FFmpeg."""

import os
import resource
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import av

from vigil.extract.decode.excerpts import Excerpt, Source, Written, write_excerpt
from vigil.extract.errors import VideoError
from vigil.extract.files import NAME_ERRNOS
from vigil.extract.processes import spawn

STALL_SECONDS = 60.0
BEAT_SECONDS = 1.0
MEMORY_BYTES = 8 << 30


@dataclass(frozen=True)
class Cut:
    """An excerpt to be written, and of what."""

    source: Source
    excerpt: Excerpt


def write_excerpts(cuts: Sequence[Cut]) -> Iterator[tuple[Cut, Written | str]]:
    """Write excerpts, and yield each with what was written, or with the reason why nothing was.

    Raises:
        OSError: the disk is full or a folder cannot be written.
    """
    waiting = deque(cuts)
    while waiting:
        ours, theirs = Pipe()
        process = spawn(_write_all, (theirs, list(waiting)), "vigil-excerpts")
        theirs.close()
        try:
            while waiting and ours.poll(STALL_SECONDS):
                said = ours.recv()
                if isinstance(said, OSError):
                    raise said
                if said is not None:
                    yield waiting.popleft(), said
            if waiting:
                yield waiting.popleft(), f"reading it made no progress for {STALL_SECONDS:g} s"
        except EOFError:
            yield waiting.popleft(), "the process reading it died"
        finally:
            process.kill()
            process.join()
            ours.close()


def _write_all(connection: Connection, cuts: Sequence[Cut]) -> None:
    """Send what was written for each excerpt, why it was not, or None now and then as a beat."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY_BYTES if most == resource.RLIM_INFINITY else min(MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    beaten = time.monotonic()

    def beat() -> None:
        nonlocal beaten
        if time.monotonic() - beaten >= BEAT_SECONDS:
            beaten = time.monotonic()
            connection.send(None)

    for cut in cuts:
        try:
            connection.send(write_excerpt(cut.source, cut.excerpt, beat))
        except VideoError as error:
            connection.send(error.reason)
        except MemoryError:
            connection.send(f"it needs more than {MEMORY_BYTES >> 30} GiB of memory")
        except OSError as error:
            if error.errno not in NAME_ERRNOS:
                connection.send(error)
                return
            connection.send(f"{error.filename} cannot be written ({error.strerror})")
        except av.error.FFmpegError as error:
            connection.send(f"it cannot be decoded or encoded ({error.strerror})")
