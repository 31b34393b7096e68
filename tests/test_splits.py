"""The validation hold-out and the folds of `data.splits`."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.data.annotations import Annotation, load_annotations
from vigil.data.splits import deal_folds, hold_out
from vigil.extract.errors import UserError

CLASSES = ("Normal", "Arson", "Fighting")


def make(*counts):
    """The given number of videos of each class."""
    return [
        Annotation(f"{name}/{number}.mp4", name, None)
        for name, count in zip(CLASSES, counts, strict=False)
        for number in range(count)
    ]


counts = st.tuples(*[st.integers(0, 30)] * len(CLASSES))
fractions = st.floats(0.01, 0.99)


@given(counts, fractions, st.integers(0, 5))
def test_parts_are_disjoint_complete_and_stratified(numbers, fraction, seed):
    annotations = make(*numbers)
    split = hold_out(annotations, fraction, seed)
    assert sorted(split.train + split.validation) == sorted(a.video for a in annotations)
    for name, count in zip(CLASSES, numbers, strict=True):
        held_out = sum(video.startswith(name) for video in split.validation)
        if count >= 2:
            assert 1 <= held_out <= count - 1
            assert abs(held_out - fraction * count) <= 1
        else:
            assert held_out == 0


@given(counts, fractions, st.integers(0, 5), st.randoms())
def test_neither_order_nor_other_classes_matter(numbers, fraction, seed, shuffler):
    annotations = make(*numbers)
    split = hold_out(annotations, fraction, seed)
    shuffler.shuffle(annotations)
    assert hold_out(annotations, fraction, seed) == split
    only_first = make(numbers[0])
    expected = tuple(video for video in split.validation if video.startswith(CLASSES[0]))
    assert hold_out(only_first, fraction, seed).validation == expected


def test_added_videos_move_few():
    before = set(hold_out(make(40), 0.25, 0).validation)
    after = set(hold_out(make(44), 0.25, 0).validation)
    added = {a.video for a in make(44)} - {a.video for a in make(40)}
    assert len(after - before) <= len(added)
    assert len(before - after) <= len(added)


def test_seeds_differ():
    assert len({hold_out(make(20, 20), 0.2, seed) for seed in range(10)}) == 10


def test_every_video_is_held_out_equally_often():
    held_out = [video for seed in range(400) for video in hold_out(make(10), 0.3, seed).validation]
    assert all(80 < held_out.count(a.video) < 160 for a in make(10))


def test_official_training_list(shared_data):
    annotations = load_annotations([shared_data / "annotations" / "ucf" / "Anomaly_Train.txt"])
    random.Random(0).shuffle(annotations)
    split = hold_out(annotations, 0.1, 0)
    assert (len(split.train), len(split.validation)) == (1449, 161)
    assert {video.split("/")[0] for video in split.validation} == {
        video.split("/")[0] for video in split.train
    }


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_fraction_is_refused(fraction):
    with pytest.raises(UserError, match=r"must lie between 0 and 1: 0.1 is usual"):
        hold_out(make(4), fraction, 0)


def test_repeated_video_is_refused():
    with pytest.raises(UserError, match=r"Normal/0.mp4 annotated more than once: keep one"):
        hold_out([*make(2), *make(1)], 0.5, 0)


@given(counts, st.integers(2, 12), st.integers(0, 5), st.randoms())
def test_folds_share_the_videos_and_each_leaves_some_of_every_class(numbers, k, seed, shuffler):
    annotations = make(*numbers)
    folds = deal_folds(annotations, k, seed)
    dealt = [video for fold in folds for video in fold]
    alone = {f"{name}/0.mp4" for name, count in zip(CLASSES, numbers, strict=True) if count == 1}
    assert len(folds) <= k
    assert sorted(dealt) == sorted({a.video for a in annotations} - alone)
    sizes = [len(fold) for fold in folds]
    assert not sizes or 0 < max(sizes) <= min(sizes) + 1
    for name, count in zip(CLASSES, numbers, strict=True):
        held_out = [sum(video.startswith(name) for video in fold) for fold in folds]
        assert count < 2 or max(held_out) < count
        assert not held_out or max(held_out) - min(held_out) <= 1
    shuffler.shuffle(annotations)
    assert deal_folds(annotations, k, seed) == folds


def test_folds_differ_by_seed_and_one_is_too_few():
    assert deal_folds(make(20, 20), 4, 0) != deal_folds(make(20, 20), 4, 1)
    with pytest.raises(UserError, match="1 validation folds are not allowed: it must be at least"):
        deal_folds(make(20, 20), 1, 0)
