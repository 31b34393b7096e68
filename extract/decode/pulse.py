"""A worker's heartbeat and progress, in memory shared with the process that watches it."""

import ctypes
from multiprocessing import get_context

from vigil.extract.decode.decoder_table import DECODER_NAMES


class Pulse:
    """A worker's heartbeat and progress, which can still be read after the worker has died."""

    def __init__(self) -> None:
        """Share the memory with processes that are spawned with this object."""
        self._values = get_context("spawn").RawArray(ctypes.c_int64, 4)

    def begin(self) -> None:
        """Reset the progress for another task."""
        self._values[1:] = [0, 0, 0]

    def beat(self) -> None:
        """Record a heartbeat: a step is done that will not be repeated."""
        self._values[0] += 1

    @property
    def num_beats(self) -> int:
        """Number of heartbeats so far."""
        return self._values[0]

    @property
    def num_frames(self) -> int:
        """Number of frames decoded since the video, or the part of it, was started."""
        return self._values[1]

    @num_frames.setter
    def num_frames(self, number: int) -> None:
        self._values[1] = number
        self.beat()

    @property
    def decoder(self) -> str:
        """Name of the decoder at work; empty: none was chosen yet."""
        index = self._values[2]
        return DECODER_NAMES[index] if index else ""

    @decoder.setter
    def decoder(self, name: str) -> None:
        self._values[2] = DECODER_NAMES.index(name)
        self.num_frames = 0

    @property
    def is_waiting(self) -> bool:
        """Whether the worker is only waiting until a clip is read."""
        return bool(self._values[3])

    @is_waiting.setter
    def is_waiting(self, value: bool) -> None:
        self._values[3] = value
