"""The combinations: closed-form errors, and normal segments that lie on a few planes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from vigil.model.baselines.lu import Lu, LuConfig, find_combinations
from vigil.model.settings import InputShape, NoLoss

SHAPE = InputShape(num_segments=6, time_positions=1, channels=12, num_classes=2)
CONFIG = LuConfig(num_axes=10, num_atoms=2, num_combinations=5, error_bound=0.05)
CLASSES = torch.tensor([0] * 20 + [1] * 6)


def make_bags(seed: int = 0) -> torch.Tensor:
    """Normal segments lie near one of three planes; those of an anomalous bag anywhere."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(3, 2, 12, generator=torch.Generator().manual_seed(9))
    which = torch.randint(3, (26, 6), generator=generator)
    weights = torch.randn(26, 6, 1, 2, generator=generator)
    bags = (weights @ planes[which]).squeeze(2)
    bags[20:] = 3 * torch.randn(6, 6, 12, generator=generator)
    return bags + 0.02 * torch.randn(26, 6, 12, generator=generator)


def fitted(config: LuConfig = CONFIG, bags: torch.Tensor | None = None) -> Lu:
    torch.manual_seed(0)
    model = Lu(config, NoLoss(), SHAPE)
    model.fit(make_bags() if bags is None else bags, CLASSES)
    return model.eval()


def test_scores_are_the_least_error_of_least_squares() -> None:
    model, bags = fitted(), make_bags(1)
    points = bags.double().numpy() / np.linalg.norm(bags.double().numpy(), axis=-1, keepdims=True)
    points = points @ model.axes.double().numpy().T
    expected = np.full(points.shape[:2], 1.0)
    for residual in model.residuals[model.filled].double().numpy():
        values, vectors = np.linalg.eigh(residual)  # its null space is the span of the atoms
        atoms = vectors[:, values < 0.5] @ np.array([[2.0, 1.0], [0.5, 3.0]])
        for index in np.ndindex(expected.shape):
            solution = np.linalg.lstsq(atoms, points[index], rcond=None)[0]
            error = ((points[index] - atoms @ solution) ** 2).sum()
            expected[index] = min(expected[index], error)
    np.testing.assert_allclose(model(bags).scores, expected, atol=1e-5)


def test_combinations_represent_all_points_within_the_bound() -> None:
    points = torch.nn.functional.normalize(make_bags()[:20].flatten(0, 1).double(), dim=1)
    found = list(find_combinations(points, 2, 0.05))
    errors = torch.stack([(points @ residual).square().sum(dim=1) for residual in found])
    assert (errors.amin(dim=0) <= 0.05).all()
    assert len(found) <= 8
    for residual in found:
        torch.testing.assert_close(residual @ residual, residual)
        assert residual.trace().item() == pytest.approx(10)


def test_bound_0_represents_only_as_many_points_as_atoms() -> None:
    points = torch.randn(7, 12, dtype=torch.float64)
    assert len(list(find_combinations(points, 2, 0.0))) == 4


def test_it_finds_segments_off_the_planes() -> None:
    labels = (CLASSES > 0).repeat_interleave(6)
    assert roc_auc_score(labels, fitted()(make_bags(1)).scores.flatten()) > 0.98


def test_anomalous_bags_are_not_learned_from() -> None:
    other = make_bags().where((CLASSES == 0)[:, None, None], 7.0)
    one, two = fitted().state_dict(), fitted(bags=other).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_few_combinations_are_the_first_of_many() -> None:
    few = fitted(LuConfig(num_axes=10, num_atoms=2, num_combinations=2, error_bound=0.05))
    assert few.filled.all()
    torch.testing.assert_close(few.residuals, fitted().residuals[:2])


def test_fewer_segments_than_axes_suffice() -> None:
    model = Lu(LuConfig(num_axes=12, num_atoms=2), NoLoss(), SHAPE)
    model.fit(make_bags()[-8:], torch.tensor([0] + [1] * 7))
    assert (model.axes[6:] == 0).all()
    assert torch.isfinite(model(make_bags()).scores).all()


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="num_atoms = 9 is not allowed: it must be below num_axes"):
        LuConfig(num_atoms=9, num_axes=9)
    with pytest.raises(ValueError, match=r"error_bound = 1\.0 is not allowed"):
        LuConfig(error_bound=1.0)
