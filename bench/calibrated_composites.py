"""`python -m bench.calibrated_composites`: alarms that `vigil calibrate` was asked for, and got.

Recordings joined of ordinary videos are calibrated as the command does it. On others, alarms are
counted; with anomalous videos between, also what is found of these. The scenes of the others are
either the same videos in another order, or other halves of the videos, each cut in the middle.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from scipy.stats import betabinom

from bench.composites import Piece, Tally, compose, evaluated, fill, pieces_of, tally
from vigil.data.spans import cut
from vigil.extract.errors import UserError
from vigil.extract.store import VideoFeatures
from vigil.pipeline.calibration import CalibratedThreshold
from vigil.pipeline.checkpoint import Checkpoint, load_checkpoint
from vigil.pipeline.options import CalibrateOptions
from vigil.pipeline.scores.alarm_rate import Recording, block_maxima
from vigil.pipeline.scores.alarms import Interval
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.events import held_segments
from vigil.pipeline.scoring.calibrate import calibrate

Halves = tuple[list[Piece], list[Piece]]
Scored = Sequence[tuple[EvaluatedVideo, Sequence[Interval]]]
COLUMNS = (
    "scenes",
    "asked an hour",
    "blocks with an alarm, an hour",
    "range",
    "as promised",
    "false alarms an hour",
    "range",
    "events found",
    "IoU 0.3",
    "range",
)


@dataclass(frozen=True)
class Options:
    """Count the alarms of calibrated recordings, and print a table."""

    features: tyro.conf.Positional[Path]
    """Folder of features of short videos, with clips."""
    annotations: Path
    """File with their anomalous frames."""
    checkpoint: Path
    """Run to score them with; trained on other videos."""
    alarms_per_hour: tuple[float, ...] = (1, 5, 20)
    """Rates to ask for."""
    block_seconds: float = 60.0
    """As for vigil calibrate; shorter than its own, since the rates are higher."""
    hours: float = 2.0
    """Footage to calibrate, as much to count on, and as much with events."""
    minutes: float = 20.0
    """Length of a recording."""
    events_per_hour: float = 18.0
    seeds: int = 5
    """Number of random halves."""


@dataclass(frozen=True)
class Counted:
    """What one threshold does on recordings that were not calibrated."""

    blocks: float
    """Blocks of ordinary footage whose scores reach the threshold, an hour."""
    promised: bool
    """Whether that is in the 95 % interval of the calibration."""
    ordinary: Tally
    """Of ordinary footage."""
    eventful: Tally
    """Of footage with events."""

    @property
    def shares(self) -> tuple[float, float]:
        """Of the events, those found, and those found with IoU 0.3."""
        found, overlapping, _ = self.eventful.num_found
        return found / self.eventful.num_events, overlapping / self.eventful.num_events


def repeat(ordinary: Sequence[Piece], _: np.random.Generator) -> Halves:
    """The same videos twice."""
    return list(ordinary), list(ordinary)


def halve_by_time(ordinary: Sequence[Piece], generator: np.random.Generator) -> Halves:
    """Both parts of each video, cut in the middle; chance decides which comes first.

    Raises:
        UserError: a video has only one clip.
    """
    halves: Halves = ([], [])
    for piece in ordinary:
        features, first = piece.features, int(generator.integers(2))
        size, num_frames = features.spec.clip_frames, features.num_frames_decoded
        middle = num_frames // size // 2 * size
        if not middle:
            raise UserError(
                f"{features.video.path} has one clip and cannot be halved: leave it out"
            )
        halves[first].append(Piece(cut(features, 0, middle), ()))
        halves[1 - first].append(Piece(cut(features, middle, num_frames), ()))
    return halves


SCENES: dict[str, Callable[[Sequence[Piece], np.random.Generator], Halves]] = {
    "again": repeat,
    "later": halve_by_time,
}
"""What is counted -> the videos to calibrate with, and those to count on."""


def recording(video: EvaluatedVideo) -> Recording:
    """Its scores, as `vigil calibrate` takes them."""
    held = held_segments(video.segment_frames)
    if video.segment_seconds is None:
        raise ValueError("times are unknown")
    return Recording(video.scores.scores[held], video.segment_seconds[held])


def is_as_promised(num_alarms: int, num_blocks: int, own: CalibratedThreshold) -> bool:
    """Whether so many of new blocks with an alarm are in the 95 % interval of a calibration."""
    expected = betabinom(num_blocks, own.num_alarms, own.num_blocks + 1 - own.num_alarms)
    low, high = expected.ppf([0.025, 0.975])
    return bool(low <= num_alarms <= high)


def measure(
    checkpoint: Checkpoint,
    pieces: Sequence[Piece],
    halve: Callable[[Sequence[Piece], np.random.Generator], Halves],
    seed: int,
    options: Options,
) -> dict[float, Counted]:
    """Asked rate -> what the threshold does.

    Raises:
        UserError: the hours are too few for a rate, or a video cannot be halved.
    """
    generator = np.random.default_rng(seed)
    anomalous = [piece for piece in pieces if piece.anomalous]
    known, other = halve([piece for piece in pieces if not piece.anomalous], generator)

    def scored(make: Callable[[], tuple[VideoFeatures, list[Interval]]]) -> Scored:
        number = max(1, round(60 * options.hours / options.minutes))
        made = (make() for _ in range(number))
        return [(evaluated(checkpoint, features, "auto"), truth) for features, truth in made]

    calibrated = scored(lambda: fill([], known, options.minutes, generator))
    ordinary = scored(lambda: fill([], other, options.minutes, generator))
    eventful = scored(
        lambda: compose([*anomalous, *other], options.minutes, options.events_per_hour, generator)
    )
    recordings = {str(number): recording(one) for number, (one, _) in enumerate(calibrated)}
    maxima, _ = block_maxima([recording(one) for one, _ in ordinary], options.block_seconds)
    found = {}
    for asked in options.alarms_per_hour:
        settings = CalibrateOptions(
            options.checkpoint,
            (),
            Path(),
            alarms_per_day=24 * asked,
            block_seconds=options.block_seconds,
        )
        own = calibrate(recordings, settings, checkpoint.config.views).overall
        assert own.threshold is not None
        num_alarms = int((maxima >= own.threshold).sum())
        found[asked] = Counted(
            blocks=num_alarms / len(maxima) * 3600 / options.block_seconds,
            promised=is_as_promised(num_alarms, len(maxima), own),
            ordinary=tally(ordinary, own.threshold),
            eventful=tally(eventful, own.threshold),
        )
    return found


def row(scenes: str, asked: float, counted: Sequence[Counted]) -> str:
    """A row of the table: medians over the seeds, and ranges."""
    blocks = np.array([one.blocks for one in counted])
    false = np.array([one.ordinary.false_per_hour for one in counted])
    found, iou = np.array([one.shares for one in counted]).T
    promised = f"{sum(one.promised for one in counted)} of {len(counted)}"
    figures = (
        *(scenes, f"{asked:g}", f"{np.median(blocks):.1f}"),
        *(f"{blocks.min():.1f} to {blocks.max():.1f}", promised),
        *(f"{np.median(false):.1f}", f"{false.min():.1f} to {false.max():.1f}"),
        *(f"{np.median(found):.2f}", f"{np.median(iou):.2f}"),
        f"{iou.min():.2f} to {iou.max():.2f}",
    )
    return "| " + " | ".join(figures) + " |"


def main(options: Options) -> int:
    """Print the table."""
    torch.set_num_threads(1)
    logging.getLogger("vigil").setLevel(logging.ERROR)
    checkpoint = load_checkpoint(options.checkpoint)
    pieces = pieces_of(options.features, options.annotations)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for scenes, halve in SCENES.items():
        seeds = range(options.seeds)
        found = [measure(checkpoint, pieces, halve, seed, options) for seed in seeds]
        for asked in options.alarms_per_hour:
            print(row(scenes, asked, [one[asked] for one in found]), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.calibrated_composites")))
    except UserError as error:
        sys.exit(f"error: {error}")
