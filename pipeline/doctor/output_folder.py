"""Whether results can be written to a folder: space, locks, renames and SQLite."""

import errno
import fcntl
import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from vigil.extract.files import NO_LOCKS, replace_file
from vigil.pipeline.doctor.finding import OK, PROBLEM, WARNING, Finding
from vigil.pipeline.doctor.software import read_text

MIN_GIB, GOOD_GIB = 1.0, 10.0
MIN_FILES = 10_000
SHARED = ("nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "afs", "ceph", "lustre", "gluster")
"""How the types of file systems begin that other machines may write to, too."""
ROOM = "remove files, or set --keep-days or --keep-gib of vigil watch"
ELSEWHERE = "choose another --out on a local disk"


def check_output(folder: Path) -> Iterator[Finding]:
    """Yield whether a folder, which need not exist yet, can take results.

    It is tried out in a hidden folder, which is removed; nothing else is changed.
    """
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not place.is_dir():
        yield Finding("--out", PROBLEM, f"{place} is a file", "give a folder as --out")
        return
    try:
        trial = Path(tempfile.mkdtemp(prefix=".vigil-doctor-", dir=place))
    except OSError as error:
        found = f"{place} cannot be written ({error.strerror})"
        yield Finding("--out", PROBLEM, found, _remedy(error.errno, folder))
        return
    try:
        yield _writing(place, trial)
        yield space_finding(place)
        kind = file_system(place)
        yield _locks(trial, kind)
        yield _sqlite(trial, kind)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _remedy(number: int | None, folder: Path) -> str:
    """What to do about a system error in a folder that need not exist."""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ROOM
    if number == errno.EROFS:
        return f"mount it for writing, or {ELSEWHERE}"
    if number in (errno.EACCES, errno.EPERM):
        command = "chown" if folder.exists() else "install -d -o"
        return f"sudo {command} {os.geteuid()} {shlex.quote(str(folder))}, or {ELSEWHERE}"
    return ELSEWHERE


def _writing(place: Path, trial: Path) -> Finding:
    try:
        with replace_file(trial / "a") as partial:
            partial.write_bytes(bytes(1 << 16))
    except OSError as error:
        found = f"{place}: a file cannot be written, synced and renamed ({error.strerror})"
        return Finding("--out", PROBLEM, found, ELSEWHERE)
    return Finding("--out", OK, f"{place} can be written")


def space_finding(place: Path) -> Finding:
    """Whether a file system has room."""
    status = os.statvfs(place)
    gib = status.f_bavail * status.f_frsize / 2**30
    found = f"{gib:.1f} GiB free"
    if gib < GOOD_GIB:
        return Finding("space", PROBLEM if gib < MIN_GIB else WARNING, found, ROOM)
    if status.f_files and status.f_favail < MIN_FILES:
        found += f", but room for {status.f_favail} more files only"
        return Finding("space", WARNING, found, ROOM)
    return Finding("space", OK, found)


def file_system(place: Path) -> str:
    """The type of the file system that holds a folder, such as ext4; empty if unknown."""
    device = place.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in read_text(Path("/proc/self/mountinfo")).splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == number:
            return rest.split()[0]
    return ""


def _locks(trial: Path, kind: str) -> Finding:
    """Whether a lock that is held keeps others out."""
    path = trial / "lock"
    with path.open("wb") as first, path.open("wb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            found = f"the file system {kind} has none: two runs could write there at once"
            return Finding("locks", WARNING, found, f"{ELSEWHERE}, or mount it with locks")
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Finding("locks", OK, f"they work ({kind or 'file system unknown'})")
    found = f"the file system {kind} grants one lock twice: two runs could write there at once"
    return Finding("locks", PROBLEM, found, ELSEWHERE)


def _sqlite(trial: Path, kind: str) -> Finding:
    """Whether SQLite can write ahead, and two connections see the same."""
    path = trial / "watch.sqlite"
    try:
        with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(path)) as two:
            (mode,) = one.execute("PRAGMA journal_mode = WAL").fetchone()
            one.execute("PRAGMA synchronous = FULL")
            with one:
                one.execute("CREATE TABLE t (a INTEGER)")
                one.execute("INSERT INTO t VALUES (1)")
            (number,) = two.execute("SELECT count(*) FROM t").fetchone()
    except sqlite3.Error as error:
        return Finding("SQLite", PROBLEM, f"it does not work there ({error})", ELSEWHERE)
    if mode != "wal" or number != 1:
        found = f"it cannot write ahead there (mode {mode}), which vigil watch and serve need"
        return Finding("SQLite", PROBLEM, found, ELSEWHERE)
    if kind.startswith(SHARED):
        found = f"works, but {kind} may be shared: only one machine may use these results at a time"
        return Finding("SQLite", WARNING, found, ELSEWHERE)
    return Finding("SQLite", OK, "works")
