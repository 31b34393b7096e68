"""Files that are there whole or not at all, and what a killed run leaves of them."""

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
"""What the system says where one name cannot be used, while others can: it is too long with its
ending, or is a folder's, or that of a file where a folder is needed, or has a character that the
file system does not take, as FAT and SMB do not take a colon."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What the system says where a file system has no locks."""

log = logging.getLogger(__name__)


def path_below(root: Path, name: str) -> Path:
    """Where a name from outside, with forward slashes, lies in a folder.

    Raises:
        UserError: the name leads out of the folder.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"the name {name!r} leads out of {root}: rename it, without / and .. in it")
    return root / name


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` when the block ends well.

    File and folder are synced before and after the rename, so that after a crash the old content
    or the new one is there, never a part. When the block raises, the temporary file is removed.
    """
    make_folder(path.parent)
    name_digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    partial = path.with_name(f".{name_digest}{PARTIAL_SUFFIX}")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def temporary_file(folder: Path) -> IO[bytes]:
    """A file in a folder that is gone when it is closed.

    Some file systems show it for a moment, by a name that `remove_leftovers` knows.
    """
    return tempfile.TemporaryFile(prefix=".features", suffix=PARTIAL_SUFFIX, dir=folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each synced into the one that holds it."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network folders cannot be synced
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(root: Path) -> list[Path]:
    """Remove what killed runs left half-written below a folder, and return those paths.

    Call it only while no other run can be writing there. A folder inside with a lock of its own
    is left alone while a run holds that one, or may.
    """
    leftovers = []
    for parent, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if is_held(Path(parent, name)) is False]
        leftovers += sorted(Path(parent).glob(LEFTOVERS))
    for path in leftovers:
        path.unlink()
    return leftovers


def open_lock(folder: Path) -> IO[bytes]:
    """The lock file of a folder, made where missing, for whoever may write to the folder.

    It is never deleted: a run that has it open already could lock it after that, and the next run
    a new one beside it. Another user's may be open for reading only.
    """
    path = folder / LOCK_NAME
    try:
        # O_NOFOLLOW: no link leads to another file.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        if not os.access(folder, os.W_OK):
            raise
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    with suppress(OSError):  # another user's, or the file system knows no permissions
        os.fchmod(file, folder.stat().st_mode & 0o666)
    return os.fdopen(file, "r+b")


def is_held(folder: Path) -> bool | None:
    """Whether a run holds the lock of a folder; None where that cannot be known."""
    try:
        # O_NONBLOCK: a pipe of that name keeps nobody waiting.
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
    """Hold the lock of a folder while the block runs, once nobody else does.

    Where the file system has no locks, the block runs at once.
    """
    with open_lock(folder) as file:
        if is_held(folder):
            log.info("waiting for another run that writes to %s", folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
