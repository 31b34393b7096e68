"""One run of `vigil watch`: its parts, from the first to the last moment."""

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from vigil.extract.decode.live import LiveSource
from vigil.extract.decode.videos import parse_extensions
from vigil.extract.engine.dispatch import Engine
from vigil.extract.errors import UserError
from vigil.extract.locks import locked
from vigil.pipeline.calibration import FOLDER, camera_of
from vigil.pipeline.camera_addresses import filled_in
from vigil.pipeline.checkpoint import Checkpoint, load_checkpoint
from vigil.pipeline.option_checks import wants_clips
from vigil.pipeline.option_values import read_span, read_threshold
from vigil.pipeline.options import WatchOptions
from vigil.pipeline.recorder_names import CREATION, NONE
from vigil.pipeline.result_formats import read_formats
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scoring.command import FEATURES_FOLDER, scoring_engine, shown
from vigil.pipeline.scoring.recording_times import find_time
from vigil.pipeline.scoring.results import MANIFEST_NAME
from vigil.pipeline.scoring.score_store import Scorer
from vigil.pipeline.scoring.thresholds import threshold_for
from vigil.pipeline.starter import checkpoint_folder, describe_starter, is_starter
from vigil.pipeline.watching.cameras import Cameras
from vigil.pipeline.watching.delivery import start_delivery
from vigil.pipeline.watching.event_alarms import local_start
from vigil.pipeline.watching.folder_search import FolderSearch
from vigil.pipeline.watching.free_space import FreeSpace
from vigil.pipeline.watching.ledger import LEDGER_NAME, Ledger
from vigil.pipeline.watching.metrics import Gauges, MetricsServer
from vigil.pipeline.watching.overview import Overview
from vigil.pipeline.watching.recorder_folder import RecorderFolders
from vigil.pipeline.watching.records import Records
from vigil.pipeline.watching.retention import Retention, remove_empty_folders
from vigil.pipeline.watching.scoring_loop import GIVEN_FOR_CAMERA, ScoringLoop
from vigil.pipeline.watching.seen_files import SEEN_NAME, SeenFiles
from vigil.pipeline.watching.sinks.sink import Sink
from vigil.pipeline.watching.stream_album import AlbumSettings
from vigil.pipeline.watching.stream_clips import ClipSettings
from vigil.pipeline.watching.streams import StreamFollower, StreamSettings

STREAM_MINUTES = 2.0
"""/healthz reports a stream of which no clip was scored for so long."""
GRACE_SECONDS = 5.0
"""In which alarms that are due are still delivered at the end."""

log = logging.getLogger(__name__)


def watch(options: WatchOptions, cameras: Cameras, sinks: Sequence[Sink]) -> int:
    """Watch until interrupted, or with --once until all that is complete is scored.

    Returns:
        The exit code, as of `run_watch`.

    Raises:
        UserError: the checkpoint is unusable, or RESULTS are of something else.
    """
    trained = load_checkpoint(checkpoint_folder(options.checkpoint), options.which)
    checkpoint = trained.with_static(options.static)
    if is_starter(checkpoint.model_digest):
        log.info("%s", describe_starter(checkpoint.config.class_names))
    engine = scoring_engine(checkpoint.config, options)
    if not engine.weights.trained:
        log.warning("the backbone's weights are RANDOM: the scores mean nothing")
    if (options.out / MANIFEST_NAME).exists() and not (options.out / LEDGER_NAME).exists():
        raise UserError(
            f"{options.out} holds the results of vigil score: choose another folder for --out"
        )
    with locked(options.out, options.out / FEATURES_FOLDER), ExitStack() as stack:
        loop = _start(options, cameras, sinks, checkpoint, engine, stack)
        try:
            code = loop.run()
            loop.streams.finish(None)
        except KeyboardInterrupt as stop:
            loop.streams.finish()
            why = str(stop) or "interrupted"
            log.info("%s: what was being scored is scored again by the next run", why)
            loop.records.overview.refresh(now=True)
            if options.once:
                raise
            code = 0
        else:
            loop.records.overview.refresh(now=True)
    counts = [f"{number} {outcome}" for outcome, number in sorted(loop.records.outcomes.items())]
    log.info("recordings: %s", ", ".join(counts) or "none")
    print(shown(options.out, loop.scorer.formats))
    return code


def _start(
    options: WatchOptions,
    cameras: Cameras,
    sinks: Sequence[Sink],
    checkpoint: Checkpoint,
    engine: Engine,
    stack: ExitStack,
) -> ScoringLoop:
    """Start all threads, and return the loop that the main thread runs; the stack ends them."""
    out, store = options.out, options.out / FEATURES_FOLDER
    remove_empty_folders(store)
    checkpoint.model.to(engine.devices[0])
    scorer = _scorer(options, checkpoint, engine)
    seen = stack.enter_context(closing(SeenFiles(out / SEEN_NAME)))
    names = [sink.name for sink in sinks]
    ledger = Ledger(out / LEDGER_NAME, names, lambda camera: cameras.settings_of(camera).limits)
    stack.enter_context(closing(ledger))
    if options.retry_failed:
        seen.retry(ledger.forget_failures())
    gauges = _gauges(options, cameras, stack)
    delivery = start_delivery(ledger, sinks, options.give_up_hours)
    stack.callback(delivery.close, GRACE_SECONDS)
    gauges.attach(delivery.metrics)
    told = [one.name if one.kind == "stream" else one.address for one in cameras.sources]
    given = tuple(told[: len(options.sources)])
    sources = _stream_sources(options, cameras)
    notes = _notes(sources)
    overview = Overview(replace(options, sources=given, on_event=tuple(names)), scorer, notes)
    overview.load(seen)
    overview.refresh(now=True)
    folders = _folders(options, cameras, checkpoint, seen)
    stack.enter_context(closing(folders))
    folders.start()
    records = Records(options, store, ledger, seen, overview, gauges)
    free_space = FreeSpace(out, options.min_free_gib)
    log.info("watching %s", ", ".join(told))
    for note in notes:
        log.info("%s", note)
    return ScoringLoop(
        options,
        cameras,
        engine,
        store,
        scorer,
        folders,
        records,
        Retention(out, store, seen, ledger, overview, options.keep_days, options.keep_gib),
        free_space,
        _streams(options, cameras, sources, checkpoint, engine, scorer.rule, records, free_space),
    )


def _gauges(options: WatchOptions, cameras: Cameras, stack: ExitStack) -> Gauges:
    """The figures, served if that is asked for."""
    gauges = Gauges()
    if options.metrics is not None:
        stack.enter_context(closing(MetricsServer(options.metrics, gauges)))
    for camera in cameras.by_name.values():
        usual = STREAM_MINUTES if camera.kind == "stream" else None
        silent = usual if camera.silent_minutes is None else camera.silent_minutes
        if silent is not None:
            gauges.expect(camera.name, 60 * silent)
    return gauges


def _scorer(options: WatchOptions, checkpoint: Checkpoint, engine: Engine) -> Scorer:
    """The scorer with the settings of the command, as vigil score has it."""
    return Scorer(
        checkpoint,
        options.out,
        read_threshold(options.threshold),
        engine.views,
        span=read_span(options.span),
        rule=EventRule(
            keep_share=options.keep_share,
            join_seconds=options.join_seconds,
            min_seconds=options.min_seconds,
        ),
        formats=read_formats(options.format),
    )


def _stream_sources(options: WatchOptions, cameras: Cameras) -> list[LiveSource]:
    """The streams, with their addresses filled in."""
    return [
        LiveSource(
            one.name,
            filled_in(one.address, os.environ),
            one.transport,
            when_late=one.when_late or options.when_late,
        )
        for one in cameras.streams
    ]


def _notes(sources: Sequence[LiveSource]) -> list[str]:
    """What to know of the streams: what is done with clips for which there is no time."""
    rules = [f"{one.name} {one.when_late}" for one in sources if not one.can_end]
    return [f"When there is too little time for all clips: {', '.join(rules)}."] if rules else []


def _streams(
    options: WatchOptions,
    cameras: Cameras,
    sources: Sequence[LiveSource],
    checkpoint: Checkpoint,
    engine: Engine,
    rule: EventRule,
    records: Records,
    free_space: FreeSpace,
) -> StreamFollower:
    given = read_threshold(options.threshold)

    def rule_of(camera: str) -> tuple[EventRule, str]:
        own = cameras.settings_of(camera).threshold
        if own is not None:
            return replace(rule, threshold=own), GIVEN_FOR_CAMERA
        threshold, why = threshold_for(checkpoint.config, f"{camera}/stream", given)
        return replace(rule, threshold=threshold), why

    root = engine.thumbnails
    albums = None if root is None else AlbumSettings(root, free_space.check)
    clips = None
    if sources and wants_clips(options) and options.clip_memory_mib:
        how_clips = options.clip_margin, options.clip_memory_mib, options.annotate
        clips = ClipSettings(options.out, *how_clips, free_space.check, records.note_clips)
    settings = StreamSettings(rule_of, read_span(options.span), albums, clips)
    how = settings, records.ledger, records.stretch, records.gauges
    return StreamFollower(checkpoint, engine, sources, *how)


def _folders(
    options: WatchOptions, cameras: Cameras, checkpoint: Checkpoint, seen: SeenFiles
) -> RecorderFolders:
    calibration = checkpoint.config.calibration
    rule = options.camera or (FOLDER if calibration is None else calibration.camera)
    # To read a container for its place in the order would take too long.
    find = find_time(NONE if options.clock == CREATION else options.clock)

    def start_of(name: str, path: Path) -> float | None:
        start = local_start(find(name, path))
        return None if start is None else start.timestamp()

    def settle_seconds(camera: str) -> float:
        own = cameras.settings_of(camera).settle_seconds
        return options.settle_seconds if own is None else own

    search = FolderSearch(
        cameras,
        lambda name: camera_of(name, rule),
        parse_extensions(options.compute.extensions),
        options.out,
        options.compute.follow_links,
    )
    search.tell_of_streams()
    return RecorderFolders(search, seen, settle_seconds, start_of, options.from_now)
