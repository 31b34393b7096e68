"""Resume a training run, after checking that its settings and data are the same."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from vigil.extract.errors import UserError
from vigil.model.detector import Detector
from vigil.pipeline.checkpoint import (
    CheckpointConfig,
    ResumeState,
    existing_checkpoint,
    load_checkpoint,
    load_config,
    load_resume_state,
)
from vigil.pipeline.run_folder import BEST, SPLITS_NAME
from vigil.pipeline.text_files import read_json
from vigil.pipeline.training.training_data import (
    TrainingData,
    splits_of,
)

# A resumed run may change these, because they only set how long it trains.
DURATION_SETTINGS = ("epochs", "early_stopping_epochs", "save_epochs")

logger = logging.getLogger(__name__)


class Resumed(NamedTuple):
    """Where a run goes on."""

    config: CheckpointConfig
    """Of the last saved epoch."""
    model: Detector
    state: ResumeState
    best: CheckpointConfig
    """Of the best epoch until then."""


def resume_run(expected: CheckpointConfig, data: TrainingData, last: Path) -> Resumed:
    """Load the last saved epoch of a run.

    Raises:
        UserError: the run used other settings, features, videos or labels; lists the differences.
    """
    checkpoint = load_checkpoint(last)
    changes = _changes(checkpoint.config, expected)
    path = last.parent / SPLITS_NAME
    try:
        before, now = read_json(path), splits_of(data)
        known, used = ({**of["train"], **of["validation"]}.items() for of in (before, now))
        videos = sorted({video for video, _ in known ^ used})
        moved = sorted({video for video, _ in set(_places(before)) ^ set(_places(now))})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged: train with --overwrite") from error
    if videos:
        changes.append(f"videos or labels, {len(videos)} in all, such as {', '.join(videos[:3])}")
    elif moved:
        changes.append(f"which videos are held out, such as {', '.join(moved[:3])}")
    if changes:
        raise UserError(
            f"{last.parent} cannot be resumed, because this differs: {'; '.join(changes)}: "
            "use the settings and data of that run, or start over with --overwrite"
        )
    state = load_resume_state(last)
    best = existing_checkpoint(last.parent / BEST) or last.parent / BEST
    logger.info("resuming after epoch %d", checkpoint.config.epoch)
    config = replace(checkpoint.config, recipe=expected.recipe)
    return Resumed(config, checkpoint.model, state, load_config(best))


def _places(splits: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield each held-out video with the number of its part: 0 for validation, folds from 1 up."""
    for number, part in enumerate([splits["validation"], *splits.get("folds", ())]):
        for video in part:
            yield video, number


def _changes(before: CheckpointConfig, now: CheckpointConfig) -> list[str]:
    """The settings that differ but may not change on resume, each as ``name: before != now``."""
    if before.recipe.method != now.recipe.method:
        return [f"method: {before.recipe.method} != {now.recipe.method}"]
    old, new = _fixed_settings(before), _fixed_settings(now)
    return [f"{name}: {old[name]} != {new[name]}" for name in old if old[name] != new[name]]


def _fixed_settings(config: CheckpointConfig) -> dict[str, Any]:
    recipe = config.recipe
    sections = {
        "model": recipe.model,
        "loss": recipe.loss,
        "training": recipe.training,
        "bags": recipe.features,
        "features": config.spec,
    }
    settings = {
        f"{section}.{field.name}": getattr(values, field.name)
        for section, values in sections.items()
        for field in fields(values)  # type: ignore[arg-type]
        if field.name not in DURATION_SETTINGS
    }
    others = ("seed", "views", "class_names", "shape")
    return {**settings, **{name: getattr(config, name) for name in others}}
