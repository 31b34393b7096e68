"""`table.html`: the results of many methods on one page, with its figures.

Everything is computed from stored scores; no test video is scored again. Legend: R runs of a row,
one per seed; K classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from vigil.extract.versions import installed_versions
from vigil.pipeline.checkpoint import CheckpointConfig, load_config
from vigil.pipeline.evaluation.comparison import Run
from vigil.pipeline.evaluation.evaluation_files import curve_rates
from vigil.pipeline.evaluation.records import read_scores
from vigil.pipeline.options import BenchMethodsOptions
from vigil.pipeline.pages import embedded, render_page
from vigil.pipeline.recipe import SECTIONS, Recipe
from vigil.pipeline.run_folder import BEST, FIGURES_FOLDER, LAST, SPLITS_NAME
from vigil.pipeline.scores import metrics, plots
from vigil.pipeline.scores.measures import MEASURES
from vigil.pipeline.scores.metrics import Spread
from vigil.pipeline.scores.video_scoring import UNTRAINED_WARNING
from vigil.pipeline.tables.method_table import (
    TableConfig,
    TableRow,
    finished_runs,
    published_measures,
    scores_folder,
)
from vigil.pipeline.text_files import read_json, write_text

PAGE_NAME = "table.html"


@dataclass(frozen=True)
class RowSection:
    """One row as shown on the page."""

    row: TableRow
    method: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    chosen: str
    """How the first seed was trained, and how its epoch and threshold were chosen."""
    recalls: dict[str, float]
    """Class -> share of its videos labelled correctly, mean over the seeds; {} without classes."""
    num_videos: dict[str, int]
    """Class -> test videos of the first seed."""
    pictures: dict[str, str]
    """Caption -> the figure, embedded."""


def write_table_page(
    options: BenchMethodsOptions,
    config: TableConfig,
    recipes: Mapping[str, Recipe],
    rows: Sequence[TableRow],
) -> None:
    """Write the page to the folder of the table, and its figures as files.

    Raises:
        UserError: a run's files are damaged.
        OSError: the disk is full or the folder cannot be written.
    """
    folders = {
        row.name: finished_runs(options.out, config, row.name, recipes[row.name]) for row in rows
    }
    sections = [
        row_section(row, recipes[row.name], folders[row.name], options.out / FIGURES_FOLDER)
        for row in rows
    ]
    overview = options.out / FIGURES_FOLDER / "table.png"
    plots.plot_rows(overview, [row.name for row in rows], _panels(config, rows))
    checkpoints = [load_config(run / LAST) for runs in folders.values() for run in runs.values()]
    first = next(run for runs in folders.values() for run in runs.values())
    page = render_page(
        PAGE_NAME,
        title=config.title,
        measures={name: MEASURES[name].heading for name in config.measures},
        reference=config.reference,
        sections=sections,
        classifying=[section for section in sections if section.recalls],
        published=published_measures(config, rows),
        overview=embedded(overview),
        facts=_facts(options, config, checkpoints[0], first),
        warnings=[*options.note, *_warnings(config, sections, checkpoints)],
        versions=_versions(checkpoints),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_text(options.out / PAGE_NAME, page)


def row_section(
    row: TableRow, recipe: Recipe, runs: Mapping[int, Path], figures: Path
) -> RowSection:
    """The page's content for one row; its figures are also written to the folder of figures."""
    scored = [read_scores(scores_folder(run, BEST)) for run in runs.values()]
    folder = figures / next(iter(runs.values())).parent.name
    pictures = {}
    ranking = metrics.rank_frames([video.pieces for video in scored[0]])
    auc = metrics.roc_auc(ranking).value
    if auc is not None:
        rates = curve_rates(metrics.found_at_thresholds(ranking))
        x, y = rates["false_positive_rate"], rates["true_positive_rate"]
        plots.plot_roc(folder / "roc.png", np.append(0, x), np.append(0, y), auc)
        pictures[f"ROC of frames, seed {next(iter(runs))}"] = embedded(folder / "roc.png")
    recalls: dict[str, float] = {}
    names = list(load_config(next(iter(runs.values())) / LAST).class_names)
    if recipe.classifies:
        confusions = [_confusion(run, names) for run in scored]
        recalls = _mean_recalls(confusions, names)
        plots.plot_confusion(folder / "confusion.png", np.sum(confusions, axis=0), names)
        pictures["Confusion, all seeds together"] = embedded(folder / "confusion.png")
    settings = asdict(recipe)
    return RowSection(
        row=row,
        method=recipe.method,
        settings=tuple(
            f"{section}.{name} = {json.dumps(value)}"
            for section in SECTIONS
            for name, value in settings[section].items()
        ),
        seeds=tuple(runs),
        chosen=_chosen(read_json(next(iter(runs.values())) / SPLITS_NAME)),
        recalls=recalls,
        num_videos={name: sum(one.class_name == name for one in scored[0]) for name in names},
        pictures=pictures,
    )


def _confusion(run: Run, names: Sequence[str]) -> metrics.IntArray:
    truth, label = (
        np.array([names.index(getattr(video, field)) for video in run])
        for field in ("class_name", "label")
    )
    return metrics.confusion_matrix(truth, label, len(names))


def _mean_recalls(confusions: Sequence[metrics.IntArray], names: Sequence[str]) -> dict[str, float]:
    """Class -> its recall, mean over the runs whose test set has videos of it."""
    of_runs = [metrics.class_recalls(confusion, names) for confusion in confusions]
    recalls = {}
    for name, measures in zip(names, zip(*of_runs, strict=True), strict=True):
        if known := [measure.value for measure in measures if measure.value is not None]:
            recalls[name] = float(np.mean(known))
    return recalls


def _panels(
    config: TableConfig, rows: Sequence[TableRow]
) -> dict[str, list[tuple[Spread | None, float | None]]]:
    """The panels of the overview figure, side by side: (ours, published) of each row.

    The figure has room for the first two measures.
    """
    panels = {
        MEASURES[name].heading: [(row.best.get(name), row.published.get(name)) for row in rows]
        for name in config.measures[:2]
    }
    return {title: values for title, values in panels.items() if any(ours for ours, _ in values)}


def _chosen(splits: Mapping[str, Any]) -> str:
    trained = f"trained on {len(splits['train'])} videos, validated on"
    if folds := splits.get("folds"):
        return f"{trained} {len(folds)} folds of them"
    return f"{trained} {len(splits['validation'])} others"


def _facts(
    options: BenchMethodsOptions, config: TableConfig, known: CheckpointConfig, run: Path
) -> dict[str, str]:
    """Facts that hold for all rows; taken from the first run if runs differ."""
    splits = read_json(run / SPLITS_NAME)
    videos = {*splits["train"], *splits["validation"]}
    test = read_scores(scores_folder(run, BEST))
    spec = known.spec
    anomalous = sum(video.is_anomalous for video in test)
    frames = sum(sum(video.num_anomalous) + sum(video.num_normal) for video in test)
    resampled = "" if options.test_share is None else ", sampled again for each seed"
    return {
        "Features": f"{spec.backbone} up to {spec.endpoint}, weights {known.weights_name}, "
        f"{spec.num_segments} segments per video",
        "Trained on": f"{len(videos)} videos including validation, views {', '.join(known.views)}",
        "Evaluated on": f"{len(test)} videos, {anomalous} of them anomalous, {frames:,} frames, "
        f"views {options.test_views or 'all stored ones'}{resampled}",
        "Seeds": ", ".join(map(str, range(config.seeds))),
        "Intervals": f"95 %, {options.bootstrap} resamples of videos and seeds",
    }


def _warnings(
    config: TableConfig, sections: Sequence[RowSection], checkpoints: Sequence[CheckpointConfig]
) -> list[str]:
    warnings = []
    if not all(checkpoint.weights_trained for checkpoint in checkpoints):
        warnings.append(UNTRAINED_WARNING)
    shown = {section.row.name for section in sections}
    if absent := [row.name for row in config.rows if row.name not in shown]:
        warnings.append(f"Not trained yet: {', '.join(absent)}.")
    warnings += [
        f"{section.row.name} has {len(section.seeds)} of {config.seeds} seeds so far."
        for section in sections
        if len(section.seeds) < config.seeds
    ]
    return warnings


def _versions(checkpoints: Sequence[CheckpointConfig]) -> dict[str, str]:
    """Versions of the programs that trained the runs; lists all if they differ."""
    return {
        name: ", ".join(dict.fromkeys(one.versions.get(name, "unknown") for one in checkpoints))
        for name in installed_versions()
    }
