"""`vigil features show`: what feature files hold and how they were made."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from vigil.extract.sealed import FeatureFileError
from vigil.extract.store import SUFFIX, VideoFeatures, list_features, read_identity
from vigil.pipeline.failures import exit_code
from vigil.pipeline.logs import print_lines, print_table
from vigil.pipeline.options import FeaturesShowOptions

SHOWN = (
    "fps",
    "width",
    "height",
    "num_frames_container",
    "num_frames_decoded",
    "num_frames_sampled",
    "num_frames_damaged",
    "num_frames_lost",
    "duration_container",
    "rotation_ignored",
    "num_clock_jumps",
    "first_jump_seconds",
    "rate_source",
    "num_bytes_unread",
    "decoder",
    "precision",
    "rung",
    "device",
    "weights_name",
    "weights_trained",
    "created_at",
)

log = logging.getLogger(__name__)


def run_show(options: FeaturesShowOptions) -> int:
    """Print the contents of feature files: one in full, a folder as a table and its settings.

    Returns:
        0: all could be read; 3: some could not; 4: none could. Each unreadable file is logged.
    """
    files, videos = feature_files(options.features), {}
    for name, path in files.items():
        try:
            videos[name] = read_identity(path)
        except FeatureFileError as error:
            log.error("%s", error)
    if options.features.is_file():
        for video in videos.values():
            print_lines(_describe(video))
    else:
        _show_all(videos)
    return exit_code(len(files) - len(videos), len(videos))


def feature_files(path: Path) -> Mapping[str, Path]:
    """Video -> feature file, for the path of a single file or of a folder."""
    return {path.name.removesuffix(SUFFIX): path} if path.is_file() else list_features(path)


def _describe(video: VideoFeatures) -> Iterator[str]:
    """Yield the contents of a feature file as ``name value`` lines."""
    identity, size = video.video, video.time_positions * video.channels
    yield f"video {identity.path}"
    yield f"video_bytes {identity.num_bytes}"
    yield f"video_digest {identity.digest}"
    yield f"features {len(video.views)} views x {video.spec.num_segments} segments x {size}"
    yield f"time_positions {video.time_positions}"
    yield f"channels {video.channels}"
    for part in video.parts:
        yield f"part {part.offset}:{part.stop} {part.name} {part.time_positions} x {part.channels}"
    yield f"views {', '.join(video.views)}"
    yield f"clips {'not kept' if video.clip_frames is None else len(video.clip_frames)}"
    if video.clip_computed is not None:
        num_clips = len(video.clip_computed)
        yield f"clips_computed {video.clip_computed.sum()} of {num_clips}, the others are static"
    for name in SHOWN:
        yield f"{name} {getattr(video, name)}"
    ranges = ", ".join(f"{start}-{stop}" for start, stop in video.damage_frames)
    yield f"damage_frames {ranges or 'none'}"
    yield f"spec {video.spec.to_json()}"
    yield f"spec_digest {video.spec.digest}"
    for name, version in video.versions.items():
        yield f"version_{name} {version}"


def _show_all(videos: Mapping[str, VideoFeatures]) -> None:
    header = ("video", "frames", "damaged", "views", "clips", "decoder", "precision", "spec")
    rows = (
        (
            name,
            str(video.num_frames_decoded),
            str(video.num_frames_damaged),
            str(len(video.views)),
            "-" if video.clip_frames is None else str(len(video.clip_frames)),
            video.decoder,
            video.precision,
            video.spec.digest[:8],
        )
        for name, video in videos.items()
    )
    print_table(header, rows)
    print_lines(sorted({video.spec.to_json() for video in videos.values()}))
