"""The checkpoint, the weights of its networks, and how fast these run here."""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from vigil.extract.clips import CLIP_FRAMES, VIEW_SIZE
from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import Backbone
from vigil.extract.networks.choice import find_backbones, find_endpoints, split_weights
from vigil.extract.networks.download import cache_folder, cached_weights
from vigil.extract.networks.hardware import choose_precision, select_devices
from vigil.extract.networks.named_weights import is_random
from vigil.extract.networks.placement import Placed, place
from vigil.extract.networks.weights import Weights, load_weights
from vigil.extract.spec import FeatureSpec
from vigil.pipeline.checkpoint import CheckpointConfig, load_checkpoint
from vigil.pipeline.doctor.finding import OK, PROBLEM, WARNING, Finding
from vigil.pipeline.doctor.software import read_text
from vigil.pipeline.extraction.command import GPU_BATCH_SIZE
from vigil.pipeline.extraction.same_weights import load_same_networks
from vigil.pipeline.starter import STARTER

CAMERA_FPS = 25.0
"""Of the cameras in which speed is told."""
NUM_RUNS, MIN_RUNS, MAX_SECONDS = 7, 3, 15.0
"""Runs that are timed: fewer if they take too long together."""


def check_detector(folder: Path, which: str) -> Iterator[Finding]:
    """Yield whether a checkpoint and its networks' weights are whole; nothing is downloaded.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    config = load_checkpoint(folder, which).config
    name = "the starter" if folder == STARTER else str(folder)
    classes = ", ".join(config.class_names[1:])
    yield Finding("checkpoint", OK, f"{name}: finds {classes}")
    if config.spec.origin is not None:
        found = f"made for features that were {config.spec.origin}"
        remedy = "train on features of vigil extract to score videos"
        yield Finding("weights", PROBLEM, found, remedy)
        return
    backbones = find_backbones(config.spec.backbone)
    names = split_weights(config.weights_name, len(backbones))
    places = [find_here(one, name) for one, name in zip(backbones, names, strict=True)]
    for backbone, name, place_ in zip(backbones, names, places, strict=True):
        if place_ is None:
            yield missing_weights(backbone, name)
    if None not in places:
        yield _same_weights(config, ",".join(map(str, places)))


def find_here(backbone: Backbone, name: str) -> str | None:
    """Where weights lie on this machine, given their name or earlier path; None: nowhere."""
    if is_random(name) or Path(name).is_file():
        return name
    sources = [one for one in backbone.sources if cached_weights(one).is_file()]
    sources.sort(key=lambda one: (one.name != name, one.file_name != Path(name).name))
    return str(cached_weights(sources[0])) if sources else None


def missing_weights(backbone: Backbone, name: str) -> Finding:
    """The weights of a network are not here; the command that fetches them."""
    alike = [one for one in backbone.sources if name in (one.name, str(cached_weights(one)))]
    alike = alike or [one for one in backbone.sources if one.file_name == Path(name).name]
    label = f"weights of {backbone.name}"
    if not alike:
        remedy = f"copy the file there, or name its place with --weights, or retrain: {name}"
        return Finding(label, PROBLEM, f"{name} does not exist, and is not published", remedy)
    size = f" ({alike[0].num_bytes / 1e6:.0f} MB)" if alike[0].num_bytes else ""
    found = f"{alike[0].name}{size} are not in {cache_folder()}"
    return Finding(label, PROBLEM, found, f"vigil weights fetch {backbone.name} {alike[0].name}")


def _same_weights(config: CheckpointConfig, places: str) -> Finding:
    used = Weights(config.weights_name, config.spec.weights_digest, config.weights_trained)
    spec = config.spec
    try:
        load_same_networks(spec.backbone, spec.endpoint, used, places, None)
    except UserError as error:
        remedy = "name the file used in training with --weights, or vigil weights list"
        return Finding("weights", PROBLEM, str(error), remedy)
    if not config.weights_trained:
        remedy = "train on features with published weights"
        return Finding("weights", WARNING, "random: the scores mean nothing", remedy)
    return Finding("weights", OK, f"{places}, those of the training")


def check_speed(folder: Path, which: str, device: str, num_streams: int) -> Iterator[Finding]:
    """Yield how many cameras the networks of a checkpoint keep up with, measured.

    Raises:
        UserError: there is no checkpoint or no such device.
    """
    spec = load_checkpoint(folder, which).config.spec
    if spec.origin is not None:
        return
    devices = select_devices(device)
    precision = choose_precision("auto", devices)
    batch_size = GPU_BATCH_SIZE if devices[0].type == "cuda" else 1
    placed = _placed(spec, devices[0], precision, batch_size)
    shape = batch_size, CLIP_FRAMES, VIEW_SIZE, VIEW_SIZE, 3
    clips = torch.randint(0, 256, shape, dtype=torch.uint8).to(devices[0])
    _seconds(placed, clips)  # warms up
    seconds: list[float] = []
    begun, busy_before = time.monotonic(), _busy_seconds()
    while len(seconds) < NUM_RUNS and (
        len(seconds) < MIN_RUNS or time.monotonic() - begun < MAX_SECONDS
    ):
        seconds.append(_seconds(placed, clips))
    how = ", ".join(dict.fromkeys(f"{one.rung}, {one.precision}" for one in placed))
    how = f"{spec.backbone} on {devices[0]}, {how}; median of {len(seconds)}"
    others = (_busy_seconds() - busy_before) / (time.monotonic() - begun)
    if others > 0.5:
        how += f"; other programs kept {others:.1f} cores busy meanwhile"
    yield speed_finding(batch_size / statistics.median(seconds), spec, how, num_streams)


def _placed(
    spec: FeatureSpec, device: torch.device, precision: str, batch_size: int
) -> list[Placed]:
    """The networks on the device, with random weights, which do not change their speed."""
    backbones = find_backbones(spec.backbone)
    placed = []
    for backbone, endpoint in zip(backbones, find_endpoints(backbones, spec.endpoint), strict=True):
        network = backbone.build(endpoint)
        load_weights(network, "random", backbone.sources)
        placed.append(place(network, backbone, device, precision, batch_size=batch_size))
    return placed


def _seconds(placed: list[Placed], clips: torch.Tensor) -> float:
    begun = time.perf_counter()
    for one in placed:
        one.run(clips).cpu()  # waits for the device
    return time.perf_counter() - begun


def _busy_seconds() -> float:
    """How long the cores of this machine have worked for other processes."""
    _, user, nice, system, *_ = read_text(Path("/proc/stat")).split(maxsplit=4)
    busy = sum(map(int, (user, nice, system))) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


def speed_finding(
    clips_per_second: float, spec: FeatureSpec, how: str, num_streams: int
) -> Finding:
    """How many cameras in real time a rate of clips means, with one view of each clip."""
    cameras = clips_per_second * spec.clip_stride / (spec.frame_rate or CAMERA_FPS)
    number = f"{cameras:.0f}" if cameras >= 10 else f"{cameras:.1f}"
    found = (
        f"{number} cameras of {CAMERA_FPS:g} frames a second in real time, decoding left out "
        f"({clips_per_second:.3g} clips a second; {how})"
    )
    if cameras >= max(num_streams, 1):
        return Finding("speed", OK, found)
    remedy = "use a GPU, or train on a faster, earlier layer: vigil extract --endpoint Mixed_4d"
    return Finding("speed", WARNING, found, remedy)
