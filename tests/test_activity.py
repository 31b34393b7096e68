"""Bottlenecks and the number of workers needed, on figures worked out by hand."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from vigil.extract.engine.activity import MIN_CLIPS, Activity
from vigil.pipeline import logs
from vigil.pipeline.logs import REPORT_SECONDS, RunningCount

STEADY = Activity(
    num_frames=6400,
    num_clips=100,
    num_clips_decoded=110,
    num_workers=3,
    decode_seconds=110 * 0.08,
    busy_seconds=100 * 0.02,
    waited_seconds=6.0,
)


def test_enough_workers_keep_the_devices_busy_with_25_percent_to_spare():
    assert STEADY.workers_needed == 5  # 0.08 s against 0.02 s, times 1.25
    assert replace(STEADY, num_devices=3).workers_needed == 15
    assert replace(STEADY, busy_seconds=100.0).workers_needed == 1


def test_static_clips_need_workers_and_no_device():
    """Every second clip keeps the device half as long."""
    assert replace(STEADY, num_clips_static=100).workers_needed == 10
    assert replace(STEADY, num_clips=1, num_clips_static=199).workers_needed == 10


def test_the_first_rates_are_ignored():
    first = replace(STEADY, num_clips=MIN_CLIPS - 1, busy_seconds=1e-6)
    assert first.workers_needed == 1
    assert Activity().workers_needed == 1


@pytest.mark.parametrize(
    ("changes", "bottleneck"),
    [
        ({}, "decode"),
        ({"waited_seconds": 0.1}, "device"),
        ({"disk_seconds": 4.0}, "disk"),
        ({"disk_seconds": 2.0}, "decode"),
        ({"disk_seconds": 2.0, "num_devices": 2}, "disk"),  # a device waited 2 of 3 s for the disk
        ({"disk_seconds": 4.0, "waited_seconds": 0.1}, "device"),
    ],
)
def test_the_bottleneck_is_named(changes, bottleneck):
    activity = replace(STEADY, **changes)
    assert activity.bottleneck == bottleneck
    assert activity.describe().endswith(f"3 decoding, waiting for {bottleneck}")


def test_the_device_share_is_busy_over_total_time():
    assert STEADY.device_share == pytest.approx(0.25)
    assert Activity().device_share == 0


def test_since_returns_the_activity_in_between():
    later = replace(STEADY, num_clips=150, busy_seconds=2.5, num_workers=4)
    between = later.since(STEADY)
    assert (between.num_clips, between.busy_seconds, between.num_workers) == (50, 0.5, 4)
    assert between.waited_seconds == 0


def test_a_count_shows_recent_rates_and_overall_rates_at_the_end(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    count = RunningCount(total=4, num_views=5, begun=now[0])
    for seconds, num_clips in ((REPORT_SECONDS, 100), (2 * REPORT_SECONDS, 110)):
        now[0] = 1000 + seconds
        count.activity = Activity(num_clips=num_clips, num_frames=64 * num_clips)
        count.done += 1
        said = count.describe_now()
    assert said.startswith(f"{64 * 110 / 60:.0f} frames/s, {5 * 110 / 60:.2f} clip-views/s")
    now[0] = 1000 + 3 * REPORT_SECONDS
    count.activity = Activity(num_clips=120, num_frames=64 * 120)
    count.share_done, count.seconds_left = 0.999, 3690.2
    said = count.describe_now()
    assert said.startswith(f"{64 * 20 / 60:.0f} frames/s, {5 * 20 / 60:.2f} clip-views/s")
    assert count.describe_done() == "2 of 4 videos, 99 %, 1:01:31 left"
    assert count.describe().startswith(f"{64 * 120 / 90:.0f} frames/s")


def test_a_narrow_terminal_shows_what_is_done_and_the_time_left(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(logs, "console", lambda: console)
    monkeypatch.setattr(logs, "is_watched", lambda: True)
    count = RunningCount(total=53, num_views=5, done=7, share_done=0.071, seconds_left=784.2)
    with logs.show_progress(count) as line:
        line.update()
    assert "7 of 53 videos, 7 %, 0:13:05 left" in screen.getvalue()
