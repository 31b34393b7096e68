"""`vigil score`: score videos with a checkpoint and write a results folder."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from vigil.extract.decode.videos import FoundVideos
from vigil.extract.engine.dispatch import Engine
from vigil.extract.errors import UserError
from vigil.extract.locks import locked
from vigil.extract.networks.weights import Weights
from vigil.extract.store import feature_path
from vigil.extract.versions import installed_versions
from vigil.extract.views import view_names
from vigil.pipeline.checkpoint import Checkpoint, CheckpointConfig, load_checkpoint
from vigil.pipeline.extraction.command import extract_videos, find_requested, rebuild_engine
from vigil.pipeline.failures import exit_code
from vigil.pipeline.options import CalibrateOptions, ScoreOptions
from vigil.pipeline.provenance import as_json, describe_checkpoint
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.video_scoring import UNTRAINED_WARNING, Span, read_span
from vigil.pipeline.scoring.recording_times import check_clock, recording_times
from vigil.pipeline.scoring.report import REPORT_NAME
from vigil.pipeline.scoring.results import Results, by_peak_score
from vigil.pipeline.scoring.score_store import ScoredStore, score_store
from vigil.pipeline.scoring.thresholds import (
    calibration_warnings,
    describe_thresholds,
    read_threshold,
)
from vigil.pipeline.scoring.writers import write_overview

FEATURES_FOLDER = "features"

log = logging.getLogger(__name__)


class Request(NamedTuple):
    """What the options of a command ask for, checked before the first video is read."""

    checkpoint: Checkpoint
    threshold: float | None
    rule: EventRule
    span: Span
    found: FoundVideos
    engine: Engine


def run_score(options: ScoreOptions) -> int:
    """Extract missing features, score every video, write RESULTS and print the report's path.

    Returns:
        The exit code: 0, 3 if some videos failed, or 4 if all did.

    Raises:
        UserError: there are no videos, or the checkpoint, threshold or weights are unusable.
    """
    request = request_of(options)
    if options.dry_run:
        store, overwrite = options.out / FEATURES_FOLDER, options.overwrite
        report = extract_videos(request.found, store, request.engine, overwrite, True)
        return report.exit_code
    results = score_videos(options, request)
    print(options.out / REPORT_NAME)
    return exit_code(len(results.failures), len(results.videos))


def request_of(options: ScoreOptions) -> Request:
    """Load and check everything that options name.

    Raises:
        UserError: as in `run_score`.
    """
    checkpoint = load_checkpoint(options.checkpoint, options.which)
    threshold = read_threshold(options.threshold)
    rule, span = event_rule(options), read_span(options.span)
    check_clock(options.clock)
    found = find_requested(options.videos, options.compute)
    engine = scoring_engine(checkpoint.config, options)
    return Request(checkpoint, threshold, rule, span, found, engine)


def score_videos(options: ScoreOptions, request: Request) -> Results:
    """Extract missing features, score every video, and write RESULTS, which are returned.

    Raises:
        UserError: another run is writing there, or the features are of other settings.
        OSError: the disk is full or the folder cannot be written.
    """
    checkpoint, threshold, rule, span, found, engine = request
    store = options.out / FEATURES_FOLDER
    with locked(options.out, store):
        begun = time.monotonic()
        extraction = extract_videos(found, store, engine, options.overwrite)
        extracted = time.monotonic()
        names = {*extraction.present, *(video.video for video in extraction.extracted)}
        files = {name: feature_path(store, name) for name in sorted(names)}
        sources = {video.name: video.path for video in found.videos}
        checkpoint.model.to(engine.devices[0])
        times = recording_times(options.clock, files, sources)
        scored = score_store(
            checkpoint, files, options.out, threshold, engine.views, sources, times, span, rule
        )
        scored = replace(scored, failures=(*extraction.failures, *scored.failures))
        timings = {"extraction": extracted - begun, "scoring": time.monotonic() - extracted}
        warnings = [] if checkpoint.config.weights_trained else [UNTRAINED_WARNING]
        calibration = checkpoint.config.calibration
        if calibration is not None and threshold is None:
            drifted = calibration_warnings(calibration, scored.results, engine.views, options.span)
            for warning in drifted:
                log.warning("%s", warning)
            warnings += drifted
        return finish_results(options, checkpoint, threshold, scored, timings, warnings)


def event_rule(options: ScoreOptions) -> EventRule:
    """What counts as an event by the options of the command, but for the threshold.

    Raises:
        UserError: one of them is out of range.
    """
    rule = EventRule(
        keep_share=options.keep_share,
        join_seconds=options.join_seconds,
        min_seconds=options.min_seconds,
    )
    if not 0 <= rule.keep_share <= 1:
        raise UserError(f"keep-share {rule.keep_share:g} is not a share: use 0 to 1, such as 0.5")
    for name in ("join_seconds", "min_seconds"):
        if not 0 <= getattr(rule, name) < math.inf:
            flag = name.replace("_", "-")
            raise UserError(f"{flag} {getattr(rule, name):g} is not a length: use 0 or more")
    return rule


def scoring_engine(config: CheckpointConfig, options: ScoreOptions | CalibrateOptions) -> Engine:
    """Build the engine that extracts features like those the checkpoint was trained on.

    Raises:
        UserError: the backbone's weights are unavailable, or not those used for training.
    """
    used = Weights(config.weights_name, config.spec.weights_digest, config.weights_trained)
    views = view_names(options.views)
    keep_clips = config.recipe.features.needs_clips or options.span != "whole"
    return rebuild_engine(config.spec, used, options.weights, views, options.compute, keep_clips)


def finish_results(
    options: ScoreOptions,
    checkpoint: Checkpoint,
    threshold: float | None,
    scored: ScoredStore,
    timings_seconds: Mapping[str, float],
    warnings: Sequence[str] = (),
) -> Results:
    """Write everything in RESULTS except the files of single videos, and return all of it.

    Args:
        options: options of the command.
        checkpoint: the checkpoint that scored the videos.
        threshold: that of the command line, if any.
        scored: all requested videos, including those that failed before scoring.
        timings_seconds: name of a stage -> its duration.
        warnings: about all videos, a sentence each.
    """
    config, results = checkpoint.config, scored.results
    content = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_thresholds(config, (result.video for result in results), threshold),
        "settings": as_json(options),
        "checkpoint": describe_checkpoint(checkpoint),
        "versions": installed_versions(),
        "counts": {
            "videos": len(results) + len(scored.failures),
            "failed": len(scored.failures),
            "with_events": sum(bool(result.events) for result in results),
            "events": sum(len(result.events) for result in results),
            "frames": sum(result.num_frames_decoded for result in results),
        },
        "timings_seconds": dict(timings_seconds),
        "warnings": list(warnings),
    }
    all_results = Results(content, tuple(by_peak_score(results)), scored.failures)
    write_overview(options.out, all_results)
    return all_results
