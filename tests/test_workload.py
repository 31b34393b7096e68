"""The time left of an extraction: simulated runs with a clock of their own, and real headers."""

import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from video_files import draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import promises
from vigil.extract.decode.promises import Promises, promised_frames, stated_seconds
from vigil.extract.engine.activity import Activity
from vigil.extract.engine.writer import Extracted
from vigil.extract.errors import FailedVideo
from vigil.extract.source import SourceVideo
from vigil.pipeline.extraction import workload
from vigil.pipeline.extraction.workload import Workload

GRID = ClipGrid()


class FakePromises:
    """Promises that arrive one every 2 ms of the simulated clock."""

    def __init__(self, videos, promised, clock):
        self._videos = random.Random(1).sample(videos, len(videos))
        self._promised, self._clock, self._begun = promised, clock, clock.now

    def take(self):
        while self._videos and (self._clock.now - self._begun) > 0.002:
            self._begun += 0.002
            video = self._videos.pop()
            yield video, self._promised[video.name]

    def close(self):
        pass


class Run:
    """A simulated extraction, largest file first, one clip after the other."""

    def __init__(self, monkeypatch, sizes, frames, promised=None):
        self.now = 5000.0
        self.sizes, self.frames = sizes, frames
        promised = frames if promised is None else promised
        monkeypatch.setattr(workload.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(workload, "num_bytes", lambda video: sizes[video.name])
        monkeypatch.setattr(workload, "Promises", lambda v, _: FakePromises(v, promised, self))
        self.videos = [SourceVideo(Path(name), name) for name in frames]
        self.workload = Workload(self.videos, GRID)
        self.activity = Activity()

    def forecasts(self, clip_seconds, fails=(), start_seconds=20.0):
        """Return the (seconds since the start, share, seconds left) at every clip, and the end."""
        said, begun = [], self.now
        self.now += start_seconds
        for name in sorted(self.frames, key=self.sizes.__getitem__, reverse=True):
            num_clips = GRID.num_clips(self.frames[name])
            for done in range(num_clips):
                self.now += clip_seconds(name, self.now - begun)
                self.activity.num_clips += 1
                self.activity.num_clips_kept += 1
                said.append((self.now - begun, *self.workload.forecast(self.activity)))
                if name in fails and done == num_clips // 2:
                    self.activity.num_clips_kept -= done + 1
                    self.workload.conclude(FailedVideo(name, "damaged"))
                    break
            else:
                features = SimpleNamespace(
                    num_frames_decoded=self.frames[name], num_frames_sampled=0
                )
                self.workload.conclude(Extracted(name, features))
        return said, self.now - begun


def worst_error(said, end, since=60.0):
    """The largest relative error of the time left, from a minute after the start on."""
    later = [(at, left) for at, _, left in said if since <= at < end - 30]
    assert later
    assert all(left is not None for _, left in later)
    return max(abs(left - (end - at)) / (end - at) for at, left in later)


def surveillance(number, seed=0):
    """Sizes and frames of videos whose bytes per frame differ by a factor of ten and more."""
    draw = random.Random(seed)
    frames = {f"{i}.mp4": round(draw.lognormvariate(7.5, 1.2)) + 1 for i in range(number)}
    sizes = {name: round(f * draw.lognormvariate(7, 1.5)) for name, f in frames.items()}
    return sizes, frames


@pytest.mark.parametrize("seed", range(5))
def test_the_time_left_of_many_videos_is_right_from_the_first_minute_on(monkeypatch, seed):
    run = Run(monkeypatch, *surveillance(53, seed))
    jitter = random.Random(seed)
    said, end = run.forecasts(lambda name, at: 0.6 * jitter.uniform(0.5, 1.5))
    assert worst_error(said, end) < 0.2
    for at, share, _ in said[200:]:
        assert share == pytest.approx((at - 20) / (end - 20), abs=0.05)
    assert said[-1][1] == pytest.approx(1, abs=0.01)


def test_workers_that_are_added_and_a_slow_start_do_not_matter(monkeypatch):
    run = Run(monkeypatch, *surveillance(53))
    said, end = run.forecasts(lambda name, at: 2.0 if at < 30 else 0.6, start_seconds=10)
    assert worst_error(said, end, since=90) < 0.2


def test_one_video_of_twenty_hours(monkeypatch):
    frames = {"gate.mp4": 20 * 3600 * 25}
    run = Run(monkeypatch, {"gate.mp4": 10**10}, frames)
    said, end = run.forecasts(lambda name, at: 1.1)
    assert worst_error(said, end) < 0.05
    assert said[len(said) // 2][1] == pytest.approx(0.5, abs=0.01)


def test_sizes_stand_for_promises_that_are_missing(monkeypatch):
    sizes, frames = surveillance(300, 3)
    sizes = {name: 5000 * count for name, count in frames.items()}
    promised = {n: None if i % 3 else count for i, (n, count) in enumerate(frames.items())}
    said, end = Run(monkeypatch, sizes, frames, promised).forecasts(lambda name, at: 0.6)
    assert worst_error(said, end) < 0.2


def test_failed_videos_are_no_work(monkeypatch):
    sizes, frames = surveillance(53)
    run = Run(monkeypatch, sizes, frames)
    fails = sorted(frames, key=sizes.__getitem__)[-20::4]
    said, end = run.forecasts(lambda name, at: 0.6, fails)
    last = max(at for at, _, _ in said)
    assert said[-1][1] == pytest.approx(1, abs=0.01)
    assert said[-1][2] <= 2 * 0.6
    assert last <= end


def test_nothing_is_read_in_a_short_run_and_nothing_said(monkeypatch):
    run = Run(monkeypatch, {"a": 10}, {"a": 200})
    said, _ = run.forecasts(lambda name, at: 0.1, start_seconds=1)
    assert [one[1:] for one in said] == [(None, None)] * len(said)


def test_nothing_is_said_if_nothing_is_promised(monkeypatch):
    run = Run(monkeypatch, {"a": 10}, {"a": 2000}, {"a": None})
    said, _ = run.forecasts(lambda name, at: 1.0)
    assert {one[1:] for one in said} == {(None, None)}


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts", "h264", "mpg", "flv"])
def test_headers_and_first_packets_promise_the_frames(tmp_path, ending):
    codec = "mpeg2video" if ending == "mpg" else "libx264"
    frames = draw_frames(40, 96, 80) * 20
    path = encode(tmp_path / f"a.{ending}", frames, codec=codec)
    video = SourceVideo(path, "a", input_fps=25)
    assert promised_frames(video) == pytest.approx(800, rel=0.05)
    assert promised_frames(video, 10.0) == pytest.approx(320, rel=0.05)


def test_a_clock_that_jumps_promises_nothing_absurd(tmp_path, shared_data):
    video = SourceVideo(shared_data / "trouble" / "ts_backward_5h.ts", "a")
    assert promised_frames(video) == pytest.approx(100, 0.3)


def test_only_what_headers_state_is_a_length(tmp_path):
    """Estimates are none, and the frames of a fragment are not those of the file."""
    frames = draw_frames(40, 96, 80) * 3
    known = {"a.mp4": 4.8, "a.mkv": 4.8, "a.avi": 4.8, "a.ts": None, "a.h264": None}
    videos = [SourceVideo(encode(tmp_path / name, frames), name, input_fps=25) for name in known]
    parts = encode(
        tmp_path / "parts.mp4",
        frames,
        options={"movflags": "frag_keyframe"},
        codec_options={"g": "25"},
    )
    (tmp_path / "none.mp4").write_bytes(b"no video")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(12):
        (pictures / f"{number}.jpg").touch()
    videos += [
        SourceVideo(parts, "parts"),
        SourceVideo(tmp_path / "none.mp4", "none"),
        SourceVideo(pictures, "pictures", picture_fps=4),
    ]
    known |= {"parts": 4.8, "none": None, "pictures": 3.0}
    stated = stated_seconds(videos)
    assert stated == {
        name: length and pytest.approx(length, abs=0.05) for name, length in known.items()
    }
    assert promised_frames(videos[-3]) < 120  # its first fragment
    assert stated_seconds([]) == {}


def test_promises_of_many_files_among_them_damaged_ones(tmp_path, monkeypatch):
    good = encode(tmp_path / "a.mp4", draw_frames(30))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    videos = [SourceVideo(tmp_path / name, name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    videos += [SourceVideo(good, f"{number}") for number in range(50)]
    reading = Promises(videos)
    known = _all(reading, len(videos))
    assert known == {video.name: 30 for video in videos} | {"b.mp4": None, "c.mp4": None}
    reading.close()
    assert list(reading.take()) == []


def _die_at_b(connection, videos, _):
    for video in videos:
        if video.name == "b.mp4":
            os._exit(1)
        connection.send(7)


def test_a_process_that_dies_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(promises, "_send_promises", _die_at_b)
    videos = [SourceVideo(tmp_path / name, name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    assert _all(Promises(videos), 3) == {"a.mp4": 7, "b.mp4": None, "c.mp4": 7}


def _all(reading, number):
    known = {}
    while len(known) < number:
        known |= {video.name: promise for video, promise in reading.take()}
        time.sleep(0.01)
    return known
