"""The plan of `vigil extract`: which videos have features already, and which need them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from vigil.extract.damage import excess
from vigil.extract.decode.decoder import ASSUMED_RATE, GIVEN_RATE
from vigil.extract.engine.dispatch import Engine
from vigil.extract.errors import FailedVideo, UserError, VideoError, counted
from vigil.extract.sealed import (
    FeatureFileError,
    ForeignFileError,
    UnreadableFileError,
    unreadable,
)
from vigil.extract.source import ASSUMED_FPS, SourceVideo, identify, size_and_time
from vigil.extract.spec import difference
from vigil.extract.store import VideoFeatures, feature_path, read_identity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The work to do for videos, given the contents of the store."""

    missing: tuple[SourceVideo, ...]
    present: tuple[SourceVideo, ...]
    failed: tuple[FailedVideo, ...]
    """Videos that are too damaged, or that changed after extraction and may not be overwritten."""
    doubtful: tuple[SourceVideo, ...] = ()
    """Remote videos with features, perhaps of another version: they must be fetched to know."""


def plan_extraction(
    videos: Iterable[SourceVideo], store: Path, engine: Engine, overwrite: bool
) -> Plan:
    """Sort videos into those to extract and those that already have features.

    A feature file counts if it is complete, of this spec and of this very video, and holds the
    requested views and clips. If it is damaged or holds too little, the video is extracted again.
    Features of a video that is too damaged stay, but the video counts as failed.

    Raises:
        UserError: a file has another spec, or would lose content; the message names the file, the
            difference and the remedy.
    """
    missing, present, failed, num_other_precision = [], [], [], 0
    doubtful: list[SourceVideo] = []
    lacking: list[list[str]] = []
    for video in videos:
        path = feature_path(store, video.name)
        try:
            existing = _read_existing(path)
        except UnreadableFileError as error:
            failed.append(FailedVideo(video.name, str(error), may_pass=True))
            continue
        suffices = existing is not None and _suffices(existing, engine)
        if existing is None or (overwrite and not suffices):
            missing.append(video)
            continue
        _require_compatible(path, existing, engine)
        try:
            is_same = is_same_video(existing, video)
        except VideoError as error:
            failed.append(FailedVideo(video.name, error.reason, may_pass=error.may_pass))
            continue
        if is_same is None:
            doubtful.append(video)
        elif not is_same and not overwrite:
            failed.append(_changed(video, path))
        elif not (is_same and suffices):
            missing.append(video)
            if lacks := _lacking(existing, engine):
                lacking.append(lacks)
        elif reason := excess(existing.damaged_share, engine.max_damage):
            num_frames = existing.num_frames_decoded
            failed.append(FailedVideo(video.name, reason, existing.decoder, num_frames))
        else:
            present.append(video)
            num_other_precision += existing.precision != engine.precision
    if lacking:
        log.info(
            "extracting %s again to add %s",
            counted(len(lacking), "video"),
            ", ".join(dict.fromkeys(chain.from_iterable(lacking))),
        )
    if num_other_precision:
        log.warning(
            "the store mixes precisions: %s not computed in %s, the precision of this run",
            counted(num_other_precision, "existing feature file"),
            engine.precision,
        )
    return Plan(tuple(missing), tuple(present), tuple(failed), tuple(doubtful))


def _read_existing(path: Path) -> VideoFeatures | None:
    """The metadata of a feature file; None if it does not exist or is damaged.

    Raises:
        ForeignFileError: the file is not one that vigil may replace.
        UnreadableFileError: the file cannot be read, but may be intact.
    """
    try:
        return read_identity(path) if path.exists() else None
    except OSError as error:
        raise unreadable(path, error) from error
    except (ForeignFileError, UnreadableFileError):
        raise
    except FeatureFileError as error:
        log.warning("%s; extracting it again", error)
        return None


def _suffices(existing: VideoFeatures, engine: Engine) -> bool:
    return existing.spec == engine.spec and not _lacking(existing, engine)


def _lacking(existing: VideoFeatures, engine: Engine) -> list[str]:
    """The views that the run stores and a feature file lacks; also "clips" if it lacks those."""
    has_clips = existing.clip_features is not None or not engine.keep_clips
    views = [view for view in engine.views if view not in existing.views]
    return views + ["clips"] * (not has_clips)


def _require_compatible(path: Path, existing: VideoFeatures, engine: Engine) -> None:
    if differences := difference(existing.spec, engine.spec):
        raise UserError(
            f"{path} was extracted with other settings ({'; '.join(differences)}): choose "
            "another output folder, use the same settings, or set overwrite"
        )
    lost = [view for view in existing.views if view not in engine.views]
    if existing.clip_features is not None and not engine.keep_clips:
        lost.append("its clips (keep_clips)")
    if lost and not _suffices(existing, engine):
        raise UserError(
            f"{path} would be extracted again and lose {', '.join(lost)}: request these, too, "
            "choose another output folder, or set overwrite"
        )


def is_same_video(there: VideoFeatures, video: SourceVideo) -> bool | None:
    """Whether features are of the video as it is now; its bytes are read only if in doubt.

    None: in doubt about a remote video, whose bytes are not here.

    Raises:
        VideoError: the video does not exist any more, or cannot be read.
    """
    try:
        num_bytes, modified_ns = _size_and_time(video)
    except OSError as error:
        reason = f"the file cannot be read ({error.strerror})"
        raise VideoError(reason, may_pass=True) from error
    fps = video.picture_fps if video.path.is_dir() else video.input_fps or ASSUMED_FPS
    is_set = video.path.is_dir() or there.rate_source in (GIVEN_RATE, ASSUMED_RATE)
    is_other_rate = is_set and there.fps != fps
    if num_bytes != there.video.num_bytes or is_other_rate:
        return False
    if modified_ns == there.video.modified_ns:
        return True
    return None if video.remote else identify(video).digest == there.video.digest


def _size_and_time(video: SourceVideo) -> tuple[int, int | None]:
    if video.remote is not None:
        return video.remote.num_bytes, video.remote.modified_ns
    return size_and_time(video.path)


def _changed(video: SourceVideo, path: Path) -> FailedVideo:
    place = video.path if video.remote is None else video.origin
    return FailedVideo(
        video.name,
        f"{place} differs from the video that {path} was extracted from: set "
        "overwrite to extract it again, or choose another output folder",
    )
