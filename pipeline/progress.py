"""Where the progress of long work is told: to a caller of `vigil`'s functions, or on the terminal.

Like the handlers of a log, that is decided once, by who starts the work; the functions in between
do not pass it on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Stage = Literal["downloading", "extracting", "scoring", "cutting", "training"]


@dataclass(frozen=True)
class Progress:
    """How far a call is."""

    stage: Stage
    """Stages may take turns: a video is scored as soon as it is extracted."""
    done: int
    """Bytes when downloading, videos when extracting and scoring, clips when cutting, epochs when
    training."""
    total: int | None
    """Of the same unit; None if it is not known."""
    share: float | None
    """Share of the stage's work, 0..1, by its frames when extracting; None if it is not known."""
    seconds_left: float | None = None
    """Until the end of the stage, when extracting; None if it is not known."""


Listener = Callable[[Progress], object]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Tell a function of the progress within the block, and show none of it on the terminal."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def has_listener() -> bool:
    """Whether progress is told to a function."""
    return _listener.get() is not None


def tell(
    stage: Stage,
    done: int,
    total: int | None,
    share: float | None = None,
    seconds_left: float | None = None,
) -> None:
    """Tell the function that listens, if there is one; by default all steps are equally long."""
    if (listener := _listener.get()) is not None:
        if share is None and total:
            share = done / total
        listener(Progress(stage, done, total, share, seconds_left))
