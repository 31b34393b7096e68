"""`vigil bench-methods`: compare many methods over several seeds, on one split, in one table.

Each row is a recipe with changes. Each run chooses its epoch and threshold on its own held-out
videos or folds. Its checkpoints are evaluated on the test videos only one time, after the training.
Finished runs are not trained again.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from vigil.data.annotations import Annotation, labels_from_folders, load_annotations
from vigil.data.classes import NORMAL
from vigil.data.matching import match_videos
from vigil.data.pooling import PoolingConfig
from vigil.data.splits import hold_out
from vigil.data.storage import Storage
from vigil.extract.errors import UserError, counted
from vigil.extract.locks import locked
from vigil.extract.networks.hardware import select_device
from vigil.extract.sealed import sealed_digest
from vigil.extract.store import list_features, read_features, read_identity
from vigil.extract.views import view_names
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.evaluation.command import evaluate_video
from vigil.pipeline.evaluation.records import lacks_alarms, record_use, write_scores
from vigil.pipeline.evaluation.records import made_of as scores_made_of
from vigil.pipeline.option_values import Span
from vigil.pipeline.options import BenchMethodsOptions
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.run_folder import BEST, LAST
from vigil.pipeline.scores.alarms import (
    ALARM_MEASURES,
    VideoAlarms,
    alarm_levels,
    count_alarms,
    why_unknown,
)
from vigil.pipeline.tables.method_table import (
    MethodRow,
    TableConfig,
    has_recipe,
    is_evaluated,
    load_table,
    recipe_of_row,
    run_folder,
    scores_folder,
    summarise,
    table_text,
)
from vigil.pipeline.tables.table_page import write_table_page
from vigil.pipeline.text_files import write_json, write_text
from vigil.pipeline.training.learner import DivergedError, require_span_choice
from vigil.pipeline.training.loop import train_model
from vigil.pipeline.training.training_data import (
    LabelledFeatures,
    load_labelled_features,
    split_training,
)

TABLE_NAME, JSON_NAME = "table.md", "table.json"

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


def run_bench_methods(options: BenchMethodsOptions) -> int:
    """Train and evaluate the missing runs, write the table, and print it.

    Returns:
        The exit code: 0, or 3 if a training diverged; the table then holds the other runs.

    Raises:
        UserError: the table's file, a recipe, the features or the labels cannot be used.
    """
    config = load_table(options.config)
    recipes = {row.name: recipe_of_row(config, row, options.config) for row in config.rows}
    device = select_device(options.device)
    _check(options, config)
    storage = Storage(options.out, options.memory_gib)
    loaded: dict[PoolingConfig, LabelledFeatures] = {}
    num_failed = 0
    with locked(options.out):
        whole, given = load_videos(options)
        _check_videos(whole, given, options, recipes)
        for seed, row in _planned(options, config):
            recipe, run = recipes[row.name], run_folder(options.out, row.name, seed)
            train, test = split_test(whole, given, options.test_share, seed)
            made_of = _digest(train, test, options)
            if _is_done(run, recipe, made_of, options.overwrite):
                if _lacks_shown(run, config):
                    logger.info("%s, seed %d: counting its alarms", row.name, seed)
                    score_run(run, test, device, options.test_views, made_of)
                continue
            logger.info("%s, seed %d (of 0 to %d)", row.name, seed, config.seeds - 1)
            if recipe.features not in loaded:
                loaded[recipe.features] = _load(options, recipe.features, storage)
            labelled = loaded[recipe.features]
            started = time.monotonic()
            try:
                _train(labelled, sorted(train.annotations), recipe, run, seed, device)
            except DivergedError as error:  # keep the other rows, which may take hours
                logger.error("%s, seed %d: %s", row.name, seed, error)
                num_failed += 1
                continue
            trained = time.monotonic()
            score_run(run, test, device, options.test_views, made_of)
            times = trained - started, time.monotonic() - trained
            logger.info("trained in %.0f s, evaluated in %.0f s", *times)
        rows = summarise(options.out, config, recipes, options.bootstrap)
        if not rows:
            raise UserError("nothing to tabulate, because every training failed: see above")
        content = {"title": config.title, "rows": [asdict(row) for row in rows]}
        write_json(options.out / JSON_NAME, content)
        text = table_text(config, rows)
        write_text(options.out / TABLE_NAME, text)
        write_table_page(options, config, recipes, rows)
    print(text, end="")
    return 3 if num_failed else 0


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


def _check(options: BenchMethodsOptions, config: TableConfig) -> None:
    names = [row.name for row in config.rows]
    if unknown := sorted(set(options.only) - set(names)):
        raise UserError(f"the table has no row {', '.join(unknown)}: use {', '.join(names)}")


def _planned(options: BenchMethodsOptions, config: TableConfig) -> Iterator[tuple[int, MethodRow]]:
    """Yield every requested run, seed by seed, so that all rows progress together."""
    for seed in range(config.seeds):
        for row in config.rows:
            if not options.only or row.name in options.only:
                yield seed, row


def _check_videos(
    whole: VideoSet,
    given: VideoSet | None,
    options: BenchMethodsOptions,
    recipes: Mapping[str, Recipe],
) -> None:
    """Reject before the first training what would stop a later one.

    Raises:
        UserError: a video is in both parts, or views, clips or classes are missing.
    """
    chosen = [name for name in recipes if not options.only or name in options.only]
    for name in chosen:
        require_span_choice(recipes[name])
    of_clips = [name for name in chosen if recipes[name].features.needs_clips]
    test = given or whole
    for part, views in ((whole, options.views), (test, options.test_views)):
        require_stored(part.files[next(iter(part.annotations))], views, of_clips)
    if given is None:
        return
    known = {name for one in whole.annotations.values() for name in one.class_names}
    found = {name for one in given.annotations.values() for name in one.class_names}
    if (unknown := found - known - {NORMAL}) and any(recipes[name].classifies for name in chosen):
        raise UserError(
            f"the test videos have {', '.join(sorted(unknown))}, which no training video has: "
            "correct the annotations, or leave those videos out"
        )
    digests = {sealed_digest(whole.files[video]): video for video in whole.annotations}
    both = [v for v in given.annotations if sealed_digest(given.files[v]) in digests]
    if both:
        raise UserError(
            f"{counted(len(both), 'test video')} would be trained on, such as {both[0]}: name the "
            "training videos with --annotations"
        )


def require_stored(path: Path, views: str | None, of_clips: Sequence[str]) -> None:
    """Reject a feature file that lacks views, or the clips that some rows need.

    Raises:
        UserError: the file lacks something; names it and the remedy.
    """
    known = read_identity(path)
    if views is not None and (missing := set(view_names(views, unnamed=True)) - set(known.views)):
        raise UserError(
            f"{path} lacks the views {', '.join(sorted(missing))}: extract with --views {views}, "
            f"or use the stored views, {','.join(known.views)}"
        )
    if of_clips and known.clip_features is None:
        raise UserError(
            f"{path} was extracted without --keep-clips, which {', '.join(of_clips)} needs: "
            "extract again with it, or name other rows with --only"
        )


def _digest(train: VideoSet, test: VideoSet, options: BenchMethodsOptions) -> str:
    """sha256 of everything a run depends on apart from its recipe and its seed."""
    content = [train.content(), test.content(), options.views, options.test_views]
    return hashlib.sha256(json.dumps(content).encode(errors="surrogateescape")).hexdigest()


def _is_done(run: Path, recipe: Recipe, made_of: str, overwrite: bool) -> bool:
    """Whether a run is complete; an interrupted one is trained again.

    Raises:
        UserError: a run with other settings, features or labels exists.
    """
    if not is_evaluated(run):
        return False
    same = has_recipe(run, recipe)
    if same and all(scores_made_of(scores_folder(run, one)) == made_of for one in (BEST, LAST)):
        return True
    if not overwrite:
        what = "was made from other features, labels or views" if same else "has other settings"
        raise UserError(f"{run} {what}: train it again with --overwrite, or give another --out")
    return False


def _lacks_shown(run: Path, config: TableConfig) -> bool:
    """Whether the table shows alarms, which an earlier version did not count for this run."""
    shows_alarms = not set(config.measures).isdisjoint(ALARM_MEASURES)
    return shows_alarms and any(lacks_alarms(scores_folder(run, which)) for which in (BEST, LAST))


def _load(
    options: BenchMethodsOptions, pooling: PoolingConfig, storage: Storage
) -> LabelledFeatures:
    views = view_names(options.views, unnamed=True)
    return load_labelled_features(options.features, options.annotations, views, pooling, storage)
