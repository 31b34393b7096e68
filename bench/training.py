"""Training at the paper's size: a step against its matrix products, and loading its features.

The authors' program reads and pools all clips of each video again for every batch. Here pooled
features stay on the device or, if they do not fit in memory, in one file, from which batches are
read while the step before is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from bench.options import Options
from bench.table import Row, shortest_seconds
from vigil.data.storage import Storage
from vigil.extract.clips import CLIP_FRAMES, ClipGrid
from vigil.extract.networks.hardware import select_device
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.model.config import ModelConfig
from vigil.model.settings import InputShape
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.training.feeding import fetch, gather
from vigil.pipeline.training.learner import Bags, new_learner, train_epoch

SECTION = "training"
SHAPE = InputShape(num_segments=32, time_positions=7, channels=1024, num_classes=14)
NUM_BAGS = 60
"""Per batch."""
NUM_BATCHES = 2
NUM_CLIPS = 113
"""Clips of a video of UCF-Crime's mean length: 128 hours at 30 frames a second, 1900 videos."""


def measure(options: Options, folder: Path, shape: InputShape = SHAPE) -> Iterator[Row]:
    """Yield the time of a step and of a batch's data, with their baselines.

    Args:
        options: device and repeats.
        folder: for feature files.
        shape: of the features and classes.
    """
    device = select_device(options.device)
    recipe = Recipe()
    recipe = replace(recipe, training=replace(recipe.training, amp=device.type == "cuda"))
    learner = new_learner(recipe, shape, 0, device)
    resident = _draw_bags(shape, device)
    streamed = _in_file(resident, folder)
    products = _products(recipe, shape, device)
    works: dict[str, Callable[[], object]] = {
        "matrix products": partial(_multiply, NUM_BATCHES * products, device),
        "step": partial(train_epoch, learner, resident, recipe, 0, 1),
        "step, features from a file": partial(train_epoch, learner, streamed, recipe, 0, 1),
    }
    if options.compile:
        compiled = replace(recipe, training=replace(recipe.training, compile=True))
        learner = new_learner(compiled, shape, 0, device)
        works["step, compiled"] = partial(train_epoch, learner, resident, compiled, 0, 1)
    seconds = shortest_seconds(works, options.repeats)
    least = seconds["matrix products"]
    for name, taken in seconds.items():
        each = 1000 * taken / NUM_BATCHES
        yield Row(SECTION, f"{name}, {NUM_BAGS} bags", each, "ms", taken / least)
    yield from _data_path(options, folder, shape, resident, streamed)


def _data_path(
    options: Options, folder: Path, shape: InputShape, resident: Bags, streamed: Bags
) -> Iterator[Row]:
    """Yield the time that a running epoch waits for the features of a batch."""
    device = resident.features.device
    paths = _write_files(folder, shape)
    draws = [torch.randperm(NUM_BATCHES * NUM_BAGS)[:NUM_BAGS] for _ in range(options.repeats + 2)]
    rows = torch.stack(draws)
    with closing(fetch(streamed.features, rows, device)) as fetched:
        ways = {
            "read and pooled anew": partial(_read, paths, shape, device),
            "resident": partial(_next, gather(resident.features, rows), device),
            "from one file, ahead of time": partial(_next, fetched, device),
        }
        seconds = shortest_seconds(ways, options.repeats)
    usual = seconds["read and pooled anew"]
    for name, taken in seconds.items():
        yield Row(SECTION, f"features of a batch, {name}", 1000 * taken, "ms", taken / usual)


def _draw_bags(shape: InputShape, device: torch.device) -> Bags:
    number = NUM_BATCHES * NUM_BAGS
    features = torch.rand(number, shape.num_segments, shape.feature_size).half()
    classes = torch.arange(number) % 2 * (1 + torch.arange(number) % (shape.num_classes - 1))
    return Bags(features.to(device), classes.to(device))


def _in_file(bags: Bags, folder: Path) -> Bags:
    features = bags.features.cpu().numpy()
    in_file = Storage(folder, memory_gib=0).take(features, range(len(features)))
    return Bags(torch.from_numpy(in_file), bags.class_indices, is_resident=False)


def _next(batches: Iterator[Tensor], device: torch.device) -> None:
    _wait(next(batches), device)


def _products(recipe: Recipe, shape: InputShape, device: torch.device) -> list[tuple[Tensor, ...]]:
    """The factors of every matrix product of a step: forward, and backward to weights and inputs.

    Features need no gradient, so their products to inputs are left out.
    """
    config = recipe.model
    assert isinstance(config, ModelConfig)
    bags, segments, size = NUM_BAGS, shape.num_segments, shape.feature_size
    lstm, encoded = config.lstm_size, size + config.lstm_size
    wide, narrow = config.detection_size, config.second_attention_size
    rows = bags * segments
    of_features = [(rows, size, 4 * lstm), (rows, size, config.attention_size)]
    others = [
        *[(bags, lstm, 4 * lstm)] * segments,
        (bags, config.attention_size, segments),
        (rows, encoded, wide),
        (rows, wide, narrow),
        (bags, segments * narrow, segments),
        (bags, encoded, config.classification_size),
    ]
    sizes = [product for n, k, m in of_features for product in ((n, k, m), (k, n, m))]
    sizes += [product for n, k, m in others for product in ((n, k, m), (k, n, m), (n, m, k))]
    kind = torch.float16 if device.type == "cuda" else torch.float32
    made: dict[tuple[int, int], Tensor] = {}

    def factor(height: int, width: int) -> Tensor:
        if (height, width) not in made:
            made[height, width] = torch.rand(height, width, device=device, dtype=kind)
        return made[height, width]

    return [(factor(n, k), factor(k, m)) for n, k, m in sizes]


def _multiply(products: Sequence[tuple[Tensor, ...]], device: torch.device) -> None:
    for left, right in products:
        result = left @ right
    _wait(result, device)


def _write_files(folder: Path, shape: InputShape) -> list[Path]:
    clips = np.random.default_rng(0).random((NUM_CLIPS, shape.feature_size), np.float32)
    paths = [folder / f"{index}.h5" for index in range(NUM_BAGS)]
    for path in paths:
        with h5py.File(path, "w") as file:
            file["features"] = clips
    return paths


def _read(paths: Sequence[Path], shape: InputShape, device: torch.device) -> None:
    grid = ClipGrid()
    num_frames = NUM_CLIPS * CLIP_FRAMES
    segments = segment_ranges(num_frames, shape.num_segments)
    bags = []
    for path in paths:
        with h5py.File(path) as file:
            clips = file["features"][:]
        bags.append(pool_clips(clips, grid.frame_ranges(num_frames), segments))
    _wait(torch.from_numpy(np.stack(bags)).to(device), device)


def _wait(result: Tensor, device: torch.device) -> None:
    """Wait until the device has computed the result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
