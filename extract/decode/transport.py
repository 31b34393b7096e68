"""Which streams an MPEG transport stream holds, and where, by the identifiers of its packets."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

TS_LENGTHS = (188, 192, 204)
"""Bytes from one packet to the next."""
_SYNC = 0x47
"""First byte of each packet."""
_NUM_TRIED = 20


def extents(path: Path, identifiers: list[int]) -> list[tuple[int, int]]:
    """Return where each of some streams begins and ends, counted in packets of the file.

    A stream that does not occur begins and ends before the file.
    """
    found = _identifiers(path)
    places = [np.flatnonzero(found == identifier) for identifier in identifiers]
    return [(int(at[0]), int(at[-1])) if len(at) else (-1, -1) for at in places]


def _identifiers(path: Path) -> npt.NDArray[np.uint16]:
    """Return the identifier of every packet, in order; none if the file has another form."""
    content = np.memmap(path, np.uint8, "r")
    for length in TS_LENGTHS:
        for start in range(length):
            if (content[start : _NUM_TRIED * length : length] == _SYNC).all():
                stop = start + (len(content) - start) // length * length
                packets = content[start:stop].reshape(-1, length)
                return (packets[:, 1] & 31).astype(np.uint16) * 256 + packets[:, 2]
    return np.empty(0, np.uint16)
