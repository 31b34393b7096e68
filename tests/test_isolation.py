"""Faults of decoders and videos may cost a worker or a video, but never the run."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from commands import ROOT, run_python
from fake_backbone import make_engine
from faulty_workers import FRAME, faulty_worker
from video_files import NUM_FRAMES, draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import decoder, reader
from vigil.extract.decode.decoder import open_container, probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.decoder_decord import DecordDecoder
from vigil.extract.decode.reader import Finished, ReadingOptions, Restart, read_video
from vigil.extract.decode.worker import Task, TaskFinished
from vigil.extract.engine import pool
from vigil.extract.engine.dispatch import num_bytes
from vigil.extract.engine.pool import WorkerDied, WorkerLimits, WorkerPool
from vigil.extract.errors import FailedVideo, VideoError
from vigil.extract.processes import spawn
from vigil.extract.source import SourceVideo
from vigil.extract.store import feature_path, verify_features

OPTIONS = ReadingOptions(ClipGrid(), None)
STILL = "no heartbeat for 2 s: raise stall_seconds"
MEMORY = "it needs more memory than a worker may use: raise worker_memory_gib"
SIGSEGV = "the decoder process died (signal 11)"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """A run over good and bad videos: its store, and its outcomes by name."""
    folder = tmp_path_factory.mktemp("faulty")
    names = ["good", "hang_decord", "hang_always", "hang_opening", "crash_decord"]
    names += ["crash_always", "crash_opening", "eat_decord", "eat_always", "good_too"]
    videos = []
    for seed, name in enumerate(names):
        path = encode(folder / f"{name}.mp4", draw_frames(seed=seed))
        videos.append(SourceVideo(path, path.name))
    limits = WorkerLimits(stall_seconds=2, memory_bytes=200 << 20)
    engine = make_engine(num_workers=2, decoder="auto", limits=limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "worker_process", faulty_worker)
        found = list(engine.extract(sorted(videos, key=num_bytes), folder / "store"))
    assert sorted(outcome.video for outcome in found) == sorted(v.name for v in videos)
    return folder / "store", {outcome.video: outcome for outcome in found}


class TestADecoder:
    """Its faults cost its worker, and at most its video."""

    @pytest.mark.parametrize("name", ["good", "good_too"])
    def test_other_videos_are_unaffected(self, outcomes, name):
        store, by_name = outcomes
        assert by_name[f"{name}.mp4"].features.decoder == "decord"
        assert verify_features(feature_path(store, f"{name}.mp4")).num_frames_decoded == NUM_FRAMES

    @pytest.mark.parametrize("name", ["hang_decord", "crash_decord", "eat_decord"])
    def test_the_next_decoder_reads_the_video(self, outcomes, name):
        store, by_name = outcomes
        assert by_name[f"{name}.mp4"].features.decoder == "pyav"
        assert verify_features(feature_path(store, f"{name}.mp4")).num_frames_decoded == NUM_FRAMES

    @pytest.mark.parametrize(
        ("name", "reason", "decoder", "frame"),
        [
            ("hang_always", STILL, "pyav", FRAME),
            ("hang_opening", STILL, "", 0),
            ("crash_always", SIGSEGV, "pyav", FRAME),
            ("crash_opening", SIGSEGV, "", 0),
            ("eat_always", MEMORY, "pyav", FRAME),
        ],
    )
    def test_a_video_that_no_decoder_can_read_is_named(
        self, outcomes, name, reason, decoder, frame
    ):
        _, by_name = outcomes
        assert by_name[f"{name}.mp4"] == FailedVideo(f"{name}.mp4", reason, decoder, frame)

    def test_no_process_or_partial_file_is_left(self, outcomes):
        store, _ = outcomes
        assert not multiprocessing.active_children()
        assert {path.suffix for path in store.iterdir()} == {".h5"}


class TestWatch:
    """Which workers are killed, and when."""

    @pytest.fixture
    def workers(self):
        workers = WorkerPool(OPTIONS, 1, WorkerLimits(stall_seconds=5))
        yield workers
        workers.close()

    @pytest.fixture
    def clock(self, monkeypatch, workers):
        clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
        monkeypatch.setattr(pool, "time", clock)
        workers._watched_at = 0.0
        return clock

    def pass_seconds(self, workers, clock, num_seconds, step=1.0):
        for _ in range(int(num_seconds / step)):
            clock.now += step
            workers.watch()

    @pytest.fixture
    def stopped(self, workers, tmp_path):
        """A worker that has a task but sends no heartbeat."""
        path = encode(tmp_path / "a.mp4")
        assert workers.assign(Task(0, SourceVideo(path, "a.mp4")))
        (process,) = multiprocessing.active_children()
        os.kill(process.pid, signal.SIGSTOP)
        return process

    def test_a_worker_without_a_heartbeat_is_killed(self, workers, clock, stopped):
        self.pass_seconds(workers, clock, 5)
        stopped.join(60)
        assert stopped.exitcode == -signal.SIGKILL
        (connection,) = workers.connections
        assert workers.receive(connection) == (
            0,
            WorkerDied(0, "no heartbeat for 5 s: raise stall_seconds", "", 0, may_pass=True),
        )

    def test_time_in_which_nobody_watched_does_not_count(self, workers, clock, stopped):
        """For example, while the whole run was suspended or waited for the disk."""
        self.pass_seconds(workers, clock, 2000, step=1000)
        assert stopped.is_alive()

    def test_a_worker_with_a_heartbeat_is_kept(self, workers, clock, stopped):
        for _ in range(3):
            self.pass_seconds(workers, clock, 4)
            workers._workers[0].pulse.beat()
        assert stopped.is_alive()

    def test_waiting_for_a_free_slot_is_not_stalling(self, workers, clock, stopped):
        workers._workers[0].pulse.is_waiting = True
        self.pass_seconds(workers, clock, 60)
        assert stopped.is_alive()

    def test_an_idle_worker_needs_no_heartbeat(self, workers, clock, tmp_path):
        path = encode(tmp_path / "a.mp4", draw_frames(3))
        assert workers.assign(Task(0, SourceVideo(path, "a.mp4")))
        (connection,) = workers.connections
        while not isinstance(workers.receive(connection)[1], TaskFinished):
            pass
        self.pass_seconds(workers, clock, 60)
        assert workers.num_running == 1
        assert multiprocessing.active_children()[0].is_alive()


def test_workers_are_replaced_now_and_then(tmp_path, monkeypatch):
    """Decoders leak memory on damaged videos."""
    started = []
    spawn = pool.spawn
    monkeypatch.setattr(pool, "spawn", lambda *how: started.append(1) or spawn(*how))
    monkeypatch.setattr(pool, "MAX_TASKS", 2)
    path = encode(tmp_path / "a.mp4", draw_frames(3))
    videos = [SourceVideo(path, f"{number}.mp4") for number in range(5)]
    outcomes = list(make_engine(num_workers=1).extract(videos, tmp_path / "store"))
    assert {outcome.features.num_frames_decoded for outcome in outcomes} == {3}
    assert len(started) == 3


def test_an_interruption_waits_until_a_process_is_started(monkeypatch):
    """A partly started process would print a traceback."""
    process_class = type(get_context("spawn").Process())
    start = process_class.start

    def start_slowly(process):
        os.kill(os.getpid(), signal.SIGINT)
        start(process)

    monkeypatch.setattr(process_class, "start", start_slowly)
    with pytest.raises(KeyboardInterrupt):
        spawn(signal.pause, (), "child")
    (child,) = multiprocessing.active_children()
    assert child.is_alive()
    child.kill()
    child.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_hangs_ends_with_the_one_that_started_it(tmp_path):
    program = (
        "import os, signal, sys; from vigil.extract.processes import spawn\n"
        "if __name__ == '__main__':\n"
        "    child = spawn(signal.pause, (), 'child')\n"
        "    print(child.pid, flush=True)\n"
        "    child.join()"
    )
    path = tmp_path / "program.py"
    path.write_text(program)
    with subprocess.Popen(
        [sys.executable, str(path)], env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.5)  # until its target runs
        parent.kill()
    for _ in range(600):
        if not is_running(child):
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its parent")


def is_running(process_id):
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestLimits:
    """Files made to exhaust a machine."""

    def test_a_file_of_many_streams_is_refused(self, tmp_path):
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as container:
            streams = [container.add_stream("mpeg4", 25) for _ in range(65)]
            for stream in streams:
                stream.width = stream.height = 16
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
            for stream in streams:
                container.mux(stream.encode(frame))
        with pytest.raises(VideoError, match="holds 65 streams, more than 64"):
            open_container(path)

    def test_frames_that_are_too_large_are_refused_before_they_are_decoded(
        self, tmp_path, monkeypatch
    ):
        path = encode(tmp_path / "a.mp4")
        monkeypatch.setattr(decoder, "MAX_FRAME_PIXELS", 256 * 240 - 1)
        with pytest.raises(VideoError, match="its frames of 256x240 pixels are too large"):
            probe(path)

    def test_frames_that_grow_too_large_count_as_damaged(self, tmp_path, monkeypatch):
        """Two videos in one stream, the second with larger pictures."""
        small = encode(tmp_path / "a.h264", draw_frames(5, 240, 232))
        large = encode(tmp_path / "b.h264", draw_frames(5, 480, 464))
        small.write_bytes(small.read_bytes() + large.read_bytes())
        *_, finished = read_video(SourceVideo(small, "a"), OPTIONS, "pyav")
        assert len(finished.timestamps) == 10
        monkeypatch.setattr(decoder, "MAX_FRAME_PIXELS", 400 * 400)
        *_, finished = read_video(SourceVideo(small, "a"), OPTIONS, "pyav")
        assert len(finished.timestamps) == 5

    def test_an_endless_video_is_given_up(self, tmp_path, monkeypatch):
        video = SourceVideo(encode(tmp_path / "a.mp4"), "a.mp4")
        monkeypatch.setattr(reader, "MAX_FRAMES", NUM_FRAMES)
        assert isinstance(list(read_video(video, OPTIONS))[-1], Finished)
        monkeypatch.setattr(reader, "MAX_FRAMES", NUM_FRAMES - 1)
        with pytest.raises(VideoError, match="has more than 19 frames"):
            list(read_video(video, OPTIONS, "pyav"))


class TestLists:
    """decord would open whatever files a list names."""

    @pytest.mark.parametrize("beginning", [b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n", b"ffconcat "])
    def test_decord_does_not_get_a_possible_list(self, tmp_path, beginning):
        """PyAV finds a transport stream after the text; decord's older FFmpeg finds a playlist."""
        path = encode(tmp_path / "a.ts")
        path.write_bytes(beginning + path.read_bytes())
        with pytest.raises(VideoError, match="decord may mistake it for a list of other files"):
            DecordDecoder(path, probe(path), 256, 240)
        *messages, finished = read_video(SourceVideo(path, "a.ts"), OPTIONS)
        assert Restart("decord may mistake it for a list of other files") in messages
        assert finished.decoder == "pyav"

    def test_decord_does_not_get_a_name_that_is_a_pattern(self, tmp_path):
        path = encode(tmp_path / "a%03d.mp4")
        *_, finished = read_video(SourceVideo(path, "a"), OPTIONS)
        assert finished.decoder == "pyav"

    @pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm", "avi", "ts", "flv", "wmv"])
    def test_no_usual_container_looks_like_a_list(self, tmp_path, ending):
        codec = {"webm": "libvpx", "wmv": "wmv2"}.get(ending, "libx264")
        path = encode(tmp_path / f"a.{ending}", draw_frames(5), codec=codec)
        DecordDecoder(path, probe(path), 256, 240).close()


@pytest.mark.parametrize("is_read", [False, True])
def test_running_out_of_memory_is_not_damage(tmp_path, monkeypatch, is_read):
    """Otherwise some frames of an 8K video would be decoded and the others counted as lost."""

    def get_no_memory(_what):
        raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")

    path = encode(tmp_path / "a.mp4")
    video = AvDecoder(path, probe(path), 256, 240)
    packet = next(av.open(str(path)).demux(video=0))
    demux = (lambda _stream: iter([packet])) if is_read else get_no_memory
    codec = SimpleNamespace(decode=get_no_memory)
    monkeypatch.setattr(video, "_container", SimpleNamespace(demux=demux))
    monkeypatch.setattr(video, "_codec", codec)
    with pytest.raises(MemoryError):
        list(video)


def test_a_script_that_spawns_at_its_top_level_does_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from vigil.extract.processes import spawn\n"
        "import os, sys\n"
        "print('ran', flush=True)\n"
        "child = spawn(os.write, (1, b'child\\n'), 'a child')\n"
        "child.join()\n"
        "assert sys.modules['__main__'].child is child\n"
    )
    run = run_python(script, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (run.stdout, run.stderr, run.returncode) == ("ran\nchild\n", "", 0)
