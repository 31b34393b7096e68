"""Verdicts of several people as one table, which `vigil train --annotations` reads."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence

from vigil.pipeline.scoring.csv_tables import EVENT_COLUMNS, event_row
from vigil.pipeline.scoring.results import Results
from vigil.pipeline.serving.verdict_store import Verdict

VERDICT_COLUMNS = "events_in_video verdict true_class note reviewed_at"
"""What follows the columns of events."""

EventKey = tuple[str, int, int]
"""Video, first frame, and the frame after the last one."""


def by_event(verdicts: Sequence[Verdict]) -> dict[EventKey, list[Verdict]]:
    """Verdicts by the event that they are about."""
    found = defaultdict(list)
    for one in verdicts:
        found[one.video, one.start_frame, one.stop_frame].append(one)
    return dict(found)


def joint_verdict(verdicts: Sequence[Verdict]) -> tuple[str, str, str, str]:
    """What people say of an event together: verdict, true class, note, and when, UTC.

    If they do not agree there is no verdict, and the note says who is of which opinion.
    """
    given = [one for one in verdicts if one.verdict]
    opinions = {(one.verdict, one.true_class) for one in given}
    notes = [f"{one.reviewer}: {one.note}" for one in verdicts if one.note]
    if len(verdicts) == 1:
        notes = [verdicts[0].note]
    verdict, true_class = opinions.pop() if len(opinions) == 1 else ("", "")
    if opinions:
        names = (f"{one.reviewer} {one.true_class or one.verdict}" for one in given)
        notes.insert(0, f"no agreement: {', '.join(names)}")
    return verdict, true_class, "; ".join(notes), max(one.reviewed_at for one in verdicts)


def verdict_rows(results: Results, verdicts: Sequence[Verdict]) -> Iterator[list[object]]:
    """Yield a row for each event that has verdicts, in the order of events.csv."""
    found = by_event(verdicts)
    for result in results.videos:
        for event in result.events:
            said = found.get((result.video, event.start_frame, event.stop_frame))
            if said:
                cells = [result.video, *event_row(event), len(result.events)]
                yield [*cells, *joint_verdict(said)]


def verdict_csv(results: Results, verdicts: Sequence[Verdict]) -> str:
    """The table of the events that have verdicts, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*EVENT_COLUMNS.split(), *VERDICT_COLUMNS.split()])
    writer.writerows(verdict_rows(results, verdicts))
    return text.getvalue()
