"""`vigil extract`: write a folder of feature files, continuing where an earlier run stopped."""

import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from vigil.extract.decode.videos import FoundVideos, find_videos
from vigil.extract.engine.activity import Activity
from vigil.extract.engine.dispatch import Engine
from vigil.extract.engine.journal import remove_journals
from vigil.extract.engine.plan import plan_extraction
from vigil.extract.engine.pool import WorkerLimits
from vigil.extract.engine.writer import Extracted
from vigil.extract.errors import FailedVideo, UserError, counted
from vigil.extract.locks import locked
from vigil.extract.networks.choice import JOINT
from vigil.extract.networks.combinations import Network, joint_weights, load_networks
from vigil.extract.networks.hardware import choose_precision, select_devices
from vigil.extract.networks.placement import RUNGS
from vigil.extract.networks.weights import Weights
from vigil.extract.source import SourceVideo
from vigil.extract.spec import FeatureSpec
from vigil.extract.store import feature_path
from vigil.extract.views import WHOLE, view_names
from vigil.pipeline.extraction.fetched import (
    DEFAULT_GIB,
    AlreadyThere,
    Fetching,
    Outcome,
    extract_fetched,
)
from vigil.pipeline.extraction.same_weights import load_same_networks
from vigil.pipeline.extraction.workload import Workload
from vigil.pipeline.failures import exit_code, write_failures
from vigil.pipeline.logs import RunningCount, download_progress, printable, show_progress
from vigil.pipeline.option_checks import check_compute, requested_spec, require_one_size
from vigil.pipeline.option_values import read_max_damage
from vigil.pipeline.options import ComputeOptions, ExtractOptions, ScoreOptions
from vigil.pipeline.scores.frame_warnings import frame_warnings

GPU_BATCH_SIZE = 24

WhenReady = Callable[[str, Path], object]
"""Called with the name of a video and its feature file, which is complete."""

log = logging.getLogger(__name__)


@dataclass
class ExtractionReport:
    """The outcome of every video."""

    extracted: list[Extracted] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failures: list[FailedVideo] = field(default_factory=list)
    earlier: list[FailedVideo] = field(default_factory=list)
    """Listed failures of an earlier run, of videos that are not part of this one."""

    @property
    def exit_code(self) -> int:
        """0: none failed; 3: some did; 4: all did."""
        return exit_code(len(self.failures), len(self.extracted) + len(self.present))


def find_requested(
    arguments: Sequence[str], options: ComputeOptions, may_fetch: bool = False
) -> FoundVideos:
    """Find the videos that a command names, with the options that say what counts as one.

    Args:
        arguments: of the command.
        options: of the command.
        may_fetch: whether the arguments may be addresses.

    Raises:
        UserError: an argument does not exist, there are no videos, two have the same name, or an
            option is invalid.
    """
    return find_videos(
        arguments,
        options.extensions,
        options.follow_links,
        options.picture_fps,
        options.input_fps,
        may_fetch,
    )


def run_extract(options: ExtractOptions) -> int:
    """Extract what is missing, and return the exit code.

    Raises:
        UserError: as in `extract_requested`.
    """
    return extract_requested(options).exit_code


def extract_requested(options: ExtractOptions) -> ExtractionReport:
    """Extract what is missing of the videos that options name, and report the outcome of each.

    Raises:
        UserError: no videos, unusable settings or weights, or a store of another spec.
    """
    compute = here(options)
    _require_devices(compute)
    found = find_requested(options.videos, compute, may_fetch=True)
    refuse_cluster(options.cluster, found)
    with download_progress() as progress:
        networks = load_networks(options.backbone, options.endpoint, options.weights, progress)
    endpoint = JOINT.join(network.endpoint for network in networks)
    spec = requested_spec(options, endpoint, joint_weights(networks).digest)
    views = view_names(options.views)
    engine = make_engine(networks, spec, views, compute, options.keep_clips)
    if options.dry_run:
        return extract_videos(found, options.out, engine, options.overwrite, dry_run=True)
    with locked(options.out), where(options, engine, options.out, found) as there:
        return extract_videos(
            found, options.out, there, options.overwrite, fetch_gib=options.fetch_gib
        )


def refuse_cluster(cluster: str | None, found: FoundVideos) -> None:
    """Refuse remote videos on a cluster, whose nodes read videos from a folder they all see.

    Raises:
        UserError: names a video, and says what to do.
    """
    remote = next((one.origin for one in found.videos if one.remote is not None), None)
    if cluster is not None and remote is not None:
        raise UserError(
            f"--cluster does not fetch videos, such as {remote}: mount the bucket on all nodes, "
            "or copy the videos to a folder that they share"
        )


def here(options: ExtractOptions | ScoreOptions) -> ComputeOptions:
    """How this machine computes: as asked, unless the nodes of a cluster do."""
    if options.cluster is None:
        return options.compute
    return replace(options.compute, device="cpu", precision="auto", compile=False)


def where(
    options: ExtractOptions | ScoreOptions, engine: Engine, store: Path, found: FoundVideos
) -> AbstractContextManager[Engine]:
    """The engine, or one like it that works on the cluster that options name, in a block.

    The caller holds the lock of the store.

    Raises:
        UserError: on entering, the cluster cannot be joined, or one of its nodes does not fit.
    """
    if options.cluster is None:
        return nullcontext(engine)
    from vigil.pipeline.cluster.cluster_engine import on_cluster

    compute, album = options.compute, engine.thumbnails
    # Absolute before it is sent: nodes work in other folders.
    sent = replace(engine, thumbnails=None if album is None else album.absolute())
    maker = partial(_engine_on, sent, compute)
    return on_cluster(engine, options.cluster, maker, compute, store, found.videos)


def _engine_on(engine: Engine, compute: ComputeOptions, device: str) -> Engine:
    """An engine that extracts the same, with the options, on a device of the machine it is on."""
    asked = replace(compute, device=device)
    same = make_engine(engine.networks, engine.spec, engine.views, asked, engine.keep_clips)
    return replace(same, thumbnails=engine.thumbnails)


def _require_devices(compute: ComputeOptions) -> None:
    """Refuse what cannot be computed with, before weights are fetched and loaded.

    Raises:
        UserError: names the option.
    """
    devices = select_devices(compute.device)
    choose_precision(compute.precision, devices)


def make_engine(
    networks: tuple[Network, ...],
    spec: FeatureSpec,
    views: tuple[str, ...],
    compute: ComputeOptions,
    keep_clips: bool = False,
) -> Engine:
    """The engine for networks with their weights, on the device the options choose.

    Raises:
        UserError: there is no such device, the batch size is not positive, or networks or options
            do not suit the views.
    """
    devices = select_devices(compute.device)
    on_gpu = any(device.type == "cuda" for device in devices)
    check_compute(compute)
    require_one_size(compute, views)
    default_batch_size = GPU_BATCH_SIZE if on_gpu and WHOLE not in views else 1
    return Engine(
        networks=networks,
        spec=spec,
        views=views,
        devices=devices,
        precision=choose_precision(compute.precision, devices),
        decoder=compute.decoder,
        keep_clips=keep_clips,
        batch_size=compute.batch_size or default_batch_size,
        limits=WorkerLimits(compute.stall_seconds, int(compute.worker_memory_gib * 2**30)),
        max_damage=read_max_damage(compute.max_damage),
        rungs=("compiled", *RUNGS) if compute.compile else RUNGS,
        num_workers=None if compute.workers == "auto" else compute.workers,
    )


def rebuild_engine(
    spec: FeatureSpec,
    used: Weights,
    weights_name: str | None,
    views: tuple[str, ...],
    compute: ComputeOptions,
    keep_clips: bool = False,
) -> Engine:
    """The engine that extracts features like existing ones, from their spec and weights.

    Args:
        spec: of the existing features.
        used: the weights that they were extracted with.
        weights_name: where to find them, as for `load_same_networks`.
        views: to extract.
        compute: how to compute.
        keep_clips: store every clip's feature, too.

    Raises:
        UserError: the features were imported, or the weights cannot be obtained or differ.
    """
    if spec.origin is not None:
        raise UserError(
            f"the features {spec.backbone!r} were {spec.origin}: vigil cannot extract them from "
            "videos; train on features of vigil extract to score videos"
        )
    _require_devices(compute)
    with download_progress() as progress:
        networks = load_same_networks(spec.backbone, spec.endpoint, used, weights_name, progress)
    return make_engine(networks, spec, views, compute, keep_clips)


def extract_videos(
    found: FoundVideos,
    store: Path,
    engine: Engine,
    overwrite: bool = False,
    dry_run: bool = False,
    when_ready: WhenReady | None = None,
    fetch_gib: float = DEFAULT_GIB,
) -> ExtractionReport:
    """Write the missing feature files, each of them completely or not at all.

    The caller holds the lock of the store, except for a dry run, which writes nothing.

    Args:
        found: the videos.
        store: folder of the feature files.
        engine: extracts features.
        overwrite: replace features of other settings or of another version of a video.
        dry_run: print what would be extracted instead.
        when_ready: called with each video and its feature file, those already there first.
        fetch_gib: disk space for copies of remote videos.

    Raises:
        UserError: the store holds features of another spec.
        OSError: the store cannot be written; finished files are kept.
    """
    if found.num_other_files:
        num_other = counted(found.num_other_files, "file")
        log.info("skipped %s without a video extension", num_other)
    if found.num_linked_folders:
        log.warning(
            "skipped %s: to include the videos behind links, name the folders themselves",
            counted(found.num_linked_folders, "linked folder"),
        )
    plan = plan_extraction(found.videos, store, engine, overwrite)
    log.info(
        "%s: %d to extract, %d already extracted%s",
        counted(len(found.videos), "video"),
        len(plan.missing),
        len(plan.present),
        f", {len(plan.doubtful)} to fetch and compare" if plan.doubtful else "",
    )
    report = ExtractionReport(present=[video.name for video in plan.present])
    report.failures.extend((*found.failures, *plan.failed))
    for failed in report.failures:
        log.error("%s: %s", failed.video, failed.reason)
    if dry_run:
        for video in plan.missing:
            print(f"extract {printable(video.name)}")
        for video in plan.doubtful:
            print(f"compare {printable(video.name)}")
    else:
        remove_journals(store, [video.name for video in plan.present])
        if when_ready is not None:
            for name in report.present:
                when_ready(name, feature_path(store, name))
        fetching = Fetching(
            int(fetch_gib * 2**30),
            lambda video: plan_extraction([video], store, engine, overwrite),
            frozenset(video.name for video in plan.doubtful),
        )
        videos = (*plan.missing, *plan.doubtful)
        extract_missing(videos, store, engine, report, when_ready, fetching)
    return report


def extract_missing(
    videos: Sequence[SourceVideo],
    store: Path,
    engine: Engine,
    report: ExtractionReport,
    when_ready: WhenReady | None = None,
    fetching: Fetching | None = None,
) -> None:
    """Write feature files, replacing existing ones, and add the outcomes to the report.

    ``fetching`` says how remote videos are fetched, if there may be any.

    Raises:
        OSError: the store cannot be written; finished files are kept.
    """
    if videos and not engine.weights.trained:
        log.warning(
            "the backbone's weights are RANDOM: these features are untrained, and only suitable "
            "for trying the program"
        )
    try:
        if videos:
            _run(videos, store, engine, report, when_ready, fetching)
    finally:
        report.failures.sort(key=lambda failed: failed.video)
        failures = [*report.failures, *report.earlier]
        write_failures(store, sorted(failures, key=lambda failed: failed.video))
    _summarise(report, store)


def _run(
    videos: Sequence[SourceVideo],
    store: Path,
    engine: Engine,
    report: ExtractionReport,
    when_ready: WhenReady | None,
    fetching: Fetching | None,
) -> None:
    count = RunningCount(len(videos), len(engine.views))
    spec = engine.spec
    planned = Workload(videos, spec.grid, spec.frame_rate)
    with show_progress(count) as progress, closing(planned) as workload:

        def watch(activity: Activity) -> None:
            count.activity = activity
            count.share_done, count.seconds_left = workload.forecast(activity)
            progress.update()

        if fetching is not None and any(video.remote is not None for video in videos):
            extracting: Generator[Outcome] = extract_fetched(engine, videos, store, watch, fetching)
        else:
            extracting = engine.extract(videos, store, watch)
        with closing(extracting) as outcomes:
            for outcome in outcomes:
                count.done += 1
                workload.conclude(outcome)
                progress.update()
                if isinstance(outcome, FailedVideo):
                    log.error("%s: %s", outcome.video, outcome.reason)
                    report.failures.append(outcome)
                elif isinstance(outcome, AlreadyThere):
                    report.present.append(outcome.video)
                    if when_ready is not None:
                        when_ready(outcome.video, feature_path(store, outcome.video))
                else:
                    for warning in frame_warnings(outcome.features):
                        log.warning("%s: %s", outcome.video, warning)
                    report.extracted.append(outcome)
                    if when_ready is not None:
                        when_ready(outcome.video, feature_path(store, outcome.video))
    if count.activity.num_clips:
        log.info("%s", count.describe())


def _summarise(report: ExtractionReport, store: Path) -> None:
    decoders = Counter(video.features.decoder for video in report.extracted)
    by_decoder = ", ".join(f"{number} with {name}" for name, number in sorted(decoders.items()))
    computed = [one.features.clip_computed for one in report.extracted]
    known = [one for one in computed if one is not None]
    static = f", {1 - np.concatenate(known).mean():.0%} of their clips static" if known else ""
    log.info(
        "%d extracted%s%s, %d already extracted, %d failed%s",
        len(report.extracted),
        f" ({by_decoder})" if by_decoder else "",
        static,
        len(report.present),
        len(report.failures),
        f": see {store / 'failures.csv'}" if report.failures else "",
    )
