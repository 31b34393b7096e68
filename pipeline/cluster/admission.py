"""Who may compute: nodes that see the same files, and would write the same features.

A file in the store, written here and read there, and another one the other way round, show that
both see one folder. They have names of partial files, so that those of killed runs are removed.
"""

import hashlib
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vigil.extract.errors import UserError
from vigil.extract.files import PARTIAL_SUFFIX
from vigil.extract.source import SourceVideo, size_and_time
from vigil.pipeline.cluster.node import Answers, Questions
from vigil.pipeline.cluster.same_code import differences, own_versions
from vigil.pipeline.cluster.seats import Seat

MAX_PROBED = 100
"""Folders of videos of which a node is asked for one."""

log = logging.getLogger(__name__)


class Admission:
    """Asks nodes, and refuses those whose answers do not fit."""

    def __init__(self, store: Path, videos: Sequence[SourceVideo], precision: str) -> None:
        """Write the file that every node has to find.

        Args:
            store: absolute path of the folder of features.
            videos: whose folders nodes must see, with absolute paths.
            precision: auto, or the one asked for.
        """
        self._store, self._asked = store, precision
        self._token = secrets.token_hex(8)
        self._videos = _one_of_each_folder(videos)
        self._versions = own_versions()
        self._first: tuple[Seat, Answers] | None = None
        self._arithmetics: set[str] = set()
        self._token_file.write_text(self._token)

    def close(self) -> None:
        """Remove the file."""
        self._token_file.unlink(missing_ok=True)

    @property
    def precision(self) -> str | None:
        """In which the admitted nodes compute; None if there is none yet."""
        return None if self._first is None else self._first[1].precision

    @property
    def _token_file(self) -> Path:
        return self._store / f".{self._token}{PARTIAL_SUFFIX}"

    def questions(self, seat: Seat) -> Questions:
        """What to ask the engine on a seat."""
        return Questions(
            seat.device,
            self._asked,
            self._store,
            self._token_file.name,
            self._token,
            self._answer_file(seat).name,
            self._videos,
        )

    def _answer_file(self, seat: Seat) -> Path:
        digest = hashlib.sha256(f"{self._token} {seat.name}".encode()).hexdigest()[:16]
        return self._store / f".{digest}{PARTIAL_SUFFIX}"

    def check(self, seat: Seat, answers: Answers) -> None:
        """Admit an engine.

        Raises:
            UserError: it would write other features, or does not see what is seen here; says what
                to do about it.
        """
        wrote = self._take_answer(seat)
        if answers.problems:
            raise _refusal(seat, answers.problems[0])
        if wrote != self._token:
            raise _refusal(seat, f"writes to another folder {self._store}: mount this one there")
        if others := differences(answers.versions, self._versions):
            raise _refusal(seat, f"has other versions ({others}): install the same there")
        if self._first is None:
            self._first = seat, answers
        first, known = self._first
        if answers.precision != known.precision:
            raise _refusal(
                seat,
                f"computes in {answers.precision}, and node {first.host} in {known.precision}: "
                "choose one of these with --precision",
            )
        self._arithmetics.add(answers.arithmetic)
        if answers.arithmetic != known.arithmetic and len(self._arithmetics) == 2:
            log.warning(
                "nodes compute on %s: their features agree up to rounding, not bit for bit",
                " and ".join(sorted(self._arithmetics)),
            )

    def _take_answer(self, seat: Seat) -> str:
        path = self._answer_file(seat)
        with suppress(OSError):
            wrote = path.read_text()
            path.unlink()
            return wrote
        return ""


def _refusal(seat: Seat, problem: str) -> UserError:
    return UserError(f"node {seat.host} {problem}, or leave that node out of the cluster")


def _one_of_each_folder(videos: Sequence[SourceVideo]) -> tuple[tuple[Path, int], ...]:
    """The first readable video of each of the first folders, with its size."""
    found: dict[Path, tuple[Path, int]] = {}
    for video in videos:
        if len(found) < MAX_PROBED and video.path.parent not in found:
            with suppress(OSError):
                found[video.path.parent] = video.path, size_and_time(video.path)[0]
    return tuple(found.values())
