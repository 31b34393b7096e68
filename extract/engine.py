"""The extraction engine: clips from a reader, through the device, into feature files.

One thread reads the videos one after the other and keeps a few clips ahead; the calling thread
uploads each clip once, cuts its views there, and runs batches that mix clips of several videos.
Batches always have one shape, padded at the very end, so that a feature never depends on what else
was in its batch. A video's clip features lie in a nameless temporary file until its length is
known; memory does not grow with it. Legend: B views in a batch, V views, D = T x C features.
"""

import errno
import logging
import platform
import queue
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from extract.backbones import PRECISIONS, Backbone
from extract.clips import ClipGrid
from extract.decoder import VideoError
from extract.errors import FailedVideo, UserError
from extract.reader import Clip, Finished, ReadingOptions, Restart, SourceVideo, read_video
from extract.segments import pool_clips, segment_ranges
from extract.spec import FeatureSpec
from extract.store import VideoFeatures, feature_path, write_features
from extract.versions import installed_versions
from extract.views import cut_views
from extract.weights import Weights

PREFETCH_CLIPS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extracted:
    """A video whose feature file is written."""

    video: str
    num_frames: int
    num_damaged: int
    num_frames_container: int
    decoder: str


@dataclass(frozen=True)
class Engine:
    """A network on a device, and everything a feature file says of how it was made."""

    network: nn.Module
    backbone: Backbone
    weights: Weights
    spec: FeatureSpec
    views: tuple[str, ...]
    device: torch.device
    precision: str
    decoder: str = "auto"
    keep_clips: bool = False
    batch_size: int = 1
    """Clip-views the network sees at once."""

    def extract(
        self,
        videos: Sequence[SourceVideo],
        store: Path,
        on_clip: Callable[[int], None] = lambda num_frames: None,
    ) -> Iterator[Extracted | FailedVideo]:
        """Write the feature files of videos; yield what became of each, as it is known.

        Args:
            videos: what to read, in this order.
            store: folder of feature files.
            on_clip: told the number of new frames whenever a clip went through the network.

        Raises:
            OSError: a feature file could not be written; those before it are whole.
        """
        grid = ClipGrid(self.spec.clip_frames, self.spec.clip_stride)
        options = ReadingOptions(grid, self.spec.short_side, self.decoder)
        batch = _Batch(self, on_clip)
        open_videos: list[_OpenVideo] = []
        with prefetch(_read_all(videos, options), PREFETCH_CLIPS) as messages:
            for video, message in messages:
                if isinstance(message, VideoError):
                    open_videos = [other for other in open_videos if other.source is not video]
                    yield FailedVideo(
                        video.name, message.reason, message.decoder, message.frame_index
                    )
                elif isinstance(message, Restart):
                    open_videos = [other for other in open_videos if other.source is not video]
                elif isinstance(message, Clip):
                    if not open_videos or open_videos[-1].source is not video:
                        open_videos.append(_OpenVideo(video, self, store))
                    batch.add(open_videos[-1], message)
                else:
                    open_videos[-1].finished = message
                yield from self._write_complete(open_videos, store)
            batch.flush()
            yield from self._write_complete(open_videos, store)

    def _write_complete(
        self, open_videos: list["_OpenVideo"], store: Path
    ) -> Iterator[Extracted | FailedVideo]:
        """Write and close the videos of which every clip has come back from the device."""
        while open_videos and open_videos[0].is_complete:
            yield self._write(open_videos.pop(0), store)

    def _write(self, video: "_OpenVideo", store: Path) -> Extracted | FailedVideo:
        finished = video.finished
        if finished is None:
            raise RuntimeError(f"{video.source.name} was closed before its end")
        features = self._pool(video, finished)
        if not np.isfinite(features.features).all():
            reason = f"features overflow {features.features.dtype}: use --precision fp32"
            return FailedVideo(video.source.name, reason, finished.decoder, 0)
        try:
            write_features(feature_path(store, video.source.name), features)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return FailedVideo(video.source.name, f"{error.filename}: {error.strerror}")
        return Extracted(
            video.source.name,
            features.num_frames_decoded,
            finished.num_damaged,
            features.num_frames_container,
            finished.decoder,
        )

    def _pool(self, video: "_OpenVideo", finished: Finished) -> VideoFeatures:
        num_frames = len(finished.edges) - 1
        clip_frames = ClipGrid(self.spec.clip_frames, self.spec.clip_stride).frame_ranges(
            num_frames
        )
        clip_features = video.clip_features()
        segment_frames = segment_ranges(num_frames, self.spec.num_segments)
        segments_SVD = pool_clips(clip_features, clip_frames, segment_frames)
        time_positions, channels = self.feature_layout
        return VideoFeatures(
            features=np.ascontiguousarray(segments_SVD.transpose(1, 0, 2)),
            segment_frames=segment_frames,
            segment_seconds=finished.edges[segment_frames],
            clip_features=np.array(clip_features) if self.keep_clips else None,
            clip_frames=clip_frames if self.keep_clips else None,
            views=self.views,
            spec=self.spec,
            time_positions=time_positions,
            channels=channels,
            weights_name=self.weights.name,
            weights_trained=self.weights.trained,
            precision=self.precision,
            device=_device_name(self.device),
            decoder=finished.decoder,
            video=finished.identity,
            fps=finished.info.fps,
            width=finished.info.width,
            height=finished.info.height,
            num_frames_container=finished.info.num_frames_container,
            num_frames_decoded=num_frames,
            num_frames_damaged=finished.num_damaged,
            versions=installed_versions(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def feature_layout(self) -> tuple[int, int]:
        """(time positions, channels) of the features that are stored."""
        time_positions, channels = self.backbone.layout[self.spec.endpoint]
        return (1 if self.spec.time_pool == "mean" else time_positions), channels

    @property
    def torch_precision(self) -> torch.dtype:
        """What the network computes in."""
        return PRECISIONS[self.precision]

    @property
    def storage_dtype(self) -> type[np.floating]:
        """float32 where it was asked for; the 16 bits of float16 hold what bf16 computes too."""
        return np.float32 if self.precision == "fp32" else np.float16

    def run(self, views: torch.Tensor) -> npt.NDArray[np.floating]:
        """(B, D) features in the storage dtype of views (B, 3, 64, 224, 224) uint8."""
        # TensorFloat-32 keeps 10 of float32's 23 bits, and is on by default.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            try:
                features_BTC = self.network(self.backbone.normalise(views, self.torch_precision))
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{self.device} has no memory for batches of {self.batch_size} clip-views: "
                    f"use a smaller --batch-size"
                ) from error
        if self.spec.time_pool == "mean":
            features_BTC = features_BTC.mean(dim=1, keepdim=True)
        features: npt.NDArray[np.float32] = features_BTC.flatten(1).cpu().numpy()
        with np.errstate(over="ignore"):  # found, and named, when the video is written
            return features.astype(self.storage_dtype)


class _OpenVideo:
    """A video on its way through the device; its clip features so far, in a nameless file."""

    def __init__(self, source: SourceVideo, engine: Engine, store: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        self.source = source
        self.finished: Finished | None = None
        self.num_sent = 0
        self._num_back = 0
        time_positions, channels = engine.feature_layout
        self._shape = len(engine.views), time_positions * channels
        self._dtype = np.dtype(engine.storage_dtype)
        self._file = tempfile.TemporaryFile(dir=store)  # noqa: SIM115  (closed with this object)
        weakref.finalize(self, self._file.close)

    def append(self, view_features: npt.NDArray[np.floating]) -> None:
        """The features (D,) of the next view; views come back in the order they were sent."""
        self._file.write(view_features.tobytes())
        self._num_back += 1

    @property
    def is_complete(self) -> bool:
        return self.finished is not None and self._num_back == self.num_sent

    def clip_features(self) -> npt.NDArray[np.floating]:
        """(n_clips, V, D), mapped from the file."""
        self._file.flush()
        return np.memmap(
            self._file, self._dtype, "r", shape=(self.num_sent // self._shape[0], *self._shape)
        )


class _Batch:
    """The fixed-shape batch on the device that clips of several videos fill together."""

    def __init__(self, engine: Engine, on_clip: Callable[[int], None]) -> None:
        self._engine = engine
        self._on_clip = on_clip
        self._views: list[torch.Tensor] = []
        self._owners: list[_OpenVideo] = []

    def add(self, video: _OpenVideo, clip: Clip) -> None:
        """Send a clip's views; run the network as often as a batch is full."""
        pixels = torch.from_numpy(clip.pixels).to(self._engine.device, non_blocking=True)
        for view in cut_views(pixels, self._engine.views):
            self._views.append(view)
            self._owners.append(video)
            video.num_sent += 1
            if len(self._views) == self._engine.batch_size:
                self.flush()
        self._on_clip(self._engine.spec.clip_stride)

    def flush(self) -> None:
        """Run what is there, padded to the one shape."""
        if not self._views:
            return
        padding = self._engine.batch_size - len(self._views)
        views = torch.stack(self._views + self._views[-1:] * padding)
        for video, features in zip(self._owners, self._engine.run(views), strict=False):
            video.append(features)
        self._views.clear()
        self._owners.clear()


Message = Clip | Restart | Finished | VideoError


def _read_all(
    videos: Iterable[SourceVideo], options: ReadingOptions
) -> Iterator[tuple[SourceVideo, Message]]:
    for video in videos:
        try:
            for message in read_video(video, options):
                yield video, message
        except VideoError as error:
            yield video, error
        except Exception as error:  # whatever is in one file, the others are to be extracted
            log.debug("%s", video.name, exc_info=True)
            yield video, VideoError(f"unexpected {type(error).__name__}: {error}")


@dataclass
class _Queue:
    """What the two threads of `prefetch` share."""

    items: queue.Queue[Any]
    stopped: threading.Event = field(default_factory=threading.Event)

    def put(self, item: object) -> bool:
        """Wait for room; False once nobody wants the item any more."""
        while not self.stopped.is_set():
            try:
                self.items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


Item = TypeVar("Item")
_END = object()


@contextmanager
def prefetch(items: Iterator[Item], size: int) -> Iterator[Iterator[Item]]:
    """Run an iterator in a thread, at most ``size`` items ahead, and stop it with the block.

    What the iterator raises is raised to whoever takes the items.
    """
    shared = _Queue(queue.Queue(size))

    def produce() -> None:
        try:
            for item in items:
                if not shared.put(item):
                    return
            shared.put(_END)
        except BaseException as error:
            shared.put(error)

    def consume() -> Iterator[Item]:
        while (item := shared.items.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=produce, name="vigil-reader", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        shared.stopped.set()
        thread.join()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"
