"""Extraction with decoders and devices in separate processes, against a single process."""

import gc
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_backbone import make_engine
from torch import nn
from video_files import draw_frames, encode

from vigil.extract.engine.assembly import OpenVideo
from vigil.extract.engine.dispatch import Engine
from vigil.extract.errors import FailedVideo
from vigil.extract.source import SourceVideo
from vigil.extract.store import feature_path, verify_features
from vigil.extract.views import VIEW_SETS

CPU = torch.device("cpu")
LENGTHS = {"long.mp4": 520, "b/short.mp4": 70, "c.mp4": 200, "one.mp4": 1}


def patches() -> nn.Module:
    """A network whose features differ in their last bits if they are computed differently."""
    torch.manual_seed(0)
    convolution = nn.Conv3d(3, 3, (1, 16, 16), stride=(1, 16, 16))
    return nn.Sequential(convolution, nn.ReLU(), _Mean())


class _Mean(nn.Module):
    def forward(self, x):
        return x.float().mean(dim=(3, 4)).transpose(1, 2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[SourceVideo]:
    folder = tmp_path_factory.mktemp("videos")
    found = []
    for seed, (name, num_frames) in enumerate(LENGTHS.items()):
        frames = draw_frames(num_frames, 240, 232, seed)
        path = encode(folder / name, frames, codec_options={"g": "25", "bf": "2"})
        found.append(SourceVideo(path, name))
    return found


@pytest.fixture(scope="module")
def expected(videos, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("expected")
    outcomes = extract(engine(num_workers=0), videos, store)
    assert lengths(outcomes) == LENGTHS
    return store


def engine(**changes) -> Engine:
    # One decoder: decord and PyAV give the same pixels, but decord's times are float32.
    settings = {"views": VIEW_SETS["five"], "keep_clips": True, "decoder": "pyav", **changes}
    return make_engine(patches(), **settings)


def extract(engine, videos, store, **options):
    return list(engine.extract(videos, store, **options))


def lengths(outcomes):
    return {outcome.video: outcome.features.num_frames_decoded for outcome in outcomes}


def assert_same(store, expected, names=LENGTHS):
    for name in names:
        one = verify_features(feature_path(store, name))
        other = verify_features(feature_path(expected, name))
        for field in ("features", "clip_features", "clip_frames", "segment_seconds"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        assert one.num_frames_decoded == other.num_frames_decoded
        assert one.decoder == other.decoder


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The calls of ``split`` and ``begin_anew`` in a run, each with its video's name."""
    calls = []

    def watch(name):
        method = getattr(OpenVideo, name)

        def called(video, *arguments):
            calls.append(f"{name} {video.source.name}")
            method(video, *arguments)

        monkeypatch.setattr(OpenVideo, name, called)

    watch("split")
    watch("begin_anew")
    return calls


@pytest.mark.parametrize(
    "changes",
    [
        {"num_workers": 1, "clips_per_part": 3},
        {"num_workers": 2, "batch_size": 4},
        {"num_workers": 4, "clips_per_part": 3},
        {"num_workers": None, "clips_per_part": 4},
        {"num_workers": 2, "devices": (CPU, CPU), "clips_per_part": 5},
    ],
    ids=str,
)
def test_features_are_the_same_bit_for_bit(videos, expected, tmp_path, calls, monkeypatch, changes):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(5)))
    is_split = "clips_per_part" in changes and changes["num_workers"] != 1
    outcomes = extract(engine(**changes), videos[::-1], tmp_path)
    assert lengths(outcomes) == LENGTHS
    assert_same(tmp_path, expected)
    assert ("split long.mp4" in calls) == is_split
    assert "begin_anew long.mp4" not in calls
    assert not multiprocessing.active_children()
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".h5"}


def test_the_decoder_does_not_depend_on_the_number_of_workers(videos, tmp_path):
    """Therefore the times do not either: those of decord are float32."""
    for num_workers in (0, 2):
        chosen = engine(decoder="auto", num_workers=num_workers, clips_per_part=3)
        extract(chosen, videos[:1], tmp_path / str(num_workers))
    assert verify_features(feature_path(tmp_path / "0", "long.mp4")).decoder == "decord"
    assert_same(tmp_path / "2", tmp_path / "0", ["long.mp4"])


def test_many_short_runs_leave_nothing_behind(tmp_path):
    path = encode(tmp_path / "a.mp4", draw_frames(3))
    videos = [SourceVideo(path, "a.mp4"), SourceVideo(path, "b.mp4")]
    store = tmp_path / "store"

    def run(number):
        outcomes = engine(num_workers=number % 3).extract(videos, store)
        if number % 2:
            next(outcomes)
            outcomes.close()
        else:
            assert len(list(outcomes)) == 2

    for number in range(3):  # some files are opened once and stay open
        run(number)
    threads = set(threading.enumerate())  # other tests' writers of clips last as long as a process
    before = num_open_files(), set(Path("/dev/shm").iterdir())
    for number in range(6):
        run(number)
    assert (num_open_files(), set(Path("/dev/shm").iterdir())) == before
    left = set(threading.enumerate()) - threads
    assert not [thread for thread in left if thread.name.startswith("vigil")]
    assert not multiprocessing.active_children()
    assert {file.suffix for file in store.iterdir()} == {".h5"}


def num_open_files():
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


class TestKilledProcess:
    """What a killed process loses, and what is kept."""

    def test_a_worker_is_replaced_and_its_video_is_read_again(
        self, videos, expected, tmp_path, calls
    ):
        killed = []

        def kill_one(_activity):
            if not killed:
                killed.append(kill("vigil-worker"))

        outcomes = extract(engine(num_workers=2), videos, tmp_path, watch=kill_one)
        assert lengths(outcomes) == LENGTHS
        assert_same(tmp_path, expected)
        assert killed[0] > 0
        assert "begin_anew long.mp4" in calls

    def test_a_video_is_given_up_after_two_killed_workers(self, videos, tmp_path):
        outcomes = extract(
            engine(num_workers=1), videos[:1], tmp_path, watch=lambda _: kill("vigil-worker")
        )
        reason = (
            "the decoder process died (signal 9, possibly out of memory: raise worker_memory_gib)"
        )
        (outcome,) = outcomes
        assert outcome == FailedVideo("long.mp4", reason, outcome.decoder, outcome.frame)
        assert outcome.decoder in {"", "pyav"}  # the one, if any, that it was killed in
        assert not multiprocessing.active_children()

    def test_a_run_ends_with_its_device_process(self, videos, tmp_path):
        def kill_devices(_activity):
            kill("vigil-cpu")

        with pytest.raises(ChildProcessError, match=r"process has died \(exit code -9\): run ag"):
            extract(engine(devices=(CPU, CPU)), videos, tmp_path, watch=kill_devices)
        assert not multiprocessing.active_children()


def kill(name: str) -> int:
    """Kill the processes of that name and return their number."""
    found = [child for child in multiprocessing.active_children() if child.name == name]
    for child in found:
        os.kill(child.pid, signal.SIGKILL)
    return len(found)
