"""Feeds the engines of a cluster with videos, and replaces those that it loses.

Each engine is asked for news without a break, and gets videos with the question. What becomes of
the videos of a lost seat is the business of `VideoQueue`. If its engine may still be at work, they
stay with it until its lease is over: by then it has ended itself.
"""

import logging
import math
import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from vigil.extract.engine.activity import Activity
from vigil.extract.engine.dispatch import num_bytes
from vigil.extract.engine.writer import Extracted
from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.source import SourceVideo
from vigil.pipeline.cluster.admission import Admission
from vigil.pipeline.cluster.fleet import WAIT_SECONDS, Fleet, SeatedEngine
from vigil.pipeline.cluster.node import Job, News
from vigil.pipeline.cluster.seats import Nodes, Seat, SeatLost
from vigil.pipeline.cluster.video_queue import MAX_TRIES, VideoQueue

LEASE_SECONDS = 120.0
"""An engine that is not asked for so long ends itself."""
MARGIN_SECONDS = 15.0
"""For a question on its way: so much later, the engine has certainly ended."""
START_SECONDS = 120.0
"""How long a run waits for a first engine, and for another one when it has lost all."""
GRACE_SECONDS = 20.0
"""How long the first engine waits for the others; those that come later join it."""
SEEK_SECONDS = 5.0
"""How often a run looks for nodes that have come, and for seats whose engine is lost."""
MAX_LOSSES = 3
"""So many engines lost on a seat, without a video between, and others go on without it."""

log = logging.getLogger(__name__)


class Driver:
    """Runs the engines of a cluster until every video has an outcome."""

    def __init__(
        self, nodes: Nodes, admission: Admission, job: Job, num_clips: Callable[[Extracted], int]
    ) -> None:
        """Start nothing yet.

        Args:
            nodes: of the cluster.
            admission: decides which of them may compute.
            job: of every engine.
            num_clips: the clips of an extracted video.
        """
        self._admission, self._num_clips = admission, num_clips
        self._lease_seconds, self._job = job.lease_seconds, nodes.share(pickle.dumps(job))
        self._fleet, self._queue = Fleet(nodes), VideoQueue()
        self._sources: dict[str, SourceVideo] = {}
        self._out_of_reach: dict[str, tuple[float, Seat, str]] = {}
        """Lost seats, whose engines may be at work until a moment, and why they are lost."""
        self._losses: Counter[str] = Counter()
        self._set_aside: set[str] = set()
        self._error: Exception | None = None
        """With which the last engine ended that was not lost."""
        self._sought_at = self._worked_at = -math.inf

    def admit(self) -> str:
        """Start an engine on every seat, and check what they answer; returns their precision.

        Raises:
            UserError: a node does not fit, or none answers.
        """
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            self._seek()
            for engine in self._fleet.answered():
                try:
                    self._admission.check(engine.seat, self._fleet.answer_of(engine))
                    engine.step = "admitted"
                    until = min(until, time.monotonic() + GRACE_SECONDS)
                except SeatLost as lost:
                    self._lose(engine, lost)
            steps = {engine.step for engine in self._fleet}
            if steps == {"admitted"}:
                break
        if self._admission.precision is None:
            raise UserError(
                f"no node of the cluster has started an engine within {START_SECONDS:.0f} s: "
                "'ray status' shows its nodes and what is free; --device says what is used"
            )
        return self._admission.precision

    def close(self) -> None:
        """Have the engines end as on Ctrl-C."""
        self._fleet.stop()

    def extract(
        self,
        videos: Sequence[SourceVideo],
        watch: Callable[[Activity], None],
        more: Callable[[], Sequence[SourceVideo] | None],
    ) -> Generator[Extracted | FailedVideo]:
        """Have videos extracted; the contract is that of `Engine.extract`."""
        self._add(videos)
        for engine in self._fleet:
            if engine.step == "admitted":
                self._begin(engine)
        asked_at: float | None = -math.inf
        self._worked_at = time.monotonic()
        while self._queue.num_open or asked_at is not None:
            if asked_at is not None and time.monotonic() - asked_at >= WAIT_SECONDS:
                further = more()
                asked_at = None if further is None else time.monotonic()
                self._add(further or ())
            self._seek()
            self._require_engines()
            self._hand_out()
            for engine in self._fleet.answered():
                yield from self._react(engine)
            yield from self._end_leases()
            watch(self._fleet.activity)

    def _add(self, videos: Sequence[SourceVideo]) -> None:
        for video in videos:
            self._sources[video.name] = replace(video, path=video.path.absolute())
            self._queue.add(video.name, num_bytes(video))

    def _seek(self) -> None:
        """Start engines where there are none, now and then."""
        if time.monotonic() - self._sought_at >= SEEK_SECONDS:
            for engine in self._fleet.start_missing(self._out_of_reach.keys() | self._set_aside):
                self._fleet.ask(engine, "answer", self._admission.questions(engine.seat))
            self._sought_at = time.monotonic()

    def _begin(self, engine: SeatedEngine) -> None:
        self._queue.join(engine.seat.name, engine.seat.num_cores + 1)
        self._fleet.ask(engine, "begin", self._job)

    def _require_engines(self) -> None:
        """Give up when there is nothing to wait for."""
        if any(engine.is_working or engine.step == "begin" for engine in self._fleet):
            self._worked_at = time.monotonic()
            return
        idle_seconds = time.monotonic() - self._worked_at
        # A lost engine has been replaced by then; one that ended with an error is not.
        has_nobody = idle_seconds > SEEK_SECONDS and not any(self._fleet)
        is_over = idle_seconds > START_SECONDS
        if self._error is not None and (has_nobody or is_over):
            raise self._error
        if is_over:
            raise UserError(
                "the cluster has no nodes left that can compute: start some, then run the same "
                "command again to continue"
            )

    def _hand_out(self) -> None:
        """Ask every engine that is not being asked, and give it videos; they take turns."""
        idle = [engine for engine in self._fleet.working if engine.call is None]
        given: dict[str, list[SourceVideo]] = {engine.seat.name: [] for engine in idle}
        # The first engine must not get the largest videos just because it was there first.
        is_start = any(engine.step == "begin" for engine in self._fleet)
        turns = deque(() if is_start else given)
        while turns:
            seat = turns.popleft()
            if (video := self._queue.lease(seat)) is not None:
                given[seat].append(self._sources[video])
                turns.append(seat)
        for engine in idle:
            self._fleet.ask(engine, "exchange", given[engine.seat.name])

    def _react(self, engine: SeatedEngine) -> Iterator[Extracted | FailedVideo]:
        try:
            answer = self._fleet.answer_of(engine)
            if engine.step == "answer":
                self._admission.check(engine.seat, answer)
                self._begin(engine)
            elif engine.step == "begin":
                engine.step, engine.is_working = "", True
            else:
                yield from self._take(engine, answer)
        except SeatLost as lost:
            # One that was not asked for long has ended for that reason.
            is_blamed = time.monotonic() - engine.asked_at < self._lease_seconds
            yield from self._lose(engine, lost, is_blamed)
        except UserError as error:
            log.warning("%s", error)
            self._set_aside.add(engine.seat.name)
            self._fleet.remove(engine)

    def _take(self, engine: SeatedEngine, news: News) -> Iterator[Extracted | FailedVideo]:
        for said in news.said:
            logging.getLogger(said.logger).log(said.level, "%s", said.message)
        engine.activity = news.activity
        for outcome in news.outcomes:
            if self._queue.conclude(engine.seat.name, outcome.video):
                self._losses[engine.seat.name] = 0
                if isinstance(outcome, Extracted):
                    engine.num_clips_done += self._num_clips(outcome)
                yield outcome
        if news.error is not None:
            self._error, reason = news.error, str(news.error).strip().splitlines()[-1]
            log.error("node %s: %s", engine.seat.host, reason)
            self._set_aside.add(engine.seat.name)
            self._fleet.remove(engine)
            yield from self._take_back(engine.seat, reason)

    def _lose(
        self, engine: SeatedEngine, lost: SeatLost, is_blamed: bool = True
    ) -> list[FailedVideo]:
        """Go on without an engine; returns the videos that have failed with it."""
        seat, reason = engine.seat, str(lost)
        log.warning("node %s: %s", seat.host, reason)
        self._losses[seat.name] += 1
        self._fleet.remove(engine)
        has_videos = bool(self._queue.leases_of(seat.name))
        # The last seat goes on as long as videos may be to blame, whose tries are counted.
        if self._losses[seat.name] >= MAX_LOSSES and (self._fleet.working or not has_videos):
            log.warning("node %s: it is used no more", seat.host)
            self._set_aside.add(seat.name)
        if lost.is_certain or not has_videos:
            return self._take_back(seat, reason, is_blamed)
        until = engine.asked_at + self._lease_seconds + MARGIN_SECONDS
        self._out_of_reach[seat.name] = until, seat, reason
        return []

    def _end_leases(self) -> Iterator[FailedVideo]:
        """Take back the videos of engines that have certainly ended, and give up silent ones."""
        for name, (until, seat, reason) in [*self._out_of_reach.items()]:
            if time.monotonic() >= until:
                del self._out_of_reach[name]
                yield from self._take_back(seat, reason)
        for engine in self._fleet.working:
            if self._fleet.is_silent(engine, self._lease_seconds + MARGIN_SECONDS):
                yield from self._lose(engine, SeatLost("it does not answer", is_certain=True))

    def _take_back(self, seat: Seat, reason: str, is_blamed: bool = True) -> list[FailedVideo]:
        return [
            FailedVideo(
                video,
                f"{MAX_TRIES} processes of the cluster ended while they extracted it, the last one "
                f"on node {seat.host}: {reason}",
            )
            for video in self._queue.leave(seat.name, is_blamed)
        ]
