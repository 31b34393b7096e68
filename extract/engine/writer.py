"""The single thread that writes feature files, parallel to decoding and computing."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np

from vigil.extract.engine.assembly import OpenVideo
from vigil.extract.engine.device import DeviceReady
from vigil.extract.errors import FailedVideo
from vigil.extract.files import NAME_ERRNOS
from vigil.extract.store import VideoFeatures, feature_path, write_features

MAX_WAITING = 4
"""Videos that may wait for the disk before the other stages have to wait as well."""


@dataclass(frozen=True)
class Extracted:
    """A video whose feature file is written."""

    video: str
    features: VideoFeatures
    """The file's metadata, as returned by `extract.store.read_identity`; the arrays are empty."""


class Writer:
    """Pool and write videos one after another; a message on a connection follows each."""

    def __init__(self, store: Path) -> None:
        """Start the thread."""
        self.store = store
        self.waited_seconds = 0.0
        """How long `submit` had to wait for the disk."""
        self.connection, self._signal = Pipe(duplex=False)
        self._thread = ThreadPoolExecutor(1, "vigil-writer")
        self._futures: deque[Future[Extracted | FailedVideo]] = deque()

    def close(self) -> None:
        """End the thread; a file that is being written is finished, others are dropped."""
        self._thread.shutdown(cancel_futures=True)
        self.connection.close()
        self._signal.close()

    def submit(self, video: OpenVideo, computed: DeviceReady) -> None:
        """Queue a complete video for writing; wait if the disk is too far behind."""
        future = self._thread.submit(_write, self.store, video, computed)
        self._futures.append(future)
        future.add_done_callback(lambda _: self._signal.send(None))
        if len(self._futures) > MAX_WAITING:
            started = time.perf_counter()
            wait([self._futures[-MAX_WAITING - 1]])
            self.waited_seconds += time.perf_counter() - started

    def receive(self) -> Extracted | FailedVideo:
        """The outcome of the next video; call it after a message on the connection.

        Raises:
            OSError: it could not be written.
        """
        self.connection.recv()
        return self._futures.popleft().result()

    @property
    def num_waiting(self) -> int:
        """Videos that `receive` has not returned yet."""
        return len(self._futures)


def _write(store: Path, video: OpenVideo, computed: DeviceReady) -> Extracted | FailedVideo:
    outcome = _pool_and_write(store, video, computed)
    video.journal.remove()
    return outcome


def _pool_and_write(
    store: Path, video: OpenVideo, computed: DeviceReady
) -> Extracted | FailedVideo:
    features = video.pool(computed)
    name, decoder = video.source.name, features.decoder
    if not np.isfinite(features.features).all():
        reason = f"features overflow {features.features.dtype}: compute in fp32"
        return FailedVideo(name, reason, decoder, 0)
    path = feature_path(store, name)
    video.finish_album()
    try:
        write_features(path, features)
    except OSError as error:
        if error.errno not in NAME_ERRNOS:
            raise
        return FailedVideo(name, f"{path} cannot be written ({error.strerror}): rename the video")
    empty = features.features[:0].copy()
    without = replace(features, features=empty, clip_features=None, frame_seconds=None)
    return Extracted(name, without)
