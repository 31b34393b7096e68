"""Bags: `data.bags`."""

from dataclasses import replace

import numpy as np
import pytest
from builders import CHANNELS, CLASS_NAMES, SPEC, TIME_POSITIONS, make_features, write_store

from vigil.data.annotations import Annotation, Interval
from vigil.data.bags import BagError, load_bags
from vigil.data.classes import UnknownClassError
from vigil.data.storage import Storage
from vigil.extract.sealed import FeatureFileError
from vigil.extract.store import list_features, read_features

NAMES = ("b.mp4", "Arson/a.mp4", "c.mp4")
LABELS = {
    "b.mp4": Annotation("b.mp4", "Normal", ()),
    "Arson/a.mp4": Annotation("Arson/a.mp4", "Arson", None),
    "c.mp4": Annotation("c.mp4", "Fighting", None),
}


def load(root, views=("center",), labels=LABELS, storage=None):
    return load_bags(list_features(root), labels, CLASS_NAMES, views, storage=storage)


def make_all(**changes_of_last):
    videos = [make_features(name, 5 + 40 * seed, seed) for seed, name in enumerate(NAMES)]
    return [*videos[:2], replace(videos[2], **changes_of_last)]


def test_bags_hold_what_the_files_hold(tmp_path):
    videos = {video.video.path: video for video in make_all()}
    bags = load(write_store(tmp_path, *videos.values()), views=("top_left", "center"))
    assert bags.videos == ("Arson/a.mp4", "b.mp4", "c.mp4")
    assert bags.class_indices.tolist() == [1, 0, 2]
    assert bags.features.dtype == np.float32
    for video, features in zip(bags.videos, bags.features, strict=True):
        np.testing.assert_array_equal(features, videos[video].features[::-1])
    for video, frames in zip(bags.videos, bags.segment_frames, strict=True):
        np.testing.assert_array_equal(frames, videos[video].segment_frames)
    assert (len(bags), bags.views, bags.spec) == (3, ("top_left", "center"), SPEC)
    assert (bags.time_positions, bags.channels) == (TIME_POSITIONS, CHANNELS)


def test_only_annotated_videos_are_read(tmp_path):
    root = write_store(tmp_path, *make_all())
    (tmp_path / "c.mp4.h5").write_bytes(b"no feature file")
    bags = load(root, labels={name: LABELS[name] for name in NAMES[:2]})
    assert bags.videos == ("Arson/a.mp4", "b.mp4")


def test_intervals_do_not_matter(tmp_path):
    root = write_store(tmp_path, *make_all())
    located = replace(LABELS["c.mp4"], intervals=(Interval(3, 9),))
    bags, same = load(root), load(root, labels=LABELS | {"c.mp4": located})
    np.testing.assert_array_equal(bags.features, same.features)
    np.testing.assert_array_equal(bags.class_indices, same.class_indices)


def test_bags_in_a_file_are_the_same(tmp_path):
    root = write_store(tmp_path / "features", *make_all())
    bags, streamed = load(root), load(root, storage=Storage(tmp_path, memory_gib=0))
    assert isinstance(streamed.features, np.memmap)
    np.testing.assert_array_equal(streamed.features, bags.features)


def test_a_file_is_read_once(tmp_path, monkeypatch):
    read = []
    root = write_store(tmp_path, *make_all())
    monkeypatch.setattr(
        "vigil.data.bags.read_features", lambda path: read.append(path) or read_features(path)
    )
    load(root)
    assert read == sorted(list_features(root).values())


def test_bags_record_how_their_features_were_made(tmp_path):
    videos = make_all(precision="bf16", weights_trained=False)
    bags = load(write_store(tmp_path, *videos))
    assert (bags.weights_name, bags.weights_trained, bags.precision) == ("none", False, "bf16+fp32")


@pytest.mark.parametrize("memory_gib", [None, 0])
@pytest.mark.parametrize("half_precision", [(), (0,), (1,), (0, 1), (0, 1, 2)])
def test_mixed_precision_loses_nothing(tmp_path, half_precision, memory_gib):
    videos = make_all()
    for index in half_precision:
        videos[index] = replace(videos[index], features=videos[index].features.astype(np.float16))
    bags = load(write_store(tmp_path, *videos), storage=Storage(tmp_path, memory_gib))
    by_name = {video.video.path: video.features[:1] for video in videos}
    for video, features in zip(bags.videos, bags.features, strict=True):
        np.testing.assert_array_equal(features, by_name[video])
    expected = np.float16 if len(half_precision) == 3 else np.float32
    assert bags.features.dtype == expected


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"spec": replace(SPEC, clip_stride=16)}, r"a.mp4 and c.mp4 .*clip_stride: 64 != 16"),
        ({"time_positions": 3, "channels": 2}, r"time_positions: 2 != 3; channels: 3 != 2"),
        (
            {"channels": 4, "features": np.zeros((2, 8, 8), np.float32)},
            "channels: 3 != 4.*both with",
        ),
    ],
)
def test_incompatible_features_are_refused(tmp_path, changes, match):
    root = write_store(tmp_path, *make_all(**changes))
    with pytest.raises(BagError, match=match):
        load(root)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_by_name(tmp_path, value):
    root = write_store(tmp_path, *make_all(features=np.full((2, 8, 6), value, np.float32)))
    with pytest.raises(FeatureFileError, match=r"c.mp4: .*not finite \(view center, segment 0\)"):
        load(root)


def test_a_missing_view_is_refused(tmp_path):
    root = write_store(tmp_path, *make_all())
    with pytest.raises(FeatureFileError, match=r"a.mp4: .*not bottom_left: extract again"):
        load(root, views=("center", "bottom_left"))


def test_unknown_class_is_refused(tmp_path):
    root = write_store(tmp_path, *make_all())
    labels = LABELS | {"c.mp4": Annotation("c.mp4", "Flood", None)}
    with pytest.raises(UnknownClassError, match=r"class 'Flood' of c.mp4 .*Normal, Arson, Fight"):
        load(root, labels=labels)


def test_no_video_is_refused(tmp_path):
    with pytest.raises(BagError, match="no video has both features and an annotation: check"):
        load(write_store(tmp_path, *make_all()), labels={})
