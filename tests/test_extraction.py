"""`vigil extract`: what is written, what a second run does, and every way it can go wrong."""

import contextlib
import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from commands import ROOT, run_forked
from fake_backbone import BACKBONE, mean_colours
from i3d_reference import VIDEO, relative_error, seeded_state
from safetensors.torch import save_file
from video_files import NUM_FRAMES, cut_packets, damage, draw_frames, encode, truncate

from vigil.extract import files, sealed
from vigil.extract.decode import worker
from vigil.extract.decode.decoder import frame_size, probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.engine import writer
from vigil.extract.engine.journal import journal_path
from vigil.extract.files import LOCK_NAME
from vigil.extract.locks import locked
from vigil.extract.networks import hardware
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.store import feature_path, list_features, read_features, verify_features
from vigil.pipeline.cli import main
from vigil.pipeline.extraction import command as extraction

HEADER = ["video", "reason", "decoder", "frame"]
LENGTHS = {"Fighting/a.mp4": 70, "Fighting/b.mp4": 20, "c.avi": 130}


@pytest.fixture(scope="module")
def _originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, num_frames) in enumerate(LENGTHS.items()):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        encode(folder / name, draw_frames(num_frames, seed=seed), codec=codec)
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture
def videos(_originals, tmp_path):
    """A folder with three videos that a test may change."""
    return Path(shutil.copytree(_originals, tmp_path / "videos"))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "features"


@pytest.fixture
def extract(monkeypatch, store, capsys):
    """Run the command with the fake backbone; return (exit code, its messages)."""
    monkeypatch.setitem(BACKBONES, "fake", BACKBONE)

    def run(*arguments, out=store):
        settings = ["--out", str(out), "--backbone", "fake", *SETTINGS]
        code = main(["extract", *settings, *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.err + said.out

    return run


SETTINGS = ["--weights", "random", "--precision", "fp32", "--device", "cpu", "--workers", "0"]


def failures_in(store):
    with (store / "failures.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == HEADER
    return rows


def snapshot(folder):
    """Return the name, modification time and content of every file."""
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*.h5"))
    }


def assert_equal_stores(left, right):
    """Compare all features and ranges bit for bit."""
    assert list(list_features(left)) == list(list_features(right))
    for name, path in list_features(left).items():
        with h5py.File(path) as a, h5py.File(feature_path(right, name)) as b:
            names = []
            a.visit(names.append)
            for dataset in names:
                if isinstance(a[dataset], h5py.Dataset):
                    assert a[dataset][()].tobytes() == b[dataset][()].tobytes()
            assert a.attrs["spec_digest"] == b.attrs["spec_digest"]


def test_static_clips_are_skipped_if_asked_and_kinds_are_not_mixed(tmp_path, store, extract):
    videos = tmp_path / "still"
    encode(videos / "a.mp4", draw_frames(1) * 200)
    code, said = extract(videos, "--static", "skip")
    assert code == 0
    assert "1 extracted (1 with decord), 75% of their clips static, 0 already" in said
    video = verify_features(feature_path(store, "a.mp4"))
    assert video.clip_computed.tolist() == [True, False, False, False]
    code, said = extract(videos)
    assert code == 2
    assert "static: skip != compute" in said
    assert extract(videos, "--overwrite")[0] == 0
    assert verify_features(feature_path(store, "a.mp4")).clip_computed is None


class TestFrameRate:
    def test_clips_and_times_are_those_of_the_slow_video(self, tmp_path, store, extract):
        videos = tmp_path / "slow"
        encode(videos / "a.mp4", draw_frames(60), times=[200 * index for index in range(60)])
        code, _ = extract(videos, "--keep-clips", "--frame-rate", "25")
        assert code == 0
        video = verify_features(feature_path(store, "a.mp4"))
        assert (video.num_frames_decoded, video.num_frames_sampled) == (
            60,
            296,
        )  # the last one lasts 40 ms
        assert video.spec.frame_rate == 25.0
        assert video.segment_frames[-1, 1] == 60
        assert video.segment_seconds[-1, 1] == pytest.approx(11.84)
        # Frame f is nearest to the ticks 5f - 2 to 5f + 2.
        shown = (np.arange(296) + 2) // 5
        starts = np.arange(0, 296, 64)
        expected = [(shown[start], shown[min(start + 63, 295)] + 1) for start in starts]
        np.testing.assert_array_equal(video.clip_frames, expected)
        code, said = extract(videos, "--keep-clips")
        assert code == 2
        assert "frame_rate: 25.0 != None" in said

    def test_the_rate_of_the_video_gives_the_same_features(self, videos, store, extract, tmp_path):
        other = tmp_path / "other"
        assert extract(videos, "--keep-clips")[0] == 0
        assert extract(videos, "--keep-clips", "--frame-rate", "25", out=other)[0] == 0
        for name, path in list_features(store).items():
            native, sampled = read_features(path), read_features(feature_path(other, name))
            assert sampled.num_frames_sampled == native.num_frames_decoded
            for field in ("features", "clip_features", "clip_frames", "segment_seconds"):
                np.testing.assert_array_equal(getattr(native, field), getattr(sampled, field))


class TestARun:
    def test_every_video_gets_its_file_at_its_relative_path(self, videos, store, extract):
        code, said = extract(videos, "--keep-clips")
        assert code == 0
        assert "3 videos: 3 to extract, 0 already extracted" in said
        assert "skipped 1 file without a video extension\n" in said
        assert list(list_features(store)) == sorted(LENGTHS)
        assert failures_in(store) == []
        for name, num_frames in LENGTHS.items():
            video = verify_features(feature_path(store, name))
            assert video.video.path == name
            assert (video.num_frames_decoded, video.num_frames_damaged) == (num_frames, 0)
            assert video.decoder == "decord"

    def test_a_feature_is_that_of_the_decoded_center(self, videos, store, extract):
        path = videos / "Fighting/b.mp4"
        extract(path, "--keep-clips")
        info = probe(path)
        width, height = frame_size(info.width, info.height, 256)
        frames = np.array(list(AvDecoder(path, info, width, height)))
        top, left = (height - 224) // 2, (width - 224) // 2
        center = frames[:, top : top + 224, left : left + 224]
        clip = center[np.minimum(np.arange(64), NUM_FRAMES - 1)]
        video = read_features(feature_path(store, "b.mp4"))
        np.testing.assert_allclose(video.clip_features[0, 0], mean_colours(clip), rtol=1e-6)
        assert (video.features == video.clip_features[0, 0]).all()

    def test_random_weights_are_warned_about_and_recorded(self, videos, store, extract):
        _, said = extract(videos)
        assert "WARNING: the backbone's weights are RANDOM: these features are untrained" in said
        video = read_features(feature_path(store, "c.avi"))
        assert (video.weights_name, video.weights_trained) == ("random:0", False)

    def test_a_dry_run_reports_what_it_would_do_and_writes_nothing(self, videos, store, extract):
        code, said = extract(videos, "--dry-run")
        assert code == 0
        assert said.splitlines()[-3:] == [f"extract {name}" for name in sorted(LENGTHS)]
        assert not store.exists()


class TestAnotherRun:
    def test_does_nothing_if_everything_is_extracted(self, videos, store, extract):
        extract(videos)
        before = snapshot(store)
        code, said = extract(videos)
        assert (code, snapshot(store)) == (0, before)
        assert "3 videos: 0 to extract, 3 already extracted" in said

    def test_removes_the_journals_of_finished_videos_only(self, videos, store, extract):
        """A run may have been killed between writing a video's file and removing its journal."""
        extract(videos)
        before = snapshot(store)
        finished, other = (
            journal_path(store, "Fighting/a.mp4"),
            journal_path(store, "elsewhere.mp4"),
        )
        for path in (finished, other):
            path.write_bytes(b"clips")
        assert extract(videos, "--dry-run")[0] == 0
        assert finished.exists()
        code, said = extract(videos)
        assert (code, snapshot(store)) == (0, before)
        assert "0 to extract, 3 already extracted" in said
        assert (finished.exists(), other.exists()) == (False, True)
        assert main(["features", "verify", str(store)]) == 0
        assert len(list_features(store)) == 3

    def test_adds_what_is_missing_and_repairs_what_is_damaged(self, videos, store, extract):
        extract(videos)
        before = snapshot(store)
        feature_path(store, "c.avi").unlink()
        truncate(feature_path(store, "Fighting/a.mp4"), 0.5)
        code, said = extract(videos)
        assert code == 0
        assert "2 to extract, 1 already extracted" in said
        assert "a.mp4.h5 is damaged" in said
        after = snapshot(store)
        kept = Path("Fighting/b.mp4.h5")
        assert after[kept] == before[kept]
        assert list(after) == list(before)
        for path in list_features(store).values():
            verify_features(path)

    def test_refuses_a_store_of_other_settings_and_names_them(self, videos, store, extract):
        extract(videos)
        before = snapshot(store)
        code, said = extract(videos, "--segments", 16, "--time-pool", "mean")
        assert code == 2
        for text in ("num_segments: 32 != 16", "time_pool: none != mean", "or set overwrite"):
            assert text in said
        assert snapshot(store) == before
        code, _ = extract(videos, "--segments", 16, "--overwrite")
        assert code == 0
        specs = {read_features(path).spec for path in list_features(store).values()}
        assert {spec.num_segments for spec in specs} == {16}

    def test_overwriting_leaves_correct_files_alone(self, videos, store, extract):
        extract(videos)
        before = snapshot(store)
        code, said = extract(videos, "--overwrite")
        assert (code, snapshot(store)) == (0, before)
        assert "3 already extracted" in said

    def test_refuses_features_of_another_version_of_a_video(self, videos, store, extract):
        extract(videos)
        before = snapshot(store)
        encode(videos / "Fighting/b.mp4", draw_frames(9, seed=5))
        code, said = extract(videos)
        assert (code, snapshot(store)) == (3, before)
        ((video, reason, decoder, frame),) = failures_in(store)
        assert (video, decoder, frame) == ("Fighting/b.mp4", "", "")
        assert "b.mp4.h5 was extracted from: set overwrite to extract it again" in reason
        code, said = extract(videos, "--overwrite")
        assert (code, failures_in(store)) == (0, [])
        assert "1 to extract, 2 already extracted" in said
        assert read_features(feature_path(store, "Fighting/b.mp4")).num_frames_decoded == 9

    def test_a_new_modification_time_with_the_same_bytes_is_the_same_video(
        self, videos, store, extract
    ):
        extract(videos)
        before = snapshot(store)
        for name in LENGTHS:
            os.utime(videos / name, (1, 1))
        assert extract(videos)[0] == 0
        assert snapshot(store) == before

    @pytest.mark.parametrize(
        ("more", "views", "with_clips", "why"),
        [
            (["--views", "center,top_left,top_right"], 3, False, "top_left, top_right"),
            (["--keep-clips"], 1, True, "clips"),
            (["--keep-clips", "--views", "center,top_left"], 2, True, "top_left, clips"),
        ],
    )
    def test_requesting_more_extracts_again_and_less_does_not(
        self, videos, store, extract, more, views, with_clips, why
    ):
        extract(videos)
        before = snapshot(store)
        code, said = extract(videos, *more)
        assert code == 0
        assert "3 to extract" in said
        assert f"extracting 3 videos again to add {why}\n" in said
        after = snapshot(store)
        assert not set(before.items()) & set(after.items())
        for path in list_features(store).values():
            video = read_features(path)
            assert (len(video.views), video.clip_features is not None) == (views, with_clips)
        assert extract(videos)[0] == 0
        assert snapshot(store) == after

    def test_never_loses_views_or_clips_without_being_told_to(self, videos, store, extract):
        extract(videos, "--views", "center,top_left", "--keep-clips")
        before = snapshot(store)
        for views, keep, message in (
            ("center,top_right", [], "top_left, its clips (keep_clips): request these, too"),
            ("center,top_right", ["--keep-clips"], "top_left: request these, too, choose another"),
            ("five", [], "its clips (keep_clips): request these, too, choose another"),
        ):
            code, said = extract(videos, "--views", views, *keep)
            assert (code, snapshot(store)) == (2, before)
            assert f"would be extracted again and lose {message}" in said
        assert extract(videos, "--views", "center,top_right", "--overwrite")[0] == 0
        views = {read_features(path).views for path in list_features(store).values()}
        assert views == {("center", "top_right")}

    @pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
    def test_never_replaces_a_file_of_something_else(self, videos, store, extract, overwrite):
        path = feature_path(store, "c.avi")
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file:
            file["mine"] = 1
        before = snapshot(store)
        code, said = extract(videos, *overwrite)
        assert (code, snapshot(store)) == (2, before)
        assert "c.avi.h5 is an HDF5 file of another kind: move it out" in said

    def test_warns_if_precisions_mix(self, videos, store, extract, monkeypatch):
        monkeypatch.setattr(hardware, "cpu_computes", lambda name: True)  # it convolves nothing
        extract(videos / "c.avi")
        code, said = extract(videos / "c.avi", "--precision", "bf16")
        assert code == 0
        assert "the store mixes precisions: 1 existing feature file not computed in bf16" in said

    def test_refuses_to_run_beside_another(self, videos, store, extract):
        with locked(store):
            code, said = extract(videos)
        assert code == 2
        assert f"another run is writing to {store} (pid {os.getpid()} on " in said
        assert "): wait for it, or choose another folder" in said
        assert not [*store.rglob("*.h5")]
        assert extract(videos)[0] == 0


class TestVideosThatFail:
    @pytest.fixture
    def broken(self, videos):
        (videos / "empty.mp4").write_bytes(b"")
        (videos / "text.mp4").write_text("words\n" * 99)
        (videos / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nc.avi\n#EXT-X-ENDLIST\n")
        damage(encode(videos / "black.avi", codec="mpeg4"), list(range(NUM_FRAMES)), keep=0)
        damage(encode(videos / "damaged.mp4"), [8])
        return videos

    def test_are_listed_with_their_reasons_and_the_rest_is_done(self, broken, store, extract):
        code, said = extract(broken)
        assert code == 3
        rows = {row[0]: row[1:] for row in failures_in(store)}
        assert list(rows) == ["black.avi", "empty.mp4", "list.mp4", "text.mp4"]
        assert rows["black.avi"] == ["no frame can be decoded", "pyav", "0"]
        assert rows["empty.mp4"][0] == "the file is empty"
        assert rows["list.mp4"][0].startswith("it is a playlist")
        assert rows["text.mp4"][0].startswith("not a video that FFmpeg can open")
        for name, (reason, *_) in rows.items():
            assert f"ERROR: {name}: {reason}" in said
        assert list(list_features(store)) == sorted([*LENGTHS, "damaged.mp4"])
        assert "4 extracted (3 with decord, 1 with pyav), 0 already extracted, 4 failed" in said
        assert "failures.csv" in said.splitlines()[-1]

    def test_damage_is_counted_in_the_file_and_reported(self, broken, store, extract):
        code, said = extract(broken / "damaged.mp4")
        assert code == 0
        video = read_features(feature_path(store, "damaged.mp4"))
        assert video.decoder == "pyav"
        assert 1 <= video.num_frames_damaged <= 3
        assert video.num_frames_decoded >= NUM_FRAMES - 1
        assert "damaged.mp4: " in said
        assert f"Damaged frames: {video.num_frames_damaged}" in said
        assert ", the first at 0:00:00; " in said

    def test_more_damage_than_allowed_is_a_failure(self, broken, store, extract):
        code, _ = extract(broken / "damaged.mp4", "--max-damage", "0.01")
        assert code == 4
        assert not [*store.rglob("*.h5")]
        ((name, reason, decoder, frame),) = failures_in(store)
        assert (name, decoder) == ("damaged.mp4", "pyav")
        assert int(frame) >= NUM_FRAMES - 1
        assert "of its frames are damaged, more than the limit of 1%: raise max_damage" in reason
        assert extract(broken / "damaged.mp4", "--max-damage", "50%")[0] == 0

    def test_this_applies_to_existing_features_which_are_kept(self, broken, store, extract):
        extract(broken / "damaged.mp4")
        before = snapshot(store)
        code, _ = extract(broken / "damaged.mp4", "--max-damage", "0%")
        assert code == 4
        assert "more than the limit of 0%" in failures_in(store)[0][1]
        assert snapshot(store) == before
        code, said = extract(broken / "damaged.mp4", "--max-damage", "50%")
        assert (code, failures_in(store)) == (0, [])
        assert "1 already extracted" in said

    def test_an_invalid_share_of_frames_is_wrong_usage(self, broken, extract):
        code, said = extract(broken, "--max-damage", "10")
        assert code == 2
        assert "--max-damage '10' is not a share of frames: use 10% or 0.1" in said

    def test_a_run_with_only_failures_ends_with_4(self, broken, store, extract):
        code, _ = extract(broken / "empty.mp4", broken / "text.mp4")
        assert code == 4
        assert [row[0] for row in failures_in(store)] == ["empty.mp4", "text.mp4"]
        assert not [*store.rglob("*.h5")]

    def test_the_list_of_failures_is_replaced(self, broken, store, extract):
        extract(broken / "empty.mp4")
        assert extract(broken / "c.avi")[0] == 0
        assert failures_in(store) == []

    def test_a_video_deleted_meanwhile_fails_alone(self, videos, store, extract, monkeypatch):
        extract(videos)
        find = extraction.find_videos

        def find_then_lose(*arguments):
            found = find(*arguments)
            (videos / "c.avi").unlink()
            return found

        monkeypatch.setattr(extraction, "find_videos", find_then_lose)
        code, _ = extract(videos)
        assert code == 3
        assert failures_in(store) == [
            ["c.avi", "the file cannot be read (No such file or directory)", "", ""]
        ]

    def test_an_unexpected_error_fails_only_its_video(self, videos, store, extract, monkeypatch):
        read = worker.read_video

        def stumble(video, *how, **more):
            if video.name == "Fighting/b.mp4":
                raise ZeroDivisionError("odd")
            return read(video, *how, **more)

        monkeypatch.setattr(worker, "read_video", stumble)
        code, _ = extract(videos)
        assert code == 3
        ((video, reason, *_),) = failures_in(store)
        assert (video, reason) == ("Fighting/b.mp4", "unexpected ZeroDivisionError: odd")
        assert list(list_features(store)) == ["Fighting/a.mp4", "c.avi"]

    def test_a_requested_decoder_is_not_replaced(self, broken, store, extract):
        code, _ = extract(broken / "damaged.mp4", "--decoder", "decord")
        assert code == 4
        ((video, reason, decoder, _frame),) = failures_in(store)
        assert (video, decoder) == ("damaged.mp4", "decord")
        assert reason.startswith("decord stopped")


def test_videos_with_odd_names_are_extracted(videos, tmp_path, store, extract):
    names = [b"-dash.mp4", b"a\nb=cmd(),<i>.mp4", "Überfall 1.mp4".encode(), b"\xff\xfe.mp4"]
    for name in names:
        path = tmp_path / "odd" / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        shutil.copy(videos / "Fighting/b.mp4", path)
    long = tmp_path / "odd" / ("n" * 251 + ".mp4")
    shutil.copy(videos / "Fighting/b.mp4", long)
    code, _ = extract(tmp_path / "odd")
    assert code == 3
    assert [os.fsencode(name) for name in list_features(store)] == sorted(names)
    for path in list_features(store).values():
        verify_features(path)
    [[video, reason, _, _]] = failures_in(store)
    assert video == long.name
    assert "File name too long" in reason
    assert extract(tmp_path / "odd")[0] == 3  # now it fails during planning


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ, errno.ELOOP])
@pytest.mark.parametrize("place", ["exists", "mkdir"])
def test_a_name_that_the_disk_rejects_is_a_failure(
    videos, store, extract, monkeypatch, number, place
):
    real = getattr(Path, place)

    def refuse(path, *arguments, **options):
        if "Fighting" in path.name or path.name == "a.mp4.h5":
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, place, refuse)
    assert extract(videos)[0] == 3
    assert feature_path(store, "c.avi") in list_features(store).values()
    reasons = {video: reason for video, reason, *_ in failures_in(store)}
    assert os.strerror(number) in reasons["Fighting/a.mp4"]
    assert reasons["Fighting/a.mp4"].endswith(": rename the video")


def test_unreadable_features_are_not_replaced(videos, store, extract, monkeypatch):
    extract(videos)
    before, check = snapshot(store), sealed._check_bytes

    def fail(path, content):
        if path.name == "c.avi.h5":
            raise OSError(errno.ESTALE, "Stale file handle")
        return check(path, content)

    monkeypatch.setattr(sealed, "_check_bytes", fail)
    assert extract(videos, "--overwrite")[0] == 3
    assert snapshot(store) == before
    ((video, reason, *_),) = failures_in(store)
    assert video == "c.avi"
    assert "c.avi.h5 cannot be read (Stale file handle): check its disk" in reason


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--views", "middle"], "unknown view 'middle'"),
            (
                ["--views", "center,whole"],
                "fake cannot use the view 'whole', because its frames have any size: use the "
                "backbone i3d, or the view 'squeeze'",
            ),
            (
                ["--backbone", "swin3d_t+i3d+r3d_18", "--views", "whole"],
                "swin3d_t, r3d_18 cannot use the view 'whole'",
            ),
            (
                [
                    "--backbone",
                    "i3d",
                    "--endpoint",
                    "Conv3d_1a_7x7",
                    "--views",
                    "whole",
                    "--compile",
                ],
                "--compile compiles for one size of frames: leave it out for --views whole",
            ),
            (["--endpoint", "fc6"], "fake has no endpoint 'fc6'"),
            (["--short-side", "100"], "short side 100 is smaller than the 224 pixel views"),
            (
                ["--frame-rate", "0"],
                "frame rate 0 is not above 0 and at most 240: use 25, or native",
            ),
            (["--frame-rate", "fast"], "frame rate 'fast' is not a number of frames a second"),
            (["--short-side", "big"], "short side 'big' is not a number of pixels: use 256, or n"),
            (["--clip-stride", "65"], "clip stride 65 is not in 1..64"),
            (["--segments", "0"], "0 segments are too few: use 1 or more"),
            (["--weights", "nowhere.pt"], "nowhere.pt does not exist: give another file"),
            (["--batch-size", "0"], "batch size 0 is not in 1.."),
            (["--device", "cuda:99"], "device 'cuda:99' is not on this machine: use auto or one o"),
            (["--device", "cpu,cuda:99"], "device 'cuda:99' is not on this machine"),
            (["--workers", "-1"], "-1 workers are not in 0..1024: use auto"),
            (["--extensions", ","], "names no extension"),
        ],
    )
    def test_is_one_line_and_exit_code_2(self, videos, store, extract, arguments, message):
        code, said = extract(videos, *arguments)
        assert code == 2
        assert message in said
        assert [line.split(":")[0] for line in said.splitlines()] == ["ERROR"]
        assert not store.exists()

    def test_missing_cuda_is_refused(self, videos, extract, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        code, said = extract(videos, "--device", "cuda")
        assert code == 2
        assert "device 'cuda' is not on this machine: use auto or one of cpu" in said
        code, said = extract(videos, "--device", "all")
        assert code == 2
        assert "device 'all' means every GPU, and torch finds none: use auto or cpu" in said

    def test_a_precision_the_cpu_lacks_is_refused(self, videos, extract, monkeypatch):
        monkeypatch.setattr(hardware, "cpu_computes", lambda name: name == "fp32")
        code, said = extract(videos, "--precision", "fp16")
        assert code == 2
        assert "this CPU does not support precision fp16: use fp32 or auto" in said

    def test_naming_a_gpu_twice_is_refused(self, videos, extract, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        code, said = extract(videos, "--device", "cuda:1,cuda:0,cuda:1")
        assert code == 2
        assert "names a GPU twice: name each once, or use all" in said

    def test_a_folder_without_videos_is_refused(self, tmp_path, extract):
        (tmp_path / "empty").mkdir()
        code, said = extract(tmp_path / "empty")
        assert code == 2
        assert "no videos in" in said


class TestTheDisk:
    def test_without_space_the_run_ends_with_1_and_can_be_resumed(
        self, videos, store, extract, monkeypatch
    ):
        write = writer.write_features

        written = []

        def full_after_one(path, video):
            if written:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write(path, video)
            written.append(video.video.path)

        with monkeypatch.context() as patch:
            patch.setattr(writer, "write_features", full_after_one)
            code, said = extract(videos)
        assert code == 1
        assert "no space is left for" in said
        assert "run the same command again" in said
        assert "Traceback" not in said
        assert list(list_features(store)) == written
        code, said = extract(videos)
        assert code == 0
        assert "2 to extract, 1 already extracted" in said

    def test_a_disk_that_really_fills_up(self, videos, tmp_path):
        """In its own namespace, where any user may mount a disk in memory."""
        disk = tmp_path / "disk"
        disk.mkdir()
        inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        mount = f"mount -t tmpfs -o size=200k none {disk}"
        if shutil.which("unshare") is None or subprocess.run([*inside, mount]).returncode:
            pytest.skip("no disk can be mounted here")
        video = videos / "Fighting" / "b.mp4"
        vigil = f"{sys.executable} -m vigil.pipeline.cli extract {video} --out {disk}/f"
        settings = f"{' '.join(SETTINGS)} --endpoint Conv3d_1a_7x7 --quiet"
        script = f"{mount}; {vigil} {settings}; echo code $?; cd {disk}/f; find . -type f | sort"
        run = subprocess.run([*inside, script], cwd=ROOT, capture_output=True, text=True)
        assert "no space is left for" in run.stderr, run.stderr
        assert run.stdout.splitlines() == ["code 1", f"./{LOCK_NAME}", "./failures.csv"]

    def test_an_unwritable_folder_is_reported(self, videos, tmp_path, extract, monkeypatch):
        def refuse(path, video):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(writer, "write_features", refuse)
        code, said = extract(videos)
        assert code == 1
        assert "cannot be read or written (Permission denied): choose another folder" in said

    def test_a_file_in_place_of_the_folder_is_reported(self, videos, tmp_path, extract):
        (tmp_path / "file").write_text("")
        code, said = extract(videos, out=tmp_path / "file")
        assert code == 2
        assert f"--out {tmp_path / 'file'} is a file: give a folder" in said
        code, said = extract(videos, out=tmp_path / "file" / "below")
        assert code == 2
        assert "is a file, or one of its parents is: give a folder" in said


def run_and_interrupt(number, said, arguments):
    """Run the command with the fake backbone; after part of the second file, send a signal."""
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    BACKBONES["fake"] = BACKBONE
    sync, num_files = files.sync, 0

    def interrupt(path):
        nonlocal num_files
        num_files += path.suffix == files.PARTIAL_SUFFIX
        if num_files == 2 and path.suffix == files.PARTIAL_SUFFIX:
            os.kill(os.getpid(), number)
            time.sleep(0.5)  # until the other thread has been interrupted
        sync(path)

    files.sync = interrupt
    sys.exit(main(arguments))


@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGKILL, ""), (signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")],
)
def test_an_interrupted_run_resumes_and_equals_an_undisturbed_one(
    videos, store, extract, tmp_path, number, message
):
    settings = ["--backbone", "fake", *SETTINGS, "--keep-clips", "--views", "five"]
    arguments = ["extract", str(videos), "--out", str(store), *settings]
    code = run_forked(run_and_interrupt, number, tmp_path / "said", arguments)
    interrupted = (tmp_path / "said").read_text()
    was_killed = number == signal.SIGKILL
    assert code == (-9 if was_killed else 130), interrupted
    # Unless it is killed, the file that is being written is finished.
    assert len(list_features(store)) == (1 if was_killed else 2)
    finished = snapshot(store)
    partial = [path for path in store.rglob(".*") if path.name != LOCK_NAME]
    assert len(partial) == was_killed
    if not was_killed:
        assert f"{message}: finished work is kept; run the same command again" in interrupted
        assert "Traceback" not in interrupted

    code, said = extract(videos, *settings[2:])
    assert code == 0
    assert f"{3 - len(finished)} to extract, {len(finished)} already extracted" in said
    assert finished.items() <= snapshot(store).items()
    assert [path.name for path in store.rglob(".*")] == [LOCK_NAME]
    extract(videos, *settings[2:], out=tmp_path / "undisturbed")
    assert_equal_stores(store, tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "signal_number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_stopped_run_leaves_no_process_behind(tmp_path, signal_number):
    video = encode(tmp_path / "a.mp4", draw_frames(700))
    command = [sys.executable, "-m", "vigil.pipeline.cli", "extract", str(video)]
    command += ["--out", str(tmp_path / "store"), "--weights", "random", "--workers", "2"]
    command += ["--endpoint", "MaxPool3d_2a_3x3"]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
    group = os.getpgid(run.pid)
    wait_until(lambda: (tmp_path / "store" / LOCK_NAME).exists())
    wait_until(lambda: num_processes(group) >= 3)
    if signal_number == signal.SIGINT:
        os.killpg(group, signal_number)  # as a terminal does
    else:
        run.kill()
    _, said = run.communicate(timeout=60)
    assert run.returncode == (130 if signal_number == signal.SIGINT else -9)
    if signal_number == signal.SIGINT:  # a process that loses its parent at its start complains
        assert b"Traceback" not in said
    wait_until(lambda: num_processes(group) == 0)
    assert [path.name for path in (tmp_path / "store").iterdir()] in (
        [LOCK_NAME],
        [LOCK_NAME, "failures.csv"],
        ["failures.csv", LOCK_NAME],
    )


def num_processes(group):
    """Return the number of live processes in a group."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, its_group = path.read_text().rpartition(")")[2].split()[:3]
            states += [state] * (int(its_group) == group)
    return sum(state != "Z" for state in states)


def wait_until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def reference_video(shared_data, tmp_path_factory):
    """The video of the reference figures, cut after their one clip."""
    return cut_packets(shared_data / VIDEO, tmp_path_factory.mktemp("cut") / "a.mp4", 64)


def extract_as_the_reference(video, store, *arguments):
    settings = "--precision fp32 --keep-clips --short-side native --views center --device cpu"
    code = main(["extract", str(video), "--out", str(store), *arguments, *settings.split()])
    assert code == 0
    features = verify_features(feature_path(store, "a.mp4"))
    assert features.num_frames_decoded == 64
    return features


def test_the_command_reproduces_the_7168_values_of_the_reference(
    golden, reference_video, store, tmp_path
):
    save_file(seeded_state(), tmp_path / "seeded.safetensors")
    weights = str(tmp_path / "seeded.safetensors")
    video = extract_as_the_reference(reference_video, store, "--weights", weights)
    expected = np.load(golden / "i3d_seeded_full.npz")["features"]
    assert video.clip_features.shape == (1, 1, 7168)
    assert (video.time_positions, video.channels) == (7, 1024)
    assert relative_error(video.clip_features[0, 0], expected.ravel()) < 1e-4
    assert relative_error(video.features[0, 31], expected.ravel()) < 1e-4
    assert video.weights_trained


@pytest.mark.slow  # test_i3d has these weights, and the test above has the command
def test_the_command_reproduces_mixed_4d_of_the_real_weights(
    golden, shared_data, reference_video, store
):
    weights = str(shared_data / "weights" / "i3d_rgb_imagenet_partial.pt")
    arguments = ("--weights", weights, "--endpoint", "Mixed_4d")
    video = extract_as_the_reference(reference_video, store, *arguments)
    expected = np.load(golden / "i3d_partial_endpoints.npz")["Mixed_4d"]
    assert (video.time_positions, video.channels) == (16, 512)
    assert relative_error(video.clip_features[0, 0], expected.ravel()) < 1e-4
