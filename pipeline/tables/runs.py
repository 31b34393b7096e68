"""A run of a table: which videos it has, and how it is trained and evaluated."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vigil.data.annotations import Annotation, labels_from_folders, load_annotations
from vigil.data.matching import match_videos
from vigil.data.pooling import PoolingConfig
from vigil.data.splits import hold_out
from vigil.data.storage import Storage
from vigil.extract.sealed import sealed_digest
from vigil.extract.store import list_features, read_features
from vigil.extract.views import view_names
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.evaluation.command import evaluate_video
from vigil.pipeline.evaluation.records import record_use, write_scores
from vigil.pipeline.option_values import Span
from vigil.pipeline.options import BenchMethodsOptions
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.run_folder import BEST, LAST
from vigil.pipeline.scores.alarms import VideoAlarms, alarm_levels, count_alarms, why_unknown
from vigil.pipeline.tables.method_table import scores_folder
from vigil.pipeline.training.loop import train_model
from vigil.pipeline.training.training_data import (
    LabelledFeatures,
    load_labelled_features,
    split_training,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoSet:
    """Annotated videos, to train on or to test on."""

    folder: Path
    """The folder of the features."""
    annotations: dict[str, Annotation]
    files: dict[str, Path]
    """Video -> feature file."""

    def only(self, videos: Sequence[str]) -> "VideoSet":
        """The same set, restricted to some of the videos."""
        return replace(self, annotations={video: self.annotations[video] for video in videos})

    def content(self) -> dict[str, list[object]]:
        """Everything a run depends on: video -> digest of its features, classes, intervals."""
        return {
            video: [
                sealed_digest(self.files[video]),
                annotation.class_names,
                [(one.start, one.stop) for one in annotation.intervals or ()],
            ]
            for video, annotation in sorted(self.annotations.items())
        }


@dataclass(frozen=True, eq=False)
class TableRun:
    """A run to train and evaluate."""

    row: str
    seed: int
    recipe: Recipe
    folder: Path
    train: VideoSet
    test: VideoSet
    made_of: str
    """`digest_of` of the videos."""

    def __str__(self) -> str:
        """Its name in messages."""
        return f"{self.row}, seed {self.seed}"

    def make(self, labelled: LabelledFeatures, views: str | None, device: torch.device) -> str:
        """Train and evaluate, and return how long it took, in words.

        Args:
            labelled: the features, of more videos than those of the run perhaps.
            views: on which the test videos are scored, as the option says.
            device: the device to compute on.

        Raises:
            UserError: there are too few videos of a kind, or training diverged.
        """
        started = time.monotonic()
        videos = sorted(self.train.annotations)
        _train(labelled, videos, self.recipe, self.folder, self.seed, device)
        trained = time.monotonic()
        score_run(self.folder, self.test, device, views, self.made_of)
        times = trained - started, time.monotonic() - trained
        return "trained in {:.0f} s, evaluated in {:.0f} s".format(*times)


def _train(
    labelled: LabelledFeatures,
    videos: Sequence[str],
    recipe: Recipe,
    run: Path,
    seed: int,
    device: torch.device,
) -> None:
    """Train on some of the videos, and release the copies made for it.

    Raises:
        UserError: there are too few videos of a kind, or training diverged.
    """
    data = split_training(labelled.only(videos), recipe, seed)
    train_model(data, recipe, run, seed, device)


def load_videos(options: BenchMethodsOptions) -> tuple[VideoSet, VideoSet | None]:
    """The videos to train on, or all videos; and the test videos, if they are given separately.

    Raises:
        UserError: annotations and features do not match, or a folder holds no features.
    """
    files = list_features(options.features)
    given = options.annotations
    labels = load_annotations(given) if given else labels_from_folders(files)
    whole = VideoSet(options.features, match_videos(labels, files).annotations, files)
    if options.test_features is None:
        return whole, None
    files = list_features(options.test_features)
    matching = match_videos(load_annotations(options.test_annotations), files)
    for problem in matching.problems:
        logger.warning("test: %s", problem)
    return whole, VideoSet(options.test_features, matching.annotations, files)


def split_test(
    whole: VideoSet, given: VideoSet | None, test_share: float | None, seed: int
) -> tuple[VideoSet, VideoSet]:
    """The training and the test videos: given separately, or sampled with the seed."""
    if given is not None:
        return whole, given
    assert test_share is not None, "checked with the options"
    split = hold_out(whole.annotations.values(), test_share, seed)
    return whole.only(split.train), whole.only(split.validation)


def score_run(
    run: Path, test: VideoSet, device: torch.device, views: str | None, made_of: str
) -> None:
    """Score the test videos with both checkpoints of a run, as `score_test_videos` does."""
    for which in (BEST, LAST):
        score_test_videos(run, which, test, device, views, made_of)


def score_test_videos(
    run: Path, which: str, test: VideoSet, device: torch.device, views: str | None, made_of: str
) -> None:
    """Score the test videos with a checkpoint of a run, and store the scores in the run.

    Raises:
        UserError: features are damaged or do not match the checkpoint.
    """
    checkpoint = load_checkpoint(run, which)
    checkpoint.model.to(device)
    names = None if views is None else view_names(views, unnamed=True)
    span: Span = "auto" if checkpoint.config.recipe.features.span_frames else "whole"
    videos = [
        evaluate_video(checkpoint, annotation, read_features(test.files[video]), names, span)
        for video, annotation in test.annotations.items()
    ]
    names_of_classes = checkpoint.config.class_names
    alarms: tuple[VideoAlarms, ...] = ()
    if not why_unknown(videos):
        alarms = count_alarms(videos, checkpoint.config.threshold, alarm_levels(videos))
    write_scores(scores_folder(run, which), videos, names_of_classes, alarms, made_of)
    record_use(checkpoint, test.folder, len(videos))


def digest_of(train: VideoSet, test: VideoSet, options: BenchMethodsOptions) -> str:
    """sha256 of everything a run depends on apart from its recipe and its seed."""
    content = [train.content(), test.content(), options.views, options.test_views]
    return hashlib.sha256(json.dumps(content).encode(errors="surrogateescape")).hexdigest()


def load(
    options: BenchMethodsOptions, pooling: PoolingConfig, storage: Storage
) -> LabelledFeatures:
    """The labelled features of a table's training videos, as `load_labelled_features`."""
    views = view_names(options.views, unnamed=True)
    return load_labelled_features(options.features, options.annotations, views, pooling, storage)
