"""Atomic file writes, folder locks, and cleaning up after killed runs."""

import errno
import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vigil.extract.errors import UserError

PARTIAL_SUFFIX = ".partial"
LEFTOVERS = "." + "[0-9a-z_]" * 16 + PARTIAL_SUFFIX
LOCK_NAME = ".lock"

NAME_ERRNOS = (
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EINVAL,
    errno.EILSEQ,
    errno.ELOOP,
)
"""System errors for one name that cannot be used, while others can: it is too long with its
extension, names a folder, or a file where a folder is needed, or has a character that the file
system rejects, as FAT and SMB reject a colon."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""System errors of a file system without locks."""

log = logging.getLogger(__name__)


def path_below(root: Path, name: str) -> Path:
    """Return the path below ``root`` of an untrusted name with forward slashes.

    Raises:
        UserError: the name leads out of the folder.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"the name {name!r} leads out of {root}: remove its leading / or .. parts")
    return root / name


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` if the block succeeds.

    The file is synced before the rename and the folder after it, so a crash leaves the old content
    or the new, never a part. If the block raises, the temporary file is removed.
    """
    make_folder(path.parent)
    partial = partial_path(path)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # Naming a file would replace the text of an error without a number, such as a timeout.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def partial_path(path: Path) -> Path:
    """A hidden name in the folder of a path, which `remove_leftovers` recognises."""
    name_digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{name_digest}{PARTIAL_SUFFIX}")


def temporary_file(folder: Path) -> IO[bytes]:
    """Open a file in a folder that is deleted when it is closed.

    Some file systems list it for a moment, under a name that `remove_leftovers` recognises.
    """
    return tempfile.TemporaryFile(prefix=".features", suffix=PARTIAL_SUFFIX, dir=folder)


def write_at(file: IO[bytes], content: bytes, place: int) -> None:
    """Write all bytes at a place in an unbuffered file, wherever its position is.

    Raises:
        OSError: the disk is full, for example; some of the bytes may have been written.
    """
    rest = memoryview(content).cast("B")
    while rest:
        num_bytes = os.pwrite(file.fileno(), rest, place)
        rest, place = rest[num_bytes:], place + num_bytes


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and sync each one's parent."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network folders cannot be synced
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(root: Path) -> list[Path]:
    """Remove the partial files of killed runs below a folder, and return their paths.

    Call it only while no other run can be writing there. A subfolder with its own lock is skipped
    if a run holds that lock, or if that cannot be determined.
    """
    leftovers = []
    for parent, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if is_held(Path(parent, name)) is False]
        leftovers += sorted(Path(parent).glob(LEFTOVERS))
    for path in leftovers:
        path.unlink()
    return leftovers


def open_lock(folder: Path) -> IO[bytes]:
    """Open the lock file of a folder, creating it for everyone who may write to the folder.

    It is never deleted: a run that already has it open could then lock the deleted file, and the
    next run a new one. Another user's lock file may be open for reading only.
    """
    path = folder / LOCK_NAME
    try:
        # O_NOFOLLOW: a link must not lead to another file.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        if not os.access(folder, os.W_OK):
            raise
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    with suppress(OSError):  # another user's file, or a file system without permissions
        os.fchmod(file, folder.stat().st_mode & 0o666)
    return os.fdopen(file, "r+b")


def is_held(folder: Path) -> bool | None:
    """Whether a run holds the lock of a folder; None if that cannot be determined."""
    try:
        # O_NONBLOCK: do not block on a pipe of that name.
        file = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)
    return False


@contextmanager
def wait_for_lock(folder: Path) -> Iterator[None]:
    """Wait for the lock of a folder, and hold it while the block runs.

    On a file system without locks, the block runs immediately.
    """
    with open_lock(folder) as file:
        if is_held(folder):
            log.info("waiting for another run that is writing to %s", folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
