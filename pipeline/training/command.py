"""`vigil train`: train on a folder of features and labels, and write a run folder.

A run holds the checkpoints `best` and `last`, `splits.json`, `log.csv` and `tensorboard`. Some
methods add a report of what they fitted: `fit.json` and `figures/densities.png`. With validation
folds, `folds` holds the predictions of each fold's model.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vigil.data.storage import Storage
from vigil.extract.errors import UserError
from vigil.extract.locks import locked
from vigil.extract.networks.hardware import select_device
from vigil.extract.versions import installed_versions
from vigil.extract.views import view_names
from vigil.model.detector import Detector
from vigil.model.settings import InputShape
from vigil.pipeline.checkpoint import (
    CheckpointConfig,
    existing_checkpoint,
    load_checkpoint,
    load_config,
    load_resume_state,
    remove_checkpoint,
    save_checkpoint,
    settle_checkpoint,
)
from vigil.pipeline.options import TrainOptions
from vigil.pipeline.recipe import Recipe, TrainingConfig
from vigil.pipeline.run_folder import (
    BEST,
    DENSITIES_NAME,
    EVALUATION_FOLDER,
    FIT_NAME,
    FOLDS_FOLDER,
    LAST,
    LOG_NAME,
    SPLITS_NAME,
    TENSORBOARD_NAME,
    TEST_SCORES_FOLDER,
)
from vigil.pipeline.scores.plots import plot_densities
from vigil.pipeline.text_files import read_json, write_json
from vigil.pipeline.training.cross_validation import cross_validate
from vigil.pipeline.training.learner import (
    Learner,
    bags_on_device,
    new_learner,
    restore,
    resume_state,
    train_epoch,
    where_it_fits,
)
from vigil.pipeline.training.training_data import (
    TrainingData,
    load_labelled_features,
    split_training,
    splits_of,
)
from vigil.pipeline.training.training_log import TrainingLog
from vigil.pipeline.training.validation import (
    FALLBACK_RULE,
    FALLBACK_THRESHOLD,
    Validation,
    is_better,
    validate,
)

# A resumed run may change these, because they only set how long it trains.
DURATION_SETTINGS = ("epochs", "early_stopping_epochs", "save_epochs")

logger = logging.getLogger(__name__)


def run_train(options: TrainOptions) -> int:
    """Train on a folder of features, print the measures of the best epoch, and return 0.

    Raises:
        UserError: the data, the settings or the run folder cannot be used.
    """
    device = select_device(options.device)
    _check_run(options)
    recipe = options.recipe
    views = view_names(options.views, unnamed=True)
    storage = Storage(options.out, options.memory_gib)
    labelled = load_labelled_features(
        options.features, options.annotations, views, recipe.features, storage
    )
    data = split_training(labelled, recipe, options.seed)
    with locked(options.out):
        _check_run(options)  # again, because another run may have finished since
        best = train_model(data, recipe, options.out, options.seed, device, options.resume)
    print(f"best_epoch {best.epoch}")
    print(f"validation_auc {best.metrics['auc']:.4f}")
    print(f"validation_maa {best.metrics['maa']:.4f}")
    print(f"threshold {best.threshold:.4f}")
    return 0


def _check_run(options: TrainOptions) -> None:
    if options.seed < 0:
        raise UserError(f"seed {options.seed} is negative: give a number from 0 up")
    if options.resume and options.overwrite:
        raise UserError("--resume continues a run, --overwrite starts over: give only one")
    out = options.out
    if out.is_file():
        raise UserError(f"--out {out} is a file: give a folder")
    has_run = any(existing_checkpoint(out / which) for which in (BEST, LAST))
    if has_run and not options.resume and not options.overwrite:
        raise UserError(
            f"{out} already holds a training run: continue it with --resume, start over with "
            "--overwrite, or give another --out"
        )
    existing = [name for name in (BEST, LAST, TENSORBOARD_NAME, LOG_NAME) if (out / name).exists()]
    if existing and not has_run and not (out / SPLITS_NAME).is_file():
        raise UserError(
            f"{out} is not a training run but holds {', '.join(existing)}, which it would replace: "
            "give another --out"
        )


def train_model(
    data: TrainingData,
    recipe: Recipe,
    out: Path,
    seed: int,
    device: torch.device,
    resume: bool = False,
) -> CheckpointConfig:
    """Train a model and return the checkpoint configuration of its best epoch.

    Args:
        data: the training bags, and the validation bags or folds that choose epoch and threshold.
        recipe: the model, its losses, and how to train.
        out: the run folder; a run in it is replaced, unless resumed.
        seed: determines weights, batches and dropout; on a CPU, equal seeds give equal runs.
        device: the device to train on.
        resume: continue from the last checkpoint, if there is one.

    Raises:
        UserError: the loss is not finite, or the run to resume used other data or settings.
    """
    bags = bags_on_device(data.train, device)
    config = _config_of(data, recipe, seed)
    learner = new_learner(recipe, config.shape, seed, device)
    training = replace(recipe.training, epochs=learner.num_epochs(recipe.training))
    recipe = replace(recipe, training=training)
    best: CheckpointConfig | None = None
    best_model: Detector | None = None  # until it is written
    for which in (BEST, LAST):
        settle_checkpoint(out / which)
    if resume and (last := existing_checkpoint(out / LAST)):
        config = _resume(learner, config, data, last)
        best = load_config(existing_checkpoint(out / BEST) or out / BEST)
    else:
        if resume:
            logger.warning("%s holds no run to resume: starting from scratch", out)
        _start_run(out, data, resume)
        learner.model.fit(bags.features, bags.class_indices)
        _write_fit(out, learner.model)

    if best is not None and _is_over(config.epoch, best.epoch, training):
        return best
    validate_epoch = _validator(out, learner, data, recipe, seed)
    with TrainingLog(out, config.epoch, training.epochs) as log:
        while best is None or not _is_over(config.epoch, best.epoch, training):
            epoch = config.epoch + 1
            losses = train_epoch(learner, bags, recipe, seed, epoch)
            result = validate_epoch(epoch)
            config = replace(
                config,
                epoch=epoch,
                metrics=result.metrics,
                threshold=result.threshold,
                threshold_rule=result.threshold_rule,
            )
            if best is None or is_better(config.metrics, best.metrics, training.selection):
                best, best_model = config, learner.model
                if training.selection != "last":  # "last" always saves the current model
                    best_model = deepcopy(best_model)
            log.epoch(epoch, _log_values(losses, config))
            if epoch % training.save_epochs == 0 or _is_over(epoch, best.epoch, training):
                if best_model is not None:
                    save_checkpoint(out / BEST, best, best_model)
                    best_model = None
                save_checkpoint(out / LAST, config, learner.model, resume_state(learner))
    return best


def _validator(
    out: Path, learner: Learner, data: TrainingData, recipe: Recipe, seed: int
) -> Callable[[int], Validation]:
    """Return a function that maps an epoch to its validation measures, called after each epoch.

    Without folds, it validates the current model. With folds, every epoch is validated here, before
    the first one; a resumed run reads the finished folds from its folder.
    """
    model = learner.model
    if not data.folds:
        features = where_it_fits(data.validation.features, model.device)
        return lambda epoch: validate(model, data.validation, features)
    known = cross_validate(data, recipe, model.shape, seed, model.device, out / FOLDS_FOLDER)
    return lambda epoch: known[epoch - 1]


def _is_over(epoch: int, best_epoch: int, training: TrainingConfig) -> bool:
    patience = training.early_stopping_epochs
    return epoch >= training.epochs or (patience is not None and epoch - best_epoch >= patience)


def _config_of(data: TrainingData, recipe: Recipe, seed: int) -> CheckpointConfig:
    """The checkpoint configuration before the first epoch."""
    bags = data.train
    return CheckpointConfig(
        recipe=recipe,
        shape=InputShape(
            bags.spec.num_segments, bags.time_positions, bags.channels, len(data.class_names)
        ),
        class_names=data.class_names,
        spec=bags.spec,
        weights_name=bags.weights_name,
        weights_trained=bags.weights_trained,
        precision=bags.precision,
        views=bags.views,
        threshold=FALLBACK_THRESHOLD,
        threshold_rule=FALLBACK_RULE,
        metrics={},
        seed=seed,
        epoch=0,
        versions=installed_versions(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _start_run(out: Path, data: TrainingData, keep_folds: bool) -> None:
    """Remove what an earlier training left in the folder, and write the splits."""
    for which in (LAST, BEST):  # in this order: a run with `last` must also have `best`
        remove_checkpoint(out / which)
    folds = () if keep_folds else (FOLDS_FOLDER,)
    for folder in (TENSORBOARD_NAME, EVALUATION_FOLDER, TEST_SCORES_FOLDER, *folds):
        shutil.rmtree(out / folder, ignore_errors=True)
    for name in (LOG_NAME, FIT_NAME, DENSITIES_NAME):
        (out / name).unlink(missing_ok=True)
    write_json(out / SPLITS_NAME, splits_of(data))


def _write_fit(out: Path, model: Detector) -> None:
    report = model.describe_fit()
    if report is not None:
        write_json(out / FIT_NAME, report.findings)
        plot_densities(out / DENSITIES_NAME, report.densities)


def _resume(
    learner: Learner, expected: CheckpointConfig, data: TrainingData, last: Path
) -> CheckpointConfig:
    """Restore the learner to the last saved epoch, and return that epoch's configuration.

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
    restore(learner, checkpoint.model, load_resume_state(last))
    logger.info("resuming after epoch %d", checkpoint.config.epoch)
    return replace(checkpoint.config, recipe=expected.recipe)


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


def _log_values(losses: dict[str, float], config: CheckpointConfig) -> dict[str, float]:
    values = {f"loss/{name}": value for name, value in losses.items()}
    values |= {f"validation/{name}": value for name, value in config.metrics.items()}
    return {**values, "threshold": config.threshold}
