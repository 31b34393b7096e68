"""events.jsonl: every alarm, also those that no other sink gets."""

import json
from pathlib import Path

from vigil.pipeline.watching.outbox import Letter
from vigil.pipeline.watching.sinks.json_lines import JsonLines
from vigil.pipeline.watching.sinks.sink import NotDelivered


class EventLog:
    """A file of JSON lines with each alarm once, in the order of recording within a camera."""

    def __init__(self, path: Path) -> None:
        """Append to a file."""
        self.name = path.name
        self._lines = JsonLines(path, key=("event", "sequence"))

    def deliver(self, letter: Letter) -> None:
        """Append the alarm and why it was not sent elsewhere; raises like `Sink.deliver`."""
        try:
            self._lines.append(json.loads(letter.message) | {"suppressed": letter.suppressed})
        except OSError as error:
            raise NotDelivered(str(error)) from error

    def close(self) -> None:
        """Do nothing: the file is open only while a line is written."""
