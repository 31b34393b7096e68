"""The ledger: nothing lost, nothing twice, from any thread, on a full disk, after a jump."""

import logging
import sqlite3
import threading
from dataclasses import replace
from datetime import datetime
from random import Random

import pytest
from watch_builders import Clock, make_alarm, make_video

from vigil.pipeline.watching.alarm import read_alarm
from vigil.pipeline.watching.ledger import (
    EVENT_LOG,
    FAILED,
    LEDGER_NAME,
    REPEATED,
    SCORED,
    Ledger,
)
from vigil.pipeline.watching.ledger_file import LedgerError
from vigil.pipeline.watching.limits import QUIET, TOO_MANY, CameraLimits, read_quiet_hours

ODD = "\udce4 \x1b[31m/'; DROP TABLE alarms"


def is_scored(ledger, camera, digest):
    """Name of the recording of this content that was scored; None if there is none."""
    found = ledger.recorded(camera, digest)
    return found.video if found and found.outcome == SCORED else None


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, clock):
    """Open the ledger, again and again; all are closed in the end."""
    ledgers = []

    def again(*sinks, **options):
        ledgers.append(Ledger(tmp_path / LEDGER_NAME, sinks, clock=clock, **options))
        return ledgers[-1]

    yield again
    for ledger in ledgers:
        ledger.close()


def sent(ledger, sink="hook"):
    """Deliver all there is, and return (event, sequence) in order."""
    found = []
    while letters := ledger.outbox.due(sink):
        for letter in letters:
            found.append((letter.event, letter.sequence))
            ledger.outbox.delivered(letter)
    return found


def messages(ledger, camera="front"):
    rows = ledger._file.rows("SELECT message FROM alarms ORDER BY number")
    return [one for one in (read_alarm(row[0]) for row in rows) if one.camera == camera]


def set_pages(ledger, number):
    """Let the file have so many pages; more is a full disk to SQLite."""
    ledger._file.rows(f"PRAGMA max_page_count = {number}")


class TestRecordings:
    def test_a_recording_is_done_once_also_after_a_restart(self, opened):
        alarms = [make_alarm(number=1), make_alarm(number=2)]
        for _ in range(2):
            ledger = opened("hook")
            ledger.record_video(make_video(), alarms)
            ledger.record_video(make_video(video="other name"), [make_alarm(number=9)])
            assert is_scored(ledger, "front", "digest 0") == "front/0.mp4"
            assert ledger.recorded("front", "digest 0") == make_video()
        assert sent(ledger) == [(alarm.event, 1) for alarm in alarms]
        assert is_scored(ledger, "back", "digest 0") is None
        assert is_scored(ledger, "front", "digest 1") is None

    def test_a_failed_one_may_be_scored_later(self, opened):
        ledger = opened("hook")
        failed = make_video(outcome=FAILED, reason="it is empty", video="a")
        ledger.record_video(failed, [])
        assert is_scored(ledger, "front", "digest 0") is None
        assert ledger.recorded("front", "digest 0") == failed
        ledger.record_video(make_video(video="b"), [make_alarm()])
        assert is_scored(ledger, "front", "digest 0") == "b"
        ledger.record_video(failed, [])
        assert is_scored(ledger, "front", "digest 0") == "b"
        assert len(sent(ledger)) == 1

    def test_a_repeated_one_changes_nothing(self, opened):
        ledger = opened("hook")
        ledger.record_video(make_video(), [make_alarm()])
        ledger.record_video(make_video(video="copy", outcome=REPEATED), [make_alarm(number=1)])
        assert ledger.recorded("front", "digest 0").video == "front/0.mp4"
        assert len(sent(ledger)) == 1

    def test_names_of_any_kind(self, opened):
        ledger = opened("hook")
        video = make_video(ODD, video=ODD, reason=ODD)
        ledger.record_video(video, [make_alarm(ODD, video=ODD)])
        assert ledger.recorded(ODD, "digest 0") == video
        assert messages(ledger, ODD) == [make_alarm(ODD, video=ODD, sequence=1)]
        assert ledger.outbox.due("hook")[0].camera == ODD


class TestStreams:
    def test_messages_are_numbered_and_repetitions_left_out(self, opened):
        opening = make_alarm(is_open=True)
        update = replace(opening, stop_seconds=4.0, peak_score=0.75)
        closing = replace(update, is_open=False, stop_seconds=5.0)
        ledger = opened("hook")
        ledger.record_alarms([opening, update])
        assert ledger.open_events("front") == [update.numbered(2)]
        ledger = opened("hook")
        # Whoever was killed does not know how far it got.
        again = [replace(one, detected_at="later", lag_seconds=9.0) for one in (opening, update)]
        ledger.record_alarms([*again, closing])
        assert ledger.open_events("front") == []
        assert messages(ledger)[-1] == closing.numbered(3)
        assert sent(ledger) == [(opening.event, number) for number in (1, 2, 3)]
        assert messages(ledger, "back") == []

    def test_open_are_the_events_whose_last_message_says_so(self, opened):
        ledger, random = opened(), Random(0)
        for number in range(60):
            camera, event = random.choice(["front", ODD]), random.randrange(3)
            is_open = random.random() < 0.5
            alarm = make_alarm(camera, event, is_open=is_open, stop_seconds=9.0 + number)
            ledger.record_alarms([alarm])
            ledger = opened() if number % 20 == 0 else ledger
            last = {one.event: one for name in ("front", ODD) for one in messages(ledger, name)}
            left = [one for one in last.values() if one.is_open]
            assert set(ledger.cameras_with_open_events()) == {one.camera for one in left}
            for name in ("front", ODD):
                found = {one.event: one for one in ledger.open_events(name)}
                assert found == {one.event: one for one in left if one.camera == name}

    def test_all_messages_of_a_call_or_none(self, opened, monkeypatch):
        ledger = opened("hook")
        add = Ledger._add

        def fails(self, alarm, now):
            if alarm.event == bad.event:
                raise sqlite3.OperationalError("disk I/O error")
            add(self, alarm, now)

        good, bad = make_alarm(number=1), make_alarm(number=2)
        monkeypatch.setattr(Ledger, "_add", fails)
        ledger.record_video(make_video(), [good, bad])
        monkeypatch.undo()
        assert messages(ledger) == []
        assert ledger.write_rest()
        assert sent(ledger) == [(good.event, 1), (bad.event, 1)]


class TestOutbox:
    def test_a_camera_waits_for_its_first_and_others_go_on(self, opened, clock):
        ledger = opened("hook", "mqtt")
        alarms = [make_alarm(camera, number) for number in (1, 2) for camera in "ab"]
        ledger.record_alarms(alarms)
        first, second = ledger.outbox.due("hook")
        assert (first.camera, second.camera) == ("a", "b")
        ledger.outbox.failed(first, "it answers 500", 5)
        ledger.outbox.delivered(second)
        assert [letter.event for letter in ledger.outbox.due("hook")] == [alarms[3].event]
        assert len(ledger.outbox.due("mqtt")) == 2  # has its own
        clock.seconds += 5
        assert [letter.event for letter in ledger.outbox.due("hook")] == [
            alarms[0].event,
            alarms[3].event,
        ]
        assert ledger.outbox.due("hook")[0].num_attempts == 1
        ledger.outbox.dead(first, "no")
        assert ledger.outbox.due("hook")[0].event == alarms[2].event

    @pytest.mark.parametrize("jump", [-1e9, -7200, 301, 1e9])
    def test_a_clock_that_jumps_does_not_hold_an_alarm_up(self, opened, clock, jump):
        ledger = opened("hook")
        ledger.record_alarms([make_alarm()])
        ledger.outbox.failed(ledger.outbox.due("hook")[0], "no", 300)
        assert not ledger.outbox.due("hook")
        clock.seconds += jump
        assert ledger.outbox.due("hook")

    def test_what_waits(self, opened, clock):
        ledger = opened("hook")
        ledger.record_alarms([make_alarm(number=1)])
        clock.seconds += 10
        ledger.record_alarms([make_alarm(number=2)])
        assert ledger.outbox.waiting() == {"hook": (2, 10.0), EVENT_LOG: (2, 10.0)}
        ledger.outbox.delivered(ledger.outbox.due("hook")[0])
        assert ledger.outbox.waiting()["hook"] == (1, 0.0)

    def test_a_sink_that_is_not_named_any_more_is_remembered(self, opened, caplog):
        opened("hook").record_alarms([make_alarm()])
        ledger = opened()
        assert "1 alarm for hook, which this run does not name, will be sent when" in caplog.text
        ledger.record_alarms([make_alarm(number=1)])
        assert sent(opened("hook")) == [(make_alarm().event, 1)]


class TestLimits:
    def test_quiet_hours_keep_new_events_from_the_sinks(self, opened):
        hour = [21]
        limits = CameraLimits(read_quiet_hours("22:00-06:00"))
        ledger = opened(
            "hook",
            limits=lambda camera: limits if camera == "front" else CameraLimits(),
            local_time=lambda: datetime(2026, 1, 1, hour[0]),
        )
        before = make_alarm(number=1, is_open=True)
        ledger.record_alarms([before])
        hour[0] = 23
        night = make_alarm(number=2, is_open=True)
        ledger.record_alarms([replace(before, is_open=False), night, make_alarm("back", 3)])
        hour[0] = 7
        ledger.record_alarms([replace(night, is_open=False)])
        # What was begun goes on; what goes on after the quiet hours is sent then.
        assert sent(ledger) == [
            (before.event, 1),
            (make_alarm("back", 3).event, 1),
            (before.event, 2),
            (night.event, 2),
        ]
        letters = {}
        while due := ledger.outbox.due(EVENT_LOG):
            for letter in due:
                letters[letter.event, letter.sequence] = letter.suppressed
                ledger.outbox.delivered(letter)
        assert letters.pop((night.event, 1)) == QUIET
        assert list(letters.values()) == [None] * 4

    def test_a_rate_counts_events_that_were_sent(self, opened, clock):
        ledger = opened("hook", limits=lambda camera: CameraLimits(events_per_hour=2))
        for number in range(4):
            ledger.record_alarms([make_alarm(number=number)])
            clock.seconds += 60
        assert len(sent(ledger)) == 2
        assert ledger.outbox.due(EVENT_LOG)
        clock.seconds += 3600 - 240
        ledger.record_alarms([make_alarm(number=5), make_alarm(number=6)])
        assert len(sent(ledger)) == 1  # one of the first two is an hour old
        rows = ledger._file.rows("SELECT suppressed FROM alarms ORDER BY number")
        assert [row[0] for row in rows] == [None, None, TOO_MANY, TOO_MANY, None, TOO_MANY]


class TestFullDisk:
    def test_records_wait_in_memory_in_order(self, opened, caplog):
        caplog.set_level(logging.INFO)
        ledger = opened("hook")
        set_pages(ledger, 1)
        count = 0
        while not ledger.num_unwritten:
            ledger.record_video(make_video(number=count), [make_alarm(number=count)])
            count += 1
        ledger.record_video(make_video(number=count), [make_alarm(number=count)])
        assert ledger.num_unwritten == 2
        assert is_scored(ledger, "front", f"digest {count}") == f"front/{count}.mp4"
        assert caplog.text.count("cannot be written (database or disk is full)") == 1
        set_pages(ledger, 10**6)
        ledger.record_alarms([make_alarm(number=count + 1)])
        assert ledger.num_unwritten == 0
        assert "is written again, and nothing is missing" in caplog.text
        assert sent(ledger) == [(make_alarm(number=k).event, 1) for k in range(count + 2)]

    def test_the_last_message_of_an_event_may_be_in_memory(self, opened):
        ledger = opened("hook")
        opening = make_alarm(is_open=True)
        ledger.record_alarms([opening])
        assert ledger.last_message(opening.event) == opening.numbered(1)
        set_pages(ledger, 1)
        closed = replace(opening, is_open=False, stop_seconds=9.0)
        while not ledger.num_unwritten:
            closed = replace(closed, stop_seconds=closed.stop_seconds + 1)
            ledger.record_alarms([closed])
        assert ledger.last_message(opening.event) == closed
        set_pages(ledger, 10**6)
        ledger.record_alarms([replace(closed, clip="clips/1.mp4")])
        assert ledger.open_events("front") == []

    def test_what_is_lost_in_the_end_is_said(self, opened, caplog):
        ledger = opened("hook")
        set_pages(ledger, 1)
        while not ledger.num_unwritten:
            ledger.record_alarms([make_alarm(number=ledger.num_changes)])
        ledger.close()
        assert "1 record of" in caplog.text
        assert "could not be written and are lost" in caplog.text
        ledger.close()


def test_many_threads(opened):
    ledger = opened("hook")

    def record(camera):
        for number in range(10):
            ledger.record_video(make_video(camera, number), [make_alarm(camera, number)])
            assert is_scored(ledger, camera, f"digest {number}")

    found = []

    def deliver():
        while len(found) < 50:
            ledger.wait(ledger.num_changes, 0.01)
            found.extend(sent(ledger))

    threads = [threading.Thread(target=record, args=(camera,)) for camera in "abcde"]
    threads.append(threading.Thread(target=deliver))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 50
    for camera in "abcde":
        expected = [(make_alarm(camera, number).event, 1) for number in range(10)]
        assert [one for one in found if one in expected] == expected


class TestPruning:
    def test_what_is_old_goes_but_what_is_needed_stays(self, opened, clock):
        ledger = opened("hook")
        opening = make_alarm("b", 1, is_open=True)
        ledger.record_video(make_video(number=1, scored_at=clock()), [make_alarm(number=1)])
        ledger.record_video(make_video(number=2, scored_at=clock()), [])
        ledger.record_alarms([opening])
        for sink in ("hook", EVENT_LOG):
            sent(ledger, sink)
        ledger.record_alarms([make_alarm("c", 1)])
        clock.seconds += 10 * 86400
        ledger.record_video(make_video(number=3, scored_at=clock()), [make_alarm(number=3)])
        ledger.prune(20, lambda camera, video: False)
        assert is_scored(ledger, "front", "digest 1")
        ledger.prune(5, lambda camera, video: video == "front/2.mp4")
        assert [is_scored(ledger, "front", f"digest {k}") for k in (1, 2, 3)] == [
            None,
            "front/2.mp4",
            "front/3.mp4",
        ]
        assert ledger.open_events("b") == [opening.numbered(1)]
        events = [row[0] for row in ledger._file.rows("SELECT event FROM alarms ORDER BY number")]
        assert events == [
            opening.event,
            make_alarm("c", 1).event,  # still waits
            make_alarm(number=3).event,
        ]
        assert ledger._file.rows("SELECT COUNT(*) FROM outbox") == [(6,)]

    def test_the_file_shrinks(self, opened, clock):
        ledger = opened()
        for start in range(0, 300, 100):
            ledger.record_alarms([make_alarm(number=start + k) for k in range(100)])
        sent(ledger, EVENT_LOG)
        (before,) = ledger._file.rows("PRAGMA page_count")[0]
        clock.seconds += 86400
        ledger.prune(0.5, lambda camera, video: False)
        assert ledger._file.rows("PRAGMA page_count")[0][0] < before / 4


class TestFile:
    def test_a_commit_is_on_the_disk(self, opened):
        file = opened()._file
        assert file.rows("PRAGMA synchronous") == [(2,)]  # FULL
        assert file.rows("PRAGMA journal_mode") == [("wal",)]

    def test_a_damaged_one(self, tmp_path):
        path = tmp_path / LEDGER_NAME
        path.write_bytes(b"no database" * 1000)
        message = r"watch.sqlite cannot be used \(file is not a database\): .* move the file away"
        with pytest.raises(LedgerError, match=message):
            Ledger(path, [])

    @pytest.mark.parametrize("version", [1, 3])
    def test_one_of_another_vigil(self, opened, version):
        opened()._file.rows(f"PRAGMA user_version = {version}")
        message = f"of version {version}, and this vigil knows 2.*: .* move the file away"
        with pytest.raises(LedgerError, match=message):
            opened()

    def test_a_folder_in_its_place(self, tmp_path):
        (tmp_path / LEDGER_NAME).mkdir()
        with pytest.raises(LedgerError, match="unable to open database file"):
            Ledger(tmp_path / LEDGER_NAME, [])
