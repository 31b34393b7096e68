"""The clips of the events of a stream, which is not recorded.

The newest packets of a stream are in memory. Those around an event are set aside in a hidden file
while it lasts, and when it is over a clip is made of them as of a recording. A kill leaves hidden
files, which the next run removes, and no half clip.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from vigil.extract.decode.captions import Caption
from vigil.extract.decode.cutting import Cut
from vigil.extract.decode.excerpt_request import Excerpt, Source, Written
from vigil.extract.decode.live_copy import LiveCopy
from vigil.extract.errors import counted
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
from vigil.pipeline.watching.set_aside import KeptPackets, SetAside

MAX_SECONDS = 600.0
"""The clip of a longer event shows its beginning."""
LATE_SECONDS = 0.1
"""By which a clip may begin after its event without a word."""

REFUSED = "the packets of the stream cannot be kept ({})"
UNWRITABLE = "its packets cannot be written ({})"
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
    is_over: bool = False
    is_complete: bool = False
    """Whether everything that the clip is to show is set aside."""
    packets: SetAside = field(default_factory=SetAside)
    job: ClipJob | None = None
    outcome: EventClip | str = ""
    """The clip, or why there is none; empty as long as that is not known."""
    is_told: bool = False

    @property
    def shown(self) -> tuple[float, float]:
        """The part of the event that the clip shows, in seconds of the piece."""
        start, stop = self.event.start_seconds, self.event.stop_seconds
        return start, min(stop, start + MAX_SECONDS)

    @property
    def is_late(self) -> bool:
        """Whether a part of the event is missing in the clip."""
        if self.job is None or not isinstance(self.job.outcome, Written):
            return False
        begins = self.job.cut.excerpt.event_seconds[0] + LATE_SECONDS
        return self.packets.has_gap or self.job.outcome.start_seconds > begins

    def give_up(self, reason: str) -> None:
        """Have no clip."""
        self.outcome = reason
        self.packets.remove()


class StreamClips:
    """The clips of one piece's events; without settings, there are none."""

    def __init__(self, settings: ClipSettings | None, camera: str, fps: float) -> None:
        """Begin a piece."""
        self._settings, self._camera, self._fps = settings, camera, fps
        self._packets = KeptPackets()
        self._clips: list[_EventClip] = []
        """Of the events that are in no result yet."""
        self._num_submitted = 0
        """In the present stretch."""

    def add(self, copy: LiveCopy) -> None:
        """Note packets that are in the ring."""
        if copy.problem and not self._packets.problem:
            log.warning("%s: no clips, since %s", self._camera, REFUSED.format(copy.problem))
        self._packets.add(copy)

    def follow(self, told: Iterable[tuple[Event, Alarm]], end_seconds: float = math.inf) -> None:
        """Set packets aside for the events of the piece, given with the last message about each.

        If the piece is over, what follows in the packets may be of another size.
        """
        if self._settings is None:
            return
        known = {one.alarm: one for one in self._clips}
        for event, alarm in told:
            if (one := known.get(alarm.event)) is None:
                one = _EventClip(alarm.event, event)
                self._clips.append(one)
            if one.job is None:
                one.event, one.is_over = event, not alarm.is_open
        for one in self._clips:
            if one.job is None and not one.outcome:
                self._set_aside(one, end_seconds, self._settings)

    def _set_aside(self, one: _EventClip, end_seconds: float, settings: ClipSettings) -> None:
        start, stop = one.shown
        first, until = start - settings.margin_seconds, stop + settings.margin_seconds
        folder = partial(clips_folder, settings.results)
        if not settings.has_room():
            one.give_up("the disk is nearly full (--min-free-gib)")
            return
        try:
            one.packets.extend(self._packets, first, min(until, end_seconds), folder)
        except OSError as error:
            one.give_up(UNWRITABLE.format(error.strerror))
        one.is_complete = bool(self._packets.problem) or self._packets.reached >= until

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
        settings, packets = self._settings, one.packets
        assert settings is not None  # else there would be no clips
        if packets.path is None:
            problem = self._packets.problem
            no_more = NO_PACKETS.format(settings.memory_mib)
            one.give_up(REFUSED.format(problem) if problem else no_more)
            return
        try:
            packets.close()
        except OSError as error:
            one.give_up(UNWRITABLE.format(error.strerror))
            return
        self._num_submitted += 1
        path = clip_path(settings.results, stretch.video, self._num_submitted)
        start, stop = (seconds - stretch.start for seconds in one.shown)
        frames = one.event.start_frame, one.event.stop_frame
        lasts = end_seconds - stretch.start
        cut = Cut(
            Source(packets.path, self._fps, lasts, stretch.start, packets.is_described),
            Excerpt(path, (start, stop), frames, settings.margin_seconds),
            _caption(path, one.event, stretch) if settings.annotate else None,
        )
        settings.note(self._camera, stretch.video)
        one.job = settings.writer.submit(cut)

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
        outcomes = [(one.outcome if one is not None else "") or unknown for one in mine]
        result = with_clips(result, outcomes)
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
                one.give_up("vigil was stopped")


def _caption(path: Path, event: Event, stretch: Stretch) -> Caption:
    """What stands under the picture of a clip."""
    cells = stretch.timeline
    seconds = [(start, stop) for start, stop in (cells.seconds - stretch.start).tolist()]
    scores = cells.scores.scores.tolist()
    return caption(path, event.class_name, seconds, scores, stretch.threshold, stretch.began_at)
