"""The seats of a cluster, and what the driver needs of whatever runs its processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Seat:
    """A device of a node, with its share of the node's cores; an engine runs on it."""

    name: str
    host: str
    """Name or address of the node, for messages."""
    node: str
    device: str
    """cpu or cuda."""
    num_cores: int


class SeatLost(Exception):  # noqa: N818  (it may be nobody's error)
    """Nothing more will come from a seat.

    Attributes:
        is_certain: its process has ended; otherwise it is out of reach, and may be at work.
    """

    def __init__(self, reason: str, is_certain: bool) -> None:
        """Store the reason, in a few words."""
        self.is_certain = is_certain
        super().__init__(reason)


class Nodes(Protocol):
    """The nodes of a cluster, and the engines that were started on their seats."""

    def seats(self) -> list[Seat]:
        """The seats of the nodes that are there now."""

    def start(self, seat: Seat) -> None:
        """Start a `NodeEngine` on a seat; whether it succeeds shows when it is called."""

    def share(self, content: bytes) -> Any:
        """What stands for bytes in calls, so that each node gets them once."""

    def call(self, seat: Seat, method: str, *arguments: Any) -> Any:
        """Call a method of the engine on a seat; returns the call, for `wait` and `result`."""

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """The calls that have been answered, as soon as there are any, or after a time."""

    def result(self, call: Any, seat: Seat) -> Any:
        """The answer to a call.

        Raises:
            SeatLost: there is none, and will be none.
        """

    def end(self, seat: Seat) -> None:
        """Kill the engine on a seat, if there is one."""

    def close(self) -> None:
        """End all engines and leave the cluster."""
