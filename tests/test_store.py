"""The feature file: what h5py alone reads, and that nothing damaged is ever taken for whole."""

import os
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
from builders import CHANNELS, SPEC, TIME_POSITIONS, VIEWS, make_features, write_store
from commands import run_python

from extract import store
from extract.store import (
    FeatureFileError,
    feature_path,
    list_features,
    read_features,
    read_identity,
    remove_leftovers,
    replace_file,
    verify_features,
    write_features,
)
from pipeline.cli import main

CLIP_FRAMES = np.array([[0, 64], [64, 80]])
CLIP_FEATURES = np.random.default_rng(1).standard_normal((2, 2, 6)).astype(np.float16)
WITH_CLIPS = make_features(
    clip_features=CLIP_FEATURES, clip_frames=CLIP_FRAMES, versions={"python": "3.11"}
)
DATASETS = {
    "segments/features": (np.float32, (2, 8, 6), (1, 8, 6)),
    "segments/frames": (np.int64, (8, 2), (8, 2)),
    "segments/seconds": (np.float64, (8, 2), (8, 2)),
    "clips/features": (np.float16, (2, 2, 6), (1, 2, 6)),
    "clips/frames": (np.int64, (2, 2), (2, 2)),
}
ATTRIBUTES = {
    "format": "vigil-features",
    "format_version": 1,
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
    "versions": '{"python": "3.11"}',
    "created_at": "2021-01-01T00:00:00+00:00",
    "complete": 1,
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "store" / "a.mp4.h5"
    write_features(path, WITH_CLIPS)
    return path


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


def test_h5py_alone_reads_what_the_contract_says(path):
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
        assert len(attributes.pop("content_digest")) == 64
        assert attributes == ATTRIBUTES


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_reading_gives_back_what_was_written(path, dtype):
    video = make_features("ä/b c.mp4", features=WITH_CLIPS.features.astype(dtype))
    for written in (WITH_CLIPS, video):
        write_features(path, written)
        for read in (read_features, verify_features):
            assert_same(read(path), written)


def test_reading_the_identity_leaves_out_features_only(path):
    identity = read_identity(path)
    assert identity.features.shape[0] == identity.clip_features.shape[0] == 0
    without = {"features": identity.features, "clip_features": identity.clip_features}
    assert_same(identity, replace(WITH_CLIPS, **without))


def changed(value):
    """A value of which one byte is another; of text, one letter."""
    if isinstance(value, str):
        return ("z" if value[0] != "z" else "y") + value[1:]
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return np.array([changed(value[0]), *value[1:]], dtype=object)
    array = np.array(value)
    content = bytearray(array.tobytes())
    content[0] ^= 1
    return np.frombuffer(bytes(content), array.dtype).reshape(array.shape)


@pytest.mark.parametrize("name", [*ATTRIBUTES, "views", "content_digest"])
def test_an_attribute_with_one_other_byte_is_found(path, name, capsys):
    with h5py.File(path, "r+") as file:
        before = file.attrs[name]
        file.attrs[name] = changed(before)
        assert not np.array_equal(file.attrs[name], before)
    with pytest.raises(FeatureFileError, match=r"a\.mp4\.h5"):
        verify_features(path)
    assert main(["features", "verify", str(path)]) != 0
    assert "damaged 1" in capsys.readouterr().out


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_with_one_other_byte_is_found(path, name):
    """However it came about: here HDF5 itself wrote it, so that its own checksum is right."""
    whole = path.read_bytes()
    with h5py.File(path) as file:
        content = file[name][()]
    for position in range(0, content.nbytes, 7):
        other = bytearray(content.tobytes())
        other[position] ^= 1 << position % 8
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            file[name][...] = np.frombuffer(bytes(other), content.dtype).reshape(content.shape)
        with pytest.raises(FeatureFileError, match="damaged"):
            verify_features(path)


@pytest.mark.parametrize("name", DATASETS)
def test_a_byte_flipped_on_the_disk_is_found(path, name):
    whole = path.read_bytes()
    with h5py.File(path) as file:
        chunks = [file[name].id.get_chunk_info(k) for k in range(file[name].id.get_num_chunks())]
    for chunk in chunks:
        for position in range(chunk.byte_offset, chunk.byte_offset + chunk.size, 11):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            for read in (read_features, verify_features):
                with pytest.raises(FeatureFileError, match="damaged"):
                    read(path)


def test_the_files_own_structures_have_checksums(path):
    """A flipped byte in a header is refused, not read as arrays of terabytes."""
    whole = path.read_bytes()
    header = whole.index(b"OHDR")
    damaged = bytearray(whole)
    damaged[header + 20] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(FeatureFileError, match=r"damaged|no HDF5 file"):
        verify_features(path)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for read in (read_features, read_identity, verify_features):
        with pytest.raises(FeatureFileError, match=r"a\.mp4\.h5 is (damaged|no HDF5 file)"):
            read(path)


def test_what_is_no_feature_file_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(FeatureFileError, match=r"a\.h5 is not there: run vigil extract first"):
        read_features(path)
    path.write_text("frames")
    with pytest.raises(FeatureFileError, match=r"a\.h5 is no HDF5 file: delete it"):
        read_features(path)
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros(3)
    with pytest.raises(FeatureFileError, match="an HDF5 file of something else"):
        read_features(path)
    with pytest.raises(FeatureFileError, match="nowhere is no folder of features"):
        list_features(tmp_path / "nowhere")


def test_another_version_of_the_format_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(FeatureFileError, match="has format version 2, this program reads 1"):
        read_features(path)


@pytest.mark.parametrize("name", [*ATTRIBUTES, "views", "content_digest"])
def test_a_missing_attribute_is_found(path, name):
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
    with pytest.raises(FeatureFileError, match=r"damaged|something else|incomplete"):
        verify_features(path)


@pytest.mark.parametrize("name", DATASETS)
def test_a_missing_dataset_is_found(path, name):
    with h5py.File(path, "r+") as file:
        del file[name]
    with pytest.raises(FeatureFileError, match="damaged"):
        verify_features(path)


def test_an_incomplete_file_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]
    for read in (read_features, read_identity, verify_features):
        with pytest.raises(FeatureFileError, match="is incomplete: delete it and extract again"):
            read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": WITH_CLIPS.features[:, :, :5]}, r"features have the shape \(2, 8, 5\)"),
        ({"segment_frames": WITH_CLIPS.segment_frames + 1}, "do not partition"),
        ({"features": np.full((2, 8, 6), np.inf, np.float32)}, "not finite"),
        ({"clip_features": CLIP_FEATURES * np.float16("nan")}, "not finite"),
        ({"segment_seconds": WITH_CLIPS.segment_seconds * np.nan}, "not finite"),
    ],
)
def test_verifying_finds_what_never_was_right(path, change, message):
    write_features(path, replace(WITH_CLIPS, **change))
    with pytest.raises(FeatureFileError, match=message):
        verify_features(path)


def test_views_are_chosen_by_name():
    video = make_features()
    np.testing.assert_array_equal(
        video.select_views(["top_left", "center"]), video.features[[1, 0]]
    )
    with pytest.raises(FeatureFileError, match=r"a\.mp4: .*center, top_left, not top_right"):
        video.select_views(["center", "top_right"])


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


def test_replacing_a_file_is_all_or_nothing(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replace_file(path) as partial:
        assert partial.parent == path.parent
        partial.write_text("old")
        assert not path.exists()
    assert path.read_text() == "old"
    for error in (OSError("disk"), KeyboardInterrupt()):
        with pytest.raises(type(error)), replace_file(path) as partial:  # noqa: PT012
            partial.write_text("half")
            raise error
        assert path.read_text() == "old"
        assert names_in(path.parent) == ["a.txt"]


def test_a_file_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "a.txt"):
        pass
    assert names_in(tmp_path) == []


def test_file_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    synced = []
    path = tmp_path / "a.txt"

    def sync(descriptor):
        synced.append((os.path.realpath(f"/proc/self/fd/{descriptor}"), path.exists()))

    monkeypatch.setattr(store.os, "fsync", sync)
    with replace_file(path) as partial:
        partial.write_text("x")
    assert synced == [(str(partial), False), (str(tmp_path), True)]


def test_a_killed_writer_leaves_nothing_that_counts_and_what_it_left_goes(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from extract.store import replace_file\n"
        "with replace_file(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "deep" / "a.mp4.h5"
    assert run_python("-c", script, str(target)).returncode == -9
    left = list(target.parent.iterdir())
    assert len(left) == 1
    assert list_features(tmp_path) == {}
    write_features(tmp_path / "b.mp4.h5", make_features("b.mp4"))
    assert remove_leftovers(tmp_path) == left
    assert list(list_features(tmp_path)) == ["b.mp4"]
    assert list(target.parent.iterdir()) == []
