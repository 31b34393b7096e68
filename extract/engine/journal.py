"""Clip features of a video in progress, as records in a file that may outlive its run.

A short video's file has no name. A long one's is a journal: the next run of the same command takes
over its records. A record is whole or not there: it has a checksum, and is dropped if that is
wrong. A journal begins with everything that a feature depends on; if anything differs, none of it
is used. A static clip has a record that holds nothing: its features are those of the last clip
before it that has some. Legend: V views, D values of a feature.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import struct
import weakref
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from vigil.extract.engine.device import DeviceReady
from vigil.extract.files import replace_file, temporary_file, write_at
from vigil.extract.networks.weights import Weights
from vigil.extract.segments import ClipFeatures
from vigil.extract.spec import FeatureSpec
from vigil.extract.versions import installed_versions

JOURNAL_SUFFIX = ".clips"
JOURNAL_CLIPS = 256
"""Videos of more clips have a journal: 9 minutes at 30 frames a second."""
HEAD = struct.Struct("<III")
"""Of a record: CRC-32 of what follows, CRC-32 of the reading's name, clip index."""
NO_RECORD = b"\xff" * HEAD.size
STATIC = " static"
"""Behind the name of a reading, it makes the one under which its static clips are recorded."""

log = logging.getLogger(__name__)


def journal_path(store: Path, video: str) -> Path:
    """Return where the journal of a video is, if it has one."""
    return store / f".{hashlib.sha256(os.fsencode(video)).hexdigest()[:16]}{JOURNAL_SUFFIX}"


def remove_journals(store: Path, videos: Iterable[str]) -> None:
    """Remove the journals of finished videos, if a run was killed just before it could do so."""
    finished = {journal_path(store, video) for video in videos}
    for path in finished.intersection(store.glob(f".*{JOURNAL_SUFFIX}")):
        path.unlink()


def journal_header(
    video: str,
    size_and_time: tuple[int, int] | None,
    spec: FeatureSpec,
    weights: Weights,
    views: tuple[str, ...],
    dtype: type[np.floating],
    computed: DeviceReady,
    batch_size: int,
) -> bytes:
    """Return the first line of a video's journal: what its features depend on.

    ``size_and_time`` are those of the video before it was opened, None if it could not be read.
    """
    kinds = {re.sub(r"^(\w+):\d+", r"\1", name) for name in computed.name.split(", ")}
    content = {
        "format": "vigil-clips 1",
        "video": video,
        "video_bytes_and_modified_ns": size_and_time,
        "spec_digest": spec.digest,
        "weights": [weights.name, weights.digest],
        "views": views,
        "dtype": np.dtype(dtype).str,
        "precision": computed.precision,
        "rung": computed.rung,
        "devices": sorted(kinds),
        "batch_size": batch_size,
        "versions": installed_versions(),
    }
    return json.dumps(content, sort_keys=True).encode() + b"\n"


class Journal:
    """The clip features of one video, by reading and clip index.

    A reading is the way in which the video is decoded. Features of two readings may differ, so each
    has records of its own.
    """

    def __init__(self, store: Path, video: str, shape: tuple[int, int], dtype: np.dtype) -> None:
        """Start without records and without a name; clips have the shape (V, D)."""
        self.path = journal_path(store, video)
        self.is_named = False
        self._video, self._shape, self._dtype = video, shape, dtype
        self._record_size = HEAD.size + shape[0] * shape[1] * dtype.itemsize
        self._start = self._num_records = 0
        self._records: dict[int, dict[int, int]] = {}
        """Reading -> clip index -> number of the record."""
        self._free: list[int] = []
        """Numbers of records that are damaged or void."""
        self._file: IO[bytes] | None = None

    def resume(self, header: bytes) -> bool:
        """Take over the records of an earlier run; if they are of no use, remove them."""
        with self.path.open("rb") as file:
            is_ours = file.readline(len(header)) == header
        if not is_ours:
            log.info(
                "%s: clips of an earlier run are of no use (other settings or another version of "
                "the video): removed",
                self._video,
            )
            self.path.unlink()
            return False
        self._name(self._open(self.path), len(header))
        self._scan()
        return True

    def keep(self, header: bytes) -> None:
        """Give the file a name, so that it outlives this run."""
        with self._says_what(), replace_file(self.path) as partial, partial.open("wb") as named:
            named.write(header)
            if self._file is not None:
                self._file.seek(0)
                shutil.copyfileobj(self._file, named)
        self._name(self._open(self.path), len(header))

    def remove(self) -> None:
        """Remove the file's name, if it has one: its records are not needed any more."""
        if self.is_named:
            self.path.unlink(missing_ok=True)

    def clips_of(self, reading: str) -> dict[int, int]:
        """The computed clips of a reading, and the number of each one's record."""
        return self._records.setdefault(zlib.crc32(reading.encode()), {})

    def static_clips_of(self, reading: str) -> dict[int, int]:
        """The static clips of a reading, and the number of each one's record."""
        return self.clips_of(reading + STATIC)

    def put_static(self, reading: str, clip_index: int) -> None:
        """Store that a clip is static.

        Raises:
            OSError: the disk is full, for example.
        """
        if clip_index not in self.static_clips_of(reading):
            self.put(reading + STATIC, clip_index, np.zeros(self._shape, self._dtype))

    def put(self, reading: str, clip_index: int, features: npt.NDArray[np.floating]) -> None:
        """Store a clip's features (V, D).

        Raises:
            OSError: the disk is full, for example.
        """
        content = features.astype(self._dtype).tobytes()
        known = HEAD.pack(0, zlib.crc32(reading.encode()), clip_index)[4:] + content
        number = self._free.pop() if self._free else self._num_records
        with self._says_what():
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._closed_with_self(temporary_file(self.path.parent))
            write_at(self._file, struct.pack("<I", zlib.crc32(known)) + known, self._place(number))
        self._num_records = max(self._num_records, number + 1)
        self.clips_of(reading)[clip_index] = number

    def forget(self, reading: str) -> None:
        """Make the records of a reading void, for this run and for later ones."""
        computed, static = self.clips_of(reading), self.static_clips_of(reading)
        numbers = [*computed.values(), *static.values()]
        computed.clear()
        static.clear()
        with self._says_what():
            for number in numbers:
                if self._file is not None:
                    write_at(self._file, NO_RECORD, self._place(number))
        self._free += numbers

    def features(self, reading: str) -> ClipFeatures:
        """The clip features of a complete reading."""
        computed, numbers = self.clips_of(reading), list[int]()
        for index in range(len(computed) + len(self.static_clips_of(reading))):
            numbers.append(computed[index] if index in computed else numbers[-1])
        return _Clips(self, tuple(numbers), (len(numbers), *self._shape), self._dtype)

    def load(self, number: int) -> npt.NDArray[np.floating]:
        """The features (V, D) in a record."""
        if self._file is None:
            raise RuntimeError(f"{self._video} has no clips")
        content = os.pread(self._file.fileno(), self._record_size, self._place(number))
        return np.frombuffer(content, self._dtype, offset=HEAD.size).reshape(self._shape)

    def _scan(self) -> None:
        """Find the records whose checksums are right."""
        with self.path.open("rb") as file:
            file.seek(self._start)
            while len(record := file.read(self._record_size)) == self._record_size:
                crc, reading, clip_index = HEAD.unpack_from(record)
                if zlib.crc32(memoryview(record)[4:]) == crc:
                    self._records.setdefault(reading, {})[clip_index] = self._num_records
                else:
                    self._free.append(self._num_records)
                self._num_records += 1

    def _place(self, number: int) -> int:
        return self._start + number * self._record_size

    def _name(self, file: IO[bytes], start: int) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._start, self.is_named = file, start, True

    def _open(self, path: Path) -> IO[bytes]:
        return self._closed_with_self(path.open("r+b", buffering=0))

    def _closed_with_self(self, file: IO[bytes]) -> IO[bytes]:
        weakref.finalize(self, file.close)
        return file

    @contextmanager
    def _says_what(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = f"the clip features of {self._video}, kept in {self.path.parent}"
            raise


@dataclass(frozen=True, eq=False)
class _Clips:
    """Clip features (n_clips, V, D) in a journal; only the requested ones are loaded."""

    journal: Journal
    numbers: tuple[int, ...]
    """Of the clips' records."""
    shape: tuple[int, int, int]
    dtype: np.dtype[np.floating]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, clips: slice, /) -> npt.NDArray[np.floating]:
        return np.stack([self.journal.load(number) for number in self.numbers[clips]])
