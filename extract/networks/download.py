"""Download official weights once, over https only, and check them before anything reads them.

Of most files only the first 8 hexadecimal digits of the sha256 are published, which anybody can
match, so the transport has to be trusted, and `torch.hub` would follow a redirect to plain http.
"""

import hashlib
import http.client
import os
import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
                with replace_file(path) as partial:
                    _download(source.url, partial, progress)
                    check_identity(partial, source)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"the weights could not be downloaded ({reason}): fetch {source.url} on another "
            f"machine and save it as {path}, give the path of another weights file, or use random "
            "weights to try the program without trained features"
        ) from error
    return path


class _OnlyEncrypted(urllib.request.BaseHandler):
    """Refuse any other scheme, also when redirected."""

    def default_open(self, request: urllib.request.Request) -> None:
        if request.type != SCHEME:
            url = request.full_url
            raise WeightsError(f"{url} is not {SCHEME}: weights are fetched over {SCHEME} only")


def _download(url: str, path: Path, progress: Progress | None) -> None:
    opener = urllib.request.build_opener(_OnlyEncrypted)
    with opener.open(url, timeout=TIMEOUT_SECONDS) as response, path.open("wb") as file:
        have, total = 0, int(response.headers.get("Content-Length", 0))
        while block := response.read(DOWNLOAD_BLOCK):
            have += len(block)
            if max(have, total) > MAX_DOWNLOAD_BYTES:
                raise WeightsError(
                    f"{url} is larger than {MAX_DOWNLOAD_BYTES} bytes: that cannot be the "
                    "official file"
                )
            file.write(block)
            if progress:
                progress(have, total or None)
    if have < total:
        raise ConnectionError(
            f"the connection was lost after {have} of {total} bytes; run again to start over"
        )


def check_identity(path: Path, source: WeightsSource) -> None:
    """Compare a file's content with its published digest, if there is one.

    Raises:
        WeightsError: the content is not the published one.
    """
    if expected := source.git_blob_sha1:
        kind, actual = "git blob", git_blob_sha1(path)
    elif expected := source.sha256_prefix:
        with path.open("rb") as file:
            kind, actual = "sha256", hashlib.file_digest(file, "sha256").hexdigest()
    else:
        return
    if not actual.startswith(expected):
        raise WeightsError(
            f"{cached_weights(source)} is not the file published at {source.url} ({kind} {actual}, "
            f"not {expected}): remove it if it still exists, and fetch it again"
        )


def git_blob_sha1(path: Path) -> str:
    """Git's id of a file's content: sha1 of ``blob <size>``, a zero byte and the bytes."""
    header = f"blob {path.stat().st_size}\0".encode()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False))
    return digest.hexdigest()
