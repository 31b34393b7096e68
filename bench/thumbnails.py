"""`python -m bench.thumbnails VIDEOS`: what thumbnails cost beside decoding, and their size.

Decoding with and without them takes turns, and CPU time counts, on which other programs have little
influence. Each ratio is that of two turns in a row; the median counts.
"""

import statistics
import time
from pathlib import Path

import tyro

from bench.machine import describe
from vigil.extract.clips import CLIP_FRAMES
from vigil.extract.decode.decoder import frame_size, probe
from vigil.extract.decode.decoder_av import AvDecoder
from vigil.extract.decode.decoder_decord import DecordDecoder
from vigil.extract.decode.thumbnails import Photographer, thumbnail_step
from vigil.extract.networks.hardware import select_device

SHORT_SIDE = 256
DECODERS = (DecordDecoder, AvDecoder)


def take(kind: type[DecordDecoder] | type[AvDecoder], video: Path) -> tuple[float, float, int]:
    """CPU seconds of decoding a video without and with thumbnails, and the bytes of its sheets."""
    info = probe(video)
    step, seconds, num_bytes = thumbnail_step(info.fps, CLIP_FRAMES), [], 0
    for one in (0, step):
        begun = time.process_time()
        decoder = kind(video, info, *frame_size(info.width, info.height, SHORT_SIDE))
        photographer = Photographer(one)
        for number, _ in enumerate(photographer.watch(decoder), start=1):
            if number % CLIP_FRAMES == 0:
                num_bytes += sum(len(sheet.jpeg) for sheet in photographer.sheets())
        num_bytes += sum(len(sheet.jpeg) for sheet in photographer.sheets(is_end=True))
        decoder.close()
        seconds.append(time.process_time() - begun)
    return seconds[0], seconds[1], num_bytes


def main(videos: tuple[Path, ...], /, repeats: int = 10) -> None:
    """Print the ratio of each decoder, and the megabytes of an hour.

    Args:
        videos: to decode.
        repeats: how often.
    """
    print(*describe(select_device("cpu"), "bench.thumbnails"), sep="\n")
    hours = sum(probe(video).duration_seconds for video in videos) / 3600
    for kind in DECODERS:
        ratios, num_bytes = [], 0
        for _ in range(repeats):
            without, with_them, sizes = zip(*(take(kind, one) for one in videos), strict=True)
            ratios.append(sum(with_them) / sum(without))
            num_bytes = sum(sizes)
        print(f"{kind.name}: {statistics.median(ratios):.3f} times the CPU time of decoding alone")
        print(f"{kind.name}: {num_bytes / hours / 1e6:.1f} MB an hour")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m bench.thumbnails")
