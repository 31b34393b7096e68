"""The decode worker in a thread and in a process, against `read_video`."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
from commands import ROOT
from video_files import damage, draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import worker as worker_module
from vigil.extract.decode.pulse import Pulse
from vigil.extract.decode.reader import (
    Clip,
    Finished,
    ReadingOptions,
    Restart,
    SplitVideo,
    read_part,
    read_video,
)
from vigil.extract.decode.ring import ClipRing
from vigil.extract.decode.worker import (
    ClipReady,
    Release,
    Restarted,
    Task,
    TaskFailed,
    TaskFinished,
    WasSplit,
    run_worker,
    worker_process,
)
from vigil.extract.errors import UserError
from vigil.extract.processes import spawn
from vigil.extract.source import SourceVideo

OPTIONS = ReadingOptions(ClipGrid(8, 4), None, clips_per_part=8)
NUM_SLOTS = 4


class Line:
    """The other end of a worker's connection."""

    def __init__(self, connection, ring, runner):
        self.connection, self.ring, self.runner = connection, ring, runner

    def send(self, message):
        self.connection.send(message)

    def receive(self):
        assert self.connection.poll(60)
        return self.connection.recv()

    def do(self, task):
        """Return all messages of a task, with clips in place of their slots."""
        self.send(task)
        messages = []
        while not messages or not isinstance(messages[-1], TaskFinished | TaskFailed | WasSplit):
            message = self.receive()
            assert message.task == task.number
            if isinstance(message, ClipReady):
                clip = self.ring.clip(message.slot).copy()
                self.send(Release(message.slot.index))
                messages.append((message.clip_index, clip))
            else:
                messages.append(message)
        return messages

    def ends(self):
        self.runner.join(60)
        return not self.runner.is_alive()


@contextmanager
def start(kind):
    here, there = multiprocessing.Pipe()
    ring = ClipRing()
    if kind == "thread":

        def run():
            with there:
                run_worker(there, ring, OPTIONS, Pulse())

        runner = threading.Thread(target=run, daemon=True)
        runner.start()
    else:
        runner = spawn(worker_process, (there, ring, OPTIONS, Pulse(), 1 << 30, 10), "vigil-worker")
        there.close()
    with here:
        yield Line(here, ring, runner)
    runner.join(60)
    assert not runner.is_alive()
    ring.close()


@pytest.fixture(scope="module", params=["thread", "process"])
def line(request):
    """A worker that all tests share, so none of them may break it."""
    with start(request.param) as line:
        yield line


@pytest.fixture
def thread_line():
    with start("thread") as line:
        yield line


def source(path):
    return SourceVideo(path, path.name)


def expected(task):
    """The output of `read_video` as messages of a worker."""
    if task.part is None:
        read = read_video(task.video, OPTIONS, task.decoder, may_split=task.may_split)
    else:
        read = read_part(task.video, task.part, OPTIONS)
    first_clip = clip_index = task.part.first_clip if task.part else 0
    for message in read:
        if isinstance(message, Clip):
            yield clip_index, message.pixels
            clip_index += 1
        elif isinstance(message, Restart):
            clip_index = first_clip
            yield Restarted(task.number, message.reason)
        elif isinstance(message, Finished):
            yield TaskFinished(task.number, message)


def clips_of(video):
    messages = read_video(video, OPTIONS, "pyav")
    return [message.pixels for message in messages if isinstance(message, Clip)]


def assert_as_read(line, task):
    messages, should_be = line.do(task), list(expected(task))
    assert_same(messages, should_be)
    return messages


def assert_same(messages, should_be):
    for left, right in zip(messages, should_be, strict=True):
        if isinstance(left, TaskFinished):
            np.testing.assert_array_equal(left.finished.timestamps, right.finished.timestamps)
            np.testing.assert_array_equal(left.finished.damage.frames, right.finished.damage.frames)
            assert left.finished.damage.num_lost == right.finished.damage.num_lost
            arrays = {name: getattr(left.finished, name) for name in ("timestamps", "damage")}
            assert replace(right.finished, **arrays).__dict__ == left.finished.__dict__
        elif isinstance(left, tuple):
            assert left[0] == right[0]
            np.testing.assert_array_equal(left[1], right[1])
        else:
            assert left == right


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_messages_match_read_video(line, tmp_path, decoder):
    video = source(encode(tmp_path / "a.mp4"))
    assert len(assert_as_read(line, Task(7, video, decoder))) == 5


def test_clips_start_again_after_a_restart(line, tmp_path):
    video = source(damage(encode(tmp_path / "a.mp4"), [15], fill=255))
    messages = line.do(Task(1, video))
    restart = next(k for k, message in enumerate(messages) if isinstance(message, Restarted))
    assert "decord" in messages[restart].reason
    assert [index for index, _ in messages[:restart]] == list(range(restart))
    assert_same(messages[restart + 1 :], expected(Task(1, video, "pyav")))


def test_a_split_video_and_its_parts(line, tmp_path):
    params = {"x264-params": "keyint=8:scenecut=0"}
    video = source(encode(tmp_path / "a.mp4", draw_frames(96, 224, 224), codec_options=params))
    (divided,) = line.do(Task(1, video, "pyav", may_split=True))
    (read,) = read_video(video, OPTIONS, "pyav", may_split=True)
    assert isinstance(read, SplitVideo)
    assert [part.first_clip for part in divided.parts] == [p.first_clip for p in read.parts]
    assert len(divided.parts) == 2
    for number, part in enumerate(divided.parts):
        assert_as_read(line, Task(number, video, part=part))
    wrong = replace(divided.parts[1], frame_pts=divided.parts[1].frame_pts + 1)
    *_, failed = line.do(Task(9, video, part=wrong))
    assert (failed.task, failed.decoder, failed.frame_index) == (9, "pyav", 0)
    assert "not the frames that its packets promise" in failed.reason


def test_the_frames_of_a_part_are_freed_before_the_next_one(thread_line, tmp_path):
    num_frames, params = 96, {"x264-params": "keyint=8:scenecut=0"}
    video = source(encode(tmp_path / "a.mp4", draw_frames(num_frames), codec_options=params))
    (divided,) = thread_line.do(Task(0, video, "pyav", may_split=True))

    def num_alive():
        return sum(type(one) is av.VideoFrame for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for number in range(8):
            thread_line.do(Task(number, video, part=divided.parts[1]))
        assert num_alive() <= num_frames  # those of the last part may still be there
    finally:
        gc.enable()


def test_a_video_that_fails_does_not_stop_the_next(line, tmp_path):
    (failed,) = line.do(Task(1, source(tmp_path / "none.mp4")))
    assert failed == TaskFailed(1, "there is no such file", "", 0)
    path = damage(encode(tmp_path / "a.mp4"), [15], fill=255)
    *_, failed = line.do(Task(2, source(path), "decord"))
    assert failed.decoder == "decord"
    assert "damaged" in failed.reason
    assert_as_read(line, Task(3, source(encode(tmp_path / "b.mp4", draw_frames(9, 320, 240)))))


def test_a_bug_in_one_video_does_not_stop_the_next(thread_line, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError("oh")

    video = source(encode(tmp_path / "a.mp4"))
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "read_video", fails)
        (failed,) = thread_line.do(Task(1, video))
    assert failed == TaskFailed(1, "unexpected ZeroDivisionError: oh", "", 0)
    assert_as_read(thread_line, Task(2, video))


def test_without_releases_only_the_slots_are_filled(line, tmp_path):
    video = source(encode(tmp_path / "a.mp4", draw_frames(40)))
    line.send(Task(1, video))
    ready = [line.receive() for _ in range(NUM_SLOTS)]
    assert [message.clip_index for message in ready] == list(range(NUM_SLOTS))
    assert len({message.slot.index for message in ready}) == NUM_SLOTS
    assert not line.connection.poll(0.3)
    clips = clips_of(video)
    for number, message in enumerate(ready):
        np.testing.assert_array_equal(line.ring.clip(message.slot), clips[number])
    for number in range(NUM_SLOTS, len(clips)):
        line.send(Release(ready[number - NUM_SLOTS].slot.index))
        ready.append(line.receive())
        np.testing.assert_array_equal(line.ring.clip(ready[-1].slot), clips[number])
    assert isinstance(line.receive(), TaskFinished)
    for message in ready[-NUM_SLOTS:]:
        line.send(Release(message.slot.index))


def test_a_task_may_come_while_another_waits_for_a_slot(line, tmp_path):
    video = source(encode(tmp_path / "a.mp4", draw_frames(40)))
    line.send(Task(1, video))
    held = [line.receive() for _ in range(NUM_SLOTS)]
    line.send(Task(2, source(tmp_path / "none.mp4")))
    while isinstance(held[-1], ClipReady):
        line.send(Release(held.pop(0).slot.index))
        held.append(line.receive())
    assert isinstance(held[-1], TaskFinished)
    for message in held[:-1]:
        line.send(Release(message.slot.index))
    assert line.receive().task == 2


def test_waiting_for_a_slot_does_not_count_as_decoding(thread_line, tmp_path, monkeypatch):
    """By a clock that decoding advances by 3 per clip, and waiting by 1000."""
    now = 0
    next_clip = thread_line.ring.next_clip

    def pass_time(seconds):
        nonlocal now
        now += seconds

    def wait_long(shape):
        clip = next_clip(shape)
        pass_time(1000 if clip is None else 0)
        return clip

    def read(video, options, decoder, new_clip, may_split, pulse):
        for _ in range(2 * NUM_SLOTS):
            pass_time(1)
            clip = new_clip((8, 2, 2, 3))
            pass_time(2)
            yield Clip(clip)

    monkeypatch.setattr(thread_line.ring, "next_clip", wait_long)
    monkeypatch.setattr(worker_module, "read_video", read)
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(perf_counter=lambda: now))
    thread_line.send(Task(1, source(tmp_path)))
    for _ in range(2 * NUM_SLOTS):
        clip = thread_line.receive()
        assert clip.decode_seconds == 3
        if clip.clip_index >= NUM_SLOTS - 1:
            assert not thread_line.connection.poll(0.1)
            thread_line.send(Release((clip.clip_index + 1) % NUM_SLOTS))
    assert now > 1000


@pytest.mark.parametrize("when", ["idle", "waiting for a slot", "decoding"])
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_worker_exits_silently_when_its_connection_ends(tmp_path, capfd, kind, when):
    with start(kind) as line:
        if when != "idle":
            line.send(Task(1, source(encode(tmp_path / "a.mp4", draw_frames(40)))))
            for _ in range(NUM_SLOTS if when == "waiting for a slot" else 1):
                line.receive()
        line.connection.close()
        assert line.ends()
        if kind == "process":
            assert line.runner.exitcode == 0
    assert capfd.readouterr() == ("", "")


def test_a_killed_worker_leaves_its_clips(tmp_path):
    video = source(encode(tmp_path / "a.mp4", draw_frames(40)))
    clips = clips_of(video)
    with start("process") as line:
        line.send(Task(1, video))
        ready = [line.receive() for _ in range(2)]
        line.runner.kill()
        assert line.ends()
        for number, message in enumerate(ready):
            np.testing.assert_array_equal(line.ring.clip(message.slot), clips[number])
        while line.connection.poll():
            try:
                assert isinstance(line.connection.recv(), ClipReady)
            except EOFError:
                break
        else:
            pytest.fail("the connection has not ended")


def test_a_worker_ignores_interrupts(tmp_path):
    with start("process") as line:
        assert_as_read(line, Task(1, source(encode(tmp_path / "a.mp4"))))
        os.kill(line.runner.pid, signal.SIGINT)
        assert_as_read(line, Task(2, source(tmp_path / "a.mp4")))


def test_a_task_with_an_unknown_decoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown decoder 'ffmpeg': use one of auto"):
        Task(1, source(tmp_path / "a.mp4"), "ffmpeg")


READING = """
import sys


def read_and_report(ring, options, video):
    from vigil.extract.decode.reader import read_video
    import vigil.extract.decode.worker

    assert len(list(read_video(video, options))) > 1
    print(__name__, sorted({"av", "decord", "h5py", "torch", "tyro"} & set(sys.modules)))
"""

LIKE_THE_CONSOLE_SCRIPT = """
import sys
from pathlib import Path

import torch
import h5py

from reading import read_and_report
from vigil.extract.clips import ClipGrid
from vigil.extract.processes import spawn
from vigil.extract.decode.reader import ReadingOptions
from vigil.extract.decode.ring import ClipRing
from vigil.extract.source import SourceVideo
from vigil.pipeline.cli import main

options = ReadingOptions(ClipGrid(), None)
video = SourceVideo(Path(sys.argv[1]), "a.mp4")
spawn(read_and_report, (ClipRing(), options, video), "vigil-worker").join()
"""


def test_decoding_processes_of_the_command_load_neither_torch_nor_h5py(tmp_path):
    """Spawned processes do not load what the script, and so the command line, imports."""
    (tmp_path / "reading.py").write_text(READING)
    script = tmp_path / "program.py"
    script.write_text(LIKE_THE_CONSOLE_SCRIPT)
    command = [sys.executable, script, encode(tmp_path / "a.mp4")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "reading ['av', 'decord']\n"
