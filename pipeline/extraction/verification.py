"""`vigil features verify`: check every byte of feature files, and repair faulty ones."""

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast, get_args

from vigil.extract.decode.videos import FoundVideos
from vigil.extract.engine.plan import is_same_video
from vigil.extract.errors import FailedVideo, UserError, VideoError, counted
from vigil.extract.locks import locked
from vigil.extract.networks.weights import Weights
from vigil.extract.sealed import FeatureFileError, ForeignFileError, UnreadableFileError
from vigil.extract.source import SourceVideo, VideoIdentity, identify
from vigil.extract.spec import FeatureSpec, difference
from vigil.extract.store import VideoFeatures, verify_features
from vigil.pipeline.extraction.command import (
    ExtractionReport,
    extract_missing,
    find_requested,
    rebuild_engine,
)
from vigil.pipeline.extraction.show import feature_files
from vigil.pipeline.failures import exit_code, read_failures
from vigil.pipeline.options import FeaturesVerifyOptions, PrecisionName

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreSettings:
    """The settings of a feature file that should be the same throughout a store."""

    spec: FeatureSpec
    views: tuple[str, ...]
    precision: str
    has_clips: bool
    weights: Weights = field(compare=False)
    """Their digest is in the spec; their path may differ."""
    video: VideoIdentity = field(compare=False)
    """The video it was extracted from."""


@dataclass(frozen=True)
class Fault:
    """A fault in the features of a video."""

    kind: str
    """damaged, missing, or changed (of another version of the video)."""
    reason: str
    source: SourceVideo | None = None
    """The video to extract again, None if the fault cannot be repaired."""


@dataclass(frozen=True)
class Findings:
    """The findings in a store."""

    settings: dict[str, StoreSettings]
    """Video -> settings of its features, if they are intact."""
    faults: dict[str, Fault]
    """Video -> the fault in its features."""

    def num_faults(self, kind: str) -> int:
        """Number of videos with a fault of a kind."""
        return sum(fault.kind == kind for fault in self.faults.values())

    @property
    def exit_code(self) -> int:
        """0: no video has a fault; 3: some have; 4: all have."""
        return exit_code(len(self.faults), len(self.settings.keys() - self.faults.keys()))


def run_verify_features(options: FeaturesVerifyOptions) -> int:
    """Check feature files, repair faulty ones if requested, and print the counts.

    Raises:
        UserError: there are no features or no videos, or the settings for a repair are unknown.
    """
    found, compute = FoundVideos((), 0), options.compute
    if options.videos:
        found = find_requested(options.videos, compute)
    with locked(options.features) if options.repair else nullcontext():
        files = feature_files(options.features)
        findings = check_store(files, found)
        print(f"verified {len(files)}")
        for kind in ("damaged", "missing", "changed") if options.videos else ("damaged",):
            print(f"{kind} {findings.num_faults(kind)}")
        if options.repair:
            _require_names(findings, found)
            print(f"repaired {repair(options, findings)}")
    return findings.exit_code


def check_store(files: Mapping[str, Path], found: FoundVideos) -> Findings:
    """Find which features of a store are intact and which are faulty, and log every fault.

    Args:
        files: video -> feature file.
        found: the videos that should have features; empty to check the files only.
    """
    findings = Findings({}, {})
    sources = {video.name: video for video in found.videos}
    for name, path in files.items():
        source = sources.get(name)
        try:
            features = verify_features(path, load_clips=False)
            findings.settings[name] = _settings(features)
            is_imported = features.spec.origin is not None
            if source and not (is_imported or is_same_video(features, source)):
                reason = f"{source.path} has changed since {path} was extracted from it"
                findings.faults[name] = Fault("changed", reason, source)
        except VideoError as error:
            findings.faults[name] = Fault("changed", f"{name}: {error.reason}")
        except (ForeignFileError, UnreadableFileError) as error:
            findings.faults[name] = Fault("damaged", str(error))
        except FeatureFileError as error:
            findings.faults[name] = Fault("damaged", str(error), source)
    for name in sources.keys() - files.keys():
        findings.faults[name] = Fault("missing", f"{name} has no features", sources[name])
    for failed in found.failures:
        if failed.video not in files:
            findings.faults[failed.video] = Fault("missing", f"{failed.video}: {failed.reason}")
    for _, fault in sorted(findings.faults.items()):
        log.error("%s", fault.reason)
    orphans = sorted(files.keys() - sources.keys() - {one.video for one in found.failures})
    if sources and orphans:
        log.warning(
            "features without a video: %s, such as %s", counted(len(orphans), "file"), orphans[0]
        )
    _warn_of_mixture([settings.spec for settings in findings.settings.values()])
    return findings


def _settings(features: VideoFeatures) -> StoreSettings:
    weights = features.weights_name, features.spec.weights_digest, features.weights_trained
    has_clips = features.clip_features is not None
    return StoreSettings(
        features.spec,
        features.views,
        features.precision,
        has_clips,
        Weights(*weights),
        features.video,
    )


def _warn_of_mixture(specs: list[FeatureSpec]) -> None:
    counts = Counter(specs).most_common()
    if len(counts) > 1:
        (most, _), (other, _) = counts[:2]
        log.warning(
            "the store mixes specs and cannot be used as a whole: %s (%s)",
            ", ".join(
                f"{counted(number, 'file')} of spec {spec.digest[:8]}" for spec, number in counts
            ),
            "; ".join(difference(most, other)),
        )


def _require_names(findings: Findings, found: FoundVideos) -> None:
    """Refuse videos whose features exist, but under a name that none of the videos has.

    Raises:
        UserError: there is one; the message names it.
    """
    names = {video.name for video in found.videos} | {failed.video for failed in found.failures}
    nameless = {
        (settings.video.num_bytes, settings.video.digest): name
        for name, settings in findings.settings.items()
        if name not in names
    }
    sizes = {num_bytes for num_bytes, _ in nameless}
    for _, fault in sorted(findings.faults.items()):
        source = fault.source
        if source is None or fault.kind != "missing":
            continue
        with suppress(OSError, VideoError):  # an unreadable video fails when it is extracted
            if source.path.stat().st_size not in sizes:
                continue
            identity = identify(source)
            if name := nameless.get((identity.num_bytes, identity.digest)):
                raise UserError(
                    f"{source.name} already has features under the name {name}: give the same "
                    "--videos as to vigil extract"
                )


def repair(options: FeaturesVerifyOptions, findings: Findings) -> int:
    """Extract videos with faulty features again, with the settings of the intact files.

    Repaired faults are removed from the findings.

    Returns:
        The number of repaired faults.

    Raises:
        UserError: no file is intact, their settings differ, or the weights cannot be obtained.
        OSError: the store cannot be written.
    """
    faults, before = findings.faults, len(findings.faults)
    videos = [fault.source for _, fault in sorted(faults.items()) if fault.source is not None]
    if not videos:
        return 0
    common = _common_settings(options, findings)
    compute = replace(options.compute, precision=cast(PrecisionName, common.precision))
    engine = rebuild_engine(
        common.spec, common.weights, options.weights, common.views, compute, common.has_clips
    )
    report = ExtractionReport(
        present=[name for name in findings.settings if name not in faults],
        failures=[
            FailedVideo(name, fault.reason) for name, fault in faults.items() if not fault.source
        ],
        earlier=[one for one in read_failures(options.features) if one.video not in faults],
    )
    extract_missing(videos, options.features, engine, report)
    for video in report.extracted:
        del faults[video.video]
    return before - len(faults)


def _common_settings(options: FeaturesVerifyOptions, findings: Findings) -> StoreSettings:
    """The settings of all intact files, with the requested precision, if any, instead of theirs."""
    kinds = dict.fromkeys(findings.settings.values())
    if options.compute.precision != "auto":
        kinds = dict.fromkeys(replace(one, precision=options.compute.precision) for one in kinds)
    if not kinds:
        raise UserError(
            f"no file in {options.features} is intact, so their settings are unknown: run vigil "
            "extract with the original settings"
        )
    first, *others = kinds
    if others:
        differences = difference(first.spec, others[0].spec)
        differences += difference(first, others[0], ("views", "precision", "has_clips"))
        raise UserError(
            f"the files in {options.features} have different settings ({'; '.join(differences)}): "
            "give a --precision if only that differs, else move those of one kind to another folder"
        )
    if first.precision not in get_args(PrecisionName):
        raise UserError(
            f"the files in {options.features} were computed in {first.precision}, on several "
            "devices: choose one of these with --precision"
        )
    return first
