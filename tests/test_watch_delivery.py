"""Delivery: order, retries, dead letters, sinks that hang, full disks; with a clock that is set."""

import json
import logging
import sqlite3
import threading
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from watch_builders import Clock, make_alarm, make_video

from vigil.pipeline.watching import delivery
from vigil.pipeline.watching.delivery import (
    DEAD_LETTERS,
    LONGEST_PAUSE_SECONDS,
    MIN_ATTEMPTS,
    Courier,
    DeadLetters,
    pause_seconds,
    start_delivery,
)
from vigil.pipeline.watching.ledger import EVENT_LOG, LEDGER_NAME, Ledger
from vigil.pipeline.watching.limits import CameraLimits, read_quiet_hours
from vigil.pipeline.watching.outbox import MAX_RETRY_SECONDS, Outbox
from vigil.pipeline.watching.sinks.sink import NotDelivered

HOUR = 3600


class FakeSink:
    """Answers as it is told, and remembers what it took."""

    def __init__(self, answers=(), name="hook"):
        self.name = name
        self.answers = iter(answers)
        self.took = []
        self.tried = []
        self.is_closed = False
        self.arrived = threading.Semaphore(0)

    def deliver(self, letter):
        self.tried.append(letter)
        answer = next(self.answers, None)
        if callable(answer):
            answer()
        elif answer is not None:
            raise answer
        self.took.append((letter.camera, letter.event, letter.sequence))
        self.arrived.release()

    def close(self):
        self.is_closed = True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    one = Ledger(tmp_path / LEDGER_NAME, ["hook"], clock=clock)
    yield one
    one.close()


def courier_of(ledger, sink, hours=24):
    dead_letters = DeadLetters(ledger.path.parent / DEAD_LETTERS)
    return Courier(ledger, sink, dead_letters, hours * HOUR)


def dead_letters(folder):
    return [json.loads(line) for line in (folder / DEAD_LETTERS).read_text().splitlines()]


class TestCourier:
    @settings(max_examples=25)  # each waits for the disk hundreds of times
    @given(
        cameras=st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
        answers=st.lists(st.sampled_from([None, "retry", "final"]), max_size=30),
    )
    def test_order_within_a_camera_whatever_fails(self, tmp_path_factory, cameras, answers):
        clock, folder = Clock(), tmp_path_factory.mktemp("results")
        ledger = Ledger(folder / LEDGER_NAME, ["hook"], clock=clock)
        alarms = [make_alarm(camera, number) for number, camera in enumerate(cameras)]
        ledger.record_alarms(alarms)
        failures = [one and NotDelivered(one, is_final=one == "final") for one in answers]
        sink = FakeSink(failures)
        courier = courier_of(ledger, sink)
        while "hook" in ledger.outbox.waiting():
            courier.deliver_due()
            clock.seconds += LONGEST_PAUSE_SECONDS
        ledger.close()
        given_up = dead_letters(folder) if courier.counts["dead"] else []
        lost = {line["event"] for line in given_up}
        for camera in "abc":
            of_camera = [one.event for one in alarms if one.camera == camera]
            took = [event for name, event, _ in sink.took if name == camera]
            assert took == [event for event in of_camera if event not in lost]
            tried = [one.event for one in sink.tried if one.camera == camera]
            assert list(dict.fromkeys(tried)) == of_camera
            assert tried == sorted(tried, key=of_camera.index)
        assert courier.counts["delivered"] + courier.counts["dead"] == len(alarms)

    def test_pauses_grow_and_the_first_failure_and_the_recovery_are_said(
        self, ledger, clock, caplog
    ):
        caplog.set_level(logging.INFO)
        ledger.record_alarms([make_alarm(number=1), make_alarm(number=2)])
        sink = FakeSink([NotDelivered("it answers\n500")] * 12)
        courier = courier_of(ledger, sink)
        times = []
        while "hook" in ledger.outbox.waiting():
            before = len(sink.tried)
            courier.deliver_due()
            times += [clock()] * (len(sink.tried) - before)
            clock.seconds += 0.25
        pauses = [later - earlier for earlier, later in pairwise(times)]
        for number, pause in enumerate(pauses[:12]):
            expected = min(2**number, LONGEST_PAUSE_SECONDS)
            assert 0.75 * expected <= pause <= min(1.25 * expected, LONGEST_PAUSE_SECONDS) + 0.25
        assert caplog.text.count("is not delivered: it answers 500") == 1
        assert "hook: works again after 12 failures" in caplog.text
        assert courier.counts == {"attempts_failed": 12, "delivered": 2}

    def test_a_receiver_may_ask_for_more_time_but_not_for_ever(self):
        assert pause_seconds(0, 120.0) == 120
        assert pause_seconds(20, 1.0) >= 225
        assert pause_seconds(0, 1e9) == MAX_RETRY_SECONDS
        assert pause_seconds(10**6) <= LONGEST_PAUSE_SECONDS

    def test_a_receiver_that_asks_for_time_is_left_alone_by_all_cameras(self, ledger, clock):
        ledger.record_alarms([make_alarm("a"), make_alarm("b")])
        sink = FakeSink([NotDelivered("it answers 429", retry_seconds=120.0)])
        courier = courier_of(ledger, sink)
        assert (courier.deliver_due(), courier.deliver_due()) == (1, 0)
        clock.seconds += 119
        assert courier.deliver_due() == 0
        clock.seconds += 1
        assert courier.deliver_due() == 2
        assert [camera for camera, *_ in sink.took] == ["a", "b"]

    def test_a_refusal_is_a_dead_letter_at_once(self, ledger, tmp_path, caplog):
        ledger.record_alarms([make_alarm(number=1), make_alarm(number=2)])
        sink = FakeSink([NotDelivered("it answers 410", is_final=True)])
        courier = courier_of(ledger, sink)
        assert courier.deliver_due() == courier.deliver_due() == 1
        (line,) = dead_letters(tmp_path)
        assert (line["sink"], line["reason"], line["attempts"]) == ("hook", "it answers 410", 1)
        assert line["event"] == line["alarm"]["event"] == make_alarm(number=1).event
        assert "is given up, see dead_letters.jsonl" in caplog.text
        assert sink.took == [("front", make_alarm(number=2).event, 1)]
        assert ledger._file.rows("SELECT state, reason FROM outbox WHERE sink = 'hook'") == [
            ("dead", "it answers 410"),
            ("delivered", ""),
        ]

    def test_after_a_day_it_is_given_up(self, ledger, clock):
        ledger.record_alarms([make_alarm()])
        sink = FakeSink([NotDelivered("no")] * 1000)
        courier = courier_of(ledger, sink)
        begun = clock()
        while "hook" in ledger.outbox.waiting():
            courier.deliver_due()
            clock.seconds += 30
        assert 24 * HOUR < clock() - begun < 24 * HOUR + LONGEST_PAUSE_SECONDS + 60
        assert courier.counts["dead"] == 1

    def test_a_clock_set_late_does_not_make_an_alarm_old(self, ledger, clock):
        ledger.record_alarms([make_alarm()])
        clock.seconds += 1e9
        sink = FakeSink([NotDelivered("no")] * (MIN_ATTEMPTS - 1))
        courier = courier_of(ledger, sink)
        for _ in range(MIN_ATTEMPTS):
            courier.deliver_due()
            clock.seconds += 60
        assert len(sink.took) == 1

    def test_a_dead_letter_that_cannot_be_written_is_kept(self, ledger, clock, monkeypatch):
        ledger.record_alarms([make_alarm()])
        courier = courier_of(ledger, FakeSink([NotDelivered("no", is_final=True)] * 2))

        def is_full(self, line):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("vigil.pipeline.watching.delivery.JsonLines.append", is_full)
        courier.deliver_due()
        assert ledger.outbox.waiting()["hook"][0] == 1
        monkeypatch.undo()
        clock.seconds += 10
        courier.deliver_due()
        assert courier.counts["dead"] == 1
        assert len(dead_letters(ledger.path.parent)) == 1

    def test_a_fault_of_a_sink_is_a_failure_with_a_traceback(self, ledger, clock, caplog):
        ledger.record_alarms([make_alarm()])
        courier = courier_of(ledger, FakeSink([ZeroDivisionError()]))
        courier.deliver_due()
        assert "ZeroDivisionError" in caplog.text
        clock.seconds += 10
        courier.deliver_due()
        assert courier.counts["delivered"] == 1

    def test_nothing_else_is_delivered_before_the_ledger_knows(self, ledger, monkeypatch, caplog):
        monkeypatch.setattr(delivery, "POLL_SECONDS", 0.001)
        ledger.record_alarms([make_alarm("a"), make_alarm("b")])
        settle, refusals = Outbox._settle, iter([1, 1, 1])

        def sometimes(self, *arguments):
            if next(refusals, None):
                raise sqlite3.OperationalError("database or disk is full")
            settle(self, *arguments)

        monkeypatch.setattr(Outbox, "_settle", sometimes)
        sink = FakeSink()
        courier_of(ledger, sink).deliver_due()
        assert [camera for camera, *_ in sink.took] == ["a", "b"]
        assert caplog.text.count("the ledger cannot be written: database or disk is full") == 1


class TestDelivery:
    def test_a_sink_that_hangs_holds_up_nobody(self, tmp_path):
        release = threading.Event()
        slow, quick = FakeSink([release.wait], "slow"), FakeSink(name="quick")
        ledger = Ledger(tmp_path / LEDGER_NAME, ["slow", "quick"])
        running = start_delivery(ledger, [slow, quick])
        for number in range(20):
            ledger.record_video(make_video(number=number), [make_alarm(number=number)])
        for _ in range(20):
            assert quick.arrived.acquire(timeout=60)
        assert slow.took == []
        waiting = {sample[1]: sample[2] for sample in running.metrics() if "_waiting" in sample[0]}
        assert (("sink", "slow"),) in waiting
        release.set()
        running.close(grace_seconds=60)
        assert (
            slow.took == quick.took == [("front", make_alarm(number=k).event, 1) for k in range(20)]
        )
        assert slow.is_closed
        assert quick.is_closed
        ledger.close()
        lines = [json.loads(line) for line in (tmp_path / EVENT_LOG).read_text().splitlines()]
        assert Counter(line["event"] for line in lines) == Counter(one[1] for one in quick.took)

    def test_closing_leaves_a_sink_that_never_returns(self, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(delivery, "POLL_SECONDS", 0.01)
        release = threading.Event()
        sink = FakeSink([release.wait])
        ledger = Ledger(tmp_path / LEDGER_NAME, ["hook"])
        running = start_delivery(ledger, [sink])
        ledger.record_alarms([make_alarm()])
        while not sink.tried:
            pass
        running.close(grace_seconds=0)
        assert "hook is left in the middle of a delivery" in caplog.text
        ledger.close()
        release.set()  # too late: the ledger does not know
        running._couriers[1].join(60)
        assert not running._couriers[1].is_alive()
        ledger = Ledger(tmp_path / LEDGER_NAME, ["hook"])
        assert ledger.outbox.waiting()["hook"][0] == 1
        ledger.close()

    def test_suppressed_alarms_are_in_the_event_log_only(self, tmp_path):
        limits = CameraLimits(read_quiet_hours("00:00-12:00,12:00-24:00"))
        ledger = Ledger(tmp_path / LEDGER_NAME, ["hook"], limits=lambda camera: limits)
        sink = FakeSink()
        running = start_delivery(ledger, [sink])
        ledger.record_alarms([make_alarm()])
        running.close(grace_seconds=60)
        ledger.close()
        assert sink.tried == []
        (line,) = (tmp_path / EVENT_LOG).read_text().splitlines()
        assert json.loads(line)["suppressed"] == "quiet hours"

    def test_a_full_disk_holds_alarms_up_and_loses_none(self, tmp_path):
        sink = FakeSink()
        ledger = Ledger(tmp_path / LEDGER_NAME, ["hook"])
        ledger._file.rows("PRAGMA max_page_count = 1")
        running = start_delivery(ledger, [sink])
        for number in range(30):
            ledger.record_video(make_video(number=number), [make_alarm(number=number)])
        assert ledger.num_unwritten
        assert running.metrics()[0].value == ledger.num_unwritten
        ledger._file.rows("PRAGMA max_page_count = 1000000")
        for _ in range(30):
            assert sink.arrived.acquire(timeout=60)
        running.close(grace_seconds=60)
        assert [event for _, event, _ in sink.took] == [
            make_alarm(number=k).event for k in range(30)
        ]
        ledger.close()

    def test_the_figures(self, tmp_path, clock):
        ledger = Ledger(tmp_path / LEDGER_NAME, ["hook"])
        running = start_delivery(ledger, [FakeSink([NotDelivered("no", is_final=True)])])
        ledger.record_alarms([make_alarm(number=1), make_alarm(number=2)])
        running.close(grace_seconds=60)
        figures = {
            (sample.name, *dict(sample.labels).values()): sample.value
            for sample in running.metrics()
        }
        ledger.close()
        assert figures == {
            ("vigil_records_unwritten",): 0,
            **{
                (f"vigil_alarms_{name}", sink): value
                for sink, values in (("hook", (0, 0.0, 1, 1, 1)), (EVENT_LOG, (0, 0.0, 2, 0, 0)))
                for name, value in zip(
                    (
                        "waiting",
                        "oldest_waiting_seconds",
                        "delivered_total",
                        "attempts_failed_total",
                        "dead_total",
                    ),
                    values,
                    strict=True,
                )
            },
        }
