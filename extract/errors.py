"""The base class of all errors that a user can fix, and records of videos that failed."""

from dataclasses import dataclass, field


class UserError(Exception):
    """Something outside the program is wrong; the one-line message names it and the remedy.

    The command line prints the message without a traceback. Every other exception is a bug.
    """


class VideoError(UserError):
    """A video cannot be decoded, or not to its end.

    Attributes:
        reason: what is wrong, in one line.
        decoder: name of the decoder that failed; empty if none was chosen yet.
        frame_index: number of frames decoded before the error.
        may_pass: whether the reason lies outside the file, so that it may be read later.
    """

    def __init__(
        self, reason: str, decoder: str = "", frame_index: int = 0, may_pass: bool = False
    ) -> None:
        """Store the reason as a single line."""
        self.reason = " ".join(reason.split())
        self.decoder = decoder
        self.frame_index = frame_index
        self.may_pass = may_pass
        super().__init__(self.reason)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 video, 2 videos."""
    return f"{number} {noun}" + "s" * (number != 1)


@dataclass(frozen=True)
class FailedVideo:
    """A video without features or results, and the reason."""

    video: str
    reason: str
    decoder: str = ""
    frame: int | None = None
    """Number of frames decoded before it failed, if known."""
    may_pass: bool = field(default=False, compare=False)
    """Whether the reason lies outside the video, so that another attempt may succeed; it is not in
    the list that commands leave."""
