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
from vigil.pipeline.logs import printable, show_clips
from vigil.pipeline.scores.events import Event, EventClip
from vigil.pipeline.scoring.results import VideoResult, write_result

CLIPS_FOLDER = "clips"
MISSING = "Without a clip: "
"""How the warning about events without one begins."""

ANNOTATED = "-annotated"
"""At the end of the name of a clip with a caption."""

_OURS = re.compile(rf"\d+(({ANNOTATED})?\.mp4|\.jpg)")

log = logging.getLogger(__name__)


def add_clips(
    folder: Path,
    results: Sequence[VideoResult],
    margin_seconds: float,
    annotate: bool = False,
) -> list[VideoResult]:
    """Write the clips of all events, and the JSON files of their videos, which name them.

    Why a clip could not be written is logged, and is a warning of its video.

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
        remove_clips(folder, result.video)
    cuts = [cut for one in results for cut in _cuts(folder, one, margin_seconds, annotate)]
    if cuts:
        make_folder(folder / CLIPS_FOLDER)
        (folder / CLIPS_FOLDER / EXCERPTS_MARK).touch()
    found: dict[Path, EventClip | str] = {}
    with show_clips(len(cuts)) as show:
        for cut, written in write_excerpts(cuts):
            path = cut.excerpt.path
            found[path] = written if isinstance(written, str) else _named(folder, cut, written)
            show(len(found))
    return [_with_clips(folder, result, found) for result in results]


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


def _named(folder: Path, cut: Cut, written: Written) -> EventClip:
    """What the results say of a clip that was written."""
    path, sheet = (
        one.relative_to(folder).as_posix() for one in (cut.excerpt.path, cut.excerpt.sheet)
    )
    captioned = None if cut.caption is None else cut.caption.path.relative_to(folder).as_posix()
    return EventClip(path, sheet, written.start_seconds, captioned)


def _cuts(
    folder: Path, result: VideoResult, margin_seconds: float, annotate: bool
) -> Iterator[Cut]:
    if result.source is None:
        return
    source = Source(Path(result.source), result.fps, result.duration_seconds)
    for number, event in enumerate(result.events, start=1):
        seconds, frames = _seconds_and_frames(event)
        path = clip_path(folder, result.video, number)
        caption = _caption(path, result, event) if annotate else None
        yield Cut(source, Excerpt(path, seconds, frames, margin_seconds), caption)


def _caption(clip: Path, result: VideoResult, event: Event) -> Caption:
    """What stands under the picture of an event's clip; times of day only if the event has one."""
    import matplotlib as mpl  # has a font with most of the letters there are; takes a moment

    is_known = event.start_clock is not None and result.recorded_at is not None
    segments = result.held_segments
    return Caption(
        path=clip.with_stem(f"{clip.stem}{ANNOTATED}"),
        title=printable(event.class_name),
        seconds=tuple((one.start_seconds, one.stop_seconds) for one in segments),
        scores=tuple(one.score for one in segments),
        threshold=result.threshold,
        recorded_at=datetime.fromisoformat(str(result.recorded_at)) if is_known else None,
        font=str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")),
    )


def _seconds_and_frames(event: Event) -> tuple[tuple[float, float], tuple[int, int]]:
    return (event.start_seconds, event.stop_seconds), (event.start_frame, event.stop_frame)


def _with_clips(
    folder: Path, result: VideoResult, found: dict[Path, EventClip | str]
) -> VideoResult:
    """The result with its clips, also in its JSON file."""
    events, reasons = [], dict[str, int]()
    for number, event in enumerate(result.events, start=1):
        unknown = "its file is not recorded in the results"
        clip = found.get(clip_path(folder, result.video, number), unknown)
        if isinstance(clip, str):
            reasons[clip] = reasons.get(clip, 0) + 1
        events.append(replace(event, clip=clip if isinstance(clip, EventClip) else None))
    warnings = [one for one in result.warnings if not one.startswith(MISSING)]
    for reason, number in reasons.items():
        log.error("%s: %s without a clip: %s", result.video, counted(number, "event"), reason)
        warnings.append(f"{MISSING}{counted(number, 'event')}, since {reason}.")
    changed = replace(result, events=tuple(events), warnings=tuple(warnings))
    if changed != result:
        write_result(folder, changed)
    return changed
