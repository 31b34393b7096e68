"""Distribution-based detection against loops, scipy and numbers worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import MODEL, make_features, write_store
from scipy import stats
from sklearn.metrics import roc_auc_score

from vigil.model.densities import tabulate
from vigil.model.distribution import (
    DistributionConfig,
    DistributionLoss,
    DistributionModel,
    DistributionOutput,
)
from vigil.model.losses import magnitude_loss
from vigil.model.settings import InputShape
from vigil.model.statistics import DistributionDifference, SegmentStatistics, neighbour_distance
from vigil.model.temporal import MultiScaleTemporal, NonLocalBlock
from vigil.pipeline.options import TrainOptions
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.scores.plots import plot_densities
from vigil.pipeline.training.command import run_train
from vigil.pipeline.training.learner import Bags, new_learner, train_epoch

SHAPE = InputShape(num_segments=8, time_positions=1, channels=6, num_classes=2)
CONFIG = DistributionConfig(
    projection_size=3, temporal_size=4, hidden_size=8, second_hidden_size=4, num_selected=2
)


def make_bags(num_bags: int = 24, seed: int = 0) -> tuple[Bags, torch.Tensor]:
    """Bags and a mask of anomalous segments: two in every other bag, far along one dimension."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_bags, 8, 6, generator=generator)
    truth = torch.zeros(num_bags, 8, dtype=torch.bool)
    truth[1::2, 3:5] = True
    features[..., 2] += 6 * truth
    return Bags(features, truth.any(dim=1).long()), truth


def distance_by_loops(values: np.ndarray, reach: int) -> np.ndarray:
    num_bags, num_segments, _ = values.shape
    distance = np.zeros((num_bags, num_segments))
    for bag in range(num_bags):
        for one in range(num_segments):
            near = [
                np.abs(values[bag, one] - values[bag, other]).mean()
                for other in range(num_segments)
                if 0 < abs(one - other) <= reach
            ]
            distance[bag, one] = np.mean(near) if near else 0
    return distance


@pytest.mark.parametrize(("num_segments", "reach"), [(8, 3), (3, 3), (2, 3), (1, 3), (5, 1)])
def test_distance_to_neighbours_equals_loops(num_segments: int, reach: int) -> None:
    values = np.random.default_rng(0).normal(size=(4, num_segments, 5))
    found = neighbour_distance(torch.from_numpy(values), reach).numpy()
    np.testing.assert_allclose(found, distance_by_loops(values, reach))


def test_differences_are_those_of_scipys_log_densities() -> None:
    normal, anomalous = stats.norm(0, 1), stats.gamma(3, -2, 0.9)
    difference = DistributionDifference(1)
    difference.density[0, 0] = torch.from_numpy(tabulate(normal.logpdf))
    difference.density[1, 0] = torch.from_numpy(tabulate(anomalous.logpdf))
    at = np.linspace(-1.5, 8, 401)
    own = [0.99 * kind.pdf(at) + 0.01 * stats.cauchy.pdf(at) for kind in (normal, anomalous)]
    found = difference(torch.from_numpy(at).float().reshape(1, -1, 1)).flatten().numpy()
    np.testing.assert_allclose(found, np.log(own[1]) - np.log(own[0]), atol=0.01)


def test_differences_end_with_the_grid_and_keep_statistics_apart() -> None:
    difference = DistributionDifference(2)
    difference.density[1, 0], difference.density[1, 1] = 2.0, 4.0
    far = torch.tensor([[[-1e9, -1e9], [0.0, 0.0], [1e9, 1e9]]])
    expected = torch.tensor([2.0, 4.0]).log().expand(1, 3, 2)
    torch.testing.assert_close(difference(far), expected)


def test_statistics_are_standardized_and_constant_ones_are_zero() -> None:
    torch.manual_seed(0)
    features = torch.randn(50, 8, 6) * torch.tensor([5.0, 3, 1, 1, 0, 0]) + 7
    statistics = SegmentStatistics(6, num_directions=6, num_neighbours=3)
    statistics.fit(features)
    found = statistics(features).flatten(0, 1)  # (400, 8)
    varying = [0, 1, 2, 3, 6, 7]
    torch.testing.assert_close(
        found[:, varying].median(dim=0).values, torch.zeros(6), atol=0.05, rtol=0
    )
    torch.testing.assert_close(found[:, varying].std(dim=0), torch.ones(6), atol=0.2, rtol=0)
    first = statistics.basis[:, 0].abs()
    torch.testing.assert_close(first, torch.eye(6)[0], atol=0.1, rtol=0)
    still = SegmentStatistics(6, num_directions=2, num_neighbours=3)
    still.fit(torch.ones(4, 8, 6))
    assert (still(torch.rand(2, 8, 6)) == 0).all()


def test_directions_point_to_the_longer_tail() -> None:
    torch.manual_seed(0)
    features = -torch.rand(50, 8, 3).log()
    statistics = SegmentStatistics(3, num_directions=3, num_neighbours=3)
    statistics.fit(features)
    found = statistics(features).flatten(0, 1)[:, :3]
    assert ((found - found.mean(dim=0)).pow(3).mean(dim=0) > 0).all()
    statistics.fit(-features)
    again = statistics(-features).flatten(0, 1)[:, :3]
    assert ((again - again.mean(dim=0)).pow(3).mean(dim=0) > 0).all()


@pytest.fixture(scope="module")
def fitted() -> DistributionModel:
    torch.manual_seed(0)
    model = DistributionModel(CONFIG, DistributionLoss(), SHAPE)
    bags, _ = make_bags()
    model.fit(bags.features, bags.class_indices)
    return model


def with_settings(fitted: DistributionModel, **changes: Any) -> DistributionModel:
    model = DistributionModel(replace(CONFIG, **changes), DistributionLoss(), SHAPE)
    model.load_state_dict(fitted.state_dict())
    return model


def test_the_difference_alone_separates_anomalous_segments(fitted: DistributionModel) -> None:
    bags, truth = make_bags(seed=1)
    differences = fitted.difference(fitted.statistics(bags.features)).sum(dim=-1)
    assert roc_auc_score(truth.flatten(), differences.flatten()) > 0.9


@pytest.mark.parametrize("select_by", ["difference", "both"])
def test_anomalous_segments_are_selected(fitted: DistributionModel, select_by: str) -> None:
    model = with_settings(fitted, select_by=select_by).eval()
    bags, truth = make_bags(seed=1)
    selected = model(bags.features[1::2]).selection.topk(2).indices
    assert truth[1::2].gather(1, selected).float().mean() > 0.8


def test_dropped_segments_are_selected_last(fitted: DistributionModel) -> None:
    model = with_settings(fitted, selection_dropout=0.5).train()
    torch.manual_seed(1)
    selection = model(make_bags()[0].features).selection
    back = selection < -500
    assert 0.3 < back.float().mean() < 0.7
    chosen = back.gather(1, selection.topk(1).indices).squeeze(1)
    assert (chosen == back.all(dim=1)).all()


def output_of(scores: torch.Tensor, latent: torch.Tensor) -> DistributionOutput:
    """An output whose first segments are selected."""
    selection = -torch.arange(scores.shape[1]).float().expand_as(scores)
    return DistributionOutput(scores=scores, latent=latent, selection=selection)


def test_losses_equal_numbers_worked_out_by_hand() -> None:
    loss = DistributionLoss(
        magnitude_weight=0.5, magnitude_margin=10, sparsity_weight=0.1, smoothness_weight=0.2
    )
    model = DistributionModel(CONFIG, loss, replace(SHAPE, num_segments=3))
    scores = torch.tensor([[0.9, 0.7, 0.1], [0.2, 0.4, 0.9]])  # selected: 0.8, 0.3 on average
    latent = torch.zeros(2, 3, 2)
    latent[0, :2] = torch.tensor([[6.0, 0.0], [0.0, 8.0]])  # mean (3, 4), magnitude 5
    latent[1, :2] = torch.tensor([[2.0, 0.0], [0.0, 0.0]])  # mean (1, 0), magnitude 1
    parts = model.losses(output_of(scores, latent), torch.tensor([1, 0]), torch.ones(2))
    expected = {
        "classification": -(np.log(0.8) + np.log(0.7)) / 2,
        "magnitude": (10 - 5 + 1) ** 2,
        "sparsity": np.sqrt(0.81 + 0.49 + 0.01),
        "smoothness": 0.2**2 + 0.6**2,
    }
    total = np.dot(list(expected.values()), [1, 0.5, 0.1, 0.2])
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        {"total": total, **expected}, rel=1e-5
    )


def test_magnitude_loss_equals_rtfms_over_all_pairs() -> None:
    magnitudes = torch.rand(7, dtype=torch.float64) * 20
    anomalous = torch.tensor([1.0, 0, 1, 1, 0, 0, 0], dtype=torch.float64)
    pairs = [
        (abs(10 - float(magnitudes[one])) + float(magnitudes[other])) ** 2
        for one in range(7)
        for other in range(7)
        if anomalous[one] and not anomalous[other]
    ]
    assert float(magnitude_loss(magnitudes, anomalous, 10)) == pytest.approx(np.mean(pairs))


def test_constant_bags_have_no_smoothness_loss_and_bag_order_is_irrelevant() -> None:
    model = DistributionModel(CONFIG, DistributionLoss(), SHAPE)
    classes = torch.tensor([1, 1, 0, 0, 0])
    flat, scores, latent = torch.rand(5, 1).expand(5, 8), torch.rand(5, 8), torch.rand(5, 8, 4)
    assert model.losses(output_of(flat, latent), classes, torch.ones(2))["smoothness"] == 0
    order = torch.tensor([3, 0, 4, 1, 2])
    one = model.losses(output_of(scores, latent), classes, torch.ones(2))
    other = model.losses(output_of(scores[order], latent[order]), classes[order], torch.ones(2))
    torch.testing.assert_close(one, other)


def test_the_temporal_network_mixes_near_and_far_and_keeps_its_input() -> None:
    torch.manual_seed(0)
    network = MultiScaleTemporal(6, width=16).eval()
    features = torch.randn(2, 20, 6)
    out = network(features)
    assert out.shape == features.shape
    assert (out >= features).all()  # what it adds comes from a ReLU
    moved = features.clone()
    moved[0, 10] += 1
    changed = (network(moved) != out).any(dim=2)
    assert changed[0, 10]
    # A dilation of 4, then a kernel of 3: up to 5 on either side, if the ReLU lets it pass.
    reach = set(changed[0].nonzero().flatten().tolist())
    assert reach <= set(range(5, 16))
    assert {6, 10, 14} <= reach
    assert not changed[1].any()


def test_the_non_local_block_equals_loops() -> None:
    torch.manual_seed(0)
    block = NonLocalBlock(4).double().eval()
    torch.nn.init.ones_(block.out[1].weight)
    features = torch.randn(1, 4, 5, dtype=torch.float64)
    query, key, value = (layer(features)[0].T for layer in (block.query, block.key, block.value))
    mixed = torch.stack(
        [
            torch.stack([(query[one] @ key[other]) * value[other] for other in range(5)]).mean(0)
            for one in range(5)
        ]
    )
    torch.testing.assert_close(block(features), features + block.out(mixed.T[None]))


def test_it_learns_from_bag_labels_alone() -> None:
    training = TrainingConfig(num_anomalous=6, num_normal=6, learning_rate=3e-3)
    widths = {"projection_size": 2, "temporal_size": 16, "hidden_size": 16}
    config = replace(CONFIG, **widths, dropout=0.2, selection_dropout=0.2)
    recipe = Recipe(config, DistributionLoss(), training, "distribution")
    learner = new_learner(recipe, SHAPE, 0, torch.device("cpu"))
    bags, _ = make_bags(36)
    learner.model.fit(bags.features, bags.class_indices)
    for epoch in range(1, 26):
        train_epoch(learner, bags, recipe, 0, epoch)
    others, truth = make_bags(24, seed=5)
    scores = learner.model.eval()(others.features).scores.detach()
    assert roc_auc_score(truth.flatten(), scores.flatten()) > 0.9


def test_the_report_lists_and_plots_the_chosen_densities(
    fitted: DistributionModel, tmp_path: Path
) -> None:
    report = fitted.describe_fit()
    assert report is not None
    told = report.findings["statistics"]
    assert [one["name"] for one in told] == fitted.statistics.names
    for one, pair in zip(told, report.densities, strict=True):
        for kind, drawn in (("normal", pair.normal), ("anomalous", pair.anomalous)):
            losses = [candidate["cde_loss"] for candidate in one[kind]["candidates"]]
            assert losses == sorted(losses)
            assert one[kind]["chosen"]["family"] == one[kind]["candidates"][0]["family"]
            assert np.trapezoid(drawn, pair.at) == pytest.approx(1, abs=0.02)
        assert 0 <= one["total_variation"] <= 1
    plot_densities(tmp_path / "densities.png", report.densities)
    assert (tmp_path / "densities.png").read_bytes().startswith(b"\x89PNG")
    assert with_settings(fitted).describe_fit() is None


def test_a_run_keeps_its_fit_until_it_is_overwritten(tmp_path: Path) -> None:
    videos = [f"{kind}/{number}.mp4" for kind in ("Normal", "Arson") for number in range(4)]
    features = [make_features(video, seed=seed) for seed, video in enumerate(videos)]
    store, run = write_store(tmp_path / "features", *features), tmp_path / "run"
    training = TrainingConfig(epochs=1, num_anomalous=2, num_normal=2, validation_fraction=0.3)
    config = replace(CONFIG, projection_size=1)
    recipe = Recipe(config, DistributionLoss(), training, "distribution")
    options = TrainOptions(store, run, recipe=recipe, device="cpu")
    run_train(options)
    kept = [run / "fit.json", run / "figures" / "densities.png"]
    content = [path.read_bytes() for path in kept]
    names = [statistic["name"] for statistic in json.loads(content[0])["statistics"]]
    assert names == ["direction 1", "magnitude", "distance to neighbours"]
    longer = replace(recipe, training=replace(training, epochs=2))
    run_train(replace(options, recipe=longer, resume=True))
    assert [path.read_bytes() for path in kept] == content
    joint = Recipe(MODEL, training=training)
    run_train(replace(options, recipe=joint, overwrite=True))
    assert not any(path.exists() for path in kept)


@pytest.mark.parametrize("num_segments", [8, 1])
def test_one_bag_of_a_kind_is_enough(num_segments: int) -> None:
    shape = replace(SHAPE, num_segments=num_segments)
    model = DistributionModel(replace(CONFIG, projection_size=1), DistributionLoss(), shape)
    model.fit(torch.randn(3, num_segments, 6), torch.tensor([0, 0, 1]))
    assert torch.isfinite(model.difference.density).all()
    assert (model.difference.density > 0).all()
