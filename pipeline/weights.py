"""`vigil weights`: which official weights there are, fetching them, and checking a file."""

import logging
from pathlib import Path

from extract.backbones import BACKBONES, Backbone, find_backbone
from extract.download import cached_weights, check_identity, fetch_weights
from extract.weights import load_weights
from pipeline.logs import download_progress, print_table
from pipeline.options import WeightsFetchOptions, WeightsListOptions, WeightsVerifyOptions

log = logging.getLogger(__name__)


def run_list(_options: WeightsListOptions) -> int:
    """Print every backbone with its feature, its licence, and where its weights are."""
    header = ("backbone", "frames", "feature", "licence", "official weights", "here")
    print_table(header, map(_row, BACKBONES.values()))
    return 0


def _row(backbone: Backbone) -> tuple[str, ...]:
    time_positions, channels = backbone.layout[backbone.endpoint(None)]
    path = cached_weights(backbone.source)
    return (
        backbone.name,
        str(len(backbone.frame_indices)),
        f"{time_positions} x {channels}",
        backbone.source.licence,
        backbone.source.url,
        str(path) if path.is_file() else "no",
    )


def run_fetch(options: WeightsFetchOptions) -> int:
    """Download a backbone's official weights and print where they are."""
    source = find_backbone(options.backbone).source
    with download_progress() as progress:
        path = fetch_weights(source, progress)
    if source.git_blob_sha1 is None:
        log.warning("no digest of %s is published: it was not compared with one", source.url)
    print(path)
    return 0


def run_verify(options: WeightsVerifyOptions) -> int:
    """Load weights into the network they are for, and print their digest."""
    backbone = find_backbone(options.backbone)
    endpoint = backbone.endpoint(options.endpoint)
    path = cached_weights(backbone.source) if options.weights == "auto" else Path(options.weights)
    if options.weights == "auto" and path.is_file():
        check_identity(path, backbone.source)
    weights = load_weights(backbone.build(endpoint), str(path), backbone.source)
    print(f"endpoint {endpoint}")
    print(f"weights {weights.name}")
    print(f"digest {weights.digest}")
    return 0
