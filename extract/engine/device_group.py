"""The devices that share a run's clips: one runs in a thread, several run in processes."""

import errno
import logging
import pickle
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess

from vigil.extract.decode.ring import ClipRing
from vigil.extract.engine.device import (
    ClipDone,
    ClipTaken,
    ClipWork,
    DeviceFailed,
    DeviceJob,
    DeviceReady,
    DeviceSaid,
    Flush,
    serve,
    serve_in_process,
)
from vigil.extract.processes import spawn


@dataclass(eq=False)
class _Member:
    """A device of the group, what it runs in, and the clips that it holds."""

    name: str
    connection: Connection
    runner: threading.Thread | BaseProcess
    num_clips: int = 0
    """Sent to it, and not yet returned."""
    num_unread: int = 0
    """Of these, clips that it may not have received yet."""
    is_flushed: bool = True
    """Whether it will not wait for more to compute the clips that it has."""
    ready: DeviceReady | None = None
    busy_seconds: float = 0.0
    waited_seconds: float = 0.0
    waited_at_first: float = 0.0
    """Seconds until its first clip arrived; none could have been ready before."""


MAX_UNREAD = 32
"""Clips sent to a device that it has not received: few enough for a pipe, even with a `Flush`
after each, so that sending never blocks."""

log = logging.getLogger(__name__)


class Devices:
    """Distribute clips: each one goes to the device with the fewest."""

    def __init__(self, jobs: Sequence[DeviceJob], rings: Sequence[ClipRing]) -> None:
        """Start the devices; their networks are placed while the first videos are decoded."""
        if len(jobs) == 1:
            self._devices = [_start_thread(jobs[0], rings)]
            return
        self._devices = [_start_process(job, rings) for job in jobs]
        for device, job in zip(self._devices, jobs, strict=True):
            # As bytes, because multiprocessing would pickle tensors into shared memory, which
            # containers often limit to 64 MB.
            device.connection.send_bytes(pickle.dumps(job))

    def close(self) -> None:
        """Stop the devices, even while they compute."""
        for device in self._devices:
            device.connection.close()
            if isinstance(device.runner, BaseProcess):
                device.runner.terminate()
            device.runner.join()

    @property
    def connections(self) -> list[Connection]:
        """The connections on which messages arrive."""
        return [device.connection for device in self._devices]

    @property
    def busy_seconds(self) -> float:
        """Time spent on clips, summed over the devices."""
        return sum(device.busy_seconds for device in self._devices)

    @property
    def waited_seconds(self) -> float:
        """Time without a clip after the first one, summed over the devices."""
        return sum(device.waited_seconds - device.waited_at_first for device in self._devices)

    @property
    def num_clips(self) -> int:
        """Clips that have not been returned."""
        return sum(device.num_clips for device in self._devices)

    @property
    def ready(self) -> DeviceReady:
        """Names, rungs and precisions of all devices that are ready by now."""
        ready = [device.ready for device in self._devices if device.ready is not None]

        def join(values: Iterable[str]) -> str:
            return ", ".join(sorted(set(values)))

        return DeviceReady(
            join(one.name for one in ready),
            join(one.rung for one in ready),
            join(one.precision for one in ready),
        )

    @property
    def are_ready(self) -> bool:
        """Whether every device is ready."""
        return all(device.ready is not None for device in self._devices)

    def await_all(self) -> None:
        """Wait until every device is ready; to be called before the first clip is sent.

        Raises:
            UserError, RuntimeError, ChildProcessError: as in `receive`.
        """
        while not self.are_ready:
            for device in self._devices:
                if device.ready is None:
                    self.receive(device.connection)

    @property
    def have_room(self) -> bool:
        """Whether a clip may be sent now."""
        return any(device.num_unread < MAX_UNREAD for device in self._devices)

    def send(self, work: ClipWork) -> None:
        """Send a clip to the device with the fewest clips; requires `have_room`."""
        with_room = [device for device in self._devices if device.num_unread < MAX_UNREAD]
        device = min(with_room, key=lambda device: device.num_clips)
        device.num_clips += 1
        device.num_unread += 1
        device.is_flushed = False
        _send(device, work)

    def flush(self) -> None:
        """Run partial batches, whose clips are waiting for more, when nothing else is sent."""
        for device in self._devices:
            if not device.is_flushed:
                device.is_flushed = True
                _send(device, Flush())

    def receive(self, connection: Connection) -> ClipTaken | ClipDone | None:
        """The next message of a device, None if it is handled here.

        Raises:
            UserError: the device ran out of memory.
            RuntimeError: another error on the device.
            ChildProcessError: the device's process has died.
        """
        device = next(device for device in self._devices if device.connection is connection)
        try:
            message = connection.recv()
        except (EOFError, OSError) as error:
            raise _death(device) from error
        if isinstance(message, DeviceFailed):
            raise message.error
        if isinstance(message, ClipTaken):
            device.num_unread -= 1
            return message
        if isinstance(message, ClipDone):
            if not device.busy_seconds:
                device.waited_at_first = message.waited_seconds
            device.num_clips -= 1
            device.busy_seconds = message.busy_seconds
            device.waited_seconds = message.waited_seconds
            return message
        if isinstance(message, DeviceSaid):
            logging.getLogger(message.logger).log(message.level, "%s", message.message)
        else:
            device.ready = message
            if "," in self.ready.rung + self.ready.precision:
                log.warning("not all devices compute in the same way: %s", self.ready)
        return None


def _send(device: _Member, message: ClipWork | Flush) -> None:
    # Whether a device has ended, and with which error, is noticed on receiving.
    with suppress(OSError):
        device.connection.send(message)


def _death(device: _Member) -> ChildProcessError:
    device.runner.join(1)
    code = device.runner.exitcode if isinstance(device.runner, BaseProcess) else None
    reason = f"its process has died (exit code {code}): run again to extract the remaining videos"
    return ChildProcessError(errno.ECHILD, reason, device.name)


def _start_thread(job: DeviceJob, rings: Iterable[ClipRing]) -> _Member:
    ours, theirs = Pipe()

    def run() -> None:
        with theirs:
            serve(theirs, tuple(rings), job)

    thread = threading.Thread(target=run, name="vigil-device", daemon=True)
    thread.start()
    return _Member(str(job.device), ours, thread)


def _start_process(job: DeviceJob, rings: Iterable[ClipRing]) -> _Member:
    ours, theirs = Pipe()
    process = spawn(serve_in_process, (theirs, tuple(rings)), f"vigil-{job.device}")
    theirs.close()
    return _Member(str(job.device), ours, process)
