"""Verdicts of a reviewer, exported from a report as CSV -> rows.

A line is an event with ``verdict`` right, wrong, or nothing yet. ``events_in_video`` says how many
events its video has, so a video is taken only if its verdicts say what it is:

* one of its events is right: the video is of that event's class, or of ``true_class`` if the
  reviewer named another. Its anomalous frames are those of the right events, but only if every
  event has a verdict; else they are unknown;
* all of its events are wrong: Normal;
* otherwise it is left out, and a warning counts such videos.
"""

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vigil.data.annotation_rows import AnnotationError, Row, read_text
from vigil.data.classes import NORMAL, canonical_class
from vigil.extract.errors import counted

REQUIRED = (
    *("video", "start_frame", "stop_frame", "peak_score", "class"),
    *("events_in_video", "verdict", "true_class"),
)
"""Columns that are read; there may be others, in any order."""
VERDICTS = ("", "right", "wrong")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Verdict:
    frames: tuple[int, int]
    peak_score: float
    class_name: str
    """As the reviewer has it."""
    num_events: int
    verdict: str
    source: str


def is_verdicts(path: Path) -> bool:
    """Whether the first line of a file has the columns of verdicts."""
    try:
        with path.open("rb") as file:
            header = file.readline(1 << 12).decode("utf-8-sig", errors="replace")
    except OSError:
        return False  # whoever reads it says why
    return {"verdict", "events_in_video"} <= {*header.strip().split(",")}


def verdict_rows(path: Path) -> Iterator[Row]:
    """Yield a row for each video whose verdicts say what it is.

    Raises:
        AnnotationError: names the file and line, the problem and the remedy.
    """
    by_video: dict[str, dict[tuple[int, int], _Verdict]] = defaultdict(dict)
    reader = csv.DictReader(io.StringIO(read_text(path)), strict=True)
    if missing := [name for name in REQUIRED if name not in (reader.fieldnames or ())]:
        raise AnnotationError(f"{path} has no column {missing[0]}: export the verdicts again")
    try:
        for cells in reader:
            source = f"{path}:{reader.line_num}"
            found = _read_verdict(cells, source)
            known = by_video[cells["video"]].setdefault(found.frames, found)
            if known is not found:
                raise AnnotationError(
                    f"{source}: repeats the event of {known.source}: remove one of them"
                )
    except csv.Error as error:
        raise AnnotationError(f"{path}:{reader.line_num}: broken CSV ({error})") from error
    rows = [_row(video, [*verdicts.values()]) for video, verdicts in by_video.items()]
    usable = [row for row in rows if row is not None]
    if len(usable) < len(rows):
        log.warning(
            "%s: left out %s without a right event that have events without a verdict",
            path,
            counted(len(rows) - len(usable), "video"),
        )
    if not usable:
        raise AnnotationError(
            f"{path} says of no video what it is: review all events of a video, or find one right"
        )
    yield from usable


def _read_verdict(cells: Mapping[str | None, str | None], source: str) -> _Verdict:
    if None in cells or None in cells.values():
        raise AnnotationError(f"{source}: has more or fewer cells than the header: export it again")
    known = {name: cells[name] or "" for name in REQUIRED}
    verdict = known["verdict"].strip()
    if verdict not in VERDICTS:
        raise AnnotationError(f"{source}: verdict {verdict!r} is not right, wrong, or empty")
    class_name = canonical_class(known["true_class"].strip() or known["class"].strip())
    if verdict == "right" and class_name == NORMAL:
        raise AnnotationError(
            f"{source}: an event that is {NORMAL} is wrong, not right: correct it"
        )
    try:
        numbers = [int(known[name]) for name in ("start_frame", "stop_frame", "events_in_video")]
        peak = float(known["peak_score"])
    except ValueError as error:
        raise AnnotationError(f"{source}: {error}: export the verdicts again") from error
    return _Verdict((numbers[0], numbers[1]), peak, class_name, numbers[2], verdict, source)


def _row(video: str, verdicts: Sequence[_Verdict]) -> Row | None:
    """The row of a video, or None if its verdicts do not say what it is."""
    right = [one for one in verdicts if one.verdict == "right"]
    num_wrong = sum(one.verdict == "wrong" for one in verdicts)
    is_reviewed = len(right) + num_wrong >= max(one.num_events for one in verdicts)
    source = verdicts[0].source
    if right:
        by_peak = sorted(right, key=lambda one: -one.peak_score)
        class_names = tuple(dict.fromkeys(one.class_name for one in by_peak))
        ranges = tuple(sorted(one.frames for one in right)) if is_reviewed else ()
        return Row(video, class_names, ranges, source=source)
    return Row(video, (NORMAL,), source=source) if is_reviewed else None
