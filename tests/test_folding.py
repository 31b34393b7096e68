"""Folding batch norm into convolutions, against applying one after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from i3d_reference import relative_error
from torch import nn

from vigil.extract.networks.folding import fold_batch_norms, folded


def numbers(smallest, largest):
    return arrays.arrays(np.float32, 4, elements=st.floats(smallest, largest, width=32))


@settings(max_examples=30)
@given(numbers(-8, 8), numbers(-8, 8), numbers(-8, 8), numbers(0, 8), st.booleans())
def test_folding_is_exact_whatever_the_statistics(weight, bias, mean, variance, has_bias):
    convolution = nn.Conv3d(3, 4, 3, bias=has_bias)
    batch_norm = nn.BatchNorm3d(4).eval()
    drawn = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
    batch_norm.load_state_dict(
        {name: torch.from_numpy(values) for name, values in drawn.items()}, strict=False
    )
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    one = folded(convolution, batch_norm)
    expected = batch_norm.double()(convolution.double()(x))
    torch.testing.assert_close(one(x), expected, rtol=1e-9, atol=1e-9)


class Branches(nn.Module):
    """A convolution that can be folded, one with its output used twice, and one called twice."""

    def __init__(self):
        super().__init__()
        self.plain, self.shared, self.twice = (nn.Conv3d(4, 4, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm3d(4) for _ in range(4))

    def forward(self, x):
        x = self.norms[0](self.plain(x))
        y = self.shared(x)
        x = self.norms[1](y) + y
        return self.norms[3](self.twice(self.norms[2](self.twice(x))))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Branches()
    for norm in network.norms:
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(values, 0.5, 1.5)
    return network.eval().requires_grad_(False)


def test_batch_norms_are_folded_where_nothing_else_uses_the_convolution(network):
    one = fold_batch_norms(network)
    x = torch.randn(1, 4, 2, 3, 4)
    assert relative_error(one(x), network(x)) < 1e-6
    called = [node.target for node in one.graph.nodes if node.op == "call_module"]
    assert called == ["plain", "shared", "norms.1", "twice", "norms.2", "twice", "norms.3"]


def test_the_network_stays_as_it_is(network):
    before = {name: values.clone() for name, values in network.state_dict().items()}
    fold_batch_norms(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
