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
import numpy.typing as npt

from vigil.extract.errors import UserError
from vigil.extract.files import NAME_ERRNOS

FORMAT = "vigil-features"
FORMAT_VERSION = 2  # version 1 had no user block
USER_BLOCK_SIZE = 512
USER_BLOCK = re.compile(rb"vigil-features (\d{1,9}) ([0-9a-f]{64})\n\0+")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

# What h5py raises on damaged bytes. An OSError then has no number, or that of an offset that does
# not exist.
DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError)
DAMAGE_ERRNOS = (None, errno.EINVAL)
REMEDY = "run the same vigil extract again, or repair it with vigil features verify"


class FeatureFileError(UserError):
    """A feature file is missing, damaged, incomplete, or not what the caller requested."""


class UnreadableFileError(FeatureFileError):
    """A file may be intact, but the system cannot read it now."""


class ForeignFileError(FeatureFileError):
    """A file is intact, but this program must not replace it: it is of another kind, or newer."""


def seal(content: memoryview) -> None:
    """Write the user block, which `read_features` checks, in front of a feature file's bytes."""
    digest = hashlib.sha256(content[USER_BLOCK_SIZE:]).hexdigest()
    block = f"{FORMAT} {FORMAT_VERSION} {digest}\n".encode()
    content[:USER_BLOCK_SIZE] = block.ljust(USER_BLOCK_SIZE, b"\0")


def content_digest(file: h5py.File) -> str:
    """Return the sha256 of every dataset and every attribute except the two written last."""
    digest = hashlib.sha256()

    def add(name: str, value: npt.NDArray[Any]) -> None:
        if value.dtype.kind == "O":
            content = json.dumps([str(item) for item in value.ravel()]).encode()
        else:
            content = np.ascontiguousarray(value).tobytes()
        header = json.dumps([name, value.dtype.str, list(value.shape), len(content)])
        digest.update(header.encode() + content)

    datasets: list[str] = []
    file.visititems(lambda name, node: datasets.append(name) if hasattr(node, "dtype") else None)
    for name in sorted(datasets):
        add("/" + name, file[name][()])
    for name in sorted(set(file.attrs) - {"content_digest", "complete"}):
        add(name, np.asarray(file.attrs[name]))
    return digest.hexdigest()


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
    if file.attrs.get("complete") != 1:
        raise FeatureFileError(f"{path} is incomplete: {REMEDY}")


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
