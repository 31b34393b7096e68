"""Events as one line of text, and times and names as files of other programs hold them."""

import unicodedata

from vigil.pipeline.scores.events import Event

_BREAKS = ("Cc", "Zl", "Zp")
"""Unicode's categories of control characters, line and paragraph separators."""


def event_line(event: Event) -> str:
    """The class, score and, if known, the time of day of an event, in one line of any length."""
    of_day = f", {event.start_clock}" if event.start_clock else ""
    return one_line(f"{event.class_name} {event.peak_score:.2f}{of_day}")


def one_line(text: str) -> str:
    """The text without what breaks a line, and without what UTF-8 cannot hold."""
    kept = (" " if unicodedata.category(one) in _BREAKS else one for one in valid_text(text))
    return " ".join("".join(kept).split())


def valid_text(text: str) -> str:
    r"""The text as valid Unicode: bytes of names that are not UTF-8 become ``\udcNN``."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def milliseconds(event: Event) -> tuple[int, int]:
    """Start and stop of an event from the first frame on; players need at least 1 ms between."""
    start = round(event.start_seconds * 1000)
    return start, max(round(event.stop_seconds * 1000), start + 1)


def frames_at(event: Event, fps: float) -> tuple[int, int]:
    """The half-open range of frames of an event in a program that counts them by time.

    Editors place frame n at n / fps. That is frame n of the file only if its rate is constant.
    """
    start = int(event.start_seconds * fps + 0.5)
    return start, max(int(event.stop_seconds * fps + 0.5), start + 1)
