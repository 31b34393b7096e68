"""What computes: the GPUs, whether torch can use them, and the CPU."""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vigil.extract.errors import UserError, counted
from vigil.pipeline.doctor.finding import OK, PROBLEM, WARNING, Finding
from vigil.pipeline.doctor.software import cgroup_folders, read_text

NVIDIA, DISPLAYS = "0x10de", ("0x0300", "0x0302")
"""Vendor and classes of GPUs on the PCI bus."""
_WITH_CUDA = "pip install --force-reinstall torch torchvision"


@dataclass(frozen=True)
class GpuFacts:
    """What is known of GPUs, from the system and from torch."""

    num_on_bus: int
    """NVIDIA GPUs that the hardware has; in a virtual machine, perhaps none, although there are."""
    driver: str = ""
    """Version; empty if none is loaded."""
    driver_cuda: tuple[int, int] | None = None
    """The newest CUDA that the driver supports; None if its library is not there."""
    torch_cuda: str | None = None
    """The CUDA that torch is built for; None: it is built for CPUs."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES, if set."""
    usable: tuple[str, ...] = ()
    """Those on which torch has computed."""
    error: str = ""
    """What torch said when it could not."""


def check_devices(device: str) -> Iterator[Finding]:
    """Yield what is found about torch, GPUs and the CPU, for the value of ``--device``."""
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = " ".join(f"{error}".split())
        yield Finding("torch", PROBLEM, f"it cannot be imported ({reason})", _WITH_CUDA)
        return
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs only"
    yield Finding("torch", OK, f"{torch.__version__}, built for {built_for}")
    yield gpu_finding(_gpu_facts(), device)
    yield _chosen_finding(device)
    yield from _cpu_findings()


def _gpu_facts() -> GpuFacts:
    import torch

    usable, reason = [], ""
    try:
        if torch.version.cuda:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            # The kernels for a GPU's generation may be missing, which only computing shows.
            product = torch.ones(8, 8, device=f"cuda:{index}") @ torch.ones(
                8, 8, device=f"cuda:{index}"
            )
            if float(product.sum()) == 512:
                free, total = torch.cuda.mem_get_info(index)
                name = torch.cuda.get_device_name(index)
                usable.append(f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
    return GpuFacts(
        _num_on_bus(),
        _driver(),
        _driver_cuda(),
        torch.version.cuda,
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        tuple(usable),
        reason,
    )


def _num_on_bus() -> int:
    places = Path("/sys/bus/pci/devices").glob("*")
    return sum(
        read_text(place / "vendor") == NVIDIA and read_text(place / "class")[:6] in DISPLAYS
        for place in places
    )


def _driver() -> str:
    words = read_text(Path("/proc/driver/nvidia/version")).split()
    return next((word for word in words if word[:1].isdigit() and "." in word), "")


def _driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports, from its library."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return (number.value // 1000, number.value % 1000 // 10) if number.value else None


def gpu_finding(facts: GpuFacts, device: str) -> Finding:
    """Whether GPUs are used, and if one is not, why not."""
    if facts.usable:
        return Finding("GPU", OK, "; ".join(facts.usable))
    if not (facts.num_on_bus or facts.driver or facts.driver_cuda):
        return Finding("GPU", OK, "none of NVIDIA")
    if device == "cpu":
        return Finding("GPU", OK, "left alone, as --device cpu asks")
    if facts.visible is not None and facts.visible.strip() in ("", "-1"):
        found = f"hidden by CUDA_VISIBLE_DEVICES={facts.visible!r}"
        return Finding("GPU", WARNING, found, "unset CUDA_VISIBLE_DEVICES")
    found, remedy = _why_unusable(facts)
    number = counted(max(facts.num_on_bus, 1), "GPU")
    return Finding("GPU", PROBLEM, f"{number}, but {found}", f"{remedy}; or --device cpu")


def _why_unusable(facts: GpuFacts) -> tuple[str, str]:
    """Why a GPU that is there cannot be used, and what to do."""
    if facts.torch_cuda is None:
        return "this torch is built for CPUs only", f"{_WITH_CUDA} (from pip's own index)"
    if not facts.driver and facts.driver_cuda is None:
        return "no driver is loaded", (
            "install it (Debian: sudo apt-get install nvidia-driver) and restart"
        )
    if facts.driver_cuda is None:
        return f"the library of driver {facts.driver} is not here", (
            "in a container: docker run --gpus all"
        )
    needed = int(facts.torch_cuda.partition(".")[0])
    if facts.driver_cuda[0] < needed:
        has = ".".join(map(str, facts.driver_cuda))
        return (
            f"its driver {facts.driver} is too old: it supports CUDA {has}, and torch is built for "
            f"{facts.torch_cuda}",
            f"update the driver to one for CUDA {needed} or newer, and restart",
        )
    said = facts.error or "torch finds none"
    return f"torch cannot use it ({said})", "run nvidia-smi, and restart if that fails, too"


def _chosen_finding(device: str) -> Finding:
    """Which devices and precision are chosen."""
    from vigil.extract.networks.hardware import choose_precision, select_devices

    try:
        devices = select_devices(device)
        precision = choose_precision("auto", devices)
    except UserError as error:
        return Finding("device", PROBLEM, str(error), "--device auto")
    return Finding("device", OK, f"{', '.join(map(str, devices))} in {precision}")


def _cpu_findings() -> Iterator[Finding]:
    import torch

    from vigil.extract.networks.hardware import cpu_has, cpu_is_fast_in

    sets = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")
    has = [name for name in sets if cpu_has(name)]
    form = "bf16" if cpu_is_fast_in("bf16") else "fp32"
    found = f"{', '.join(has) or 'none that speed it up'}: networks run in {form}"
    if not has:
        remedy = "a CPU with AVX2 is several times faster, and a GPU more"
        yield Finding("instructions", WARNING, found, remedy)
    else:
        yield Finding("instructions", OK, found)
    yield threads_finding(torch.get_num_threads(), len(os.sched_getaffinity(0)), cpu_quota())
    yield memory_finding(*_memory())


def threads_finding(num_threads: int, num_cores: int, quota: float | None) -> Finding:
    """Whether torch uses as many threads as it has cores.

    Args:
        num_threads: of torch.
        num_cores: on which this process may run.
        quota: of a control group, in cores; None: there is none.
    """
    usable = num_cores if quota is None else min(float(num_cores), quota)
    found = f"{num_threads} on {counted(num_cores, 'core')}"
    if quota is not None and quota < num_cores:
        found += f", of which a quota leaves {quota:g}"
    wanted = max(1, int(usable))
    if num_threads > 1.5 * usable and num_threads > 1:
        found += ": they wait for each other"
        return Finding("CPU threads", WARNING, found, f"export OMP_NUM_THREADS={wanted}")
    if num_threads == 1 < wanted and os.environ.get("OMP_NUM_THREADS") == "1":
        return Finding("CPU threads", WARNING, found, "unset OMP_NUM_THREADS, which is 1")
    return Finding("CPU threads", OK, found)


def cpu_quota() -> float | None:
    """The cores that control groups leave to this process; None without a quota."""
    quotas = []
    for place in cgroup_folders():
        share, _, period = read_text(place / "cpu.max").partition(" ")
        if share.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(share) / int(period))
    return min(quotas, default=None)


MIN_GIB, GOOD_GIB = 2.0, 4.0
"""Free memory: with less than the first, the network does not fit with one decoder."""


def memory_finding(free_gib: float, total_gib: float) -> Finding:
    """Whether there is memory for the network and decoders."""
    found = f"{free_gib:.1f} of {total_gib:.1f} GiB free"
    if free_gib < GOOD_GIB:
        state = PROBLEM if free_gib < MIN_GIB else WARNING
        remedy = "end other programs, raise the limit of the container, or use --workers 1"
        return Finding("memory", state, found, remedy)
    return Finding("memory", OK, found)


def _memory() -> tuple[float, float]:
    """Free and total memory in GiB, within the limit of control groups."""
    lines = read_text(Path("/proc/meminfo")).splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines}
    free, total = sizes["MemAvailable"], sizes["MemTotal"]
    for place in cgroup_folders():
        limit, used = read_text(place / "memory.max"), read_text(place / "memory.current")
        if limit.isdecimal() and used.isdecimal():
            total = min(total, int(limit) / 2**30)
            free = min(free, (int(limit) - int(used)) / 2**30)
    return max(free, 0.0), total
