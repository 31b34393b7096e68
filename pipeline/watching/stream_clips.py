"""The clips of the events of a stream, which is not recorded.

The newest packets of a stream are in memory. Those around an event are set aside in a hidden file
while it lasts, and when it is over a clip is made of them as of a recording. A kill leaves hidden
files, which the next run removes, and no half clip.
"""

import logging
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO

from vigil.extract.decode.captions import Caption
from vigil.extract.decode.cutting import Cut
from vigil.extract.decode.excerpt_request import Excerpt, Source
from vigil.extract.decode.live_copy import Cluster, LiveCopy
from vigil.extract.errors import counted
from vigil.extract.files import partial_path
from vigil.pipeline.scores.events import Event, EventClip
from vigil.pipeline.scores.spans import Timeline
from vigil.pipeline.scoring.clips import (
    CLIPS_FOLDER,
    caption,
    clip_path,
    clips_folder,
    named,
    with_clips,
)
from vigil.pipeline.scoring.results import VideoResult
from vigil.pipeline.watching.alarm import Alarm
from vigil.pipeline.watching.clip_writer import ClipJob, ClipWriter

MAX_SECONDS = 600.0
"""The clip of a longer event shows its beginning."""
LATE_SECONDS = 0.1
"""By which a clip may begin after its event without a word."""

NO_PACKETS = "its packets are no longer in memory: raise --clip-memory-mib {}"
LATE = (
    "{} of its events lack a part of these: no packets from a key frame before them were left. "
    "Raise --clip-memory-mib {}, or have the camera send key frames more often."
)
LONG = "{} of its events show only the first {:g} minutes."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipSettings:
    """How clips of streams are made."""

    results: Path
    """RESULTS."""
    margin_seconds: float
    memory_mib: int
    """For the newest packets of each stream."""
    annotate: bool = False
    has_room: Callable[[], bool] = lambda: True
    """Whether the disk has room for more than results and alarms."""
    note: Callable[[str, str], None] = lambda camera, video: None
    """Called with a camera and the name of a result before and after a clip of it is written."""
    writer: ClipWriter = field(default_factory=ClipWriter)


@dataclass(frozen=True)
class Stretch:
    """What the clips of a stretch need to know of it."""

    video: str
    """Name of its result."""
    began_at: datetime
    timeline: Timeline
    """From its beginning on, as far as it is known, in seconds of the piece."""
    threshold: float

    @property
    def start(self) -> float:
        """When it begins, in seconds of the piece."""
        return float(self.timeline.seconds[0, 0])


@dataclass(eq=False)
class _EventClip:
    """The clip of an event, from the first message about it on."""

    alarm: str
    """Id of the event."""
    event: Event
    is_over: bool
    file: IO[bytes] | None = None
    """The packets that are set aside, hidden."""
    next_place: int | None = None
    """In the ring, of the packets that follow."""
    is_complete: bool = False
    """Whether everything up to its end is set aside."""
    is_described: bool = True
    num_lost: int = 0
    """Clusters that were overwritten before they were set aside."""
    is_late: bool = False
    """Whether a part of the event is missing in the clip."""
    job: ClipJob | None = None
    outcome: EventClip | str = ""
    """The clip, or why there is none; empty as long as that is not known."""
    is_told: bool = False

    @property
    def shown(self) -> tuple[float, float]:
        """The part of the event that the clip shows, in seconds of the piece."""
        start, stop = self.event.start_seconds, self.event.stop_seconds
        return start, min(stop, start + MAX_SECONDS)


class StreamClips:
    """The clips of one piece's events; without settings, there are none."""

    def __init__(self, settings: ClipSettings | None, camera: str, fps: float) -> None:
        """Begin a piece."""
        self._settings, self._camera, self._fps = settings, camera, fps
        self._packets: deque[tuple[LiveCopy, Cluster]] = deque()
        """Those that may still be in the ring."""
        self._reached = -math.inf
        """When the newest of them begin."""
        self._problem = ""
        self._clips: list[_EventClip] = []
        """Of the events that are in no result yet."""
        self._num_submitted = 0
        """In the present stretch."""

    def add(self, copy: LiveCopy) -> None:
        """Note packets that are in the ring."""
        if copy.problem and not self._problem:
            self._problem = f"the packets of the stream cannot be kept ({copy.problem})"
            log.warning("%s: no clips, since %s", self._camera, self._problem)
        self._packets.extend((copy, cluster) for cluster in copy.clusters)
        if copy.clusters and copy.ring is not None:
            newest = copy.clusters[-1]
            self._reached = newest.seconds
            end = newest.place + newest.num_bytes
            while self._packets and end - self._packets[0][1].place > copy.ring.num_bytes:
                self._packets.popleft()

    def follow(self, told: Iterable[tuple[Event, Alarm]], end_seconds: float = math.inf) -> None:
        """Set packets aside for the events of the piece, given with the last message about each.

        If the piece is over, what follows in the packets may be of another size.
        """
        if self._settings is None:
            return
        known = {one.alarm: one for one in self._clips}
        for event, alarm in told:
            if (one := known.get(alarm.event)) is None:
                one = _EventClip(alarm.event, event, is_over=False)
                self._clips.append(one)
            if one.job is None:
                one.event, one.is_over = event, not alarm.is_open
        for one in self._clips:
            if one.job is None and not one.outcome:
                self._set_aside(one, end_seconds, self._settings)

    def _set_aside(self, one: _EventClip, end_seconds: float, settings: ClipSettings) -> None:
        start, stop = one.shown
        until = min(stop + settings.margin_seconds, end_seconds)
        one.is_complete = bool(self._problem) or self._reached >= until
        if one.next_place is None:
            one.next_place = self._place_before(start - settings.margin_seconds)
        for copy, cluster in self._packets:
            if one.next_place is None or cluster.place < one.next_place:
                continue
            if cluster.seconds >= until:
                break
            assert copy.ring is not None  # in this process
            content = copy.ring.read(cluster.place, cluster.num_bytes)
            if content is None:
                one.num_lost += 1
            elif reason := self._append(one, copy, content, settings):
                self._give_up(one, reason)
                return
            one.next_place = cluster.place + cluster.num_bytes

    def _place_before(self, seconds: float) -> int | None:
        """The place of the last key frame by a time, else of the oldest packets; None: of none."""
        if not self._packets:
            return None
        keys = [
            one.place
            for _, one in self._packets
            if one.key_seconds is not None and one.key_seconds <= seconds
        ]
        return keys[-1] if keys else self._packets[0][1].place

    def _append(
        self, one: _EventClip, copy: LiveCopy, content: bytes, settings: ClipSettings
    ) -> str:
        """Set packets aside; return why they could not be, or nothing."""
        if not settings.has_room():
            return "the disk is nearly full (--min-free-gib)"
        try:
            if one.file is None:
                path = clips_folder(settings.results) / uuid.uuid4().hex
                one.file = partial_path(path).open("wb")
                one.file.write(copy.header)
                one.is_described = copy.is_described
            one.file.write(content)
        except OSError as error:
            return f"its packets cannot be written ({error.strerror})"
        return ""

    def _give_up(self, one: _EventClip, reason: str) -> None:
        one.outcome = reason
        if one.file is not None and one.job is None:
            with suppress(OSError), one.file:
                Path(one.file.name).unlink(missing_ok=True)

    def write(
        self,
        before: float,
        stretch: Callable[[], Stretch],
        *,
        at_once: bool = False,
        end_seconds: float = math.inf,
    ) -> None:
        """Have the clips of events written that are over, and begin before a time.

        Args:
            before: in seconds of the piece.
            stretch: the one that they are in.
            at_once: also of events that go on, as far as they have come.
            end_seconds: of the piece, if it is over.
        """
        for one in self._clips:
            is_due = at_once or (one.is_over and one.is_complete)
            if is_due and one.event.start_seconds < before and not (one.job or one.outcome):
                self._submit(one, stretch(), end_seconds)

    def _submit(self, one: _EventClip, stretch: Stretch, end_seconds: float) -> None:
        settings = self._settings
        assert settings is not None  # else there would be no clips
        if one.file is None:
            self._give_up(one, self._problem or NO_PACKETS.format(settings.memory_mib))
            return
        self._num_submitted += 1
        path = clip_path(settings.results, stretch.video, self._num_submitted)
        start, stop = (seconds - stretch.start for seconds in one.shown)
        frames = one.event.start_frame, one.event.stop_frame
        excerpt = Excerpt(path, (start, stop), frames, settings.margin_seconds)
        lasts = end_seconds - stretch.start
        source = Source(Path(one.file.name), self._fps, lasts, stretch.start, one.is_described)
        try:
            one.file.close()
        except OSError as error:
            self._give_up(one, f"its packets cannot be written ({error.strerror})")
            return
        under = self._caption(path, one.event, stretch) if settings.annotate else None
        settings.note(self._camera, stretch.video)
        one.job = settings.writer.submit(Cut(source, excerpt, under))

    def _caption(self, path: Path, event: Event, stretch: Stretch) -> Caption:
        cells = stretch.timeline
        seconds = [(start, stop) for start, stop in (cells.seconds - stretch.start).tolist()]
        scores = cells.scores.scores.tolist()
        what = seconds, scores, stretch.threshold, stretch.began_at
        return caption(path, event.class_name, *what)

    def take_written(self) -> list[tuple[str, str]]:
        """The ids of events whose clips were written since the last call, and their paths."""
        found = []
        for one in self._clips:
            if one.job is not None and one.job.is_over and not one.outcome:
                self._conclude(one, one.job)
            if isinstance(one.outcome, EventClip) and not one.is_told:
                one.is_told = True
                found.append((one.alarm, one.outcome.path))
        return found

    def _conclude(self, one: _EventClip, job: ClipJob) -> None:
        assert self._settings is not None
        if isinstance(job.outcome, str):
            one.outcome = job.outcome
            return
        one.outcome = named(self._settings.results, job.cut, job.outcome)
        video = Path(one.outcome.path).parent.relative_to(CLIPS_FOLDER).as_posix()
        self._settings.note(self._camera, video)
        begins = job.cut.excerpt.event_seconds[0]
        one.is_late = one.num_lost > 0 or job.outcome.start_seconds > begins + LATE_SECONDS

    def are_known(self, before: float = math.inf) -> bool:
        """Whether it is known of all events that begin before a time what became of their clips."""
        return all(one.outcome for one in self._clips if one.event.start_seconds < before)

    def end_by(self, stop: float) -> bool:
        """Whether all events whose clips were submitted are over by a time."""
        return all(one.event.stop_seconds <= stop for one in self._clips if one.job)

    def named_in(self, result: VideoResult, start: float) -> VideoResult:
        """The result of the stretch from a time on, with the clips of its events."""
        if self._settings is None:
            return result
        mine = [self._of(one, start) for one in result.events]
        unknown = NO_PACKETS.format(self._settings.memory_mib)
        result = with_clips(result, [unknown if one is None else one.outcome for one in mine])
        made = [one for one in mine if one is not None and isinstance(one.outcome, EventClip)]
        num_late = sum(one.is_late for one in made)
        num_long = sum(one.shown[1] < one.event.stop_seconds for one in made)
        warnings = result.warnings
        if num_late:
            warnings += (LATE.format(counted(num_late, "clip"), self._settings.memory_mib),)
        if num_long:
            warnings += (LONG.format(counted(num_long, "clip"), MAX_SECONDS / 60),)
        return replace(result, warnings=warnings)

    def _of(self, event: Event, start: float) -> _EventClip | None:
        """The clip that shows most of an event, given in seconds after a time."""

        def overlap(one: _EventClip) -> float:
            stop = min(one.event.stop_seconds, event.stop_seconds + start)
            return stop - max(one.event.start_seconds, event.start_seconds + start)

        best = max(self._clips, key=overlap, default=None)
        return best if best is not None and overlap(best) > 0 else None

    def begin_stretch(self, start: float) -> None:
        """Forget the events that begin before a time: they are in results."""
        self._clips = [one for one in self._clips if one.event.start_seconds >= start]
        self._num_submitted = 0

    def wait(self, until: float | None) -> None:
        """Wait for the clips that were submitted, at most until a monotonic time."""
        for one in self._clips:
            if one.job is not None:
                one.job.wait(None if until is None else max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Remove what was set aside; clips that are not written by now have no result."""
        for one in self._clips:
            if not one.outcome:
                self._give_up(one, "vigil was stopped")
