"""One run at a time in a folder of outputs.

The lock is the system's (flock): it is lifted when a run ends, however it does, so that the file a
killed run leaves is no obstacle. What stands in the file says whose lock it is.
"""

import errno
import fcntl
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from extract.errors import UserError
from extract.files import LOCK_NAME, make_folder, remove_leftovers

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
MAX_OWNER_BYTES = 500

log = logging.getLogger(__name__)


class LockedError(UserError):
    """Another run is writing to a folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other run out of a folder, made where missing, while the block runs.

    What killed runs left half-written there is removed. Where the file system has no locks, a
    warning says so, and the block runs all the same.

    Raises:
        LockedError: another run holds the lock; says which.
        OSError: the folder cannot be written.
    """
    make_folder(folder)
    # The file stays when the block ends: a run that has it open already could lock it after it is
    # deleted, and the next run a new one beside it. O_NOFOLLOW: no link leads to another file.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(folder / LOCK_NAME, flags, 0o666), "r+b") as file:  # noqa: PTH123
        is_alone = _lock(file, folder)
        file.truncate()
        file.write(_owner()[:MAX_OWNER_BYTES])
        file.flush()
        if is_alone:
            remove_leftovers(folder)
        yield


def _lock(file: IO[bytes], folder: Path) -> bool:
    """Whether the lock could be taken; not, where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = file.read(MAX_OWNER_BYTES).decode("ascii", errors="replace").strip()
        raise LockedError(
            f"another run is writing to {folder} ({owner if owner.isprintable() else '?'}): wait "
            "for it, or choose another folder"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning(
            "%s is on a file system without locks (%s): let no other run write there",
            folder,
            error.strerror,
        )
        return False
    return True


def _owner() -> bytes:
    """Who this process is, in one line of ASCII."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"pid {os.getpid()} on {socket.gethostname()} since {since}: {shlex.join(sys.argv)}"
    return text.encode("unicode_escape")
