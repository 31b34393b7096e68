"""Writes the clips of streams beside everything else: in a thread, one after the other."""

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from vigil.extract.decode.cutting import Cut, write_excerpts
from vigil.extract.decode.excerpt_request import Written

log = logging.getLogger(__name__)


@dataclass(eq=False)
class ClipJob:
    """A clip that is to be written."""

    cut: Cut
    """Of a file that is removed afterwards."""
    outcome: Written | str = ""
    """What was written, or why nothing was."""
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        """Whether the outcome is known."""
        return self._over.is_set()

    def wait(self, seconds: float | None) -> bool:
        """Wait for the outcome, at most for some seconds; return whether it is known."""
        return self._over.wait(seconds)

    def do(self) -> None:
        """Write it."""
        try:
            ((_, self.outcome),) = write_excerpts([self.cut])
        except OSError as error:
            self.outcome = f"it cannot be written ({error.strerror or error})"
        except Exception as error:  # the thread must live: results wait for what it has to say
            log.exception("%s cannot be written", self.cut.excerpt.path)
            self.outcome = f"it cannot be written ({type(error).__name__}: {error})"
        finally:
            with suppress(OSError):
                self.cut.source.path.unlink()
            self._over.set()


class ClipWriter:
    """A thread that does jobs in order. It ends with the process, whatever it is doing."""

    def __init__(self) -> None:
        """Start the thread."""
        self._jobs: SimpleQueue[ClipJob] = SimpleQueue()
        threading.Thread(target=self._run, name="vigil-clips", daemon=True).start()

    def submit(self, cut: Cut) -> ClipJob:
        """Have a clip written."""
        job = ClipJob(cut)
        self._jobs.put(job)
        return job

    def _run(self) -> None:
        while True:
            self._jobs.get().do()
