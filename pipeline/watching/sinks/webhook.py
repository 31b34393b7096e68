"""A webhook: each alarm is the body of an HTTP POST, signed if there is a secret."""

import hashlib
import hmac
import socket
import ssl
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from vigil.pipeline.watching.outbox import MAX_RETRY_SECONDS, Letter
from vigil.pipeline.watching.sinks.sink import NotDelivered

STEP_SECONDS = 10.0
"""For the connection, and then for each piece of the answer."""
LIMIT_SECONDS = 30.0
"""For all of it."""
REFUSALS = frozenset({400, 405, 406, 410, 411, 413, 414, 415, 422, 431})
"""Statuses after which the same request cannot succeed. 401, 403 and 404 are not among them:
proxies give them while a receiver restarts, and someone can put a password right."""


class Webhook:
    """Posts alarms to an address; a 2xx status means delivered. It follows no redirect."""

    def __init__(
        self,
        name: str,
        place: tuple[str, int, str],
        is_secure: bool,
        secret: bytes | None = None,
        authorization: str | None = None,
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        """Describe it.

        Args:
            name: what the sink is called.
            place: host, port and path with query, in ASCII.
            is_secure: whether to use TLS, with the certificates that the system trusts.
            secret: with which to sign; None: not at all.
            authorization: the header of that name.
            limit_seconds: for the whole exchange.
        """
        self.name = name
        self._host, self._port, self._path = place
        self._tls = ssl.create_default_context() if is_secure else None
        self._secret = secret
        self._authorization = authorization
        self._limit_seconds = limit_seconds

    def deliver(self, letter: Letter) -> None:
        """Post the alarm; raises like `Sink.deliver`."""
        body = letter.message.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "vigil",
            "Vigil-Event": letter.event,
            "Vigil-Sequence": str(letter.sequence),
        }
        if self._secret:
            headers["Vigil-Signature"] = signature(self._secret, body, int(time.time()))
        if self._authorization:
            headers["Authorization"] = self._authorization
        status, retry_after = self._post(body, headers)
        if 300 <= status < 400:
            raise NotDelivered(f"it redirects ({status}), which is not followed")
        if not 200 <= status < 300:
            wait = _seconds_of(retry_after, datetime.now(UTC))
            raise NotDelivered(f"it answers {status}", status in REFUSALS, wait)

    def close(self) -> None:
        """Do nothing: each alarm has a connection of its own."""

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, str | None]:
        """Return the status and Retry-After of the answer, whose body is not read."""
        step = min(STEP_SECONDS, self._limit_seconds)
        connection = (
            HTTPConnection(self._host, self._port, timeout=step)
            if self._tls is None
            else HTTPSConnection(self._host, self._port, timeout=step, context=self._tls)
        )
        # A receiver that answers a byte at a time would never exceed the limit of a step.
        is_late = threading.Event()
        watchdog = threading.Timer(self._limit_seconds, _cut, (connection, is_late))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("POST", self._path, body, headers)
            with connection.getresponse() as answer:
                if is_late.is_set():  # half an answer looks like a whole one
                    raise TimeoutError
                return answer.status, answer.getheader("Retry-After")
        except TimeoutError as error:
            raise NotDelivered("it does not answer in time") from error
        except (OSError, HTTPException) as error:
            reason = "it does not answer in time" if is_late.is_set() else _described(error)
            raise NotDelivered(reason) from error
        finally:
            watchdog.cancel()
            connection.close()


def signature(secret: bytes, body: bytes, seconds: int) -> str:
    """The header Vigil-Signature: when it was signed, and the HMAC-SHA256 of that, a dot, the body.

    The form is that of Stripe's webhooks. The time lets a receiver refuse what someone recorded
    and sends again later.
    """
    digest = hmac.new(secret, b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def _cut(connection: HTTPConnection, is_late: threading.Event) -> None:
    """Make whoever reads from or writes to a connection fail."""
    is_late.set()
    if connection.sock is not None:
        with suppress(OSError):
            # That of the subclass for TLS is not made for another thread.
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _described(error: Exception) -> str:
    """What happened, without anything that the receiver sent or the address has."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"no HTTP answer: {type(error).__name__}"


def _seconds_of(retry_after: str | None, now: datetime) -> float | None:
    """The value of Retry-After, seconds or a date, in 0..`MAX_RETRY_SECONDS`; None without one."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), MAX_RETRY_SECONDS))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), MAX_RETRY_SECONDS)
