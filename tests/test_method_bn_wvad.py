"""BN-WVAD's losses and scores against loops over the program's formulae."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn
from toy_training import SHAPE, auc_on_new_bags, fill, toy_bags, waves

from vigil.model.baselines.bn_wvad import (
    BnWvad,
    BnWvadConfig,
    BnWvadLoss,
    distance_from_mean,
    normal_loss,
    selection_weights,
    separation_loss,
)
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig

SMALL = BnWvadConfig(embedding_size=16, num_heads=2, head_size=8, feedforward_size=16, num_layers=1)


def distances_of(seed: int, num_bags: int, num_segments: int) -> torch.Tensor:
    return torch.tensor(10 * np.random.default_rng(seed).uniform(size=(num_bags, num_segments)))


def selection_of_the_program(
    normal: np.ndarray, anomalous: np.ndarray, loss: BnWvadLoss
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Bag and segment of each selected normal and anomalous segment, as in pos_neg_select."""
    num_bags, num_segments = anomalous.shape
    selected = set()
    for bag, row in enumerate(anomalous):
        for segment in np.argsort(-row)[: int(num_segments * loss.sample_ratio)]:
            selected.add((bag, int(segment)))
    for place in np.argsort(-anomalous.ravel())[: int(num_bags * num_segments * loss.batch_ratio)]:
        selected.add(divmod(int(place), num_segments))
    num_ranks = len(selected) // num_bags + 1
    by_rank = [
        (bag, int(np.argsort(-normal[bag])[rank]))
        for rank in range(num_ranks)
        for bag in range(len(normal))
    ]
    return by_rank[: len(selected)], sorted(selected)


@pytest.mark.parametrize(("sample_ratio", "batch_ratio"), [(0.2, 0.4), (0.5, 0.1), (0.34, 0.47)])
def test_selection_equals_the_programs_averaged_over_video_orders(
    sample_ratio: float, batch_ratio: float
) -> None:
    loss = BnWvadLoss(sample_ratio=sample_ratio, batch_ratio=batch_ratio)
    distances, anomalous = distances_of(0, 8, 7), torch.tensor([True] * 4 + [False] * 4)
    others, normals = distances[:4].numpy(), distances[4:].numpy()
    of_normal, orders = np.zeros((4, 7)), list(permutations(range(4)))
    for order in orders:
        chosen_normal, chosen = selection_of_the_program(normals[list(order)], others, loss)
        for bag, segment in chosen_normal:
            of_normal[order[bag], segment] += 1 / len(orders)
    of_anomalous = np.zeros((4, 7))
    of_anomalous[tuple(zip(*chosen, strict=True))] = 1
    weights = selection_weights(distances, anomalous, loss)
    np.testing.assert_allclose(weights[0], np.vstack([of_anomalous, np.zeros((4, 7))]))
    np.testing.assert_allclose(weights[1], np.vstack([np.zeros((4, 7)), of_normal]), atol=1e-6)


def test_as_many_normal_as_anomalous_segments_are_selected() -> None:
    anomalous = torch.tensor([True, False, True, False, False])
    others, normals = selection_weights(distances_of(1, 5, 9), anomalous, BnWvadLoss())
    assert float(others.sum()) >= int(2 * 9 * 0.4)
    torch.testing.assert_close(normals.sum(), others.sum())
    assert not others[~anomalous].any()
    assert not normals[anomalous].any()


def test_separation_loss_equals_loops_over_all_pairs() -> None:
    loss = BnWvadLoss(margin=2.0)
    distances, anomalous = distances_of(2, 6, 7), torch.tensor([1, 0, 1, 1, 0, 0]) > 0
    others, normals = selection_weights(distances, anomalous, loss)
    total = weight = 0.0
    for far, far_weight in zip(
        distances.flatten().tolist(), others.flatten().tolist(), strict=True
    ):
        for near, near_weight in zip(
            distances.flatten().tolist(), normals.flatten().tolist(), strict=True
        ):
            total += far_weight * near_weight * max(0.0, 2.0 + near - far)
            weight += far_weight * near_weight
    assert float(separation_loss(distances, anomalous, loss)) == pytest.approx(total / weight)


def test_separation_loss_equals_the_programs_averaged_over_video_orders() -> None:
    loss = BnWvadLoss(margin=50.0)  # no hinge is cut off
    distances, anomalous = distances_of(3, 8, 10), torch.tensor([True] * 4 + [False] * 4)
    others, normals = distances[:4].numpy(), distances[4:].numpy()
    figures = []
    for order in permutations(range(4)):
        ordered = normals[list(order)]
        positives, negatives = selection_of_the_program(ordered, others, loss)
        hinges = [
            max(0.0, 50 + ordered[positive] - others[negative])
            for positive, negative in zip(positives, negatives, strict=True)
        ]
        figures.append(np.mean(hinges))
    expected = pytest.approx(np.mean(figures))
    assert float(separation_loss(distances, anomalous, loss)) == expected


def test_bags_in_any_order_give_the_same_losses() -> None:
    distances, anomalous = distances_of(4, 7, 8), torch.arange(7) < 3
    order = torch.tensor([5, 0, 6, 2, 1, 4, 3])
    for values in (
        separation_loss(distances, anomalous, BnWvadLoss())
        - separation_loss(distances[order], anomalous[order], BnWvadLoss()),
        normal_loss(distances, ~anomalous) - normal_loss(distances[order], ~anomalous[order]),
    ):
        assert float(values) == pytest.approx(0, abs=1e-12)


def test_normal_loss_is_the_mean_norm_of_normal_bags() -> None:
    classified = torch.tensor([[0.9, 0.9], [0.3, 0.4], [0.6, 0.8], [0.1, 0.7]])
    normal = torch.tensor([False, True, True, False])
    assert float(normal_loss(classified, normal)) == pytest.approx((0.5 + 1.0) / 2)


def test_distance_is_mahalanobis_from_the_running_mean() -> None:
    norm = nn.BatchNorm1d(3)
    latent = torch.tensor(np.random.default_rng(0).normal(2, 3, (40, 3)).astype(np.float32))
    norm(latent)  # moves mean and variance a tenth of the way
    mean = 0.1 * latent.double().numpy().mean(axis=0)
    variance = 0.9 + 0.1 * latent.double().numpy().var(axis=0, ddof=1)
    expected = [np.sqrt(sum((row - mean) ** 2 / variance)) for row in latent.numpy()]
    np.testing.assert_allclose(distance_from_mean(latent, norm), expected, rtol=1e-4)
    assert float(distance_from_mean(norm.running_mean[None], norm)) == 0


def test_scores_rank_as_the_programs_product_does() -> None:
    torch.manual_seed(0)
    model = BnWvad(SMALL, BnWvadLoss(), SHAPE)
    output = model(toy_bags(0)[0])
    product = output.distances.sum(dim=1) * output.classified
    assert output.distances.shape == (24, 2, 16)
    assert (output.scores.flatten()[product.flatten().argsort()].diff() >= 0).all()
    torch.testing.assert_close(output.scores / (1 - output.scores), product / (32**0.5 + 4))


def test_losses_equal_the_authors_figures() -> None:
    """Figures from the authors' program, with its weights and input filled in the same way."""
    model = BnWvad(BnWvadConfig(), BnWvadLoss(), InputShape(32, 1, 24, 2))
    fill(model)
    features, classes = 3 * waves(12, 32, 24, step=0.7), torch.tensor([1] * 6 + [0] * 6)
    parts = model.losses(model(features), classes, torch.ones(2))
    assert parts["normal"].item() == pytest.approx(3.5525086, rel=1e-5)
    separation = 5 * parts["separation_1"] + 20 * parts["separation_2"]
    # The mean over six orders of the normal videos; single orders give 24.9914 to 24.9933.
    assert separation.item() == pytest.approx(24.992158, abs=2e-5)
    product = model.usual_distance / (1 / model.eval()(features).scores - 1)
    expected = torch.tensor([[0.8515, 0.9238, 0.8415], [0.8512, 0.8767, 0.8463]])
    torch.testing.assert_close(product[:2, :3], expected, atol=1e-4, rtol=0)


def test_total_is_the_weighted_sum_of_the_parts_and_reaches_every_weight() -> None:
    torch.manual_seed(0)
    model = BnWvad(SMALL, BnWvadLoss(), SHAPE)
    features, classes, _ = toy_bags(0)
    parts = model.losses(model(features), classes, torch.ones(2))
    expected = parts["normal"] + 5 * parts["separation_1"] + 20 * parts["separation_2"]
    torch.testing.assert_close(parts["total"], expected)
    parts["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_constant_bags_give_finite_gradients() -> None:
    model = BnWvad(SMALL, BnWvadLoss(), SHAPE)
    _, classes, _ = toy_bags(0)
    model.losses(model(torch.ones(24, 16, 12)), classes, torch.ones(2))["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_it_learns_from_weak_labels() -> None:
    training = TrainingConfig(epochs=25, num_anomalous=12, num_normal=12, learning_rate=3e-3)
    assert auc_on_new_bags(Recipe(SMALL, BnWvadLoss(), training, "bn_wvad")) > 0.9


def test_ratios_above_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_ratio = 1\.5 is not allowed: it must be from 0"):
        BnWvadLoss(batch_ratio=1.5)
