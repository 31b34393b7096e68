"""Measure extraction on this machine: decoders and network, as ratios within one run.

    python -m bench.extraction [--videos FOLDER] [--endpoint NAME]

The network carries random weights, which does not change its speed. Absolute figures are of this
machine and this hour; only the ratios travel.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from data.synthetic import SyntheticConfig, generate
from extract.backbones import PRECISIONS, find_backbone, place_network
from extract.decoder import frame_size, probe
from extract.decoder_av import AvDecoder
from extract.decoder_decord import DecordDecoder
from extract.versions import installed_versions
from extract.weights import load_weights
from pipeline.inference import select_device
from pipeline.options import VIDEO_EXTENSIONS
from pipeline.videos import find_videos

DecoderType = type[DecordDecoder] | type[AvDecoder]
DECODERS: dict[str, DecoderType] = {"decord": DecordDecoder, "pyav": AvDecoder}


@dataclass(frozen=True)
class Options:
    """Measure decoders and network."""

    videos: Path | None = None
    """Folder of videos to decode; by default some are drawn."""
    endpoint: str | None = None
    """Endpoint of i3d; by default its end."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    repeats: int = 3
    """How often each figure is measured; the median is printed."""


def main(options: Options) -> None:
    """Print the machine, then each figure and its ratio to the first of its kind."""
    device = select_device(options.device)
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    print(f"machine {platform.machine()}, {torch.get_num_threads()} threads, device {device}")
    print(f"versions {versions}")
    if options.videos is not None:
        measure_decoders(options.videos, options.repeats)
    else:
        with tempfile.TemporaryDirectory() as folder:
            generate(SyntheticConfig(num_normal=2, num_per_anomaly=1), Path(folder))
            measure_decoders(Path(folder), options.repeats)
    measure_network(options.endpoint, device, options.repeats)


def measure_decoders(folder: Path, repeats: int) -> None:
    """Print decoded frames per second of each decoder, resized to short side 256."""
    found = find_videos([str(folder)], VIDEO_EXTENSIONS)
    rates = {}
    for name, kind in DECODERS.items():

        def decode(kind: DecoderType = kind) -> int:
            num_frames = 0
            for video in found.videos:
                info = probe(video.path)
                decoder = kind(video.path, info, *frame_size(info.width, info.height, 256))
                num_frames += sum(1 for _ in decoder)
                decoder.close()
            return num_frames

        rates[name] = median_rate(decode, repeats)
    print_ratios("decode", rates, "frames/s")


def measure_network(endpoint: str | None, device: torch.device, repeats: int) -> None:
    """Print clip-views per second of the plain network in each precision the device computes in."""
    backbone = find_backbone("i3d")
    views = torch.randint(0, 256, (1, 3, 64, 224, 224), dtype=torch.uint8, device=device)
    precisions = ["fp32", "bf16"] + (["fp16"] if device.type == "cuda" else [])
    rates = {}
    for precision in precisions:
        network = backbone.build(backbone.endpoint(endpoint))
        load_weights(network, "random", backbone.source)
        place_network(network, device, PRECISIONS[precision])

        def run(network: torch.nn.Module = network, precision: str = precision) -> int:
            with torch.inference_mode():
                network(backbone.normalise(views, PRECISIONS[precision])).cpu()
            return len(views)

        rates[precision] = median_rate(run, repeats)
    print_ratios("network", rates, "clip-views/s")


def median_rate(work: Callable[[], int], repeats: int) -> float:
    """Items per second of work that returns how many it did, after one warm-up."""
    work()
    rates = []
    for _ in range(repeats):
        begun = time.perf_counter()
        count = work()
        rates.append(count / (time.perf_counter() - begun))
    return statistics.median(rates)


def print_ratios(title: str, rates: dict[str, float], unit: str) -> None:
    """Print each rate and its ratio to the first."""
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"{title} {name} {rate:.2f} {unit} ratio {rate / first:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
