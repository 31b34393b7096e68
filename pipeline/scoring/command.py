"""`vigil score`: score videos with a checkpoint and write a results folder."""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from vigil.extract.decode.videos import FoundVideos
from vigil.extract.engine.album import album_folder, remove_album
from vigil.extract.engine.dispatch import Engine
from vigil.extract.errors import FailedVideo, UserError, counted
from vigil.extract.locks import locked
from vigil.extract.networks.weights import Weights
from vigil.extract.versions import installed_versions
from vigil.extract.views import view_names
from vigil.pipeline.checkpoint import Checkpoint, CheckpointConfig, load_checkpoint
from vigil.pipeline.extraction.command import (
    extract_videos,
    find_requested,
    here,
    rebuild_engine,
    refuse_cluster,
    where,
)
from vigil.pipeline.failures import exit_code, read_failures
from vigil.pipeline.option_checks import wants_clips
from vigil.pipeline.option_values import Span, read_span, read_threshold
from vigil.pipeline.options import CalibrateOptions, ScoreOptions, WatchOptions
from vigil.pipeline.progress import tell
from vigil.pipeline.provenance import as_json, describe_checkpoint
from vigil.pipeline.recorder_names import CREATION
from vigil.pipeline.result_formats import read_formats
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.video_scoring import UNTRAINED_WARNING
from vigil.pipeline.scoring.clips import add_clips, lacks_clips
from vigil.pipeline.scoring.found_table import print_found
from vigil.pipeline.scoring.recording_times import recording_times
from vigil.pipeline.scoring.report.page import REPORT_NAME
from vigil.pipeline.scoring.results import Results, by_peak_score
from vigil.pipeline.scoring.score_store import Scorer
from vigil.pipeline.scoring.strips import THUMBNAILS_FOLDER, album_of
from vigil.pipeline.scoring.thresholds import (
    calibration_warnings,
    describe_thresholds,
)
from vigil.pipeline.scoring.writers import remove_overview, write_overview
from vigil.pipeline.starter import checkpoint_folder, describe_starter, is_starter

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
    formats: tuple[str, ...]


def run_score(options: ScoreOptions) -> int:
    """Extract missing features, score every video, write RESULTS and print the report's path.

    Returns:
        The exit code: 0, 3 if some videos failed or lack clips, or 4 if all failed.

    Raises:
        UserError: there are no videos, or the checkpoint, threshold or weights are unusable.
    """
    request = request_of(options)
    if options.dry_run:
        store, overwrite = options.out / FEATURES_FOLDER, options.overwrite
        report = extract_videos(request.found, store, request.engine, overwrite, True)
        return report.exit_code
    results = score_videos(options, request)
    print_found(results)
    print(shown(options.out, request.formats))
    num_without_clips = sum(lacks_clips(result) for result in results.videos)
    return exit_code(len(results.failures) + num_without_clips, len(results.videos))


def request_of(options: ScoreOptions) -> Request:
    """Load and check everything that options name.

    Raises:
        UserError: as in `run_score`.
    """
    trained = load_checkpoint(checkpoint_folder(options.checkpoint), options.which)
    checkpoint = trained.with_static(options.static)
    if is_starter(checkpoint.model_digest):
        log.info("%s", describe_starter(checkpoint.config.class_names))
    threshold = read_threshold(options.threshold)
    rule = EventRule(
        keep_share=options.keep_share,
        join_seconds=options.join_seconds,
        min_seconds=options.min_seconds,
    )
    formats = read_formats(options.format)
    found = find_requested(options.videos, options.compute, may_fetch=True)
    refuse_cluster(options.cluster, found)
    _refuse_remote(options, found)
    engine = scoring_engine(checkpoint.config, options)
    return Request(checkpoint, threshold, rule, read_span(options.span), found, engine, formats)


def _refuse_remote(options: ScoreOptions, found: FoundVideos) -> None:
    """Refuse remote videos with options that need more than their features.

    Raises:
        UserError: names the option, and says what to do.
    """
    remote = next((one.origin for one in found.videos if one.remote is not None), None)
    needs = {"--clips": wants_clips(options), "--clock creation": options.clock == CREATION}
    for option, is_set in needs.items():
        if remote is not None and is_set:
            raise UserError(
                f"{option} reads the videos themselves, and remote ones, such as {remote}, are "
                "here only while features are extracted: score without it, copy the videos with "
                "events to a folder with the same names, and score that folder into the same OUT; "
                "its features are used again"
            )


def score_videos(options: ScoreOptions, request: Request) -> Results:
    """Score every video as soon as its features are there, and write RESULTS, which are returned.

    If it is interrupted, RESULTS hold what is done, or still an earlier run's if nothing is.

    Raises:
        UserError: another run is writing there, or the features are of other settings.
        OSError: the disk is full or the folder cannot be written.
    """
    checkpoint, threshold, rule, span, found, engine, formats = request
    store = options.out / FEATURES_FOLDER
    sources = {video.name: video.origin for video in found.videos}
    paths = {video.name: video.path for video in found.videos}
    with locked(options.out, store):
        begun = time.monotonic()
        checkpoint.model.to(engine.devices[0])
        times = recording_times(options.clock, paths, paths)
        scorer = Scorer(
            checkpoint, options.out, threshold, engine.views, sources, times, span, rule, formats
        )

        def score(video: str, path: Path) -> None:
            if not scorer.num_done:
                remove_overview(options.out)  # of an earlier run, whose results are replaced now
            if not options.thumbnails:
                remove_album(album_folder(options.out / THUMBNAILS_FOLDER, video))
            scorer.score(video, path)
            tell("scoring", scorer.num_done, len(found.videos))

        def finish(failed: Sequence[FailedVideo], *warnings: str) -> Results:
            scorer.failures += failed
            extraction = time.monotonic() - begun - scorer.seconds
            seconds = {"extraction": extraction, "scoring": scorer.seconds}
            return finish_results(options, scorer, seconds, warnings)

        tell("scoring", 0, len(found.videos))
        try:
            with where(options, engine, store, found) as there:
                report = extract_videos(
                    found,
                    store,
                    there,
                    options.overwrite,
                    when_ready=score,
                    fetch_gib=options.fetch_gib,
                )
        except KeyboardInterrupt:
            if scorer.num_done:
                done, total = len(scorer.results), counted(len(found.videos), "video")
                finish(read_failures(store), f"Interrupted: {done} of {total} were scored.")
                holder = "report shows" if "html" in formats else "results hold"
                log.info("the %s what is done: %s", holder, shown(options.out, formats))
            raise
        results = finish(report.failures)
        if options.thumbnails:
            _tell_of_missing_thumbnails(options.out, report.present)
        return with_clips(options, results, formats) if wants_clips(options) else results


def _tell_of_missing_thumbnails(folder: Path, present: Collection[str]) -> None:
    num_without = sum(album_of(folder, video) is None for video in present)
    if num_without:
        log.info(
            "no thumbnails of %s: they are taken while features are extracted, and these were "
            "there already; remove %s to have both made",
            counted(num_without, "video"),
            folder / FEATURES_FOLDER,
        )


def with_clips(options: ScoreOptions, results: Results, formats: Collection[str]) -> Results:
    """Write the clips of all events, and the files that name them again."""
    videos = add_clips(options.out, results.videos, options.clip_margin, options.annotate)
    clipped = replace(results, videos=tuple(videos))
    write_overview(options.out, clipped, formats)
    return clipped


def shown(folder: Path, formats: Collection[str]) -> Path:
    """Where to look at results: the report, or RESULTS if it was not asked for."""
    return folder / REPORT_NAME if "html" in formats else folder


def scoring_engine(
    config: CheckpointConfig, options: ScoreOptions | CalibrateOptions | WatchOptions
) -> Engine:
    """Build the engine that extracts features like those the checkpoint was trained on.

    Raises:
        UserError: the backbone's weights are unavailable, or not those used for training.
    """
    used = Weights(config.weights_name, config.spec.weights_digest, config.weights_trained)
    views = view_names(options.views)
    keep_clips = config.recipe.features.needs_clips or options.span != "whole"
    compute = here(options) if isinstance(options, ScoreOptions) else options.compute
    engine = rebuild_engine(config.spec, used, options.weights, views, compute, keep_clips)
    if not isinstance(options, CalibrateOptions) and options.thumbnails:
        return replace(engine, thumbnails=options.out / THUMBNAILS_FOLDER)
    return engine


def finish_results(
    options: ScoreOptions,
    scorer: Scorer,
    timings_seconds: Mapping[str, float],
    warnings: Sequence[str] = (),
) -> Results:
    """Write everything in RESULTS except the files of single videos, and return all of it.

    Args:
        options: options of the command.
        scorer: with all requested videos, including those that failed before scoring.
        timings_seconds: name of a stage -> its duration.
        warnings: about all videos, a sentence each; warnings about the detector are added.
    """
    drifted = drift_warnings(scorer, options.span)
    for warning in drifted:
        log.warning("%s", warning)
    finished = results_of(options, scorer, timings_seconds, warnings, drifted)
    write_overview(options.out, finished, scorer.formats)
    return finished


def results_of(
    options: ScoreOptions | WatchOptions,
    scorer: Scorer,
    timings_seconds: Mapping[str, float],
    warnings: Sequence[str],
    drifted: Sequence[str],
) -> Results:
    """All of RESULTS as `finish_results` writes it, with the warnings of `drift_warnings`."""
    config, results = scorer.checkpoint.config, by_peak_score(scorer.results)
    failures = sorted(scorer.failures, key=lambda failed: failed.video)
    content = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_thresholds(config, (result.video for result in results), scorer.threshold),
        "settings": as_json(options),
        "checkpoint": describe_checkpoint(scorer.checkpoint),
        "versions": installed_versions(),
        "counts": {
            "videos": len(results) + len(failures),
            "failed": len(failures),
            "with_events": sum(bool(result.events) for result in results),
            "events": sum(len(result.events) for result in results),
            "frames": sum(result.num_frames_decoded for result in results),
        },
        "timings_seconds": dict(timings_seconds),
        "warnings": [*warnings, *_detector_warnings(scorer), *drifted],
    }
    return Results(content, tuple(results), tuple(failures))


def _detector_warnings(scorer: Scorer) -> list[str]:
    """What to know of the detector before its scores are trusted, a sentence each."""
    config = scorer.checkpoint.config
    warnings = [] if config.weights_trained else [UNTRAINED_WARNING]
    if is_starter(scorer.checkpoint.model_digest):
        warnings.append(describe_starter(config.class_names))
    return warnings


def drift_warnings(scorer: Scorer, span: str) -> list[str]:
    """Reasons why the calibrated rate of alarms may not hold for the scorer's results."""
    calibration = scorer.checkpoint.config.calibration
    if calibration is None or scorer.threshold is not None or scorer.views is None:
        return []
    return calibration_warnings(calibration, scorer.results, scorer.views, span)
