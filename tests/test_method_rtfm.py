"""RTFM's network and losses against loops that follow the authors' program."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from vigil.model.baselines.rtfm import (
    Rtfm,
    RtfmConfig,
    RtfmLoss,
    RtfmOutput,
)
from vigil.model.losses import magnitude_loss
from vigil.model.settings import InputShape
from vigil.model.temporal import DILATIONS, MultiScaleTemporal
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.training.learner import Bags, new_learner, train_epoch

SHAPE = InputShape(num_segments=8, time_positions=1, channels=6, num_classes=2)
SMALL = RtfmConfig(branch_size=4, hidden_size=8, latent_size=4, dropout=0.3)
CLASSES = torch.tensor([1, 1, 0, 0])
WEIGHTS = torch.ones(2)


def make_model(**loss: float) -> Rtfm:
    """A model with random normalization statistics, as after training."""
    torch.manual_seed(0)
    model = Rtfm(SMALL, RtfmLoss(**loss), SHAPE)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


def convolve(signal: np.ndarray, layer: torch.nn.Module, dilation: int = 1) -> np.ndarray:
    """Convolve (S, F) by loops, zero-padded so that the number of segments stays the same."""
    weight = layer.weight.detach().numpy()  # type: ignore[operator, union-attr]
    result = np.zeros((len(signal), len(weight)))
    reach = weight.shape[2] // 2
    for segment in range(len(signal)):
        for tap in range(weight.shape[2]):
            source = segment + (tap - reach) * dilation
            if 0 <= source < len(signal):
                result[segment] += weight[:, :, tap] @ signal[source]
    return result if layer.bias is None else result + layer.bias.detach().numpy()  # type: ignore[operator, union-attr]


def normalize(signal: np.ndarray, layer: torch.nn.Module) -> np.ndarray:
    state = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    scaled = (signal - state["running_mean"]) / np.sqrt(state["running_var"] + 1e-5)
    return scaled * state["weight"] + state["bias"]


def temporal_by_loops(network: MultiScaleTemporal, features: np.ndarray) -> np.ndarray:
    """The program's ``Aggregate`` for one bag (S, F)."""
    branches = [
        normalize(np.maximum(convolve(features, branch[0], dilation), 0), branch[2])  # type: ignore[index]
        for branch, dilation in zip(network.pyramid, DILATIONS, strict=True)
    ]
    reduced = np.maximum(convolve(features, network.narrow), 0)
    block = network.non_local
    query, key, value = (
        convolve(reduced, layer) for layer in (block.query, block.key, block.value)
    )  # type: ignore[arg-type]
    attended = query @ key.T / len(features) @ value
    branches.append(reduced + normalize(convolve(attended, block.out[0]), block.out[1]))  # type: ignore[arg-type]
    joined = np.maximum(convolve(np.concatenate(branches, axis=1), network.fuse[0]), 0)
    return normalize(joined, network.fuse[2]) + features


def test_forward_equals_the_programs_by_loops() -> None:
    model = make_model()
    bags = torch.randn(3, 8, 6)
    output = model(bags)
    first, second, last = (m for m in model.perceptron if isinstance(m, torch.nn.Linear))
    for row, bag in enumerate(bags.numpy()):
        features = temporal_by_loops(model.temporal, bag)
        hidden = np.maximum(
            features @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0
        )
        hidden = np.maximum(
            hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy(), 0
        )
        logits = hidden @ last.weight.detach().numpy()[0] + last.bias.item()
        scores = 1 / (1 + np.exp(-logits))
        longest = np.argsort(-np.linalg.norm(features, axis=1))[:3]
        magnitude = np.linalg.norm(features[longest].mean(axis=0))
        np.testing.assert_allclose(output.scores[row].detach(), scores, rtol=1e-4, atol=1e-6)
        assert output.video_scores[row].item() == pytest.approx(scores[longest].mean(), rel=1e-4)
        assert output.magnitudes[row].item() == pytest.approx(magnitude, rel=1e-4)


def test_a_fresh_attention_adds_nothing() -> None:
    network = Rtfm(SMALL, RtfmLoss(), SHAPE).temporal
    signal = torch.randn(2, 4, 8)
    torch.testing.assert_close(network.non_local(signal), signal)


def test_magnitude_loss_equals_loops_over_pairs() -> None:
    magnitudes = torch.tensor([120.0, 30.0, 5.0, 7.0, 11.0])
    pairs = [(abs(100 - a) + n) ** 2 for a in (120.0, 30.0) for n in (5.0, 7.0, 11.0)]
    loss = magnitude_loss(magnitudes, torch.tensor([1.0, 1, 0, 0, 0]), 100)
    assert float(loss) == pytest.approx(sum(pairs) / 6)


def output_of(seed: int) -> RtfmOutput:
    generator = torch.Generator().manual_seed(seed)
    return RtfmOutput(
        scores=torch.rand(4, 8, generator=generator),
        video_scores=torch.rand(4, generator=generator),
        magnitudes=50 * torch.rand(4, generator=generator),
    )


def test_losses_equal_the_programs_by_loops() -> None:
    output = output_of(0)
    parts = make_model().losses(output, CLASSES, WEIGHTS)
    a, b, c, d = output.video_scores.tolist()
    detection = -(np.log(a) + np.log(b) + np.log(1 - c) + np.log(1 - d)) / 4
    anomalous = output.scores[:2].tolist()
    smoothness = sum((y - x) ** 2 for bag in anomalous for x, y in pairwise(bag))
    sparsity = np.sqrt(sum(score**2 for bag in anomalous for score in bag))
    assert float(parts["detection"]) == pytest.approx(detection)
    assert float(parts["smoothness"]) == pytest.approx(smoothness)
    assert float(parts["sparsity"]) == pytest.approx(sparsity)
    expected = detection + 1e-4 * float(parts["magnitude"]) + 8e-4 * smoothness + 8e-3 * sparsity
    assert float(parts["total"]) == pytest.approx(expected)


def test_constant_bags_have_no_smoothness_loss_and_order_changes_nothing() -> None:
    model, output = make_model(), output_of(1)
    flat = RtfmOutput(
        scores=torch.tensor([[0.9], [0.1], [0.5], [0.2]]).expand(4, 8),
        video_scores=output.video_scores,
        magnitudes=output.magnitudes,
    )
    assert float(model.losses(flat, CLASSES, WEIGHTS)["smoothness"]) == 0
    order = torch.tensor([3, 1, 0, 2])
    shuffled = RtfmOutput(
        scores=output.scores[order],
        video_scores=output.video_scores[order],
        magnitudes=output.magnitudes[order],
    )
    torch.testing.assert_close(
        model.losses(shuffled, CLASSES[order], WEIGHTS)["total"],
        model.losses(output, CLASSES, WEIGHTS)["total"],
    )


def test_few_segments_are_all_selected() -> None:
    shape = InputShape(num_segments=2, time_positions=1, channels=6, num_classes=2)
    output = Rtfm(SMALL, RtfmLoss(), shape).eval()(torch.randn(3, 2, 6))
    torch.testing.assert_close(output.video_scores, output.scores.mean(dim=1))


def test_it_learns_which_bags_are_anomalous() -> None:
    recipe = Recipe(
        RtfmConfig(branch_size=16, hidden_size=16, latent_size=8, dropout=0.3),
        RtfmLoss(margin=10.0),
        TrainingConfig(num_anomalous=8, num_normal=8, learning_rate=1e-2),
        "rtfm",
    )
    features = torch.randn(16, 8, 6, generator=torch.Generator().manual_seed(0))
    features[:8, 2:5, 0] += 6
    bags = Bags(features, torch.tensor([1] * 8 + [0] * 8))
    learner = new_learner(recipe, SHAPE, 0, torch.device("cpu"))
    for epoch in range(1, 41):
        train_epoch(learner, bags, recipe, 0, epoch)
    scores = learner.model.eval()(features).scores
    assert scores[:8].amax(dim=1).min() > scores[8:].amax()
    assert scores[:8, 2:5].mean() > scores[:8, [0, 1, 5, 6, 7]].mean()
