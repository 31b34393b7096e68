"""Which precision a device computes in, and which ones a CPU refuses."""

import subprocess
import sys

import pytest
import torch

from vigil.extract.errors import UserError
from vigil.extract.networks import hardware
from vigil.extract.networks.hardware import best_precision, choose_precision, cpu_computes

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def cpu(monkeypatch):
    """Pretend to be a CPU that supports these precisions and has these instructions."""

    def pretend(precisions, instructions=()):
        monkeypatch.setattr(hardware, "cpu_computes", lambda name: name in precisions)
        monkeypatch.setattr(hardware, "cpu_has", lambda *names: bool({*names} & {*instructions}))

    return pretend


def test_every_cpu_computes_in_float32():
    assert cpu_computes("fp32")


def test_a_cpu_computes_in_a_precision_if_its_convolutions_run():
    """The oracle is a convolution of another shape, through the call that the fast I3D makes."""
    for precision, dtype in hardware.PRECISIONS.items():
        x, weight = torch.zeros(1, 3, 4, 8, 8, dtype=dtype), torch.zeros(8, 3, 3, 3, 3, dtype=dtype)
        arguments = x, weight, torch.zeros(8), (1, 1, 1), (1, 1, 1), (1, 1, 1)
        if cpu_computes(precision):
            torch.mkldnn_convolution(*arguments, groups=1)
        else:
            with pytest.raises(RuntimeError):
                torch.mkldnn_convolution(*arguments, groups=1)


def test_onednn_limited_to_avx2_computes_in_float32_only():
    program = (
        "from vigil.extract.networks.hardware import cpu_computes as c; print(c('fp32'), c('bf16'))"
    )
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    command = ["env", *(f"{name}={value}" for name, value in limited.items())]
    run = subprocess.run(
        [*command, sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("precisions", "instructions", "expected"),
    [
        (["fp32", "bf16"], ["avx512_bf16"], "bf16"),
        (["fp32", "bf16"], ["amx_bf16"], "bf16"),
        (["fp32", "bf16"], [], "fp32"),  # AVX-512 without instructions for bf16 emulates it
        (["fp32"], ["avx512_bf16"], "fp32"),
        (["fp32", "fp16"], ["avx512_fp16"], "fp32"),
    ],
)
def test_auto_is_the_fastest_precision_of_the_cpu(cpu, precisions, instructions, expected):
    cpu(precisions, instructions)
    assert choose_precision("auto", [CPU]) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [(90701, "fp16"), (90800, "fp32"), (91400, "fp32"), (91500, "fp16"), (None, "fp16")],
)
def test_auto_is_fp16_on_cuda_unless_its_cudnn_is_broken(monkeypatch, caplog, version, expected):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    assert best_precision([GPU, GPU]) == expected
    assert ("computes wrong results in fp16: using fp32" in caplog.text) == (expected == "fp32")


def test_a_precision_that_the_cpu_lacks_is_refused_by_name(cpu):
    cpu(["fp32", "bf16"])
    with pytest.raises(UserError, match="does not support precision fp16: use fp32, bf16 or auto"):
        choose_precision("fp16", [GPU, CPU])
    assert choose_precision("bf16", [CPU]) == "bf16"
    assert choose_precision("fp16", [GPU]) == "fp16"
