"""The feature file: h5py alone can read it, and damage is always detected."""

import errno
import hashlib
import os
from contextlib import contextmanager
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
from builders import CHANNELS, SPEC, TIME_POSITIONS, VIEWS, make_features, write_store

from vigil.extract import sealed, segments, store
from vigil.extract.sealed import (
    FORMAT_VERSION,
    FeatureFileError,
    ForeignFileError,
    UnreadableFileError,
    seal,
)
from vigil.extract.segments import segment_ranges
from vigil.extract.store import (
    feature_path,
    list_features,
    open_features,
    read_features,
    read_identity,
    verify_features,
    write_features,
)
from vigil.pipeline.cli import run
from vigil.pipeline.options import FeaturesVerifyOptions

CLIP_FRAMES = np.array([[0, 64], [64, 80]])
CLIP_FEATURES = np.random.default_rng(1).standard_normal((2, 2, 6)).astype(np.float16)
WITH_CLIPS = make_features(
    clip_features=CLIP_FEATURES, clip_frames=CLIP_FRAMES, versions={"python": "3.11"}
)
FRAME_SECONDS = np.arange(81) / 25.0
WITH_TIMES = replace(WITH_CLIPS, frame_seconds=FRAME_SECONDS)
DAMAGE = {
    "num_frames_damaged": 4,
    "num_frames_lost": 2,
    "damage_frames": np.array([[3, 5], [80, 80]]),
    "damage_seconds": np.array([[0.12, 0.2], [3.2, 3.2]]),
}
DATASETS = {
    "segments/features": (np.float32, (2, 8, 6), (1, 8, 6)),
    "segments/frames": (np.int64, (8, 2), (8, 2)),
    "segments/seconds": (np.float64, (8, 2), (8, 2)),
    "clips/features": (np.float16, (2, 2, 6), (1, 2, 6)),
    "clips/frames": (np.int64, (2, 2), (2, 2)),
}
ATTRIBUTES = {
    "format": "vigil-features",
    "format_version": 3,
    "spec": SPEC.to_json(),
    "spec_digest": SPEC.digest,
    "backbone": "i3d",
    "time_positions": TIME_POSITIONS,
    "channels": CHANNELS,
    "weights_name": "none",
    "weights_digest": "0" * 64,
    "weights_trained": True,
    "precision": "fp32",
    "rung": "plain",
    "device": "cpu",
    "decoder": "decord",
    "video_path": "a.mp4",
    "video_bytes": 1,
    "video_modified_ns": 1,
    "video_digest": "0" * 64,
    "fps": 25.0,
    "width": 320,
    "height": 240,
    "num_frames_container": 80,
    "num_frames_decoded": 80,
    "num_frames_damaged": 0,
    "num_frames_lost": 0,
    "duration_container": 3.2,
    "rotation_ignored": 0.0,
    "num_clock_jumps": 0,
    "first_jump_seconds": 0.0,
    "rate_source": "",
    "num_bytes_unread": 0,
    "versions": '{"python": "3.11"}',
    "created_at": "2021-01-01T00:00:00+00:00",
}
UNREAD = {"backbone", "weights_digest"}
"""Attributes that the spec repeats."""
ADDED_TO_VERSION_3 = {
    "rotation_ignored",
    "num_clock_jumps",
    "first_jump_seconds",
    "rate_source",
    "num_bytes_unread",
}
NOT_IN_VERSION_1 = {"num_frames_lost", "duration_container"}
OPTIONAL = {*NOT_IN_VERSION_1, *ADDED_TO_VERSION_3, "rung"}
NAMES_OF_VERSION = {
    3: {*ATTRIBUTES, "views"},
    2: {*ATTRIBUTES, "views", "content_digest", "complete"} - ADDED_TO_VERSION_3,
    1: {*ATTRIBUTES, "views", "content_digest", "complete"} - NOT_IN_VERSION_1 - ADDED_TO_VERSION_3,
}
CONTENT_DIGESTS = {
    1: "56e113bcd272bd9fc85cf0a0bdbb331e276c7fee546fdeb2394d4b7ce5e15deb",
    2: "315b1dfaac8d987945ffc8c24019a14fdd4ec21d7ad17882c95bd5aff9758112",
}
"""Of `WITH_CLIPS`, as the programs computed them that wrote these versions."""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "store" / "a.mp4.h5"
    write_features(path, WITH_CLIPS)
    return path


def write_old(path, version):
    """Write `WITH_CLIPS` in an earlier version of the format."""
    write_features(path, WITH_CLIPS)
    user_block = {} if version == 1 else {"userblock_size": 512}
    old_path = path.with_suffix(".old")
    with h5py.File(path) as file, h5py.File(old_path, "w", libver="v110", **user_block) as old:
        for name in DATASETS:
            file.copy(name, old.require_group(name.partition("/")[0]))
        old.attrs.update({**file.attrs, "format_version": version})
        for name in ADDED_TO_VERSION_3 | (NOT_IN_VERSION_1 if version == 1 else set()):
            del old.attrs[name]
        old.attrs["content_digest"] = CONTENT_DIGESTS[version]
        old.attrs["complete"] = np.uint8(1)
    old_path.replace(path)
    if version > 1:
        reseal(path, version)


def reseal(path, version=FORMAT_VERSION):
    content = bytearray(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed, "FORMAT_VERSION", version)
        seal(memoryview(content))
    path.write_bytes(content)


@contextmanager
def edited(path):
    """Open the HDF5 file for a change, then update the digest in front of it."""
    with h5py.File(path, "r+") as file:
        yield file
    reseal(path)


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def assert_same(left, right):
    for setting in fields(left):
        a, b = getattr(left, setting.name), getattr(right, setting.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, setting.name)
        else:
            assert a == b, setting.name


def test_h5py_alone_reads_what_the_contract_specifies(path):
    with h5py.File(path) as file:
        datasets = {}
        file.visititems(
            lambda name, node: (
                datasets.update({name: node}) if isinstance(node, h5py.Dataset) else None
            )
        )
        assert set(datasets) == set(DATASETS)
        for name, (dtype, shape, chunks) in DATASETS.items():
            dataset = datasets[name]
            assert (dataset.dtype, dataset.shape, dataset.chunks) == (dtype, shape, chunks), name
            assert dataset.fletcher32, name
        np.testing.assert_array_equal(file["segments/features"], WITH_CLIPS.features)
        np.testing.assert_array_equal(file["segments/frames"], WITH_CLIPS.segment_frames)
        np.testing.assert_array_equal(file["segments/seconds"], WITH_CLIPS.segment_seconds)
        np.testing.assert_array_equal(file["clips/features"], CLIP_FEATURES)
        np.testing.assert_array_equal(file["clips/frames"], CLIP_FRAMES)
        attributes = dict(file.attrs)
        assert tuple(attributes.pop("views")) == VIEWS
        assert attributes == ATTRIBUTES


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_file_reads_back_as_written(path, dtype):
    video = make_features("ä/b c.mp4", features=WITH_CLIPS.features.astype(dtype))
    for written in (WITH_CLIPS, WITH_TIMES, video, replace(video, **DAMAGE)):
        write_features(path, written)
        for read in (read_features, verify_features):
            assert_same(read(path), written)


def test_times_of_frames_are_compressed_and_change_nothing_else(path):
    def other_parts():
        with h5py.File(path) as file:
            parts = {name: file[name][()].tobytes() for name in DATASETS}
            return parts | {name: str(value) for name, value in file.attrs.items()}

    before = other_parts()
    seconds = np.cumsum(np.random.default_rng(0).uniform(0.03, 0.05, 200_001)) - 0.03
    frames = segment_ranges(200_000, SPEC.num_segments)
    long = replace(
        WITH_TIMES,
        segment_frames=frames,
        segment_seconds=seconds[frames],
        num_frames_decoded=200_000,
        clip_features=np.zeros((3125, 2, 6), np.float16),
        clip_frames=SPEC.grid.frame_ranges(200_000),
        frame_seconds=seconds,
    )
    write_features(path, long)
    with h5py.File(path) as file:
        stored = file["frames/seconds"]
        assert (stored.dtype, stored.shape) == (np.float64, (200_001,))
        assert (stored.compression, stored.shuffle, stored.fletcher32) == ("gzip", True, True)
        assert stored.id.get_storage_size() < seconds.nbytes
        np.testing.assert_array_equal(stored, seconds)
    assert_same(verify_features(path), long)
    write_features(path, WITH_TIMES)
    assert other_parts() == before
    assert read_identity(path).frame_seconds.size == 0


@pytest.mark.parametrize("name", ["frames/other", "clips/features", "frames/seconds"])
def test_only_times_of_frames_may_be_compressed(path, monkeypatch, name):
    write_features(path, WITH_TIMES)
    with edited(path) as file:
        if name in file:
            del file[name]
        file.create_dataset(name, data=np.zeros(81), compression="gzip")
    monkeypatch.setattr(sealed, "MAX_COMPRESSED_BYTES", 80 * 8)
    with pytest.raises(FeatureFileError, match=f"{name} does not store its values plainly"):
        read_features(path)


class _Source:
    """Clip features that are made when asked for, and how many bytes were asked for at once."""

    def __init__(self, num_clips):
        self.shape, self.dtype = (num_clips, 2, 6), np.dtype(np.float16)
        self.most_bytes = 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, clips):
        assert clips.start is not None
        assert clips.stop <= len(self)
        numbers = np.arange(clips.start, clips.stop)[:, None, None]
        values = (numbers % 1000 + np.arange(12).reshape(2, 6) / 16).astype(np.float16)
        self.most_bytes = max(self.most_bytes, values.nbytes)
        return values


def make_long(num_clips):
    num_frames = 64 * num_clips
    source = _Source(num_clips)
    ranges = SPEC.grid.frame_ranges(num_frames)
    return source, make_features(
        num_frames=num_frames, clip_features=source, clip_frames=ranges, versions={}
    )


def test_clips_are_written_pooled_and_read_in_small_slices(path, monkeypatch):
    monkeypatch.setattr(segments, "SLICE_BYTES", 1000)
    source, video = make_long(3000)
    write_features(path, video)
    pooled = segments.pool_clips(source, video.clip_frames, video.segment_frames)
    assert 0 < source.most_bytes <= 1000
    monkeypatch.undo()
    clips = source[slice(0, 3000)]
    owners = np.minimum(np.arange(3000) * 8 // 3000, 7)
    np.testing.assert_array_equal(pooled, [clips[owners == k].max(axis=0) for k in range(8)])
    np.testing.assert_array_equal(read_features(path).clip_features, clips)
    in_pieces = path.read_bytes()
    write_features(path, replace(video, clip_features=clips))
    assert len(path.read_bytes()) == len(in_pieces)


def test_an_open_file_loads_the_slices_that_are_asked_for(path, monkeypatch):
    _, video = make_long(300)
    write_features(path, video)
    whole = read_features(path)
    with open_features(path) as content:
        clips = content.clip_features
        assert not isinstance(clips, np.ndarray)
        assert (clips.shape, clips.dtype, len(clips)) == ((300, 2, 6), np.float16, 300)
        for some in (slice(0, 0), slice(7, 9), slice(290, None), slice(None)):
            np.testing.assert_array_equal(clips[some], whole.clip_features[some])
        assert_same(replace(content, clip_features=whole.clip_features), whole)
    assert verify_features(path, load_clips=False).clip_features.size == 0
    write_features(path, make_features())
    with open_features(path) as content:
        assert content.clip_features is None
    with pytest.raises(FeatureFileError, match="does not exist"), open_features(path.parent / "b"):
        pass


def test_errors_of_those_who_read_an_open_file_are_their_own(path):
    with pytest.raises(KeyError), open_features(path):
        raise KeyError
    with open_features(path) as content:
        content.clip_features.dataset.file.close()
        with pytest.raises(FeatureFileError, match=r"a\.mp4\.h5 is damaged"):
            _ = content.clip_features[:1]


@pytest.mark.parametrize("num_written", [0, 1, 2, 5, 20, 50])
def test_a_disk_that_fills_up_is_an_error_and_keeps_the_old_file(path, monkeypatch, num_written):
    """HDF5 itself would crash the process."""
    whole, write, calls = path.read_bytes(), sealed.write_at, []

    def write_some(file, content, place):
        calls.append(len(content))
        if len(calls) > num_written:
            write(file, bytes(content)[: len(content) // 2], place)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content, place)

    monkeypatch.setattr(sealed, "write_at", write_some)
    _, video = make_long(3000)
    monkeypatch.setattr(segments, "SLICE_BYTES", 1000)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.mp4\.h5"):
        write_features(path, video)
    assert (path.read_bytes(), names_in(path.parent)) == (whole, [path.name])
    assert len(calls) == num_written + 1  # nothing is tried again


def test_reading_the_identity_leaves_out_features_only(path):
    identity = read_identity(path)
    assert identity.features.shape[0] == identity.clip_features.shape[0] == 0
    without = {"features": identity.features, "clip_features": identity.clip_features}
    assert_same(identity, replace(WITH_CLIPS, **without))


def changed(value):
    """The value with one byte changed or, in text, one letter."""
    if isinstance(value, str):
        return ("z" if value[:1] != "z" else "y") + value[1:]
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return np.array([changed(value[0]), *value[1:]], dtype=object)
    array = np.array(value)
    content = bytearray(array.tobytes())
    content[0] ^= 1
    return np.frombuffer(bytes(content), array.dtype).reshape(array.shape)


@pytest.fixture(params=NAMES_OF_VERSION)
def any_path(request, path):
    """A file in each version of the format."""
    if request.param < FORMAT_VERSION:
        write_old(path, request.param)
    with h5py.File(path) as file:
        assert set(file.attrs) == NAMES_OF_VERSION[request.param]
    return path


of_every_attribute = pytest.mark.parametrize(
    ("any_path", "name"),
    [(version, name) for version, names in NAMES_OF_VERSION.items() for name in sorted(names)],
    indirect=["any_path"],
)


@of_every_attribute
def test_an_attribute_with_one_changed_byte_is_detected(any_path, name, capsys):
    with h5py.File(any_path, "r+") as file:
        before = file.attrs[name]
        file.attrs[name] = changed(before)
        assert not np.array_equal(file.attrs[name], before)
    with pytest.raises(FeatureFileError, match=r"a\.mp4\.h5"):
        verify_features(any_path)
    assert run(FeaturesVerifyOptions(any_path)) == 4
    assert "damaged 1" in capsys.readouterr().out


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_with_one_changed_byte_is_detected(any_path, name):
    """Even if HDF5's own checksum is right, as here, where HDF5 itself wrote the byte."""
    path, whole = any_path, any_path.read_bytes()
    with h5py.File(path) as file:
        content = file[name][()]
    for position in range(0, content.nbytes, 7):
        other = flipped(content.tobytes(), position)
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            file[name][...] = np.frombuffer(bytes(other), content.dtype).reshape(content.shape)
        with pytest.raises(FeatureFileError, match="damaged"):
            verify_features(path)


def flipped(content, position):
    """The bytes with one bit of one of them changed."""
    damaged = bytearray(content)
    damaged[position] ^= 1 << position % 8
    return damaged


def write_over(path, content):
    """Write a file's bytes without emptying it first, after which ext4 would wait for the disk."""
    with path.open("r+b") as file:
        file.write(content)


@pytest.mark.parametrize("read", [read_features, read_identity, verify_features])
def test_a_byte_flipped_on_disk_is_detected_before_hdf5_reads_it(path, monkeypatch, read):
    whole = path.read_bytes()
    monkeypatch.setattr(h5py, "File", None)
    for position in [*range(100), *range(100, len(whole), 13)]:
        write_over(path, flipped(whole, position))
        with pytest.raises(FeatureFileError, match=r"is damaged|is not a feature file") as error:
            read(path)
        assert not isinstance(error.value, ForeignFileError)


def test_the_digest_in_front_covers_the_bytes_after_it(path):
    content = path.read_bytes()
    digest = hashlib.sha256(content[512:]).hexdigest()
    assert content[:512].rstrip(b"\0").decode() == f"vigil-features 3 {digest}\n"
    with h5py.File(path) as file:
        assert file.userblock_size == 512


@pytest.fixture
def old_path(path):
    """A file in version 1 of the format."""
    old_path = path.with_name("old.mp4.h5")
    write_old(old_path, 1)
    return old_path


def test_files_of_version_2_can_still_be_read(path):
    old_path = path.with_name("old.mp4.h5")
    write_old(old_path, 2)
    assert old_path.read_bytes().startswith(b"vigil-features 2 ")
    for read in (read_features, read_identity, verify_features):
        assert_same(read(old_path), read(path))


def test_files_of_version_3_without_later_attributes_can_be_read(path):
    expected = read_features(path)
    with edited(path) as file:
        for name in ADDED_TO_VERSION_3:
            del file.attrs[name]
    assert_same(read_features(path), expected)
    assert (expected.num_clock_jumps, expected.rate_source, expected.num_bytes_unread) == (0, "", 0)


def test_files_of_version_1_can_still_be_read(path, old_path):
    for read in (read_features, read_identity, verify_features):
        assert_same(read(old_path), replace(read(path), duration_container=0.0))
    damaged = bytearray(old_path.read_bytes())
    damaged[damaged.index(WITH_CLIPS.features[1].tobytes())] ^= 1
    old_path.write_bytes(damaged)
    with pytest.raises(FeatureFileError, match="is damaged"):
        verify_features(old_path)


def test_the_structures_of_version_1_have_checksums(old_path):
    """A flipped byte in a header is refused, not read as arrays of terabytes."""
    damaged = bytearray(old_path.read_bytes())
    damaged[damaged.index(b"OHDR") + 20] ^= 4
    old_path.write_bytes(damaged)
    with pytest.raises(FeatureFileError, match="damaged"):
        verify_features(old_path)


@pytest.mark.parametrize("read", [read_features, read_identity, verify_features])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.EACCES, "Permission denied"),
            r"h5 cannot be read \(Permission denied\): check its disk",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            r"h5 cannot be read \(Input/output error\): check its disk",
        ),
        (
            OSError(errno.ESTALE, "Stale file handle"),
            r"h5 cannot be read \(Stale file handle\): check its disk",
        ),
        (MemoryError(), r"h5 cannot be read \(not enough memory\): free some"),
    ],
)
@pytest.mark.parametrize(
    ("module", "place"), [(sealed, "_check_bytes"), (sealed, "_check_parts"), (store, "_read")]
)
def test_an_unreadable_file_is_not_reported_as_damaged(
    path, monkeypatch, read, error, message, module, place
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(module, place, fail)
    with pytest.raises(UnreadableFileError, match=message):
        read(path)


def test_a_damaged_file_is_never_reported_as_unreadable(old_path):
    """Not even one that only HDF5 checks."""
    whole = old_path.read_bytes()
    for position in range(0, len(whole), 17):
        write_over(old_path, flipped(whole, position))
        try:
            read_identity(old_path)
        except UnreadableFileError:
            pytest.fail(f"byte {position}")
        except FeatureFileError:
            pass


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for read in (read_features, read_identity, verify_features):
        with pytest.raises(FeatureFileError, match=r"a\.mp4\.h5 is (damaged|not a feature file)"):
            read(path)


def test_a_file_that_is_not_a_feature_file_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(FeatureFileError, match=r"a\.h5 does not exist: run vigil extract first"):
        read_features(path)
    path.write_text("frames")
    with pytest.raises(
        FeatureFileError, match=r"a\.h5 is not a feature file: run the same vigil extract"
    ):
        read_features(path)
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros(3)
    with pytest.raises(FeatureFileError, match="an HDF5 file of another kind"):
        read_features(path)
    with pytest.raises(FeatureFileError, match="nowhere is not a folder of features"):
        list_features(tmp_path / "nowhere")
    path.unlink()
    with pytest.raises(FeatureFileError, match="holds no feature files: run vigil extract first"):
        list_features(tmp_path)


def test_another_version_of_the_format_is_refused(path, monkeypatch):
    monkeypatch.setattr(sealed, "FORMAT_VERSION", 4)
    write_features(path, WITH_CLIPS)
    monkeypatch.undo()
    message = "has format version 4, but this program reads 1 to 3"
    with pytest.raises(ForeignFileError, match=message):
        read_features(path)
    with edited(path) as file:
        file.attrs["format_version"] = 1
    with pytest.raises(FeatureFileError, match="format version 3 in its user block, 1 inside"):
        read_features(path)


@of_every_attribute
def test_a_missing_attribute_is_detected(any_path, name):
    with h5py.File(any_path, "r+") as file:
        del file.attrs[name]
    with pytest.raises(FeatureFileError, match=r"damaged|another kind|incomplete"):
        verify_features(any_path)


@pytest.mark.parametrize("name", sorted(NAMES_OF_VERSION[3] - UNREAD - OPTIONAL))
def test_an_attribute_that_was_never_written_is_detected(path, name):
    with edited(path) as file:
        del file.attrs[name]
    with pytest.raises(FeatureFileError, match=r"damaged|another kind|incomplete"):
        verify_features(path)


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_that_was_never_written_is_detected(path, name):
    with edited(path) as file:
        del file[name]
    with pytest.raises(FeatureFileError, match="damaged"):
        verify_features(path)


def test_an_incomplete_file_of_version_1_is_refused(old_path):
    with h5py.File(old_path, "r+") as file:
        del file.attrs["complete"]
    for read in (read_features, read_identity, verify_features):
        with pytest.raises(FeatureFileError, match="is incomplete: run the same vigil extract"):
            read(old_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": WITH_CLIPS.features[:, :, :5]}, r"features have the shape \(2, 8, 5\)"),
        ({"segment_frames": WITH_CLIPS.segment_frames + 1}, "do not partition"),
        ({"features": np.full((2, 8, 6), np.inf, np.float32)}, "not finite"),
        ({"clip_features": CLIP_FEATURES * np.float16("nan")}, "not finite"),
        ({"segment_seconds": WITH_CLIPS.segment_seconds * np.nan}, "not finite"),
        ({"segment_seconds": WITH_CLIPS.segment_seconds[1:]}, r"seconds have the shape \(7, 2\)"),
        ({**DAMAGE, "damage_frames": np.array([[3, 5], [81, 81]])}, "not fit the decoded frames"),
        ({**DAMAGE, "damage_frames": np.array([[3, 5], [4, 6]])}, "not fit the decoded frames"),
        ({**DAMAGE, "damage_seconds": np.zeros((1, 2))}, "not fit the decoded frames"),
        ({"clip_frames": CLIP_FRAMES - 1}, "clips do not match the decoded frames"),
        ({"frame_seconds": FRAME_SECONDS[:-1]}, r"times of frames have the shape \(80,\)"),
        (
            {"frame_seconds": FRAME_SECONDS, "clip_features": None, "clip_frames": None},
            "times of frames have the shape",
        ),
        ({"frame_seconds": FRAME_SECONDS * np.nan}, "decrease, or are not finite"),
        ({"frame_seconds": FRAME_SECONDS[::-1]}, "decrease, or are not finite"),
        ({"frame_seconds": FRAME_SECONDS * 1.01}, "do not match those of segments"),
        ({"clip_features": CLIP_FEATURES[:, :1]}, r"clip features have the shape \(2, 1, 6\)"),
    ],
)
def test_verifying_detects_content_that_was_written_wrong(path, change, message):
    write_features(path, replace(WITH_CLIPS, **change))
    with pytest.raises(FeatureFileError, match=message):
        verify_features(path)


SAMPLED = replace(
    WITH_CLIPS,
    spec=replace(SPEC, frame_rate=40.0),
    num_frames_sampled=128,
    clip_frames=np.array([[0, 41], [40, 80]]),
)


def test_a_frame_rate_reads_back_and_other_files_have_no_attribute_of_it(tmp_path, path):
    sampled = tmp_path / "sampled.h5"
    write_features(sampled, SAMPLED)
    assert_same(verify_features(sampled), SAMPLED)
    with h5py.File(path) as file:
        assert "num_frames_sampled" not in file.attrs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_frames": np.array([[0, 40], [41, 80]])}, "clips do not match the decoded frames"),
        ({"clip_frames": np.array([[0, 41], [40, 81]])}, "clips do not match the decoded frames"),
        ({"num_frames_sampled": 129}, "clip features have the shape"),
        ({"num_frames_sampled": 0, "clip_frames": CLIP_FRAMES}, "does not fit its spec"),
        ({"spec": SPEC}, "does not fit its spec"),
    ],
)
def test_verifying_checks_what_a_frame_rate_changes(path, change, message):
    write_features(path, replace(SAMPLED, **change))
    with pytest.raises(FeatureFileError, match=message):
        verify_features(path)


def test_views_are_chosen_by_name():
    video = make_features()
    np.testing.assert_array_equal(
        video.select_views(["top_left", "center"]), video.features[[1, 0]]
    )
    with pytest.raises(FeatureFileError, match=r"a\.mp4: .*center, top_left, not top_right"):
        video.select_views(["center", "top_right"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_views_that_are_not_finite_are_named(value):
    video = make_features()
    video.features[1, 6, 2] = value
    assert video.select_views(["center"]).shape == (1, 8, 6)
    message = (
        r"a\.mp4: .* not finite \(view top_left, segment 6\): let vigil features verify repair"
    )
    with pytest.raises(FeatureFileError, match=message):
        video.select_views(["center", "top_left"])


def test_a_store_lists_its_videos_by_their_relative_paths(tmp_path):
    names = ["b.mp4", "Fighting/a.mp4", "Fighting/ä\n-x.avi", "-c.mp4"]
    write_store(tmp_path, *(make_features(name) for name in names))
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.h5").write_text("")
    listed = list_features(tmp_path)
    assert list(listed) == sorted(names)
    for name, path in listed.items():
        assert path == feature_path(tmp_path, name)
        assert read_features(path).video.path == name


@pytest.mark.parametrize("name", ["x" * 252, "ä" * 126, "-rf", "a\nb", " ", "%s{}\\"])
def test_every_name_the_file_system_allows_can_be_written(tmp_path, name):
    path = feature_path(tmp_path, name)
    assert len(os.fsencode(path.name)) <= 255
    write_features(path, make_features(name))
    assert verify_features(path).video.path == name
    assert names_in(tmp_path) == [path.name]
