"""HDF5 files sealed with a digest, and refused if their bytes have changed.

The user block, in front of HDF5's own bytes, holds the format, its version and the sha256 of all
that follows. It is checked before HDF5 sees a byte, because HDF5 may crash or hang on damaged
files. `extract.store` describes their content.
"""

import errno
import hashlib
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigil.extract.errors import UserError
from vigil.extract.files import NAME_ERRNOS, replace_file

FORMAT = "vigil-features"
# Version 1 has no user block, but the attributes content_digest and, written last, complete.
# Version 2 has all three; its user block covers both attributes, so nothing reads them.
FORMAT_VERSION = 3
USER_BLOCK_SIZE = 512
USER_BLOCK = re.compile(rb"vigil-features (\d{1,9}) ([0-9a-f]{64})\n\0+")
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


@contextmanager
def create_sealed(path: Path) -> Iterator[h5py.File]:
    """Yield an empty file to fill; once it is filled, write it atomically.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    # Built in memory: HDF5 crashes the process, instead of raising, when a disk fills up.
    # With v110, HDF5 adds checksums to its own structures.
    content = io.BytesIO()
    with h5py.File(content, "w", libver="v110", userblock_size=USER_BLOCK_SIZE) as file:
        file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION})
        yield file
    seal(content.getbuffer())
    with replace_file(path) as partial:
        partial.write_bytes(content.getbuffer())


def seal(content: memoryview) -> None:
    """Write the user block, which `read_features` checks, in front of a feature file's bytes."""
    digest = hashlib.sha256(content[USER_BLOCK_SIZE:]).hexdigest()
    block = f"{FORMAT} {FORMAT_VERSION} {digest}\n".encode()
    content[:USER_BLOCK_SIZE] = block.ljust(USER_BLOCK_SIZE, b"\0")


@contextmanager
def open_sealed(path: Path) -> Iterator[h5py.File]:
    """Yield a file after checking its bytes; errors in reading it become `FeatureFileError`."""
    try:
        if not path.is_file():
            raise FeatureFileError(f"{path} does not exist: run vigil extract first")
        with path.open("rb") as content:
            version = _check_bytes(path, content)
            with h5py.File(content, "r") as file:
                _check_format(path, file, version)
                _check_parts(file, path.stat().st_size)
                yield file
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
        is_plain = filters <= {h5py.h5z.FILTER_FLETCHER32} and part.maxshape == part.shape
        if part.is_virtual or part.external or not is_plain or part.nbytes > num_bytes:
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
