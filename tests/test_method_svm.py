"""The SVMs against scikit-learn's, and against the problem that they solve."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from vigil.model.baselines.svm import Svm, SvmConfig
from vigil.model.settings import InputShape, NoLoss

SHAPE = InputShape(num_segments=4, time_positions=1, channels=6, num_classes=3)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 0, 2, 0, 0, 1, 0, 0])


def make_bags(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    bags = torch.randn(len(CLASSES), 4, 6, generator=generator)
    bags[:, :, 1] += (CLASSES == 1)[:, None] * 4
    bags[:, :, 2] += (CLASSES == 2)[:, None] * 4
    return bags


def fitted(config: SvmConfig | None = None, classes: torch.Tensor = CLASSES) -> Svm:
    model = Svm(config or SvmConfig(), NoLoss(), SHAPE)
    model.fit(make_bags(), classes)
    return model.eval()


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_margins_are_those_of_scikit_learn(pool: str) -> None:
    model = fitted(SvmConfig(video_pool=pool, cost=0.3))  # type: ignore[arg-type]
    videos = getattr(make_bags().numpy(), pool)(axis=1)
    # A different solver, also accurate to 1e-4: both converge to the same solution.
    machines = OneVsRestClassifier(LinearSVC(C=0.3, dual=False, class_weight="balanced"))
    machines.fit(videos, CLASSES.numpy())
    bags = make_bags(1)
    output = model(bags)
    pooled = getattr(bags.numpy(), pool)(axis=1)
    np.testing.assert_allclose(output.class_logits, machines.decision_function(pooled), atol=1e-3)
    of_segments = machines.estimators_[0].decision_function(bags.flatten(0, 1).numpy())
    expected = 1 / (1 + np.exp(of_segments.reshape(len(bags), 4)))
    np.testing.assert_allclose(output.scores, expected, atol=1e-3)


def test_the_detector_has_the_least_squared_hinge() -> None:
    model, videos = fitted(SvmConfig(cost=0.5)), make_bags().mean(dim=1).double().numpy()
    signs = np.where(CLASSES == 0, 1.0, -1.0)
    importance = np.where(signs > 0, 12 / (2 * 7), 12 / (2 * 5))

    def objective(weights: np.ndarray) -> float:
        hinge = np.maximum(0, 1 - signs * (videos @ weights[:-1] + weights[-1]))
        return float(weights @ weights / 2 + 0.5 * importance @ hinge**2)

    found = minimize(objective, np.zeros(7), tol=1e-10).x
    np.testing.assert_allclose(model.weight[0], found[:-1], atol=1e-3)
    np.testing.assert_allclose(model.bias[0], found[-1], atol=1e-3)


def test_two_classes_are_one_svm_and_its_negation() -> None:
    model = Svm(SvmConfig(), NoLoss(), replace(SHAPE, num_classes=2))
    model.fit(make_bags(), (CLASSES > 0).long())
    torch.testing.assert_close(model.weight[0], -model.weight[1], atol=1e-4, rtol=1e-4)
    labels = (CLASSES > 0).repeat_interleave(4)
    assert roc_auc_score(labels, model(make_bags(1)).scores.flatten()) > 0.8


def test_a_class_without_videos_is_never_predicted() -> None:
    model = fitted(classes=CLASSES.where(CLASSES < 2, 0))
    logits = model(make_bags(1)).class_logits
    assert logits is not None
    assert (logits[:, 2] == -1).all()


def test_zero_cost_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cost = 0\.0 is not allowed: it must be a number above"):
        SvmConfig(cost=0.0)
