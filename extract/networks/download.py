"""Download official weights once, over https only, and check them before anything reads them.

Of most files only the first 8 hexadecimal digits of the sha256 are published, which anybody can
match, so the transport has to be trusted, and `torch.hub` would follow a redirect to plain http.
"""

import hashlib
import http.client
import os
import re
import urllib.request
from abc import ABC, abstractmethod
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


Progress = Callable[[int, int | None], None]
"""Called with the bytes downloaded so far and their total, None if unknown."""


@dataclass(frozen=True, kw_only=True)
class WeightsSource(ABC):
    """A place from which weights of a backbone come; what is fetched is one file in the cache."""

    name: str
    """Of the weights; sources of the same weights share it."""
    file_name: str
    """In the cache."""
    licence: str
    num_bytes: int | None = None
    """Size of the download, None if it is not published."""
    layer_names: Mapping[str, str] = field(default_factory=dict)
    """Layer name in public files -> name in the network, where they differ."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the weights come from, for people to read."""

    @property
    @abstractmethod
    def is_checkable(self) -> bool:
        """Whether a digest is known to check the file against."""

    @property
    @abstractmethod
    def by_hand(self) -> str:
        """How a person can provide the weights, in the imperative."""

    @abstractmethod
    def obtain(self, path: Path, progress: Progress | None) -> None:
        """Write the weights to a file.

        Raises:
            UnreachableWeightsError, OSError, http.client.HTTPException, ValueError: the source is
                out of reach.
            WeightsError: it holds something else.
        """

    @abstractmethod
    def check(self, path: Path) -> None:
        """Compare a file's content with the known digest, if there is one.

        Raises:
            WeightsError: the content is another.
        """


class UnreachableWeightsError(WeightsError):
    """Sources are out of reach; the message gives the reasons and what can be done."""

    def __init__(self, *failures: tuple[WeightsSource, object]) -> None:
        """Take every source with the reason."""
        self.failures = failures
        self.reason = "; ".join(str(reason) for _, reason in failures)
        by_hand = ", or ".join(source.by_hand for source, _ in failures)
        super().__init__(
            f"the weights could not be downloaded ({self.reason}): {by_hand}, give the path of "
            "another weights file, or use random weights to try the program without trained "
            "features"
        )


@dataclass(frozen=True, kw_only=True)
class OfficialWeights(WeightsSource):
    """A weights file that its authors publish."""

    url: str
    git_blob_sha1: str | None = None
    """Id of the file's content in its git repository; None if none is published."""

    @property
    def address(self) -> str:
        """The file's address."""
        return self.url

    @property
    def sha256_prefix(self) -> str | None:
        """The first digits of the file's sha256 if its public name ends with them, else None."""
        match = HASHED_NAME.search(self.url)
        return match and match[1]

    @property
    def is_checkable(self) -> bool:
        """Whether a digest is published to check a download against."""
        return bool(self.git_blob_sha1 or self.sha256_prefix)

    @property
    def by_hand(self) -> str:
        """How a person can provide the weights."""
        return f"fetch {self.url} on another machine and save it as {cached_weights(self)}"

    def obtain(self, path: Path, progress: Progress | None) -> None:
        """Download the file."""
        _download(self.url, path, progress)

    def check(self, path: Path) -> None:
        """Compare a file's content with its published digest, if there is one.

        Raises:
            WeightsError: the content is not the published one.
        """
        if expected := self.git_blob_sha1:
            kind, actual = "git blob", git_blob_sha1(path)
        elif expected := self.sha256_prefix:
            with path.open("rb") as file:
                kind, actual = "sha256", hashlib.file_digest(file, "sha256").hexdigest()
        else:
            return
        if not actual.startswith(expected):
            raise WeightsError(
                f"{cached_weights(self)} is not the file published at {self.url} ({kind} {actual}, "
                f"not {expected}): remove it if it still exists, and fetch it again"
            )


def cache_folder() -> Path:
    """The download folder: $VIGIL_CACHE, else $XDG_CACHE_HOME/vigil, else ~/.cache/vigil."""
    if folder := os.environ.get("VIGIL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vigil"


def cached_weights(source: WeightsSource) -> Path:
    """The path at which fetched weights are kept."""
    return cache_folder() / source.file_name


def fetch_weights(source: WeightsSource, progress: Progress | None = None) -> Path:
    """Return the path of a source's weights; fetch them into the cache if necessary.

    Waits while another run fetches them.

    Raises:
        UnreachableWeightsError: the source is out of reach; the message tells how to fetch them by
            hand.
        WeightsError: the cache or the source holds something else.
    """
    path = cached_weights(source)
    if path.is_file():
        source.check(path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(path.parent):
            if path.is_file():  # downloaded by another run meanwhile
                source.check(path)
            else:
                with replace_file(path) as partial:
                    source.obtain(partial, progress)
                    source.check(partial)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableWeightsError((source, reason)) from error
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


def git_blob_sha1(path: Path) -> str:
    """Git's id of a file's content: sha1 of ``blob <size>``, a zero byte and the bytes."""
    header = f"blob {path.stat().st_size}\0".encode()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False))
    return digest.hexdigest()
