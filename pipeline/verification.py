"""`vigil features verify`: check every byte of feature files, and make anew what is not whole."""

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast, get_args

from vigil.extract.errors import FailedVideo, UserError, VideoError, counted
from vigil.extract.sealed import FeatureFileError, ForeignFileError, UnreadableFileError
from vigil.extract.source import SourceVideo, VideoIdentity, identify
from vigil.extract.spec import FeatureSpec, difference
from vigil.extract.store import VideoFeatures, verify_features
from vigil.extract.weights import Weights
from vigil.pipeline.extraction import ExtractionReport, extract_missing, rebuild_engine
from vigil.pipeline.extraction_plan import is_same_video
from vigil.pipeline.features import feature_files
from vigil.pipeline.locks import locked
from vigil.pipeline.options import FeaturesVerifyOptions, PrecisionName
from vigil.pipeline.results import read_failures
from vigil.pipeline.videos import FoundVideos, find_videos

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a feature file was made, as far as those of a store should agree."""

    spec: FeatureSpec
    views: tuple[str, ...]
    precision: str
    has_clips: bool
    weights: Weights = field(compare=False)
    """Their digest is in the spec; where they lay may differ."""
    video: VideoIdentity = field(compare=False)
    """What it was made of."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with the features of a video."""

    kind: str
    """damaged, missing, or changed: of another version of the video."""
    reason: str
    source: SourceVideo | None = None
    """The video to make them anew from, if they may be."""


@dataclass(frozen=True)
class Findings:
    """What was found in a store."""

    settings: dict[str, Settings]
    """Video -> how its features were made, where they are whole."""
    faults: dict[str, Fault]
    """Video -> what is wrong with its features."""

    def num_faults(self, kind: str) -> int:
        """How many videos have a fault of a kind."""
        return sum(fault.kind == kind for fault in self.faults.values())

    @property
    def exit_code(self) -> int:
        """0: no video has a fault; 3: some have; 4: all have."""
        if not self.faults:
            return 0
        return 3 if self.settings.keys() - self.faults.keys() else 4


def run_verify(options: FeaturesVerifyOptions) -> int:
    """Check feature files, make anew what fails if that is asked for, and print the counts.

    Raises:
        UserError: there are no features or no videos, or it is not known how to make them anew.
    """
    if options.repair and not options.videos:
        raise UserError("--repair extracts again: say from which videos with --videos")
    if options.videos and not options.features.is_dir():
        raise UserError(f"{options.features} is no folder of features: --videos needs all of one")
    found, compute = FoundVideos((), 0), options.compute
    if options.videos:
        found = find_videos(
            options.videos, compute.extensions, compute.follow_links, compute.picture_fps
        )
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
    """What is whole in a store and what is not; says so.

    Args:
        files: video -> feature file.
        found: the videos that should have features; of those not among them it does not matter.
    """
    findings = Findings({}, {})
    sources = {video.name: video for video in found.videos}
    for name, path in files.items():
        source = sources.get(name)
        try:
            features = verify_features(path)
            findings.settings[name] = _settings(features)
            is_imported = features.spec.origin is not None
            if source and not (is_imported or is_same_video(features, source)):
                reason = f"{path} was made of {source.path} when that had another content"
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
            "features of no video there: %s, such as %s", counted(len(orphans), "file"), orphans[0]
        )
    _warn_of_mixture([settings.spec for settings in findings.settings.values()])
    return findings


def _settings(features: VideoFeatures) -> Settings:
    weights = features.weights_name, features.spec.weights_digest, features.weights_trained
    has_clips = features.clip_features is not None
    return Settings(
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
            "the store mixes specs, and cannot be used as one: %s (%s)",
            ", ".join(
                f"{counted(number, 'file')} of spec {spec.digest[:8]}" for spec, number in counts
            ),
            "; ".join(difference(most, other)),
        )


def _require_names(findings: Findings, found: FoundVideos) -> None:
    """Refuse videos that have features, but under a name that none of the videos has.

    Raises:
        UserError: names the first of them.
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
        with suppress(OSError, VideoError):  # such a video fails when it is read
            if source.path.stat().st_size not in sizes:
                continue
            identity = identify(source)
            if name := nameless.get((identity.num_bytes, identity.digest)):
                raise UserError(
                    f"{source.name} has features already, as those of {name}: give the same "
                    "--videos as vigil extract had"
                )


def repair(options: FeaturesVerifyOptions, findings: Findings) -> int:
    """Make features anew where they have a fault, as the whole files were made.

    A fault that is gone is taken out of the findings.

    Returns:
        How many are gone.

    Raises:
        UserError: no file is whole, they were not made alike, or the weights cannot be had.
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


def _common_settings(options: FeaturesVerifyOptions, findings: Findings) -> Settings:
    """How all whole files were made; a precision that is asked for counts for more."""
    kinds = dict.fromkeys(findings.settings.values())
    if options.compute.precision != "auto":
        kinds = dict.fromkeys(replace(one, precision=options.compute.precision) for one in kinds)
    if not kinds:
        raise UserError(
            f"no file in {options.features} is whole, so that it is not known how they were made: "
            "run vigil extract as it was run then"
        )
    first, *others = kinds
    if others:
        differences = difference(first.spec, others[0].spec)
        for name in ("views", "precision", "has_clips"):
            one, other = getattr(first, name), getattr(others[0], name)
            differences += [f"{name}: {one} != {other}"] * (one != other)
        raise UserError(
            f"the files in {options.features} were not made alike ({'; '.join(differences)}): say "
            "a --precision if only that differs, else move those of one kind to another folder"
        )
    if first.precision not in get_args(PrecisionName):
        raise UserError(
            f"the files in {options.features} were computed in {first.precision}, on several "
            "devices: say one of these with --precision"
        )
    return first
