"""Ray, behind the few calls that the driver needs. No other module imports it."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vigil.extract.errors import UserError
from vigil.pipeline.cluster.node import NodeEngine
from vigil.pipeline.cluster.seats import Seat, SeatLost

_ENDING_SECONDS = 30.0
_UNSURE_SECONDS = 10.0


class RayNodes:
    """The nodes of a Ray cluster, and the engines that were started on them."""

    def __init__(self, ray: Any, device: str, store: Path) -> None:
        """End the engines that a killed driver left at work on the same store.

        Args:
            ray: of `joined`.
            device: cuda or all, a seat for each GPU; cpu, one for each node; "cuda,cpu", the GPUs
                of nodes that have some, and the CPUs of others; auto, cuda if any node has a GPU.
            store: absolute path of the folder of features; the caller holds its lock.
        """
        self._ray = ray
        self._engines: dict[str, Any] = {}
        self._group = hashlib.sha256(os.fsencode(store)).hexdigest()[:16]
        self._device, self._num_started = device, 0
        self._end_earlier_ones()

    def close(self) -> None:
        """End all engines."""
        for engine in self._engines.values():
            self._ray.kill(engine)

    def seats(self) -> list[Seat]:
        """The seats of the nodes that are there now."""
        nodes = self._alive()
        has_gpu = any(_number(node, "GPU") for node in nodes)
        kinds = {"auto": ["cuda" if has_gpu else "cpu"], "all": ["cuda"]}
        chosen = kinds.get(self._device, self._device.split(","))
        return [seat for node in nodes for seat in _seats_of(node, chosen)]

    def start(self, seat: Seat) -> None:
        """Start an engine on a seat; whether it succeeds shows when it is called."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._num_started += 1
        self._engines[seat.name] = (
            self._ray.remote(NodeEngine)
            .options(
                name=f"{self._group}-{seat.name}-{self._num_started}",
                num_cpus=seat.num_cores,
                num_gpus=int(seat.device == "cuda"),
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(seat.node, soft=False),
            )
            .remote(seat.num_cores)
        )

    def share(self, content: bytes) -> Any:
        """What stands for bytes in calls, so that each node gets them once."""
        return self._ray.put(content)

    def call(self, seat: Seat, method: str, *arguments: Any) -> Any:
        """Call a method of the engine on a seat; returns the call, for `wait` and `result`."""
        return getattr(self._engines[seat.name], method).remote(*arguments)

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """The calls that have been answered, as soon as there are any, or after a time."""
        if not calls:
            time.sleep(seconds)
            return []
        if not self._ray.wait(list(calls), timeout=seconds)[0]:
            return []
        done: list[Any] = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]
        return done

    def result(self, call: Any, seat: Seat) -> Any:
        """The answer to a call.

        Raises:
            SeatLost: there is none, and will be none.
        """
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            raise self._lost(seat, error) from error

    def _lost(self, seat: Seat, error: Exception) -> SeatLost:
        """What an error of Ray means for a seat."""
        unavailable = self._ray.exceptions.ActorUnavailableError
        until = time.monotonic() + _UNSURE_SECONDS
        # Whether it has died is known a moment later.
        while isinstance(error, unavailable) and time.monotonic() < until:
            time.sleep(0.5)
            try:
                ready = self._engines[seat.name].__ray_ready__.remote()
                self._ray.get(ready, timeout=_UNSURE_SECONDS)
                break
            except self._ray.exceptions.RayError as later:
                error = later
        if seat.node not in {node["NodeID"] for node in self._alive()}:
            return SeatLost("its node is lost", is_certain=False)
        if isinstance(error, (unavailable, self._ray.exceptions.GetTimeoutError)):
            return SeatLost("it is out of reach", is_certain=False)
        return SeatLost(_reason(error), is_certain=True)

    def end(self, seat: Seat) -> None:
        """Kill the engine on a seat, if there is one."""
        if (engine := self._engines.pop(seat.name, None)) is not None:
            self._ray.kill(engine)

    def _alive(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _end_earlier_ones(self) -> None:
        """Kill the engines of a driver that is gone, and wait until they are gone, too."""
        until = time.monotonic() + _ENDING_SECONDS
        while names := [
            name for name in self._ray.util.list_named_actors() if name.startswith(self._group)
        ]:
            for name in names:
                try:
                    self._ray.kill(self._ray.get_actor(name))
                except ValueError:  # it has just ended
                    continue
            if time.monotonic() > until:
                raise UserError(
                    f"{len(names)} engines of an earlier run do not end: wait a minute, then run "
                    "the same command again"
                )
            time.sleep(0.2)


def _seats_of(node: dict[str, Any], kinds: Sequence[str]) -> Iterator[Seat]:
    num_cores, num_gpus = _number(node, "CPU"), _number(node, "GPU")
    name, host = node["NodeID"], node["NodeManagerAddress"]
    if "cuda" in kinds and num_gpus:
        share = max(1, num_cores // num_gpus)
        for gpu in range(num_gpus):
            yield Seat(f"{name}-{gpu}", host, name, "cuda", share)
    elif "cpu" in kinds and num_cores:
        yield Seat(name, host, name, "cpu", num_cores)


def _number(node: dict[str, Any], resource: str) -> int:
    return int(node["Resources"].get(resource, 0))


def _reason(error: Exception) -> str:
    """Why an engine's process is gone, in a line."""
    text = " ".join(str(error).split())
    if "running low on memory" in text:
        return "its process was ended because the node ran out of memory"
    if "error raised in its creation task" in text:  # such as a module that is not there
        last = str(error).strip().splitlines()[-1].strip()
        return f"its process does not start ({last[:200]}): install the same vigil there"
    _, found, detail = text.partition("Worker exit detail: ")
    return f"its process died ({(detail if found else text).partition(' Some common')[0][:200]})"
