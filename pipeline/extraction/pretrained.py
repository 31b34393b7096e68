"""`vigil weights`: list published weights, fetch them, and check a file."""

import logging
from collections.abc import Iterator
from pathlib import Path

from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import BACKBONES, Backbone, find_backbone
from vigil.extract.networks.choice import find_backbones, split_weights
from vigil.extract.networks.download import WeightsSource, cached_weights
from vigil.extract.networks.named_weights import AUTO, cached_first, find_weights
from vigil.pipeline.logs import download_progress, print_table
from vigil.pipeline.options import (
    ExtractOptions,
    WeightsFetchOptions,
    WeightsListOptions,
    WeightsVerifyOptions,
)

COLUMNS = (
    *("backbone", "frames", "size", "feature", "GFLOP"),
    *("weights", "licence", "MB", "source", "here"),
)
DEFAULT_BACKBONE = ExtractOptions.backbone

log = logging.getLogger(__name__)


def run_list_weights(_options: WeightsListOptions) -> int:
    """Print each backbone's input, feature, cost of a clip-view, and published weights."""
    print_table(COLUMNS, (row for one in BACKBONES.values() for row in _rows(one)))
    return 0


def _rows(backbone: Backbone) -> Iterator[tuple[str, ...]]:
    endpoint = backbone.endpoint(None)
    time_positions, channels = backbone.layout[endpoint]
    network: tuple[str, ...] = (
        backbone.name,
        str(len(backbone.frame_indices)),
        str(backbone.pixels.size),
        f"{time_positions} x {channels}",
        str(backbone.gflop or ""),
    )
    for source in backbone.sources:
        path = cached_weights(source)
        is_here = path.is_file()
        yield (
            *network,
            source.name,
            source.licence,
            _megabytes(source),
            source.address,
            str(path) if is_here else "no",
        )
        network = ("",) * len(network)


def _megabytes(source: WeightsSource) -> str:
    """Size of the download, else of the cached file; empty if neither is known."""
    path, size = cached_weights(source), source.num_bytes
    if size is None and path.is_file():
        size = path.stat().st_size
    return "" if size is None else f"{size / 1e6:.0f}"


def run_fetch(options: WeightsFetchOptions) -> int:
    """Fetch weights of a backbone, or of each in a combination, into the cache; print the paths.

    Raises:
        UserError: there is no such backbone or weights, or their sources are out of reach.
    """
    name, weights = options.backbone, options.name
    if weights == AUTO and name in {one.name for one in find_backbone(DEFAULT_BACKBONE).sources}:
        name, weights = DEFAULT_BACKBONE, name
    backbones = find_backbones(name)
    for backbone, one in zip(backbones, split_weights(weights, len(backbones)), strict=True):
        with download_progress() as progress:
            path = find_weights(one, backbone.sources, progress)
        for source in backbone.sources:
            if path == cached_weights(source) and not source.is_checkable:
                url = source.address
                log.warning("no digest of %s is published: the file could not be checked", url)
        print(path)
    return 0


def run_verify_weights(options: WeightsVerifyOptions) -> int:
    """Load weights into their network, and print their digest; nothing is downloaded.

    Raises:
        UserError: there is no such backbone, or the file is not of its complete weights.
    """
    if "/" in options.backbone or Path(options.backbone).suffix:
        raise UserError(
            f"{options.backbone} stands where the name of its backbone belongs: write vigil "
            f"weights verify {DEFAULT_BACKBONE} {options.backbone}, or another name that vigil "
            "weights list shows"
        )
    backbone = find_backbone(options.backbone)
    endpoint = backbone.endpoint(options.endpoint)
    from vigil.extract.networks.weights import load_weights  # with torch, which takes seconds

    text = options.weights
    named = [one for one in cached_first(backbone.sources) if text in (AUTO, one.name)]
    if named:
        path = cached_weights(named[0])
        if path.is_file():
            named[0].check(path)
        text = str(path)
    weights = load_weights(backbone.build(endpoint), text, backbone.sources)
    print(f"endpoint {endpoint}")
    print(f"weights {weights.name}")
    print(f"digest {weights.digest}")
    return 0
