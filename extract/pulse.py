"""A worker's signs of life, in memory that it shares with the process that watches it."""

import ctypes
from multiprocessing import get_context


class Pulse:
    """What a worker is at: written by the worker, and still to be read when it is gone."""

    def __init__(self) -> None:
        """Share the memory with processes that are spawned with this object."""
        self._values = get_context("spawn").RawArray(ctypes.c_int64, 4)

    def begin(self) -> None:
        """Another task, of which nothing is known yet."""
        self._values[1:] = [0, 0, 0]

    def beat(self) -> None:
        """A sign of life: something is done that will not be done again."""
        self._values[0] += 1

    @property
    def num_beats(self) -> int:
        """How often there was one."""
        return self._values[0]

    @property
    def num_frames(self) -> int:
        """Frames decoded since the video, or the part of it, was begun."""
        return self._values[1]

    @num_frames.setter
    def num_frames(self, number: int) -> None:
        self._values[1] = number
        self.beat()

    @property
    def decoder(self) -> int:
        """Place of the decoder at work among `DECODERS <extract.reader>`; 0: none yet."""
        return self._values[2]

    @decoder.setter
    def decoder(self, index: int) -> None:
        self._values[2] = index
        self.num_frames = 0

    @property
    def is_waiting(self) -> bool:
        """Whether it has nothing to do but wait until a clip is read."""
        return bool(self._values[3])

    @is_waiting.setter
    def is_waiting(self, value: bool) -> None:
        self._values[3] = value
