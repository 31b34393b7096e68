"""Kill `vigil score` again and again, and start it again each time."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.processes import Program, running
from vigil.extract.engine.journal import HEAD, journal_path
from vigil.extract.errors import UserError
from vigil.extract.store import feature_path, open_features
from vigil.pipeline.scoring.command import FEATURES_FOLDER
from vigil.pipeline.scoring.results import MANIFEST_NAME
from vigil.pipeline.text_files import read_json

WATCH_SECONDS = 0.05
EXTRACTED = re.compile(r"\d+ extracted.*, \d+ already extracted, \d+ failed")
"""The message at the end of extraction."""
CONTINUING = re.compile(r"continuing .*: (.*) clips are there")


def score_killed(
    arguments: list[str], results: Path, undisturbed: Path, video: str, num_kills: int
) -> Iterator[str]:
    """Run `vigil score`, kill it several times, let it finish; yield what happened at each start.

    The last kill is while it scores, those before while it extracts, at equal shares of a video's
    clips. Only the run itself is killed: its workers have to end by themselves.

    Args:
        arguments: of `python`, which score into ``results``.
        results: does not exist yet.
        undisturbed: the results of the same command without kills.
        video: the longest one.
        num_kills: 1 or more.

    Raises:
        UserError: a run failed, or ended before it could be killed.
    """
    whole_bytes = _bytes_of_clips(feature_path(undisturbed / FEATURES_FOLDER, video))
    scoring_seconds = read_json(undisturbed / MANIFEST_NAME)["timings_seconds"]["scoring"]
    journal = journal_path(results / FEATURES_FOLDER, video)
    for number in range(1, num_kills):
        wanted = whole_bytes * number // num_kills
        with running(arguments) as program:
            _wait_until(program, lambda: _size(journal) >= wanted)  # noqa: B023  used at once
            yield _killed(program, "while extracting")
    with running(arguments) as program:
        features = feature_path(results / FEATURES_FOLDER, video)
        _wait_until(program, features.exists)
        program.wait(scoring_seconds / 2)
        yield _killed(program, "while scoring")
    with running(arguments) as program:
        program.require_success()
        yield f"finished: {_taken_over(program)}"


def _bytes_of_clips(path: Path) -> int:
    """The size in a journal of all clips of a feature file."""
    with open_features(path) as features:
        clips = features.clip_features
        if clips is None:
            raise UserError(f"{path} has no clips")
        return len(clips) * (HEAD.size + math.prod(clips.shape[1:]) * clips.dtype.itemsize)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _wait_until(program: Program, is_reached: Callable[[], object]) -> None:
    while not is_reached() and program.wait(WATCH_SECONDS) is None:
        pass


def _killed(program: Program, when: str) -> str:
    """Kill a run; return what it had taken over from the one before."""
    if program.wait(0) is not None:
        program.require_success()
        raise UserError(f"a run ended before it could be killed {when}: increase --minutes")
    program.process.kill()
    program.process.wait()
    return f"killed {when}: {_taken_over(program)}"


def _taken_over(program: Program) -> str:
    """The clips, or the feature files, that a run did not compute again."""
    messages = program.messages()
    if found := CONTINUING.search(messages):
        return f"{found[1]} clips were there"
    found = EXTRACTED.search(messages)
    return found[0] if found else "nothing was there"
