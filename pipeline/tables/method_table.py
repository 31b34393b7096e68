"""The table of methods: its definition, and the results of each row."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dacite

from vigil.extract.errors import UserError
from vigil.pipeline.checkpoint import CheckpointError, load_config
from vigil.pipeline.evaluation.comparison import Difference, Run, paired_difference, spread
from vigil.pipeline.evaluation.records import read_scores
from vigil.pipeline.recipe import Recipe, find_config, read_toml, recipe_of
from vigil.pipeline.run_folder import BEST, LAST, SCORES_NAME, TEST_SCORES_FOLDER
from vigil.pipeline.scores.measures import MEASURES
from vigil.pipeline.scores.metrics import Spread


@dataclass(frozen=True)
class MethodRow:
    """One row of the table."""

    name: str
    recipe: str
    """Recipe file, relative to the table's file."""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Section -> setting -> value, overriding those of the recipe."""
    published: dict[str, float] = field(default_factory=dict)
    """Measure -> published figure, as a fraction."""


@dataclass(frozen=True)
class TableConfig:
    """The definition of a table."""

    title: str
    rows: list[MethodRow]
    seeds: int = 5
    """Seeds 0, 1, ... of each row."""
    dataset: str = ""
    """Name of the dataset that the title and the published figures refer to; empty for any."""
    measures: list[str] = field(default_factory=lambda: ["frame_auc", "maa", "video_auc"])
    """The measures shown; the first also for the last epoch, and compared with the reference."""
    reference: str = ""
    """Name of the row with which the others are compared."""
    every: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Changes to every recipe, applied before the row's own."""


@dataclass(frozen=True)
class TableRow:
    """The results of one row: measure -> number over all seeds, for both checkpoints."""

    name: str
    num_runs: int
    best: dict[str, Spread | None]
    last: dict[str, Spread | None]
    published: dict[str, float]
    to_reference: dict[str, Difference] = field(default_factory=dict)
    """How much better the reference row is."""


def load_table(path: Path) -> TableConfig:
    """Load a table's definition from a TOML file.

    Raises:
        UserError: the file cannot be read or has an invalid setting; names it.
    """
    content = read_toml(find_config(path))
    content.setdefault("rows", [])
    try:
        config = dacite.from_dict(TableConfig, content, dacite.Config(strict=True))
    except (dacite.DaciteError, TypeError) as error:
        raise UserError(f"{path}: {error}: see configs/yardstick.toml for an example") from error
    names = [row.name for row in config.rows]
    slugs = set(map(_slug, names))
    if not names or len(slugs) < len(names) or "" in slugs or config.seeds < 1:
        raise UserError(
            f"{path}: a table needs rows whose names differ in letters (a to z) or digits, and at "
            "least one seed"
        )
    if config.reference and config.reference not in names:
        raise UserError(f"{path}: reference {config.reference!r} is not a row: use one of {names}")
    named = [*config.measures, *(measure for row in config.rows for measure in row.published)]
    if unknown := sorted(set(named) - MEASURES.keys()):
        raise UserError(f"{path}: {unknown[0]!r} is not a measure: use {', '.join(MEASURES)}")
    if not config.measures or len(set(config.measures)) < len(config.measures):
        raise UserError(
            f"{path}: measures needs at least one of {', '.join(MEASURES)}, and none twice"
        )
    for row in config.rows:
        if hidden := sorted(row.published.keys() - set(config.measures)):
            raise UserError(f"{path}: {row.name!r} has a published {hidden[0]}: add it to measures")
    return config


def recipe_of_row(config: TableConfig, row: MethodRow, path: Path) -> Recipe:
    """The recipe of a row with its changes applied.

    Raises:
        UserError: a setting is unknown or invalid; names file, section and key.
    """
    file = find_config(path).parent / row.recipe
    try:
        content = read_toml(file)
    except UserError as error:
        raise UserError(f"the recipe of row {row.name!r} of {path}: {error}") from error
    for changes in (config.every, row.changes):
        for section, values in changes.items():
            content[section] = {**content.get(section, {}), **values}
    return recipe_of(content, f"{file} in row {row.name!r} of {path}")


def run_folder(out: Path, name: str, seed: int) -> Path:
    """The folder of the run of a row with a seed."""
    return out / "runs" / _slug(name) / str(seed)


def finished_runs(out: Path, config: TableConfig, name: str, recipe: Recipe) -> dict[int, Path]:
    """Seed -> folder of a row's runs that were trained with its recipe and evaluated."""
    runs = {seed: run_folder(out, name, seed) for seed in range(config.seeds)}
    return {
        seed: run for seed, run in runs.items() if is_evaluated(run) and has_recipe(run, recipe)
    }


def is_evaluated(run: Path) -> bool:
    """Whether both checkpoints of a run have been evaluated."""
    return all((scores_folder(run, which) / SCORES_NAME).is_file() for which in (BEST, LAST))


def has_recipe(run: Path, recipe: Recipe) -> bool:
    """Whether a run was trained with a recipe."""
    try:
        return load_config(run / LAST).recipe == recipe
    except CheckpointError:
        return False


def summarise(
    out: Path, config: TableConfig, recipes: Mapping[str, Recipe], num_resamples: int
) -> list[TableRow]:
    """The rows that have runs, in the order of the table."""
    best: dict[str, dict[int, Run]] = {}
    last: dict[str, dict[int, Run]] = {}
    for row in config.rows:
        runs = finished_runs(out, config, row.name, recipes[row.name])
        for which, of_row in ((BEST, best), (LAST, last)):
            of_row[row.name] = {
                seed: read_scores(scores_folder(run, which)) for seed, run in runs.items()
            }
    rows = []
    for row in config.rows:
        own = best[row.name]
        if not own:
            continue
        classifies = recipes[row.name].classifies
        measures = [m for m in config.measures if classifies or not MEASURES[m].of_classes]
        rows.append(
            TableRow(
                name=row.name,
                num_runs=len(own),
                best={m: spread(m, list(own.values()), num_resamples, 0) for m in measures},
                last={
                    m: spread(m, list(last[row.name].values()), num_resamples, 0) for m in measures
                },
                published=row.published,
                to_reference=_to_reference(config, best, row.name, num_resamples)
                if config.reference
                else {},
            )
        )
    return rows


def _to_reference(
    config: TableConfig, runs: Mapping[str, Mapping[int, Run]], name: str, num_resamples: int
) -> dict[str, Difference]:
    """How much better the reference row is than another, over the seeds that both have."""
    common = sorted(runs[config.reference].keys() & runs[name].keys())
    if name == config.reference or not common:
        return {}
    one, other = ([runs[row][seed] for seed in common] for row in (config.reference, name))

    def better_by(measure: str) -> Difference | None:
        both = (other, one) if MEASURES[measure].lower_is_better else (one, other)
        return paired_difference(measure, *both, num_resamples, 0)

    found = {m: better_by(m) for m in config.measures}
    return {m: step for m, step in found.items() if step is not None}


def table_text(config: TableConfig, rows: Sequence[TableRow]) -> str:
    """The table as Markdown; needs at least one row."""
    table = [_cells(config, row, published_measures(config, rows)) for row in rows]
    heads = [head for head, _ in table[0]]
    lines = [f"# {config.title}", "", _line(heads), _line(["---"] * len(heads))]
    lines += [_line([text for _, text in cells]) for cells in table]
    return "\n".join(lines) + "\n"


def published_measures(config: TableConfig, rows: Sequence[TableRow]) -> list[str]:
    """The measures of the table with a published figure for any of the rows."""
    return [name for name in config.measures if any(name in row.published for row in rows)]


def _cells(config: TableConfig, row: TableRow, published: Sequence[str]) -> list[tuple[str, str]]:
    """The cells of a row from left to right: (column heading, text)."""
    first = config.measures[0]
    cells = [("method", row.name), ("seeds", str(row.num_runs))]
    for name in config.measures:
        cells.append((MEASURES[name].heading, _mean(row.best.get(name))))
        if name != "video_auc":  # omitted to save width; page and JSON have it
            cells.append(("95 %", _range(row.best.get(name))))
        if name == first:
            cells.append(("last epoch", _mean(row.last.get(name))))
    for name in published:
        figure = row.published.get(name)
        text = "" if figure is None else f"{figure:.3f}"
        cells.append((f"published {MEASURES[name].title}", text))
    if config.reference:
        step = row.to_reference.get(first)
        text = "" if step is None else f"{step.mean:+.3f} ({step.low:+.3f} to {step.high:+.3f})"
        cells.append((f"{config.reference} is better by ({MEASURES[first].title})", text))
    return cells


def scores_folder(run: Path, which: str) -> Path:
    """The folder with the scores of a run's checkpoint."""
    return run / TEST_SCORES_FOLDER / which


def _slug(name: str) -> str:
    """The name of a row as a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(html.escape(cell).replace('|', '&#124;') for cell in cells)} |"


def _mean(value: Spread | None) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.3f}" + ("" if value.deviation is None else f" ± {value.deviation:.3f}")


def _range(value: Spread | None) -> str:
    return "-" if value is None else f"{value.low:.3f}-{value.high:.3f}"
