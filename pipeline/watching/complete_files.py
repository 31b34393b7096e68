"""Whether a recorder has finished a file.

A recorder closes a file, or renames it into place, when it is complete. On Linux a read lease tells
whether any process of this machine has a file open for writing (fcntl(2)). Where that cannot be
known, as on a network file system or for another user's file, a file that stays unchanged counts.
"""

import errno
import fcntl
import os
import signal
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

CLOSED_SECONDS = 1.0
"""A closed file is complete if it has not changed for so long: some recorders open it anew for each
piece that they append."""
PATIENCE_SECONDS = 60.0
"""A file that is open, or whose end is missing, is tried when it has not changed for so long."""
OLD_SECONDS = 600.0
"""A file that was last changed longer ago counts as unchanged since, although nobody looked. With
less, a file server's wrong clock could make a growing file look old."""

_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
"""With which an MP4 or QuickTime file may begin."""
_MAX_BOXES = 100_000
_SHARED = ("nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "afs", "ceph", "lustre", "gluster")


NEVER_SEEN = (-1, -1)


@dataclass
class Watched:
    """A file that may still be written."""

    path: Path
    settle_seconds: float
    """How long it must be unchanged if nobody knows whether it is open."""
    size_and_time: tuple[int, int] = NEVER_SEEN
    """Bytes, and the time of its last change in ns."""
    _unchanged_since: float = field(default_factory=time.monotonic)

    def is_complete(self) -> bool:
        """Look at the file, and tell whether it is complete.

        Raises:
            OSError: it is gone, or cannot be read.
        """
        status = self.path.stat()
        found = status.st_size, status.st_mtime_ns
        if found != self.size_and_time:
            age = time.time() - status.st_mtime
            is_old = self.size_and_time == NEVER_SEEN and age > OLD_SECONDS
            self._unchanged_since = time.monotonic() - (age if is_old else 0.0)
            self.size_and_time = found
        quiet = time.monotonic() - self._unchanged_since
        patience = max(PATIENCE_SECONDS, self.settle_seconds)
        if quiet >= patience:
            return True
        if quiet < (soonest := min(CLOSED_SECONDS, self.settle_seconds)):
            return False
        with self.path.open("rb") as file:
            needed = {True: patience, False: soonest, None: self.settle_seconds}
            return quiet >= needed[is_being_written(file)] and has_end(file, status.st_size)


def is_being_written(file: IO[bytes]) -> bool | None:
    """Whether any process of this machine has a file open for writing; None if that is unknown."""
    if _is_shared(os.fstat(file.fileno()).st_dev):
        return None  # another machine may write to it
    try:
        # A writer that opens the file meanwhile waits, and the system signals us: by a signal that
        # is ignored, since the usual one would end the program.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:  # for another user's file it is EACCES
        return True if error.errno == errno.EAGAIN else None
    return False


@cache
def _is_shared(device: int) -> bool:
    """Whether a file system may be written to from outside this machine's kernel."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields, _, rest = line.partition(" - ")
            if fields.split()[2] == number:
                return rest.split()[0].startswith(_SHARED)
    return True


def has_end(file: IO[bytes], num_bytes: int) -> bool:
    """Whether nothing is missing at the end of a file, as far as that can be told quickly.

    An MP4 or QuickTime file is readable once it has its index (moov), and no box reaches beyond its
    end. Other containers can be cut off anywhere, so they only must not be empty.
    """
    place, has_index = 0, False
    for number in range(_MAX_BOXES):
        if place >= num_bytes:
            break
        file.seek(place)
        head = file.read(16)
        kind = head[4:8]
        if number == 0 and kind not in _BOXES:
            return num_bytes > 0
        if len(head) < 8:
            return False
        (length,) = struct.unpack_from(">I", head)
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
        if length == 0:
            length = num_bytes - place  # it reaches to the end
        if length < 8:
            return True  # damaged: the decoder says how
        has_index |= kind == b"moov"
        place += length
    return has_index and place == num_bytes
