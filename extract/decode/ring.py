"""Clips in shared memory: one worker fills the slots of its ring in turn, others read them.

The memory is anonymous: it is freed with the last process that holds it, even if that is killed,
and the small /dev/shm of a container does not limit it.
"""

import math
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import numpy.typing as npt

BUDGET_BYTES = 256 << 20
"""Memory limit for more than two slots; two use what they need, such as 796 MB at 1080p."""
MIN_SLOTS, MAX_SLOTS = 2, 4
"""One slot is filled while another is read; more than four gain nothing."""
LIVE_SLOTS = 4
"""Of the ring of a stream, whose worker must never wait: one slot is filled, one holds the clip
before it, whose frames it shares, one waits for a device, and one is at a device."""


@dataclass(frozen=True)
class Slot:
    """The place of a clip in a ring."""

    index: int
    offset: int
    """In bytes."""
    shape: tuple[int, ...]


class ClipRing:
    """Two to four slots of shared memory, each as large as the largest clip so far.

    The writer calls `next_clip`, fills the buffer and calls `take`; the reader must have `release`
    called in the writer's process. A process that is spawned with a ring, or receives one, gets a
    ring on the same memory with all slots free, but only one process may write.
    """

    def __init__(self, descriptor: int | None = None, min_slots: int = MIN_SLOTS) -> None:
        """Share the memory behind a file descriptor, which the ring owns; None: new memory.

        It has ``min_slots`` slots at least, 2..4, however large they are.
        """
        self._descriptor = os.memfd_create("vigil-clips") if descriptor is None else descriptor
        self._finalizer = weakref.finalize(self, os.close, self._descriptor)
        self._memory: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._min_slots = min_slots
        self._slot_bytes = 0
        self._is_taken: list[bool] = []
        self._filling = Slot(0, 0, ())

    def __reduce__(self) -> tuple[Callable[[Any, int], "ClipRing"], tuple[Any, int]]:
        """Pickle the ring for another process, which gets a duplicate of the descriptor."""
        return _attach, (DupFd(self._descriptor), self._min_slots)

    def next_clip(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
        """Return a buffer of that shape for the next clip, or None until a slot is released.

        Slots are used in turn, except those that are taken, and the previous clip does not change
        until this one is taken.
        """
        num_bytes = math.prod(shape)
        if num_bytes > self._slot_bytes:
            if any(self._is_taken):
                return None
            self._lay_out(num_bytes)
        count, after = len(self._is_taken), self._filling.index
        # All but the slot before, which holds the previous clip.
        turns = ((after + turn) % count for turn in range(count - 1))
        index = next((index for index in turns if not self._is_taken[index]), None)
        if index is None:
            return None
        self._filling = Slot(index, index * self._slot_bytes, shape)
        return self._view(self._filling)

    def _lay_out(self, num_bytes: int) -> None:
        self._slot_bytes = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        num_slots = min(max(BUDGET_BYTES // self._slot_bytes, self._min_slots), MAX_SLOTS)
        self._is_taken = [False] * num_slots
        self._filling = Slot(0, 0, ())
        total = num_slots * self._slot_bytes
        if os.fstat(self._descriptor).st_size < total:
            os.ftruncate(self._descriptor, total)

    def take(self) -> Slot:
        """Return the slot of the last `next_clip`; it is not used again until it is released."""
        slot = self._filling
        self._is_taken[slot.index] = True
        self._filling = Slot((slot.index + 1) % len(self._is_taken), 0, ())
        return slot

    def release(self, slot_index: int) -> None:
        """Let a slot be filled again."""
        self._is_taken[slot_index] = False

    def clip(self, slot: Slot) -> npt.NDArray[np.uint8]:
        """Return the clip in a slot, for reading only, until the slot is released."""
        return self._view(slot)

    @property
    def memory(self) -> npt.NDArray[np.uint8]:
        """All bytes as this process maps them now: a new array after the ring has grown."""
        return self._memory

    def _view(self, slot: Slot) -> npt.NDArray[np.uint8]:
        stop = slot.offset + math.prod(slot.shape)
        if stop > self._memory.size:
            self._memory = np.frombuffer(mmap.mmap(self._descriptor, 0), np.uint8)
        return self._memory[slot.offset : stop].reshape(slot.shape)

    def close(self) -> None:
        """Release the memory; it is freed when no clip in it is in use any more."""
        self._memory = np.empty(0, np.uint8)
        self._finalizer()


def _attach(descriptor: Any, min_slots: int) -> ClipRing:
    return ClipRing(descriptor.detach(), min_slots)
