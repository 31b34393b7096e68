"""`vigil reproduce`: the table of methods for a published dataset, from its videos to one page.

It runs the commands that a user would run, and prints each of them. Finished work is not repeated.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vigil.data.annotations import load_annotations
from vigil.data.published_datasets import find_dataset
from vigil.extract.errors import UserError
from vigil.extract.store import list_features
from vigil.pipeline.chains.steps import run_step
from vigil.pipeline.datasets.check import INCOMPLETE, PROBLEMS_NAME
from vigil.pipeline.options import (
    BenchMethodsOptions,
    ComputeOptions,
    DatasetCheckOptions,
    ExtractOptions,
    ReproduceOptions,
)
from vigil.pipeline.tables.command import TABLE_NAME, require_stored
from vigil.pipeline.tables.method_table import load_table, recipe_of_row
from vigil.pipeline.tables.table_page import PAGE_NAME
from vigil.pipeline.text_files import read_csv

LABELS_FOLDER, FEATURES_FOLDER = "labels", "features"
SUBSETS = ("train", "test")

log = logging.getLogger(__name__)


def run_reproduce(options: ReproduceOptions) -> int:
    """Check the dataset, extract, train and evaluate every row; print table, page and times.

    Returns:
        The exit code of the first command that fails, else 0.

    Raises:
        UserError: the table, the lists or the features cannot be used.
    """
    _check_usage(options)
    of_clips = _rows_of_clips(options)
    labels = options.out / LABELS_FOLDER
    features = options.features or options.out / FEATURES_FOLDER
    seconds: dict[str, float] = {}
    for subset in SUBSETS:  # files of an earlier check must not be mistaken for this one's
        (labels / f"{subset}.csv").unlink(missing_ok=True)
    if exit_code := _run("check", _check_step(options, labels), options, seconds):
        return exit_code
    _require_labels(labels)
    if options.features is None:
        step = _extract_step(options, features, keep_clips=bool(of_clips))
        if exit_code := _run("extract", step, options, seconds):
            return exit_code
    _check_features(options, features, labels, of_clips)
    if exit_code := _run("table", _table_step(options, features, labels), options, seconds):
        return exit_code
    print((options.out / TABLE_NAME).read_text(encoding="utf-8"))
    print(f"page {options.out / PAGE_NAME}")
    for name, duration in seconds.items():
        print(f"{name}_seconds {duration:.0f}")
    return 0


def _check_usage(options: ReproduceOptions) -> None:
    dataset = find_dataset(options.name)
    config = load_table(options.config)
    if config.dataset not in ("", options.name):
        raise UserError(
            f"{options.config} is a table for {config.dataset}, with its published figures: give "
            f"one for {options.name} with --config"
        )
    if not any(subset.num_anomalous for subset in dataset.subsets if subset.name == "train"):
        raise UserError(
            f"{options.name} has no anomalous videos to train on: split it yourself with vigil "
            "bench-methods --test-share"
        )
    names = [row.name for row in config.rows]
    if unknown := sorted(set(options.only) - set(names)):
        raise UserError(f"the table has no row {', '.join(unknown)}: use {', '.join(names)}")


def _rows_of_clips(options: ReproduceOptions) -> list[str]:
    """The rows to train that need clip features.

    Raises:
        UserError: the table or one of its recipes cannot be used.
    """
    config = load_table(options.config)
    recipes = {row.name: recipe_of_row(config, row, options.config) for row in config.rows}
    chosen = options.only or tuple(recipes)
    return [n for n, recipe in recipes.items() if n in chosen and recipe.features.needs_clips]


def _run(name: str, step: Any, options: ReproduceOptions, seconds: dict[str, float]) -> int:
    """Run a command, time it, and return its exit code; 0 if only allowed videos are missing."""
    started = time.monotonic()
    exit_code = run_step(step, options.logs)
    seconds[name] = time.monotonic() - started
    if exit_code != INCOMPLETE:
        return exit_code
    if options.allow_missing:
        return 0
    log.error(
        "stopped, because the dataset is incomplete (see above): complete it, or continue without "
        "the missing videos with --allow-missing"
    )
    return exit_code


def _check_step(options: ReproduceOptions, labels: Path) -> DatasetCheckOptions:
    root = options.videos or options.features
    assert root is not None, "checked with the usage"
    return DatasetCheckOptions(
        name=options.name,
        root=root,
        features=options.videos is None,
        annotations=options.annotations,
        write=labels,
    )


def _extract_step(options: ReproduceOptions, features: Path, keep_clips: bool) -> ExtractOptions:
    return ExtractOptions(
        videos=(str(options.videos),),
        out=features,
        views=options.views,
        weights=options.weights,
        keep_clips=keep_clips,
        overwrite=options.overwrite,
        compute=ComputeOptions(device=options.device),
    )


def _table_step(options: ReproduceOptions, features: Path, labels: Path) -> BenchMethodsOptions:
    train, test = (labels / f"{subset}.csv" for subset in SUBSETS)
    return BenchMethodsOptions(
        features=features,
        config=options.config,
        out=options.out,
        annotations=(train,),
        test_features=features,
        test_annotations=(test,),
        views=options.train_views,
        test_views=options.views,
        only=options.only,
        device=options.device,
        bootstrap=options.bootstrap,
        overwrite=options.overwrite,
        memory_gib=options.memory_gib,
        note=tuple(_notes(labels, list_features(features))),
    )


def _require_labels(labels: Path) -> None:
    for subset in SUBSETS:
        if not (labels / f"{subset}.csv").is_file():
            raise UserError(
                f"no list states which videos are in the {subset} part: name its official list "
                "with --annotations (see above), or put it below the folder"
            )


def _check_features(
    options: ReproduceOptions, features: Path, labels: Path, of_clips: Sequence[str]
) -> None:
    """Check before the first training that a video of each subset has the views and clips needed.

    Raises:
        UserError: they are missing, or a subset has no video.
    """
    files = list_features(features)
    for subset, views in zip(SUBSETS, (options.train_views, options.views), strict=True):
        named = load_annotations([labels / f"{subset}.csv"])
        first = next((files[one.video] for one in named if one.video in files), None)
        if first is None:
            raise UserError(f"{features} has no features of any video in the {subset} part")
        require_stored(first, views, of_clips)


def _notes(labels: Path, files: Iterable[str]) -> list[str]:
    """Sentences for the page about what is missing."""
    kinds = Counter(row["problem"] for row in read_csv(labels / PROBLEMS_NAME))
    found = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    notes = [f"The dataset was incomplete: {found} (see {PROBLEMS_NAME})."] if kinds else []
    annotated = load_annotations([labels / f"{subset}.csv" for subset in SUBSETS])
    without = {one.video for one in annotated} - set(files)
    if without:
        notes.append(f"{len(without)} of its videos have no features and were left out.")
    return notes
