"""The machine under test: its description and its peak rates."""

import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.nn import functional

from bench.table import shortest_seconds
from vigil.extract.networks.hardware import PRECISIONS, cpu_is_fast_in
from vigil.extract.versions import installed_versions

# They decide the speed of a network on a CPU.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")


def describe(device: torch.device, program: str = "bench") -> list[str]:
    """Lines `name: value` about machine, versions, date and command, which names the program."""
    processor, flags = _processor()
    found = [name for name in INSTRUCTION_SETS if name in flags]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    facts = {
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{processor}, {num_cores()} cores, {gigabytes:.0f} GB",
        "instructions": " ".join(found) or "none of " + " ".join(INSTRUCTION_SETS),
        "device": device_name(device),
        "versions": ", ".join(f"{name} {text}" for name, text in installed_versions().items()),
    }
    return [f"{name}: {text}" for name, text in facts.items()]


def _processor() -> tuple[str, set[str]]:
    """The processor's name and flags; systems other than Linux provide no flags."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {name.strip(): text.strip() for name, _, text in (n.partition(":") for n in lines)}
    return facts.get("model name", platform.machine()), set(facts.get("flags", "").split())


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def device_name(device: torch.device) -> str:
    """The device's name, with the versions of its libraries."""
    if device.type != "cuda":
        return "cpu"
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    name = torch.cuda.get_device_name(device)
    return f"{name}, CUDA {torch.version.cuda}, cuDNN {cudnn}"


def fast_precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions for which the device has instructions."""
    if device.type == "cuda":
        return "fp32", "fp16", "bf16"
    return "fp32", *(name for name in ("fp16", "bf16") if cpu_is_fast_in(name))


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, precision: str, repeats: int) -> float:
    """FLOP/s of the product of two large square matrices."""
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.rand(size, size, device=device).to(PRECISIONS[precision])
    return _rate(lambda: torch.mm(matrix, matrix), 2 * size**3, device, repeats)


def convolution_rate(device: torch.device, precision: str, repeats: int) -> float:
    """FLOP/s of a large 3x3x3 convolution, which libraries tune more than products on some CPUs."""
    shape = (24, 192, 16, 56, 56) if device.type == "cuda" else (1, 192, 8, 56, 56)
    dtype, layout = PRECISIONS[precision], torch.channels_last_3d
    x = torch.rand(shape, device=device).to(dtype, memory_format=layout)
    weight = torch.rand(192, 192, 3, 3, 3, device=device).to(dtype, memory_format=layout)
    flop = 2 * x.numel() * weight[0].numel()
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        return _rate(lambda: functional.conv3d(x, weight, padding=1), flop, device, repeats)


def _rate(
    work: Callable[[], object], amount: float, device: torch.device, repeats: int, rounds: int = 10
) -> float:
    """The amount of work done per second."""
    rounds = rounds if device.type == "cuda" else 1

    def work_and_wait() -> None:
        for _ in range(rounds):
            work()
        wait_for(device)

    return amount * rounds / shortest_seconds({"": work_and_wait}, repeats)[""]


def copy_rate(device: torch.device, repeats: int, num_bytes: int = 1 << 28) -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _rate(lambda: target.copy_(source), 2 * num_bytes, device, repeats)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch compute with this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_core() -> Iterator[None]:
    """Pin this thread, and all that it starts meanwhile, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
