"""Arrays that need not fit in memory: a large one is in a file that disappears with the process."""

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
"""Share of the free memory that an array may use; the rest is for models and batches."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class _Cgroups(NamedTuple):
    """Where a version of the kernel's control groups reports memory."""

    mount: str
    limit: str
    use: str
    cache: str
    """Name in `memory.stat` of the cached files, which are in use but dropped when necessary."""


CGROUPS = {  # by the name of the controllers in /proc/self/cgroup: versions 2 and 1
    "": _Cgroups("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": _Cgroups(
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


class Storage:
    """Allocates arrays in memory while there is enough of it, else in files."""

    def __init__(
        self,
        folder: Path | None = None,
        memory_gib: float | None = None,
        num_sharing: int = 1,
    ) -> None:
        """Set the folder and the memory limit.

        Args:
            folder: folder of the files; None: the system's folder for temporary files.
            memory_gib: limit for all arrays in memory together; None: each may use a share of
                what is free when it is created.
            num_sharing: processes that divide this share, because they do the same at once.

        Raises:
            UserError: the memory limit is out of range.
        """
        if memory_gib is not None and not 0 <= memory_gib <= 2**20:
            raise UserError(f"--memory-gib {memory_gib:g} is not in 0..2^20")
        self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._max_bytes = None if memory_gib is None else int(memory_gib * 2**30)
        self._share_of_free = SHARE_OF_FREE / num_sharing
        self._held_bytes = 0
        self._has_logged = False

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a new array with arbitrary values, an `np.memmap` if it is in a file.

        Raises:
            UserError: the array fits neither in memory nor on the disk.
        """
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if num_bytes > self._free_bytes():
            return self._in_file(shape, dtype, num_bytes)
        try:
            array = np.empty(shape, dtype)
        except MemoryError:  # a limit that the kernel does not report
            return self._in_file(shape, dtype, num_bytes)
        self._held_bytes += num_bytes
        weakref.finalize(array, self._release, num_bytes)
        return array

    def take(self, array: npt.NDArray[Any], rows: Sequence[int]) -> npt.NDArray[Any]:
        """Return a new array of these rows, copied one at a time to save memory."""
        taken = self.empty((len(rows), *array.shape[1:]), array.dtype)
        for place, row in enumerate(rows):
            taken[place] = array[row]
        return taken

    def widened(
        self, array: npt.NDArray[Any], num_rows: int, dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """Return the array if it can hold a type, else a wider copy of its first rows."""
        if np.can_cast(dtype, array.dtype):
            return array
        wide = self.empty(array.shape, np.promote_types(dtype, array.dtype))
        for row in range(num_rows):
            wide[row] = array[row]
        return wide

    def _free_bytes(self) -> float:
        if self._max_bytes is None:
            return self._share_of_free * free_memory_bytes()
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
                # Running out of space later would kill the process by a signal, not an error.
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                raise UserError(
                    f"{size} of features fit neither in memory nor in {self._folder}, which has "
                    f"{free / 1e9:.2f} GB free ({error.strerror}): make room there, or allow more "
                    "memory with --memory-gib"
                ) from error
            if not self._has_logged:
                message = "%s of features are streamed from disk, from a file in %s"
                log.info(message, size, self._folder)
                self._has_logged = True
            return np.memmap(file, dtype, "r+", shape=tuple(shape))


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that this process can still allocate within the machine's memory and its own limits.

    Args:
        root: root of the file system that contains proc and sys.
    """
    return max(0, min([_free_in_machine(root), *_free_in_cgroups(root)]))


def _free_in_machine(root: Path) -> int:
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # excludes caches


def _free_in_cgroups(root: Path) -> Iterator[int]:
    """Yield the free bytes of this process's control group and of each of its ancestors."""
    own: dict[str, str] = {}
    with suppress(OSError, ValueError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, group in CGROUPS.items():
        below = Path(own.get(controllers, "/").lstrip("/"))
        for folder in (root / group.mount / part for part in (below, *below.parents)):
            # A container may see only its own group, as the topmost; most groups have no limit.
            with suppress(OSError, ValueError):
                limit, use = (int((folder / name).read_text()) for name in (group.limit, group.use))
                stat = (folder / "memory.stat").read_text().split()
                yield limit - use + int(stat[stat.index(group.cache) + 1])
