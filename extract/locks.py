"""One run at a time in a folder of outputs.

The system releases the lock (flock) when a run ends, even if it is killed, so a lock file left
behind is no obstacle. The file's content shows whose lock it is.
"""

import fcntl
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from vigil.extract.errors import UserError
from vigil.extract.files import (
    LOCK_NAME,
    NO_LOCKS,
    is_held,
    make_folder,
    open_lock,
    remove_leftovers,
)

MAX_OWNER_BYTES = 500
MAX_LEVELS = 8  # by which one folder of outputs may lie below another

log = logging.getLogger(__name__)


class LockedError(UserError):
    """Another run is writing to a folder."""


@contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Keep every other run out of folders, creating missing ones, while the block runs.

    The partial files of killed runs are removed. On a file system without locks, a warning is
    logged, and the block runs anyway.

    Raises:
        LockedError: another run holds the lock of one, or of a folder above it; names that folder.
        OSError: a folder cannot be written.
    """
    ours = {folder.resolve() for folder in folders}
    with ExitStack() as stack:
        for folder in folders:
            for above in folder.resolve().parents[:MAX_LEVELS]:
                if above not in ours and is_held(above):
                    raise _refusal(above)
            make_folder(folder)
            file = stack.enter_context(open_lock(folder))
            is_alone = _lock(file, folder)
            if file.writable():
                file.truncate()
                file.write(_owner()[:MAX_OWNER_BYTES])
                file.flush()
            if is_alone:
                remove_leftovers(folder)
        yield


def _lock(file: IO[bytes], folder: Path) -> bool:
    """Take the lock; return False if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _refusal(folder) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning(
            "%s is on a file system without locks (%s): make sure no other run writes there",
            folder,
            error.strerror,
        )
        return False
    return True


def _refusal(folder: Path) -> LockedError:
    with (folder / LOCK_NAME).open("rb") as file:
        owner = file.read(MAX_OWNER_BYTES).decode("ascii", errors="replace").strip()
    return LockedError(
        f"another run is writing to {folder} ({owner if owner.isprintable() else '?'}): wait "
        "for it, or choose another folder"
    )


def _owner() -> bytes:
    """Identify this process in one line of ASCII; addresses, which may hold passwords, are cut."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    command = shlex.join("..." if "://" in argument else argument for argument in sys.argv)
    text = f"pid {os.getpid()} on {socket.gethostname()} since {since}: {command}"
    return text.encode("unicode_escape")
