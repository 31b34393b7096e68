"""What `vigil extract` has to do: which videos have their features already, and which have not."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from vigil.extract.damage import excess
from vigil.extract.engine import Engine
from vigil.extract.errors import FailedVideo, UserError, VideoError, counted
from vigil.extract.sealed import (
    FeatureFileError,
    ForeignFileError,
    UnreadableFileError,
    unreadable,
)
from vigil.extract.source import SourceVideo, identify, size_and_time
from vigil.extract.spec import difference
from vigil.extract.store import VideoFeatures, feature_path, read_identity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What has to be done for videos, given what is in the store."""

    missing: tuple[SourceVideo, ...]
    present: tuple[SourceVideo, ...]
    failed: tuple[FailedVideo, ...]
    """Videos that changed since they were extracted, without --overwrite, or are too damaged."""


def plan_extraction(
    videos: Iterable[SourceVideo], store: Path, engine: Engine, overwrite: bool
) -> Plan:
    """Sort videos into those to extract and those whose features are there already.

    A file counts as there where it is complete, of this spec, of this very video, and holds the
    views and clips asked for. One that is damaged or holds too little is extracted again. Features
    of a video that is too damaged stay, but the video is a failure.

    Raises:
        UserError: a file is of another spec, or would lose what it holds; names the file, the
            difference and the remedy.
    """
    missing, present, failed, num_other_precision = [], [], [], 0
    lacking: list[list[str]] = []
    for video in videos:
        path = feature_path(store, video.name)
        try:
            there = _what_is_there(path)
        except UnreadableFileError as error:
            failed.append(FailedVideo(video.name, str(error)))
            continue
        wanted = there is not None and _is_wanted(there, engine)
        if there is None or (overwrite and not wanted):
            missing.append(video)
            continue
        _require_compatible(path, there, engine)
        try:
            is_same = is_same_video(there, video)
        except VideoError as error:
            failed.append(FailedVideo(video.name, error.reason))
            continue
        if not is_same and not overwrite:
            failed.append(_changed(video, path))
        elif not (is_same and wanted):
            missing.append(video)
            if lacks := _lacking(there, engine):
                lacking.append(lacks)
        elif reason := excess(there.damaged_share, engine.max_damage):
            num_frames = there.num_frames_decoded
            failed.append(FailedVideo(video.name, reason, there.decoder, num_frames))
        else:
            present.append(video)
            num_other_precision += there.precision != engine.precision
    if lacking:
        log.info(
            "%s extracted again, for %s, not stored before",
            counted(len(lacking), "video"),
            ", ".join(dict.fromkeys(chain.from_iterable(lacking))),
        )
    if num_other_precision:
        log.warning(
            "%d of the videos that are there were not computed in %s as this run would: the "
            "store mixes precisions",
            num_other_precision,
            engine.precision,
        )
    return Plan(tuple(missing), tuple(present), tuple(failed))


def _what_is_there(path: Path) -> VideoFeatures | None:
    """What a feature file says of itself; None where there is none, or a damaged one.

    Raises:
        ForeignFileError: the file is none of ours to replace.
        UnreadableFileError: it cannot be known; the file may be whole.
    """
    try:
        return read_identity(path) if path.exists() else None
    except OSError as error:
        raise unreadable(path, error) from error
    except (ForeignFileError, UnreadableFileError):
        raise
    except FeatureFileError as error:
        log.warning("%s; it is extracted again", error)
        return None


def _is_wanted(there: VideoFeatures, engine: Engine) -> bool:
    return there.spec == engine.spec and not _lacking(there, engine)


def _lacking(there: VideoFeatures, engine: Engine) -> list[str]:
    """What the run stores and a feature file does not hold: views, and clips."""
    has_clips = there.clip_features is not None or not engine.keep_clips
    return [view for view in engine.views if view not in there.views] + ["clips"] * (not has_clips)


def _require_compatible(path: Path, there: VideoFeatures, engine: Engine) -> None:
    if differences := difference(there.spec, engine.spec):
        raise UserError(
            f"{path} was extracted with other settings ({'; '.join(differences)}): choose "
            "another --out, use the same settings, or replace it with --overwrite"
        )
    lost = [view for view in there.views if view not in engine.views]
    if there.clip_features is not None and not engine.keep_clips:
        lost.append("its clips (--keep-clips)")
    if lost and not _is_wanted(there, engine):
        raise UserError(
            f"{path} would be extracted again and lose {', '.join(lost)}: ask for that too, "
            "choose another --out, or replace it with --overwrite"
        )


def is_same_video(there: VideoFeatures, video: SourceVideo) -> bool:
    """Whether features are of the video as it is now; its bytes are read only if in doubt.

    Raises:
        VideoError: it is gone or cannot be read.
    """
    try:
        num_bytes, modified_ns = size_and_time(video.path)
    except OSError as error:
        raise VideoError(f"the file cannot be read ({error.strerror})") from error
    is_other_rate = video.path.is_dir() and there.fps != video.picture_fps
    if num_bytes != there.video.num_bytes or is_other_rate:
        return False
    if modified_ns == there.video.modified_ns:
        return True
    return identify(video).digest == there.video.digest


def _changed(video: SourceVideo, path: Path) -> FailedVideo:
    return FailedVideo(
        video.name,
        f"{video.path} is not the video that {path} was made of, which had another content: "
        "extract it anew with --overwrite, or choose another --out",
    )
