"""`vigil train`: train on a folder of features and labels, and write a run folder.

Under torchrun, each of its processes comes here, and they train together.
"""

from contextlib import ExitStack

from vigil.data.storage import Storage
from vigil.extract.errors import UserError
from vigil.extract.locks import locked
from vigil.extract.views import view_names
from vigil.pipeline.checkpoint import CheckpointConfig, existing_checkpoint
from vigil.pipeline.options import TrainOptions
from vigil.pipeline.run_folder import (
    BEST,
    LAST,
    LOG_NAME,
    SPLITS_NAME,
    TENSORBOARD_NAME,
)
from vigil.pipeline.training.loop import train_model
from vigil.pipeline.training.ranks import Ranks, connected, find_ranks
from vigil.pipeline.training.refusals import require_ranks, require_span_choice
from vigil.pipeline.training.training_data import (
    load_labelled_features,
    split_training,
)


def run_train(options: TrainOptions) -> int:
    """Train on a folder of features, print the measures of the best epoch, and return 0.

    Raises:
        UserError: as in `train_run`.
    """
    best = train_run(options)
    if not find_ranks().is_first:
        return 0
    print(f"best_epoch {best.epoch}")
    print(f"validation_auc {best.metrics['auc']:.4f}")
    print(f"validation_maa {best.metrics['maa']:.4f}")
    print(f"threshold {best.threshold:.4f}")
    return 0


def train_run(options: TrainOptions) -> CheckpointConfig:
    """Train on a folder of features, write the run, and return the config of its best epoch.

    Raises:
        UserError: the data, the settings or the run folder cannot be used.
    """
    ranks = find_ranks()
    device = ranks.device(options.device)
    with connected(ranks, device, options.out):
        ranks.of_first(lambda: _check_run(options, ranks))
        recipe = options.recipe
        views = view_names(options.views, unnamed=True)
        storage = Storage(options.out, options.memory_gib, ranks.local_number)
        labelled = load_labelled_features(
            options.features, options.annotations, views, recipe.features, storage, ranks
        )
        data = split_training(labelled, recipe, options.seed)
        with ExitStack() as lock:
            ranks.of_first(lambda: lock.enter_context(locked(options.out)))
            ranks.of_first(lambda: _check_run(options, ranks))  # another run may have ended since
            return train_model(
                data, recipe, options.out, options.seed, device, options.resume, ranks
            )


def _check_run(options: TrainOptions, ranks: Ranks) -> None:
    require_span_choice(options.recipe)
    require_ranks(options.recipe, ranks)
    out = options.out
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
