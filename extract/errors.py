"""The base of every error a user can put right, and the record of a video that failed."""

from dataclasses import dataclass


class UserError(Exception):
    """Something outside the program is wrong; the message says what, and the remedy, in one line.

    The command line prints the message without a traceback. Every other exception is a bug.
    """


@dataclass(frozen=True)
class FailedVideo:
    """A video without features or without a result, and why."""

    video: str
    reason: str
    decoder: str = ""
    frame: int | None = None
    """Number of frames decoded before it failed, where that is known."""
