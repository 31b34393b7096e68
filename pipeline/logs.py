"""Messages and progress, on a terminal, in a log file and as JSON."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table

from vigil.extract.engine.activity import Activity
from vigil.extract.errors import counted
from vigil.pipeline.options import LogOptions
from vigil.pipeline.progress import has_listener, tell
from vigil.pipeline.text_files import clock_time

REPORT_SECONDS = 30
PACKAGE = "vigil"

log = logging.getLogger(__name__)


def printable(text: str) -> str:
    """The text, with every control or invisible character escaped, line breaks included.

    File names are untrusted: they can set colours or the window title, or imitate our messages.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class _LineFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format a message as one line; only a traceback after it may take several."""
        return printable(super().formatMessage(record))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Format a message as one JSON object."""
        moment = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "module": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(content)


def console() -> Console:
    """The console on standard error, which gets everything except answers."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_lines(lines: Iterable[str]) -> None:
    """Print an answer on standard output, with unsafe characters of names escaped."""
    for line in lines:
        print(printable(line))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output, at full width if that is not a terminal."""
    table = Table(*header)
    for row in rows:
        table.add_row(*map(printable, row))
    width = None if sys.stdout.isatty() else 10_000
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def set_up_logging(options: LogOptions) -> None:
    """Send the messages of our packages to standard error, and to a JSON file if requested.

    Raises:
        OSError: the JSON file cannot be written.
    """
    level = logging.ERROR if options.quiet else logging.INFO
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter("%(levelname)s: %(message)s"))
    if sys.stderr.isatty():
        handler = RichHandler(console=console(), show_time=False, show_path=False)
        handler.setFormatter(_LineFormatter("%(message)s"))
    handler.setLevel(logging.DEBUG if options.verbose else level)
    handlers = [handler]
    if options.log_json is not None:
        options.log_json.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(options.log_json, encoding="utf-8")
        file.setFormatter(_JsonFormatter())
        handlers.append(file)
    logger = logging.getLogger(PACKAGE)
    for old in logger.handlers:
        old.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers[:] = handlers


def show_errors_only() -> None:
    """Leave all other messages to another process that does the same work, and progress, too."""
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        handler.setLevel(logging.ERROR)


@dataclass
class RunningCount:
    """The progress of a long command: updated by the caller, shown by `show_progress`."""

    total: int
    num_views: int
    """Views of every clip."""
    done: int = 0
    share_done: float | None = None
    """Share of the work, 0..1; None if unknown."""
    seconds_left: float | None = None
    activity: Activity = field(default_factory=Activity)
    begun: float = field(default_factory=time.monotonic)
    _earlier: tuple[tuple[float, Activity], ...] = ()
    """The activity at two moments at least `REPORT_SECONDS` apart."""

    def describe(self) -> str:
        """Average rates, and what waited for what, since the start."""
        return self._rates(time.monotonic() - self.begun, self.activity)

    def describe_now(self) -> str:
        """Rates over the last half minute or so, and what waits for what."""
        now = time.monotonic()
        earlier = self._earlier or ((self.begun, Activity()),)
        if now - earlier[-1][0] >= REPORT_SECONDS:
            self._earlier = (earlier[-1], (now, replace(self.activity)))
        since, before = earlier[0]
        return self._rates(now - since, self.activity.since(before))

    def describe_done(self) -> str:
        """How much is done and the time left: "3 of 53 videos, 7 %, 0:13:05 left"."""
        # Rounded down: 100 % is when nothing is left.
        share = "" if self.share_done is None else f", {int(100 * self.share_done)} %"
        left = ""
        if self.seconds_left is not None and self.done < self.total:
            left = f", {clock_time(self.seconds_left, round_up=True)} left"
        return f"{self.done} of {counted(self.total, 'video')}{share}{left}"

    def _rates(self, seconds: float, activity: Activity) -> str:
        frames = activity.num_frames / max(seconds, 1e-9)
        views = activity.num_clips * self.num_views / max(seconds, 1e-9)
        return f"{frames:.0f} frames/s, {views:.2f} clip-views/s, {activity.describe()}"


class ProgressLine:
    """A progress bar on a terminal, or an occasional log message elsewhere.

    A function that listens to the progress is told of it, too.
    """

    def __init__(self, count: RunningCount, progress: Progress | None) -> None:
        """Show ``count`` on ``progress``, or in the log if that is None."""
        self._count = count
        self._progress = progress
        self._task = progress.add_task("", total=1.0, rates="") if progress else None
        self._reported = time.monotonic()

    def update(self) -> None:
        """Show the current count."""
        count = self._count
        is_over = count.done == count.total
        forecast = (1.0, 0.0) if is_over else (count.share_done, count.seconds_left)
        tell("extracting", count.done, count.total, *forecast)
        if self._progress is not None and self._task is not None:
            done, share = count.describe_done(), count.share_done
            completed = count.done / count.total if share is None else share
            rates = count.describe_now()
            self._progress.update(self._task, description=done, completed=completed, rates=rates)
        elif time.monotonic() - self._reported >= REPORT_SECONDS:
            self._reported = time.monotonic()
            log.info("%s, %s", count.describe_done(), count.describe_now())


def is_watched() -> bool:
    """Whether progress is shown: on a terminal, without --quiet, if no function listens to it."""
    shown = logging.getLogger(PACKAGE).handlers[:1]
    is_quiet = bool(shown) and shown[0].level >= logging.ERROR
    return sys.stderr.isatty() and not is_quiet and not has_listener()


@contextmanager
def show_progress(count: RunningCount) -> Iterator[ProgressLine]:
    """Show a count while the block runs."""
    if not is_watched():
        yield ProgressLine(count, None)
        return
    # On a narrow terminal the rates are cut off, never what is done and the time left.
    rates = TextColumn("{task.fields[rates]}", table_column=Column(no_wrap=True, ratio=1))
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), rates)
    with Progress(*columns, console=console(), expand=True) as progress:
        yield ProgressLine(count, progress)


@contextmanager
def show_clips(total: int) -> Iterator[Callable[[int], None]]:
    """Yield what is called with the number of clips that are written, or could not be."""
    reported = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16))
    disable = total == 0 or not is_watched()
    with Progress(*columns, console=console(), transient=True, disable=disable) as progress:
        task = progress.add_task(f"0 of {counted(total, 'clip')}", total=total)

        def show(done: int) -> None:
            nonlocal reported
            said = f"{done} of {counted(total, 'clip')}"
            progress.update(task, completed=done, description=said)
            tell("cutting", done, total)
            if disable and time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                log.info("%s", said)

        yield show


@contextmanager
def download_progress() -> Iterator[Callable[[int, int | None], None]]:
    """Yield the callback for a download: (bytes so far, bytes in total or None)."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    disable = not is_watched()
    with Progress(*columns, console=console(), transient=True, disable=disable) as progress:
        task: list[TaskID] = []

        def show(done: int, total: int | None) -> None:
            if not task:
                log.info("downloading weights")
                task.append(progress.add_task("weights", total=total))
            progress.update(task[0], completed=done, total=total)
            tell("downloading", done, total)

        yield show
