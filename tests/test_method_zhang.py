"""Zhang's inner-bag loss against loops, and its temporal network against a direct convolution."""

import numpy as np
import pytest
import torch

from vigil.model.baselines.zhang import CausalBlock, Zhang, ZhangConfig, ZhangLoss, inner_bag_loss
from vigil.model.detector import Output
from vigil.model.losses import ranking_loss
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.training.learner import Bags, new_learner, train_epoch

SHAPE = InputShape(num_segments=8, time_positions=1, channels=6, num_classes=2)
CLASSES = torch.tensor([1, 1, 1, 0, 0])
WEIGHTS = torch.ones(2)
SMALL = ZhangConfig(temporal_size=8, hidden_size=8, latent_size=4, dropout=0.2)


def scores_of(seed: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(size=(5, 8)))


def test_inner_bag_loss_equals_loops_over_pairs() -> None:
    scores = scores_of(0)
    expected = 0.0
    for bag in scores[:3].tolist():
        for other in scores[3:].tolist():
            lacking = max(0, 0.9 - (max(bag) - min(bag)))
            expected += (lacking + max(other) - min(other)) / 2
    assert float(inner_bag_loss(scores[:3], scores[3:], 0.9)) == pytest.approx(expected)


def test_inner_bag_loss_worked_out_by_hand() -> None:
    anomalous, normal = torch.tensor([[0.2, 0.9], [0.0, 1.0]]), torch.tensor([[0.1, 0.3]])
    # gaps 0.7 and 1 against the margin 1, and twice the normal gap of 0.2
    assert float(inner_bag_loss(anomalous, normal, 1.0)) == pytest.approx(0.3 + 0.4)
    flat = torch.full((2, 4), 0.5)
    assert float(inner_bag_loss(flat, flat, 1.0)) == 2


def test_total_is_the_weighted_sum_of_the_parts() -> None:
    torch.manual_seed(0)
    model = Zhang(SMALL, ZhangLoss(inner_weight=0.3), SHAPE)
    scores = scores_of(1)
    parts = model.losses(Output(scores=scores), CLASSES, WEIGHTS)
    ranking = ranking_loss(scores[:3], scores[3:], ZhangLoss().ranking())
    torch.testing.assert_close(parts["ranking"], ranking)
    expected = ranking + 0.3 * parts["inner"] + 1e-3 * parts["dense_penalty"]
    torch.testing.assert_close(parts["total"], expected)
    shuffled = model.losses(Output(scores=scores[[2, 0, 1, 4, 3]]), CLASSES, WEIGHTS)
    torch.testing.assert_close(shuffled["total"], parts["total"])


@pytest.mark.parametrize(("kernel_size", "dilation"), [(2, 1), (2, 2), (3, 2)])
def test_causal_block_equals_loops(kernel_size: int, dilation: int) -> None:
    torch.manual_seed(0)
    block = CausalBlock(3, 4, kernel_size, dilation, dropout=0.0)
    features = torch.randn(2, 3, 7)

    def convolve(signal: np.ndarray, layer: torch.nn.Conv1d) -> np.ndarray:
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[union-attr]
        result = np.tile(bias[None, :, None], (len(signal), 1, signal.shape[2]))
        for segment in range(signal.shape[2]):
            for tap in range(kernel_size):
                source = segment - (kernel_size - 1 - tap) * dilation
                if source >= 0:
                    result[:, :, segment] += signal[:, :, source] @ weight[:, :, tap].T
        return np.maximum(result, 0)

    hidden = convolve(convolve(features.numpy(), block.first), block.second)
    skip = block.skip(features).detach().numpy()
    expected = np.maximum(hidden + skip, 0)
    np.testing.assert_allclose(block(features).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_scores_depend_on_six_earlier_segments_and_on_no_later_one() -> None:
    torch.manual_seed(0)
    model = Zhang(SMALL, ZhangLoss(), SHAPE).eval()
    features = torch.randn(2, 8, 6)
    changed = features.clone()
    changed[:, 5:] += 1
    before, after = model(features).scores, model(changed).scores
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert (after[:, 5] != before[:, 5]).all()
    changed[:] = features
    changed[:, 0] += 1
    after = model(changed).scores
    torch.testing.assert_close(after[:, 7], before[:, 7])
    assert (after[:, 6] != before[:, 6]).any()


def test_it_learns_which_segments_are_anomalous() -> None:
    recipe = Recipe(
        SMALL,
        ZhangLoss(),
        TrainingConfig(num_anomalous=8, num_normal=8, learning_rate=1e-2),
        "zhang",
    )
    features = torch.randn(16, 8, 6, generator=torch.Generator().manual_seed(0))
    features[:8, 3, 0] += 6
    bags = Bags(features, torch.tensor([1] * 8 + [0] * 8))
    learner = new_learner(recipe, SHAPE, 0, torch.device("cpu"))
    for epoch in range(1, 41):
        train_epoch(learner, bags, recipe, 0, epoch)
    scores = learner.model.eval()(features).scores
    assert (scores[:8, 3] > scores[:8, :3].amax(dim=1)).all()
    assert scores[:8].amax(dim=1).min() > scores[8:].amax()
