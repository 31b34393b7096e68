"""What a store says of its files: sizes, times and fingerprints.

fsspec is only imported here, and only when an address is looked up.
"""

import errno
import hashlib
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any, TypeVar
from urllib.parse import unquote

from vigil.extract.errors import VideoError
from vigil.extract.remote.addresses import is_web, scheme_of, without_secrets
from vigil.extract.source import RemoteFile

NUM_TRIES = 6
FIRST_PAUSE_SECONDS = 0.5
"""Before the second try; it doubles before each further one."""
SILENT_SECONDS = 60.0
"""A web server that sends nothing for so long is given up."""
LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Errors of the disk that copies are written to, not of the store."""

_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created")
_NOT_FOUND = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The run ends, and what is being fetched is not needed any more."""


def file_system(scheme: str) -> Any:
    """The file system of fsspec for an allowed scheme, which remembers no listing."""
    import fsspec

    settings: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("http", "https"):
        import aiohttp

        # By default a transfer ends after five minutes, however well it goes.
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS
        )
        settings["client_kwargs"] = {"timeout": limits, "trust_env": True}
    return fsspec.filesystem(scheme, **settings)


def look_up(address: str) -> RemoteFile | None:
    """What the store says of a file; None if the address is that of a folder.

    Raises:
        VideoError: there is none, or the store does not answer.
    """
    files = file_system(scheme_of(address))
    key = files._strip_protocol(address)
    info = patiently(lambda: files.info(key), address)
    return None if info["type"] == "directory" else described(scheme_of(address), key, info)


def list_below(address: str) -> Iterator[tuple[str, RemoteFile]]:
    """Yield every file below a folder, with its path relative to the folder.

    Raises:
        VideoError: the store does not answer.
    """
    scheme = scheme_of(address)
    files = file_system(scheme)
    root = files._strip_protocol(address).rstrip("/") + "/"
    for key, info in patiently(lambda: files.find(root, detail=True), address).items():
        if info["type"] == "file" and key.startswith(root) and not key.endswith("/"):
            yield key.removeprefix(root), described(scheme, key, info)


def described(scheme: str, key: str, info: Mapping[str, Any]) -> RemoteFile:
    """A file from the answer of a store.

    Raises:
        VideoError: its size is not known.
    """
    address = key if is_web(key) else f"{scheme}://{key.lstrip('/')}"
    etag = str(info.get("ETag") or info.get("etag") or "").removeprefix("W/").strip('"')
    if info.get("size") is None:
        reason = "the server does not tell its size, so a part of it would pass for the whole"
        raise VideoError(f"{reason}: download it, and name the file")
    return RemoteFile(
        address=address,
        key=key,
        num_bytes=int(info["size"]),
        modified_ns=_modified_ns(info, etag),
        etag=etag,
        md5=str(info.get("md5Hash") or info.get("Content-MD5") or ""),
    )


def _modified_ns(info: Mapping[str, Any], etag: str) -> int | None:
    """The time of a change, to the second; below, a fingerprint of the etag.

    Stores tell times to the second, in which a file may change twice; its etag then differs.
    """
    found = next((info[name] for name in _TIMES if info.get(name)), None)
    try:
        seconds = _seconds(found)
    except (ValueError, OverflowError):
        return None
    if seconds is None or not 0 < seconds < 2**33:
        return None
    fingerprint = int.from_bytes(hashlib.sha256(etag.encode()).digest()[:8]) % 10**9 if etag else 0
    return math.floor(seconds) * 10**9 + fingerprint


def _seconds(time: object) -> float | None:
    if isinstance(time, str):
        time = parsedate_to_datetime(time) if "," in time else datetime.fromisoformat(time)
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return float(time) if isinstance(time, (int, float)) else None


def decoded(address: str) -> str:
    """What stands behind the scheme of an address; those of web servers are unquoted."""
    place = address.partition("://")[2]
    return unquote(place) if is_web(address) else place


def patiently(call: Callable[[], _Result], address: str, stopped: Event | None = None) -> _Result:
    """The result of a call to a store, which is tried again after a pause if that may help.

    Raises:
        VideoError: it failed for good; gives the reason, without secrets.
        StoppedError: the event was set meanwhile.
        OSError: the local disk is full or cannot be written.
    """
    stopped = stopped or Event()
    for number in range(NUM_TRIES):
        try:
            return call()
        except (StoppedError, VideoError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in LOCAL_ERRNOS:
                raise
            reason = _reason(error)
            if _is_final(error):
                raise VideoError(reason, may_pass=not isinstance(error, _NOT_FOUND)) from error
            if number == NUM_TRIES - 1:
                raise VideoError(f"{reason} ({NUM_TRIES} tries)", may_pass=True) from error
        pause = FIRST_PAUSE_SECONDS * 2**number * random.uniform(0.5, 1)
        log.info("%s: %s; trying again in %.1f s", address, reason, pause)
        if stopped.wait(pause):
            raise StoppedError
    raise AssertionError


def _is_final(error: Exception) -> bool:
    """Whether an error will come again."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 400:
        return status < 500 and status not in (408, 425, 429)
    final = (*_NOT_FOUND, PermissionError, ValueError, TypeError, ImportError)
    return isinstance(error, final) or "Credentials" in type(error).__name__


def _reason(error: Exception) -> str:
    text = without_secrets(" ".join(str(error).split()))[:300]
    if isinstance(error, _NOT_FOUND):
        return "there is no such file in the store"
    if isinstance(error, PermissionError):
        return f"the store does not allow it ({text}): check the login in its configuration"
    return f"the store does not give it ({type(error).__name__}: {text})"
