"""The harness that kills runs: its parts, what it detects, and a short run of it."""

import errno
import signal
import time
from dataclasses import replace
from random import Random

import pytest
from builders import make_features, write_store

from bench.processes import running
from bench.reliability import chaos, faults, soak
from bench.reliability.chaos_store import DisturbedStore, damage
from bench.reliability.compare import (
    differences,
    feature_content,
    results_content,
    training_content,
)
from bench.reliability.disks import small_disk
from bench.reliability.faults import LITTLE_MEMORY, WORKER_KILL, Tally, processes_left, strike
from bench.reliability.soak_kills import score_killed
from bench.reliability.tiny import make_run
from bench.videos import draw_video, repeat_video
from vigil.extract.store import feature_path

SLEEP = ["-c", "import time; time.sleep(60)"]
AWAKE = ["-c", "import sys, time; print('awake', file=sys.stderr, flush=True); time.sleep(60)"]
VIDEOS = [make_features(f"{name}.mp4", seed=seed) for seed, name in enumerate("abc")]


@pytest.fixture
def tally():
    return Tally()


@pytest.fixture
def store(tmp_path, tally):
    """A store equal to its reference except for the time of writing."""
    write_store(tmp_path / "reference", *VIDEOS)
    later = "2022-02-02T00:00:00+00:00"
    write_store(tmp_path / "store", *(replace(video, created_at=later) for video in VIDEOS))
    return DisturbedStore(tmp_path / "store", [tmp_path / "reference"], tally)


class TestStore:
    def test_files_that_differ_only_in_time_are_as_expected(self, store, tally):
        store.check_end()
        assert tally.problems() == []

    @pytest.mark.parametrize(
        "change",
        [
            {"features": VIDEOS[0].features + 1e-7},
            {"num_frames_container": 81},
            {"weights_name": "some"},
            {"segment_seconds": VIDEOS[0].segment_seconds + 1e-12},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_any_other_change_is_a_difference(self, store, tally, change):
        write_store(store.folder, replace(VIDEOS[0], **change))
        store.check(set(), is_complete=False)
        assert tally.problems() == ["differing: a.mp4"]

    def test_missing_and_additional_files_are_detected(self, store, tally):
        whole = store.whole()
        feature_path(store.folder, "b.mp4").unlink()
        (store.folder / ".half").touch()
        store.check(whole - {"b.mp4"}, is_complete=False)
        assert tally.problems() == []
        store.check(whole, is_complete=False)
        assert tally.problems() == ["lost: b.mp4"]
        store.check_end()
        assert tally.problems() == ["lost: b.mp4", "lost: b.mp4", "leftovers: .half"]

    def test_corrupted_files_may_stay_until_a_run_ends(self, store, tally):
        store.spoil(Random(1))
        assert store.share_missing() > 0
        whole = store.whole()
        store.check(whole, is_complete=False)
        assert tally.problems() == []
        store.check(whole, is_complete=True)
        assert len(tally.lost) + len(tally.differing) == 3 - len(whole)

    def test_a_truncated_file_is_a_difference(self, store, tally):
        path = feature_path(store.folder, "c.mp4")
        path.write_bytes(path.read_bytes()[:700])
        store.check(set(), is_complete=False)
        assert tally.differing == ["c.mp4"]

    def test_damage_is_seeded_and_real(self, tmp_path):
        path = tmp_path / "a"
        for seed in range(20):
            path.write_bytes(bytes(100))
            damaged = damage(path, Random(seed))
            assert path.read_bytes() == damaged != bytes(100)
            path.write_bytes(bytes(100))
            assert damage(path, Random(seed)) == damaged


class TestTally:
    def test_unexpected_exits_are_problems(self, tally):
        tally.end("SIGINT", 130, {130}, "")
        tally.end("SIGINT", 1, {130}, "Traceback")
        tally.end("SIGINT", None, set(), "hung")
        tally.end(LITTLE_MEMORY, -6, set(), "")
        assert len(tally.unexpected) == 2
        assert "| SIGINT        |     1 |        0 | 130: 1     |" in tally.table()
        assert tally.summary() == ("0 files lost, 0 differing, 0 leftovers, 2 unexpected ends")


class TestFaults:
    @pytest.mark.parametrize("kind", faults.SIGNALS)
    def test_signals_reach_the_program(self, kind):
        with running(AWAKE) as program:
            while not program.messages():
                time.sleep(0.01)
            assert strike(kind, program, 0, Random(0))
            assert program.wait(10) == -faults.SIGNALS[kind]

    @pytest.mark.parametrize("kind", [*faults.SIGNALS, LITTLE_MEMORY, WORKER_KILL])
    def test_a_program_that_has_ended_cannot_be_struck(self, kind):
        with running(["-c", "pass"]) as program:
            assert not strike(kind, program, 10, Random(0))

    def test_only_a_worker_is_killed(self):
        """A spawned process is a worker; its parent's exit code shows how it ended."""
        code = """
import multiprocessing, sys, time
process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
process.start()
process.join()
sys.exit(-process.exitcode)
"""
        with running(["-c", code]) as program:
            assert strike(WORKER_KILL, program, 0, Random(0))
            assert program.wait(10) == signal.SIGKILL

    def test_a_starved_program_gets_no_more_memory(self):
        code = """
import sys, time
time.sleep(0.5)
try:
    bytearray(1 << 30)
except MemoryError:
    sys.exit(7)
"""
        with running(["-c", code]) as program:
            assert strike(LITTLE_MEMORY, program, 0.2, Random(0))
            assert program.wait(10) == 7

    def test_orphans_are_found_and_killed(self, monkeypatch):
        monkeypatch.setattr(faults, "GRACE_SECONDS", 0.5)
        code = f"import subprocess, sys; subprocess.Popen([sys.executable, *{SLEEP!r}])"
        with running(["-c", code]) as program:
            assert program.wait(10) == 0
            assert processes_left(program) == 1
            assert processes_left(program) == 0


def test_a_small_disk_fills_up(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        (disk.folder / "a").write_bytes(bytes(100_000))
        disk.leave(50_000)
        with pytest.raises(OSError, match="No space left") as error:
            (disk.folder / "b").write_bytes(bytes(100_000))
        assert error.value.errno == errno.ENOSPC
        disk.resize()
        (disk.folder / "b").write_bytes(bytes(100_000))
    assert not list((tmp_path / "disk").iterdir())


def test_times_are_not_part_of_a_trainings_content(tmp_path):
    for name, created_at in {"a": "1999", "b": "2000"}.items():
        (tmp_path / name / "last").mkdir(parents=True)
        (tmp_path / name / "last" / "config.json").write_text(
            f'{{"seed": 1, "created_at": "{created_at}"}}'
        )
        (tmp_path / name / "tensorboard").mkdir()
        (tmp_path / name / "tensorboard" / created_at).touch()
        (tmp_path / name / ".lock").write_text(created_at)
    assert training_content(tmp_path / "a") == training_content(tmp_path / "b")
    (tmp_path / "a" / "log.csv").touch()
    assert training_content(tmp_path / "a") != training_content(tmp_path / "b")


def test_strings_and_numbers_are_part_of_a_feature_files_content(store):
    content = feature_content(feature_path(store.folder, "a.mp4"))
    assert {"/segments/features", "views", "video_path", "num_frames_decoded"} <= content.keys()
    assert "created_at" not in content


@pytest.mark.slow  # the whole harness; test_extraction also kills a run
def test_killed_extractions_end_like_undisturbed_ones(capsys):
    assert chaos.main(chaos.Options(runs=1, short=True)) == 0
    assert capsys.readouterr().out.endswith(
        "1 kills, 0 files lost, 0 differing, 0 leftovers, 0 unexpected ends\n"
    )


def test_results_are_equal_but_for_their_times(tmp_path):
    for name, created_at in (
        ("a", "2021-01-01T00:00:00+00:00"),
        ("b", "2022-02-02T00:00:00+00:00"),
    ):
        write_store(tmp_path / name / "features", replace(VIDEOS[0], created_at=created_at))
        (tmp_path / name / "manifest.json").write_text(created_at)
        (tmp_path / name / "a.mp4.json").write_text("{}")
    content = results_content(tmp_path / "a")
    assert len(content) == 2
    assert differences(content, results_content(tmp_path / "b")) == []
    (tmp_path / "b" / "a.mp4.json").write_text("{ }")
    (tmp_path / "b" / "features" / ".0.clips").touch()
    expected = ["a.mp4.json", "features/.0.clips"]
    assert differences(content, results_content(tmp_path / "b")) == expected


@pytest.mark.slow
def test_a_long_video_is_scored_to_the_same_bits_however_often_that_is_killed(tmp_path):
    videos, run = tmp_path / "videos", make_run(tmp_path)
    videos.mkdir()
    scene = draw_video(tmp_path / "scene.mp4", 128, 96, 600)
    repeat_video(scene, videos / soak.LONGEST, 36)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    soak.score(soak.scoring(videos, run, whole))
    arguments = soak.scoring(videos, run, killed)
    starts = list(score_killed(arguments, killed, whole, soak.LONGEST, 2))
    assert starts[0] == "killed while extracting: nothing was there"
    assert "clips were there" in starts[1]
    assert "1 already extracted" in starts[2]
    assert differences(results_content(whole), results_content(killed)) == []
