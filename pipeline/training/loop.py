"""Train a model epoch by epoch, and write the run folder as it goes.

A run holds the checkpoints `best` and `last`, `splits.json`, `log.csv` and `tensorboard`. Some
methods add a report of what they fitted: `fit.json` and `figures/densities.png`. With validation
folds, `folds` holds the predictions of each fold's model.
"""

import logging
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from vigil.extract.versions import installed_versions
from vigil.model.detector import Detector
from vigil.model.settings import InputShape
from vigil.pipeline.checkpoint import (
    CheckpointConfig,
    TrainingLengths,
    existing_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    settle_checkpoint,
)
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
from vigil.pipeline.text_files import write_json
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
from vigil.pipeline.training.ranks import ALONE, Ranks
from vigil.pipeline.training.resume import Resumed, resume_run
from vigil.pipeline.training.training_data import (
    TrainingData,
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

logger = logging.getLogger(__name__)


def train_model(
    data: TrainingData,
    recipe: Recipe,
    out: Path,
    seed: int,
    device: torch.device,
    resume: bool = False,
    ranks: Ranks = ALONE,
) -> CheckpointConfig:
    """Train a model and return the checkpoint configuration of its best epoch.

    Args:
        data: the training bags, and the validation bags or folds that choose epoch and threshold.
        recipe: the model, its losses, and how to train.
        out: the run folder; a run in it is replaced, unless resumed.
        seed: determines weights, batches and dropout; on a CPU, equal seeds give equal runs.
        device: the device to train on.
        resume: continue from the last checkpoint, if there is one.
        ranks: those that share the training; the first one reads and writes the run folder.

    Raises:
        UserError: the loss is not finite, or the run to resume used other data or settings.
    """
    bags = bags_on_device(data.train, device)
    config = _config_of(data, recipe, seed)
    learner = new_learner(recipe, config.shape, seed, device, ranks)
    training = replace(recipe.training, epochs=learner.num_epochs(recipe.training))
    recipe = replace(recipe, training=training)
    best: CheckpointConfig | None = None
    best_model: Detector | None = None  # until it is written
    begun = config
    if resumed := ranks.of_first(lambda: _begin_run(out, begun, data, resume)):
        restore(learner, resumed.model, resumed.state)
        config, best = resumed.config, resumed.best
        del resumed  # a second copy of all weights
    else:
        learner.model.fit(bags.stored(ranks), bags.class_indices)
        ranks.of_first(lambda: _write_fit(out, learner.model))

    if best is not None and _is_over(config.epoch, best.epoch, training):
        return best
    validate_epoch = _validator(out, learner, data, recipe, seed)
    writes = ranks.is_first
    with TrainingLog(out, config.epoch, training.epochs) if writes else nullcontext() as log:
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
            if log is None:
                continue
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
    model, ranks = learner.model, learner.ranks
    if not data.folds:
        features = where_it_fits(data.validation.features, model.device)
        return lambda epoch: validate(model, data.validation, features, ranks)
    folder = out / FOLDS_FOLDER
    known = cross_validate(data, recipe, model.shape, seed, model.device, folder, ranks)
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
        training_lengths=TrainingLengths.of(bags.num_frames, bags.fps),
    )


def _begin_run(
    out: Path, config: CheckpointConfig, data: TrainingData, resume: bool
) -> Resumed | None:
    """Load where the run in the folder goes on, or begin a new one; it is fresh if None."""
    for which in (BEST, LAST):
        settle_checkpoint(out / which)
    if resume and (last := existing_checkpoint(out / LAST)):
        return resume_run(config, data, last)
    if resume:
        logger.warning("%s holds no run to resume: starting from scratch", out)
    _start_run(out, data, resume)
    return None


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


def _log_values(losses: dict[str, float], config: CheckpointConfig) -> dict[str, float]:
    values = {f"loss/{name}": value for name, value in losses.items()}
    values |= {f"validation/{name}": value for name, value in config.metrics.items()}
    return {**values, "threshold": config.threshold}
