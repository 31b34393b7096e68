"""The engines on the seats of a cluster, what each has been asked, and their work so far."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vigil.extract.engine.activity import Activity
from vigil.pipeline.cluster.seats import Nodes, Seat

WAIT_SECONDS = 1.0
STOP_SECONDS = 20.0


@dataclass(eq=False)
class SeatedEngine:
    """An engine on a seat, as seen from here."""

    seat: Seat
    call: Any = None
    """What it has been asked and has not answered; None: nothing."""
    step: str = ""
    """Name of the method that it was asked to run last."""
    asked_at: float = 0.0
    is_working: bool = False
    """Whether it takes videos."""
    activity: Activity = field(default_factory=Activity)
    num_clips_done: int = 0
    """Of the videos that it has extracted."""


class Fleet:
    """The engines on seats; there is at most one on each."""

    def __init__(self, nodes: Nodes) -> None:
        """No engine runs yet."""
        self._nodes = nodes
        self._engines: dict[str, SeatedEngine] = {}
        self._past = Activity(num_devices=0)
        """The work of engines that are gone."""

    def __iter__(self) -> Iterator[SeatedEngine]:
        """The engines; some may be removed meanwhile."""
        return iter([*self._engines.values()])

    @property
    def working(self) -> list[SeatedEngine]:
        """The engines that take videos."""
        return [engine for engine in self if engine.is_working]

    def start_missing(self, taken: Collection[str]) -> list[SeatedEngine]:
        """Start an engine on every seat that has none and is not among those taken."""
        started = []
        for seat in self._nodes.seats():
            if seat.name not in taken and seat.name not in self._engines:
                self._nodes.start(seat)
                self._engines[seat.name] = engine = SeatedEngine(seat)
                started.append(engine)
        return started

    def ask(self, engine: SeatedEngine, method: str, *arguments: Any) -> None:
        """Call a method of an engine, which must have answered the last call."""
        engine.step, engine.asked_at = method, time.monotonic()
        engine.call = self._nodes.call(engine.seat, method, *arguments)

    def answered(self) -> list[SeatedEngine]:
        """The engines with an answer, once there are any, or none after a while."""
        asked = {engine.call: engine for engine in self if engine.call is not None}
        return [asked[call] for call in self._nodes.wait(list(asked), WAIT_SECONDS)]

    def is_silent(self, engine: SeatedEngine, seconds: float) -> bool:
        """Whether an engine was asked so long ago, and has not answered."""
        if engine.call is None or time.monotonic() - engine.asked_at < seconds:
            return False
        return not self._nodes.wait([engine.call], 0)

    def answer_of(self, engine: SeatedEngine) -> Any:
        """What an engine has answered.

        Raises:
            SeatLost: it will never answer.
        """
        call, engine.call = engine.call, None
        return self._nodes.result(call, engine.seat)

    def remove(self, engine: SeatedEngine) -> None:
        """Forget an engine, whose process is killed if it is still there."""
        del self._engines[engine.seat.name]
        self._nodes.end(engine.seat)
        # Clips of videos that it had not finished are computed again.
        kept = {"num_clips_kept": engine.num_clips_done, "num_devices": 0, "num_workers": 0}
        self._past = _sum(self._past, replace(engine.activity, **kept))

    def stop(self) -> None:
        """Have the engines end as on Ctrl-C, and wait a while until they have."""
        calls = [self._nodes.call(engine.seat, "stop") for engine in self.working]
        until = time.monotonic() + STOP_SECONDS
        while calls and time.monotonic() < until:
            answered = self._nodes.wait(calls, WAIT_SECONDS)
            calls = [call for call in calls if call not in answered]

    @property
    def activity(self) -> Activity:
        """The work of all engines together."""
        total = _sum(self._past, *(engine.activity for engine in self.working))
        return replace(total, num_devices=max(1, total.num_devices))


def _sum(*parts: Activity) -> Activity:
    names = [counter.name for counter in fields(Activity)]
    return Activity(**{name: sum(getattr(part, name) for part in parts) for name in names})
