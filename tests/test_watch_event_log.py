"""Files of JSON lines: each line whole and once, after kills, on a full disk, over rotations."""

import json
import os
from contextlib import suppress

import pytest
from dying import Killed, dying
from hypothesis import given
from hypothesis import strategies as st
from watch_builders import make_alarm

from vigil.pipeline.watching.alarm import alarm_text
from vigil.pipeline.watching.outbox import Letter
from vigil.pipeline.watching.sinks.event_log import EventLog
from vigil.pipeline.watching.sinks.json_lines import JsonLines
from vigil.pipeline.watching.sinks.sink import NotDelivered

LINES = [{"event": f"e{number}", "text": "x" * number} for number in range(12)]


def lines_of(path, **options):
    return JsonLines(path, key=("event",), **options)


def written(folder):
    """The lines of all files, the oldest first."""
    older = sorted(folder.glob("events.*.jsonl"), key=lambda path: -int(path.stem.split(".")[1]))
    files = [*older, folder / "events.jsonl"]
    return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]


@given(torn=st.integers(0, 40), noted=st.booleans())
def test_a_kill_in_the_middle_of_a_line(tmp_path_factory, torn, noted):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    lines = lines_of(path)
    for line in LINES[:3]:
        lines.append(line)
    whole = path.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: start + min(torn, len(whole) - start)])
    lines = lines_of(path)
    lines.append(LINES[2])
    assert path.read_bytes() == whole
    if noted:
        lines.append(LINES[3])
        assert written(path.parent) == LINES[:4]


def test_lines_that_others_wrote_are_left_alone(tmp_path):
    path = tmp_path / "events.jsonl"
    for last in (b"[1]\n", b"null\n", b"{}\n", b"no JSON \xff\n", b"\n"):
        path.write_bytes(last)
        lines_of(path).append(LINES[0])
        assert path.read_bytes() == last + json.dumps(LINES[0]).encode() + b"\n"


def test_the_oldest_files_go(tmp_path):
    lines = lines_of(tmp_path / "events.jsonl", max_bytes=40, kept_files=2)
    for line in LINES:
        lines.append(line)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"events.jsonl", "events.1.jsonl", "events.2.jsonl"}
    found = written(tmp_path)
    assert found == LINES[-len(found) :]
    assert 3 <= len(found) < 8


def test_kills_at_any_change_of_the_disk_neither_lose_nor_double_a_line(tmp_path):
    options = {"max_bytes": 30, "kept_files": 99}
    for after in range(30):
        folder = tmp_path / str(after)
        todo = LINES[:7]
        with suppress(Killed), dying(after):
            while todo:
                lines_of(folder / "events.jsonl", **options).append(todo[0])
                todo = todo[1:]
        assert todo, "the last kills are too late"
        for line in todo:
            lines_of(folder / "events.jsonl", **options).append(line)
        assert written(folder) == LINES[:7], after


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    lines = lines_of(path)
    lines.append(LINES[0])
    before = path.read_bytes()
    write = os.pwrite

    def fills_up(descriptor, content, place):
        if len(content) < 5:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[: len(content) // 2], place)

    monkeypatch.setattr(os, "pwrite", fills_up)
    with pytest.raises(OSError, match="No space left"):
        lines.append(LINES[1])
    assert path.read_bytes() == before
    monkeypatch.undo()
    lines.append(LINES[1])
    assert written(tmp_path) == LINES[:2]


def test_the_event_log_says_what_was_suppressed(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "new" / "events.jsonl")
    alarms = [make_alarm(number=number, sequence=1) for number in range(2)]
    for alarm, reason in zip(alarms, (None, "quiet hours"), strict=True):
        text = alarm_text(alarm)
        log.deliver(Letter(1, log.name, "front", alarm.event, 1, text, reason, 0.0, 0))
    assert [line["suppressed"] for line in written(tmp_path / "new")] == [None, "quiet hours"]

    other = alarm_text(make_alarm(number=3, sequence=1))

    def fails(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(NotDelivered, match="No space left on device") as caught:
        log.deliver(Letter(2, log.name, "front", "other", 1, other, None, 0.0, 0))
    assert not caught.value.is_final
