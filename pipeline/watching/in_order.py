"""Lets what comes in any order leave in the order in which it was announced, by camera."""

from collections import OrderedDict, defaultdict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class InOrder(Generic[Value]):
    """For each camera, a line of names, each with its value as soon as that has come."""

    def __init__(self) -> None:
        """Start with empty lines."""
        self._lines: defaultdict[str, OrderedDict[str, Value | None]] = defaultdict(OrderedDict)

    @property
    def num_waiting(self) -> int:
        """Number of values that wait for earlier ones."""
        lines = self._lines.values()
        return sum(value is not None for line in lines for value in line.values())

    def announce(self, camera: str, name: str) -> None:
        """Put a name at the end of a camera's line."""
        self._lines[camera][name] = None

    def come(self, camera: str, name: str, value: Value | None) -> list[Value]:
        """Note the value of a name; None: it will have none, and leaves the line.

        Returns:
            The values that may leave now, in order.
        """
        line = self._lines[camera]
        if value is None:
            line.pop(name, None)
        else:
            line[name] = value
        free: list[Value] = []
        while line and (first := next(iter(line.values()))) is not None:
            free.append(first)
            line.popitem(last=False)
        if not line:
            del self._lines[camera]
        return free
