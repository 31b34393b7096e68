"""Files that are there whole or not at all, and what a killed run leaves of them."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extract.errors import UserError

PARTIAL_SUFFIX = ".partial"
LOCK_NAME = ".lock"

NAME_ERRNOS = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""What the system says where one name cannot be used, while others can: it is too long with its
ending, or is a folder's, or that of a file where a folder is needed."""


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

    Call it only while no other run can be writing there. A folder inside that has a lock of its own
    is left alone, since a run that holds that one may be.
    """
    leftovers = []
    for parent, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if not Path(parent, name, LOCK_NAME).exists()]
        leftovers += sorted(Path(parent).glob("." + "[0-9a-f]" * 16 + PARTIAL_SUFFIX))
    for path in leftovers:
        path.unlink()
    return leftovers
