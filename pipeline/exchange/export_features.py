"""`vigil features export`: write our features as files for RTFM, UR-DMU and similar programs.

The export holds a file for each video, rows (T, V, D), or for each of its crops, (T, D); a list of
the files, anomalous videos first; the truth of every frame; and the numbers of frames, with which
`vigil features import` reads everything back.
Legend: T rows, V views, S segments, D values of a row.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vigil.data.annotations import Annotation, frame_truth, labels_from_folders, load_annotations
from vigil.data.matching import match_videos
from vigil.extract.clips import ClipGrid
from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.files import path_below, replace_file
from vigil.extract.locks import locked
from vigil.extract.sealed import FeatureFileError
from vigil.extract.segments import range_centres, segment_of_clips
from vigil.extract.spec import FeatureSpec
from vigil.extract.store import VideoFeatures, list_features, read_features, read_identity
from vigil.pipeline.exchange.foreign_files import ExchangeError, exported_crops
from vigil.pipeline.exchange.sources import COUNT_HEADER
from vigil.pipeline.failures import exit_code, write_failures
from vigil.pipeline.options import CropOrder, FeaturesExportOptions

FEATURES_FOLDER = "features"
LIST_NAME, COUNTS_NAME, TRUTH_NAME = "rgb.list", "num_frames.csv", "gt.npy"
SUFFIX = "_i3d.npy"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """One exported video."""

    annotation: Annotation
    paths: tuple[Path, ...]
    """One, or one for each crop."""
    spec: FeatureSpec
    num_rows: int
    num_frames: int
    fps: float


def run_export(options: FeaturesExportOptions) -> int:
    """Write the features of all labelled videos; print how many there are and the path of the list.

    Returns:
        The exit code: 0, or 3 if some videos failed, 4 if all did.

    Raises:
        UserError: there are no features, none have clips, or the labels do not match them.
    """
    if options.frames_per_snippet < 1:
        raise UserError(f"--frames-per-snippet {options.frames_per_snippet} is below 1: use 16")
    files, given = list_features(options.features), options.annotations
    labels = load_annotations(given) if given else labels_from_folders(files)
    matching = match_videos(labels, files)
    for problem in matching.problems:
        log.warning("%s", problem)
    annotations = sorted(matching.annotations.values(), key=lambda one: not one.is_anomalous)
    if not options.pooled:
        _require_clips(options.features, [files[one.video] for one in annotations])
    order: CropOrder = options.crops or ("vigil" if options.file_per_crop else "rtfm")
    exported: list[Exported] = []
    failures: list[FailedVideo] = []
    crops: tuple[str, ...] = ()
    with locked(options.out):
        for annotation in annotations:
            try:
                video = read_features(files[annotation.video])
                crops = crops or exported_crops(order, video.views)
                exported.append(export_video(annotation, video, crops, options))
            except UserError as error:
                log.error("%s: %s", annotation.video, error)
                failures.append(FailedVideo(annotation.video, str(error)))
        write_failures(options.out, failures)
        _write_overview(exported, options)
    _summarise(exported, crops, options)
    return exit_code(len(failures), len(exported))


def _require_clips(store: Path, paths: Sequence[Path]) -> None:
    """Reject a store in which no file holds clips, instead of reporting every file."""
    for path in paths:
        try:
            if read_identity(path).clip_features is not None:
                return
        except FeatureFileError:
            return  # not known; its export reports what is wrong
    raise UserError(
        f"{store} holds no clips, only segments: extract with --keep-clips, or export the segments "
        "with --pooled"
    )


def export_video(
    annotation: Annotation,
    video: VideoFeatures,
    crops: Sequence[str],
    options: FeaturesExportOptions,
) -> Exported:
    """Write the rows of one video in their stored type: (T, V, D), or (T, D) for each crop.

    Raises:
        UserError: a view or the clips are missing, values are not finite, or lists cannot hold the
            name.
    """
    folder, name = options.out.absolute() / FEATURES_FOLDER, annotation.video
    whole = path_below(folder, name + SUFFIX)
    if len(str(whole).splitlines()) != 1:
        raise ExchangeError("its name has a line break, which lists do not allow: rename it")
    if options.file_per_crop and len(str(whole).split()) != 1:
        raise ExchangeError(
            f"{whole} contains a space, at which UR-DMU splits the lines of its lists: rename it, "
            "or export without --file-per-crop"
        )
    segments = video.select_views(crops)
    rows = segments.swapaxes(0, 1)
    if not options.pooled:
        rows = export_rows(video, crops, options.frames_per_snippet)
    arrays = {whole: rows}
    if options.file_per_crop:
        arrays = {folder / f"{name}__{crop}.npy": rows[:, crop] for crop in range(len(crops))}
    for path, array in arrays.items():
        with replace_file(path) as partial, partial.open("wb") as file:
            np.save(file, np.ascontiguousarray(array))
    num_frames, paths = video.num_frames_decoded, tuple(arrays)
    return Exported(annotation, paths, video.spec, len(rows), num_frames, video.fps)


def export_rows(
    video: VideoFeatures, crops: Sequence[str], frames_per_row: int
) -> npt.NDArray[np.floating]:
    """(T, V, D): row i covers the frames [i * frames_per_row, ...), up to the last frame.

    A row is the maximum over the clips whose centre lies in it. If there are none, it is the clip
    around its own centre. Clips of this length without gaps or overlap are exported unchanged.

    Raises:
        ExchangeError: the clips were not kept, or are not finite.
    """
    clip_frames = video.clip_frames
    if video.clip_features is None or clip_frames is None:
        raise ExchangeError(
            "its clips were not kept: extract it with --keep-clips, or export all segments with "
            "--pooled"
        )
    clips = video.clip_features[:][:, [video.views.index(crop) for crop in crops]]
    if not np.isfinite(clips).all():
        raise ExchangeError("its clips are not finite: extract it again")
    row_frames = ClipGrid(frames_per_row, frames_per_row).frame_ranges(video.num_frames_decoded)
    owners, clip_centres = segment_of_clips(clip_frames, row_frames), range_centres(clip_frames)
    rows = np.empty((len(row_frames), *clips.shape[1:]), clips.dtype)
    for row, centre in enumerate(range_centres(row_frames)):
        chosen = np.flatnonzero(owners == row)
        if not len(chosen):
            around = np.flatnonzero((clip_frames[:, 0] <= centre) & (centre < clip_frames[:, 1]))
            chosen = around[[np.argmin(np.abs(clip_centres[around] - centre))]]
        rows[row] = clips[chosen].max(axis=0)
    return rows


def _write_overview(exported: Sequence[Exported], options: FeaturesExportOptions) -> None:
    """Write the list and the numbers of frames; and the truth, if it is known for rows of clips."""
    with (
        replace_file(options.out / LIST_NAME) as partial,
        partial.open("w", errors="surrogateescape") as file,
    ):
        file.writelines(f"{path}\n" for one in exported for path in one.paths)
    with (
        replace_file(options.out / COUNTS_NAME) as partial,
        partial.open("w", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COUNT_HEADER)
        for one in exported:
            if one.num_frames:
                writer.writerow((one.annotation.video, one.num_frames, one.fps))
    (options.out / TRUTH_NAME).unlink(missing_ok=True)
    is_known = all(not one.annotation.is_anomalous or one.annotation.intervals for one in exported)
    if exported and is_known and not options.pooled:
        truth = [row_truth(one, options.frames_per_snippet) for one in exported]
        with replace_file(options.out / TRUTH_NAME) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(truth))


def row_truth(one: Exported, frames_per_row: int) -> npt.NDArray[np.float64]:
    """(T x frames_per_row,) 1 for an anomalous frame; the last frame pads the last row."""
    truth = frame_truth(one.annotation, one.num_frames)
    missing = one.num_rows * frames_per_row - one.num_frames
    return np.pad(truth, (0, missing), mode="edge").astype(np.float64)


def _summarise(
    exported: Sequence[Exported], crops: Sequence[str], options: FeaturesExportOptions
) -> None:
    """Report what was written, and what the files lack."""
    num_anomalous = sum(one.annotation.is_anomalous for one in exported)
    print(f"exported {len(exported)}")
    print(f"anomalous {num_anomalous}")
    print(f"normal {len(exported) - num_anomalous}")
    print(f"list {options.out / LIST_NAME}")
    if not exported:
        return
    num_frames, spec = options.frames_per_snippet, exported[0].spec
    if options.pooled:
        log.warning(
            "each row is a segment: these files suit training, but the programs' tests need clips"
        )
    elif (spec.clip_frames, spec.clip_stride) != (num_frames, num_frames):
        log.warning(
            "clips have %d frames, every %d: a row is the clip around its %d frames, so the clips "
            "cannot be recovered from the rows",
            spec.clip_frames,
            spec.clip_stride,
            num_frames,
        )
    elif spec.frame_rate is not None:
        log.warning(
            "clips have %g frames a second: a row is the clip around its %d frames of the video, "
            "so the clips cannot be recovered from the rows",
            spec.frame_rate,
            num_frames,
        )
    log.info("crops: %s", ", ".join(crops))
    log.info("these files lack spec, weights, identity and damage of the videos, times of frames")
