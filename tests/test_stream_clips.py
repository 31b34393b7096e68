"""Clips of the events of streams: of packets that were set aside while the events lasted."""

import errno
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatch
from importlib.resources import files

import av
import numpy as np
import pytest
from builders import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from test_live import file_source
from test_result_formats import make_result
from test_stream_thumbnails import MAX_ERROR, grey_of, watch_stream
from test_watch_streams import BEGUN, FPS, Scene, a_video, loud
from video_files import encode
from watch_builders import make_alarm
from watched import EVENTFUL, sent_alarms

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import cutting
from vigil.extract.decode.excerpt_request import Written
from vigil.extract.decode.live import read_stream
from vigil.extract.decode.live_copy import Cluster, LiveCopy
from vigil.extract.decode.packet_ring import PacketRing
from vigil.extract.decode.reader import ReadingOptions
from vigil.extract.files import LEFTOVERS, remove_leftovers
from vigil.pipeline.cli import main
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.options import WatchOptions
from vigil.extract.errors import UserError
from vigil.pipeline.scores.events import Event, EventClip
from vigil.pipeline.scores.inference import VideoScores
from vigil.pipeline.scores.spans import Timeline
from vigil.pipeline.scoring.clips import clips_of
from vigil.pipeline.scoring.results import read_result, result_path, write_result
from vigil.pipeline.scoring.writers import write_overview
from vigil.pipeline.watching import clip_writer, stream_clips
from vigil.pipeline.watching.clip_writer import ClipJob
from vigil.pipeline.watching.retention import remove_results, result_bytes
from vigil.pipeline.watching.stream_clips import ClipSettings, Stretch, StreamClips

NUM_SECONDS = 20
NAME = "front/2026-11-30/10-15-00-250"


def draw(path, codec="libx264", **how):
    """A stream whose grey tells its second, with a key frame every second."""
    greys = [grey_of(number // 25) for number in range(NUM_SECONDS * 25)]
    frames = [np.full((48, 64, 3), grey, np.uint8) for grey in greys]
    return encode(path, frames, codec=codec, codec_options={"g": "25"}, **how)


def copies_of(path, num_bytes=1 << 22):
    """What a worker says of the packets of a stream, and where it keeps them."""
    ring = PacketRing(num_bytes)
    news = read_stream(file_source(path), ReadingOptions(ClipGrid(25, 25), None), packets=ring)
    return [replace(one, ring=ring) for one in news if isinstance(one, LiveCopy)]


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("stream") / "a.mp4")


def an_event(start, stop, name="Fighting"):
    return Event(int(start * 25), int(stop * 25), start, stop, 0.9, name, 0.9, {name: 1.0})


def a_stretch(start=0.0, stop=float(NUM_SECONDS)):
    edges = np.arange(start, stop + 0.5)
    cells = np.stack([edges[:-1], edges[1:]], axis=1)
    scores = VideoScores(np.full(len(cells), 0.5), np.array([0.5, 0.5]))
    timeline = Timeline(scores, (cells * 25).astype(np.int64), cells, None, 64)
    return Stretch(NAME, make_time(), timeline, 0.5)


def make_time():
    from datetime import UTC, datetime

    return datetime(2026, 11, 30, 10, 15, tzinfo=UTC)


def some_clips(folder, margin=1.0, **changes):
    return StreamClips(ClipSettings(folder, margin, 64, **changes), "front", 25.0)


def told(*events, is_open=False):
    """Events with a message about each."""
    return [(one, make_alarm(number=n, is_open=is_open)) for n, one in enumerate(events)]


def finish(clips, stretch=None, **how):
    """The clips of all events, or why there are none."""
    clips.write(np.inf, lambda: stretch or a_stretch(), **how)
    clips.wait(None)
    clips.take_written()
    assert clips.are_known()
    return [one.outcome for one in clips._clips]


def greys(path):
    """(seconds, mean of the frame) of a clip."""
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = container.decode(video=0)
        return [(one.time, one.to_ndarray(format="rgb24").mean()) for one in frames]


def assert_shows(folder, clip, start, stop):
    """Whether each frame of a clip is that of its time in the stream, from one time to another."""
    shown = [(one + clip.start_seconds, grey) for one, grey in greys(folder / clip.path)]
    for seconds, grey in shown:
        assert grey == pytest.approx(grey_of(int(seconds + 1e-3)), abs=MAX_ERROR)
    np.testing.assert_allclose(np.diff([one for one, _ in shown]), 1 / 25, atol=0.1)
    assert shown[0][0] == pytest.approx(start, abs=2e-3)
    assert stop - 0.05 < shown[-1][0] < stop + 0.25, "copies end in the order of decoding"
    assert (folder / clip.sheet).read_bytes().startswith(b"\xff\xd8")


def no_leftovers(folder):
    return not [path for path in folder.rglob("*") if fnmatch(path.name, LEFTOVERS)]


def test_an_event_has_a_clip_from_the_key_frame_before_it(tmp_path, stream):
    clips = some_clips(tmp_path, 1.4)
    for copy in copies_of(stream):
        clips.add(copy)
        clips.follow(told(an_event(5.0, 7.0)))
    (clip,) = finish(clips)
    assert clip.path == f"clips/{NAME}/1.mp4"
    assert_shows(tmp_path, clip, 3.0, 8.4)
    assert no_leftovers(tmp_path)
    with av.open(str(tmp_path / clip.path)) as container, av.open(str(stream)) as whole:
        sent = [bytes(packet) for packet in whole.demux(video=0) if packet.size]
        kept = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert kept == sent[75:][: len(kept)], "not encoded again"


def test_what_browsers_do_not_play_is_encoded(tmp_path):
    path = draw(tmp_path / "a.ts", "mpeg2video", container_format="mpegts")
    clips = some_clips(tmp_path)
    for copy in copies_of(path):
        clips.add(copy)
        clips.follow(told(an_event(5.0, 7.0)))
    (clip,) = finish(clips)
    assert_shows(tmp_path, clip, 4.0, 8.0)
    assert clip.start_seconds == pytest.approx(4.0, abs=1e-3)


def test_what_the_header_does_not_describe_is_encoded(tmp_path, stream):
    clips = some_clips(tmp_path)
    for copy in copies_of(stream):
        clips.add(replace(copy, is_described=False))
    clips.follow(told(an_event(5.5, 7.0)))
    (clip,) = finish(clips)
    assert_shows(tmp_path, clip, 4.5, 8.0)


def replayed(copies, num_bytes):
    """The same packets in a smaller ring, as they come."""
    ring = PacketRing(num_bytes)
    for copy in copies:
        for one in copy.clusters:
            place = ring.append(copy.ring.read(one.place, one.num_bytes))
            yield replace(copy, clusters=(replace(one, place=place),), ring=ring)


@pytest.fixture(scope="module")
def copies(stream):
    return copies_of(stream)


@pytest.fixture(scope="module")
def third(copies):
    """Bytes of a third of the stream."""
    return sum(one.num_bytes for copy in copies for one in copy.clusters) // 3


def test_an_event_may_last_longer_than_the_memory_reaches(tmp_path, copies, third):
    clips = some_clips(tmp_path)
    for copy in replayed(copies, third):
        clips.add(copy)
        until = copy.clusters[0].seconds
        if until > 2:
            clips.follow(told(an_event(2.0, min(until, 17.0)), is_open=until < 17))
        clips.write(np.inf, a_stretch)
        assert sum(one.num_bytes for _, one in clips._packets) <= third
    (clip,) = finish(clips)
    assert_shows(tmp_path, clip, 1.0, 18.0)


def test_what_the_memory_no_longer_holds_is_said(tmp_path, copies, third):
    clips = some_clips(tmp_path)
    for copy in replayed(copies, third):
        clips.add(copy)
    clips.follow(told(an_event(2.0, 4.0), an_event(12.0, 18.0)))
    gone, shortened = finish(clips)
    assert "raise --clip-memory-mib 64" in gone
    assert shortened.start_seconds > 12
    result = make_result((0.1, 0.2), (0.65, 0.9), video=NAME, source=None)
    ranges = (2.0, 4.0), (12.0, 18.0)
    events = tuple(
        replace(event, start_seconds=start, stop_seconds=stop)
        for event, (start, stop) in zip(result.events, ranges, strict=True)
    )
    named = clips.named_in(replace(result, events=events), 0.0)
    assert [one.clip for one in named.events] == [None, shortened]
    missing, late = named.warnings
    assert missing.startswith("Without a clip: 1 event, since its packets are no longer in memory")
    assert late.startswith("1 clip of its events lack")


def test_a_very_long_event_has_a_clip_of_its_beginning(tmp_path, copies, monkeypatch):
    monkeypatch.setattr(stream_clips, "MAX_SECONDS", 6.0)
    clips = some_clips(tmp_path)
    for copy in copies:
        clips.add(copy)
        clips.follow(told(an_event(2.0, 19.0), is_open=True))
    (clip,) = finish(clips, at_once=True)
    assert_shows(tmp_path, clip, 1.0, 9.0)
    result = make_result((0.1, 0.95), video=NAME, source=None)
    (event,) = result.events
    event = replace(event, start_seconds=2.0, stop_seconds=19.0)
    (warning,) = clips.named_in(replace(result, events=(event,)), 0.0).warnings
    assert warning == "1 clip of its events show only the first 0.1 minutes."
