"""Arrays that need not fit in memory: a large one lies in a file that ends with the process."""

import errno
import logging
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vigil.extract.errors import UserError
from vigil.extract.files import make_folder, temporary_file

SHARE_OF_FREE = 2 / 3
"""Of the memory that is free, what an array may take; the rest is for models and batches."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class _Cgroups(NamedTuple):
    """Where a version of the kernel's control groups tells of memory."""

    mount: str
    limit: str
    use: str
    cache: str
    """In `memory.stat`: what of the use is files, which are dropped where room is needed."""


CGROUPS = {  # by what /proc/self/cgroup calls their controllers: version 2 and 1
    "": _Cgroups("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": _Cgroups(
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


class Storage:
    """Gives room for arrays: in memory while there is enough of it, else in files."""

    def __init__(self, folder: Path | None = None, memory_gib: float | None = None) -> None:
        """Decide where arrays may lie.

        Args:
            folder: of the files; None: the system's own for temporary files.
            memory_gib: the most that all arrays in memory may take together; None: each may take a
                share of what is free when it is made.

        Raises:
            UserError: so much memory means nothing.
        """
        if memory_gib is not None and not 0 <= memory_gib <= 2**20:
            raise UserError(f"--memory-gib {memory_gib:g} is not in 0..2^20")
        self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._max_bytes = None if memory_gib is None else int(memory_gib * 2**30)
        self._held_bytes = 0
        self._has_told = False

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A new array with arbitrary values; an `np.memmap` where it lies in a file.

        Raises:
            UserError: there is room for it neither in memory nor on the disk.
        """
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if num_bytes > self._free_bytes():
            return self._in_file(shape, dtype, num_bytes)
        try:
            array = np.empty(shape, dtype)
        except MemoryError:  # a limit that the kernel tells nowhere
            return self._in_file(shape, dtype, num_bytes)
        self._held_bytes += num_bytes
        weakref.finalize(array, self._release, num_bytes)
        return array

    def take(self, array: npt.NDArray[Any], rows: Sequence[int]) -> npt.NDArray[Any]:
        """A new array of these rows; no more than one of them is in memory for it."""
        taken = self.empty((len(rows), *array.shape[1:]), array.dtype)
        for place, row in enumerate(rows):
            taken[place] = array[row]
        return taken

    def widened(
        self, array: npt.NDArray[Any], num_rows: int, dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """The array, if it can hold values of a type; else a new one with so many of its rows."""
        if np.can_cast(dtype, array.dtype):
            return array
        wide = self.empty(array.shape, np.promote_types(dtype, array.dtype))
        for row in range(num_rows):
            wide[row] = array[row]
        return wide

    def _free_bytes(self) -> float:
        if self._max_bytes is None:
            return SHARE_OF_FREE * free_memory_bytes()
        return self._max_bytes - self._held_bytes

    def _release(self, num_bytes: int) -> None:
        self._held_bytes -= num_bytes

    def _in_file(
        self, shape: Sequence[int], dtype: npt.DTypeLike, num_bytes: int
    ) -> npt.NDArray[Any]:
        make_folder(self._folder)
        size = f"{num_bytes / 1e9:.2f} GB"
        free = shutil.disk_usage(self._folder).free
        with temporary_file(self._folder) as file:
            try:
                if num_bytes > free:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                # Room that is missing later would end the process with a signal, not an error.
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                raise UserError(
                    f"{size} of features fit neither in memory nor in {self._folder}, which has "
                    f"{free / 1e9:.2f} GB free ({error.strerror}): make room there, or allow more "
                    "with --memory-gib"
                ) from error
            if not self._has_told:
                told = "%s of features are streamed from disk, from a file in %s"
                log.info(told, size, self._folder)
                self._has_told = True
            return np.memmap(file, dtype, "r+", shape=tuple(shape))


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that this process can still take before the machine, or a limit set for it, is full.

    Args:
        root: of the file system, in which the kernel tells it.
    """
    return max(0, min([_free_in_machine(root), *_free_in_cgroups(root)]))


def _free_in_machine(root: Path) -> int:
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # without what is in caches


def _free_in_cgroups(root: Path) -> Iterator[int]:
    """What the limits of this process's control group, and of those it is in, leave free."""
    own: dict[str, str] = {}
    with suppress(OSError, ValueError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, group in CGROUPS.items():
        below = Path(own.get(controllers, "/").lstrip("/"))
        for folder in (root / group.mount / part for part in (below, *below.parents)):
            # A container may see no group but its own, as the topmost; most have no limit.
            with suppress(OSError, ValueError):
                limit, use = (int((folder / name).read_text()) for name in (group.limit, group.use))
                stat = (folder / "memory.stat").read_text().split()
                yield limit - use + int(stat[stat.index(group.cache) + 1])
