"""`vigil calibrate`: thresholds by camera that keep a rate of alarms, from ordinary footage."""

import logging
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
    DAY_SECONDS,
    CalibratedThreshold,
    Calibration,
    rate_in_words,
)
from vigil.pipeline.checkpoint import (
    MODEL_NAME,
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
from vigil.pipeline.option_values import Span, read_span
from vigil.pipeline.options import CalibrateOptions
from vigil.pipeline.run_folder import SPLITS_NAME
from vigil.pipeline.scores.alarm_rate import (
    MIN_DAYS,
    Recording,
    allowed_alarms,
    daily_share_interval,
    ordinary_quantiles,
    share_interval,
    threshold_above,
)
from vigil.pipeline.scores.metrics import FloatArray
from vigil.pipeline.scoring.command import FEATURES_FOLDER, scoring_engine
from vigil.pipeline.scoring.footage_hours import check_stated_hours, too_short
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
    span = read_span(options.span)
    checkpoint = load_checkpoint(checkpoint_folder(options.run), options.which)
    target = options.out / options.which
    existing = existing_checkpoint(target)
    if existing is not None and load_config(existing).calibration is None:
        raise UserError(f"--out {options.out} holds a trained checkpoint: give another folder")
    compute = options.compute
    found = without_incidents(find_requested(options.videos, compute), options.annotations)
    check_stated_hours(found.videos, options)
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
        raise UserError(too_short(overall.num_blocks, options))
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
                too_short(own.num_blocks, options),
            )
        cameras[camera] = own
    if min(one.hours for one in cameras.values()) < 24 * MIN_DAYS:
        log.info(
            "cameras with less than %d days have intervals that take days as alike: where they "
            "differ, the rate varies more",
            MIN_DAYS,
        )
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
        interval = daily_share_interval(maxima, num_alarms, per_day)
        interval = interval or share_interval(num_blocks, num_alarms)
        low, high = (per_day * one for one in interval)
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


def save_calibrated(target: Path, checkpoint: Checkpoint, calibration: Calibration) -> None:
    """Write the checkpoint with its calibration, and beside it the videos it was trained on.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    config = replace(checkpoint.config, calibration=calibration)
    save_checkpoint(target, config, checkpoint.folder / MODEL_NAME)
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
