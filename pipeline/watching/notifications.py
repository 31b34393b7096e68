"""What the system tells of changes in folders."""

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

TICK_SECONDS = 0.2
RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


def changed_paths(roots: Sequence[Path], stopped: threading.Event) -> Iterator[set[Path]]:
    """Yield the paths that changed since the last time, at every tick, until it is stopped.

    If the system cannot tell, the sets are empty, a warning says why, and it is tried again.
    """
    if not roots:  # only streams are watched
        while not stopped.wait(TICK_SECONDS):
            yield set()
        return
    from watchfiles import watch  # which streams do not need

    told = ""
    while not stopped.is_set():
        try:
            for changes in watch(
                *roots,
                watch_filter=None,
                debounce=int(1000 * TICK_SECONDS),
                rust_timeout=int(1000 * TICK_SECONDS),
                yield_on_timeout=True,
                stop_event=stopped,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                yield {Path(path) for _, path in changes}
        except (OSError, RuntimeError) as error:
            if str(error) != told:
                told = str(error)
                log.warning(
                    "the system does not tell of new files (%s): the folders are only searched "
                    "every so often; raising fs.inotify.max_user_watches may help",
                    error,
                )
            for _ in range(int(RETRY_SECONDS / TICK_SECONDS)):
                if stopped.wait(TICK_SECONDS):
                    return
                yield set()
