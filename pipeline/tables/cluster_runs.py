"""Make the runs of a table on the nodes of a cluster, each of which trains and evaluates by itself.

The nodes read the features and write the runs where the command does, so what they make is what
the command would have made.
"""

import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch

from vigil.data.pooling import PoolingConfig
from vigil.data.storage import Storage
from vigil.extract.errors import UserError, counted
from vigil.extract.files import LOCK_NAME
from vigil.extract.networks.hardware import select_device
from vigil.pipeline.cluster.joining import joined
from vigil.pipeline.cluster.same_code import differences, own_versions
from vigil.pipeline.cluster.tasks import (
    MAX_RETRIES,
    LostJobError,
    finished_jobs,
    has_gpus,
    most_cores,
    require_room,
)
from vigil.pipeline.logs import PACKAGE
from vigil.pipeline.options import BenchMethodsOptions
from vigil.pipeline.tables.runs import TableRun, digest_of, load
from vigil.pipeline.training.learner import DivergedError
from vigil.pipeline.training.training_data import LabelledFeatures

SHARED = "the folders of features, labels and --out must be shared, under the same paths"

logger = logging.getLogger(__name__)


def make_on_cluster(
    missing: Iterator[TableRun], options: BenchMethodsOptions, device: torch.device
) -> int:
    """Make runs on the nodes of a cluster, and return how many of them failed.

    Each computes with as many threads as it would here, because sums depend on their number.

    Raises:
        UserError: the cluster cannot be joined, or a node does not fit.
    """
    assert options.cluster is not None
    runs = list(missing)
    if not runs:
        return 0
    num_failed, num_cores = 0, torch.get_num_threads()
    with joined(options.cluster) as ray:
        on_gpu = options.device == "cuda" or (options.device == "auto" and has_gpus(ray))
        require_room(ray, num_cores, on_gpu)
        order = _Order(
            options,
            "cuda" if on_gpu else "cpu",
            num_cores,
            most_cores(ray, on_gpu) // num_cores,
            Path.cwd(),
            (options.out / LOCK_NAME).read_bytes(),
            own_versions(),
        )
        jobs = {run: partial(_make_on_node, run, order) for run in runs}
        logger.info("%s to train on the cluster", counted(len(runs), "run"))
        told: set[str] = set()
        for run, made in finished_jobs(ray, jobs, num_cores, on_gpu):
            if isinstance(made, LostJobError):
                logger.error("%s: %s nodes were lost with it (%s)", run, MAX_RETRIES + 1, made)
                num_failed += 1
                continue
            for warning in made.warnings:
                if warning not in told:
                    logger.warning("%s", warning)
            told.update(made.warnings)
            if made.problem is not None:
                raise UserError(f"{run}, on {made.host}: {made.problem}")
            if made.divergence is not None:
                logger.error("%s: %s", run, made.divergence)
                num_failed += 1
            else:
                logger.info("%s: %s on %s", run, made.said, made.host)
    return num_failed


@dataclass(frozen=True)
class _Order:
    """What a node needs to know to make runs."""

    options: BenchMethodsOptions
    device: str
    num_threads: int
    num_sharing: int
    """Runs that a node may make at a time."""
    folder: Path
    """To which paths are relative."""
    lock: bytes
    """Content of the lock file in the folder of the table."""
    versions: dict[str, str]


@dataclass(frozen=True)
class _Made:
    """What a node says of a run."""

    host: str
    said: str = ""
    warnings: tuple[str, ...] = ()
    divergence: str | None = None
    problem: str | None = None
    """An error that the user can fix."""


def _make_on_node(run: TableRun, order: _Order) -> _Made:
    """Make a run in a process of a cluster's node, and say how it went."""
    host, warnings = socket.gethostname(), _Warnings()
    torch.set_num_threads(order.num_threads)
    package = logging.getLogger(PACKAGE)
    package.addHandler(warnings)
    try:
        _require_same_place(run, order)
        labelled = _load_on_node(order.options, run.recipe.features, order.num_sharing)
        _require_same_labels(run, labelled)
        said = run.make(labelled, order.options.test_views, select_device(order.device))
        return _Made(host, said, tuple(warnings.messages))
    except DivergedError as error:
        return _Made(host, warnings=tuple(warnings.messages), divergence=str(error))
    except UserError as error:
        return _Made(host, warnings=tuple(warnings.messages), problem=str(error))
    except OSError as error:  # such as a full disk; Ray would make a traceback of it
        return _Made(host, warnings=tuple(warnings.messages), problem=str(error))
    finally:
        package.removeHandler(warnings)


class _Warnings(logging.Handler):
    """Keeps warnings, because what a node logs is seen by nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.messages.append(record.getMessage())


def _require_same_place(run: TableRun, order: _Order) -> None:
    """Refuse a node that would compute something else, or write it elsewhere.

    Raises:
        UserError: names what differs, and the remedy.
    """
    if others := differences(own_versions(), order.versions):
        raise UserError(f"this node has other versions ({others}): install the same there")
    try:
        os.chdir(order.folder)
        lock = (order.options.out / LOCK_NAME).read_bytes()
        made_of = digest_of(run.train, run.test, order.options)
    except OSError as error:
        raise UserError(f"this node lacks {error.filename} ({error.strerror}): {SHARED}") from error
    if lock != order.lock:
        raise UserError(f"this node has another {order.options.out}: {SHARED}")
    if made_of != run.made_of:
        raise UserError(f"this node has other features: {SHARED}")


def _require_same_labels(run: TableRun, labelled: LabelledFeatures) -> None:
    for video, one in run.train.annotations.items():
        own = labelled.annotations.get(video)
        if own is None or own.class_names != one.class_names:
            raise UserError(f"this node has another label for {video}: {SHARED}")


@lru_cache(maxsize=1)
def _load_on_node(
    options: BenchMethodsOptions, pooling: PoolingConfig, num_sharing: int
) -> LabelledFeatures:
    """The features; kept in a node's process, whose next run may have the same."""
    return load(options, pooling, Storage(options.out, options.memory_gib, num_sharing))
