"""`vigil features`: look into feature files, and check every byte of them."""

import logging
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from extract.errors import UserError
from extract.store import (
    SUFFIX,
    FeatureFileError,
    VideoFeatures,
    list_features,
    read_identity,
    verify_features,
)
from pipeline.logs import print_table
from pipeline.options import FeaturesShowOptions, FeaturesVerifyOptions

SHOWN = (
    "fps",
    "width",
    "height",
    "num_frames_container",
    "num_frames_decoded",
    "num_frames_damaged",
    "decoder",
    "precision",
    "rung",
    "device",
    "weights_name",
    "weights_trained",
    "created_at",
)

log = logging.getLogger(__name__)


def run_verify(options: FeaturesVerifyOptions) -> int:
    """Check feature files: 0 all are whole; 3 some are damaged; 4 all are."""
    files = _files(options.features)
    num_damaged = 0
    for path in files.values():
        try:
            verify_features(path)
        except FeatureFileError as error:
            num_damaged += 1
            log.error("%s", error)
    print(f"verified {len(files)}")
    print(f"damaged {num_damaged}")
    if num_damaged == 0:
        return 0
    return 4 if num_damaged == len(files) else 3


def run_show(options: FeaturesShowOptions) -> int:
    """Print what feature files hold: one in full, a folder as a table and its settings."""
    files = _files(options.features)
    videos = {name: read_identity(path) for name, path in files.items()}
    if options.features.is_file():
        for video in videos.values():
            _show_one(video)
    else:
        _show_all(videos)
    return 0


def _files(path: Path) -> Mapping[str, Path]:
    """The feature files behind an argument by video.

    Raises:
        UserError: there are none.
    """
    files = {path.name.removesuffix(SUFFIX): path} if path.is_file() else list_features(path)
    if not files:
        raise UserError(f"{path} holds no feature files: run vigil extract first")
    return files


def _show_one(video: VideoFeatures) -> None:
    identity, size = video.video, video.time_positions * video.channels
    print(f"video {identity.path}")
    print(f"video_bytes {identity.num_bytes}")
    print(f"video_digest {identity.digest}")
    print(f"features {len(video.views)} views x {video.spec.num_segments} segments x {size}")
    print(f"time_positions {video.time_positions}")
    print(f"channels {video.channels}")
    print(f"views {', '.join(video.views)}")
    print(f"clips {'not kept' if video.clip_frames is None else len(video.clip_frames)}")
    for name in SHOWN:
        print(f"{name} {getattr(video, name)}")
    print(f"spec {video.spec.to_json()}")
    print(f"spec_digest {video.spec.digest}")
    for name, version in video.versions.items():
        print(f"version_{name} {version}")


def _show_all(videos: Mapping[str, VideoFeatures]) -> None:
    table = Table("video", "frames", "damaged", "views", "clips", "decoder", "precision", "spec")
    for name, video in videos.items():
        table.add_row(
            name,
            str(video.num_frames_decoded),
            str(video.num_frames_damaged),
            str(len(video.views)),
            "-" if video.clip_frames is None else str(len(video.clip_frames)),
            video.decoder,
            video.precision,
            video.spec.digest[:8],
        )
    print_table(table)
    for spec in sorted({video.spec.to_json() for video in videos.values()}):
        print(spec)
