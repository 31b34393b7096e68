"""HDF5 files sealed with a digest, and refused if their bytes have changed.

The user block, in front of HDF5's own bytes, holds the format, its version and the sha256 of all
that follows. It is checked before HDF5 sees a byte, because HDF5 may crash or hang on damaged
files. `extract.store` describes their content.
"""

import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigil.extract.errors import UserError
from vigil.extract.files import NAME_ERRNOS, replace_file, write_at

FORMAT = "vigil-features"
# Version 1 has no user block, but the attributes content_digest and, written last, complete.
# Version 2 has all three; its user block covers both attributes, so nothing reads them.
FORMAT_VERSION = 3
USER_BLOCK_SIZE = 512
USER_BLOCK = re.compile(rb"vigil-features (\d{1,9}) ([0-9a-f]{64})\n\0+")
COMPRESSED = "frames/seconds"
"""The only dataset that may be compressed."""
MAX_COMPRESSED_BYTES = 1 << 27
"""Its size is not bounded by the file's: 16 million frames, more than a video may have."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

# What h5py raises on damaged bytes. An OSError then has no number, or that of an offset that does
# not exist.
DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError)
DAMAGE_ERRNOS = (None, errno.EINVAL)
REMEDY = "run the same vigil extract again, or let vigil features verify repair it"


class FeatureFileError(UserError):
    """A feature file is missing, damaged, incomplete, or not what the caller requested."""


class UnreadableFileError(FeatureFileError):
    """A file may be intact, but the system cannot read it now."""


class ForeignFileError(FeatureFileError):
    """A file is intact, but this program must not replace it: it is of another kind, or newer."""


class _NewFile(io.RawIOBase):
    """The bytes of a new HDF5 file. An error in writing them is kept for `check`.

    HDF5 crashes the process, instead of raising, if a write fails, such as on a full disk. What it
    writes from then on, until the caller has checked and closed the file, stays in memory.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._place = 0
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []
        self._unwritten_end = 0

    def check(self) -> None:
        """Raise the first error in writing."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = max(os.fstat(self._file.fileno()).st_size, self._unwritten_end)
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: end}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, target: Any) -> int:
        place, wanted = self._place, memoryview(target).cast("B")
        content = os.pread(self._file.fileno(), len(wanted), place).ljust(len(wanted), b"\0")
        wanted[:] = content
        for start, newer in self._unwritten:
            first, stop = max(place, start), min(place + len(wanted), start + len(newer))
            if first < stop:
                wanted[first - place : stop - place] = newer[first - start : stop - start]
        self._place += len(wanted)
        return len(wanted)

    def write(self, content: Any) -> int:
        try:
            self.check()
            write_at(self._file, content, self._place)
        except OSError as error:
            self._error = error
            self._unwritten.append((self._place, bytes(content)))
            self._unwritten_end = max(self._unwritten_end, self._place + len(content))
        self._place += len(content)
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        size = self._place if size is None else size
        try:
            self.check()
            self._file.truncate(size)
        except OSError as error:
            self._error = error
        return size


def write_sealed(path: Path, fill: Callable[[h5py.File], Iterable[object]]) -> None:
    """Write a file atomically, without ever holding all of it in memory.

    Args:
        path: of the file.
        fill: fills the empty file, and yields after each piece of it.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with replace_file(path) as partial, partial.open("w+b", buffering=0) as raw:
        content = _NewFile(raw)
        # With v110, HDF5 adds checksums to its own structures.
        with h5py.File(content, "w", libver="v110", userblock_size=USER_BLOCK_SIZE) as file:
            file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION})
            for _ in fill(file):
                content.check()
        content.check()
        raw.seek(USER_BLOCK_SIZE)
        write_at(raw, _user_block(hashlib.file_digest(raw, "sha256").hexdigest()), 0)


def seal(content: memoryview) -> None:
    """Write the user block, which `read_features` checks, in front of a feature file's bytes."""
    content[:USER_BLOCK_SIZE] = _user_block(hashlib.sha256(content[USER_BLOCK_SIZE:]).hexdigest())


def _user_block(digest: str) -> bytes:
    return f"{FORMAT} {FORMAT_VERSION} {digest}\n".encode().ljust(USER_BLOCK_SIZE, b"\0")


@contextmanager
def open_sealed(path: Path) -> Iterator[h5py.File]:
    """Yield a file after checking its bytes; errors in reading it become `FeatureFileError`."""
    with reading(path), checked(path) as file:
        yield file


@contextmanager
def checked(path: Path) -> Iterator[h5py.File]:
    """Yield a file after checking its bytes; to be read within `reading`."""
    if not path.is_file():
        raise FeatureFileError(f"{path} does not exist: run vigil extract first")
    with path.open("rb") as content:
        version = _check_bytes(path, content)
        with h5py.File(content, "r") as file:
            _check_format(path, file, version)
            _check_parts(file, path.stat().st_size)
            yield file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors in reading a feature file into `FeatureFileError`."""
    try:
        yield
    except MemoryError as error:
        raise unreadable(path, error) from error
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in DAMAGE_ERRNOS:
            raise unreadable(path, error) from error
        raise damaged(path, str(error)) from error


def sealed_digest(path: Path) -> str:
    """Return the sha256 that a feature file's user block states, without checking it.

    Raises:
        FeatureFileError: the file states none; names the file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as content:
        block = content.read(USER_BLOCK_SIZE)
        if block.startswith(HDF5_SIGNATURE):  # version 1
            content.seek(0)
            return hashlib.file_digest(content, "sha256").hexdigest()
    match = USER_BLOCK.fullmatch(block)
    if match is None:
        raise damaged(path, "it does not start like a feature file")
    return match[2].decode()


def _check_bytes(path: Path, content: io.BufferedReader) -> int:
    """Return the format version of a file after checking its digest; version 1 has none."""
    block = content.read(USER_BLOCK_SIZE)
    if block.startswith(HDF5_SIGNATURE):
        return 1
    if not block.startswith(FORMAT.encode()):
        raise FeatureFileError(f"{path} is not a feature file: {REMEDY}")
    match = USER_BLOCK.fullmatch(block)
    digest = hashlib.file_digest(content, "sha256").hexdigest()
    if match is None or digest.encode() != match[2]:
        raise damaged(path, "its bytes do not match their digest")
    return int(match[1])


def _check_format(path: Path, file: h5py.File, sealed_version: int) -> None:
    if file.attrs.get("format") != FORMAT:
        raise ForeignFileError(
            f"{path} is an HDF5 file of another kind: move it out of the folder of features"
        )
    version = int(file.attrs["format_version"])
    if version != sealed_version:
        raise damaged(path, f"format version {sealed_version} in its user block, {version} inside")
    if not 1 <= version <= FORMAT_VERSION:
        raise ForeignFileError(
            f"{path} has format version {version}, but this program reads 1 to {FORMAT_VERSION}: "
            "extract again, or use the matching version of vigil"
        )
    if version == 1 and file.attrs.get("complete") != 1:
        raise FeatureFileError(f"{path} is incomplete: {REMEDY}")


def check_unsealed(file: h5py.File) -> None:
    """Check the digest over datasets and attributes that version 1 has instead of a seal.

    Raises:
        ValueError: it is wrong.
    """
    if file.attrs["format_version"] != 1:
        return
    parts = {f"/{group}/{name}": file[group][name] for group in file for name in file[group]}
    names = sorted(file.attrs.keys() - {"content_digest", "complete"})
    parts |= {name: file.attrs[name] for name in names}
    digest = hashlib.sha256()
    for name, part in parts.items():
        value = np.asarray(part)
        is_text = value.dtype.kind == "O"
        content = json.dumps(value.tolist()).encode() if is_text else value.tobytes()
        header = json.dumps([name, value.dtype.str, list(value.shape), len(content)])
        digest.update(header.encode() + content)
    if digest.hexdigest() != file.attrs["content_digest"]:
        raise ValueError("its content does not match its digest")


def _check_parts(file: h5py.File, num_bytes: int) -> None:
    """Refuse parts for which HDF5 would open other files or plugins, or use excessive memory.

    Raises:
        ValueError: names the part.
    """
    links: dict[str, Any] = {}
    file.visititems_links(links.__setitem__)
    for name, link in links.items():
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{name} is a link")
        part = file[name]
        if isinstance(part, h5py.Group):
            continue
        creation = part.id.get_create_plist()
        filters = {creation.get_filter(index)[0] for index in range(creation.get_nfilters())}
        is_small = part.nbytes <= num_bytes
        if name == COMPRESSED:
            filters -= {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE}
            is_small = part.nbytes <= MAX_COMPRESSED_BYTES
        is_plain = filters <= {h5py.h5z.FILTER_FLETCHER32} and part.maxshape == part.shape
        if part.is_virtual or part.external or not is_plain or not is_small:
            raise ValueError(f"{name} does not store its values plainly in this file")


def damaged(path: Path, reason: str) -> FeatureFileError:
    """Return the error for a file that is not as it was written."""
    reason = " ".join(reason.split())
    return FeatureFileError(f"{path} is damaged ({reason}): {REMEDY}")


def unreadable(path: Path, error: OSError | MemoryError) -> UnreadableFileError:
    """Return the error for a file that the system cannot read, although it may be intact."""
    if isinstance(error, MemoryError):
        return UnreadableFileError(f"{path} cannot be read (not enough memory): free some memory")
    remedy = "check its disk and its permissions, then run the same command again"
    if error.errno in NAME_ERRNOS:
        remedy = "rename the video"
    return UnreadableFileError(f"{path} cannot be read ({error.strerror}): {remedy}")
