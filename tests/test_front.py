"""The front end: how stored features become a method's input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vigil.model.front import FIT_BAGS, FrontEnd
from vigil.model.settings import FrontConfig, InputShape

SHAPE = InputShape(num_segments=8, time_positions=2, channels=3, num_classes=3)


def bags(number: int) -> torch.Tensor:
    return torch.randn(number, 8, 6, generator=torch.Generator().manual_seed(number)) + 2


@pytest.mark.parametrize("time_pool", ["none", "mean"])
@pytest.mark.parametrize("scene_share", [0.0, 0.25, 1.0])
def test_the_output_equals_a_computation_by_hand(time_pool: str, scene_share: float) -> None:
    config = FrontConfig(time_pool, scene_share, standardize=True)  # type: ignore[arg-type]
    stored = bags(FIT_BAGS + 3)
    front = FrontEnd(config, SHAPE)
    front.fit(stored)
    plain = stored.double()
    if time_pool == "mean":
        plain = (plain[..., :3] + plain[..., 3:]) / 2
    plain = plain - scene_share * sum(plain[:, k] for k in range(8)).unsqueeze(1) / 8
    flat = plain.flatten(0, 1)
    expected = (plain - flat.mean(dim=0)) / flat.std(dim=0, correction=0)
    assert front.size == expected.shape[-1]
    torch.testing.assert_close(front(stored).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(front(stored[3:5]), front(stored)[3:5])  # bags are independent


@given(st.floats(-100, 100))
def test_without_the_scene_a_constant_offset_has_no_effect(offset: float) -> None:
    front = FrontEnd(FrontConfig(scene_share=1.0), SHAPE)
    stored = bags(2)
    torch.testing.assert_close(front(stored + offset), front(stored), atol=1e-4, rtol=0)


def test_a_share_is_from_0_to_1() -> None:
    with pytest.raises(ValueError, match=r"scene_share = 1\.5 is not allowed: it must be from 0"):
        FrontConfig(scene_share=1.5)
