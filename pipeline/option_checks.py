"""What can be found wrong with options before torch, weights or a download are needed.

Importing torch takes seconds and fetching weights minutes, too long to wait for the news of a
mistyped path. So these checks come first, and the modules that they need do not import torch. The
commands find the rest.
"""

import re
from pathlib import Path
from typing import Any

from vigil.extract.decode.videos import check_argument
from vigil.extract.errors import UserError
from vigil.extract.spec import FeatureSpec
from vigil.extract.views import view_names
from vigil.pipeline import options
from vigil.pipeline.result_formats import read_formats
from vigil.pipeline.run_folder import BEST
from vigil.pipeline.starter import checkpoint_folder

MAX_WORKERS = 1024
MAX_BATCH_SIZE = 83  # of I3D's clip-views: with more, a layer's output passes 2^31 elements
MAX_MARGIN_SECONDS = 3600
_DEVICE = re.compile(r"auto|all|cpu|cuda(:\d{1,3})?")
_OWN_VIEWS_ONLY = (options.ExtractOptions, options.ScoreOptions, options.CalibrateOptions)
"""Commands that extract; the others may read imported features, whose views have no names."""


def check_options(chosen: Any) -> None:
    """Refuse options of a command that cannot be right.

    Raises:
        UserError: names the option, its value and what is allowed.
    """
    compute = getattr(chosen, "compute", None)
    _check_paths(chosen)
    for name in ("views", "train_views", "test_views"):
        if (views := getattr(chosen, name, None)) is not None:
            view_names(views, unnamed=not isinstance(chosen, _OWN_VIEWS_ONLY))
    for one in (chosen, compute):
        _check_device(getattr(one, "device", "auto"))
    if compute is not None:
        check_compute(compute)
    if isinstance(chosen, (options.ScoreOptions, options.ReportOptions)):
        read_formats(chosen.format)
        check_clips(chosen)
    if isinstance(chosen, options.ExtractOptions):
        _check_networks(chosen)
        requested_spec(chosen, "", "")


def _check_networks(chosen: options.ExtractOptions) -> None:
    """Refuse networks, endpoints and weights that do not exist."""
    # The table imports what downloads, which takes longer than all else here.
    from vigil.extract.networks.choice import (
        check_weights,
        find_backbones,
        find_endpoints,
        require_fit,
    )

    backbones = find_backbones(chosen.backbone)
    find_endpoints(backbones, chosen.endpoint)
    require_fit(backbones, view_names(chosen.views))
    check_weights(chosen.weights, backbones)


def _check_paths(chosen: Any) -> None:
    """Refuse what a command is to read and what is not there."""
    videos = getattr(chosen, "videos", None)
    for argument in videos if isinstance(videos, tuple) else ():
        check_argument(argument)
    for path in getattr(chosen, "annotations", ()):
        if not path.exists():
            raise UserError(f"{path} does not exist: check --annotations")
    for name in ("run", "other", "checkpoint"):
        if (path := getattr(chosen, name, None)) is not None:
            may_be_starter = isinstance(chosen, (options.ScoreOptions, options.CalibrateOptions))
            _check_run(checkpoint_folder(path) if may_be_starter else path)
    if isinstance(features := getattr(chosen, "features", None), Path):
        _check_features(features)


def _check_features(path: Path) -> None:
    """Refuse a place without feature files, with what it holds instead."""
    from vigil.extract.store import SUFFIX  # with h5py, which a command without features spares

    if not path.exists():
        raise UserError(f"{path} is not a folder of features: run vigil extract first")
    if path.is_file() or any(path.rglob(f"*{SUFFIX}")):
        return
    remedy = "run vigil extract first"
    if any(path.rglob("*.npy")) or any(path.rglob("*.npz")):
        remedy = "run vigil features import first, since its .npy files are those of other programs"
    elif (path / BEST).is_dir():
        remedy = "it is a run; put the folder that vigil extract wrote in this place"
    raise UserError(f"{path} holds no feature files: {remedy}")


def _check_run(path: Path) -> None:
    """Refuse a run or checkpoint that is not there, unless a killed save left it beside."""
    if not path.exists() and not path.with_name(f".{path.name}.previous").exists():
        raise UserError(f"{path} does not exist: give the folder that vigil train wrote")


def _check_device(names: str) -> None:
    """Refuse names that no machine has a device for."""
    for name in names.split(","):
        if not _DEVICE.fullmatch(name.strip()):
            raise UserError(
                f"device {name!r} is unknown: use auto, cpu, cuda, or cuda:0 for the first GPU"
            )


def check_compute(compute: options.ComputeOptions) -> None:
    """Refuse numbers that are out of range.

    Raises:
        UserError: names the number and the range.
    """
    if compute.batch_size is not None and not 1 <= compute.batch_size <= MAX_BATCH_SIZE:
        raise UserError(f"batch size {compute.batch_size} is not in 1..{MAX_BATCH_SIZE}")
    if compute.workers != "auto" and not 0 <= compute.workers <= MAX_WORKERS:
        raise UserError(f"{compute.workers} workers are not in 0..{MAX_WORKERS}: use auto")
    if not compute.stall_seconds >= 1:
        raise UserError(f"--stall-seconds {compute.stall_seconds:g} is less than 1")
    if not 0.1 <= compute.worker_memory_gib <= 2**20:
        raise UserError(f"--worker-memory-gib {compute.worker_memory_gib:g} is not in 0.1..2^20")


def check_clips(chosen: options.ScoreOptions | options.ReportOptions) -> None:
    """Refuse a margin that is out of range, and clips that cannot be encoded.

    Raises:
        UserError: names the margin and the range, or what to install.
    """
    if not 0 <= chosen.clip_margin <= MAX_MARGIN_SECONDS:
        raise UserError(
            f"clip margin {chosen.clip_margin:g} is not in 0..{MAX_MARGIN_SECONDS} seconds: use 5"
        )
    if chosen.clips:
        from vigil.extract.decode.excerpt_tracks import require_encoder  # loads FFmpeg

        require_encoder()


def requested_spec(
    chosen: options.ExtractOptions, endpoint: str, weights_digest: str
) -> FeatureSpec:
    """The spec of the features that are to be extracted.

    Raises:
        UserError: a setting is not allowed.
    """
    return FeatureSpec(
        backbone=chosen.backbone,
        endpoint=endpoint,
        weights_digest=weights_digest,
        time_pool=chosen.time_pool,
        clip_stride=chosen.clip_stride,
        num_segments=chosen.segments,
        short_side=_short_side(chosen.short_side),
        deinterlace=chosen.deinterlace,
        frame_rate=_frame_rate(chosen.frame_rate),
    )


def _short_side(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isdecimal():
        raise UserError(f"short side {text!r} is not a number of pixels: use 256, or native")
    return int(text)


def _frame_rate(text: str) -> float | None:
    try:
        return None if text == "native" else float(text)
    except ValueError:
        raise UserError(
            f"frame rate {text!r} is not a number of frames a second: use 25, or native"
        ) from None
