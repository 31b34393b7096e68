"""`--clips`: each event, with some seconds around it, as an MP4 file with a contact sheet."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vigil.extract.decode.cutting import Cut, write_excerpts
from vigil.extract.decode.excerpts import Excerpt, Source
from vigil.extract.decode.videos import EXCERPTS_MARK
from vigil.extract.errors import counted
from vigil.extract.files import make_folder, path_below
from vigil.pipeline.scores.events import Event, EventClip
from vigil.pipeline.scoring.results import VideoResult, write_result

CLIPS_FOLDER = "clips"
MISSING = "Without a clip: "
"""How the warning about events without one begins."""

_OURS = re.compile(r"\d+\.(mp4|jpg)")

log = logging.getLogger(__name__)


def add_clips(
    folder: Path, results: Sequence[VideoResult], margin_seconds: float
) -> list[VideoResult]:
    """Write the clips of all events, and the JSON files of their videos, which name them.

    Why a clip could not be written is logged, and is a warning of its video.

    Args:
        folder: RESULTS.
        results: of its videos.
        margin_seconds: how much of the video before and after an event belongs to its clip.

    Returns:
        The results, in the same order, with clips in their events.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    for result in results:
        remove_clips(folder, result.video)
    cuts = [cut for one in results for cut in _cuts(folder, one, margin_seconds)]
    if cuts:
        make_folder(folder / CLIPS_FOLDER)
        (folder / CLIPS_FOLDER / EXCERPTS_MARK).touch()
    found: dict[Path, EventClip | str] = {}
    for cut, written in write_excerpts(cuts):
        path, sheet = cut.excerpt.path, cut.excerpt.sheet
        if isinstance(written, str):
            found[path] = written
        else:
            names = [one.relative_to(folder).as_posix() for one in (path, sheet)]
            found[path] = EventClip(names[0], names[1], written.start_seconds)
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


def _cuts(folder: Path, result: VideoResult, margin_seconds: float) -> Iterator[Cut]:
    if result.source is None:
        return
    source = Source(Path(result.source), result.fps, result.duration_seconds)
    for number, event in enumerate(result.events, start=1):
        seconds, frames = _seconds_and_frames(event)
        path = clip_path(folder, result.video, number)
        yield Cut(source, Excerpt(path, seconds, frames, margin_seconds))


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
