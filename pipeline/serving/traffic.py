"""What holds for every request: headers of answers, the size of bodies, and figures of both."""

from collections import Counter
from collections.abc import Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vigil.pipeline.serving.access import refusal

MAX_BODY_BYTES = 1 << 20
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of every answer. no-cache: a browser asks each time whether what it has is still right."""


class Traffic:
    """Counts requests, limits their bodies, and adds `HEADERS` to answers."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self.app = app
        self.requests: Counter[tuple[str, int]] = Counter()
        """By method and status; of connections that broke before an answer, the status is 0."""
        self.num_open = 0
        self.num_bytes = 0
        """Of all answers' bodies."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = num_received = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            self.num_bytes += len(message.get("body", b""))
            await send(message)

        async def receiving() -> Message:
            nonlocal num_received
            message = await receive()
            num_received += len(message.get("body", b""))
            if num_received > MAX_BODY_BYTES:
                raise HTTPException(413, TOO_LARGE)
            return message

        is_large = _length(scope) > MAX_BODY_BYTES
        self.num_open += 1
        try:
            await (refusal(413, TOO_LARGE) if is_large else self.app)(scope, receiving, sending)
        finally:
            self.num_open -= 1
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.requests[method, status] += 1

    def figures(self) -> Iterator[str]:
        """Yield lines of figures for Prometheus."""
        yield "# HELP vigil_requests_total Requests that were answered."
        yield "# TYPE vigil_requests_total counter"
        for (method, status), number in sorted(self.requests.items()):
            yield f'vigil_requests_total{{method="{method}",status="{status}"}} {number}'
        yield "# HELP vigil_requests_open Requests that are being answered."
        yield "# TYPE vigil_requests_open gauge"
        yield f"vigil_requests_open {self.num_open}"
        yield "# HELP vigil_sent_bytes_total Bytes of the bodies of answers."
        yield "# TYPE vigil_sent_bytes_total counter"
        yield f"vigil_sent_bytes_total {self.num_bytes}"


METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE", "PATCH")
TOO_LARGE = f"A request may have {MAX_BODY_BYTES} bytes: send fewer verdicts at a time."


def _length(scope: Scope) -> int:
    """The length that a request declares; 0 if none."""
    declared = Headers(scope=scope).get("content-length", "")
    return int(declared) if declared.isdecimal() and len(declared) < 20 else 0
