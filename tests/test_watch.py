"""`vigil watch` on folders: whole rounds with a backbone that computes almost nothing."""

import errno
import fcntl
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from dying import Killed
from video_files import draw_frames, encode, truncate
from watched import (
    EVENTLESS,
    STAMPS,
    draw_recording,
    ledger_rows,
    score_options,
    sent_alarms,
    watch_options,
    write_run,
)

from bench import watching
from vigil.extract.decode import worker
from vigil.extract.engine import dispatch
from vigil.extract.engine.live import LiveStreams
from vigil.extract.errors import UserError, VideoError
from vigil.extract.files import open_lock
from vigil.extract.sealed import UnreadableFileError
from vigil.pipeline.scoring import score_store
from vigil.pipeline.scoring.command import run_score
from vigil.pipeline.scoring.results import read_results
from vigil.pipeline.scoring.score_store import Scorer
from vigil.pipeline.watching import (
    command,
    recorder_folder,
    records,
    retention,
    seen_files,
    session,
)
from vigil.pipeline.watching.command import run_watch
from vigil.pipeline.watching.ledger import Ledger
from vigil.pipeline.watching.metrics import Gauges
from vigil.pipeline.watching.overview import Overview
from vigil.pipeline.watching.recorder_folder import RecorderFolders
from vigil.pipeline.watching.records import Records
from vigil.pipeline.watching.seen_files import SeenFiles


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a run; recordings belong into its folder ``in``."""
    write_run(tmp_path, monkeypatch)
    monkeypatch.setattr(dispatch, "WATCH_SECONDS", 0.02)
    (tmp_path / "in").mkdir()
    return tmp_path


def record(place, camera="front", number=0, seed=None):
    name = f"{camera}_{STAMPS[number]}.mp4"
    return draw_recording(place / "in" / camera / name, number if seed is None else seed)


def age(path, seconds=3600):
    """Make a file look as if it was written long ago."""
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_results_are_the_bytes_of_vigil_score(place):
    for number in range(2):
        record(place, "front", number)
        record(place, "back", number, seed=10 + number)
    assert run_watch(watch_options(place)) == 0
    assert run_score(score_options(place, out=place / "scored")) == 0
    names = [f"{path.relative_to(place / 'in')}.json" for path in (place / "in").rglob("*.mp4")]
    assert len(names) == 4
    for name in names:
        assert (place / "out" / name).read_bytes() == (place / "scored" / name).read_bytes()
    ours, theirs = (read_results(place / folder) for folder in ("out", "scored"))
    assert ours.videos == theirs.videos
    for name in ("summary.csv", "events.csv", "failures.csv"):
        assert (place / "out" / name).read_text() == (place / "scored" / name).read_text()


def test_each_content_is_scored_once_whatever_happens_to_its_file(place):
    first = record(place, number=0)
    shutil.copy2(first, first.with_name("copy.mp4"))
    shutil.copytree(first.parent, place / "in" / "back")
    assert run_watch(watch_options(place)) == 0
    rows = ledger_rows(place)
    outcomes = sorted(row.partition(":")[0] for row in rows.values())
    assert outcomes == ["repeated", "repeated", "scored", "scored"], "once for each camera"
    num_alarms = len(sent_alarms(place))
    first.rename(first.with_name("renamed.mp4"))
    assert run_watch(watch_options(place)) == 0
    assert ledger_rows(place)["front/renamed.mp4"].startswith("repeated: has the content of")
    assert len(sent_alarms(place)) == num_alarms


def test_a_file_with_new_content_under_an_old_name_is_scored(place):
    """As recorders write that use the same names in turn."""
    path = draw_recording(place / "in" / "front" / "1.mp4", seed=1)
    run_watch(watch_options(place))
    before = (place / "out" / "front" / "1.mp4.json").read_bytes()
    draw_recording(path, seed=2)
    run_watch(watch_options(place))
    assert (place / "out" / "front" / "1.mp4.json").read_bytes() != before
    assert [alarm["is_open"] for alarm in sent_alarms(place)] == [False, False]
    assert len({alarm["event"] for alarm in sent_alarms(place)}) == 2


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (score_store, "write_video", "before"),
        (score_store, "write_video", "after"),
        (Ledger, "record_video", "before"),
        (Ledger, "record_video", "after"),
        (SeenFiles, "record", "before"),
        (Overview, "add", "before"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_wherever_it_is_killed_each_recording_and_alarm_is_there_once(
    place, monkeypatch, owner, name, when
):
    """Killed at a step of the second recording."""
    for number in range(2):
        record(place, number=number)
    step, calls = getattr(owner, name), []

    def dying(*arguments, **keywords):
        calls.append(name)
        if when == "after" or len(calls) < 2:
            step(*arguments, **keywords)
        if len(calls) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            run_watch(watch_options(place))
    assert run_watch(watch_options(place)) == 0
    assert list(ledger_rows(place).values()) == ["scored"] * 2
    alarms = sent_alarms(place)
    assert [alarm["sequence"] for alarm in alarms] == [1, 2]
    assert len({alarm["event"] for alarm in alarms}) == 1
    assert len(read_results(place / "out").videos) == 2


def test_damaged_files_are_reported_once_and_the_others_go_on(place):
    record(place, number=0)
    age(truncate(record(place, number=1), 0.5))
    assert run_watch(watch_options(place)) == 3
    rows = ledger_rows(place)
    assert rows[f"front/front_{STAMPS[0]}.mp4"] == "scored"
    assert rows[f"front/front_{STAMPS[1]}.mp4"].startswith("failed: an MP4 without a valid index")
    assert STAMPS[1] in (place / "out" / "failures.csv").read_text()
    assert run_watch(watch_options(place)) == 0, "nothing is tried again"
    assert STAMPS[1] in (place / "out" / "failures.csv").read_text()


def failing(monkeypatch, owner, name, number, error):
    """Let a step fail so many times; returns the list of all its calls."""
    step, calls = getattr(owner, name), []

    def tried(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) <= number:
            raise error
        return step(*arguments, **keywords)

    monkeypatch.setattr(owner, name, tried)
    return calls


UNREADABLE = VideoError("the file cannot be read (Permission denied)", may_pass=True)


@pytest.mark.parametrize(
    ("owner", "name", "error", "reason"),
    [
        (recorder_folder, "identify", UNREADABLE, "cannot be read (Permission denied)"),
        (worker, "read_video", MemoryError(), "it needs more memory than a worker may use"),
        (worker, "read_video", OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (score_store, "open_features", UnreadableFileError("not enough memory"), "memory"),
    ],
)
def test_a_failure_that_may_pass_is_tried_again(place, monkeypatch, owner, name, error, reason):
    path = record(place)
    calls = failing(monkeypatch, owner, name, 1, error)
    assert run_watch(watch_options(place)) == 4
    (failed,) = read_results(place / "out").failures
    assert reason in failed.reason
    assert "(attempt 1 of 15, the next one at 20" in failed.reason
    assert ledger_rows(place) == {}, "it counts as new"
    assert run_watch(watch_options(place)) == 0
    assert len(calls) == 1, "it is not yet time to"
    assert [one.reason for one in read_results(place / "out").failures] == [failed.reason]
    hour = time.time() + 3600
    with monkeypatch.context() as patch:
        patch.setattr(seen_files, "time", SimpleNamespace(time=lambda: hour))
        assert run_watch(watch_options(place)) == 0
    assert ledger_rows(place) == {f"front/{path.name}": "scored"}
    assert read_results(place / "out").failures == ()
    assert len(sent_alarms(place)) == 1
    run_watch(watch_options(place, retry_failed=True))
    assert len(sent_alarms(place)) == 1, "what was scored is not scored again"


def test_attempts_end_and_begin_anew_when_asked_for(place, monkeypatch):
    path, sound = record(place), record(place, "back")
    monkeypatch.setattr(records, "RETRY_SECONDS", (0.0, 0.0))
    whole, identified = recorder_folder.identify, []

    def identify(video, beat):
        identified.append(video.name)
        if video.path == path and len(identified) < 6:
            raise UNREADABLE
        return whole(video, beat)

    monkeypatch.setattr(recorder_folder, "identify", identify)
    name = f"front/{path.name}"
    assert [run_watch(watch_options(place)) for _ in range(4)] == [3, 4, 4, 0]
    assert identified.count(name) == 3
    assert ledger_rows(place)[name].endswith("(Permission denied) (attempt 3 of 3)")
    assert "attempt 3 of 3" in (place / "out" / "failures.csv").read_text()
    again = watch_options(place, retry_failed=True)
    assert [run_watch(one) for one in (again, watch_options(place))] == [4, 0]
    assert ledger_rows(place) == {name: "scored", f"back/{sound.name}": "scored"}
    assert len(sent_alarms(place)) == 2


def test_a_damaged_file_is_tried_again_only_when_asked_for(place, monkeypatch):
    path = age(truncate(record(place), 0.5))
    tried = failing(monkeypatch, worker, "read_video", 0, None)
    assert [run_watch(watch_options(place)) for _ in range(2)] == [4, 0]
    path = path.rename(path.with_name("renamed.mp4"))
    assert run_watch(watch_options(place)) == 0, "the same content"
    assert len(tried) == 1
    assert run_watch(watch_options(place, retry_failed=True)) == 4
    assert len(tried) == 2
    assert ledger_rows(place) == {
        "front/renamed.mp4": "failed: an MP4 without a valid index: cut off, still being recorded, "
        "or damaged"
    }
    draw_recording(path)
    assert run_watch(watch_options(place)) == 0, "another content is new"
    assert ledger_rows(place)["front/renamed.mp4"] == "scored"


def test_a_file_that_is_being_written_is_left_for_the_next_round(place):
    path = record(place)
    with path.open("ab"):
        assert run_watch(watch_options(place)) == 0
        assert ledger_rows(place) == {}
    assert run_watch(watch_options(place)) == 0
    assert ledger_rows(place) == {f"front/{path.name}": "scored"}


def test_an_event_across_recordings_is_one(place):
    for number in (0, 1, 2, 5):
        record(place, number=number)
    run_watch(watch_options(place))
    alarms = sent_alarms(place)
    events = list(dict.fromkeys(alarm["event"] for alarm in alarms))
    first, second = ([one for one in alarms if one["event"] == event] for event in events)
    assert [one["sequence"] for one in first] == [1, 2, 3, 4]
    assert [one["is_open"] for one in first] == [True, True, True, False]
    assert [one["video"][-10:-4] for one in first] == ["101500", "101502", "101504", "101504"]
    assert first[2]["start_time"] == first[0]["start_time"] < first[2]["stop_time"]
    assert [one["is_open"] for one in second] == [True], "nothing came after it"


def test_results_in_the_watched_folder_are_left_alone(place):
    record(place)
    out = place / "in" / "results"
    options = watch_options(place, out=out, clips=True)
    assert run_watch(options) == 0
    assert list((out / "clips").rglob("*.mp4"))
    assert run_watch(options) == 0
    shutil.copytree(out, place / "out")
    assert list(ledger_rows(place)) == [f"front/front_{STAMPS[0]}.mp4"]


def test_only_the_newest_recordings_are_in_the_overview_but_all_files_are_there(place):
    for number in range(4):
        record(place, number=number)
    run_watch(watch_options(place, report_videos=2))
    manifest = json.loads((place / "out" / "manifest.json").read_text())
    assert len(manifest["videos"]) == 2
    assert "newest 2 recordings" in manifest["warnings"][0]
    assert len(list((place / "out" / "front").glob("*.json"))) == 4


@pytest.mark.parametrize(("keep", "num_files"), [("none", 0), ("events", 1), ("all", 1)])
def test_features_are_kept_as_asked(place, keep, num_files):
    record(place)
    run_watch(watch_options(place, keep_features=keep))
    assert len(list((place / "out" / "features").rglob("*.h5"))) == num_files


def test_without_events_there_are_neither_features_nor_alarms(place, monkeypatch):
    write_run(place, monkeypatch, EVENTLESS)
    record(place)
    run_watch(watch_options(place, keep_features="events"))
    assert list(ledger_rows(place).values()) == ["scored"]
    assert not list((place / "out" / "features").rglob("*.h5"))
    assert sent_alarms(place) == []


def test_old_results_are_removed_and_not_made_again(place, monkeypatch):
    record(place)
    options = watch_options(place, keep_days=1.0, clips=True)
    run_watch(options)
    assert len(read_results(place / "out").videos) == 1
    later = time.time() + 2 * 86400
    monkeypatch.setattr(retention.time, "time", lambda: later)
    run_watch(options)
    assert read_results(place / "out").videos == ()
    left = [path for path in (place / "out").rglob("*") if "front" in path.name]
    assert left == []
    assert len(sent_alarms(place)) == 1


def test_what_was_there_at_first_may_be_left_alone(place):
    record(place, number=0)
    options = watch_options(place, from_now=True)
    run_watch(options)
    assert ledger_rows(place) == {}
    record(place, number=1)
    run_watch(options)
    assert list(ledger_rows(place)) == [f"front/front_{STAMPS[1]}.mp4"]


def test_cameras_have_their_own_names_and_thresholds(place):
    record(place, "a", 0)
    record(place, "b", 1)
    file = place / "cameras.toml"
    file.write_text(
        f'[[camera]]\nname = "door"\naddress = "{place}/in/a"\nthreshold = 0.25\n'
        f'[[camera]]\nname = "yard"\naddress = "{place}/in/b"\n'
    )
    run_watch(watch_options(place, sources=(), cameras=file))
    found = {one.video.split("/")[0]: one for one in read_results(place / "out").videos}
    assert found["door"].threshold == 0.25
    assert found["door"].threshold_rule == "given for the camera in --cameras"
    assert found["yard"].threshold == 0.5
    told = {alarm["camera"]: alarm["threshold"] for alarm in sent_alarms(place)}
    assert told == {"door": 0.25, "yard": 0.5}


def test_results_name_a_stream_without_its_address(place):
    record(place)
    video = draw_recording(place / "watched" / "1.mp4")
    sources = (f"file://{video}", str(place / "in"))
    assert run_watch(watch_options(place, sources=sources, span="1")) == 0
    manifest = (place / "out" / "manifest.json").read_text()
    assert json.loads(manifest)["settings"]["sources"] == ["stream", str(place / "in")]
    assert str(video) not in manifest
    assert len(json.loads(manifest)["videos"]) == 2


def test_what_each_stream_does_when_late_is_logged_and_in_the_overview(place, monkeypatch, caplog):
    record(place)
    caplog.set_level("INFO")
    scored, rules = Records.scored, set()

    def interrupted(self, *arguments):
        scored(self, *arguments)
        rules.update(one for one in self.gauges.samples() if one.name == "vigil_when_late")
        raise KeyboardInterrupt

    monkeypatch.setattr(Records, "scored", interrupted)
    monkeypatch.setattr(LiveStreams, "watch", lambda self: None)  # call no camera
    file = place / "cameras.toml"
    file.write_text(
        '[[camera]]\nname = "yard"\naddress = "rtsp://127.0.0.1:1"\nwhen_late = "sparser"\n'
    )
    sources = (str(place / "in"), "rtsp://127.0.0.2:1")
    options = watch_options(place, sources=sources, cameras=file, once=False, span="1")
    assert run_watch(replace(options, when_late="keep-all")) == 0
    note = "When there is too little time for all clips: 127.0.0.2-1 keep-all, yard sparser."
    assert note in json.loads((place / "out" / "manifest.json").read_text())["warnings"]
    assert note in caplog.messages
    found = {(*dict(one.labels).values(), one.value) for one in rules}
    assert found == {("127.0.0.2-1", "keep-all", 1), ("yard", "sparser", 1)}


def test_a_disk_without_room_stops_nothing_but_scoring(place, monkeypatch, caplog):
    """Free space: too little, and enough from the third look on."""
    looks = iter([0, 0])
    usage = shutil.disk_usage(place)._replace(free=2**40)

    def disk_usage(_folder):
        return usage._replace(free=next(looks, 2**40))

    monkeypatch.setattr("vigil.pipeline.watching.free_space.shutil.disk_usage", disk_usage)
    monkeypatch.setattr("vigil.pipeline.watching.free_space.CHECK_SECONDS", 0.0)
    record(place)
    assert run_watch(watch_options(place, min_free_gib=1.0)) == 0
    assert "less than --min-free-gib 1" in caplog.text
    assert list(ledger_rows(place).values()) == ["scored"]


def test_one_run_at_a_time(place):
    run_watch(watch_options(place))
    with open_lock(place / "out") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is writing"):
            run_watch(watch_options(place))


def test_a_missing_library_is_named_and_only_folders_need_it(place, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(UserError, match=r"needs watchfiles.*pip install"):
        run_watch(watch_options(place))
    video = draw_recording(place / "1.mp4")
    assert run_watch(watch_options(place, sources=(f"file://{video}",), span="1")) == 0
    assert len(read_results(place / "out").videos) == 1


def test_results_of_vigil_score_are_not_overwritten(place):
    record(place)
    run_score(score_options(place, out=place / "out"))
    with pytest.raises(UserError, match="holds the results of vigil score"):
        run_watch(watch_options(place))


def test_being_stopped_is_no_failure_and_the_overview_is_written(place, monkeypatch):
    """As on Ctrl-C or SIGTERM; what was being scored is scored by the next run."""
    for number in range(3):
        record(place, number=number)
    scored = Records.scored

    def interrupted(self, *arguments):
        scored(self, *arguments)
        raise KeyboardInterrupt("terminated")

    with monkeypatch.context() as patch:
        patch.setattr(Records, "scored", interrupted)
        assert run_watch(watch_options(place, once=False)) == 0
        with pytest.raises(KeyboardInterrupt):
            run_watch(watch_options(place))
    assert len(read_results(place / "out").videos) == 2
    assert run_watch(watch_options(place)) == 0
    assert len(read_results(place / "out").videos) == 3


def test_an_error_of_the_thread_that_watches_ends_the_run(place, monkeypatch):
    record(place)
    monkeypatch.setattr(RecorderFolders, "_settle", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_watch(watch_options(place))


def test_a_file_that_changes_while_it_is_read_is_read_again(place, monkeypatch):
    path = record(place)
    whole, grown = path.read_bytes(), []
    take = RecorderFolders.take

    def growing(self, number):
        taken = take(self, number)
        if taken and not grown:
            grown.append(path.write_bytes(whole + whole[:100]))
        return taken

    monkeypatch.setattr(RecorderFolders, "take", growing)
    run_watch(watch_options(place))
    run_watch(watch_options(place))
    assert list(ledger_rows(place).values()) == ["scored"]
    result = read_results(place / "out").videos[0]
    assert result.num_frames_decoded == 50


def test_a_file_that_is_removed_before_it_is_read_is_no_failure(place, monkeypatch, caplog):
    path, kept = record(place), record(place, number=1)
    take = RecorderFolders.take

    def removing(self, number):
        taken = take(self, number)
        path.unlink(missing_ok=True)
        return taken

    monkeypatch.setattr(RecorderFolders, "take", removing)
    assert run_watch(watch_options(place)) == 0
    assert list(ledger_rows(place)) == [f"front/{kept.name}"]


def test_a_full_disk_does_not_end_it(place, monkeypatch, caplog):
    record(place)
    failures = iter([OSError(errno.ENOSPC, "No space left on device", "some file")])
    score = Scorer.score

    def filling(self, *arguments):
        if (failure := next(failures, None)) is not None:
            raise failure
        score(self, *arguments)

    monkeypatch.setattr("vigil.pipeline.watching.free_space.CHECK_SECONDS", 0.0)
    monkeypatch.setattr(Scorer, "score", filling)
    assert run_watch(watch_options(place)) == 0
    assert "no space is left" in caplog.text
    run_watch(watch_options(place))
    assert list(ledger_rows(place).values()) == ["scored"]


def test_without_its_index_it_asks_the_ledger_and_scores_nothing_again(place):
    for number in range(2):
        record(place, number=number)
    run_watch(watch_options(place))
    alarms, before = sent_alarms(place), read_results(place / "out").videos
    for path in (place / "out").glob("seen.sqlite*"):
        path.unlink()
    run_watch(watch_options(place))
    assert sent_alarms(place) == alarms
    assert read_results(place / "out").videos == before


def test_an_event_that_nothing_continues_is_closed_at_last(place, monkeypatch):
    record(place)
    run_watch(watch_options(place))
    assert [alarm["is_open"] for alarm in sent_alarms(place)] == [True]
    monkeypatch.setattr(records, "CLOSE_SECONDS", -records.UNKNOWN_LENGTH_SECONDS)
    run_watch(watch_options(place))
    assert [alarm["is_open"] for alarm in sent_alarms(place)] == [True, False]


def test_figures_tell_what_was_done(place, monkeypatch):
    record(place)
    age(truncate(record(place, number=1), 0.5))
    seen = []
    monkeypatch.setattr(session, "Gauges", lambda: seen.append(Gauges()) or seen[-1])
    run_watch(watch_options(place))
    figures = {(one.name, *dict(one.labels).values()): one.value for one in seen[0].samples()}
    assert figures["vigil_recordings_total", "front", "scored"] == 1
    assert figures["vigil_recordings_total", "front", "failed"] == 1
    assert figures["vigil_recordings_waiting",] == 0
    assert figures["vigil_lag_seconds", "front"] >= 0


def test_a_full_disk_loses_no_recording_that_waits_for_an_earlier_one(place, monkeypatch):
    """The later recording is larger, so it is scored first, and waits to be recorded."""
    record(place, number=0)
    encode(place / "in" / "front" / f"front_{STAMPS[1]}.mp4", draw_frames(150, 64, 48, 1))
    score, scored = Scorer.score, []

    def filling(self, video, path):
        scored.append(video)
        if len(scored) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "some file")
        score(self, video, path)

    monkeypatch.setattr("vigil.pipeline.watching.free_space.CHECK_SECONDS", 0.0)
    monkeypatch.setattr(Scorer, "score", filling)
    assert run_watch(watch_options(place)) == 0
    assert scored[0].endswith(f"{STAMPS[1]}.mp4")
    run_watch(watch_options(place))
    assert list(ledger_rows(place).values()) == ["scored"] * 2


@pytest.mark.slow  # it starts programs, and kills them
def test_a_watch_that_is_killed_again_and_again_forgets_and_repeats_nothing(capsys):
    assert watching.main(watching.Options(segments=16, every=0.5, kills=3)) == 0
    assert capsys.readouterr().out.endswith("3 kills, 0 problems\n")
