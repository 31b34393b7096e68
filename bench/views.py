"""The views that show a whole frame, beside the center: how many clips a second each one allows.

Views are cut and go through the network as in an extraction; nothing is decoded.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor, nn

from bench.network import read_clip
from bench.options import Options
from bench.table import Row, shortest_seconds
from bench.videos import chosen_videos
from vigil.extract.clips import CLIP_FRAMES
from vigil.extract.engine.cutting import cut_view
from vigil.extract.networks.backbones import Backbone, find_backbone
from vigil.extract.networks.hardware import best_precision, select_device
from vigil.extract.networks.placement import place
from vigil.extract.networks.weights import load_weights
from vigil.extract.views import SQUEEZE, WHOLE
from vigil.pipeline.extraction.command import GPU_BATCH_SIZE

SECTION = "views"


def measure(options: Options, folder: Path) -> Iterator[Row]:
    """Yield the rate of clips for the center, squeeze and, if the network takes it, whole."""
    device = select_device(options.device)
    backbone = find_backbone(options.backbone)
    endpoint = backbone.endpoint(options.endpoint)
    network = backbone.build(endpoint).eval()
    load_weights(network, options.weights, backbone.sources)
    precision = (*options.precisions, best_precision([device]))[0]
    clip = read_clip(chosen_videos(options, folder, [(320, 240)], CLIP_FRAMES)).to(device)
    largest = options.batch_size or (GPU_BATCH_SIZE if device.type == "cuda" else 1)
    sizes = {"center": largest, SQUEEZE: largest}
    if backbone.pixels.any_size:
        sizes[WHOLE] = 1
    ways = {
        name: _way(network, backbone, clip, name, precision, size) for name, size in sizes.items()
    }
    seconds = shortest_seconds(ways, options.repeats)
    rates = {name: size / seconds[name] for name, size in sizes.items()}
    for name, rate in rates.items():
        height, width = cut_view(clip, name).shape[1:3]
        note = f"{width}x{height}, {endpoint}, {precision}, {sizes[name]} at a time"
        yield Row(SECTION, name, rate, "clips/s", rate / rates["center"], note)


def _way(
    network: nn.Module,
    backbone: Backbone,
    clip: Tensor,
    name: str,
    precision: str,
    batch_size: int,
) -> Callable[[], Tensor]:
    """What cuts a view of as many clips as go through the network together, and runs it."""
    view = cut_view(clip, name)
    batch = view.new_zeros((batch_size, *view.shape))
    size = (view.shape[1], view.shape[2])
    placed = place(network, backbone, clip.device, precision, batch_size=batch_size, view_size=size)

    def run() -> Tensor:
        for row in batch:
            row.copy_(cut_view(clip, name))
        return placed.run(batch).cpu()

    return run
