"""Connections that are given up when the other side does nothing, and how many there may be."""

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

PATIENCE_SECONDS = 60.0
MAX_CONNECTIONS = 2000
SPARE_FILES = 100
"""Open files that are not of connections."""


class WatchedProtocol(H11Protocol):
    """uvicorn's, but it gives up clients that are idle, send in drips, or read nothing.

    uvicorn does so only between requests. A browser whose video was paused for long asks for the
    rest when it plays on.
    """

    patience_seconds = PATIENCE_SECONDS
    _watch: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch."""
        super().connection_made(transport)
        self._watch_from(None, 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """End watching."""
        self._watch.cancel()
        super().connection_lost(exc)

    def _watch_from(self, cycle: RequestResponseCycle | None, num_unsent: int) -> None:
        wait = self.loop.call_later
        self._watch = wait(self.patience_seconds, self._look, cycle, num_unsent)

    def _look(self, cycle: RequestResponseCycle | None, num_unsent: int) -> None:
        """Give up if nothing has changed since the last look, and it is the client's turn."""
        left = self.transport.get_write_buffer_size()
        is_asking = cycle is None or cycle.response_complete or cycle.more_body
        if self.cycle is cycle and (is_asking or 0 < num_unsent == left):
            self.transport.abort()
        else:
            self._watch_from(self.cycle, left)


def connection_limit() -> int:
    """How many connections may be open, each with a file; raises the limit of open files for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + SPARE_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return min(MAX_CONNECTIONS, max((soft - SPARE_FILES) // 2, 16))
