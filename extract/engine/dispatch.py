"""The extraction engine: decode workers -> rings of clips -> devices -> feature files.

Workers decode videos into rings of shared memory; a device uploads each clip once, cuts its views
and runs them through the network in batches that mix clips of several videos; one thread writes
the files. The calling thread only passes short messages between them. Every stage waits for the
next one if that is slower, so memory grows with neither the number of videos nor their length.
"""

import itertools
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vigil.extract.decode.decoder_table import AUTO, last_resort, load_decoders
from vigil.extract.decode.parts import Part
from vigil.extract.decode.reader import ReadingOptions
from vigil.extract.decode.worker import (
    ClipReady,
    Restarted,
    SheetReady,
    StreamNews,
    Task,
    TaskFailed,
    TaskFinished,
    WasSplit,
)
from vigil.extract.engine.activity import Activity
from vigil.extract.engine.album import AlbumWriter
from vigil.extract.engine.assembly import OpenVideo, Provenance
from vigil.extract.engine.device import ClipDone, ClipTaken, ClipWork, DeviceJob
from vigil.extract.engine.device_group import Devices
from vigil.extract.engine.journal import JOURNAL_CLIPS
from vigil.extract.engine.live import LiveStreams
from vigil.extract.engine.pool import WATCH_SECONDS, WorkerDied, WorkerLimits, WorkerPool
from vigil.extract.engine.writer import Extracted, Writer
from vigil.extract.errors import FailedVideo
from vigil.extract.networks.choice import require_fit
from vigil.extract.networks.combinations import Network, feature_parts, joint_weights
from vigil.extract.networks.placement import RUNGS
from vigil.extract.networks.weights import Weights
from vigil.extract.source import CHANGED, SourceVideo, size_and_time
from vigil.extract.spec import FeatureSpec

DEATHS_FORGIVEN = 1
"""Number of worker deaths after which a video is tried again; with one more it has failed."""

IN_PARTS = "parts"
"""The reading of a video in parts: if one of them is not as promised, their clips are void."""

CAMERA_CLIPS = 3
"""After so many clips of cameras, one of a video has its turn: cameras may drop theirs."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """Networks, the devices they run on, and all settings that feature files record."""

    networks: tuple[Network, ...]
    spec: FeatureSpec
    views: tuple[str, ...]
    devices: tuple[torch.device, ...]
    precision: str
    decoder: str = AUTO
    keep_clips: bool = False
    batch_size: int = 1
    """Clip-views per batch."""
    num_workers: int | None = None
    """Decode workers; None: adapted to the devices; 0: one thread instead of processes."""
    num_cores: int | None = None
    """Cores to share with other engines; None: those that this process may use."""
    rungs: tuple[str, ...] = RUNGS
    """Forms of the network to try, best first."""
    clips_per_part: int | None = None
    """Length of the parts in which a long video is read; None: the default."""
    journal_clips: int = JOURNAL_CLIPS
    """Videos of more clips have a journal, from which the next run continues if this one is killed.
    """
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    max_damage: float = 1.0
    """Share of a video's frames, 0..1, that may be damaged."""
    thumbnails: Path | None = None
    """Folder for the albums of the videos; None: no thumbnails are taken."""

    def __post_init__(self) -> None:
        """Refuse views that a network cannot use.

        Raises:
            UserError: as `require_fit`.
        """
        require_fit([network.backbone for network in self.networks], self.views)

    def extract(
        self,
        videos: Sequence[SourceVideo],
        store: Path,
        watch: Callable[[Activity], None] = lambda activity: None,
        more: Callable[[], Sequence[SourceVideo] | None] = lambda: None,
        live: LiveStreams | None = None,
    ) -> Generator[Extracted | FailedVideo]:
        """Write the feature files of videos, the largest first; yield the outcome of each.

        Args:
            videos: to extract.
            store: folder of feature files.
            watch: called with the activity so far whenever a device returns a clip.
            more: asked about once a second for videos to extract as well, none of them in progress;
                None: there will be no more, and it is not asked again.
            live: cameras to follow beside the videos, with the same devices.

        Raises:
            OSError: a feature file could not be written; those before it are complete.
            UserError: a decoder cannot be loaded, or a device ran out of memory.
            RuntimeError: another error on a device.
        """
        load_decoders(self.decoder)
        with ExitStack() as stack:
            pool = stack.enter_context(closing(self._pool()))
            live = live or LiveStreams((), lambda *_: None)
            live.start(self._reading, self.limits, len(pool.rings), self.provenance.dtype)
            stack.enter_context(closing(live))
            rings = [*pool.rings, *live.rings]
            devices = stack.enter_context(closing(Devices(self._jobs(), rings)))
            writer = stack.enter_context(closing(Writer(store)))
            yield from _Run(self, pool, live, devices, writer, watch).extract(videos, more)

    @property
    def _reading(self) -> ReadingOptions:
        grid, short_side = self.spec.grid, self.spec.short_side
        options = ReadingOptions(
            grid,
            short_side,
            deinterlace=self.spec.deinterlace,
            frame_rate=self.spec.frame_rate,
            finds_static=self.spec.static == "skip",
            max_damage=self.max_damage,
            max_clips_bytes=self.limits.memory_bytes,
            thumbnails=self.thumbnails is not None,
        )
        if self.clips_per_part is not None:
            options = replace(options, clips_per_part=self.clips_per_part)
        return options

    def _pool(self) -> WorkerPool:
        options = self._reading
        if self.num_workers is None:
            num_cores = self.num_cores or len(os.sched_getaffinity(0))
            return WorkerPool(options, max(1, num_cores - len(self.devices)), self.limits)
        limit = max(1, self.num_workers)
        return WorkerPool(options, limit, self.limits, self.num_workers == 0, num_wanted=limit)

    def _jobs(self) -> list[DeviceJob]:
        num_sharing = sum(device.type == "cpu" for device in self.devices)
        threads = max(1, torch.get_num_threads() // num_sharing) if num_sharing > 1 else None
        return [
            DeviceJob(
                networks=self.networks,
                device=device,
                precision=self.precision,
                views=self.views,
                time_pool=self.spec.time_pool,
                batch_size=self.batch_size,
                rungs=self.rungs,
                num_threads=threads,
            )
            for device in self.devices
        ]

    @property
    def weights(self) -> Weights:
        """The weights of the networks."""
        return joint_weights(self.networks)

    @property
    def provenance(self) -> Provenance:
        """The provenance that every feature file records."""
        # float32 if requested, else float16, which also holds what bf16 computes.
        dtype = np.float32 if self.precision == "fp32" else np.float16
        parts = feature_parts(self.networks, self.spec.time_pool)
        return Provenance(
            self.spec, self.weights, self.views, parts, dtype, self.keep_clips, self.batch_size
        )


class _Run:
    """The state of one call of `Engine.extract`: queued tasks, open videos, clips in flight."""

    def __init__(
        self,
        engine: Engine,
        pool: WorkerPool,
        live: LiveStreams,
        devices: Devices,
        writer: Writer,
        watch: Callable[[Activity], None],
    ) -> None:
        self._engine, self._pool, self._live, self._devices = engine, pool, live, devices
        self._writer, self._watch = writer, watch
        self._activity = Activity(num_devices=len(engine.devices))
        self._videos: dict[str, OpenVideo] = {}
        self._tasks: dict[int, Task] = {}
        """Queued or running; messages about any other task are ignored."""
        self._clips: deque[ClipWork] = deque()
        """Decoded, and waiting for room on a device."""
        self._num_of_cameras = 0
        """Clips sent since the last one of a video."""
        self._spill_seconds = 0.0
        self._queue: deque[Task] = deque()
        self._numbers = itertools.count()

    def extract(
        self, videos: Sequence[SourceVideo], more: Callable[[], Sequence[SourceVideo] | None]
    ) -> Iterator[Extracted | FailedVideo]:
        self._add(videos)
        asked_at: float | None = -math.inf
        while (
            self._videos
            or self._writer.num_waiting
            or asked_at is not None
            or not self._live.are_over
        ):
            if asked_at is not None and time.monotonic() - asked_at >= WATCH_SECONDS:
                further = more()
                asked_at = None if further is None else time.monotonic()
                self._add(further or ())
            while self._queue and self._pool.assign(self._queue[0]):
                self._queue.popleft()
            is_idle = not self._devices.num_clips and not self._writer.num_waiting
            if self._videos and not self._tasks and is_idle:
                raise RuntimeError(f"clips of {', '.join(self._videos)} were lost")
            self._live.watch()
            sources = self._pool.connections + self._live.connections + self._devices.connections
            for connection in wait([*sources, self._writer.connection], WATCH_SECONDS):
                yield from self._handle(connection)
            self._pool.watch()

    def _add(self, videos: Sequence[SourceVideo]) -> None:
        """Queue videos, the largest first."""
        added = []
        for source in sorted(videos, key=num_bytes, reverse=True):
            video = OpenVideo(source, self._writer.store, self._engine.provenance)
            with suppress(OSError):
                video.size_and_time = size_and_time(source.path)
            if self._engine.thumbnails is not None:
                video.album = AlbumWriter(self._engine.thumbnails, source.name)
            self._videos[source.name] = video
            self._queue.append(self._task(source, may_split=self._pool.limit > 1))
            added.append(video)
        self._resume(added)

    def _resume(self, videos: Sequence[OpenVideo]) -> None:
        """Take over the journals of earlier runs, once it is known how the devices compute."""
        for video in videos:
            is_continued = False
            # If the video cannot be read now, its journal may be of use later.
            if video.size_and_time is not None and video.journal.path.exists():
                self._devices.await_all()
                with suppress(OSError):  # what cannot be read is computed again
                    is_continued = video.journal.resume(video.journal_header(self._devices.ready))
            if video.album is not None:
                video.album.begin(is_continued)

    def _task(self, source: SourceVideo, **how: Any) -> Task:
        task = Task(next(self._numbers), source, **{"decoder": self._engine.decoder, **how})
        self._tasks[task.number] = task
        return task

    def _handle(self, connection: object) -> Iterator[Extracted | FailedVideo]:
        """Handle the next message from the writer, a device or a worker."""
        if connection is self._writer.connection:
            yield self._writer.receive()
        elif connection in self._devices.connections:
            message = self._devices.receive(connection)
            if isinstance(message, ClipTaken):
                pool = self._live if self._live.is_mine(message.worker) else self._pool
                pool.release(message.worker, message.slot_index)
            elif message is not None and not self._live.keep(message):
                self._keep(message)
            self._feed_devices()
        elif connection in self._live.connections:
            self._live.receive(connection)
            self._feed_devices()
        elif connection in self._pool.connections:
            worker, news = self._pool.receive(connection)
            if isinstance(news, ClipReady):
                self._forward(worker, news)
            elif isinstance(news, SheetReady):
                self._keep_sheet(news)
            elif not (news is None or isinstance(news, StreamNews)) and news.task in self._tasks:
                yield from self._conclude(news)

    def _forward(self, worker: int, clip: ClipReady) -> None:
        """Send a clip to a device, unless it is static, or its task has been abandoned."""
        if clip.task not in self._tasks:
            self._pool.release(worker, clip.slot.index)
            return
        self._activity.num_clips_decoded += 1
        self._activity.decode_seconds += clip.decode_seconds
        task = self._tasks[clip.task]
        video = self._videos[task.video.name]
        video.begin(clip.decoder if task.part is None else IN_PARTS)
        if clip.is_static:
            started = time.perf_counter()
            video.skip(clip.clip_index)
            self._keep_journal(video)
            self._spill_seconds += time.perf_counter() - started
            self._activity.num_clips_static += 1
            self._activity.num_frames += self._engine.spec.clip_stride
        if clip.is_static or video.take(clip.clip_index, clip.clip_index + 1):
            self._pool.release(worker, clip.slot.index)
            self._activity.num_clips_kept += 1
            self._watch(self._activity)
            return
        key = video.source.name, video.attempt, clip.clip_index
        self._clips.append(ClipWork(key, worker, clip.slot))
        self._feed_devices()

    def _keep_sheet(self, news: SheetReady) -> None:
        """Store a sheet of thumbnails, unless its task has been abandoned."""
        if news.task not in self._tasks:
            return
        video = self._videos[self._tasks[news.task].video.name]
        if video.album is not None and video.reading is not None:
            started = time.perf_counter()
            video.album.put(video.reading, news.sheet)
            self._spill_seconds += time.perf_counter() - started

    def _feed_devices(self) -> None:
        while self._devices.have_room and (clip := self._next_clip()):
            self._devices.send(clip)
        if not self._clips and (not self._tasks or not self._live.are_over):
            self._devices.flush()

    def _next_clip(self) -> ClipWork | None:
        """The next clip for a device: of a camera, or of a video, which have their turns."""
        # Beside cameras, devices get no more than they can begin with: clips of cameras must not
        # wait there behind others, and as long as they wait here, they may be dropped.
        if not self._live.are_over and self._devices.num_clips > self._num_at_once:
            return None
        is_turn_of_cameras = self._num_of_cameras < CAMERA_CLIPS or not self._clips
        if is_turn_of_cameras and (clip := self._live.next_clip()):
            self._num_of_cameras += 1
            return clip
        self._num_of_cameras = 0
        return self._clips.popleft() if self._clips else None

    @property
    def _num_at_once(self) -> int:
        """Clips that fill the batches of all devices; with one more, at least one batch runs.

        Rounded up, because a device may have run some views of its first clip already.
        """
        engine = self._engine
        return -(-engine.batch_size // len(engine.views)) * len(engine.devices)

    def _keep(self, clip: ClipDone) -> None:
        """Store a clip's features, and update how many workers the devices need."""
        activity = self._activity
        activity.num_frames += self._engine.spec.clip_stride
        activity.num_clips += 1
        activity.busy_seconds = self._devices.busy_seconds
        activity.waited_seconds = self._devices.waited_seconds
        activity.disk_seconds = self._writer.waited_seconds + self._spill_seconds
        activity.num_workers = self._pool.num_running
        if self._engine.num_workers is None:
            self._pool.num_wanted = activity.workers_needed
        name, attempt, clip_index = clip.key
        video = self._videos.get(name)
        is_kept = video is not None and video.attempt == attempt
        activity.num_clips_kept += is_kept
        self._watch(activity)
        if video is not None and is_kept:
            started = time.perf_counter()
            video.put(clip_index, clip.features)
            self._keep_journal(video)
            self._spill_seconds += time.perf_counter() - started
            self._write_if_complete(video)

    def _keep_journal(self, video: OpenVideo) -> None:
        """Let the clips of a video outlive this run, if it turns out to be long."""
        is_long = video.num_clips_back > self._engine.journal_clips
        if is_long and not video.journal.is_named and self._devices.are_ready:
            video.journal.keep(video.journal_header(self._devices.ready))

    def _conclude(
        self, news: Restarted | WasSplit | TaskFinished | TaskFailed | WorkerDied
    ) -> Iterator[FailedVideo]:
        """React to what a worker reports about a task."""
        task = self._tasks[news.task]
        video = self._videos[task.video.name]
        if isinstance(news, Restarted):
            log.debug("%s: %s; continuing with the next decoder", task.video.name, news.reason)
            self._begin_anew(video)
            return
        del self._tasks[task.number]
        if isinstance(news, TaskFinished) and video.is_mixed(news.finished.identity):
            yield self._fail(video, FailedVideo(video.source.name, CHANGED))
        elif isinstance(news, TaskFinished):
            video.finish(news.finished, task.part)
            self._write_if_complete(video)
        elif isinstance(news, WasSplit):
            self._split(task, video, news.parts)
        elif task.part is not None or (
            isinstance(news, WorkerDied) and video.num_deaths < DEATHS_FORGIVEN
        ):
            self._restart(video, news)
        else:
            name, frame = task.video.name, news.frame_index
            failed = FailedVideo(name, news.reason, news.decoder, frame, news.may_pass)
            yield self._fail(video, failed)
        self._feed_devices()

    def _fail(self, video: OpenVideo, failed: FailedVideo) -> FailedVideo:
        self._abandon_tasks(video)
        del self._videos[video.source.name]
        self._activity.num_clips_kept -= video.num_clips_back
        video.journal.remove()
        if video.album is not None:
            video.album.remove()
        return failed

    def _abandon_tasks(self, video: OpenVideo) -> None:
        stale = {task.number for task in self._tasks.values() if task.video is video.source}
        self._tasks = {number: self._tasks[number] for number in self._tasks.keys() - stale}
        self._queue = deque(task for task in self._queue if task.number not in stale)

    def _split(self, task: Task, video: OpenVideo, parts: Sequence[Part]) -> None:
        """Queue the parts of a video; those whose clips are all there need not be decoded."""
        video.split(parts)
        video.begin(IN_PARTS, parts[-1].stop_clip)
        queued = []
        for part in parts:
            is_there = video.take(part.first_clip, part.stop_clip)
            self._activity.num_clips_kept += is_there * (part.stop_clip - part.first_clip)
            how = {"decoder": task.decoder, "part": part, "only_end": is_there}
            queued.append(self._task(task.video, **how))
        self._queue.extendleft(reversed(queued))

    def _restart(self, video: OpenVideo, news: TaskFailed | WorkerDied) -> None:
        """Read a video again in one piece; after a worker's death, with the more robust decoder."""
        level = logging.WARNING if isinstance(news, WorkerDied) else logging.DEBUG
        log.log(level, "reading %s again: %s", video.source.name, news.reason)
        self._abandon_tasks(video)
        self._begin_anew(video)
        decoder = self._engine.decoder
        if isinstance(news, WorkerDied):
            video.num_deaths += 1
            decoder = last_resort(decoder)
        self._queue.appendleft(self._task(video.source, decoder=decoder))

    def _begin_anew(self, video: OpenVideo) -> None:
        self._activity.num_clips_kept -= video.num_clips_back
        video.begin_anew()

    def _write_if_complete(self, video: OpenVideo) -> None:
        if video.is_complete:
            del self._videos[video.source.name]
            self._writer.submit(video, self._devices.ready)


def num_bytes(video: SourceVideo) -> int:
    """Size of a video, 0 if it does not exist; the largest take longest, so they start first."""
    if video.remote is not None:
        return video.remote.num_bytes
    try:
        return size_and_time(video.path)[0]
    except OSError:
        return 0
