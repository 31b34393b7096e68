"""Download official weights once, over https only, and check them before anything reads them."""

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from vigil.extract.errors import UserError
from vigil.extract.files import replace_file, wait_for_lock

SCHEME = "https"
DOWNLOAD_BLOCK = 1 << 20
MAX_DOWNLOAD_BYTES = 1 << 30
"""Far above the size of any official file."""
TIMEOUT_SECONDS = 30

HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")  # the convention of `torch.hub`


class WeightsError(UserError):
    """Weights cannot be obtained, are not what they claim to be, or do not fit the network."""


@dataclass(frozen=True)
class WeightsSource:
    """The source of a backbone's official weights, and how to check a download."""

    url: str
    file_name: str
    git_blob_sha1: str | None
    """Id of the file's content in its git repository; None if none is published."""
    licence: str
    layer_names: Mapping[str, str] = field(default_factory=dict)
    """Layer name in public files -> name in the network, where they differ."""

    @property
    def sha256_prefix(self) -> str | None:
        """The first digits of the file's sha256 if its public name ends with them, else None."""
        match = HASHED_NAME.search(self.url)
        return match and match[1]

    @property
    def is_checkable(self) -> bool:
        """Whether a digest is published to check a download against."""
        return bool(self.git_blob_sha1 or self.sha256_prefix)


Progress = Callable[[int, int | None], None]
"""Called with the bytes downloaded so far and their total, None if unknown."""


def cache_folder() -> Path:
    """The download folder: $VIGIL_CACHE, else $XDG_CACHE_HOME/vigil, else ~/.cache/vigil."""
    if folder := os.environ.get("VIGIL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vigil"


def cached_weights(source: WeightsSource) -> Path:
    """The path at which downloaded official weights are kept."""
    return cache_folder() / source.file_name


def fetch_weights(source: WeightsSource, progress: Progress | None = None) -> Path:
    """Return the path of the official weights; download them into the cache if necessary.

    Waits while another run downloads them.

    Raises:
        WeightsError: the download failed; the message tells how to fetch them by hand.
    """
    path = cached_weights(source)
    if path.is_file():
        check_identity(path, source)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(path.parent):
            if path.is_file():  # downloaded by another run meanwhile
                check_identity(path, source)
            else:
                _fetch(source, path, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"the weights could not be downloaded ({reason}): fetch {source.url} on another "
            f"machine and save it as {path}, give the path of another weights file, or use random "
            "weights to try the program without trained features"
        ) from error
    return path


def _fetch(source: WeightsSource, path: Path, progress: Progress | None) -> None:
    partial = path.with_name(path.name + ".download")
    try:
        _download(source.url, partial, progress)
        check_identity(partial, source)
    except WeightsError:
        partial.unlink(missing_ok=True)
        raise
    with replace_file(path) as temporary:
        partial.replace(temporary)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https addresses only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request that follows a redirect."""
        _require_encrypted(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_encrypted(url: str) -> None:
    if urlsplit(url).scheme != SCHEME:
        raise WeightsError(f"{url} is not {SCHEME}: weights are fetched over {SCHEME} only")


def _download(url: str, partial: Path, progress: Progress | None) -> None:
    """Download to a file, resuming an interrupted attempt."""
    _require_encrypted(url)
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        opener = urllib.request.build_opener(_SafeRedirects)
        response = opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing is left to download
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with partial.open("ab" if resumed else "wb") as file:
            while block := response.read(DOWNLOAD_BLOCK):
                have += len(block)
                if max(have, total or 0) > MAX_DOWNLOAD_BYTES:
                    raise WeightsError(
                        f"{url} is larger than {MAX_DOWNLOAD_BYTES} bytes: that cannot be the "
                        "official file"
                    )
                file.write(block)
                if progress:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection was lost after {have} of {total} bytes; run again")


def check_identity(path: Path, source: WeightsSource) -> None:
    """Compare a file's content with its published digest, if there is one.

    Raises:
        WeightsError: the content is not the published one.
    """
    if source.git_blob_sha1 is not None:
        kind, actual, expected = "git blob", git_blob_sha1(path), source.git_blob_sha1
    elif source.sha256_prefix is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        expected = source.sha256_prefix
        kind, actual = "sha256", digest[: len(expected)]
    else:
        return
    if actual != expected:
        raise WeightsError(
            f"{path} is not the file published at {source.url} ({kind} {actual}, not "
            f"{expected}): remove it if it still exists, and fetch it again"
        )


def git_blob_sha1(path: Path) -> str:
    """Git's id of a file's content: sha1 of ``blob <size>``, a zero byte and the bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(DOWNLOAD_BLOCK):
            digest.update(block)
    return digest.hexdigest()
