"""Balanced batches: every video is used, counts are exact, equal seeds give equal epochs."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.data.batches import balanced_batches
from vigil.extract.errors import UserError

sides = st.integers(1, 40)
counts = st.integers(1, 12)
seeds = st.integers(0, 2**32 - 1)


def shuffled_classes(num_anomalous: int, num_normal: int, seed: int) -> npt.NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    anomalous = generator.integers(1, 14, size=num_anomalous)
    return generator.permutation(np.concatenate([anomalous, np.zeros(num_normal, np.int64)]))


@given(sides, sides, counts, counts, seeds)
def test_an_epoch_uses_every_video_in_exact_batches(
    num_anomalous: int, num_normal: int, anomalous_each: int, normal_each: int, seed: int
) -> None:
    classes = shuffled_classes(num_anomalous, num_normal, seed)
    batches = balanced_batches(classes, anomalous_each, normal_each, np.random.default_rng(seed))
    anomalous_each = min(anomalous_each, num_anomalous)
    normal_each = min(normal_each, num_normal)
    assert batches.shape[1] == anomalous_each + normal_each
    assert set(batches.ravel()) == set(range(len(classes)))
    assert (classes[batches[:, :anomalous_each]] > 0).all()
    assert (classes[batches[:, anomalous_each:]] == 0).all()
    # No more batches than the longer side needs, and no video twice in one.
    needed = max(-(-num_anomalous // anomalous_each), -(-num_normal // normal_each))
    assert len(batches) == needed
    assert all(len(set(batch)) == len(batch) for batch in batches)


@given(sides, sides, seeds)
def test_no_video_is_drawn_much_more_often_than_another(
    num_anomalous: int, num_normal: int, seed: int
) -> None:
    classes = shuffled_classes(num_anomalous, num_normal, seed)
    batches = balanced_batches(classes, 5, 5, np.random.default_rng(seed))
    drawn = np.bincount(batches.ravel(), minlength=len(classes))
    for side in (classes > 0, classes == 0):
        assert np.ptp(drawn[side]) <= 1


def test_batches_depend_only_on_the_generator() -> None:
    classes = shuffled_classes(50, 70, 0)

    def draw(seed: int, epoch: int) -> npt.NDArray[np.int64]:
        return balanced_batches(classes, 30, 30, np.random.default_rng([seed, epoch]))

    np.testing.assert_array_equal(draw(3, 1), draw(3, 1))
    assert not np.array_equal(draw(3, 1), draw(3, 2))
    assert not np.array_equal(draw(3, 1), draw(4, 1))


def test_the_epoch_size_is_the_papers() -> None:
    classes = shuffled_classes(810, 800, 0)
    assert balanced_batches(classes, 30, 30, np.random.default_rng(0)).shape == (27, 60)


@pytest.mark.parametrize(("classes", "name"), [([0, 0], "anomalous"), ([1, 2], "normal")])
def test_a_side_without_videos_is_named(classes: list[int], name: str) -> None:
    with pytest.raises(UserError, match=f"there is no {name} video to train on"):
        balanced_batches(np.array(classes), 30, 30, np.random.default_rng(0))
