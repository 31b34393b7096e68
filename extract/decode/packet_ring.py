"""The newest bytes of a stream in shared memory: one process writes them, another one reads.

As in `ring`, the memory is anonymous, and is freed with the last process that holds it. It outlives
the worker that wrote it, so what a dead worker had received can still be read.
"""

import ctypes
import os
import weakref
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.reduction import DupFd
from typing import Any


class PacketRing:
    """A fixed number of bytes, of which each that is written takes the place of the oldest.

    A process that is spawned with a ring gets one on the same memory. Only one process may write.
    """

    def __init__(self, num_bytes: int, descriptor: int | None = None, end: Any = None) -> None:
        """Share the memory behind a file descriptor, which the ring owns; None: new memory.

        It is allocated when it is first written.
        """
        self.num_bytes = num_bytes
        self._descriptor = os.memfd_create("vigil-packets") if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._descriptor)
        self._end = get_context("spawn").RawValue(ctypes.c_int64) if end is None else end
        """Number of bytes that have ever been written, or are about to be."""

    def __reduce__(self) -> tuple[Callable[..., "PacketRing"], tuple[Any, ...]]:
        """Pickle the ring for a process that is spawned."""
        return _attach, (self.num_bytes, DupFd(self._descriptor), self._end)

    def append(self, content: bytes) -> int:
        """Write bytes, and return their place, by which they can be read for a while."""
        place = int(self._end.value)
        self._end.value = place + len(content)  # first: a reader must not trust what is changing
        if len(content) <= self.num_bytes:
            before_end = self.num_bytes - place % self.num_bytes
            os.pwrite(self._descriptor, content[:before_end], place % self.num_bytes)
            os.pwrite(self._descriptor, content[before_end:], 0)
        return place

    def read(self, place: int, num_bytes: int) -> bytes | None:
        """The bytes of a place; None if others have taken theirs, or part of it."""
        start = place % self.num_bytes
        content = os.pread(self._descriptor, min(num_bytes, self.num_bytes - start), start)
        content += os.pread(self._descriptor, num_bytes - len(content), 0)
        return content if self._end.value - place <= self.num_bytes else None


def _attach(num_bytes: int, descriptor: Any, end: Any) -> PacketRing:
    return PacketRing(num_bytes, descriptor.detach(), end)
