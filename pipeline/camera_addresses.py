"""Addresses of cameras: their passwords come from variables, and are never shown."""

import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from vigil.extract.errors import UserError

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SECRET = re.compile(r"(?:pass(?:w(?:or)?d)?|pwd|psw|token|secret|key)=([^/?&;#]+)", re.IGNORECASE)
"""A value that cameras keep secret, in a path or a query; its name may have a beginning."""


def is_stream(source: str) -> bool:
    """Whether a source is meant as an address, not as a path."""
    return "://" in source or source.startswith(("/dev/video", "${"))


def shown(source: str, number: int) -> str:
    """The name of a source in the answer: of an address only scheme, host and port.

    Passwords stand before the host, but also in paths and queries.
    """
    if "://" not in source:
        return f"source {number}" if source.startswith("${") else source
    scheme, _, rest = source.partition("://")
    authority, *after = re.split(r"[/?#]", rest, maxsplit=1)
    host = authority.rpartition("@")[2]
    # With an @ behind it, it may be the beginning of a password that has a slash in it.
    is_plain = re.fullmatch(r"[\w.:\[\]-]*", host) and not any("@" in one for one in after)
    return f"source {number}: {scheme}://{host}" if is_plain else f"source {number}"


def filled_in(source: str, environment: Mapping[str, str]) -> str:
    """An address with the values of its variables, ``${NAME}``; those in the login are escaped.

    A variable that is the whole login may hold user:password.

    Raises:
        UserError: a variable is not set; names it.
    """
    for name in _VARIABLE.findall(source):
        if not environment.get(name):
            raise UserError(f"the variable {name} is not set: export {name}=...")
    login, at, place = source.rpartition("@")
    num_parts = 1 if ":" in login.partition("://")[2] else 2

    def escaped(found: re.Match[str]) -> str:
        parts = environment[found[1]].split(":", num_parts - 1)
        return ":".join(quote(part, safe="") for part in parts)

    login = _VARIABLE.sub(escaped, login)
    return login + at + _VARIABLE.sub(lambda found: environment[found[1]], place)


def check_address(address: str) -> None:
    """Refuse an address that cannot be taken apart; nothing of it is said.

    Raises:
        UserError: says how to write what may be meant.
    """
    try:
        urlsplit(address).port  # noqa: B018  (it may be no number)
    except ValueError:
        raise UserError(
            "the address is not understood: in user and password, write / as %2F, @ as %40, "
            ": as %3A, # as %23 and ? as %3F, or use a variable"
        ) from None


def has_password(source: str) -> bool:
    """Whether a password stands in an address as it is."""
    rest = source.partition("://")[2]
    password = rest.partition("/")[0].rpartition("@")[0].partition(":")[2]
    secrets = [password, *_SECRET.findall(rest)]
    return any(secret and not _VARIABLE.search(secret) for secret in secrets)
