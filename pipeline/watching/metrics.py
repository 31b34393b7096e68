"""--metrics: figures for Prometheus and a health check, over HTTP."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from socket import AF_INET6, socket
from typing import Any, NamedTuple

from vigil.extract.errors import UserError

REQUEST_SECONDS = 10
MAX_REQUESTS = 16
"""At a time; further ones are turned away."""

log = logging.getLogger(__name__)


class MetricsError(UserError):
    """The page of figures cannot be served."""


class Sample(NamedTuple):
    """One figure; a name that ends in _total only grows."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Gauges:
    """The latest figures, which any thread may set."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; the clock is in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._sources: list[Callable[[], Iterable[Sample]]] = []
        self._limits: dict[str, tuple[float, float]] = {}

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a figure."""
        with self._lock:
            self._values[name, tuple(sorted(labels.items()))] = +value  # a flag becomes 0 or 1

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a figure, which starts at 0."""
        key = name, tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + value

    def attach(self, source: Callable[[], Iterable[Sample]]) -> None:
        """Ask a function for figures whenever they are wanted."""
        with self._lock:
            self._sources.append(source)

    def expect(self, camera: str, limit_seconds: float) -> None:
        """Count a camera as late if it makes no progress for this long, starting now."""
        with self._lock:
            self._limits[camera] = limit_seconds, self._clock()

    def beat(self, camera: str) -> None:
        """Note that a camera made progress; one that is not expected is not watched."""
        with self._lock:
            if camera in self._limits:
                self._limits[camera] = self._limits[camera][0], self._clock()

    def late(self) -> dict[str, str]:
        """Camera -> what is wrong, for each that makes no progress."""
        with self._lock:
            now, cameras = self._clock(), dict(self._limits)
        return {
            camera: f"no progress for {now - beaten:.0f} s; {limit:.0f} s are allowed"
            for camera, (limit, beaten) in cameras.items()
            if now - beaten > limit
        }

    def samples(self) -> list[Sample]:
        """All figures, in order of name and labels."""
        with self._lock:
            sources, now = list(self._sources), self._clock()
            samples = [Sample(*key, value) for key, value in self._values.items()]
            samples += [
                Sample("vigil_progress_age_seconds", (("camera", camera),), now - beaten)
                for camera, (_, beaten) in self._limits.items()
            ]
        return sorted(samples + [sample for source in sources for sample in source()])


def prometheus_text(samples: Iterable[Sample]) -> str:
    """Figures in Prometheus' text format 0.0.4."""
    lines: list[str] = []
    names: set[str] = set()
    for name, labels, value in samples:
        if name not in names:
            names.add(name)
            lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        lines.append(f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}")
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    text = text.encode(errors="surrogateescape").decode(errors="replace")
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def read_place(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, [IPV6]:PORT, or a port alone, which is on this machine only.

    Raises:
        MetricsError: it is something else.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]:|([\w.-]*):)?(\d{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise MetricsError(
            f"{text!r} is no place to listen: write HOST:PORT, such as 127.0.0.1:9108"
        )
    return found[1] or found[2] or "127.0.0.1", int(found[3])


class MetricsServer:
    """Serves /metrics and /healthz from threads of its own."""

    def __init__(self, place: str, gauges: Gauges) -> None:
        """Start to serve at HOST:PORT; port 0 takes any free one.

        Raises:
            MetricsError: the place is not understood, taken, or not of this machine.
        """
        host, port = read_place(place)
        try:
            self._server = _Server(host, port, gauges)
        except OSError as error:
            raise MetricsError(
                f"cannot listen at {place} ({error.strerror}): choose another host or port"
            ) from error
        self.port: int = self._server.server_address[1]
        if not _is_loopback(host):
            log.warning(
                "%s is open to the network: whoever reaches it sees the names of cameras and "
                "their figures, since there is no password",
                place,
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, gauges: Gauges) -> None:
        if ":" in host:
            self.address_family = AF_INET6
        self.gauges = gauges
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without asking the name servers for this machine's name."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Leave no trace of clients that hang up."""
        log.debug("a request for figures failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "vigil", ""
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            text = prometheus_text(self.server.gauges.samples())
            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", text)
        elif path == "/healthz":
            late = self.server.gauges.late()
            content = {"status": "late" if late else "ok", "cameras": late}
            self._answer(503 if late else 200, "application/json", json.dumps(content) + "\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", "there are /metrics and /healthz\n")

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: figures are asked for all the time."""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
