"""Delivery: one thread per sink takes alarms from the ledger until the sink has them."""

import json
import logging
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from vigil.extract.errors import counted
from vigil.pipeline.watching.ledger import EVENT_LOG, Ledger
from vigil.pipeline.watching.metrics import Sample
from vigil.pipeline.watching.outbox import MAX_RETRY_SECONDS, Letter
from vigil.pipeline.watching.sinks.event_log import EventLog
from vigil.pipeline.watching.sinks.json_lines import JsonLines
from vigil.pipeline.watching.sinks.sink import NotDelivered, Sink

DEAD_LETTERS = "dead_letters.jsonl"
GIVE_UP_HOURS = 24.0
MIN_ATTEMPTS = 5
"""Before an alarm is given up, however old it is: a clock that was set late makes it look old."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 300.0
POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class Delivery:
    """The threads that deliver."""

    def __init__(
        self, ledger: Ledger, folder: Path, sinks: Sequence[Sink], give_up_hours: float
    ) -> None:
        """Start them; see `start_delivery`."""
        assert ledger.sinks == (EVENT_LOG, *(sink.name for sink in sinks))
        self._ledger = ledger
        dead_letters = DeadLetters(folder / DEAD_LETTERS)
        self._couriers = [
            # The event log has no receiver that could be gone for good.
            Courier(ledger, EventLog(folder / EVENT_LOG), dead_letters, float("inf")),
            *(Courier(ledger, sink, dead_letters, give_up_hours * 3600) for sink in sinks),
        ]
        for courier in self._couriers:
            courier.start()

    def metrics(self) -> list[Sample]:
        """What was delivered and what waits, by sink."""
        waiting = self._waiting()
        samples = [Sample("vigil_records_unwritten", (), self._ledger.num_unwritten)]
        for courier in self._couriers:
            labels = (("sink", courier.sink.name),)
            number, seconds = waiting.get(courier.sink.name, (0, 0.0))
            samples += [
                Sample("vigil_alarms_waiting", labels, number),
                Sample("vigil_alarms_oldest_waiting_seconds", labels, seconds),
                *(
                    Sample(f"vigil_alarms_{outcome}_total", labels, courier.counts[outcome])
                    for outcome in ("delivered", "attempts_failed", "dead")
                ),
            ]
        return samples

    def close(self, grace_seconds: float) -> None:
        """Deliver what is due within this time, and stop; what is left stays in the ledger."""
        deadline = time.monotonic() + grace_seconds
        for courier in self._couriers:
            courier.stop_at(deadline)
        self._ledger.wake()
        for courier in self._couriers:
            courier.join(max(0.0, deadline - time.monotonic()) + POLL_SECONDS)
            if courier.is_alive():
                log.warning("%s is left in the middle of a delivery", courier.sink.name)
            else:
                courier.sink.close()
        for sink, (number, _) in self._waiting().items():
            log.info("%s: %s left for the next run", sink, counted(number, "alarm"))

    def _waiting(self) -> dict[str, tuple[int, float]]:
        try:
            return self._ledger.outbox.waiting()
        except sqlite3.Error:  # unreadable for now; the couriers say so
            return {}


def start_delivery(
    ledger: Ledger, sinks: Sequence[Sink], give_up_hours: float = GIVE_UP_HOURS
) -> Delivery:
    """Deliver the alarms of a ledger to the event log beside it and to sinks, until closed.

    Args:
        ledger: opened with the names of the same sinks.
        sinks: those of `read_sinks`.
        give_up_hours: age of an alarm at which a failed attempt is the last one.
    """
    return Delivery(ledger, ledger.path.parent, sinks, give_up_hours)


class DeadLetters:
    """The file of alarms that were given up, by any sink."""

    def __init__(self, path: Path) -> None:
        """Append to a file."""
        self._lines = JsonLines(path, key=("sink", "event", "sequence"))
        self._lock = threading.Lock()

    def append(self, letter: Letter, reason: str) -> None:
        """Write an alarm and why it was given up; raises OSError if the disk is full."""
        line = {
            "sink": letter.sink,
            "event": letter.event,
            "sequence": letter.sequence,
            "reason": reason,
            "attempts": letter.num_attempts + 1,
            "given_up_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "alarm": json.loads(letter.message),
        }
        with self._lock:
            self._lines.append(line)


class Courier(threading.Thread):
    """Delivers to one sink."""

    def __init__(
        self, ledger: Ledger, sink: Sink, dead_letters: DeadLetters, give_up_seconds: float
    ) -> None:
        """Describe it; `start` lets it run, and `deliver_due` does one round."""
        super().__init__(name=f"delivery to {sink.name}", daemon=True)
        self.sink = sink
        self.counts: Counter[str] = Counter()
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._give_up_seconds = give_up_seconds
        self._deadline = float("inf")
        self._stopping = threading.Event()
        self._not_before = 0.0
        """Until then the receiver asks to be left alone, by the clock of the outbox."""
        self._num_failed = 0
        self._is_unreadable = False

    def stop_at(self, deadline: float) -> None:
        """End when nothing is due, or at this time of `time.monotonic`."""
        self._deadline = deadline
        self._stopping.set()

    def run(self) -> None:
        """Deliver until stopped."""
        while not self._is_over:
            num_changes = self._ledger.num_changes
            if self._work() or self._is_over:
                continue
            if self._stopping.is_set():
                break
            self._ledger.wait(num_changes, POLL_SECONDS)

    def deliver_due(self) -> int:
        """Make one attempt for each camera of which an alarm is due; return how many."""
        num_attempts = 0
        for letter in self._ledger.outbox.due(self.sink.name):
            if self._is_over or self._ledger.outbox.clock() < self._not_before:
                break
            self._attempt(letter)
            num_attempts += 1
        return num_attempts

    @property
    def _is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def _work(self) -> bool:
        """Do a round; return whether anything was due."""
        try:
            self._ledger.write_rest()
            is_busy = self.deliver_due() > 0
        except sqlite3.Error as error:
            if self._stopping.is_set():  # the ledger may have been closed
                self._deadline = 0.0
            elif not self._is_unreadable:
                log.warning(
                    "%s: the ledger cannot be used: %s; trying again", self.sink.name, error
                )
            self._is_unreadable = True
            return False
        self._is_unreadable = False
        return is_busy

    def _attempt(self, letter: Letter) -> None:
        outbox = self._ledger.outbox
        try:
            self.sink.deliver(letter)
        except NotDelivered as failure:
            self._failed(letter, failure)
        except Exception as error:  # a fault in one sink must not end its thread without a word
            log.exception("%s: a fault of the sink", self.sink.name)
            self._failed(letter, NotDelivered(f"a fault of the sink: {type(error).__name__}"))
        else:
            self._note(lambda: outbox.delivered(letter))
            self.counts["delivered"] += 1
            if self._num_failed:
                log.info("%s: works again after %d failures", self.sink.name, self._num_failed)
            self._num_failed = 0

    def _failed(self, letter: Letter, failure: NotDelivered) -> None:
        self.counts["attempts_failed"] += 1
        self._num_failed += 1
        say = log.warning if self._num_failed == 1 else log.debug
        what = f"event {letter.event}, message {letter.sequence}"
        say("%s: %s is not delivered: %s", self.sink.name, what, failure.reason)
        outbox = self._ledger.outbox
        if failure.retry_seconds is not None:
            self._not_before = outbox.clock() + min(failure.retry_seconds, MAX_RETRY_SECONDS)
        age = outbox.clock() - letter.recorded_at
        is_too_old = age >= self._give_up_seconds and letter.num_attempts + 1 >= MIN_ATTEMPTS
        if (failure.is_final or is_too_old) and self._bury(letter, failure.reason):
            log.warning("%s: %s is given up, see %s", self.sink.name, what, DEAD_LETTERS)
            self._note(lambda: outbox.dead(letter, failure.reason))
            self.counts["dead"] += 1
            return
        pause = pause_seconds(letter.num_attempts, failure.retry_seconds)
        self._note(lambda: outbox.failed(letter, failure.reason, pause))

    def _bury(self, letter: Letter, reason: str) -> bool:
        try:
            self._dead_letters.append(letter, reason)
        except OSError as error:
            log.warning("%s cannot be written: %s; trying again later", DEAD_LETTERS, error)
            return False
        return True

    def _note(self, change: Callable[[], None]) -> None:
        """Write to the ledger, and try until it works: before that, nothing else is delivered.

        The event log depends on it: it recognises only its last line.
        """
        for number in count():
            try:
                return change()
            except sqlite3.OperationalError as error:
                if not number:
                    log.warning("the ledger cannot be written: %s; trying again", error)
                if self._is_over:
                    raise
                time.sleep(POLL_SECONDS)


def pause_seconds(num_attempts: int, asked_seconds: float | None = None) -> float:
    """How long to wait after an attempt: 1 s, then twice as long each time, up to 5 minutes.

    A quarter more or less by chance, so that many senders do not come back at once. A receiver
    that asks for more time gets it, up to `MAX_RETRY_SECONDS`.

    Args:
        num_attempts: those before this one.
        asked_seconds: what the receiver asks for.
    """
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(num_attempts, 30), LONGEST_PAUSE_SECONDS)
    pause = min(pause * random.uniform(0.75, 1.25), LONGEST_PAUSE_SECONDS)
    return min(max(pause, asked_seconds or 0.0), MAX_RETRY_SECONDS)
