"""Python, what is installed, the limits of this process, and the clock."""

import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from vigil.extract.versions import installed_versions
from vigil.pipeline.doctor.finding import OK, PROBLEM, WARNING, Finding

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 12)
EXTRAS = {
    "watch": (("paho", "alarms over MQTT"), ("watchfiles", "new recordings noticed at once")),
    "serve": (("fastapi", "vigil serve"), ("uvicorn", "vigil serve")),
    "parquet": (("pyarrow", "results as Parquet"),),
    "cluster": (("ray", "--cluster"),),
    "remote": (("fsspec", "videos behind addresses"), ("s3fs", "s3://"), ("aiohttp", "http://")),
}
"""Extra of the package -> its modules, and what each of them is good for."""
MIN_FILES, GOOD_FILES = 256, 1024
"""Open files: what one run needs, and what leaves room for many cameras."""
MIN_PROCESSES = 200
_LAST_YEAR = 2100
_TIMEX_BYTES, _STATUS_AT, _UNSYNCHRONISED = 512, 40, 0x40
"""Of struct timex (adjtimex(2)) on 64 bits: more than its size, and where its status lies."""


def check_software() -> Iterator[Finding]:
    """Yield what is found about Python and optional packages."""
    yield python_finding(sys.version_info[:2], installed_versions().get("vigil-video", "?"))
    yield extras_finding()


def python_finding(version: tuple[int, int], vigil: str) -> Finding:
    """Whether this Python is one that vigil is tested with."""
    found = f"{platform.python_version()}, vigil {vigil}"
    if version < OLDEST_PYTHON:
        return Finding(
            "Python", PROBLEM, found, "python3.12 -m venv .venv, and install vigil there"
        )
    if version > NEWEST_PYTHON:
        remedy = "if anything fails, use 3.12: python3.12 -m venv .venv"
        return Finding("Python", WARNING, f"{found}, newer than those it is tested with", remedy)
    return Finding("Python", OK, found)


def extras_finding() -> Finding:
    """Which optional packages are there, and what the others would give."""
    there, missing = [], []
    for extra, modules in EXTRAS.items():
        absent = [(name, gives) for name, gives in modules if find_spec(name) is None]
        gives = ", ".join(dict.fromkeys(gives for _, gives in absent))
        if absent:
            missing.append((extra, f"{extra} ({gives})"))
        else:
            there.append(extra)
    found = ", ".join(there) or "none"
    if not missing:
        return Finding("extras", OK, found)
    extras = ",".join(extra for extra, _ in missing)
    lacking = ", ".join(words for _, words in missing)
    remedy = f"if you need them: pip install 'vigil-video[{extras}]'"
    return Finding("extras", OK, f"{found}; not there: {lacking}", remedy)


def check_limits() -> Iterator[Finding]:
    """Yield whether enough files may be open, and enough processes run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = f"ulimit -n {GOOD_FILES} (systemd: LimitNOFILE=, Docker: --ulimit nofile=)"
    if resource.RLIM_INFINITY not in (soft, hard) and hard < GOOD_FILES:
        remedy += f"; raise the hard limit of {hard} first"
    number = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if soft != resource.RLIM_INFINITY and soft < GOOD_FILES:
        state = PROBLEM if soft < MIN_FILES else WARNING
        yield Finding("open files", state, f"{number}, fewer than {GOOD_FILES}", remedy)
    else:
        yield Finding("open files", OK, number)
    yield processes_finding(_process_limits())


def processes_finding(limits: dict[str, int]) -> Finding:
    """Whether as many processes and threads may run as decoding many videos needs."""
    if not limits:
        return Finding("processes", OK, "no limit is known")
    kind, number = min(limits.items(), key=lambda limit: limit[1])
    if number < MIN_PROCESSES:
        remedy = {
            "ulimit": "ulimit -u 4096 (systemd: LimitNPROC=)",
            "cgroup": "raise TasksMax= (systemd) or --pids-limit (Docker)",
        }[kind]
        found = f"{number} ({kind}), fewer than {MIN_PROCESSES}"
        return Finding("processes", WARNING, found, remedy)
    return Finding("processes", OK, f"up to {number} ({kind})")


def _process_limits() -> dict[str, int]:
    limits = {}
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        limits["ulimit"] = soft
    for place in cgroup_folders():
        text = read_text(place / "pids.max")
        if text.isdecimal():
            limits["cgroup"] = min(int(text), limits.get("cgroup", int(text)))
    return limits


def cgroup_folders() -> list[Path]:
    """The folder of this process's control group (version 2), and those above it."""
    root = Path("/sys/fs/cgroup")
    own = read_text(Path("/proc/self/cgroup")).rpartition("0::")[2].strip().lstrip("/")
    place = root / own
    return [one for one in (place, *place.parents) if one == root or root in one.parents]


def read_text(path: Path) -> str:
    """The text of a small system file, without spaces at its ends; empty if it is not there."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def check_clock() -> Iterator[Finding]:
    """Yield whether the clock can be right, and whether it is kept right."""
    # Nothing was installed in the future.
    installed_at = Path(import_module("vigil.pipeline.doctor").__file__ or __file__).stat().st_mtime
    yield clock_finding(time.time(), installed_at, is_synchronised())


def clock_finding(now: float, installed_at: float, synchronised: bool | None) -> Finding:
    """What is found about a clock.

    Args:
        now: its time, in seconds since 1970.
        installed_at: a time that has passed.
        synchronised: whether the system says that it is; None: it does not say.
    """
    local = datetime.fromtimestamp(now, UTC).astimezone()
    found = local.isoformat(" ", timespec="seconds")
    if now < installed_at - 86_400 or local.year >= _LAST_YEAR:
        what = "which cannot be: alarms and results would have wrong times"
        return Finding("clock", PROBLEM, f"{found}, {what}", "sudo timedatectl set-ntp true")
    if synchronised is None:
        remedy = "timedatectl (or chronyc tracking) may know it"
        return Finding("clock", WARNING, f"{found}; unknown whether it is synchronised", remedy)
    if not synchronised:
        remedy = "sudo timedatectl set-ntp true; with chrony, ask chronyc tracking"
        return Finding("clock", WARNING, f"{found}; the system says: not synchronised", remedy)
    return Finding("clock", OK, f"{found}, synchronised")


def is_synchronised() -> bool | None:
    """Whether the kernel counts its clock as synchronised (adjtimex(2)); None if it does not say.

    Some time services (chrony without ``rtcsync``) synchronise it without telling the kernel.
    """
    if sys.maxsize < 2**32:
        return None
    query = ctypes.create_string_buffer(_TIMEX_BYTES)  # zeros: change nothing
    if ctypes.CDLL(None, use_errno=True).adjtimex(query) < 0:
        return None
    status = ctypes.c_int.from_buffer(query, _STATUS_AT).value
    return not status & _UNSYNCHRONISED
