"""The devices of this machine, and the precision to compute in."""

import logging
from collections.abc import Sequence
from functools import cache

import torch

from vigil.extract.errors import UserError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# cuDNN 9.8 to 9.14 computed 16-bit 3-D convolutions wrongly or not at all.
BROKEN_CUDNN = range(90800, 91500)

log = logging.getLogger(__name__)


def _num_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def select_device(name: str) -> torch.device:
    """The device with a name: auto (CUDA if available), cpu, cuda or cuda:N.

    Raises:
        UserError: this machine does not have the device.
    """
    num_gpus = _num_gpus()
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    known = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{gpu}" for gpu in range(num_gpus))]
    if name not in known:
        raise UserError(
            f"device {name!r} is not on this machine: use auto or one of {', '.join(known)}"
        )
    return torch.device(name)


def select_devices(names: str) -> tuple[torch.device, ...]:
    """The devices that share an extraction: names separated by commas, or ``all`` for every GPU.

    Raises:
        UserError: this machine does not have one of them, or a GPU is named twice.
    """
    if names == "all":
        num_gpus = _num_gpus()
        if not num_gpus:
            raise UserError("device 'all' means every GPU, and torch finds none: use auto or cpu")
        return tuple(torch.device("cuda", gpu) for gpu in range(num_gpus))
    devices = tuple(select_device(name.strip()) for name in names.split(","))
    gpus = [device.index or 0 for device in devices if device.type == "cuda"]
    if len(set(gpus)) < len(gpus):
        raise UserError(f"device {names!r} names a GPU twice: name each once, or use all")
    return devices


def cpu_has(*instructions: str) -> bool:
    """Whether the CPU has one of these instruction sets, by torch's names."""
    abilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(abilities.get(name) for name in instructions)


@cache
def cpu_computes(precision: str) -> bool:
    """Whether oneDNN convolves on this CPU in a precision, a key of `PRECISIONS`.

    The answer comes from a convolution of one pixel, because oneDNN can support less than the CPU
    (ONEDNN_MAX_CPU_ISA limits it), and torch more: its own 16-bit kernels run on any CPU, but take
    minutes per clip.
    """
    pixel = torch.zeros(1, 1, 1, 1, 1, dtype=PRECISIONS[precision])
    bias, ones = torch.zeros(1), (1, 1, 1)
    try:
        torch.mkldnn_convolution(pixel, pixel, bias, (0, 0, 0), ones, ones, groups=1)
    except RuntimeError:
        return precision == "fp32"
    return True


def cpu_is_fast_in(precision: str) -> bool:
    """Whether this CPU has instructions for a 16-bit precision, fp16 or bf16."""
    return cpu_has(f"avx512_{precision}", f"amx_{precision}") and cpu_computes(precision)


def choose_precision(asked: str, devices: Sequence[torch.device]) -> str:
    """The precision to compute in: the one asked for, or the best one for ``auto``.

    Args:
        asked: auto or a key of `PRECISIONS`.
        devices: all of them compute in the same precision.

    Raises:
        UserError: a CPU among the devices does not support the one asked for.
    """
    if asked == "auto":
        return best_precision(devices)
    if any(device.type == "cpu" for device in devices) and not cpu_computes(asked):
        supported = [name for name in PRECISIONS if cpu_computes(name)]
        raise UserError(
            f"this CPU does not support precision {asked}: use {', '.join(supported)} or auto"
        )
    return asked


def best_precision(devices: Sequence[torch.device]) -> str:
    """The fastest precision whose error does not show in any measure (docs/yardstick.md).

    That is fp16 on CUDA, bf16 on a CPU with instructions for it, and fp32 on any other.
    """
    if all(device.type == "cuda" for device in devices):
        version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        if version in BROKEN_CUDNN:
            log.warning("cuDNN %d computes wrong results in fp16: using fp32", version)
            return "fp32"
        return "fp16"
    return "bf16" if cpu_is_fast_in("bf16") else "fp32"
