"""Small feature files and checkpoints for tests, without a video or a training."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vigil.extract.segments import segment_ranges
from vigil.extract.source import VideoIdentity
from vigil.extract.spec import FeatureSpec
from vigil.extract.store import VideoFeatures, feature_path, write_features
from vigil.model.config import LossConfig, ModelConfig
from vigil.model.joint import JointModel
from vigil.model.settings import InputShape
from vigil.pipeline.checkpoint import CheckpointConfig, config_digest, save_checkpoint
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.scoring.score_store import Scorer

CLASS_NAMES = ("Normal", "Arson", "Fighting")
VIEWS = ("center", "top_left")
SPEC = FeatureSpec(backbone="i3d", endpoint="logits", weights_digest="0" * 64, num_segments=8)
TIME_POSITIONS, CHANNELS = 2, 3
MODEL = ModelConfig(
    lstm_size=4,
    attention_size=4,
    detection_size=4,
    second_attention_size=2,
    classification_size=4,
)


def make_features(video="a.mp4", num_frames=80, seed=0, **changes) -> VideoFeatures:
    shape = (len(VIEWS), SPEC.num_segments, TIME_POSITIONS * CHANNELS)
    frames = segment_ranges(num_frames, SPEC.num_segments)
    features = VideoFeatures(
        features=np.random.default_rng(seed).standard_normal(shape).astype(np.float32),
        segment_frames=frames,
        segment_seconds=frames / 25.0,
        views=VIEWS,
        spec=SPEC,
        time_positions=TIME_POSITIONS,
        channels=CHANNELS,
        weights_name="none",
        weights_trained=True,
        precision="fp32",
        rung="plain",
        device="cpu",
        decoder="decord",
        video=VideoIdentity(path=video, num_bytes=1, modified_ns=1, digest="0" * 64),
        fps=25.0,
        width=320,
        height=240,
        num_frames_container=num_frames,
        num_frames_decoded=num_frames,
        duration_container=num_frames / 25.0,
        versions={},
        created_at="2021-01-01T00:00:00+00:00",
    )
    return replace(features, **changes)


def write_store(root: Path, *videos: VideoFeatures) -> Path:
    for video in videos:
        write_features(feature_path(root, video.video.path), video)
    return root


def write_toy_store(root: Path, num_videos: Mapping[str, int]) -> Path:
    """Write videos per class; in each anomalous one two segments stand out, in its class's way."""
    videos = []
    for dimension, (name, number) in enumerate(num_videos.items()):
        for index in range(number):
            video = make_features(f"{name}/{name}{index}.mp4", seed=100 * dimension + index)
            if name != "Normal":
                video.features[:, 3:5, dimension] += 4
            videos.append(video)
    return write_store(root, *videos)


def rewrite_config(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint's config.json and update its digest to match."""
    content = json.loads(path.read_text())
    change(content)
    content["content_digest"] = config_digest(content)
    path.write_text(json.dumps(content))


def write_checkpoint(run: Path, which="best", threshold=0.5, seed=0, **changes) -> Path:
    """Write a checkpoint with fresh weights into a run's folder and return that folder."""
    shape = InputShape(SPEC.num_segments, TIME_POSITIONS, CHANNELS, len(CLASS_NAMES))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = JointModel(MODEL, LossConfig(), shape)
    config = CheckpointConfig(
        recipe=Recipe(model=MODEL),
        shape=shape,
        class_names=CLASS_NAMES,
        spec=SPEC,
        weights_name="none",
        weights_trained=True,
        precision="fp32",
        views=("center",),
        threshold=threshold,
        threshold_rule="given",
        metrics={},
        seed=seed,
        epoch=1,
        versions={},
        created_at="2021-01-01T00:00:00+00:00",
    )
    save_checkpoint(run / which, replace(config, **changes), model)
    return run


def score_store(checkpoint, files, folder, threshold=None, **settings):
    """Score each feature file, {video: path}, into a folder; return the scorer."""
    scorer = Scorer(checkpoint, folder, threshold, **settings)
    for video, path in files.items():
        scorer.score(video, path)
    return scorer


def fake_extraction(report):
    """A stand-in for `extract_videos`, with the outcome that a report says."""

    def extract_videos(found, store, *arguments, when_ready=None, **settings):
        for name in [*report.present, *(one.video for one in report.extracted)]:
            if when_ready is not None:
                when_ready(name, feature_path(store, name))
        return report

    return extract_videos
