"""The network alone: its speed, its share of the machine's peak, and its accuracy.

The baseline is the usual way: the plain network in fp32 and PyTorch's default memory format, one
view at a time. Random weights do not change the speed, but exaggerate the error of 16 bits.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import machine
from bench.naive import plain_features
from bench.options import Options
from bench.table import Row, shortest_seconds
from bench.videos import chosen_videos
from vigil.extract.clips import CLIP_FRAMES
from vigil.extract.decode.decoder import frame_size, probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.engine.cutting import cut_view
from vigil.extract.networks.backbones import Backbone, find_backbone
from vigil.extract.networks.hardware import select_device
from vigil.extract.networks.placement import RUNGS, place
from vigil.extract.networks.weights import load_weights
from vigil.pipeline.extraction.command import GPU_BATCH_SIZE

SECTION = "network"


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to run the network."""

    name: str
    precision: str
    run: Callable[[Tensor], Tensor]
    """Views (B, 64, 224, 224, 3) uint8 -> features (B, time positions, channels)."""
    views: Tensor

    def __call__(self) -> Tensor:
        """Return the features on the host, so that the device has finished."""
        return self.run(self.views).cpu()


def measure(options: Options, folder: Path) -> Iterator[Row]:
    """Yield the machine's ceilings, and the rate of each way to run the network."""
    device = select_device(options.device)
    backbone = find_backbone(options.backbone)
    endpoint = backbone.endpoint(options.endpoint)
    wanted = options.precisions or machine.fast_precisions(device)
    network = backbone.build(endpoint).eval()
    load_weights(network, options.weights, backbone.sources)
    precisions = tuple({"fp32": None, **dict.fromkeys(wanted)})
    batch_size = options.batch_size or (GPU_BATCH_SIZE if device.type == "cuda" else 1)
    view = read_view(chosen_videos(options, folder, [(320, 240)], CLIP_FRAMES)).to(device)
    variants = find_variants(network, backbone, view, precisions, batch_size)
    flop = backbone.count_flop(endpoint)
    numbers = [torch.get_num_threads()]
    if device.type == "cpu":
        numbers = sorted({1, *numbers})
    for number in numbers:
        where = f", {number} thread{'s' * (number > 1)}" if device.type == "cpu" else ""
        with machine.threads(number), torch.inference_mode():
            rates = {
                name: {
                    "matrix product": machine.product_rate(device, name, options.repeats),
                    "3x3x3 convolution": machine.convolution_rate(device, name, options.repeats),
                }
                for name in precisions
            }
            yield from _ceiling_rows(rates, where)
            rate = machine.copy_rate(device, options.repeats) / 1e9
            yield Row(SECTION, f"memory copy{where}", rate, "GB/s", 1, "read and written")
            ceilings = {name: max(rates[name].values()) for name in precisions}
            yield from _measure_variants(variants, options.repeats, flop, ceilings, where)


def _ceiling_rows(rates: dict[str, dict[str, float]], where: str) -> Iterator[Row]:
    first = rates["fp32"]
    for precision, kinds in rates.items():
        for kind, rate in kinds.items():
            note = "ceiling" if rate == max(kinds.values()) else ""
            what = f"{kind}, {precision}{where}"
            yield Row(SECTION, what, rate / 1e12, "TFLOP/s", rate / first[kind], note)


def _measure_variants(
    variants: Sequence[Variant], repeats: int, flop: int, ceilings: dict[str, float], where: str
) -> Iterator[Row]:
    usual, *_ = variants
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        reference = usual()
    exactness = {way.name: _exactness(way()[:1], reference) for way in variants}  # warms up
    seconds = shortest_seconds({way.name: way for way in variants}, repeats, warm_up=False)
    rates = {way.name: len(way.views) / seconds[way.name] for way in variants}
    for way in variants:
        rate = rates[way.name]
        share = flop * rate / ceilings[way.precision]
        note = f"{flop * rate / 1e12:.3g} TFLOP/s, {share:.0%} of the ceiling"
        note = f"{note}; {exactness[way.name]}"
        yield Row(SECTION, way.name + where, rate, "clips/s", rate / rates[usual.name], note)


def _exactness(features: Tensor, reference: Tensor) -> str:
    got, expected = features.double().flatten(), reference.double().flatten()
    cosine = functional.cosine_similarity(got, expected, dim=0)
    error = torch.linalg.vector_norm(got - expected) / torch.linalg.vector_norm(expected)
    return f"cosine {cosine:.5f}, relative L2 {error:.1e}"


def find_variants(
    network: nn.Module,
    backbone: Backbone,
    view: Tensor,
    precisions: Sequence[str],
    batch_size: int,
) -> list[Variant]:
    """The usual way, then every rung that works, for each precision.

    Args:
        network: the plain one, in fp32, on the CPU.
        backbone: of the network.
        view: (1, 64, 224, 224, 3) uint8, on the device.
        precisions: keys of `PRECISIONS`.
        batch_size: views per batch for the rungs.
    """
    plain = copy.deepcopy(network).to(view.device)
    variants = [Variant("usual way, fp32", "fp32", partial(plain_features, plain, backbone), view)]
    views = view.expand(batch_size, *view.shape[1:]).contiguous()
    rungs = ("compiled", *RUNGS) if view.device.type == "cuda" else RUNGS
    for precision in precisions:
        for rung in rungs:
            placed = place(
                network, backbone, view.device, precision, batch_size=batch_size, rungs=(rung,)
            )
            if (placed.rung, placed.precision) == (rung, precision):
                variants.append(Variant(f"{rung}, {precision}", precision, placed.run, views))
    return variants


def read_view(videos: Path) -> Tensor:
    """(1, 64, 224, 224, 3) uint8, the center of the first clip of a folder's first video."""
    return cut_view(read_clip(videos), "center")[None]


def read_clip(videos: Path) -> Tensor:
    """(64, H, W, 3) uint8, the first clip of a folder's first video, short side 256."""
    video = min(videos.iterdir())
    info = probe(video)
    decoder = AvDecoder(video, info, *frame_size(info.width, info.height, 256))
    frames = list(islice(decoder, CLIP_FRAMES))
    decoder.close()
    frames += frames[-1:] * (CLIP_FRAMES - len(frames))
    return torch.from_numpy(np.stack(frames))
