"""Files of JSON lines that grow: each line is whole, on the disk, and there once."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vigil.extract.files import make_folder, sync, write_at

MAX_BYTES = 64 << 20
KEPT_FILES = 8
TAIL_BYTES = 1 << 20
"""No line is longer."""


class JsonLines:
    """A file that one thread at a time appends to."""

    def __init__(
        self,
        path: Path,
        key: Sequence[str],
        max_bytes: int = MAX_BYTES,
        kept_files: int = KEPT_FILES,
    ) -> None:
        """Describe it.

        Args:
            path: ``events.jsonl``; older ones become ``events.1.jsonl``, ``events.2.jsonl``, ...
            key: the fields by which two lines are the same.
            max_bytes: size at which the next line begins a new file.
            kept_files: number of older files that are kept.
        """
        self.path = path
        self._key = key
        self._max_bytes = max_bytes
        self._kept_files = kept_files

    def append(self, line: Mapping[str, Any]) -> None:
        """Append a line, unless it is the last one already, and wait until it is on the disk.

        Whoever is killed before he has noted that, may do it again.

        Raises:
            OSError: the disk is full, for example. Then no part of the line is in the file.
        """
        content = json.dumps(line, allow_nan=False).encode() + b"\n"
        make_folder(self.path.parent)
        if self._is_last(line):
            return
        if self.path.exists() and self.path.stat().st_size >= self._max_bytes:
            self._rotate()
        is_new = not self.path.exists()
        with self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                write_at(file, content, size)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        if is_new:
            sync(self.path.parent)

    def _is_last(self, line: Mapping[str, Any]) -> bool:
        """Whether the file ends with the line; what a kill left of another one is removed."""
        try:
            with self.path.open("r+b", buffering=0) as file:
                last = _last_line(file)
        except FileNotFoundError:
            return False
        try:
            found = json.loads(last)
            return bool(found) and all(found[name] == line[name] for name in self._key)
        except (ValueError, TypeError, KeyError):  # not a line of ours
            return False

    def _rotate(self) -> None:
        """Give every file the next number; a kill in between leaves a gap, which is harmless."""
        names = [self.path]
        names += [
            self.path.with_suffix(f".{number}{self.path.suffix}")
            for number in range(1, self._kept_files + 1)
        ]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)
        sync(self.path.parent)


def _last_line(file: IO[bytes]) -> bytes:
    """The last whole line; anything after it is cut off."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - TAIL_BYTES)
    file.seek(start)
    tail = file.read()
    whole = tail[: tail.rfind(b"\n") + 1]
    if len(whole) < len(tail):
        file.truncate(start + len(whole))
    return whole[:-1].rpartition(b"\n")[2]
