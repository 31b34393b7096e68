"""Texts that stand for a value of an option, and the bounds of numbers.

Commands read their values here, and not in modules of their own, so that `option_checks` can refuse
a wrong one before torch is imported.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal

from vigil.extract.errors import UserError

Span = Literal["auto", "whole"] | float
"""How a video is cut: spans of this many seconds, of the median length of the training videos
(auto; or of the spans it was trained on), or not at all (whole)."""


_IS_LENGTH = (lambda value: 0 <= value < math.inf, "is not a length: use 0 or more")
_IS_COUNT = (lambda value: value >= 0, "is negative: give a number from 0 up")
_IS_ABOVE_0 = (lambda value: 0 < value < math.inf, "is not above 0: give more, or leave it out")
BOUNDS: dict[str, tuple[Callable[[float], bool], str]] = {
    "keep_share": (lambda value: 0 <= value <= 1, "is not a share: use 0 to 1, such as 0.5"),
    "join_seconds": _IS_LENGTH,
    "min_seconds": _IS_LENGTH,
    "settle_seconds": _IS_LENGTH,
    "keep_days": _IS_ABOVE_0,
    "keep_gib": _IS_ABOVE_0,
    "fetch_gib": _IS_ABOVE_0,
    "min_free_gib": (lambda value: 0 <= value < math.inf, "is not a size: use 0 or more"),
    "report_videos": (lambda value: value >= 1, "is not a number of videos: use 1 or more"),
    "give_up_hours": _IS_ABOVE_0,
    "clip_memory_mib": (
        lambda value: 0 <= value <= 65536,
        "is not in 0..65536: use 64, or 0 for no clips of streams",
    ),
    "source_seconds": (lambda value: 2 <= value <= 3600, "is not in 2..3600: use 20"),
    "seed": _IS_COUNT,
    "bootstrap": _IS_COUNT,
    "port": (lambda value: 0 <= value <= 65535, "is not a port: use 0 to 65535, such as 8000"),
    "test_share": (lambda value: 0 < value < 1, "is not a share: use one above 0 and below 1"),
}
"""Option -> whether a value is allowed, and what is said of one that is not."""


def check_numbers(chosen: Any) -> None:
    """Refuse numbers of a command's options that are out of their bounds.

    Raises:
        UserError: names the option, its value and what is allowed.
    """
    for name, (allows, what) in BOUNDS.items():
        value = getattr(chosen, name, None)
        if value is not None and not allows(value):
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UserError(f"--{name.replace('_', '-')} {shown} {what}")


def read_threshold(text: str) -> float | None:
    """Parse the value of ``--threshold``; None for ``auto``.

    Raises:
        UserError: it is not a number from 0 to 1.
    """
    if text == "auto":
        return None
    try:
        threshold = float(text)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold {text!r} is not a number from 0 to 1: give one, or use auto")
    return threshold


def read_span(text: str) -> Span:
    """Parse the value of ``--span``.

    Raises:
        UserError: it is neither auto, whole nor a number of seconds above 0.
    """
    if text == "auto":
        return "auto"
    if text == "whole":
        return "whole"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(
            f"span {text!r} is not a length: use auto, whole, or a number of seconds above 0"
        )
    return seconds


def read_moment(text: str | None) -> float | None:
    """Parse a time in a video, in seconds or as h:mm:ss or m:ss, to seconds; None for None.

    Raises:
        UserError: it is not a time.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d*)?)", text.strip())
    if match is None:
        raise UserError(f"--at {text!r} is not a time: use seconds, such as 75.5, or 0:01:15")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def read_max_damage(text: str | None) -> float:
    """Parse the allowed share of damaged frames, 0..1, from --max-damage; None allows all.

    Raises:
        UserError: the text is not a share.
    """
    if text is None:
        return 1.0
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if match is None or share > 1 or (share == 1 and not match[2]):
        raise UserError(f"--max-damage {text!r} is not a share of frames: use 10% or 0.1")
    return share
