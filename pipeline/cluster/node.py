"""What runs on a node: an engine in a process of its own, asked for news again and again.

If it is not asked for `lease_seconds`, its driver is gone, or has given it up. It ends then,
because another seat may get its videos, and two must not write the same files.
"""

import logging
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

from vigil.extract.engine.activity import Activity
from vigil.extract.engine.device import DeviceSaid, device_name
from vigil.extract.engine.dispatch import Engine
from vigil.extract.engine.writer import Extracted
from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.networks.hardware import choose_precision, select_devices
from vigil.extract.source import SourceVideo, size_and_time
from vigil.pipeline.cluster.same_code import own_versions

Item = TypeVar("Item")

POLL_SECONDS = 1.0
"""How long a node waits for news before it answers that there are none."""


@dataclass(frozen=True)
class Questions:
    """What a node is asked before it gets any work."""

    device: str
    """As of `extract.networks.hardware.select_device`."""
    precision: str
    """auto, or the one asked for."""
    store: Path
    token_file: str
    """File in the store that the driver wrote."""
    token: str
    answer_file: str
    """File in the store to write the token into."""
    videos: tuple[tuple[Path, int], ...]
    """Some of the videos, with their sizes in bytes."""


@dataclass(frozen=True)
class Answers:
    """What a node says of itself."""

    versions: dict[str, str]
    precision: str
    arithmetic: str
    """Devices that differ in it round differently."""
    problems: tuple[str, ...]
    """What does not work there, without the name of the node."""


@dataclass(frozen=True)
class Job:
    """The work of every engine of a run."""

    make_engine: Callable[[str], Engine]
    """Called with a device."""
    store: Path
    lease_seconds: float


@dataclass(frozen=True)
class News:
    """What has happened on a seat since it was asked the last time."""

    outcomes: tuple[Extracted | FailedVideo, ...]
    activity: Activity
    said: tuple[DeviceSaid, ...]
    """Log messages."""
    error: Exception | None = None
    """Why the engine has ended."""


class NodeEngine:
    """An engine on a device of a node. A driver calls the methods from afar, one after another."""

    def __init__(self, num_cores: int) -> None:
        """Nothing is loaded yet; the engine may use so many cores."""
        self._num_cores, self._device = num_cores, ""
        self._given: SimpleQueue[SourceVideo] = SimpleQueue()
        self._found: SimpleQueue[Extracted | FailedVideo | Exception] = SimpleQueue()
        self._said: SimpleQueue[DeviceSaid] = SimpleQueue()
        self._activity = Activity()
        self._is_stopped = False
        self._asked_at = time.monotonic()
        self._thread: threading.Thread | None = None

    def answer(self, asked: Questions) -> Answers:
        """Say what matters for the features, and what is out of reach."""
        self._device, precision = asked.device, ""
        problems = [*_problems_of_paths(asked)]
        arithmetic = torch.backends.cpu.get_cpu_capability()
        try:
            devices = select_devices(asked.device)
            precision = choose_precision(asked.precision, devices)
            if devices[0].type == "cuda":
                arithmetic = device_name(devices[0])
        except UserError as error:
            problems.append(str(error))
        return Answers(own_versions(), precision, arithmetic, tuple(problems))

    def begin(self, job: bytes) -> None:
        """Start an engine for a pickled `Job`; it has nothing to do yet."""
        self._asked_at = time.monotonic()
        logger = logging.getLogger("vigil")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.handlers[:] = [_Kept(self._said)]
        self._thread = threading.Thread(target=self._extract, args=(job,), name="vigil-engine")
        self._thread.daemon = True
        self._thread.start()

    def exchange(self, videos: Sequence[SourceVideo]) -> News:
        """Take further videos, and return the news; if there are none, wait for some a while."""
        self._asked_at = time.monotonic()
        for video in videos:
            self._given.put(video)
        found: list[Extracted | FailedVideo | Exception] = []
        with suppress(Empty):
            found.append(self._found.get(timeout=POLL_SECONDS))
        found += _drained(self._found)
        self._asked_at = time.monotonic()
        outcomes = tuple(one for one in found if not isinstance(one, Exception))
        errors = [one for one in found if isinstance(one, Exception)]
        said = tuple(_drained(self._said))
        return News(outcomes, replace(self._activity), said, errors[0] if errors else None)

    def stop(self) -> None:
        """End the engine as on Ctrl-C: a file that is being written is finished."""
        self._is_stopped = True
        if self._thread is not None:
            self._thread.join()

    def _extract(self, pickled: bytes) -> None:
        try:
            job: Job = pickle.loads(pickled)
            watch = threading.Thread(target=self._watch_driver, args=(job.lease_seconds,))
            watch.daemon = True
            watch.start()
            engine = replace(job.make_engine(self._device), num_cores=self._num_cores)
            running = engine.extract((), job.store, self._note, self._more)
            with closing(running) as outcomes:
                for outcome in outcomes:
                    self._found.put(outcome)
        except _Stopped:
            return
        except (UserError, OSError) as error:
            self._found.put(_portable(error))
        except Exception:  # of any type; sent as text, because not all of them can be pickled
            self._found.put(RuntimeError(traceback.format_exc()))

    def _note(self, activity: Activity) -> None:
        self._activity = activity
        self._more_or_stop()

    def _more(self) -> list[SourceVideo]:
        self._more_or_stop()
        return _drained(self._given)

    def _more_or_stop(self) -> None:
        if self._is_stopped:
            raise _Stopped

    def _watch_driver(self, lease_seconds: float) -> None:
        while time.monotonic() - self._asked_at < lease_seconds:
            if self._is_stopped:
                return
            time.sleep(min(1.0, lease_seconds / 4))
        os._exit(1)


class _Stopped(Exception):  # noqa: N818  (nothing is wrong)
    """The driver has asked the engine to end."""


class _Kept(logging.Handler):
    """Keep the log messages of this process for the driver."""

    def __init__(self, said: "SimpleQueue[DeviceSaid]") -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.put(DeviceSaid(record.name, record.levelno, record.getMessage()))


def _problems_of_paths(asked: Questions) -> Sequence[str]:
    """The first thing that is wrong with the paths, as they are seen from here."""
    store, remedy = asked.store, "mount it there under the same path"
    try:
        if (store / asked.token_file).read_text() != asked.token:
            return [f"has another folder {store}: {remedy}"]
    except OSError as error:
        return [f"does not see what this machine writes to {store} ({error.strerror}): {remedy}"]
    try:
        (store / asked.answer_file).write_text(asked.token)
    except OSError as error:
        return [f"cannot write to {store} ({error.strerror}): let Ray's account there write to it"]
    for path, num_bytes in asked.videos:
        try:
            if size_and_time(path)[0] != num_bytes:
                return [f"has another {path}: {remedy}"]
        except OSError as error:
            return [f"does not see {path} ({error.strerror}): {remedy}"]
    return []


def _drained(queue: "SimpleQueue[Item]") -> list[Item]:
    """Everything that is in a queue now."""
    items = []
    with suppress(Empty):
        while True:
            items.append(queue.get_nowait())
    return items


def _portable(error: UserError | OSError) -> Exception:
    """The error as one that can be pickled: those of subclasses may not."""
    if isinstance(error, UserError):
        return UserError(str(error))
    return OSError(error.errno, error.strerror or str(error), error.filename)
