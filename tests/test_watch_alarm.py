"""An alarm and its JSON; the id of an event; which alarms are kept from being sent."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, time, timedelta, timezone
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st
from watch_builders import make_alarm

from vigil.pipeline.watching.alarm import Alarm, alarm_text, event_id, read_alarm, slug
from vigil.pipeline.watching.limits import (
    QUIET,
    TOO_MANY,
    CameraLimits,
    LimitsError,
    QuietHours,
    read_quiet_hours,
)

SCHEMA = json.loads(files("vigil.pipeline.watching").joinpath("schema/alarm.json").read_bytes())
names = st.text(max_size=30) | st.sampled_from(["a b", "a_b", "a/b", "", "_", "\udce4", "ä" * 300])
clock_times = st.times().map(lambda moment: moment.replace(second=0, microsecond=0))


class TestMessage:
    @given(camera=names, label=names, lag=st.none() | st.floats(0, 1e6), video=st.none() | names)
    def test_reading_undoes_writing_and_the_schema_knows_it(self, camera, label, lag, video):
        alarm = make_alarm(camera, label=label, lag_seconds=lag, video=video, sequence=3)
        text = alarm_text(alarm)
        assert read_alarm(text) == alarm
        assert text.isascii()
        assert "\n" not in text
        jsonschema.validate(json.loads(text), SCHEMA)

    def test_the_example_in_the_docs_is_one(self):
        page = (ROOT / "docs/alarms.md").read_text()
        example = json.loads(
            page[page.index('    {"event"') : page.index("\n\nIts published schema")]
        )
        jsonschema.validate(example, SCHEMA)
        assert list(example) == list(json.loads(alarm_text(make_alarm())))

    def test_every_field_is_described(self):
        names = {one.name for one in fields(Alarm)} | {"vigil", "schema"}
        assert set(SCHEMA["required"]) == names - {"clip"}
        assert set(SCHEMA["properties"]) == names | {"suppressed"}
        assert SCHEMA["properties"]["suppressed"]["enum"] == [None, QUIET, TOO_MANY]

    @pytest.mark.parametrize("one", [one.name for one in fields(Alarm)])
    def test_the_digest_covers_what_a_restart_does_not_change(self, one):
        alarm = make_alarm()
        other = {
            "event": "x",
            "is_open": True,
            "class_shares": {"Arson": 1.0},
            "lag_seconds": 3.0,
            "sequence": 7,
            "start_seconds": 0.5,
            "stop_seconds": 3.0,
            "peak_score": 0.75,
            "threshold": 0.5,
        }.get(one, "another")
        same = one in {"sequence", "detected_at", "lag_seconds"}
        assert (replace(alarm, **{one: other}).digest == alarm.digest) == same

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"event": "a\r\nX-Header: 1"}, "letters, digits"),
            ({"event": ""}, "letters, digits"),
            ({"peak_score": float("nan")}, "not finite"),
            ({"lag_seconds": float("inf")}, "not finite"),
            ({"class_shares": {"a": float("nan")}}, "not finite"),
            ({"stop_seconds": 0.5}, "ends before it starts"),
        ],
    )
    def test_what_no_sink_could_send_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            make_alarm(**changes)


class TestEventId:
    @given(names, st.none() | st.datetimes(timezones=st.just(UTC)), st.integers())
    def test_it_is_one_of_an_alarm_and_the_same_each_time(self, camera, start, frame):
        one = event_id(camera, start, "digest", frame)
        assert make_alarm(event=one).event == one == event_id(camera, start, "digest", frame)

    def test_it_differs_by_everything(self):
        start = datetime(2026, 11, 30, 2, 15, 30, tzinfo=UTC)
        sources = [("digest", 1), ("digest", 2), ("digest1",), ("digest", 1, 1)]
        ids = {event_id(camera, start, *source) for camera in ("a", "b") for source in sources}
        assert len(ids) == 8
        assert event_id("front", start, 1).startswith("front-20261130T021530Z-")
        berlin = start.astimezone(timezone(timedelta(hours=1)))
        assert event_id("front", berlin, 1) == event_id("front", start, 1)

    @given(names, names)
    def test_different_names_have_different_slugs(self, one, other):
        assert (slug(one) == slug(other)) == (one == other)
        assert set(slug(one)) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
        )
        assert slug(slug(one)) == slug(one)


class TestLimits:
    @given(clock_times, clock_times, clock_times)
    def test_quiet_hours_against_counting_minutes(self, start, stop, moment):
        text = f"{start:%H:%M}-{stop:%H:%M}"
        if start == stop:
            with pytest.raises(LimitsError, match="another end"):
                read_quiet_hours(text)
            return
        minutes = (start.hour * 60 + start.minute, stop.hour * 60 + stop.minute)
        length = (minutes[1] - minutes[0]) % 1440
        quiet = {(minutes[0] + k) % 1440 for k in range(length)}
        (hours,) = read_quiet_hours(text)
        assert hours.includes(moment) == (moment.hour * 60 + moment.minute in quiet)

    def test_several_and_none(self):
        assert read_quiet_hours(" ") == ()
        assert read_quiet_hours("9:30-12:00, 22:00-24:00") == (
            QuietHours(time(9, 30), time(12)),
            QuietHours(time(22), time(0)),
        )

    @pytest.mark.parametrize("text", ["22-6", "22:00", "25:00-06:00", "22:00-24:30", "x", ",", "1"])
    def test_mistakes(self, text):
        with pytest.raises(LimitsError, match=r"such as 22:00-06:00"):
            read_quiet_hours(text)

    def test_the_reason(self):
        limits = CameraLimits(read_quiet_hours("22:00-06:00"), events_per_hour=2)
        night, day = datetime(2026, 1, 1, 23, 0), datetime(2026, 1, 1, 12, 0)
        assert limits.reason_against(night, 0) == QUIET
        assert limits.reason_against(day, 1) is None
        assert limits.reason_against(day, 2) == TOO_MANY
        assert CameraLimits().reason_against(night, 10**9) is None
        with pytest.raises(LimitsError, match="0 events per hour: give at least 1"):
            CameraLimits(events_per_hour=0)


def test_numbers_of_numpy_are_refused_before_they_are_in_the_way(tmp_path):
    from vigil.pipeline.watching.ledger import Ledger

    ledger = Ledger(tmp_path / "watch.sqlite", [])
    with pytest.raises(TypeError):
        ledger.record_alarms([make_alarm(peak_score=np.float32(0.5))])
    ledger.record_alarms([make_alarm()])
    ((text,),) = ledger._file.rows("SELECT message FROM alarms")
    assert read_alarm(text) == make_alarm(sequence=1)
    ledger.close()
