"""`python -m bench.composites`: long recordings made of short videos, scored whole and in spans.

Features of short videos, extracted with --keep-clips, are joined clip by clip into recordings of
given lengths: ordinary videos in random order, and anomalous ones between them at a given rate.
Each video is cut to whole clips, so that a joined recording has the very features that a joined
video would have. Ordinary videos repeat if there are too few. Every video is also scored alone, as
the short file it was. A table of what an operator would see goes to standard output.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from vigil.data.annotations import Annotation, load_annotations
from vigil.data.matching import match_videos
from vigil.extract.errors import UserError
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.store import VideoFeatures, list_features, read_features
from vigil.pipeline.checkpoint import Checkpoint, load_checkpoint
from vigil.pipeline.option_values import Span, read_span
from vigil.pipeline.scores.alarms import Interval, alarms_of, overlap
from vigil.pipeline.scores.evaluated_video import EvaluatedVideo
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.video_scoring import score_video

FALSE_ALARMS_PER_HOUR = 5.0
COLUMNS = (
    "recordings",
    "span",
    "events",
    "found",
    "IoU 0.3",
    "IoU 0.5",
    "false alarms an hour",
    "excess s an event",
    "edge error s, median",
    f"IoU 0.3 at {FALSE_ALARMS_PER_HOUR:g} false an hour",
)


@dataclass(frozen=True)
class Options:
    """What to join and score."""

    features: tyro.conf.Positional[Path]
    """Folder of features of short videos, with clips."""
    annotations: Path
    """File with their anomalous frames."""
    checkpoint: Path
    """Run to score them with; trained on other videos."""
    minutes: tuple[float, ...] = (20.0, 60.0, 300.0)
    """Lengths of the joined recordings."""
    hours: float = 5.0
    """Footage of each length, in as many recordings as that takes."""
    events_per_hour: float = 18.0
    spans: tuple[str, ...] = ("whole", "auto")
    """How recordings are scored: as for vigil score --span."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Piece:
    """A short video cut to whole clips, and where in it the anomaly is."""

    features: VideoFeatures
    anomalous: tuple[tuple[int, int], ...]
    """Half-open ranges of frames."""


@dataclass
class Tally:
    """What was found in all recordings of a kind."""

    seconds: float = 0.0
    num_events: int = 0
    num_found: list[int] = field(default_factory=lambda: [0, 0, 0])
    """By any overlap, and by IoU 0.3 and 0.5."""
    num_false: int = 0
    excess_seconds: float = 0.0
    """Of alarms, beyond the true events."""
    edge_errors: list[float] = field(default_factory=list)
    """Seconds between the edges of an event and of the alarm that overlaps it most."""

    def add(self, alarms: Sequence[Interval], truth: Sequence[Interval], seconds: float) -> None:
        """Count the alarms of one recording."""
        self.seconds += seconds
        self.num_events += len(truth)
        common = [[overlap(alarm, one) for one in truth] for alarm in alarms]
        self.num_false += sum(not any(row) for row in common)
        self.excess_seconds += sum(
            stop - start - sum(row) for (start, stop), row in zip(alarms, common, strict=True)
        )
        for index, (start, stop) in enumerate(truth):
            best = max(range(len(alarms)), key=lambda one: common[one][index], default=None)
            if best is None or not (shared := common[best][index]):
                continue
            alarm = alarms[best]
            iou = shared / (alarm[1] - alarm[0] + stop - start - shared)
            for place, least in enumerate((0.0, 0.3, 0.5)):
                self.num_found[place] += iou >= least
            self.edge_errors += [abs(alarm[0] - start), abs(alarm[1] - stop)]

    @property
    def false_per_hour(self) -> float:
        """False alarms an hour."""
        return 3600 * self.num_false / self.seconds


def pieces_of(features: Path, annotations: Path) -> list[Piece]:
    """The short videos.

    Raises:
        UserError: a file has no clips, or none is ordinary.
    """
    files = list_features(features)
    matching = match_videos(load_annotations([annotations]), files)
    pieces = [
        _piece(read_features(files[video]), annotation)
        for video, annotation in matching.annotations.items()
    ]
    kinds = {bool(piece.anomalous) for piece in pieces}
    if kinds != {True, False}:
        raise UserError("joined recordings need anomalous and normal videos: give more videos")
    return pieces


def _piece(features: VideoFeatures, annotation: Annotation) -> Piece:
    if features.clip_features is None or features.clip_frames is None:
        raise UserError(f"{annotation.video} has no clips: extract with --keep-clips")
    size = features.spec.clip_frames
    if features.spec.clip_stride != size or features.num_frames_sampled:
        raise UserError(f"{annotation.video} has overlapping or sampled clips: extract without")
    num_clips = max(features.num_frames_decoded // size, 1)
    stop = min(num_clips * size, features.num_frames_decoded)
    inside = [
        (one.start, min(one.stop, stop)) for one in annotation.intervals or () if one.start < stop
    ]
    return Piece(_joined([features], [num_clips]), tuple(inside))


def _joined(videos: Sequence[VideoFeatures], num_clips: Sequence[int]) -> VideoFeatures:
    """The features of one video made of the first clips of several."""
    first = videos[0]
    stored = [one.clip_features for one in videos if one.clip_features is not None]
    clips = np.concatenate([one[:number] for one, number in zip(stored, num_clips, strict=True)])
    num_frames = len(clips) * first.spec.clip_frames
    clip_frames = first.spec.grid.frame_ranges(num_frames)
    segment_frames = segment_ranges(num_frames, first.spec.num_segments)
    return replace(
        first,
        features=np.moveaxis(pool_clips(clips, clip_frames, segment_frames), 0, 1),
        segment_frames=segment_frames,
        segment_seconds=segment_frames / first.fps,
        clip_features=clips,
        clip_frames=clip_frames,
        frame_seconds=np.arange(num_frames + 1) / first.fps,
        num_frames_decoded=num_frames,
    )


def compose(
    pieces: Sequence[Piece], minutes: float, events_per_hour: float, generator: np.random.Generator
) -> tuple[VideoFeatures, list[Interval]]:
    """A recording of this length, and its true events in seconds."""
    kinds = {kind: [one for one in pieces if bool(one.anomalous) is kind] for kind in (True, False)}
    num_anomalous = max(1, round(events_per_hour * minutes / 60))
    chosen = [kinds[True][i] for i in _shuffled(len(kinds[True]), num_anomalous, generator)]
    return fill(chosen, kinds[False], minutes, generator)


def fill(
    chosen: Sequence[Piece],
    ordinary: Sequence[Piece],
    minutes: float,
    generator: np.random.Generator,
) -> tuple[VideoFeatures, list[Interval]]:
    """A recording of this length of the chosen videos and ordinary ones, and its true events."""
    chosen, fps = list(chosen), ordinary[0].features.fps
    wanted = minutes * 60 * fps
    length = sum(one.features.num_frames_decoded for one in chosen)
    for index in _shuffled(len(ordinary), sys.maxsize, generator):
        if length >= wanted:
            break
        chosen.append(ordinary[index])
        length += chosen[-1].features.num_frames_decoded
    order = [chosen[index] for index in generator.permutation(len(chosen))]
    starts = np.cumsum([0, *(one.features.num_frames_decoded for one in order)])
    truth = [
        ((start + a) / fps, (start + b) / fps)
        for start, one in zip(starts.tolist(), order, strict=False)
        for a, b in one.anomalous
    ]
    num_clips = [len(one.features.clip_frames) for one in order]
    return _joined([one.features for one in order], num_clips), truth


def _shuffled(number: int, count: int, generator: np.random.Generator) -> Iterator[int]:
    """Yield so many indices below ``number``; all of them once before one comes again."""
    while count > 0:
        for index in generator.permutation(number)[:count].tolist():
            yield index
            count -= 1


def evaluated(checkpoint: Checkpoint, features: VideoFeatures, span: Span) -> EvaluatedVideo:
    """The scores of a recording, as `vigil score` would have them."""
    timeline = score_video(checkpoint, features.video.path, features, span=span)
    return EvaluatedVideo(
        video=features.video.path,
        class_index=0,
        truth=None,
        num_frames=features.num_frames_decoded,
        segment_frames=timeline.frames,
        scores=timeline.scores,
        segment_seconds=timeline.seconds,
        named=timeline.named if checkpoint.config.recipe.classifies else None,
    )


def tally(scored: Sequence[tuple[EvaluatedVideo, Sequence[Interval]]], threshold: float) -> Tally:
    """What an operator sees at a threshold."""
    found = Tally()
    for video, truth in scored:
        seconds = float(video.segment_seconds[-1, 1])  # type: ignore[index]
        found.add(alarms_of(video, EventRule(threshold)), truth, seconds)
    return found


def at_rate(scored: Sequence[tuple[EvaluatedVideo, Sequence[Interval]]], rate: float) -> Tally:
    """The same at the best threshold with at most so many false alarms an hour."""
    scores = np.concatenate([video.scores.scores for video, _ in scored])
    levels = np.quantile(scores, 1 - np.geomspace(1 / len(scores), 1, 100))
    tallies = [tally(scored, float(level)) for level in np.append(levels, 1.0)]
    fitting = [one for one in tallies if one.false_per_hour <= rate]
    return max(fitting, key=lambda one: one.num_found[1], default=tally([], 1.0))


def main(options: Options) -> int:
    """Print the table."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.checkpoint)
    pieces = pieces_of(options.features, options.annotations)
    fps = pieces[0].features.fps
    threshold = checkpoint.config.threshold
    short = [
        (
            evaluated(checkpoint, one.features, "whole"),
            [(a / fps, b / fps) for a, b in one.anomalous],
        )
        for one in pieces
    ]
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    _print_row("short files", "whole", short, threshold)
    for minutes in options.minutes:
        generator = np.random.default_rng([options.seed, round(60 * minutes)])
        number = max(1, round(60 * options.hours / minutes))
        made = [compose(pieces, minutes, options.events_per_hour, generator) for _ in range(number)]
        for span in options.spans:
            read = read_span(span)
            scored = [(evaluated(checkpoint, features, read), truth) for features, truth in made]
            _print_row(f"{number} of {minutes:g} minutes", span, scored, threshold)
    return 0


def _print_row(
    name: str,
    span: str,
    scored: Sequence[tuple[EvaluatedVideo, Sequence[Interval]]],
    threshold: float,
) -> None:
    own, calm = tally(scored, threshold), at_rate(scored, FALSE_ALARMS_PER_HOUR)
    total = max(own.num_events, 1)
    shares = " | ".join(f"{number / total:.2f}" for number in own.num_found)
    edges = f"{np.median(own.edge_errors):.2f}" if own.edge_errors else "-"
    print(
        f"| {name} | {span} | {own.num_events} | {shares} | {own.false_per_hour:.1f} | "
        f"{own.excess_seconds / total:.1f} | {edges} | {calm.num_found[1] / total:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.composites")))
    except UserError as error:
        sys.exit(f"error: {error}")
