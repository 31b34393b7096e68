"""Our variant of the joint model: its probabilities and losses by hand."""

import math

import pytest
import torch

from vigil.model.joint_plus import (
    JointPlus,
    JointPlusConfig,
    JointPlusLoss,
    JointPlusOutput,
    balanced,
    class_log_probabilities,
)
from vigil.model.settings import InputShape

SHAPE = InputShape(num_segments=8, time_positions=2, channels=3, num_classes=3)


def make_model(loss: JointPlusLoss | None = None, **settings: object) -> JointPlus:
    torch.manual_seed(0)
    config = JointPlusConfig(hidden_size=6, **settings)  # type: ignore[arg-type]
    return JointPlus(config, loss or JointPlusLoss(), SHAPE).eval()


def test_class_probabilities_sum_to_one_and_divide_the_anomaly() -> None:
    logits, classes = torch.randn(5, 8), torch.randn(5, 8, 2)
    probabilities = class_log_probabilities(logits, classes).exp()
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(5, 8))
    torch.testing.assert_close(1 - probabilities[..., 0], torch.sigmoid(logits))
    torch.testing.assert_close(
        probabilities[..., 1:] / probabilities[..., 1:].sum(dim=-1, keepdim=True),
        classes.softmax(dim=-1),
    )


def test_the_highest_segments_decide_for_the_video() -> None:
    model = make_model(num_top=2)
    output = model(torch.randn(4, 8, 6))
    highest = torch.logit(output.scores).sort(dim=1, descending=True).values[:, :2].mean(dim=1)
    torch.testing.assert_close(output.bag_logits, highest, atol=1e-4, rtol=1e-4)


def test_by_default_no_scene_is_subtracted() -> None:
    assert JointPlusConfig().scene_share == 0


def test_an_event_is_classified_by_its_segments_and_a_video_by_all() -> None:
    model, features = make_model(), torch.randn(4, 8, 6)
    output = model(features)
    assert output.segment_class_logits is not None
    probabilities = output.segment_class_logits.softmax(dim=-1)
    torch.testing.assert_close(1 - probabilities[..., 0], output.scores)
    named = torch.relu(model.class_embed(model.front(features)))
    classes = model.classification(named)
    torch.testing.assert_close(output.class_logits, classes.mean(dim=1))
    shares = probabilities[..., 1:] / output.scores.unsqueeze(-1)
    torch.testing.assert_close(shares, classes[..., 1:].softmax(dim=-1), atol=1e-5, rtol=1e-4)


def test_normal_counts_half_and_anomaly_classes_count_equally() -> None:
    counts = torch.tensor([60.0, 10.0, 30.0])
    weights = balanced(1 - counts / counts.sum(), torch.tensor(0.2))
    in_a_batch = torch.tensor([0.8, 0.05, 0.15])
    torch.testing.assert_close(weights * in_a_batch, torch.tensor([1 / 2, 1 / 4, 1 / 4]))


def test_classification_does_not_train_detection() -> None:
    model = make_model()
    output = model(torch.randn(2, 8, 6))
    parts = model.losses(output, torch.tensor([1, 0]), torch.ones(3))
    parts["classification"].backward()  # type: ignore[no-untyped-call]
    assert model.embed.weight.grad is None
    assert model.class_embed.weight.grad is not None


def test_losses_by_hand() -> None:
    loss = JointPlusLoss(classification_weight=0.5, smoothness_weight=2.0, sparsity_weight=0.25)
    model = make_model(loss)
    scores = torch.tensor([[0.2, 0.6], [0.5, 0.5]])
    output = JointPlusOutput(
        scores=scores,
        bag_logits=torch.tensor([0.0, math.log(3)]),
        class_logits=torch.tensor([[0.0, math.log(4), 0.0], [math.log(2), 0.0, 0.0]]),
    )
    weights = torch.tensor([0.5, 0.75, 0.75])  # of shares 1/2, 1/4, 1/4
    parts = model.losses(output, torch.tensor([1, 0]), weights)
    detection = (math.log(2) + math.log(4)) / 2  # 0.5 for anomalous, 0.75 for a normal one
    classification = (1 * -math.log(4 / 6) + 1 * -math.log(1 / 2)) / 2
    smoothness, sparsity = 0.4**2, 0.8
    expected = detection + 0.5 * classification + 2 * smoothness + 0.25 * sparsity
    figures = {name: float(part) for name, part in parts.items()}
    assert figures == pytest.approx(
        {
            "total": expected,
            "detection": detection,
            "classification": classification,
            "smoothness": smoothness,
            "sparsity": sparsity,
        },
        rel=1e-5,
    )


def test_constant_bags_have_no_smoothness_loss() -> None:
    model = make_model(JointPlusLoss(smoothness_weight=1.0), kernel_size=1)
    output = model(torch.ones(2, 8, 6))
    parts = model.losses(output, torch.tensor([1, 0]), torch.ones(3))
    assert float(parts["smoothness"].detach()) == pytest.approx(0, abs=1e-12)


def test_a_segment_depends_only_on_what_its_convolutions_reach() -> None:
    # One segment to each side, then two; a subtracted scene would depend on all.
    model = make_model(num_layers=2, kernel_size=3, scene_share=0.0)
    features = torch.randn(1, 8, 6)
    changed = features.clone()
    changed[0, 0] += 5
    same = (model(features).scores == model(changed).scores)[0]
    assert same.tolist() == [False] * 4 + [True] * 4
