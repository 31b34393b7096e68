"""The parts of `vigil watch`: cameras, complete files, names, order, and alarms of recordings."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_files import encode

from vigil.extract.decode.videos import find_videos, parse_extensions
from vigil.extract.errors import UserError
from vigil.pipeline.arguments import arguments_of, parse
from vigil.pipeline.calibration import FOLDER, camera_of
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.options import VIDEO_EXTENSIONS, WatchOptions
from vigil.pipeline.scores.events import Event
from vigil.pipeline.scoring.results import SegmentScore, VideoResult
from vigil.pipeline.watching import complete_files, seen_files
from vigil.pipeline.watching.cameras import Camera, read_cameras
from vigil.pipeline.watching.complete_files import Watched, has_end, is_being_written
from vigil.pipeline.watching.event_alarms import ScoredRecording, alarms_of, stale
from vigil.pipeline.watching.folder_search import FolderSearch
from vigil.pipeline.watching.in_order import InOrder
from vigil.pipeline.watching.seen_files import POSTPONED, SeenFile, SeenFiles

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
START = datetime(2026, 11, 30, 10, tzinfo=UTC)


class TestCameras:
    def read(self, tmp_path, text="", *folders):
        file = tmp_path / "cameras.toml"
        file.write_text(text)
        return read_cameras(folders, file, tmp_path / "out")

    def test_a_file_names_folders_and_settings(self, tmp_path):
        (tmp_path / "a").mkdir()
        text = f"""
[[camera]]
name = "front"
address = "{tmp_path}/a"
threshold = 0.5
quiet_hours = "22:00-06:00"
events_per_hour = 3
settle_seconds = 10
silent_minutes = 5
"""
        cameras = self.read(tmp_path, text)
        (front,) = cameras.sources
        assert (front.name, front.kind, front.threshold) == ("front", "folder", 0.5)
        assert front.limits.events_per_hour == 3
        assert front.limits.quiet_hours
        assert cameras.settings_of("front") == front
        assert cameras.settings_of("other") == Camera("other")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[[camera]]\nname='a'\ntreshold=1", "treshold is unknown: did you mean threshold"),
            ("[[cameras]]\nname='a'", r"'cameras' is unknown: write a \[\[camera\]\]"),
            ("[camera]\nname='a'", "write each camera as a table of its own"),
            ("[[camera]]\nthreshold=0.5", "name is missing"),
            ("[[camera]]\nname='a/b'", "a name must not"),
            ("[[camera]]\nname='a'\nthreshold=2", "threshold = 2 is not a number from 0 to 1"),
            ("[[camera]]\nname='a'\nthreshold=true", "threshold = True is not allowed"),
            ("[[camera]]\nname='a'\nsettle_seconds=-1", "settle_seconds = -1 is not a length"),
            ("[[camera]]\nname='a'\nquiet_hours='x'", "quiet hours 'x'"),
            ("[[camera]]\nname='a'\nevents_per_hour=0", "at least 1"),
            ("[[camera]]\nname='a'\n[[camera]]\nname='a'", "two cameras have the name 'a'"),
            ("[[camera]]\nname='a'\naddress='/nowhere'", "/nowhere does not exist"),
            ("[[camera]]\nname='a'\nwhen_late='never'", "use drop-oldest, sparser, keep-all"),
            ("[[camera]]\nname='a'\nwhen_late='sparser'", "when_late is for streams"),
            ("[[camera]]\nname='a'\ntransport='tpc'", "transport = 'tpc' .* use tcp, udp"),
            ("[[camera]]\nname='a'", "nothing to watch"),
            ("name=", "is not a TOML file"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path, text, message):
        with pytest.raises(UserError, match=message):
            self.read(tmp_path, text)

    def test_folders_must_not_hold_the_same_files(self, tmp_path):
        (tmp_path / "a" / "b").mkdir(parents=True)
        with pytest.raises(UserError, match="hold the same files"):
            self.read(tmp_path, "", str(tmp_path / "a"), str(tmp_path / "a" / "b"))

    def test_results_must_not_hold_what_is_watched(self, tmp_path):
        (tmp_path / "out" / "b").mkdir(parents=True)
        with pytest.raises(UserError, match="lies in --out"):
            self.read(tmp_path, "", str(tmp_path / "out" / "b"))

    def test_streams_have_names_and_keep_variables(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LOGIN", "me:s/cret")
        text = """[[camera]]
name = "yard"
address = "rtsp://${LOGIN}@host/2"
transport = "udp"
"""
        cameras = self.read(tmp_path, text, "rtsp://${LOGIN}@host:8554/live/1?a=b", "/dev/video0")
        assert [one.name for one in cameras.streams] == ["host-8554", "dev-video0", "yard"]
        assert cameras.folders == ()
        assert cameras.streams[2].transport == "udp"
        assert cameras.settings_of("yard") is cameras.streams[2]
        assert "cret" not in repr(cameras)

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("rtsp://me:secret@host/1", "has a password in it.*NAME"),
            ("http://host/cgi?usr=me&pwd=secret", "has a password in it.*NAME"),
            ("rtsp://me:${UNSET}@host/1", "the variable UNSET is not set"),
            ("ftp://host/secret", "not a stream: use rtsp://"),
            ("rtsp://host:secret/1", "not understood"),
        ],
    )
    def test_what_is_wrong_with_a_stream_is_said_without_its_address(
        self, tmp_path, monkeypatch, address, message
    ):
        monkeypatch.delenv("UNSET", raising=False)
        with pytest.raises(UserError, match=message) as error:
            self.read(tmp_path, "", address)
        assert "secret" not in str(error.value)

    def test_two_streams_of_one_name_are_refused(self, tmp_path):
        with pytest.raises(UserError, match="two cameras would be called 'host'"):
            self.read(tmp_path, "", "rtsp://host/1", "rtsp://host/2")


class TestOptions:
    def test_sinks_may_be_repeated_and_come_back_as_arguments(self):
        arguments = ["watch", "a", "--out", "b", "--on-event", "exec:x", "--on-event", "exec:y z"]
        options = parse(arguments)
        assert options.on_event == ("exec:x", "exec:y z")
        assert options.sources == ("a",)
        assert parse(arguments_of(options)) == options

    def test_folders_may_be_left_out(self):
        options = parse(["watch", "--cameras", "c.toml", "--out", "b"])
        assert (options.sources, options.cameras) == ((), Path("c.toml"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"settle_seconds": -1.0}, "--settle-seconds -1"),
            ({"keep_days": 0.0}, "--keep-days 0"),
            ({"report_videos": 0}, "--report-videos 0"),
            ({"camera": "("}, "--camera"),
            ({"threshold": "high"}, "threshold 'high'"),
            ({"format": "pdf"}, "pdf"),
        ],
    )
    def test_wrong_values_are_refused(self, tmp_path, changes, message):
        with pytest.raises(UserError, match=message):
            check_options(WatchOptions(out=tmp_path, sources=("a",), **changes))


class TestCompleteFiles:
    @pytest.fixture
    def clock(self, monkeypatch):
        """Seconds since the file was looked at first; writing does not change its time."""
        now = [1000.0]
        monkeypatch.setattr(complete_files.time, "monotonic", lambda: now[0])
        return now

    def test_an_mp4_has_its_end_only_as_a_whole(self, tmp_path):
        for options in ({}, {"movflags": "faststart"}):
            content = encode(tmp_path / "a.mp4", options=options).read_bytes()
            for size in range(0, len(content), 97):
                (tmp_path / "b.mp4").write_bytes(content[:size])
                with (tmp_path / "b.mp4").open("rb") as file:
                    assert not has_end(file, size), size
            with (tmp_path / "a.mp4").open("rb") as file:
                assert has_end(file, len(content))

    def test_other_files_need_only_hold_something(self, tmp_path):
        path = tmp_path / "a.mkv"
        for content, expected in ((b"", False), (b"\x1aE\xdf\xa3" + bytes(20), True)):
            path.write_bytes(content)
            with path.open("rb") as file:
                assert has_end(file, len(content)) == expected

    @given(content=st.binary(max_size=80))
    def test_no_content_is_too_odd(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / "odd"
        path.write_bytes(content)
        with path.open("rb") as file:
            assert has_end(file, len(content)) in (True, False)

    def test_who_has_a_file_open_is_known(self, tmp_path):
        path = tmp_path / "a"
        path.touch()
        with path.open("rb") as file:
            if is_being_written(file) is None:
                pytest.skip("this file system does not tell")
            assert is_being_written(file) is False
            with path.open("ab"):
                assert is_being_written(file) is True
            assert is_being_written(file) is False

    @pytest.mark.parametrize(("is_open", "needed"), [(False, 1), (None, 5), (True, 60)])
    def test_how_long_it_must_be_unchanged(self, tmp_path, clock, monkeypatch, is_open, needed):
        monkeypatch.setattr(complete_files, "is_being_written", lambda file: is_open)
        watched = Watched(encode(tmp_path / "a.mp4"), settle_seconds=5)
        assert not watched.is_complete()
        clock[0] += needed - 0.1
        assert not watched.is_complete()
        clock[0] += 0.2
        assert watched.is_complete()

    def test_a_change_starts_the_wait_anew(self, tmp_path, clock, monkeypatch):
        monkeypatch.setattr(complete_files, "is_being_written", lambda file: None)
        path = tmp_path / "a.ts"
        path.write_bytes(b"G")
        watched = Watched(path, settle_seconds=5)
        for _ in range(3):
            clock[0] += 4
            path.write_bytes(path.read_bytes() + b"G")
            assert not watched.is_complete()
        clock[0] += 6
        assert watched.is_complete()

    def test_a_cut_off_file_is_tried_at_last(self, tmp_path, clock):
        path = encode(tmp_path / "a.mp4")
        path.write_bytes(path.read_bytes()[:-1])
        watched = Watched(path, settle_seconds=5)
        assert not watched.is_complete()
        clock[0] += 59
        assert not watched.is_complete()
        clock[0] += 2
        assert watched.is_complete()

    def test_an_old_file_need_not_be_waited_for(self, tmp_path, clock):
        path = encode(tmp_path / "a.mp4")
        path.write_bytes(path.read_bytes()[:-1])
        os.utime(path, (time.time() - 3600,) * 2)
        assert Watched(path, settle_seconds=5).is_complete()


class TestNames:
    TREE = (
        *("top.mp4", "front/1.mp4", "front/2026/2.MKV", "back/3.ts", ".hidden/4.mp4"),
        *("front/.5.mp4", "front/notes.txt", "out/front/6.mp4", "clips/.vigil-clips"),
        "clips/7.mp4",
    )

    def search(self, tmp_path, *sources):
        cameras = read_cameras([str(one) for one in sources], None, tmp_path / "in" / "out")
        extensions = parse_extensions(VIDEO_EXTENSIONS)
        rule = lambda name: camera_of(name, FOLDER)  # noqa: E731
        return FolderSearch(cameras, rule, extensions, tmp_path / "in" / "out")

    @pytest.fixture
    def tree(self, tmp_path):
        for name in self.TREE:
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path / "in"

    def test_names_are_those_of_vigil_score_but_for_its_own_results(self, tmp_path, tree):
        search = self.search(tmp_path, tree)
        found = {one.name: one.camera for one in search.everything()}
        scored = {one.name for one in find_videos([str(tree)], VIDEO_EXTENSIONS).videos}
        assert found.keys() == scored - {"out/front/6.mp4"}
        assert found == {
            "top.mp4": "in",
            "front/1.mp4": "front",
            "front/2026/2.MKV": "front",
            "back/3.ts": "back",
        }

    def test_what_the_system_names_is_what_a_search_finds(self, tmp_path, tree):
        search = self.search(tmp_path, tree)
        named = [search.at(tree / name) for name in self.TREE]
        assert sorted(filter(None, named), key=str) == sorted(search.everything(), key=str)
        assert search.at(tree / "front") is None
        assert search.at(tree / "front" / "gone.mp4") is None

    def test_links_must_not_lead_out(self, tmp_path, tree, caplog):
        (tmp_path / "secret.mp4").write_bytes(b"x")
        (tree / "front" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
        search = self.search(tmp_path, tree)
        for _ in range(2):
            assert "front/link.mp4" not in {one.name for one in search.everything()}
        assert caplog.text.count("leads out of") == 1

    def test_files_of_a_camera_that_is_also_a_stream_are_left_alone(self, tmp_path, tree, caplog):
        search = self.search(tmp_path, tree)
        streams = [Camera("front", "rtsp://host"), Camera("yard", "rtsp://other")]
        search.cameras = replace(search.cameras, sources=(*search.cameras.sources, *streams))
        (tree / "yard").mkdir()
        search.tell_of_streams()
        for name in ("front", "yard"):
            assert (
                f"{tree} holds files of camera {name!r}, which is also the name of a" in caplog.text
            )
        told = caplog.text
        for _ in range(2):
            assert {one.camera for one in search.everything()} == {"in", "back"}
        assert search.at(tree / "front" / "1.mp4") is None
        assert caplog.text == told, "each is told once"

    def test_a_camera_in_two_folders_is_told(self, tmp_path, tree, caplog):
        other = tmp_path / "other" / "front"
        other.mkdir(parents=True)
        (other / "9.mp4").write_bytes(b"x")
        search = self.search(tmp_path, tree, other.parent)
        assert "front/9.mp4" not in {one.name for one in search.everything()}
        assert "both hold files of camera 'front'" in caplog.text


@given(st.data())
def test_values_leave_in_the_order_of_their_announcement(data):
    """By camera, and nothing waits for longer than it must."""
    cameras = data.draw(st.lists(st.sampled_from("ab"), max_size=12))
    names = [(camera, str(number)) for number, camera in enumerate(cameras)]
    lines = InOrder()
    for camera, name in names:
        lines.announce(camera, name)
    left, come = [], set()
    for camera, name in data.draw(st.permutations(names)):
        value = data.draw(st.sampled_from([name, None]))
        come.add(name)
        left += [(camera, one) for one in lines.come(camera, name, value)]
        if value is None:
            names.remove((camera, name))
        for letter in "ab":
            line = [one for kind, one in names if kind == letter]
            free = next((at for at, one in enumerate(line) if one not in come), len(line))
            assert [one for kind, one in left if kind == letter] == line[:free]


class TestAlarms:
    def recording(self, start, *events, seconds=60.0, digest="d"):
        return ScoredRecording(
            camera="front",
            result=self.result(seconds, events),
            digest=digest,
            start=start,
            completed_at=NOW.timestamp() - 3,
        )

    def result(self, seconds, events):
        return VideoResult(
            video="front/1.mp4",
            source=None,
            label="Fighting",
            class_probabilities={"Normal": 0.5, "Fighting": 0.5},
            peak_score=0.9,
            threshold=0.5,
            events=tuple(events),
            segments=(SegmentScore(0, 10, 0.0, seconds, 0.9),),
            views=("center",),
            fps=25.0,
            num_frames_container=0,
            num_frames_decoded=10,
            num_frames_damaged=0,
            spec_digest="",
            warnings=(),
        )

    def event(self, start, stop, peak=0.9, label="Fighting", clock="known"):
        shares = {label: 1.0}
        return Event(0, 1, start, stop, peak, label, 1.0, shares, clock, clock)

    def follow(self, *recordings, join_seconds=1.0):
        """The messages of recordings, one after the other, as the ledger would keep them."""
        open_events, messages = {}, []
        for one in recordings:
            for alarm in alarms_of(one, [*open_events.values()], join_seconds, NOW):
                messages.append(alarm)
                open_events.pop(alarm.event, None)
                if alarm.is_open:
                    open_events[alarm.event] = alarm
        return messages

    def after(self, seconds):
        return START + timedelta(seconds=seconds)

    def test_an_event_within_a_recording_is_closed_at_once(self):
        (alarm,) = self.follow(self.recording(START, self.event(10, 20)))
        assert not alarm.is_open
        assert (alarm.start_time, alarm.stop_time) == (
            "2026-11-30T10:00:10.000+00:00",
            "2026-11-30T10:00:20.000+00:00",
        )
        assert alarm.lag_seconds == pytest.approx(3)

    def test_an_event_that_reaches_the_end_goes_on_in_the_next(self):
        first, second = self.follow(
            self.recording(START, self.event(50, 60, 0.7, "Arson")),
            self.recording(self.after(60), self.event(0.5, 5, 0.9), digest="e"),
        )
        assert first.is_open
        assert not second.is_open
        assert second.event == first.event
        assert (second.start_time, second.start_seconds) == (first.start_time, 0.5)
        assert (second.peak_score, second.label) == (0.9, "Fighting")

    def test_a_lower_peak_changes_neither_class_nor_peak(self):
        _, second = self.follow(
            self.recording(START, self.event(50, 60, 0.9, "Arson")),
            self.recording(self.after(60), self.event(0, 5, 0.7), digest="e"),
        )
        assert (second.peak_score, second.label) == (0.9, "Arson")

    def test_a_recording_that_does_not_continue_it_closes_it(self):
        first, closed, other = self.follow(
            self.recording(START, self.event(50, 60)),
            self.recording(self.after(60), self.event(30, 40), digest="e"),
        )
        assert (closed.event, closed.is_open) == (first.event, False)
        assert closed.stop_time == first.stop_time
        assert other.event != first.event

    @pytest.mark.parametrize(("gap", "is_one"), [(-1, True), (1.9, True), (2.1, False)])
    def test_the_gap_decides_to_the_second_of_the_names(self, gap, is_one):
        messages = self.follow(
            self.recording(START, self.event(50, 60)),
            self.recording(self.after(60 + gap), self.event(0, 5), digest="e"),
        )
        assert (len({one.event for one in messages}) == 1) == is_one

    def test_one_that_comes_late_neither_continues_nor_closes(self):
        first, late = self.follow(
            self.recording(START, self.event(50, 60)),
            self.recording(self.after(-60), self.event(0, 5), digest="e"),
        )
        assert late.event != first.event
        assert first.is_open

    def test_without_a_clock_every_event_is_one(self):
        unknown = self.recording(None, self.event(50, 60, clock=None))
        first, second = self.follow(unknown, replace(unknown, digest="e"))
        assert first.start_time is None
        assert not first.is_open
        assert first.event != second.event

    def test_after_a_jump_of_the_clock_events_have_no_time(self):
        recording = self.recording(START, self.event(50, 60, clock=None))
        (alarm,) = self.follow(recording)
        assert alarm.start_time is None

    def test_the_same_recording_gives_the_same_messages(self):
        recording = self.recording(START, self.event(1, 2), self.event(50, 60))
        once, again = self.follow(recording), self.follow(recording)
        assert [one.digest for one in once] == [one.digest for one in again]
        assert len({one.event for one in once}) == 2

    def test_an_event_that_nothing_continues_is_closed_in_the_end(self):
        (alarm,) = self.follow(self.recording(START, self.event(50, 60)))
        assert [*stale([alarm], 60, NOW + timedelta(seconds=59))] == []
        (closed,) = stale([alarm], 60, NOW + timedelta(seconds=61))
        assert not closed.is_open


class TestSeenFiles:
    def file(self, number, **changes):
        name = f"front/{number}\udcff.mp4"
        defaults = {"num_events": number % 2, "result_bytes": 10}
        return SeenFile(name, "front", f"/in/{name}", number, 7, "scored", **(defaults | changes))

    @pytest.fixture
    def seen(self, tmp_path):
        seen = SeenFiles(tmp_path / "seen.sqlite")
        for number in range(6):
            seen.record(self.file(number), number)
        yield seen
        seen.close()

    def test_a_file_is_known_as_it_was(self, seen):
        name = self.file(3).name
        assert seen.is_known(name, 3, 7)
        assert not seen.is_known(name, 3, 8)
        assert not seen.is_known(name, 4, 7)
        assert seen.path_of(name) == f"/in/{name}"

    def test_the_newest_come_in_the_order_of_time(self, seen):
        assert seen.newest("scored", True, 2) == [(3.0, self.file(3)), (5.0, self.file(5))]
        assert [at for at, _ in seen.newest("scored", False, 9)] == [0.0, 2.0, 4.0]

    def test_results_are_forgotten_but_not_the_files_that_are_there(self, seen, tmp_path):
        assert seen.total_bytes() == 60
        there = replace(self.file(1), path=str(tmp_path))
        seen.record(there, 1)
        assert next(seen.oldest_results())[1] == self.file(0)
        seen.forget_results([self.file(0), there])
        assert seen.total_bytes() == 40
        assert seen.is_known(there.name, 1, 7)
        assert not seen.is_known(self.file(0).name, 0, 7), "its file is gone"
        assert [one.num_bytes for _, one in seen.oldest_results()] == [2, 3, 4, 5]

    def test_files_that_are_gone_are_forgotten_bit_by_bit(self, seen, tmp_path, monkeypatch):
        monkeypatch.setattr(seen_files, "MAX_LOOKED_AT", 2)
        for number in range(6):
            path = tmp_path if number == 4 else tmp_path / "gone"
            seen.record(replace(self.file(number, result_bytes=0), path=str(path)), number)
        for _ in range(4):
            seen.forget_gone(before=5)
        known = [number for number in range(6) if seen.is_known(self.file(number).name, number, 7)]
        assert known == [4, 5], "one is there, and one is too new"

    def test_a_file_that_is_to_be_retried_is_known_until_then(self, seen, tmp_path):
        now = time.time()
        for number, moment in ((0, now - 1), (1, now + 60), (2, now - 1)):
            path = str(tmp_path / "gone" if number == 2 else tmp_path)
            failed = replace(self.file(number), outcome=POSTPONED, path=path)
            seen.record(failed, now, 3, moment)

        def known():
            return [seen.is_known(self.file(number).name, number, 7) for number in range(3)]

        assert known() == [False, True, False]
        assert seen.num_failures(self.file(0).name, 0, 7) == 3
        assert seen.num_failures(self.file(0).name, 0, 8) == 0, "it has another content now"
        seen.forget_retries_of_gone()
        assert (known(), seen.num_to_retry) == ([False, True, True], 2)
        seen.retry([self.file(3).name])
        assert known() == [False, False, False]
        assert not seen.is_known(self.file(3).name, 3, 7)
        assert seen.is_known(self.file(4).name, 4, 7)
        seen.record(self.file(0), now)
        assert (known(), seen.num_to_retry) == ([True, False, False], 3)

    def test_a_damaged_index_is_made_anew(self, tmp_path):
        path = tmp_path / "seen.sqlite"
        path.write_bytes(b"not a database" * 100)
        seen = SeenFiles(path)
        assert seen.is_new
        seen.note_search()
        seen.close()
        again = SeenFiles(path)
        assert not again.is_new
        again.close()
