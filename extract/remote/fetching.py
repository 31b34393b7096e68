"""A copy of a remote video on local disk: whole, checked, and with the time of the original.

The copy has the size and the modification time that the store tells, so that everything that
recognises a video by these (feature files, journals) recognises it by its copy.
"""

import base64
import hashlib
import os
import re
from pathlib import Path
from threading import Event

from vigil.extract.errors import VideoError
from vigil.extract.files import make_folder, replace_file
from vigil.extract.remote.addresses import scheme_of
from vigil.extract.remote.stores import StoppedError, described, file_system, patiently
from vigil.extract.source import RemoteFile, size_and_time


def copy_path(file: RemoteFile, folder: Path) -> Path:
    """Where the copy of this very version of a file lies; it has the file's extension."""
    version = f"{file.address}\0{file.num_bytes}\0{file.modified_ns}\0{file.etag}"
    digest = hashlib.sha256(os.fsencode(version)).hexdigest()[:32]
    extension = re.search(r"\.\w{1,16}$", file.key)
    return folder / (digest + (extension[0].lower() if extension else ""))


def is_copy(path: Path, file: RemoteFile) -> bool:
    """Whether a complete copy of this version lies at a path."""
    try:
        return size_and_time(path) == (file.num_bytes, file.modified_ns)
    except OSError:
        return False


def fetch(file: RemoteFile, folder: Path, stopped: Event) -> Path:
    """Copy a file into a folder, and return the path of the copy.

    Raises:
        VideoError: it cannot be fetched, or is not what the store said it is.
        StoppedError: the event was set meanwhile.
        OSError: the folder cannot be written.
    """
    path = copy_path(file, folder)
    if is_copy(path, file):
        return path
    make_folder(folder)
    patiently(lambda: _copy(file, path, stopped), file.address, stopped)
    return path


def _copy(file: RemoteFile, path: Path, stopped: Event) -> None:
    from fsspec.callbacks import Callback

    scheme = scheme_of(file.address)
    store = file_system(scheme)

    class Watched(Callback):  # type: ignore[misc]
        """Ends a transfer that is not needed, or brings more than was said."""

        num_bytes = 0

        def relative_update(self, inc: int = 1) -> None:
            self.num_bytes += inc
            if stopped.is_set():
                raise StoppedError
            if self.num_bytes > file.num_bytes:
                raise VideoError(f"the store sends more than the {file.num_bytes} bytes it said")

    with replace_file(path) as partial:
        store.get_file(file.key, str(partial), callback=Watched())
        # A file that was replaced meanwhile may be a mixture.
        if described(scheme, file.key, store.info(file.key)) != file:
            raise VideoError("the file changed since it was listed: run again", may_pass=True)
        num_bytes = partial.stat().st_size
        if num_bytes != file.num_bytes:
            raise OSError(f"{num_bytes} of {file.num_bytes} bytes came")
        if file.md5 and _md5(partial) != file.md5:
            raise OSError("the bytes that came do not have the MD5 that the store tells")
        if file.modified_ns is not None:
            os.utime(partial, ns=(file.modified_ns, file.modified_ns))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return base64.b64encode(digest.digest()).decode()
