"""`vigil bench-methods`: compare many methods over several seeds, on one split, in one table.

Each row is a recipe with changes. Each run chooses its epoch and threshold on its own held-out
videos or folds. Its checkpoints are evaluated on the test videos only one time, after the training.
Finished runs are not trained again.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from vigil.data.classes import NORMAL
from vigil.data.pooling import PoolingConfig
from vigil.data.storage import Storage
from vigil.extract.errors import UserError, counted
from vigil.extract.locks import locked
from vigil.extract.networks.hardware import select_device
from vigil.extract.sealed import sealed_digest
from vigil.extract.store import read_identity
from vigil.extract.views import view_names
from vigil.pipeline.evaluation.records import lacks_alarms
from vigil.pipeline.evaluation.records import made_of as scores_made_of
from vigil.pipeline.options import BenchMethodsOptions
from vigil.pipeline.recipe import Recipe
from vigil.pipeline.run_folder import BEST, LAST
from vigil.pipeline.scores.alarms import ALARM_MEASURES
from vigil.pipeline.tables.cluster_runs import make_on_cluster
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
from vigil.pipeline.tables.runs import (
    TableRun,
    VideoSet,
    digest_of,
    load,
    load_videos,
    score_run,
    split_test,
)
from vigil.pipeline.tables.table_page import write_table_page
from vigil.pipeline.text_files import write_json, write_text
from vigil.pipeline.training.learner import DivergedError
from vigil.pipeline.training.refusals import require_span_choice
from vigil.pipeline.training.training_data import LabelledFeatures

TABLE_NAME, JSON_NAME = "table.md", "table.json"

logger = logging.getLogger(__name__)


def run_bench_methods(options: BenchMethodsOptions) -> int:
    """Train and evaluate the missing runs, write the table, and print it.

    Returns:
        The exit code: 0, or 3 if a training diverged; the table then holds the other runs.

    Raises:
        UserError: the table's file, a recipe, the features or the labels cannot be used.
    """
    config = load_table(options.config)
    recipes = {row.name: recipe_of_row(config, row, options.config) for row in config.rows}
    device = select_device("cpu" if options.cluster else options.device)
    _check(options, config)
    with locked(options.out):
        whole, given = load_videos(options)
        _check_videos(whole, given, options, recipes)
        missing = _missing_runs(options, config, recipes, whole, given, device)
        make = make_on_cluster if options.cluster else _make_here
        num_failed = make(missing, options, device)
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


def _missing_runs(
    options: BenchMethodsOptions,
    config: TableConfig,
    recipes: Mapping[str, Recipe],
    whole: VideoSet,
    given: VideoSet | None,
    device: torch.device,
) -> Iterator[TableRun]:
    """Yield the requested runs that are not done, each when the one before may be.

    Raises:
        UserError: a run with other settings, features or labels exists.
    """
    for seed, row in _planned(options, config):
        recipe, folder = recipes[row.name], run_folder(options.out, row.name, seed)
        train, test = split_test(whole, given, options.test_share, seed)
        made_of = digest_of(train, test, options)
        run = TableRun(row.name, seed, recipe, folder, train, test, made_of)
        if not _is_done(folder, recipe, made_of, options.overwrite):
            logger.info("%s (of 0 to %d)", run, config.seeds - 1)
            yield run
        elif _lacks_shown(folder, config):
            logger.info("%s: counting its alarms", run)
            score_run(folder, test, device, options.test_views, made_of)


def _make_here(
    missing: Iterator[TableRun], options: BenchMethodsOptions, device: torch.device
) -> int:
    """Make runs one after the other, and return how many of them failed."""
    storage = Storage(options.out, options.memory_gib)
    loaded: dict[PoolingConfig, LabelledFeatures] = {}
    num_failed = 0
    for run in missing:
        pooling = run.recipe.features
        if pooling not in loaded:
            loaded[pooling] = load(options, pooling, storage)
        try:
            logger.info("%s", run.make(loaded[pooling], options.test_views, device))
        except DivergedError as error:  # keep the other rows, which may take hours
            logger.error("%s: %s", run, error)
            num_failed += 1
    return num_failed


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
