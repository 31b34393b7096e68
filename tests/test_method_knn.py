"""The neighbours against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from vigil.model.baselines.knn import Knn, KnnConfig
from vigil.model.settings import InputShape, NoLoss

SHAPE = InputShape(num_segments=4, time_positions=2, channels=3, num_classes=3)
CLASSES = torch.arange(20) % 3


def make_bags(seed: int = 0) -> torch.Tensor:
    return torch.randn(len(CLASSES), 4, 6, generator=torch.Generator().manual_seed(seed))


def fitted(config: KnnConfig) -> Knn:
    torch.manual_seed(0)
    model = Knn(config, NoLoss(), SHAPE)
    model.fit(make_bags(), CLASSES)
    return model.eval()


@pytest.mark.parametrize("weighting", ["uniform", "distance"])
@pytest.mark.parametrize("num_neighbors", [1, 5])
def test_shares_are_those_of_scikit_learn(weighting: str, num_neighbors: int) -> None:
    model = fitted(KnnConfig(num_neighbors=num_neighbors, weighting=weighting, num_stored=32))  # type: ignore[arg-type]
    reference = KNeighborsClassifier(num_neighbors, weights=weighting, algorithm="brute")
    reference.fit(make_bags().mean(dim=1).double().numpy(), CLASSES.numpy())
    bags = make_bags(1)
    bags[0] = make_bags()[2].mean(dim=0)  # a video that is in the training set, segment for segment
    output = model(bags)
    of_segments = reference.predict_proba(bags.flatten(0, 1).double().numpy())
    expected = 1 - of_segments[:, 0].reshape(len(bags), 4)
    np.testing.assert_allclose(output.scores, expected, atol=1e-5)
    assert output.class_logits is not None
    of_videos = reference.predict_proba(bags.mean(dim=1).double().numpy())
    np.testing.assert_allclose(output.class_logits.softmax(dim=-1), of_videos, atol=1e-5)


def test_memory_has_a_fixed_size_and_depends_on_the_seed() -> None:
    models = [fitted(KnnConfig(num_neighbors=3, num_stored=8)) for _ in range(2)]
    assert models[0].count == 8
    videos = make_bags().mean(dim=1)
    places = torch.cdist(models[0].videos, videos).argmin(dim=1)
    assert len(places.unique()) == 8
    torch.testing.assert_close(models[0].videos, videos[places])
    assert torch.equal(models[0].classes, CLASSES[places])
    assert torch.equal(models[0].videos, models[1].videos)


def test_with_fewer_videos_than_neighbours_all_vote() -> None:
    model = Knn(KnnConfig(num_neighbors=5, weighting="uniform"), NoLoss(), SHAPE)
    model.fit(make_bags()[:3], torch.tensor([0, 1, 1]))
    torch.testing.assert_close(model(make_bags(1)).scores, torch.full((20, 4), 2 / 3))


def test_more_neighbours_than_memory_are_refused() -> None:
    message = "num_neighbors = 9 is not allowed: it must be at most num_stored = 8"
    with pytest.raises(ValueError, match=message):
        KnnConfig(num_neighbors=9, num_stored=8)
