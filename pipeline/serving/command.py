"""`vigil serve`: RESULTS over HTTP, until Ctrl-C."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from vigil.data.annotations import load_annotations
from vigil.data.matching import NoMatchError, match_videos
from vigil.extract.errors import UserError
from vigil.pipeline.options import ServeOptions
from vigil.pipeline.scoring.report.details import Truth
from vigil.pipeline.scoring.results import Results
from vigil.pipeline.serving.access import (
    TOKEN_VARIABLE,
    Guard,
    find_token,
    is_loopback,
    own_hosts,
)
from vigil.pipeline.serving.application import make_application
from vigil.pipeline.serving.connections import WatchedProtocol, connection_limit
from vigil.pipeline.serving.site import Site, open_site
from vigil.pipeline.serving.traffic import Traffic

ENDING_SECONDS = 3
"""What open requests have left to end on Ctrl-C."""
BACKLOG = 2048

log = logging.getLogger(__name__)


def run_serve(options: ServeOptions) -> int:
    """Serve RESULTS folders, and print the address; Ctrl-C ends it as it ends other commands.

    Raises:
        UserError: a folder does not hold finished results, verdicts cannot be kept, the token is
            not one, or the address cannot be used.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after open requests have ended.
    """
    listener = open_listener(options.host, options.port)
    with listener:
        is_local = is_loopback(listener.getsockname()[0])
        token, is_new = find_token(
            os.environ.get(TOKEN_VARIABLE), options.token_file, is_needed=not is_local
        )
        folders = [Path(one) for one in options.results]
        site = open_site(folders, options.verdicts, truth_finder(options.annotations))
        for one in site.members:
            log.info("%s: verdicts are kept in %s", one.folder, one.verdicts.path)
        app = guarded(site, own_hosts((*options.allow_hosts, options.host)), token)
        print(address_of(listener, options.host, token if is_new else None))
        sys.stdout.flush()
        if not is_local:
            log.warning(
                "Anyone on the network can read what is sent, the token too: put a proxy with "
                "TLS in front (docs/serving.md)"
            )
        server(app).run(sockets=[listener])
    return 0


def guarded(site: Site, hosts: set[str], token: str | None) -> ASGIApp:
    """The application of a site, with everything that stands before it."""
    traffic = Traffic(Guard(make_application(site, lambda: traffic), hosts, token))
    return traffic


def server(app: ASGIApp) -> uvicorn.Server:
    """What runs an application; it logs no addresses, since they may hold the token."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=WatchedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            limit_concurrency=connection_limit(),
            timeout_graceful_shutdown=ENDING_SECONDS,
        )
    )


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        UserError: there is no such address here, or another program uses it.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)  # so that who reads the address can connect
    except OSError as error:
        raise UserError(
            f"{host} port {port} cannot be used ({error.strerror}): give others with --host and "
            "--port"
        ) from error
    return listener


def address_of(listener: socket.socket, host: str, token: str | None) -> str:
    """The address to open; with a token that was made now, which is told only here."""
    named = host if host not in ("0.0.0.0", "::") else socket.gethostname()
    shown = f"[{named}]" if ":" in named else named
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    return address if token is None else f"{address}?token={token}"


def truth_finder(annotations: Sequence[Path]) -> Callable[[Results], Truth]:
    """What finds the annotations of results among those in label files."""
    loaded = load_annotations(annotations) if annotations else []

    def find(results: Results) -> Truth:
        if not loaded:
            return {}
        try:
            return match_videos(loaded, [one.video for one in results.videos]).annotations
        except NoMatchError as error:  # they may be of other results of the site
            log.warning("the timelines of some results show no annotations: %s", error)
            return {}

    return find
