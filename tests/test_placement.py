"""Which form of a network is placed, and how failing forms are reported."""

import dataclasses

import numpy as np
import pytest
import torch
from i3d_reference import relative_error, seeded_state
from precisions import needs_bf16
from torch import nn

from vigil.extract.networks import placement
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.fast_i3d import STEMS, FastI3D
from vigil.extract.networks.hardware import PRECISIONS
from vigil.extract.networks.i3d import I3D
from vigil.extract.networks.placement import RUNGS, TOLERANCES, place
from vigil.extract.networks.weights import load_state, load_weights

CPU = torch.device("cpu")


class Small(nn.Module):
    """Convolution, batch norm, ReLU, and the mean over space."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(3, 8, 3, stride=(1, 8, 8))
        self.norm = nn.BatchNorm3d(8)

    def forward(self, x):
        x = torch.relu(self.norm(self.convolution(x)))
        return x.float().mean(dim=(3, 4)).transpose(1, 2)


class DataDependent(Small):
    """A network whose control flow depends on its values."""

    def forward(self, x):
        features = super().forward(x)
        return features if features.isfinite().all() else -features


BACKBONE = dataclasses.replace(BACKBONES["i3d"], name="small", frame_indices=tuple(range(0, 64, 8)))


def prepared(kind):
    torch.manual_seed(0)
    network = kind()
    for values in (network.norm.weight, network.norm.bias, network.norm.running_var):
        nn.init.uniform_(values, 0.5, 1.5)
    return network.eval().requires_grad_(False)


@pytest.fixture
def network():
    return prepared(Small)


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (2, 64, 224, 224, 3), np.uint8))


def plain_features(network, views):
    """The network's features of every eighth frame."""
    return network(views[:, ::8].permute(0, 4, 1, 2, 3) / 127.5 - 1)


def rung_and_precision(placed):
    return placed.rung, placed.precision


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.01)])
def test_every_rung_computes_what_the_network_does(
    network, views, rung, precision, tolerance, caplog
):
    expected = plain_features(network, views)
    placed = place(network, BACKBONE, CPU, precision, rungs=[rung])
    features = placed.run(views)
    assert rung_and_precision(placed) == (rung, precision)
    assert features.dtype == torch.float32
    assert relative_error(features, expected) < tolerance
    assert not caplog.text
    assert torch.equal(plain_features(network, views), expected)


def test_everything_except_convolutions_stays_in_fp32(network):
    seen = {}

    def keep(module, inputs, output):
        seen[type(module)] = inputs[0].dtype, module.weight.dtype

    network.convolution.register_forward_hook(keep)
    network.norm.register_forward_hook(keep)
    place(network, BACKBONE, CPU, "bf16", rungs=["plain"])
    assert seen == {
        nn.Conv3d: (torch.bfloat16, torch.bfloat16),
        nn.BatchNorm3d: (torch.bfloat16, torch.float32),
    }


@pytest.mark.parametrize(
    ("precision", "instructions", "stem"),
    [
        ("fp32", {"amx_bf16"}, "direct"),
        pytest.param("bf16", {}, "width", marks=needs_bf16),
        pytest.param("bf16", {"amx_bf16"}, "cubes", marks=needs_bf16),
    ],
)
def test_i3d_is_placed_as_its_fast_form(views, precision, instructions, stem, monkeypatch):
    made = []

    class Spied(FastI3D):
        def __init__(self, *how):
            made.append(how[1:])
            super().__init__(*how)

    monkeypatch.setattr(placement, "FastI3D", Spied)
    monkeypatch.setattr(placement, "cpu_has", lambda *names: bool({*names} & {*instructions}))
    network = I3D("MaxPool3d_2a_3x3").eval()
    load_state(network, seeded_state(), "seeded")
    placed = place(network, BACKBONES["i3d"], CPU, precision)
    assert rung_and_precision(placed) == ("folded", precision)
    assert made == [(PRECISIONS[precision], STEMS[stem])]
    with torch.inference_mode():
        expected = FastI3D(network, PRECISIONS[precision], STEMS[stem])(views[:1])
    assert torch.equal(placed.run(views[:1]), expected)


class Attentive(nn.Module):
    """A small transformer: an embedding, a norm, attention by matrices, and a mean."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Conv3d(3, 16, (2, 32, 32), stride=(2, 32, 32))
        self.norm = nn.LayerNorm(16)
        self.projection = nn.Linear(16, 48)

    def forward(self, x):
        x = self.norm(self.embedding(x).flatten(2).transpose(1, 2))
        q, k, v = self.projection(x).chunk(3, dim=2)
        x = x + torch.softmax(q @ k.transpose(1, 2), dim=2) @ v
        return x.float().mean(dim=1, keepdim=True)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.01)])
def test_a_transformer_is_placed_plain_with_its_matrices_in_lower_precision(
    views, precision, tolerance, caplog
):
    """It has nothing to fold, so folding is not tried."""
    torch.manual_seed(0)
    network, seen = Attentive().eval().requires_grad_(False), {}

    def keep(module, inputs, output):
        seen[type(module)] = module.weight.dtype

    expected = plain_features(network, views)
    for module in network.children():
        module.register_forward_hook(keep)
    placed = place(network, BACKBONE, CPU, precision)
    assert rung_and_precision(placed) == ("plain", precision)
    assert relative_error(placed.run(views), expected) < tolerance
    lower = PRECISIONS[precision]
    assert seen == {nn.Conv3d: lower, nn.LayerNorm: torch.float32, nn.Linear: lower}
    assert not caplog.text


def test_one_wrong_view_of_a_batch_is_a_disagreement():
    right = torch.rand(1, 2, 3) + 1
    batch = torch.cat([right, 1.3 * right])
    for precision, tolerance in TOLERANCES.items():
        assert "is off by 0.3" in placement._disagreement(batch, right, tolerance), precision
        assert placement._disagreement(right, right, tolerance) is None
    assert (
        placement._disagreement(right * torch.nan, right, 1)
        == "computes values that are not finite"
    )


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("bf16", marks=[needs_bf16, pytest.mark.slow])]
)
def test_i3d_r50_is_placed_folded(views, precision):
    backbone = BACKBONES["i3d_r50"]
    network = backbone.build("AvgPool")
    load_weights(network, "random", backbone.sources)
    placed = place(network, backbone, CPU, precision)
    assert rung_and_precision(placed) == ("folded", precision)
    pixels = (views[:1, ::8].permute(0, 4, 1, 2, 3) / 255 - 0.45) / 0.225
    with torch.inference_mode():
        expected = network.eval()(pixels)
    assert relative_error(placed.run(views[:1]), expected) < 0.01


def test_a_form_with_wrong_results_is_left_out(network, views, monkeypatch, caplog):
    def wrongly_folded(network):
        folded = prepared(Small)
        folded.norm.bias.neg_()
        return folded

    monkeypatch.setattr(placement, "fold_batch_norms", wrongly_folded)
    placed = place(network, BACKBONE, CPU, "bf16")
    assert rung_and_precision(placed) == ("plain", "bf16")
    assert relative_error(placed.run(views), plain_features(network, views)) < 0.01
    assert "cpu: the folded network in bf16 is off by 1 (relative error; allowed" in caplog.text


def test_a_form_that_cannot_be_made_is_left_out(caplog):
    placed = place(prepared(DataDependent), BACKBONE, CPU, "bf16")
    assert rung_and_precision(placed) == ("plain", "bf16")
    assert "the folded network in bf16 fails with TraceError: symbolically traced" in caplog.text


def test_compiling_is_for_cuda(network, caplog):
    placed = place(network, BACKBONE, CPU, "fp32", rungs=["compiled", "folded"])
    assert rung_and_precision(placed) == ("folded", "fp32")
    assert "the compiled network in fp32 fails with ValueError: it is slower than" in caplog.text


@pytest.mark.parametrize("rungs", [RUNGS, ["folded"], ["plain"]])
def test_the_plain_network_in_fp32_is_the_last_resort(network, views, rungs, caplog):
    network.norm.weight *= 1e6  # more than fp16 can hold
    placed = place(network, BACKBONE, CPU, "fp16", rungs=rungs)
    assert rung_and_precision(placed) == ("plain", "fp32")
    assert relative_error(placed.run(views), plain_features(network, views)) < 1e-5
    for rung in rungs:
        assert f"the {rung} network in fp16 computes values that are not finite" in caplog.text


def test_running_out_of_memory_does_not_lead_to_another_form(network, monkeypatch):
    def exhausted(network):
        raise torch.OutOfMemoryError("80 GiB")

    monkeypatch.setattr(placement, "fold_batch_norms", exhausted)
    with pytest.raises(torch.OutOfMemoryError, match="80 GiB"):
        place(network, BACKBONE, CPU, "fp32")


def test_no_setting_of_torch_is_left_changed(network, views):
    def settings():
        cudnn = torch.backends.cudnn
        return cudnn.benchmark, cudnn.allow_tf32, torch.is_inference_mode_enabled()

    before = settings()
    place(network, BACKBONE, CPU, "fp32").run(views)
    assert settings() == before
