"""Packets of a stream that are set aside for a clip, before they are overwritten in their ring."""

import math
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from vigil.extract.decode.live_copy import Cluster, LiveCopy
from vigil.extract.files import partial_path


class KeptPackets:
    """The packets of a piece that are in its ring."""

    def __init__(self) -> None:
        """Begin a piece."""
        self.problem = ""
        """Why none, or no more, can be kept."""
        self.reached = -math.inf
        """When the newest of them begin, in seconds of the piece."""
        self._clusters: deque[tuple[LiveCopy, Cluster]] = deque()

    @property
    def num_bytes(self) -> int:
        """How much is there."""
        return sum(one.num_bytes for _, one in self._clusters)

    def add(self, copy: LiveCopy) -> None:
        """Note the next packets, and forget those whose place they took."""
        self.problem = self.problem or copy.problem
        self._clusters.extend((copy, cluster) for cluster in copy.clusters)
        if copy.clusters and copy.ring is not None:
            newest = copy.clusters[-1]
            self.reached = newest.seconds
            end = newest.place + newest.num_bytes
            while self._clusters and end - self._clusters[0][1].place > copy.ring.num_bytes:
                self._clusters.popleft()

    def place_before(self, seconds: float) -> int | None:
        """The place of the last key frame by a time, else of the oldest packets; None: of none."""
        place = self._clusters[0][1].place if self._clusters else None
        for _, one in self._clusters:
            if one.key_seconds is not None and one.key_seconds <= seconds:
                place = one.place
        return place

    def between(self, place: int, seconds: float) -> Iterator[tuple[LiveCopy, Cluster]]:
        """Yield the clusters from a place on that begin before a time."""
        for copy, cluster in self._clusters:
            if cluster.seconds >= seconds:
                return
            if cluster.place >= place:
                yield copy, cluster


class SetAside:
    """The packets around an event, in a hidden file; a kill leaves it, and the next run removes it.

    It is a Matroska file whose times are seconds of the piece.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.path: Path | None = None
        self.is_described = True
        """Whether its header describes the pictures."""
        self.has_gap = False
        """Whether packets were overwritten before they could be set aside."""
        self._file: IO[bytes] | None = None
        self._next: int | None = None
        """Place of the packets that follow."""

    def extend(
        self, packets: KeptPackets, start: float, stop: float, folder: Callable[[], Path]
    ) -> None:
        """Add the packets up to a time.

        Args:
            packets: those that there are.
            start: the first to be set aside are those from the last key frame by this time on.
            stop: in seconds of the piece, too.
            folder: makes the folder of the file.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        if self._next is None:
            self._next = packets.place_before(start)
        for copy, cluster in packets.between(self._next or 0, stop):
            assert copy.ring is not None  # in this process
            if self._next is not None and cluster.place > self._next:
                self.has_gap = True  # those between are forgotten already
            self._next = cluster.place + cluster.num_bytes
            content = copy.ring.read(cluster.place, cluster.num_bytes)
            if content is None:
                self.has_gap = True
                continue
            if self._file is None:
                self.path = partial_path(folder() / uuid.uuid4().hex)
                self._file = self.path.open("wb")
                self._file.write(copy.header)
                self.is_described = copy.is_described
            self._file.write(content)

    def close(self) -> None:
        """Write what is held back.

        Raises:
            OSError: the disk is full.
        """
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Remove the file."""
        if self.path is not None:
            with suppress(OSError):
                self.close()
            self.path.unlink(missing_ok=True)
