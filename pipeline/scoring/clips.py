"""`--clips` and `--annotate`: each event, with some seconds around it, as MP4 files and a sheet."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from vigil.extract.decode.captions import Caption
from vigil.extract.decode.cutting import Cut, write_excerpts
from vigil.extract.decode.excerpt_request import Excerpt, Source, Written
from vigil.extract.decode.videos import EXCERPTS_MARK
from vigil.extract.errors import counted
from vigil.extract.files import make_folder, path_below
from vigil.extract.remote.addresses import is_remote
from vigil.pipeline.logs import printable, show_clips
from vigil.pipeline.scores.events import Event, EventClip
from vigil.pipeline.scoring.results import VideoResult, write_result

CLIPS_FOLDER = "clips"
MISSING = "Without a clip: "
"""How the warning about events without one begins."""

ANNOTATED = "-annotated"
"""At the end of the name of a clip with a caption."""

NOT_RECORDED = "nothing of a stream is left but the clips that vigil watch --clips cut"

_OURS = re.compile(rf"\d+(({ANNOTATED})?\.mp4|\.jpg)")

log = logging.getLogger(__name__)


def add_clips(
    folder: Path,
    results: Sequence[VideoResult],
    margin_seconds: float,
    annotate: bool = False,
) -> list[VideoResult]:
    """Write the clips of all events, and the JSON files of their videos, which name them.

    Why a clip could not be written is logged, and is a warning of its video. Those of streams were
    cut while these ran, and stay.

    Args:
        folder: RESULTS.
        results: of its videos.
        margin_seconds: how much of the video before and after an event belongs to its clip.
        annotate: write each clip a second time, with class, score and time under its picture.

    Returns:
        The results, in the same order, with clips in their events.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    for result in results:
        if not is_of_stream(result):
            remove_clips(folder, result.video)
    cuts = [cut for one in results for cut in _cuts(folder, one, margin_seconds, annotate)]
    if cuts:
        clips_folder(folder)
    found: dict[Path, EventClip | str] = {}
    with show_clips(len(cuts)) as show:
        for cut, written in write_excerpts(cuts):
            path = cut.excerpt.path
            found[path] = written if isinstance(written, str) else named(folder, cut, written)
            show(len(found))
    changed = [
        # Of a stream, the reasons that were noted while it ran stay.
        one
        if lacks_clips(one) and is_of_stream(one)
        else with_clips(one, _found(folder, one, found))
        for one in results
    ]
    for before, after in zip(results, changed, strict=True):
        if after != before:
            write_result(folder, after)
    return changed


def is_of_stream(result: VideoResult) -> bool:
    """Whether a result is of a stream, of which nothing but clips is left."""
    return result.recorded_at_source == "stream"


def clips_folder(folder: Path) -> Path:
    """The folder of clips in RESULTS, made if it is missing, and marked as no footage."""
    make_folder(folder / CLIPS_FOLDER)
    (folder / CLIPS_FOLDER / EXCERPTS_MARK).touch()
    return folder / CLIPS_FOLDER


def remove_clips(folder: Path, video: str) -> None:
    """Remove the clips of a video that an earlier run wrote."""
    for path in clips_of(folder, video):
        path.unlink()


def clips_of(folder: Path, video: str) -> list[Path]:
    """The clips of a video, and their pictures, that are there."""
    place = clip_path(folder, video, 1).parent
    if not os.path.isdir(place):  # noqa: PTH112  (Path.is_dir raises if a name is too long)
        return []
    return [path for path in place.iterdir() if _OURS.fullmatch(path.name)]


def clip_path(folder: Path, video: str, number: int) -> Path:
    """Where the clip of an event lies; events of a video count from 1."""
    return path_below(folder / CLIPS_FOLDER, f"{video}/{number}.mp4")


def lacks_clips(result: VideoResult) -> bool:
    """Whether a clip of the video could not be written."""
    return any(warning.startswith(MISSING) for warning in result.warnings)


def named(folder: Path, cut: Cut, written: Written) -> EventClip:
    """What the results say of a clip that was written."""
    path, sheet = (
        one.relative_to(folder).as_posix() for one in (cut.excerpt.path, cut.excerpt.sheet)
    )
    captioned = None if cut.caption is None else cut.caption.path.relative_to(folder).as_posix()
    return EventClip(path, sheet, written.start_seconds, captioned)


def _cuts(
    folder: Path, result: VideoResult, margin_seconds: float, annotate: bool
) -> Iterator[Cut]:
    if result.source is None or is_remote(result.source):
        return
    source = Source(Path(result.source), result.fps, result.duration_seconds)
    for number, event in enumerate(result.events, start=1):
        seconds, frames = _seconds_and_frames(event)
        path = clip_path(folder, result.video, number)
        caption = _caption_of(path, result, event) if annotate else None
        yield Cut(source, Excerpt(path, seconds, frames, margin_seconds), caption)


def _caption_of(clip: Path, result: VideoResult, event: Event) -> Caption:
    """The caption of an event's clip; it has times of day only if the event has one."""
    is_known = event.start_clock is not None and result.recorded_at is not None
    segments = result.held_segments
    seconds = [(one.start_seconds, one.stop_seconds) for one in segments]
    scores = [one.score for one in segments]
    recorded_at = datetime.fromisoformat(str(result.recorded_at)) if is_known else None
    return caption(clip, event.class_name, seconds, scores, result.threshold, recorded_at)


def caption(
    clip: Path,
    class_name: str,
    seconds: Sequence[tuple[float, float]],
    scores: Sequence[float],
    threshold: float,
    recorded_at: datetime | None,
) -> Caption:
    """What stands under the picture of an event's clip; arguments as of `Caption`."""
    import matplotlib as mpl  # has a font with most of the letters there are; takes a moment

    return Caption(
        path=clip.with_stem(f"{clip.stem}{ANNOTATED}"),
        title=printable(class_name),
        seconds=tuple(seconds),
        scores=tuple(scores),
        threshold=threshold,
        recorded_at=recorded_at,
        font=str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")),
    )


def _seconds_and_frames(event: Event) -> tuple[tuple[float, float], tuple[int, int]]:
    return (event.start_seconds, event.stop_seconds), (event.start_frame, event.stop_frame)


def _found(
    folder: Path, result: VideoResult, found: dict[Path, EventClip | str]
) -> list[EventClip | str]:
    """The clip of each event, or why it has none."""
    if is_of_stream(result):
        return [event.clip or NOT_RECORDED for event in result.events]
    unknown = "its file is not recorded in the results"
    if result.source is not None and is_remote(result.source):
        unknown = f"{result.source} is not here: copy it, and score the copy with --clips"
    paths = [clip_path(folder, result.video, number + 1) for number in range(result.num_events)]
    return [found.get(path, unknown) for path in paths]


def with_clips(result: VideoResult, clips: Sequence[EventClip | str]) -> VideoResult:
    """The result with the clip of each event; of an event without one, the reason is a warning."""
    events, reasons = [], dict[str, int]()
    for event, clip in zip(result.events, clips, strict=True):
        if isinstance(clip, str):
            reasons[clip] = reasons.get(clip, 0) + 1
        events.append(replace(event, clip=clip if isinstance(clip, EventClip) else None))
    warnings = [one for one in result.warnings if not one.startswith(MISSING)]
    for reason, number in reasons.items():
        log.error("%s: %s without a clip: %s", result.video, counted(number, "event"), reason)
        warnings.append(f"{MISSING}{counted(number, 'event')}, since {reason}.")
    return replace(result, events=tuple(events), warnings=tuple(warnings))
