"""Times of day from names and containers: right, or none."""

import json
from datetime import UTC, datetime, timedelta, timezone

import av
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_report import make_result
from video_files import draw_frames, encode

from vigil.extract.errors import UserError
from vigil.pipeline.recorder_names import RecordingTime, parse_template, time_in_name
from vigil.pipeline.scoring.recording_times import recording_times, with_times_of_day
from vigil.pipeline.scoring.report.details import details_of
from vigil.pipeline.scoring.report.index import index_of
from vigil.pipeline.scoring.results import Results, read_result, write_result

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1)).map(
    lambda time: time.replace(microsecond=0)
)
NAMED = (
    *("ch01_%Y%m%d%H%M%S.mp4", "%Y-%m-%d_%H-%M-%S.mp4", "%Y%m%d_%H%M%S.avi", "VID_%Y%m%d%H%M%S.ts"),
    *("gate/%Y-%m-%d %H.%M.%S.mkv", "D1_%Y%m%dT%H%M%S.mp4", "%Y_%m_%d_%H_%M_%S_cam3.mp4"),
    *("192.168.1.64_01_%Y%m%d%H%M%S456.mp4", "cam2-%Y-%m-%d-%H-%M-%S[R].dav"),
)
DAY_FIRST = ("%d-%m-%Y_%H-%M-%S.mp4", "%m-%d-%Y %H.%M.%S.mp4", "cam_%d%m%Y_%H%M%S.mp4")


@given(MOMENTS, st.sampled_from(NAMED))
def test_names_of_recorders_are_read(moment, pattern):
    milli = 456_000 if "456" in pattern else 0
    found = time_in_name(moment.strftime(pattern))
    assert found == RecordingTime(moment.replace(microsecond=milli), "name")


@given(MOMENTS, st.integers(1, 24 * 3600))
def test_names_with_start_and_end_are_read(moment, seconds):
    stop = moment + timedelta(seconds=seconds)
    name = f"NVR_ch2_main_{moment:%Y%m%d%H%M%S}_{stop:%Y%m%d%H%M%S}.dav"
    assert time_in_name(name) == RecordingTime(moment, "name", seconds)
    assert time_in_name(f"{stop:%Y%m%d%H%M%S}_{moment:%Y%m%d%H%M%S}.dav") is None
    assert time_in_name(f"{moment:%Y%m%d%H%M%S}_of_{stop:%Y%m%d%H%M%S}.dav") is None


@given(MOMENTS, st.integers(-12 * 4, 14 * 4))
def test_time_zones_are_kept(moment, quarters):
    zone = timezone(timedelta(minutes=15 * quarters))
    here = moment.replace(tzinfo=zone)
    found = parse_template("%Y%m%dT%H%M%S%z")(f"a_{here:%Y%m%dT%H%M%S%z}.mp4")
    assert found == RecordingTime(here, "template")
    if quarters >= 0:
        assert time_in_name(f"a_{here:%Y%m%dT%H%M%S%z}.mp4") == RecordingTime(here, "name")
    utc = moment.replace(tzinfo=UTC)
    assert time_in_name(f"{moment:%Y-%m-%dT%H-%M-%S}Z.mp4") == RecordingTime(utc, "name")


@given(MOMENTS, st.sampled_from(DAY_FIRST))
def test_day_and_month_are_never_guessed(moment, pattern):
    assert time_in_name(moment.strftime(pattern)) is None
    assert parse_template(pattern.removesuffix(".mp4"))(moment.strftime(pattern)).start == moment


@given(st.datetimes(datetime(2002, 1, 1), datetime(2024, 1, 1), timezones=st.just(UTC)))
def test_unix_times_are_read_unless_they_may_be_a_date(moment):
    moment = moment.replace(microsecond=0)
    digits = f"{moment.timestamp():.0f}"
    found = time_in_name(f"a/{digits}.mp4")
    assert found in (None, RecordingTime(moment, "name"))
    for reading in ("%y%m%d%H%M", "%d%m%y%H%M", "%m%d%y%H%M"):
        try:
            datetime.strptime(digits, reading)
        except ValueError:
            continue
        assert found is None
    xiaomi = f"{moment:%MM%SS}_{digits}.mp4"
    assert time_in_name(xiaomi) == RecordingTime(moment, "name")
    assume(moment.minute != 7)
    assert time_in_name(f"07M{moment:%S}S_{digits}.mp4") is None


def test_unix_times_with_milliseconds_and_prefixes():
    start = datetime(2024, 5, 1, 6, 30, 15, tzinfo=UTC)
    assert time_in_name("1714545015.mp4").start == start
    assert time_in_name("cam3_1714545015250.mp4").start == start + timedelta(milliseconds=250)


def test_dahuas_folders_are_read():
    name = "X/2024-05-01/001/dav/23/23.30.15-00.30.15[M][0@0][0].dav"
    assert time_in_name(name) == RecordingTime(datetime(2024, 5, 1, 23, 30, 15), "name", 3600)
    assert time_in_name("2024-05-01/2024-05-02/08.30.15-09.30.15.dav") is None
    assert time_in_name("08.30.15-09.30.15.dav") is None


@pytest.mark.parametrize(
    "name",
    [
        *("a.mp4", "2024-05-01.mp4", "20240501.mp4", "20240501_0830.mp4", "01_0014.mp4"),
        *("Abuse001_x264.mp4", "00000000012000000.mp4", "20241301_083015.mp4", "2024050108.mp4"),
        *("20240501_240000.mp4", "20240230083015.mp4", "1120240501083015.mp4"),
        *("order_1234567890.mp4", "export_20240501_083015.mp4", "20240501083015 (copy).mp4"),
        *("20240501083015_20240501083115_20240501083215.mp4", "4102444801.mp4"),
        "20240501083015_20240601083015.mp4",
    ],
)
def test_unclear_names_give_no_time(name):
    assert time_in_name(name) is None


@given(st.text())
def test_any_name_is_read_or_not(name):
    time_in_name(name)
    parse_template("%Y*%j %H")(name)


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("%d-%m-%Y_%H-%M-%S", "x/cam 01-05-2024_08-30-15.mp4", datetime(2024, 5, 1, 8, 30, 15)),
        ("%d%b%Y*%I.%M%p", "01May2024 at 08.30PM", datetime(2024, 5, 1, 20, 30)),
        ("%y%m%d%H%M", "a_2405010830_b.avi", datetime(2024, 5, 1, 8, 30)),
        (
            "%Y-%m-%d/*/%H.%M.%S",
            "2024-05-01/dav/08.30.15-09.00.00",
            datetime(2024, 5, 1, 8, 30, 15),
        ),
        ("t%s", "at1714545015", datetime(2024, 5, 1, 6, 30, 15, tzinfo=UTC)),
        ("100%%_%Y%j_%H", "100%_2024122_08", datetime(2024, 5, 1, 8)),
        ("%Y%m%d%H", "20240501083015", None),  # would end within a number
        ("%Y%m%d%H", "9999123123", None),
        ("%Y%m%d%H", "2024023108", None),
    ],
)
def test_templates(template, name, expected):
    found = parse_template(template)(name)
    assert (found and found.start) == expected


@pytest.mark.parametrize("template", ["", "noon", "%Y", "%Y%m%d", "%H%M", "%Y%m%d%I", "%s%Y%m%d%H"])
def test_templates_without_date_or_hour_are_refused(template):
    with pytest.raises(UserError, match="a template with date and hour such as %Y%m%d_%H%M%S"):
        parse_template(template)


@pytest.mark.parametrize("template", ["%q", "%Y%Y%m%d%H", "%Y%m%d%H%", "%-d"])
def test_templates_with_unknown_directives_are_refused(template):
    with pytest.raises(UserError, match="must use each of these at most once: %Y %y %m"):
        parse_template(template)


def test_creation_times_of_containers(tmp_path, caplog):
    tags = {"a.mp4": "2024-05-01T08:30:15.500000Z", "b.mkv": "2024-05-01T10:30:15Z", "c.mp4": None}
    tags |= {"d.mp4": "1904-01-01T00:00:00Z", "e.mkv": "2024-05-01"}
    source = encode(tmp_path / "source.mp4", draw_frames(3))
    for name, tag in tags.items():
        with av.open(str(source)) as old, av.open(str(tmp_path / name), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            if tag:
                new.metadata["creation_time"] = tag
            for packet in old.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
    (tmp_path / "f.mp4").write_text("no video")
    names = [*tags, "f.mp4"]
    found = recording_times("creation", names, {name: tmp_path / name for name in names})
    assert {name: time.start for name, time in found.items()} == {
        "a.mp4": pytest.approx(
            datetime(2024, 5, 1, 8, 30, 15, 500000, UTC), abs=timedelta(seconds=1)
        ),
        "b.mkv": datetime(2024, 5, 1, 10, 30, 15, tzinfo=UTC),
    }
    assert {time.source for time in found.values()} == {"creation_time"}
    assert caplog.messages == [
        "no time of day for 4 videos, whose container has no creation time: c.mp4"
    ]


def test_names_that_may_begin_with_the_day_are_told(caplog):
    names = ["01-05-2024_08-30-15.mp4", "a.mp4"]
    assert recording_times("auto", names, {}) == {}
    (message,) = caplog.messages
    assert message.startswith("no time of day for 1 video, whose date may begin with day or month")
    assert "%d-%m-%Y_%H-%M-%S" in message


def test_events_and_pages_carry_times_of_day(tmp_path):
    plain = make_result()
    time = RecordingTime(datetime(2024, 12, 31, 23, 59, 59, 700000, UTC), "name")
    result = with_times_of_day(plain, time)
    assert result.recorded_at == "2024-12-31 23:59:59+00:00"
    (event,) = result.events  # from 0.4 to 0.8 s
    assert event.start_clock == "2025-01-01 00:00:00+00:00"
    assert event.stop_clock == "2025-01-01 00:00:01+00:00"
    write_result(tmp_path, result)
    assert read_result(tmp_path / "Fighting" / "a.mp4.json") == result
    manifest = {"created_at": "", "checkpoint": {"path": ""}, "threshold": 0.5}
    manifest |= {"warnings": [], "versions": {}}
    details = details_of(result, tmp_path, None)
    assert details["recorded_at"] == "2024-12-31 23:59:59+00:00"
    assert details["recorded_at_source"] == "name"
    first, second = index_of(Results(manifest, (result, plain), ()), tmp_path)["events"]
    clocks = ["2025-01-01 00:00:00+00:00", "2025-01-01 00:00:01+00:00"]
    assert sorted([first[9:], second[9:]]) == [[], clocks]


def test_times_after_a_jump_of_the_clock_are_not_known():
    result = with_times_of_day(make_result(), RecordingTime(datetime(2024, 5, 1), "name"), 0.7)
    assert result.recorded_at == "2024-05-01 00:00:00"
    assert result.events == make_result().events


@pytest.mark.parametrize(("named", "told"), [(None, False), (5.0, False), (3600.0, True)])
def test_a_length_that_differs_from_that_in_the_name_is_told(named, told):
    time = RecordingTime(datetime(2024, 5, 1), "name", named)
    warnings = with_times_of_day(make_result(), time).warnings
    assert [*warnings] == [
        "Its name gives it a length of 1:00:00, its frames one of 0:00:00: "
        "its times of day may be wrong."
    ] * told


def test_results_without_times_of_day_are_still_read(tmp_path):
    write_result(tmp_path, make_result())
    path = tmp_path / "Fighting" / "a.mp4.json"
    content = json.loads(path.read_text())
    for name in ("recorded_at", "recorded_at_source"):
        assert content.pop(name) is None
    for event in content["events"]:
        assert event.pop("start_clock") is event.pop("stop_clock") is None
    path.write_text(json.dumps(content))
    assert read_result(path) == make_result()
