"""What can be found wrong with options before torch, weights or a download are needed.

Importing torch takes seconds and fetching weights minutes, too long to wait for the news of a
mistyped path. So these checks come first, and the modules that they need do not import torch. The
commands find the rest.
"""

import re
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any

from vigil.extract.decode.videos import check_search
from vigil.extract.errors import UserError
from vigil.extract.spec import FeatureSpec
from vigil.extract.views import WHOLE, view_names
from vigil.pipeline import options
from vigil.pipeline.calibration import check_asked, check_camera_option
from vigil.pipeline.option_paths import check_paths
from vigil.pipeline.option_values import (
    check_numbers,
    read_max_damage,
    read_moment,
    read_span,
    read_threshold,
)
from vigil.pipeline.recorder_names import check_clock
from vigil.pipeline.result_formats import read_formats

MAX_WORKERS = 1024
MAX_BATCH_SIZE = 83  # of I3D's clip-views: with more, a layer's output passes 2^31 elements
MAX_MARGIN_SECONDS = 3600
_DEVICE = re.compile(r"auto|all|cpu|cuda(:\d{1,3})?")
_CLUSTER = re.compile(r"auto|[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_TRAINING_NODES = ("auto", "cpu", "cuda")
_EXTRACTING_NODES = ("auto", "all", "cpu", "cuda", "cuda,cpu")
_OWN_VIEWS_ONLY = (
    options.ExtractOptions,
    options.ScoreOptions,
    options.WatchOptions,
    options.ExplainOptions,
    options.CalibrateOptions,
)
"""Commands that extract; the others may read imported features, whose views have no names."""

_WITH_RESAMPLES = (options.CompareOptions, options.BenchMethodsOptions, options.ReproduceOptions)
"""Commands whose results are intervals; vigil evaluate may leave them out."""


def check_options(chosen: Any) -> None:
    """Refuse options of a command that cannot be right.

    Raises:
        UserError: names the option, its value and what is allowed.
    """
    compute = getattr(chosen, "compute", None)
    check_paths(chosen)
    for name in ("views", "train_views", "test_views"):
        if (views := getattr(chosen, name, None)) is not None:
            view_names(views, unnamed=not isinstance(chosen, _OWN_VIEWS_ONLY))
    for one in (chosen, compute):
        _check_device(getattr(one, "device", "auto"))
    if compute is not None:
        check_compute(compute)
        require_one_size(compute, view_names(getattr(chosen, "views", "center")))
    _check_networks(chosen)
    _check_values(chosen)
    _check_together(chosen)
    if isinstance(chosen, (options.ScoreOptions, options.WatchOptions, options.ReportOptions)):
        read_formats(chosen.format)
        check_clips(chosen)
    if isinstance(chosen, options.ServeOptions):
        require_server()
    if getattr(chosen, "cluster", None) is not None:
        if hasattr(chosen, "compute"):
            _check_cluster(chosen.cluster, chosen.compute.device, _EXTRACTING_NODES)
        else:
            _check_cluster(chosen.cluster, chosen.device, _TRAINING_NODES)


def _check_values(chosen: Any) -> None:
    """Refuse numbers out of bounds, and texts that stand for no value."""
    check_numbers(chosen)
    if isinstance(chosen, _WITH_RESAMPLES) and chosen.bootstrap < 1:
        raise UserError(
            f"--bootstrap {chosen.bootstrap} is below 1: give a number of resamples, such as 1000"
        )
    if (span := getattr(chosen, "span", None)) is not None:
        read_span(span)
    if isinstance(chosen, (options.ScoreOptions, options.WatchOptions)):
        read_threshold(chosen.threshold)
        check_clock(chosen.clock)
    if isinstance(chosen, options.ExplainOptions):
        read_threshold(chosen.threshold)
        read_moment(chosen.at)
    if isinstance(chosen, options.CalibrateOptions):
        check_asked(chosen.alarms_per_day, chosen.block_seconds, chosen.camera)
    if isinstance(chosen, options.WatchOptions) and chosen.camera is not None:
        check_camera_option(chosen.camera)
    if (memory_gib := getattr(chosen, "memory_gib", None)) is not None:
        from vigil.data.storage import Storage  # with NumPy, which other commands spare

        Storage(memory_gib=memory_gib)


def _check_together(chosen: Any) -> None:
    """Refuse options that contradict or need each other."""
    match chosen:
        case options.TrainOptions(resume=True, overwrite=True):
            raise UserError("--resume continues a run, --overwrite starts over: give only one")
        case options.FeaturesVerifyOptions(repair=True, videos=()):
            raise UserError("--repair extracts videos again: give the videos with --videos")
        case options.FeaturesVerifyOptions() if chosen.videos and not chosen.features.is_dir():
            raise UserError(f"{chosen.features} is not a folder: --videos checks a whole folder")
        case options.BenchMethodsOptions():
            _check_test_videos(chosen)
        case options.ReproduceOptions():
            _check_dataset(chosen)
        case options.DatasetCheckOptions():
            _find_dataset(chosen.name)
            check_search(chosen.extensions, None, None)


def _check_test_videos(chosen: options.BenchMethodsOptions) -> None:
    """Refuse test videos that are given in two ways, or not completely."""
    share, given = chosen.test_share, chosen.test_features is not None
    if (share is not None) == given or given != bool(chosen.test_annotations):
        raise UserError(
            "give --test-features with --test-annotations, or --test-share without them"
        )
    if share is not None and not chosen.annotations:
        raise UserError("--test-share needs --annotations that specify the anomalous frames")


def _check_dataset(chosen: options.ReproduceOptions) -> None:
    """Refuse a dataset that is unknown, or given in two ways, and views that are not extracted."""
    _find_dataset(chosen.name)
    if (chosen.videos is None) == (chosen.features is None):
        raise UserError(
            "give either --videos or --features: the folder with those of the whole dataset"
        )
    views = view_names(chosen.views, unnamed=True)
    if missing := set(view_names(chosen.train_views, unnamed=True)) - set(views):
        raise UserError(
            f"{', '.join(sorted(missing))} of --train-views is not among --views {chosen.views}: "
            "test on all the views that are trained on, or on more"
        )


def _find_dataset(name: str) -> None:
    """Refuse a dataset that is not in the table."""
    from vigil.data.published_datasets import find_dataset  # with NumPy

    find_dataset(name)


def _check_networks(chosen: Any) -> None:
    """Refuse networks, endpoints and weights that do not exist."""
    has_weights = (options.ExtractOptions, options.DemoOptions, options.ReproduceOptions)
    if not isinstance(chosen, has_weights):
        return
    # The table imports what downloads, which takes longer than all else here.
    from vigil.extract.networks.choice import (
        check_weights,
        find_backbones,
        find_endpoints,
        require_fit,
    )

    if not isinstance(chosen, options.ExtractOptions):
        check_weights(chosen.weights, find_backbones(options.ExtractOptions.backbone))
        return
    backbones = find_backbones(chosen.backbone)
    find_endpoints(backbones, chosen.endpoint)
    require_fit(backbones, view_names(chosen.views))
    check_weights(chosen.weights, backbones)
    requested_spec(chosen, "", "")


def _check_device(names: str) -> None:
    """Refuse names that no machine has a device for."""
    for name in names.split(","):
        if not _DEVICE.fullmatch(name.strip()):
            raise UserError(
                f"device {name!r} is unknown: use auto, cpu, cuda, or cuda:0 for the first GPU"
            )


def check_compute(compute: options.ComputeOptions) -> None:
    """Refuse settings of decoding and computing that are out of range.

    Raises:
        UserError: names the setting, its value and the range.
    """
    if compute.batch_size is not None and not 1 <= compute.batch_size <= MAX_BATCH_SIZE:
        raise UserError(f"batch size {compute.batch_size} is not in 1..{MAX_BATCH_SIZE}")
    if compute.workers != "auto" and not 0 <= compute.workers <= MAX_WORKERS:
        raise UserError(f"{compute.workers} workers are not in 0..{MAX_WORKERS}: use auto")
    if not compute.stall_seconds >= 1:
        raise UserError(f"--stall-seconds {compute.stall_seconds:g} is less than 1")
    if not 0.1 <= compute.worker_memory_gib <= 2**20:
        raise UserError(f"--worker-memory-gib {compute.worker_memory_gib:g} is not in 0.1..2^20")
    read_max_damage(compute.max_damage)
    check_search(compute.extensions, compute.picture_fps, compute.input_fps)


def require_one_size(compute: options.ComputeOptions, views: Collection[str]) -> None:
    """Refuse to compile for frames of any size.

    Raises:
        UserError: says what to leave out.
    """
    if compute.compile and WHOLE in views:
        raise UserError("--compile compiles for one size of frames: leave it out for --views whole")


def wants_clips(
    chosen: options.ScoreOptions | options.WatchOptions | options.ReportOptions,
) -> bool:
    """Whether clips are asked for; those with captions are made of the others."""
    return chosen.clips or chosen.annotate


def check_clips(
    chosen: options.ScoreOptions | options.WatchOptions | options.ReportOptions,
) -> None:
    """Refuse a margin that is out of range, and clips that cannot be encoded.

    Raises:
        UserError: names the margin and the range, or what to install.
    """
    if not 0 <= chosen.clip_margin <= MAX_MARGIN_SECONDS:
        raise UserError(
            f"clip margin {chosen.clip_margin:g} is not in 0..{MAX_MARGIN_SECONDS} seconds: use 5"
        )
    if wants_clips(chosen):
        from vigil.extract.decode.excerpt_tracks import require_encoder  # loads FFmpeg

        require_encoder()


def require_server() -> None:
    """Refuse to serve without the packages for it.

    Raises:
        UserError: says what to install.
    """
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise UserError(
            f"vigil serve needs {' and '.join(missing)}, not installed here: run pip install "
            "'vigil-video[serve]'"
        )


def _check_cluster(address: str, device: str, allowed: Sequence[str]) -> None:
    """Refuse an address and devices that a cluster cannot have, and a cluster without Ray."""
    if not _CLUSTER.fullmatch(address):
        raise UserError(
            f"--cluster {address!r} is not an address: give HOST:PORT of the head node, such as "
            "10.0.0.1:6379, or auto"
        )
    if device not in allowed:
        raise UserError(
            f"--device {device} is of one machine: with --cluster, use one of {' '.join(allowed)}"
        )
    if find_spec("ray") is None:
        raise UserError(
            "--cluster needs ray, not installed here: run pip install 'vigil-video[cluster]'"
        )


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
        static=chosen.static,
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
