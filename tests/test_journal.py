"""A killed run of a long video goes on where it was, bit for bit."""

import errno
import logging
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import run_forked
from fake_backbone import SPEC
from test_processes import VIEW_SETS, engine
from video_files import draw_frames, encode

from vigil.extract.engine import journal
from vigil.extract.engine.assembly import OpenVideo
from vigil.extract.engine.device import DeviceReady
from vigil.extract.engine.dispatch import Engine
from vigil.extract.engine.journal import HEAD, Journal, journal_path
from vigil.extract.errors import FailedVideo
from vigil.extract.source import SourceVideo
from vigil.extract.store import feature_path, read_features, verify_features

NAME = "b/long.mp4"
NUM_CLIPS = 25
WAYS = {
    "whole": {"num_workers": 0},
    "parts": {"num_workers": 2, "clips_per_part": 4},
    "batches": {"num_workers": 1, "batch_size": 3},
}


def long_engine(way: str, **changes) -> Engine:
    return engine(**{"journal_clips": 3, **WAYS[way], **changes})


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> SourceVideo:
    frames = draw_frames(32 * (NUM_CLIPS + 1) - 5, 240, 232, 7)
    path = tmp_path_factory.mktemp("videos") / "long.mp4"
    return SourceVideo(encode(path, frames, codec_options={"g": "25", "bf": "2"}), NAME)


@pytest.fixture(scope="module")
def undisturbed(video, tmp_path_factory):
    """The features of each way of reading."""
    store = tmp_path_factory.mktemp("undisturbed")
    for way in WAYS:
        extract(long_engine(way), video, store / way)
    return {way: read_features(feature_path(store / way, NAME)) for way in WAYS}


def extract(engine, video, store):
    """Return the outcome, and how many clips went through the device."""
    computed = [0]
    (outcome,) = engine.extract(
        [video], store, lambda activity: computed.append(activity.num_clips)
    )
    return outcome, computed[-1]


def kill_after(num_clips, video, store, way):
    """Run until the device has returned so many clips, then ``kill -9``: the last one is lost."""
    assert run_forked(run_until, num_clips, video, store, way) == -9
    return journal_path(store, video.name)


def run_until(num_clips, video, store, way):
    def watch(activity):
        if activity.num_clips >= num_clips:
            os.kill(os.getpid(), signal.SIGKILL)

    list(long_engine(way).extract([video], store, watch))


def assert_undisturbed(store, expected):
    found = verify_features(feature_path(store, NAME))
    for name in ("features", "clip_features", "clip_frames", "segment_seconds", "frame_seconds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert replace_arrays(found) == replace_arrays(expected)
    files = {path.name for path in store.rglob("*") if path.is_file()}
    assert files == {"long.mp4.h5"}


def replace_arrays(video):
    names = ("decoder", "video", "rung", "precision", "num_frames_decoded", "num_frames_damaged")
    return [getattr(video, name) for name in names]


@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_twice_goes_on_where_it_was(tmp_path, video, undisturbed, way, caplog):
    kill_after(9, video, tmp_path, way)
    path = kill_after(6, video, tmp_path, way)
    assert path.stat().st_size > 12 * undisturbed[way].clip_features[:1].nbytes
    with caplog.at_level(logging.INFO, "vigil"):
        outcome, num_computed = extract(long_engine(way), video, tmp_path)
    num_there = NUM_CLIPS - num_computed
    assert 13 - 2 <= num_there <= 13 + 2  # with batches, up to two more or fewer are stored
    of_all = f" of {NUM_CLIPS}" if way == "parts" else ""
    assert f"continuing {NAME}: {num_there}{of_all} clips are there" in caplog.text
    assert outcome.features.clip_features is None
    assert_undisturbed(tmp_path, undisturbed[way])


def test_parts_whose_clips_are_there_are_not_decoded(tmp_path, video, undisturbed, monkeypatch):
    """If only the end was missing, nothing is: all times follow from the packets."""
    kept = []
    monkeypatch.setattr(Journal, "remove", lambda self: kept.append(self.path.read_bytes()))
    extract(long_engine("parts"), video, tmp_path)
    monkeypatch.undo()
    feature_path(tmp_path, NAME).unlink()
    assert journal_path(tmp_path, NAME).read_bytes() == kept[0]
    decoded = []
    outcomes = long_engine("parts").extract(
        [video], tmp_path, lambda activity: decoded.append(activity.num_clips_decoded)
    )
    assert len(list(outcomes)) == 1
    assert not decoded
    assert_undisturbed(tmp_path, undisturbed["parts"])


@pytest.fixture(scope="module")
def store_of_killed(tmp_path_factory, video):
    """What a killed run of ``whole`` leaves."""
    store = tmp_path_factory.mktemp("killed")
    kill_after(9, video, store, "whole")
    return store


@pytest.fixture
def killed(tmp_path, video, store_of_killed):
    """A copy of the journal that it leaves, with 8 clips."""
    shutil.copytree(store_of_killed, tmp_path, dirs_exist_ok=True)
    return journal_path(tmp_path, video.name)


def record_size(undisturbed):
    return HEAD.size + undisturbed["whole"].clip_features[:1].nbytes


def test_torn_and_damaged_records_are_computed_again(tmp_path, video, undisturbed, killed):
    size = record_size(undisturbed)
    content = bytearray(killed.read_bytes())
    content[-3 * size + 20] ^= 1  # in the features of the third last record
    content[-5 * size + 9] ^= 1  # in the clip index of the fifth last one
    killed.write_bytes(content[: -size // 2])
    _, num_computed = extract(long_engine("whole"), video, tmp_path)
    assert num_computed == NUM_CLIPS - 5
    assert_undisturbed(tmp_path, undisturbed["whole"])


@pytest.mark.parametrize("num_bytes", [0, 10])
def test_a_torn_header_is_refused(tmp_path, video, undisturbed, killed, num_bytes):
    killed.write_bytes(killed.read_bytes()[:num_bytes])
    _, num_computed = extract(long_engine("whole"), video, tmp_path)
    assert num_computed == NUM_CLIPS
    assert_undisturbed(tmp_path, undisturbed["whole"])


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": replace(SPEC, short_side=224)},
        {"views": VIEW_SETS["five"][::-1]},
        {"precision": "bf16"},
        {"batch_size": 2},
    ],
    ids=str,
)
def test_other_settings_make_a_journal_useless(tmp_path, video, killed, changes, caplog):
    changed = long_engine("whole", **changes)
    with caplog.at_level(logging.INFO, "vigil"):
        _, num_computed = extract(changed, video, tmp_path)
    assert num_computed == NUM_CLIPS
    assert caplog.text.count("clips of an earlier run are of no use") == 1
    assert "continuing" not in caplog.text
    assert not killed.exists()
    extract(changed, video, tmp_path / "fresh")
    one, other = (
        read_features(feature_path(store, NAME)) for store in (tmp_path, tmp_path / "fresh")
    )
    np.testing.assert_array_equal(one.clip_features, other.clip_features)


def test_another_version_of_the_video_makes_a_journal_useless(tmp_path, video, undisturbed, killed):
    copy = replace(video, path=tmp_path.with_name("copy.mp4"))
    copy.path.write_bytes(video.path.read_bytes())
    _, num_computed = extract(long_engine("whole"), copy, tmp_path)
    assert num_computed == NUM_CLIPS
    found = read_features(feature_path(tmp_path, NAME))
    np.testing.assert_array_equal(found.features, undisturbed["whole"].features)
    assert not killed.exists()


def test_a_video_that_changes_as_a_run_continues_is_not_mixed(tmp_path, video, monkeypatch):
    changing = replace(video, path=tmp_path / "changing.mp4")
    shutil.copy2(video.path, changing.path)
    store = tmp_path / "store"
    path = kill_after(9, changing, store, "parts")
    resume = Journal.resume

    def change_after(self, header):
        assert resume(self, header)
        os.utime(changing.path)

    monkeypatch.setattr(Journal, "resume", change_after)
    outcome, _ = extract(long_engine("parts"), changing, store)
    monkeypatch.undo()
    assert isinstance(outcome, FailedVideo)
    assert "changed while it was being read: run again" in outcome.reason
    assert not path.exists()
    assert extract(long_engine("parts"), changing, store)[1] == NUM_CLIPS


def test_a_video_that_is_deleted_while_it_is_read_fails_alone(tmp_path, video):
    going = replace(video, path=tmp_path / "going.mp4")
    shutil.copy2(video.path, going.path)
    outcomes = long_engine("whole").extract(
        [going], tmp_path / "store", lambda _: going.path.unlink(missing_ok=True)
    )
    assert [type(outcome) for outcome in outcomes] == [FailedVideo]
    assert not list((tmp_path / "store").iterdir())


def test_another_reading_uses_none_of_the_clips(tmp_path, video, undisturbed, killed):
    """A run that reads in parts computes all, and what reading from the beginning gave stays."""
    kill_after(6, video, tmp_path, "parts")
    _, num_computed = extract(long_engine("whole"), video, tmp_path)
    assert num_computed == NUM_CLIPS - 8
    assert_undisturbed(tmp_path, undisturbed["whole"])


def test_a_short_video_has_no_journal(tmp_path, video, undisturbed):
    seen = set()
    short = long_engine("whole", journal_clips=NUM_CLIPS)
    watched = short.extract([video], tmp_path, lambda _: seen.update(tmp_path.iterdir()))
    list(watched)
    assert not {path for path in seen if path.suffix == ".clips"}
    assert_undisturbed(tmp_path, undisturbed["whole"])


def test_a_video_that_fails_leaves_no_journal(tmp_path, video, killed):
    failing = long_engine("whole", max_damage=0.0)
    video.path.rename(video.path.with_suffix(".away"))
    try:
        outcome, _ = extract(failing, video, tmp_path)
        assert isinstance(outcome, FailedVideo)
        assert killed.exists()  # the disk with the video may come back
    finally:
        video.path.with_suffix(".away").rename(video.path)

    class Loud(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2, 3), 1e6)

    network = replace(failing.networks[0], module=Loud())
    loud = replace(failing, networks=(network,), precision="fp16")
    outcome, _ = extract(loud, video, tmp_path)
    assert isinstance(outcome, FailedVideo)
    assert not killed.exists()


def test_a_full_disk_ends_the_run_and_says_what_did_not_fit(tmp_path, video, monkeypatch):
    write, num_written = journal.write_at, []

    def write_some(file, content, place):
        num_written.append(place)
        if len(num_written) > 6:
            write(file, content[: len(content) // 2], place)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content, place)

    monkeypatch.setattr(journal, "write_at", write_some)
    with pytest.raises(OSError, match=f"No space left on device: 'the clip features of {NAME}"):
        extract(long_engine("whole"), video, tmp_path)
    monkeypatch.undo()
    _, num_computed = extract(long_engine("whole"), video, tmp_path)
    assert num_computed == NUM_CLIPS - 6


class TestRecords:
    """The records of one journal."""

    HEADER = b"{}\n"

    def made(self, tmp_path):
        made = Journal(tmp_path, "a.mp4", (2, 3), np.dtype(np.float32))
        for clip in range(4):
            made.put("one", clip, self.clip(clip))
        return made

    @staticmethod
    def clip(number):
        return np.full((2, 3), number, np.float32)

    def again(self, tmp_path):
        again = Journal(tmp_path, "a.mp4", (2, 3), np.dtype(np.float32))
        assert again.resume(self.HEADER)
        return again

    def test_readings_do_not_mix(self, tmp_path):
        made = self.made(tmp_path)
        made.keep(self.HEADER)
        made.put("two", 0, self.clip(9))
        again = self.again(tmp_path)
        assert (len(again.clips_of("one")), len(again.clips_of("two"))) == (4, 1)
        np.testing.assert_array_equal(again.features("two")[:], [self.clip(9)])
        np.testing.assert_array_equal(again.features("one")[1:3], [self.clip(1), self.clip(2)])

    def test_void_records_stay_void_and_their_place_is_used_again(self, tmp_path):
        made = self.made(tmp_path)
        made.keep(self.HEADER)
        size = made.path.stat().st_size
        made.forget("one")
        assert not self.again(tmp_path).clips_of("one")
        for clip in range(4):
            made.put("one", clip, self.clip(10 + clip))
        assert made.path.stat().st_size == size
        np.testing.assert_array_equal(
            self.again(tmp_path).features("one")[:], [self.clip(10 + clip) for clip in range(4)]
        )

    def test_every_changed_byte_costs_its_record_only(self, tmp_path):
        made = self.made(tmp_path)
        made.keep(self.HEADER)
        whole = made.path.read_bytes()
        for position in range(len(self.HEADER), len(whole)):
            content = bytearray(whole)
            content[position] ^= 1 << position % 8
            made.path.write_bytes(content)
            again = self.again(tmp_path)
            place = (position - len(self.HEADER)) // ((len(whole) - len(self.HEADER)) // 4)
            assert set(again.clips_of("one")) == {0, 1, 2, 3} - {place}

    def test_the_device_number_does_not_matter_but_its_kind_does(self, tmp_path, video):
        opened = OpenVideo(video, tmp_path, long_engine("whole").provenance)

        def header(name):
            return opened.journal_header(DeviceReady(name, "plain", "fp32"))

        assert header("cuda:0 (X)") == header("cuda:1 (X)") == header("cuda:0 (X), cuda:1 (X)")
        assert header("cuda:0 (X)") != header("cuda:0 (Y)")
