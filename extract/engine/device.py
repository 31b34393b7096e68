"""One device at work: clips in, clip features out, in batches of one shape per size of views.

A clip is uploaded once and all its views are cut on the device, into batches that mix clips of
several videos. They are padded only at the end, and where the size of the view whole changes. A
feature never depends on the rest of its batch. On CUDA nothing waits for the host: clips are
uploaded during computation, and a batch's features are copied back while the next one runs.
Legend: B views in a batch, V views of a clip, T frames, D = time positions x channels.
"""

import logging
import pickle
import platform
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vigil.extract.clips import CLIP_FRAMES, VIEW_SIZE
from vigil.extract.decode.ring import ClipRing, Slot
from vigil.extract.engine.cutting import cut_view
from vigil.extract.errors import UserError
from vigil.extract.networks.combinations import Network
from vigil.extract.networks.placement import RUNGS, Placed, place
from vigil.extract.views import WHOLE

WHOLE_TEST_SIZE = 256, 340
"""Height and width with which networks are tested for the view whole: that of most 4:3 videos."""

MAX_BATCH_PIXELS = 2**22
"""Pixels of a frame times views in a batch; I3D's first layer makes 512 values of each, and some
kernels count them in 32 bits."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DeviceJob:
    """The work of a device on every clip."""

    networks: tuple[Network, ...]
    """All see the same views; their features are concatenated."""
    device: torch.device
    precision: str
    views: tuple[str, ...]
    time_pool: str
    batch_size: int
    rungs: tuple[str, ...] = RUNGS
    """Forms of the network to try, best first."""
    num_threads: int | None = None
    """Threads of a CPU that is shared by several devices."""


ClipKey = tuple[str, int, int]
"""Name of the video, number of its restarts, and clip index."""


@dataclass(frozen=True)
class ClipWork:
    """A clip in a slot of a worker's ring."""

    key: ClipKey
    worker: int
    slot: Slot


@dataclass(frozen=True)
class Flush:
    """No clip is on its way: once all that came before are in the batch, run it as it is."""


@dataclass(frozen=True)
class DeviceReady:
    """The networks are on the device."""

    name: str
    rung: str
    """If networks differ, one for each, joined by plus signs; the same holds for `precision`."""
    precision: str


@dataclass(frozen=True)
class ClipTaken:
    """A clip has been uploaded: its slot is free."""

    worker: int
    slot_index: int


@dataclass(frozen=True, eq=False)
class ClipDone:
    """A clip's features, and how the device has spent its time so far."""

    key: ClipKey
    features: npt.NDArray[np.float32]
    """(V, D)."""
    busy_seconds: float
    waited_seconds: float


@dataclass(frozen=True)
class DeviceFailed:
    """The device cannot continue."""

    error: UserError | RuntimeError


@dataclass(frozen=True)
class DeviceSaid:
    """A log message of a device in a process of its own."""

    logger: str
    level: int
    message: str


def serve(connection: Connection, rings: Sequence[ClipRing], job: DeviceJob) -> None:
    """Answer every `ClipWork` until the connection is closed."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the other end is closed
        try:
            _Device(connection, rings, job).serve()
        except (EOFError, OSError):
            raise
        except torch.OutOfMemoryError:
            reason = f"{job.device} lacks memory for batches of {job.batch_size} clip-views"
            remedy = "lower batch_size" + " or short_side" * (WHOLE in job.views)
            connection.send(DeviceFailed(UserError(f"{reason}: {remedy}")))
        except UserError as error:
            connection.send(DeviceFailed(error))
        except Exception:  # of any type; sent as text, because not all of them can be pickled
            connection.send(DeviceFailed(RuntimeError(f"{job.device}: {traceback.format_exc()}")))


def serve_in_process(connection: Connection, rings: Sequence[ClipRing]) -> None:
    """Run `serve` in a process of its own, after receiving a pickled `DeviceJob`."""
    with suppress(EOFError, ConnectionResetError):
        job: DeviceJob = pickle.loads(connection.recv_bytes())
        if job.num_threads is not None:
            torch.set_num_threads(job.num_threads)
        extract_log = logging.getLogger("vigil")
        extract_log.setLevel(logging.DEBUG)
        extract_log.propagate = False
        extract_log.addHandler(_Forwarding(connection))
        serve(connection, rings, job)


class _Forwarding(logging.Handler):
    """Forward the log records of this process to the one that started it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        self._connection.send(DeviceSaid(record.name, record.levelno, record.getMessage()))


@dataclass(frozen=True, eq=False)
class _Launched:
    """A batch whose features are being copied back."""

    owners: list[tuple[ClipKey, int]]
    """Clip and view index of each row."""
    features: Tensor
    done: torch.cuda.Event | None


class _Device:
    def __init__(self, connection: Connection, rings: Sequence[ClipRing], job: DeviceJob) -> None:
        self._connection, self._rings, self._job = connection, rings, job
        self._is_cuda = job.device.type == "cuda"
        if self._is_cuda:
            torch.cuda.set_device(job.device.index or 0)
            self._upload_stream = torch.cuda.Stream(job.device)  # type: ignore[no-untyped-call]
        self._placed = [
            place(
                network.module,
                network.backbone,
                job.device,
                job.precision,
                batch_size=job.batch_size,
                rungs=job.rungs,
                view_size=WHOLE_TEST_SIZE if WHOLE in job.views else (VIEW_SIZE, VIEW_SIZE),
            )
            for network in job.networks
        ]
        shape = job.batch_size, CLIP_FRAMES, VIEW_SIZE, VIEW_SIZE, 3
        self._batch = torch.zeros(shape, dtype=torch.uint8, device=job.device)
        self._owners: list[tuple[ClipKey, int]] = []
        self._launched: _Launched | None = None
        self._uploads: deque[tuple[ClipWork, torch.cuda.Event | None]] = deque()
        self._is_flushing = False
        self._views_back: dict[ClipKey, list[npt.NDArray[np.float32]]] = {}
        self._pinned: dict[int, _Pinned] = {}
        self._busy_seconds = self._waited_seconds = 0.0
        self._counted_until = time.perf_counter()
        rung = _join(placed.rung for placed in self._placed)
        precision = _join(placed.precision for placed in self._placed)
        connection.send(DeviceReady(device_name(job.device), rung, precision))

    def serve(self) -> None:
        try:
            while True:
                if not self._connection.poll():
                    if self._is_flushing:
                        self._is_flushing = False
                        self._run_batch()
                    self._settle()
                self._busy_seconds += self._seconds()
                message = self._connection.recv()
                self._waited_seconds += self._seconds()
                if isinstance(message, Flush):
                    self._is_flushing = True
                else:
                    self._add(message)
        finally:
            for pinned in self._pinned.values():
                pinned.undo()

    def _seconds(self) -> float:
        """Seconds since the previous call."""
        before, self._counted_until = self._counted_until, time.perf_counter()
        return self._counted_until - before

    def _add(self, work: ClipWork) -> None:
        clip, uploaded = self._upload(work)
        for index, name in enumerate(self._job.views):
            view = cut_view(clip, name)
            self._fit_batch(view, work.key)
            self._batch[len(self._owners)].copy_(view)
            self._owners.append((work.key, index))
            if len(self._owners) == self._job.batch_size:
                self._run_batch()
        self._uploads.append((work, uploaded))
        while self._uploads and _is_done(self._uploads[0][1]):
            self._release()

    def _fit_batch(self, view: Tensor, key: ClipKey) -> None:
        """Begin a batch of another shape if the view has another size than those in the batch."""
        if view.shape == self._batch.shape[1:]:
            return
        height, width = view.shape[1:3]
        if height * width * self._job.batch_size >= MAX_BATCH_PIXELS:
            raise UserError(
                f"{key[0]}: frames of {width}x{height} pixels, {self._job.batch_size} in a batch, "
                "are too large for the view whole: set short_side to 256, or lower batch_size"
            )
        self._run_batch()
        self._batch = self._batch.new_zeros((self._job.batch_size, *view.shape))

    def _upload(self, work: ClipWork) -> tuple[Tensor, torch.cuda.Event | None]:
        """The clip (T, H, W, 3) on the device, and the event after which its slot is free."""
        ring = self._rings[work.worker]
        pixels = torch.from_numpy(ring.clip(work.slot))
        if not self._is_cuda:
            return pixels, None
        self._pin(work.worker)
        compute = torch.cuda.current_stream(self._job.device)
        with torch.cuda.stream(self._upload_stream):
            clip = pixels.to(self._job.device, non_blocking=True)
            uploaded = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            uploaded.record()
        compute.wait_event(uploaded)
        clip.record_stream(compute)
        return clip, uploaded

    def _pin(self, worker: int) -> None:
        """Page-lock a ring's memory, so that the device can read it asynchronously."""
        memory, pinned = self._rings[worker].memory, self._pinned.get(worker)
        if pinned is not None and pinned.memory is memory:
            return
        if pinned is not None:  # the ring has grown, so all its slots were free
            pinned.undo()
        self._pinned[worker] = _Pinned(memory, self._job.device)

    def _release(self) -> None:
        work, _ = self._uploads.popleft()
        self._connection.send(ClipTaken(work.worker, work.slot.index))

    def _run_batch(self) -> None:
        """Run the batch; if it is partial, rows left from an earlier batch are the padding."""
        if not self._owners:
            return
        launched = self._bring_back(torch.cat([self._run(one) for one in self._placed], dim=1))
        self._deliver()
        self._launched, self._owners = launched, []

    def _run(self, placed: Placed) -> Tensor:
        """The features (B, D) of one network."""
        features = placed.run(self._batch)
        if self._job.time_pool == "mean":
            features = features.mean(dim=1)
        return features.flatten(1)

    def _bring_back(self, features: Tensor) -> _Launched:
        if not self._is_cuda:
            return _Launched(self._owners, features, None)
        on_host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        on_host.copy_(features, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record()
        return _Launched(self._owners, on_host, done)

    def _settle(self) -> None:
        """Wait for all that is in progress, and send it: there is nothing else to do."""
        while self._uploads:
            _wait(self._uploads[0][1])
            self._release()
        self._deliver()

    def _deliver(self) -> None:
        """Send the features of the launched batch; each clip goes with its last view."""
        if self._launched is None:
            return
        _wait(self._launched.done)
        self._busy_seconds += self._seconds()
        rows = self._launched.features.numpy()
        for (key, view), row in zip(self._launched.owners, rows, strict=False):
            views = self._views_back.setdefault(key, [])
            views.append(row)
            if view == len(self._job.views) - 1:
                features = np.stack(self._views_back.pop(key))
                self._connection.send(
                    ClipDone(key, features, self._busy_seconds, self._waited_seconds)
                )
        self._launched = None


class _Pinned:
    """Page-locked memory that the GPU can read directly; it must stay mapped until `undo`."""

    def __init__(self, memory: npt.NDArray[np.uint8], device: torch.device) -> None:
        self.memory = memory
        self._runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        result = self._runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)
        self._is_locked = int(result) == 0
        if not self._is_locked:
            log.warning("memory could not be locked (CUDA error %s): uploads are slower", result)
            with suppress(RuntimeError):  # clear the error, or CUDA reports it to a later call
                torch.zeros(1, device=device)

    def undo(self) -> None:
        if self._is_locked:
            torch.cuda.synchronize()
            self._runtime.cudaHostUnregister(self.memory.ctypes.data)
            self._is_locked = False


def _join(values: Iterable[str]) -> str:
    """The value if all are equal, otherwise all of them joined by plus signs."""
    every = list(values)
    return every[0] if len(set(every)) == 1 else "+".join(every)


def _is_done(event: torch.cuda.Event | None) -> bool:
    return event is None or bool(event.query())  # type: ignore[no-untyped-call]


def _wait(event: torch.cuda.Event | None) -> None:
    if event is not None:
        event.synchronize()


def device_name(device: torch.device) -> str:
    """A device's name as feature files record it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"
