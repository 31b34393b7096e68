"""A run with the fake backbone, and recordings, for tests of `vigil watch`."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import fake_backbone
from builders import write_checkpoint
from video_files import draw_frames, encode

from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.combinations import joint_weights, load_networks
from vigil.extract.spec import FeatureSpec
from vigil.pipeline.options import ComputeOptions, ScoreOptions, WatchOptions

COMPUTE = ComputeOptions(device="cpu", precision="fp32", workers=0)
STAMPS = [f"20261130_1015{second:02}" for second in range(0, 60, 2)]
"""Of recordings of 2 seconds that follow each other."""
EVENTFUL, EVENTLESS = 6, 0
"""Seeds of models for which every recording is one event, or has none."""


def write_run(folder: Path, monkeypatch, seed: int = EVENTFUL) -> Path:
    """Register the fake backbone, and write a checkpoint for its features."""
    monkeypatch.setitem(BACKBONES, "fake", fake_backbone.BACKBONE)
    weights = joint_weights(load_networks("fake", None, "random"))
    spec = FeatureSpec(
        "fake", "colour", weights.digest, clip_stride=32, num_segments=8, short_side=None
    )
    return write_checkpoint(
        folder / "run", seed=seed, spec=spec, weights_name=weights.name, weights_trained=False
    )


def draw_recording(path: Path, seed: int = 0) -> Path:
    """Write a video of 2 seconds."""
    return encode(path, draw_frames(50, 64, 48, seed))


def watch_options(folder: Path, **changes) -> WatchOptions:
    """Options of one round over ``folder/in``."""
    defaults = {
        "out": folder / "out",
        "sources": (str(folder / "in"),),
        "checkpoint": folder / "run",
        "once": True,
        "min_free_gib": 0.0,
        "settle_seconds": 0.0,
        "compute": COMPUTE,
    }
    return WatchOptions(**(defaults | changes))


def score_options(folder: Path, **changes) -> ScoreOptions:
    defaults = {"checkpoint": folder / "run", "compute": COMPUTE}
    return ScoreOptions(**(defaults | {"videos": (str(folder / "in"),)} | changes))


def ledger_rows(folder: Path) -> dict[str, str]:
    """Recording -> its outcome, with the reason if it has one."""
    with closing(sqlite3.connect(folder / "out" / "watch.sqlite")) as database:
        rows = database.execute("SELECT video, outcome, reason FROM videos").fetchall()
    return {video: f"{outcome}: {reason}" if reason else outcome for video, outcome, reason in rows}


def sent_alarms(folder: Path) -> list[dict]:
    path = folder / "out" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
