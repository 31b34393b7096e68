"""`vigil calibrate`: thresholds by camera that keep a rate of alarms, from ordinary footage."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vigil.data.annotations import load_annotations
from vigil.data.matching import match_videos
from vigil.extract.decode.videos import FoundVideos
from vigil.extract.errors import FailedVideo, UserError, counted
from vigil.extract.locks import locked
from vigil.extract.store import feature_path, open_features
from vigil.pipeline.calibration import (
    CalibratedThreshold,
    Calibration,
    check_camera,
    rate_in_words,
)
from vigil.pipeline.checkpoint import (
    Checkpoint,
    existing_checkpoint,
    load_checkpoint,
    load_config,
    save_checkpoint,
)
from vigil.pipeline.evaluation.command import used_in_training
from vigil.pipeline.extraction.command import extract_videos, find_requested
from vigil.pipeline.failures import exit_code
from vigil.pipeline.logs import print_table
from vigil.pipeline.options import CalibrateOptions
from vigil.pipeline.run_folder import SPLITS_NAME
from vigil.pipeline.scores.alarm_rate import (
    DAY_SECONDS,
    Recording,
    allowed_alarms,
    needed_blocks,
    ordinary_quantiles,
    share_interval,
    threshold_above,
)
from vigil.pipeline.scores.metrics import FloatArray
from vigil.pipeline.scores.video_scoring import Span, read_span
from vigil.pipeline.scoring.command import FEATURES_FOLDER, scoring_engine
from vigil.pipeline.scoring.thresholds import camera_maxima, ordinary_scores
from vigil.pipeline.starter import checkpoint_folder
from vigil.pipeline.text_files import write_text

log = logging.getLogger(__name__)


def run_calibrate(options: CalibrateOptions) -> int:
    """Extract missing features, score the footage, and write the calibrated checkpoint.

    Returns:
        The exit code: 0, 3 if some videos failed, or 4 if all did.

    Raises:
        UserError: the footage is too short for the asked rate, there are no videos, or an option,
            the checkpoint or the weights are unusable.
    """
    check_options(options)
    span = read_span(options.span)
    checkpoint = load_checkpoint(checkpoint_folder(options.run), options.which)
    target = options.out / options.which
    existing = existing_checkpoint(target)
    if existing is not None and load_config(existing).calibration is None:
        raise UserError(f"--out {options.out} holds a trained checkpoint: give another folder")
    compute = options.compute
    found = without_incidents(find_requested(options.videos, compute), options.annotations)
    engine = scoring_engine(checkpoint.config, options)
    store = options.out / FEATURES_FOLDER
    with locked(options.out, store):
        extraction = extract_videos(found, store, engine, options.overwrite)
        names = {*extraction.present, *(video.video for video in extraction.extracted)}
        if known := used_in_training(checkpoint, names):
            log.warning(
                "found %s named like a training video, such as %s: if they are the same videos, "
                "the thresholds are too low, so leave them out",
                counted(len(known), "video"),
                min(known),
            )
        checkpoint.model.to(engine.devices[0])
        files = {name: feature_path(store, name) for name in sorted(names)}
        recordings, failures = score_footage(checkpoint, files, engine.views, span)
        if recordings:
            calibration = calibrate(recordings, options, engine.views)
            save_calibrated(target, checkpoint, calibration)
            print_calibration(calibration)
    return exit_code(len(extraction.failures) + len(failures), len(recordings))


def check_options(options: CalibrateOptions) -> None:
    """Refuse options that no footage can meet, before anything is computed.

    Raises:
        UserError: names the option, its value and what is allowed.
    """
    alarms, seconds = options.alarms_per_day, options.block_seconds
    if not 1 <= seconds <= DAY_SECONDS:
        raise UserError(f"--block-seconds {seconds:g} is not a number from 1 to {DAY_SECONDS:g}")
    if not 0 < alarms < DAY_SECONDS / seconds:
        raise UserError(
            f"--alarms-per-day {alarms:g} is not above 0 and below {DAY_SECONDS / seconds:g}, the "
            f"number of blocks of {seconds:g} s in a day: ask for fewer, or shorten --block-seconds"
        )
    try:
        check_camera(options.camera)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def without_incidents(found: FoundVideos, label_files: Sequence[Path]) -> FoundVideos:
    """The same videos without those that label files give any class but normal.

    Raises:
        UserError: the files name none of the videos, or all of them are left out.
    """
    if not label_files:
        return found
    names = [video.name for video in found.videos]
    labels = match_videos(load_annotations(label_files), names).annotations
    ordinary = tuple(
        video
        for video in found.videos
        if video.name not in labels or not labels[video.name].is_anomalous
    )
    if not ordinary:
        raise UserError("the annotations call every video anomalous: give ordinary footage, too")
    num_left_out = len(names) - len(ordinary)
    log.info("left out %s with another class than Normal", counted(num_left_out, "video"))
    return replace(found, videos=ordinary)


def score_footage(
    checkpoint: Checkpoint, files: Mapping[str, Path], views: tuple[str, ...], span: Span
) -> tuple[dict[str, Recording], list[FailedVideo]]:
    """Score each feature file: video -> its scores, and those that cannot be scored."""
    recordings, failures = {}, []
    for video, path in files.items():
        try:
            with open_features(path) as features:
                recordings[video] = ordinary_scores(checkpoint, video, features, views, span)
        except UserError as error:
            log.error("%s", error)
            failures.append(FailedVideo(video, str(error)))
    return recordings, failures


def calibrate(
    recordings: Mapping[str, Recording], options: CalibrateOptions, views: tuple[str, ...]
) -> Calibration:
    """Set the threshold of each camera, and of all together, from the scores of ordinary footage.

    A camera whose footage is too short for the asked rate has no threshold of its own.

    Args:
        recordings: video -> its scores.
        options: options of the command.
        views: views that the scores are averaged over.

    Raises:
        UserError: all footage together is too short, or its scores are at their limit.
    """
    by_camera = camera_maxima(recordings, options.camera, options.block_seconds)
    pooled = np.concatenate([maxima for maxima, _ in by_camera.values()])
    overall = calibrate_threshold("all cameras", pooled, options)
    if overall.threshold is None:
        raise UserError(too_short(overall, options))
    cameras = {}
    for camera, (maxima, rest) in by_camera.items():
        own = calibrate_threshold(f"camera {camera!r}", maxima, options)
        if rest >= 1:
            log.info("camera %r: left out %.0f s at the end, less than a block", camera, rest)
        if own.threshold is None:
            log.warning(
                "camera %r uses the threshold of all cameras, which keeps the rate on their "
                "average only: %s",
                camera,
                too_short(own, options),
            )
        cameras[camera] = own
    return Calibration(
        alarms_per_day=options.alarms_per_day,
        block_seconds=options.block_seconds,
        camera=options.camera,
        views=views,
        span=options.span,
        cameras=cameras,
        overall=overall,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def calibrate_threshold(
    whose: str, maxima: FloatArray, options: CalibrateOptions
) -> CalibratedThreshold:
    """The threshold that keeps the asked rate on blocks like those with these maxima (n,).

    Raises:
        UserError: too many maxima are 1, so that no threshold up to 1 keeps the rate.
    """
    num_blocks, per_day = len(maxima), DAY_SECONDS / options.block_seconds
    num_alarms = allowed_alarms(num_blocks, options.alarms_per_day / per_day)
    threshold = low = high = None
    if num_alarms:
        threshold = threshold_above(maxima, num_alarms)
        low, high = (per_day * one for one in share_interval(num_blocks, num_alarms))
        if threshold > 1:
            num_certain = int((maxima >= 1).sum())
            raise UserError(
                f"{whose}: {num_certain} of {num_blocks} blocks have the highest score, 1, so no "
                f"threshold keeps {rate_in_words(options.alarms_per_day)}: train with such footage "
                "as Normal, or leave out the cameras that score so"
            )
    return CalibratedThreshold(
        threshold=threshold,
        hours=num_blocks * options.block_seconds / 3600,
        num_blocks=num_blocks,
        num_alarms=num_alarms,
        alarms_per_day_low=low,
        alarms_per_day_high=high,
        quantiles=ordinary_quantiles(maxima, per_day) if num_blocks else (),
    )


def too_short(found: CalibratedThreshold, options: CalibrateOptions) -> str:
    """Why footage carries no threshold: its hours, those needed, and the rate that it carries."""
    seconds = options.block_seconds
    needed = needed_blocks(options.alarms_per_day * seconds / DAY_SECONDS) * seconds / 3600
    carried = math.ceil(1000 * DAY_SECONDS / seconds / (found.num_blocks + 1)) / 1000
    return (
        f"{found.hours:.2f} hours of footage (whole blocks of {seconds:g} s) are too short for "
        f"{rate_in_words(options.alarms_per_day)}: give at least {math.ceil(10 * needed) / 10:g} "
        f"hours, or ask for at least {carried:g} alarms a day"
    )


def save_calibrated(target: Path, checkpoint: Checkpoint, calibration: Calibration) -> None:
    """Write the checkpoint with its calibration, and beside it the videos it was trained on.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    config = replace(checkpoint.config, calibration=calibration)
    save_checkpoint(target, config, checkpoint.model)
    splits = checkpoint.folder.absolute().parent / SPLITS_NAME
    if splits.is_file():
        write_text(target.parent / SPLITS_NAME, splits.read_text(encoding="utf-8"))


def print_calibration(calibration: Calibration) -> None:
    """Print a row for each camera, and one for all together."""
    rows = {**calibration.cameras, "(all cameras)": calibration.overall}
    print_table(
        ("camera", "hours", "threshold", "alarms a day", "95 % interval"),
        (
            (camera, f"{one.hours:.1f}", "of all cameras", "", "")
            if one.threshold is None
            else (
                camera,
                f"{one.hours:.1f}",
                f"{one.threshold:.6f}",
                f"{calibration.alarms_per_day:g}",
                f"{one.alarms_per_day_low:.2f} to {one.alarms_per_day_high:.2f}",
            )
            for camera, one in rows.items()
        ),
    )
