"""Which seat of a cluster extracts which video: leases, and what becomes of those of a lost seat.

A seat leases several videos, so that it decodes the next ones while its device computes. When it is
lost, any of them may be to blame. Each is a suspect from then on and gets a seat for itself, one
where it has not been lost before if there is any. So an innocent one is soon done, and one that
kills every seat fails after `MAX_TRIES`.
"""

import heapq
import itertools
import math
from dataclasses import dataclass, field

MAX_TRIES = 3
"""Seats that may be lost with a video; with the last of them it has failed."""


@dataclass(eq=False)
class _Video:
    name: str
    num_bytes: int
    lost_with: list[str] = field(default_factory=list)
    """Seats that were lost while they had it."""


@dataclass(eq=False)
class _Seated:
    num_slots: int
    leased: dict[str, _Video] = field(default_factory=dict)


class VideoQueue:
    """Videos that wait, the largest first, and those that a seat has; a name is in one place."""

    def __init__(self) -> None:
        """There are no videos and no seats."""
        self._fresh: list[tuple[int, int, _Video]] = []
        """A heap by size; ties in order of arrival."""
        self._suspects: list[_Video] = []
        self._seats: dict[str, _Seated] = {}
        self._numbers = itertools.count()
        self.num_open = 0
        """Videos without an outcome."""

    def add(self, video: str, num_bytes: int) -> None:
        """Let a video wait for a seat."""
        waiting = -num_bytes, next(self._numbers), _Video(video, num_bytes)
        heapq.heappush(self._fresh, waiting)
        self.num_open += 1

    def join(self, seat: str, num_slots: int) -> None:
        """Let a seat lease up to so many videos at a time."""
        self._seats[seat] = _Seated(num_slots)

    def leases_of(self, seat: str) -> tuple[str, ...]:
        """The videos that a seat has."""
        return tuple(self._seats[seat].leased) if seat in self._seats else ()

    def lease(self, seat: str) -> str | None:
        """The next video for a seat, which has it from now on; None if it should have no more.

        Towards the end no seat has more than its share, so that none waits for another one.
        """
        mine = self._seats[seat]
        share = math.ceil(self.num_open / len(self._seats))
        if len(mine.leased) >= min(mine.num_slots, share):
            return None
        video = self._next(seat, is_empty=not mine.leased)
        if video is None or any(one.lost_with for one in mine.leased.values()):
            return None
        if video.lost_with:
            self._suspects.remove(video)
        else:
            heapq.heappop(self._fresh)
        mine.leased[video.name] = video
        return video.name

    def _next(self, seat: str, is_empty: bool) -> _Video | None:
        suspects = [one for one in self._suspects if is_empty and self._may_try(seat, one)]
        if suspects:
            return max(suspects, key=lambda one: one.num_bytes)
        return self._fresh[0][2] if self._fresh else None

    def _may_try(self, seat: str, suspect: _Video) -> bool:
        return seat not in suspect.lost_with or self._seats.keys() <= set(suspect.lost_with)

    def conclude(self, seat: str, video: str) -> bool:
        """Note the outcome of a video; False, and it does not count, if the seat has it not."""
        mine = self._seats.get(seat)
        if mine is None or mine.leased.pop(video, None) is None:
            return False
        self.num_open -= 1
        return True

    def leave(self, seat: str, is_blamed: bool = True) -> list[str]:
        """Take back the videos of a seat that is lost; returns those of them that have failed.

        Args:
            seat: of which nothing will come any more.
            is_blamed: whether its videos may have been the reason.
        """
        failed = []
        for video in self._seats.pop(seat, _Seated(0)).leased.values():
            video.lost_with += [seat] * is_blamed
            if len(video.lost_with) >= MAX_TRIES:
                failed.append(video.name)
            elif video.lost_with:
                self._suspects.append(video)
            else:
                waiting = -video.num_bytes, next(self._numbers), video
                heapq.heappush(self._fresh, waiting)
        self.num_open -= len(failed)
        return failed
