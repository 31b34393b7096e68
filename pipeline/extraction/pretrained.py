"""`vigil weights`: list official weights, fetch them, and check a file."""

import logging
from pathlib import Path

from vigil.extract.networks.backbones import BACKBONES, Backbone, find_backbone
from vigil.extract.networks.combinations import find_backbones
from vigil.extract.networks.download import cached_weights, check_identity, fetch_weights
from vigil.extract.networks.weights import load_weights
from vigil.pipeline.logs import download_progress, print_table
from vigil.pipeline.options import WeightsFetchOptions, WeightsListOptions, WeightsVerifyOptions

COLUMNS = ("backbone", "frames", "size", "feature", "GFLOP", "licence", "official weights", "here")

log = logging.getLogger(__name__)


def run_list_weights(_options: WeightsListOptions) -> int:
    """Print each backbone's input, feature, cost of a clip-view, and weights."""
    print_table(COLUMNS, map(_row, BACKBONES.values()))
    return 0


def _row(backbone: Backbone) -> tuple[str, ...]:
    endpoint = backbone.endpoint(None)
    time_positions, channels = backbone.layout[endpoint]
    path = cached_weights(backbone.source)
    return (
        backbone.name,
        str(len(backbone.frame_indices)),
        str(backbone.pixels.size),
        f"{time_positions} x {channels}",
        f"{backbone.count_flop(endpoint) / 1e9:.0f}",
        backbone.source.licence,
        backbone.source.url,
        str(path) if path.is_file() else "no",
    )


def run_fetch(options: WeightsFetchOptions) -> int:
    """Download the official weights of a backbone, or of each in a combination; print the paths."""
    for backbone in find_backbones(options.backbone):
        with download_progress() as progress:
            path = fetch_weights(backbone.source, progress)
        if not backbone.source.is_checkable:
            url = backbone.source.url
            log.warning("no digest of %s is published: the file could not be checked", url)
        print(path)
    return 0


def run_verify_weights(options: WeightsVerifyOptions) -> int:
    """Load weights into their network, and print their digest."""
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
