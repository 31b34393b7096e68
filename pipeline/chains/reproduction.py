"""`vigil reproduce`: the table of methods for a published dataset, from its videos to one page.

It runs the commands that a user would run, and prints each of them. Finished work is not repeated.
"""

import csv
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vigil.data.annotations import load_annotations
from vigil.extract.errors import UserError
from vigil.extract.store import list_features
from vigil.extract.views import view_names
from vigil.pipeline.chains.steps import run_step
from vigil.pipeline.datasets.check import INCOMPLETE, PROBLEMS_NAME, find_dataset
from vigil.pipeline.evaluation.comparison import require_resamples
from vigil.pipeline.options import ReproduceOptions
from vigil.pipeline.tables.command import TABLE_NAME, require_stored
from vigil.pipeline.tables.method_table import load_table, recipe_of_row
from vigil.pipeline.tables.table_page import PAGE_NAME

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
    if exit_code := _run("check", _check_command(options, labels), options, seconds):
        return exit_code
    _require_labels(labels)
    if options.features is None:
        command = _extract_command(options, features, keep_clips=bool(of_clips))
        if exit_code := _run("extract", command, options, seconds):
            return exit_code
    _check_features(options, features, labels, of_clips)
    if exit_code := _run("table", _table_command(options, features, labels), options, seconds):
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
    require_resamples(options.bootstrap)
    if (options.videos is None) == (options.features is None):
        raise UserError(
            "give either --videos or --features: the folder with those of the whole dataset"
        )
    views = view_names(options.views, unnamed=True)
    if missing := set(view_names(options.train_views, unnamed=True)) - set(views):
        raise UserError(
            f"{', '.join(sorted(missing))} of --train-views is not among --views {options.views}: "
            "test on all the views that are trained on, or on more"
        )


def _rows_of_clips(options: ReproduceOptions) -> list[str]:
    """The rows to train that need clip features.

    Raises:
        UserError: the table or one of its recipes cannot be used.
    """
    config = load_table(options.config)
    recipes = {row.name: recipe_of_row(config, row, options.config) for row in config.rows}
    chosen = options.only or tuple(recipes)
    return [n for n, recipe in recipes.items() if n in chosen and recipe.features.needs_clips]


def _run(
    name: str, command: Sequence[str], options: ReproduceOptions, seconds: dict[str, float]
) -> int:
    """Run a command, time it, and return its exit code; 0 if only allowed videos are missing."""
    started = time.monotonic()
    exit_code = run_step(command, options.logs)
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


def _check_command(options: ReproduceOptions, labels: Path) -> list[str]:
    root = options.videos or options.features
    command = ["dataset", "check", options.name, str(root), "--write", str(labels)]
    command += ["--features"] * (options.videos is None)
    return command + _list_flag("--annotations", options.annotations)


def _extract_command(options: ReproduceOptions, features: Path, keep_clips: bool) -> list[str]:
    command = ["extract", str(options.videos), "--out", str(features), "--views", options.views]
    command += ["--weights", options.weights, "--device", options.device]
    return command + ["--keep-clips"] * keep_clips + ["--overwrite"] * options.overwrite


def _table_command(options: ReproduceOptions, features: Path, labels: Path) -> list[str]:
    train, test = (str(labels / f"{subset}.csv") for subset in SUBSETS)
    command = ["bench-methods", str(features), "--config", str(options.config)]
    command += ["--out", str(options.out), "--annotations", train]
    command += ["--test-features", str(features), "--test-annotations", test]
    command += ["--views", options.train_views, "--test-views", options.views]
    command += ["--device", options.device, "--bootstrap", str(options.bootstrap)]
    command += ["--overwrite"] * options.overwrite + _list_flag("--only", options.only)
    if options.memory_gib is not None:
        command += ["--memory-gib", str(options.memory_gib)]
    return command + _list_flag("--note", _notes(labels, list_features(features)))


def _list_flag(flag: str, values: Iterable[object]) -> list[str]:
    """The flag followed by its values; empty without values."""
    texts = [str(value) for value in values]
    return [flag, *texts] if texts else []


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
    with (labels / PROBLEMS_NAME).open(newline="", encoding="utf-8") as file:
        kinds = Counter(row["problem"] for row in csv.DictReader(file))
    found = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    notes = [f"The dataset was incomplete: {found} (see {PROBLEMS_NAME})."] if kinds else []
    annotated = load_annotations([labels / f"{subset}.csv" for subset in SUBSETS])
    without = {one.video for one in annotated} - set(files)
    if without:
        notes.append(f"{len(without)} of its videos have no features and were left out.")
    return notes
