"""Who may use the site: with which Host, from which pages, and with which token.

a page of another site that reads or changes something   Host, Sec-Fetch-Site, Origin, JSON only
a stranger on the network                                 the token
"""

import hmac
import html
import ipaddress
import json
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vigil.extract.errors import UserError

TOKEN_VARIABLE = "VIGIL_TOKEN"
MIN_TOKEN = 16
"""Characters; a shorter one could be guessed."""
COOKIE = "vigil"
READING = ("GET", "HEAD", "OPTIONS")
OPEN_TO_ALL = ("/healthz",)


class Guard:
    """Lets requests through to an application, or answers why not."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], token: str | None) -> None:
        """Guard an application.

        Args:
            app: what it guards.
            hosts: names in lower case that a Host header may have; addresses always may.
            token: what everybody must have; None: nobody must.
        """
        self.app = app
        self.hosts = frozenset(hosts)
        self.token = token
        self._session = "" if token is None else session_of(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request as ASGI has it."""
        answer = None
        if scope["type"] == "http":
            request = Request(scope)
            answer = (
                self._refuse_host(request) or refuse_other_pages(request) or self._log_in(request)
            )
        await (answer or self.app)(scope, receive, send)

    def _refuse_host(self, request: Request) -> Response | None:
        """Refuse a name that is not ours: its owner may have it lead here, to read our pages."""
        host = host_of(request.headers.get("host", ""))
        if host in self.hosts or is_address(host):
            return None
        return refusal(
            421, f"The host {host!a} is not served: start vigil serve with --allow-hosts {host!a}."
        )

    def _log_in(self, request: Request) -> Response | None:
        """Refuse who has no token; take one from the address, where it must not stay."""
        if self.token is None or request.scope["path"] in OPEN_TO_ALL:
            return None
        if request.method in READING and "token" in request.query_params:
            if not is_same(request.query_params["token"], self.token):
                return login_page("This token is not right.")
            return self._go_on(request)
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and is_same(given.strip(), self.token):
            return None
        if is_same(request.cookies.get(COOKIE, ""), self._session):
            return None
        if "text/html" in request.headers.get("accept", ""):
            return login_page("")
        answer = refusal(401, "A token is needed: send it as Authorization: Bearer TOKEN.")
        answer.headers["www-authenticate"] = "Bearer"
        return answer

    def _go_on(self, request: Request) -> Response:
        """Leave a cookie, and go on to the same address without the token.

        It is not a redirect: after one, a browser that came from a link would not send the cookie.
        """
        given = request.query_params.multi_items()
        rest = urlencode([(name, value) for name, value in given if name != "token"])
        to = html.escape(f"?{rest}")
        answer = HTMLResponse(_page(f'<meta http-equiv="refresh" content="0; url={to}">'))
        is_safe = request.url.scheme == "https"
        answer.set_cookie(COOKIE, self._session, httponly=True, samesite="strict", secure=is_safe)
        return answer


def refuse_other_pages(request: Request) -> Response | None:
    """Refuse what a page of another site asks a browser to load or to change.

    Links from other sites may be followed. Programs that are no browsers send neither header.
    """
    headers = request.headers
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
    follows_link = request.method in READING and mode == "navigate"
    if site not in ("none", "same-origin") and not follows_link:
        return refusal(403, "Pages of other sites may not use this one.")
    if request.method in READING:
        return None
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return refusal(403, "Pages of other sites may not change anything here.")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return refusal(415, "Send JSON, as Content-Type: application/json.")
    return None


def host_of(header: str) -> str:
    """The name or address in a Host header, in lower case and without its port."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def is_address(host: str) -> bool:
    """Whether a host is an address, which nobody can lead elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def own_hosts(given: Iterable[str]) -> set[str]:
    """The names that a Host header may have: those given, localhost and that of this machine."""
    return {"localhost", socket.gethostname().lower(), *(name.lower() for name in given)}


def is_same(given: str, expected: str) -> bool:
    """Whether two secrets are the same; how long it takes does not tell how much of them is."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def session_of(token: str) -> str:
    """What the cookie holds: it lets in as the token does, but does not tell it."""
    return hmac.new(token.encode(), b"vigil serve: session", "sha256").hexdigest()


def find_token(given: str | None, file: Path | None, *, is_needed: bool) -> tuple[str | None, bool]:
    """The token, and whether it was made now.

    Args:
        given: in the environment; an empty one counts as none.
        file: whose first line it is.
        is_needed: whether one is made if none is given.

    Raises:
        UserError: the file cannot be read, or the token is too short or not plain text.
    """
    where = TOKEN_VARIABLE
    if file is not None:
        where = str(file)
        try:
            given = file.read_text(encoding="utf-8").partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as a token: {error}") from error
    elif not given:
        return (secrets.token_urlsafe(32), True) if is_needed else (None, False)
    if len(given) < MIN_TOKEN or not (given.isascii() and given.isprintable()) or " " in given:
        raise UserError(
            f"the token in {where} is not {MIN_TOKEN} or more ASCII characters without spaces: "
            "make one with openssl rand -hex 32"
        )
    return given, False


def refusal(status: int, why: str) -> Response:
    """An answer that says why not, as JSON like those of the API."""
    return Response(json.dumps({"detail": why}), status, media_type="application/json")


def login_page(why: str) -> Response:
    """A page that asks for the token."""
    said = f"<p>{html.escape(why)}</p>" if why else ""
    form = (
        f"{said}<form method=get><label>Token: <input name=token type=password autofocus required>"
        "</label> <button>Log in</button></form>"
    )
    return HTMLResponse(_page(form), 401, {"www-authenticate": "Bearer"})


def _page(content: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>vigil</title>{content}</html>\n'
    )
