"""The log of a training: `log.csv`, TensorBoard, and progress on the terminal."""

import csv
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from vigil.extract.files import sync
from vigil.pipeline.logs import console, is_watched
from vigil.pipeline.progress import tell
from vigil.pipeline.run_folder import LOG_NAME, TENSORBOARD_NAME
from vigil.pipeline.text_files import write_text

SHOWN = ("loss/total", "validation/auc", "validation/maa")
SECONDS_BETWEEN_LINES = 10.0

logger = logging.getLogger(__name__)


class TrainingLog:
    """The log of a run, as a context manager.

    A resumed run leaves the same log as an uninterrupted one.
    """

    def __init__(self, out: Path, last_epoch: int, num_epochs: int) -> None:
        """Open the log of the run in ``out``, and drop all rows after ``last_epoch``."""
        self._csv = out / LOG_NAME
        self._num_epochs = num_epochs
        rows = self._csv.read_text().splitlines() if self._csv.is_file() else []
        kept = rows[: 1 + last_epoch]  # a header, then one row per epoch
        write_text(self._csv, "".join(f"{row}\n" for row in kept))
        self._board = SummaryWriter(str(out / TENSORBOARD_NAME), purge_step=last_epoch + 1)
        self._progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console(),
            disable=not is_watched(),
        )
        self._task = self._progress.add_task("", total=num_epochs, completed=last_epoch)
        self._last_line = -float("inf")

    def __enter__(self) -> Self:
        """Show the progress bar if the terminal is interactive."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the progress bar and close TensorBoard."""
        self._progress.stop()
        self._board.close()

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the values of a finished epoch."""
        with self._csv.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(["epoch", *values])
            writer.writerow([epoch, *(repr(value) for value in values.values())])
        sync(self._csv)  # before this epoch's checkpoint, so that a resumed run finds it
        for name, value in values.items():
            self._board.add_scalar(name, value, epoch)
        line = " ".join(f"{name} {values[name]:.4f}" for name in SHOWN if name in values)
        self._progress.update(self._task, completed=epoch, description=line)
        tell("training", epoch, self._num_epochs)
        now = time.monotonic()
        if self._progress.disable and (
            now - self._last_line >= SECONDS_BETWEEN_LINES or epoch == self._num_epochs
        ):
            logger.info("epoch %d/%d %s", epoch, self._num_epochs, line)
            self._last_line = now
