"""`python -m bench.long_training`: train on long videos, whole and cut into spans.

Every training video is joined with ordinary ones of the training into a recording of minutes, at a
random place, and is labelled like the video. A method is trained on the short videos, on the long
recordings, and on spans of these. All are scored on recordings made of other videos, as
`bench.composites` makes them. The means over the seeds go to standard output as a table.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from bench.composites import (
    FALSE_ALARMS_PER_HOUR,
    Piece,
    at_rate,
    compose,
    evaluated,
    fill,
    pieces_of,
    tally,
)
from vigil.extract.errors import UserError
from vigil.extract.store import VideoFeatures, feature_path, write_features
from vigil.pipeline import cli
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.option_values import read_span
from vigil.pipeline.scores.alarms import Interval
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.metrics import rank_frames, roc_auc

COLUMNS = (
    "trained on",
    "scored in spans of",
    "frame AUC",
    "of the seeds",
    "found",
    "IoU 0.3",
    "false alarms an hour",
    f"IoU 0.3 at {FALSE_ALARMS_PER_HOUR:g} false an hour",
)
Recordings = Sequence[tuple[VideoFeatures, Sequence[Interval]]]


@dataclass(frozen=True)
class Options:
    """What to train and score on."""

    features: tyro.conf.Positional[Path]
    """Folder of features of short training videos, with clips."""
    annotations: Path
    """File with their anomalous frames, of which training sees only the classes."""
    test_features: Path
    """The same of other videos."""
    test_annotations: Path
    out: Path
    """Folder for the joined features and the runs; runs that are there are not trained again."""
    config: Path = Path("configs/joint_plus.toml")
    span_frames: tuple[int, ...] = (960,)
    """Lengths of the spans to train on."""
    epochs: int = 150
    """Of every training; the last one is used."""
    shortest: float = 5.0
    """Minutes of the shortest joined training recording."""
    longest: float = 10.0
    minutes: float = 20.0
    """Length of the test recordings."""
    hours: float = 3.0
    """Footage of the test recordings."""
    events_per_hour: float = 18.0
    seeds: int = 3


def make_recordings(pieces: Sequence[Piece], folder: Path, options: Options) -> None:
    """Write a long recording of each training video, unless they are there."""
    generator = np.random.default_rng(0)
    ordinary = [piece for piece in pieces if not piece.anomalous]
    for piece in pieces:
        minutes = generator.uniform(options.shortest, options.longest)
        features, _ = fill([piece], ordinary, minutes, generator)
        path = feature_path(folder, piece.features.video.path)
        if not path.is_file():
            write_features(path, replace(features, video=piece.features.video))


def train(features: Path, span_frames: int, seed: int, out: Path, options: Options) -> Path:
    """Train a run, or finish it, and return it.

    Raises:
        UserError: the training failed.
    """
    command = ["train", str(features), "--config", str(options.config), "--seed", str(seed)]
    command += ["--out", str(out), "--resume", "--device", "cpu"]
    command += ["--span-frames", str(span_frames), "--epochs", str(options.epochs)]
    command += ["--validation-folds", "0"]  # a fifth is held out for the threshold: far quicker
    with redirect_stdout(sys.stderr):
        code = cli.main(command)
    if code:
        raise UserError(f"vigil {' '.join(command)} ended with {code}")
    return out


def with_truth(video: EvaluatedVideo, truth: Sequence[Interval], fps: float) -> EvaluatedVideo:
    """The same video with its anomalous frames."""
    frames = np.zeros(video.num_frames, bool)
    for start, stop in truth:
        frames[round(start * fps) : round(stop * fps)] = True
    return replace(video, truth=frames)


def measures(run: Path, recordings: Recordings, span: str) -> list[float]:
    """The columns from the frame AUC on, without that of the seeds, of one run."""
    checkpoint = load_checkpoint(run)
    scored = [
        (with_truth(evaluated(checkpoint, one, read_span(span)), truth, one.fps), truth)
        for one, truth in recordings
    ]
    auc = roc_auc(rank_frames([video.pieces for video, _ in scored])).value
    own, calm = tally(scored, checkpoint.config.threshold), at_rate(scored, FALSE_ALARMS_PER_HOUR)
    found = [number / own.num_events for number in own.num_found[:2]]
    return [float(auc or 0), *found, own.false_per_hour, calm.num_found[1] / own.num_events]


def main(options: Options) -> int:
    """Print the table."""
    torch.set_num_threads(1)
    long = options.out / "features"
    pieces = pieces_of(options.features, options.annotations)
    make_recordings(pieces, long, options)
    generator = np.random.default_rng(1)
    test = pieces_of(options.test_features, options.test_annotations)
    recordings = [
        compose(test, options.minutes, options.events_per_hour, generator)
        for _ in range(max(1, round(60 * options.hours / options.minutes)))
    ]
    fps = pieces[0].features.fps
    lengths = [f"{frames / fps:g}" for frames in options.span_frames]
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    kinds = [("short videos", options.features, 0, ("auto", *lengths))]
    kinds += [("long videos, whole", long, 0, ("whole", *lengths))]
    kinds += [
        (f"long videos, spans of {length} s", long, frames, ("auto",))
        for frames, length in zip(options.span_frames, lengths, strict=True)
    ]
    for name, features, frames, spans in kinds:
        out = options.out / name.replace(",", "").replace(" ", "_")
        seeds = range(options.seeds)
        runs = [train(features, frames, seed, out / str(seed), options) for seed in seeds]
        for span in spans:
            figures = np.array([measures(run, recordings, span) for run in runs])
            auc, found, iou, false, calm = figures.mean(axis=0)
            each = " ".join(f"{one:.3f}" for one in figures[:, 0])
            unit = "" if span in ("auto", "whole") else " s"
            print(
                f"| {name} | {span}{unit} | {auc:.3f} | {each} | {found:.2f} | {iou:.2f} | "
                f"{false:.1f} | {calm:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.long_training")))
    except UserError as error:
        sys.exit(f"error: {error}")
