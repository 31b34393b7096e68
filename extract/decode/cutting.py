"""Writes excerpts in a process of its own, because damaged videos can crash or hang FFmpeg."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import av

from vigil.extract.decode.captions import Caption, write_captioned
from vigil.extract.decode.excerpt_request import Excerpt, Source, Written
from vigil.extract.decode.excerpts import write_excerpt
from vigil.extract.errors import VideoError
from vigil.extract.files import NAME_ERRNOS
from vigil.extract.processes import ask_each, limit_memory

STALL_SECONDS = 60.0
BEAT_SECONDS = 1.0
MEMORY_BYTES = 8 << 30


@dataclass(frozen=True)
class Cut:
    """An excerpt to be written, and of what."""

    source: Source
    excerpt: Excerpt
    caption: Caption | None = None
    """Also written with this under its picture, as a file of its own."""


def write_excerpts(cuts: Sequence[Cut]) -> Iterator[tuple[Cut, Written | str]]:
    """Write excerpts, and yield each with what was written, or with the reason why nothing was.

    Raises:
        OSError: the disk is full or a folder cannot be written.
    """
    return ask_each(_write_all, cuts, "vigil-excerpts", STALL_SECONDS)


def _write_all(connection: Connection, cuts: Sequence[Cut]) -> None:
    """Send what was written for each excerpt, why it was not, or None now and then as a beat."""
    limit_memory(MEMORY_BYTES)
    os.nice(10)
    beaten = time.monotonic()

    def beat() -> None:
        nonlocal beaten
        if time.monotonic() - beaten >= BEAT_SECONDS:
            beaten = time.monotonic()
            connection.send(None)

    for cut in cuts:
        try:
            written = write_excerpt(cut.source, cut.excerpt, beat)
            if cut.caption is not None:
                write_captioned(cut.excerpt.path, written.start_seconds, cut.caption, beat)
            connection.send(written)
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
