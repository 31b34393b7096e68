"""`vigil features import`: convert features that another program computed into our feature files.

Legend: T rows of a foreign file, V views, S segments, D values of a row.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import FailedVideo, UserError, counted
from vigil.extract.locks import locked
from vigil.extract.sealed import FeatureFileError, ForeignFileError
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.source import VideoIdentity
from vigil.extract.spec import FeatureSpec, difference
from vigil.extract.store import VideoFeatures, feature_path, read_identity, write_features
from vigil.extract.views import in_stored_order
from vigil.pipeline.exchange.foreign_files import (
    NUM_CROPS,
    SNIPPET_FRAMES,
    ExchangeError,
    ForeignRows,
    crop_names,
    read_rows,
)
from vigil.pipeline.exchange.sources import (
    Counts,
    Files,
    FrameCount,
    files_by_video,
    find_count,
    read_counts,
)
from vigil.pipeline.failures import exit_code, write_failures
from vigil.pipeline.options import FeaturesImportOptions

EXTENSIONS = ".npy,.npz,.txt,.h5"
UNKNOWN = "unknown"
FROM_SNIPPETS, FROM_SEGMENTS = "imported from snippets", "imported from segments"

log = logging.getLogger(__name__)


def run_import(options: FeaturesImportOptions) -> int:
    """Write a feature file for each video, and print the number of imported videos.

    Returns:
        The exit code: 0, or 3 if some videos failed, 4 if all did.

    Raises:
        UserError: there is nothing to import, an option is needed because the files lack the
            information, or the folder holds other features.
    """
    if not 0 < options.fps < 1e6:
        raise UserError(f"--fps {options.fps:g} is not a frame rate: give one, such as 25 or 30")
    if options.frames_per_snippet is not None and options.frames_per_snippet < 1:
        raise UserError(f"--frames-per-snippet {options.frames_per_snippet} is below 1: use 16")
    found = find_videos(options.sources, EXTENSIONS, options.follow_links)
    videos = files_by_video(found.videos, options.list_file)
    counts = None if options.num_frames is None else read_counts(options.num_frames)
    failures = list(found.failures)
    imported: list[VideoFeatures] = []  # without their arrays
    num_rounded = 0
    with locked(options.out):
        for name, files in videos.items():
            try:
                video, num_files_rounded = import_video(name, files, counts, options)
                _require_same_kind(video, imported)
            except ExchangeError as error:
                failures.append(FailedVideo(name, str(error)))
                continue
            path = feature_path(options.out, name)
            _require_replaceable(path, video.spec, options.overwrite)
            write_features(path, video)
            imported.append(replace(video, features=video.features[:0], clip_features=None))
            num_rounded += num_files_rounded
        write_failures(options.out, failures)
    for failed in failures:
        log.error("%s: %s", failed.video, failed.reason)
    _warn(imported, num_rounded)
    print(f"imported {len(imported)}")
    return exit_code(len(failures), len(imported))


def _warn(imported: Sequence[VideoFeatures], num_rounded: int) -> None:
    """Warn about limits of the imported videos."""
    if num_rounded:
        log.warning("rounded values from float64 to float32: %s", counted(num_rounded, "file"))
    if others := [video for video in imported if video.views != imported[0].views]:
        log.warning(
            "crops differ from those of %s: %s, such as %s, which has %s",
            imported[0].video.path,
            counted(len(others), "video"),
            others[0].video.path,
            ", ".join(others[0].views),
        )
    if num_unknown := sum(not video.num_frames_decoded for video in imported):
        log.warning(
            "unknown number of frames: %s can be used for training, but not for evaluation "
            "or scoring; give the numbers with --num-frames",
            counted(num_unknown, "video"),
        )


def import_video(
    name: str, files: Files, counts: Counts | None, options: FeaturesImportOptions
) -> tuple[VideoFeatures, int]:
    """Convert the files of a video: sort its views, keep its snippets and pool them into segments.

    Returns:
        The features, and the number of files whose values were rounded.

    Raises:
        ExchangeError: a file cannot be used, or does not match the others or the number of frames.
        UserError: an option is needed because the files lack the information.
    """
    rows, views = _read_views(files, options)
    spec = _spec(files, rows, options)
    count = None if counts is None else find_count(name, counts)
    num_frames = _num_frames(len(rows.features), spec, count)
    segment_frames = segment_ranges(num_frames, spec.num_segments)
    clips = clip_frames = None
    segments = rows.features
    if spec.origin == FROM_SNIPPETS:
        clips, clip_frames = rows.features, spec.grid.frame_ranges(num_frames)
        segments = pool_clips(clips, clip_frames, segment_frames)
    fps = options.fps if count is None or count.fps is None else count.fps
    video = VideoFeatures(
        features=segments.swapaxes(0, 1),
        segment_frames=segment_frames,
        segment_seconds=segment_frames / fps,
        clip_features=clips,
        clip_frames=clip_frames,
        views=views,
        spec=spec,
        time_positions=rows.time_positions,
        channels=segments.shape[2] // rows.time_positions,
        weights_name=UNKNOWN,
        weights_trained=True,
        precision=f"fp{8 * segments.dtype.itemsize}",
        device=UNKNOWN,
        decoder=UNKNOWN,
        video=VideoIdentity(name, num_bytes=0, modified_ns=0, digest=""),
        fps=fps,
        width=0,
        height=0,
        num_frames_decoded=num_frames,
    )
    return video, rows.num_rounded


def _read_views(
    files: Files, options: FeaturesImportOptions
) -> tuple[ForeignRows, tuple[str, ...]]:
    """The rows of all files of a video, and the views of their crops, in our order."""
    parts = [read_rows(path, options.crops_first) for path in files.values()]
    first = parts[0]
    if None in files:
        names = crop_names(options.crops, first.features.shape[1], files[None])
    else:
        first = replace(first, frames_per_row=SNIPPET_FRAMES)
        order = crop_names(options.crops, max(NUM_CROPS), next(iter(files.values())))
        for (crop, path), part in zip(files.items(), parts, strict=True):
            if part.features.shape != (len(first.features), 1, first.features.shape[2]):
                raise ExchangeError(
                    f"{path} differs in shape from the file of the video's first crop: get both "
                    "again"
                )
            if crop is None or crop >= len(order):
                raise ExchangeError(f"{path}: crops are numbered 0 to {len(order) - 1}")
        names = tuple(order[crop] for crop in files if crop is not None)
    features = np.concatenate([part.features for part in parts], axis=1)
    views = in_stored_order(names)
    features = features[:, [names.index(view) for view in views]]
    num_rounded = sum(part.num_rounded for part in parts)
    return replace(first, features=features, num_rounded=num_rounded), views


def _spec(files: Files, rows: ForeignRows, options: FeaturesImportOptions) -> FeatureSpec:
    frames = options.frames_per_snippet or rows.frames_per_row
    are_segments = options.pooled or (rows.are_segments and not options.frames_per_snippet)
    if frames is None and not are_segments:
        raise UserError(
            f"{next(iter(files.values()))} does not specify how many frames a row covers: give "
            f"--frames-per-snippet, which is {SNIPPET_FRAMES} for most programs, or --pooled "
            "if the rows are segments"
        )
    return FeatureSpec(
        backbone=options.backbone,
        endpoint=UNKNOWN,
        weights_digest=UNKNOWN,
        clip_frames=frames or SNIPPET_FRAMES,
        clip_stride=frames or SNIPPET_FRAMES,
        num_segments=options.segments,
        short_side=None,
        interpolation=UNKNOWN,
        origin=FROM_SEGMENTS if are_segments else FROM_SNIPPETS,
    )


def _num_frames(num_rows: int, spec: FeatureSpec, count: FrameCount | None) -> int:
    """The number of frames that the rows of a video cover; 0 if it is not known.

    Programs pad the frames after the last whole snippet or drop them; XD-Violence loses one more
    frame to optical flow. Dropped frames are not covered.

    Raises:
        ExchangeError: the number of rows does not match the number of frames.
    """
    if spec.origin == FROM_SEGMENTS:
        if num_rows != spec.num_segments:
            raise ExchangeError(
                f"it has {num_rows} rows, not one for each of {spec.num_segments} segments: give "
                "--segments, or --frames-per-snippet if the rows are not segments"
            )
        return 0 if count is None else count.num_frames
    most = num_rows * spec.clip_stride
    if count is None:
        return most
    if not most - spec.clip_stride < count.num_frames <= most + spec.clip_stride:
        raise ExchangeError(
            f"it has {num_rows} snippets of {spec.clip_stride} frames, but the video has "
            f"{count.num_frames} frames: check --num-frames and --frames-per-snippet"
        )
    return min(count.num_frames, most)


def _require_same_kind(video: VideoFeatures, imported: list[VideoFeatures]) -> None:
    """Reject a video whose features cannot be used together with those of the first one.

    Raises:
        ExchangeError: lists the differences.
    """
    for first in imported[:1]:
        differences = difference(first.spec, video.spec)
        differences += difference(first, video, ("time_positions", "channels"))
        if differences:
            raise ExchangeError(
                f"it differs in kind from {first.video.path} ({'; '.join(differences)}): import "
                "each kind into its own folder"
            )


def _require_replaceable(path: Path, spec: FeatureSpec, overwrite: bool) -> None:
    """Reject replacing a file of other settings or of another kind, unless the user allows it.

    Raises:
        UserError: a feature file with another spec is there, or a file that is not a feature file.
    """
    try:
        stored = read_identity(path) if path.exists() and not overwrite else None
    except ForeignFileError:
        raise
    except FeatureFileError:
        return
    if stored is not None and stored.spec != spec:
        raise UserError(
            f"{path} already has other settings ({'; '.join(difference(stored.spec, spec))}): "
            "choose another folder, or replace it with --overwrite"
        )
