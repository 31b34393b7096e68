"""The sinks that --on-event names, without ever showing their credentials."""

import base64
import hashlib
import ipaddress
import logging
import re
import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from vigil.pipeline.watching.sinks.program import Program
from vigil.pipeline.watching.sinks.sink import Sink, SinkError
from vigil.pipeline.watching.sinks.webhook import Webhook

WEBHOOK_SECRET = "VIGIL_WEBHOOK_SECRET"
"""The variable with the secret of every webhook that names no other."""
PORTS = {"https": 443, "http": 80, "mqtts": 8883, "mqtt": 1883}
KINDS = "https://HOST/PATH, mqtt://HOST/PREFIX, mqtts://HOST/PREFIX or 'exec:PROGRAM ARGUMENT ...'"

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_LOCAL_NAMES = (".local", ".lan", ".internal", ".home.arpa", ".localhost")

log = logging.getLogger(__name__)


def read_sinks(
    addresses: Sequence[str], cameras: Sequence[str], environment: Mapping[str, str]
) -> tuple[Sink, ...]:
    """The sinks with these addresses; nothing is connected or started yet.

    Args:
        addresses: one of `KINDS` each, in which ``${NAME}`` stands for a variable.
        cameras: those that are announced to Home Assistant.
        environment: the variables.

    Raises:
        SinkError: an address is not understood, has a password in it, or something is missing.
    """
    sinks: dict[str, Sink] = {}
    for number, text in enumerate(addresses, start=1):
        sink = _read_sink(text, f"event sink {number}", cameras, environment)
        if sink.name in sinks:
            raise SinkError(f"event sink {number} is {sink.name} again: name it once")
        sinks[sink.name] = sink
    return tuple(sinks.values())


def _read_sink(
    text: str, which: str, cameras: Sequence[str], environment: Mapping[str, str]
) -> Sink:
    if text.startswith("exec:"):
        return _program(text, which, environment)
    address = _read_address(text, which, environment)
    if address.scheme in ("http", "https"):
        return _webhook(address, environment.get(WEBHOOK_SECRET))
    if find_spec("paho") is None:
        raise SinkError(
            f"{address.name} needs paho-mqtt, which is not installed: run pip install "
            "'vigil-video[watch]'"
        )
    return _broker(address, which, cameras)


@dataclass(frozen=True)
class _Address:
    """The parts of an address, with the values of variables in them."""

    name: str
    scheme: str
    host: str
    port: int
    login: tuple[str, str | None] | None
    path: str
    """With the query."""
    settings: Mapping[str, str]
    """What stands behind the #."""


def _read_address(text: str, which: str, environment: Mapping[str, str]) -> _Address:
    """Take an address apart; no message quotes it, as it may have credentials in it."""
    is_hidden = _VARIABLE.match(text) is not None
    parts = _split(_expanded(text, which, environment) if is_hidden else text, which)

    def value(part: str) -> str:
        return part if is_hidden else _expanded(part, which, environment)

    password = None if parts.password is None else value(unquote(parts.password))
    settings = dict(parse_qsl(parts.fragment, keep_blank_values=True))
    for what, secret in (("password", parts.password), ("secret", settings.get("secret"))):
        if secret is not None and not is_hidden and not _VARIABLE.search(secret):
            raise SinkError(
                f"{which} has a {what} in its address, which every user of this machine can see: "
                f"write '${{NAME}}' in its place, and set the variable NAME to it"
            )
    scheme, host = parts.scheme, parts.hostname or ""
    path = value(parts.path + (f"?{parts.query}" if parts.query else ""))
    if not path.isascii() or not path.isprintable() or " " in path:
        raise SinkError(f"{which} has spaces or other than ASCII in its path: write them as %20")
    port = parts.port or PORTS[scheme]
    shown = f"[{host}]" if ":" in host else host
    shown += "" if port == PORTS[scheme] else f":{port}"
    return _Address(
        name=f"{scheme}://{shown}{_mark(text)}",
        scheme=scheme,
        host=host,
        port=port,
        login=None if parts.username is None else (value(unquote(parts.username)), password),
        path=path,
        settings={name: value(setting) for name, setting in settings.items()},
    )


def _split(text: str, which: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        is_known = parts.scheme in PORTS and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_known = False
    if not is_known or not (parts.hostname or "").isascii() or "$" in (parts.hostname or ""):
        raise SinkError(
            f"{which} is not understood: write {KINDS}; a variable ${{NAME}} may be all of it, the "
            "user, the password, or in the path"
        )
    return parts


def _webhook(address: _Address, secret: str | None) -> Webhook:
    _check_settings(address, {"secret"})
    secret = address.settings.get("secret", secret)
    if address.scheme == "http" and (secret or address.login) and not _is_local(address.host):
        log.warning(
            "%s is not encrypted: whoever listens reads the alarms, and can send them again; "
            "use https",
            address.name,
        )
    authorization = None
    if address.login:
        login = ":".join((address.login[0], address.login[1] or ""))
        authorization = "Basic " + base64.b64encode(login.encode()).decode()
    return Webhook(
        address.name,
        (address.host, address.port, address.path or "/"),
        address.scheme == "https",
        secret.encode() if secret else None,
        authorization,
    )


def _broker(address: _Address, which: str, cameras: Sequence[str]) -> Sink:
    from vigil.pipeline.watching.sinks.mqtt import Broker  # needs a package of its own

    _check_settings(address, {"discovery"})
    prefix = address.path.strip("/") or "vigil"
    discovery = address.settings.get("discovery", "")
    if any(character in prefix + discovery for character in "+#?"):
        raise SinkError(f"{which} has a +, # or ? in its prefix of topics: leave them out")
    if address.scheme == "mqtt" and address.login and not _is_local(address.host):
        log.warning("%s is not encrypted: the password can be read; use mqtts", address.name)
    return Broker(
        address.name,
        (address.host, address.port, prefix),
        address.scheme == "mqtts",
        address.login,
        (discovery, cameras),
    )


def _program(text: str, which: str, environment: Mapping[str, str]) -> Program:
    try:
        words = shlex.split(text.removeprefix("exec:"))
    except ValueError as error:
        raise SinkError(f"{which} is not understood ({error}): write {KINDS}") from error
    variables = {}
    while words and (assigned := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0], re.DOTALL)):
        variables[assigned[1]] = _expanded(assigned[2], which, environment)
        words = words[1:]
    found = shutil.which(words[0]) if words else None
    if found is None:
        what = f"the program {words[0]!r}, which is not there" if words else "no program"
        raise SinkError(f"{which} names {what} or may not be run: write 'exec:/PATH/PROGRAM ...'")
    if any(_VARIABLE.search(word) for word in words):
        raise SinkError(
            f"{which} has a variable among its arguments, which every user of this machine can "
            "see: write 'exec:NAME=${NAME} PROGRAM ...' to set it in the program's environment"
        )
    return Program(f"exec:{found}{_mark(text)}", [found, *words[1:]], variables)


def _expanded(text: str, which: str, environment: Mapping[str, str]) -> str:
    """The text with the values of its variables."""
    for name in _VARIABLE.findall(text):
        if not environment.get(name):
            raise SinkError(f"{which} needs the variable {name}, which is not set: set it")
    return _VARIABLE.sub(lambda found: environment[found[1]], text)


def _mark(text: str) -> str:
    """What tells sinks with the same host apart; it is the same in every run."""
    return "#" + hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:6]


def _check_settings(address: _Address, allowed: Collection[str]) -> None:
    unknown = address.settings.keys() - allowed
    if unknown:
        names = ", ".join(sorted(allowed))
        raise SinkError(f"{address.name} has an unknown setting behind its #: it may have {names}")


def _is_local(host: str) -> bool:
    """Whether a host is this machine or, by its address or name, one of a private network."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_NAMES)
