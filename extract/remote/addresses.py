"""Addresses of videos in stores, such as s3://BUCKET/FOLDER: which are allowed, and what is shown.

An address is stored in results and shown in messages, so none with a secret in it is accepted. The
login to a store comes from where its own library looks for it.
"""

import re
from importlib.util import find_spec

from vigil.extract.errors import UserError

PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
"""Schemes that are fetched from -> the package that fsspec needs for each."""
EXTRA = ("fsspec", "s3fs", "aiohttp")
"""Packages of the extra ``remote``."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?")
_BUCKET = re.compile(r"[\w.-]+")
_SECRETS = re.compile(r"(\w://)[^/\s'\"]*@|(\?)[^\s'\"<>)]+")


def scheme_of(text: str) -> str:
    """The scheme of an address, in lower case; empty if the text is none."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def is_remote(text: str) -> bool:
    """Whether a text is an address that videos are fetched from."""
    return scheme_of(text) in PACKAGES


def is_web(address: str) -> bool:
    """Whether an address is one of a web server, which lists no folders."""
    return scheme_of(address) in ("http", "https")


def check_address(address: str) -> None:
    """Refuse an address that may hold a secret or names no place, or whose package is missing.

    Raises:
        UserError: says what to write or to install; nothing of a secret is in it.
    """
    scheme = scheme_of(address)
    rest = address.partition("://")[2]
    place, _, path = rest.partition("/")
    if "?" in rest or (is_web(address) and "#" in rest):
        raise UserError(
            f"an address with {scheme}:// has a ? or #: signatures and passwords stand behind "
            "these, and addresses are stored in results; download such a video and name the file"
        )
    is_host = (_HOST if is_web(address) else _BUCKET).fullmatch(place)
    if not is_host or (is_web(address) and "@" in path):
        raise UserError(
            f"an address with {scheme}:// has no plain {'host' if is_web(address) else 'bucket'} "
            "behind it: no user and password may stand there, since addresses are stored in "
            "results; logins come from the environment or the configuration of the store's "
            "library. Write an @ in a path as %40"
        )
    if "*" in path or ".." in path.split("/"):
        raise UserError(f"{address} has * or .. in it: name a folder, or a video")
    if is_web(address) and (not path or path.endswith("/")):
        raise UserError(
            f"{address} is a page, and web servers list no folders: give a text file with the "
            "address of one video per line"
        )
    _require_package(scheme)


def _require_package(scheme: str) -> None:
    package = PACKAGES[scheme]
    missing = [name for name in ("fsspec", package) if find_spec(name) is None]
    if missing:
        also = "" if package in EXTRA else f" {package}"
        raise UserError(
            f"videos from {scheme}:// need {' and '.join(missing)}, not installed here: run "
            f"pip install 'vigil-video[remote]'{also}"
        )


def without_secrets(text: str) -> str:
    """A message of a library without logins and queries of the addresses in it."""
    return _SECRETS.sub(lambda found: f"{found[1] or ''}{found[2] or ''}...", text)
