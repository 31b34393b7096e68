"""What a sink is, and how it says that an alarm did not arrive."""

from typing import Protocol

from vigil.extract.errors import UserError
from vigil.pipeline.watching.outbox import Letter

MAX_REASON = 200


class SinkError(UserError):
    """A sink is not given in a way that could work."""


class NotDelivered(Exception):  # noqa: N818 - it is an outcome
    """An alarm did not arrive, or nobody knows whether it did.

    Attributes:
        reason: why, in one line without credentials.
        is_final: whether another attempt is pointless.
        retry_seconds: how long the receiver asks to wait, if it does.
    """

    def __init__(
        self, reason: str, is_final: bool = False, retry_seconds: float | None = None
    ) -> None:
        """Store the reason as a single line."""
        self.reason = " ".join(reason.split())[:MAX_REASON]
        self.is_final = is_final
        self.retry_seconds = retry_seconds
        super().__init__(self.reason)


class Sink(Protocol):
    """A receiver of alarms. One thread uses it, so it may take its time, but not for ever."""

    @property
    def name(self) -> str:
        """What it is called in logs, metrics and the ledger: without credentials, always same."""

    def deliver(self, letter: Letter) -> None:
        """Return when the receiver has the alarm.

        Raises:
            NotDelivered: it does not have it for certain.
        """

    def close(self) -> None:
        """Release what the sink holds, within seconds."""
