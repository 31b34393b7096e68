"""Clips of the events of streams: of packets that were set aside while the events lasted."""

import errno
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.resources import files

import av
import numpy as np
import pytest
from builders import write_checkpoint
from test_live import file_source
from test_result_formats import make_result
from test_stream_thumbnails import MAX_ERROR, grey_of, watch_stream
from test_watch_streams import BEGUN, FPS, Scene, a_video, loud
from video_files import encode
from watch_builders import make_alarm
from watched import EVENTFUL, sent_alarms

from vigil.extract.clips import ClipGrid
from vigil.extract.decode.captions import write_captioned
from vigil.extract.decode.excerpt_request import Written
from vigil.extract.decode.excerpts import write_excerpt
from vigil.extract.decode.live import PieceEnded, read_stream
from vigil.extract.decode.live_copy import Cluster, LiveCopy
from vigil.extract.decode.packet_ring import PacketRing
from vigil.extract.decode.reader import ReadingOptions
from vigil.extract.engine.live import SeenClip
from vigil.extract.errors import UserError, VideoError
from vigil.extract.files import LEFTOVERS, remove_leftovers
from vigil.pipeline.checkpoint import TrainingLengths, load_checkpoint
from vigil.pipeline.cli import main
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.options import WatchOptions
from vigil.pipeline.scores.events import Event, EventRule
from vigil.pipeline.scores.inference import VideoScores
from vigil.pipeline.scores.spans import Timeline
from vigil.pipeline.scores.video_scoring import score_video
from vigil.pipeline.scoring.clips import clips_of
from vigil.pipeline.scoring.results import read_result, result_path
from vigil.pipeline.watching import clip_writer, piece_scorer, stream_clips
from vigil.pipeline.watching.clip_writer import ClipJob
from vigil.pipeline.watching.retention import remove_results, result_bytes
from vigil.pipeline.watching.stream_clips import ClipSettings, StreamClips, Stretch

WRITE_EXCERPTS = clip_writer.write_excerpts
NUM_SECONDS = 20
LENGTHS = TrainingLengths(100, 512, 900, FPS)
NAME = "front/2026-11-30/10-15-00-250"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Write clips without a process of their own, which takes a second to start."""

    def write_here(cuts):
        for cut in cuts:
            try:
                written = write_excerpt(cut.source, cut.excerpt)
                if cut.caption is not None:
                    write_captioned(cut.excerpt.path, written.start_seconds, cut.caption)
                yield cut, written
            except VideoError as error:
                yield cut, error.reason

    monkeypatch.setattr(clip_writer, "write_excerpts", write_here)


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
    return Stretch(NAME, datetime(2026, 11, 30, 10, 15, tzinfo=UTC), timeline, 0.5)


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
    np.testing.assert_allclose(np.diff([one for one, _ in shown])[1:-1], 1 / 25, atol=2e-3)
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
        assert clips._packets.num_bytes <= third
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


def test_a_memory_that_is_too_small_for_anything_holds_nothing_up(tmp_path, copies):
    clips = some_clips(tmp_path)
    for copy in replayed(copies, 10):
        clips.add(copy)
        clips.follow(told(an_event(2.0, 4.0)))
    (reason,) = finish(clips)
    assert "raise --clip-memory-mib 64" in reason


def test_packets_that_were_forgotten_unseen_are_missed(tmp_path, copies, third):
    """Many may come between two looks, when a device was late."""
    clips = some_clips(tmp_path)
    for number, copy in enumerate(replayed(copies, third)):
        clips.add(copy)
        if number == 2 or number == len(copies) - 1:
            clips.follow(told(an_event(1.0, 18.0)))
    finish(clips)
    (one,) = clips._clips
    assert one.packets.has_gap
    assert one.is_late


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


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_a_clip_ends_with_its_piece(tmp_path, copies, margin):
    """What follows in the packets may be of another size."""
    clips = some_clips(tmp_path, margin)
    for copy in copies:
        clips.add(copy)
    end = 10 - 0.02
    clips.follow(told(an_event(8.0, 10.0), is_open=True), end)
    (clip,) = finish(clips, at_once=True, end_seconds=end)
    assert_shows(tmp_path, clip, 8.0 - margin, 10.0)


def test_a_clip_may_begin_before_its_stretch(tmp_path, copies):
    clips = some_clips(tmp_path, annotate=True)
    for copy in copies:
        clips.add(copy)
    clips.follow(told(an_event(10.5, 12.0)))
    (clip,) = finish(clips, a_stretch(start=10.0))
    assert clip.start_seconds == pytest.approx(-1.0, abs=2e-3), "seconds of the stretch"
    assert clip.annotated == f"clips/{NAME}/1-annotated.mp4"
    with av.open(str(tmp_path / clip.annotated)) as container:
        shown = [one.to_ndarray(format="rgb24") for one in container.decode(video=0)]
    assert shown[0].shape[0] > 48, "with a strip"
    assert shown[0][:40].mean() == pytest.approx(grey_of(9), abs=MAX_ERROR)
    assert clips._clips[0].job.cut.caption.recorded_at == datetime(2026, 11, 30, 10, 15, tzinfo=UTC)
    assert clips._clips[0].job.cut.caption.seconds[0] == (0.0, 1.0)


def test_without_room_an_event_has_no_clip_and_nothing_is_left(tmp_path, copies, monkeypatch):
    full = some_clips(tmp_path, has_room=lambda: False)
    for copy in copies:
        full.add(copy)
    full.follow(told(an_event(2.0, 4.0)))
    assert finish(full) == ["the disk is nearly full (--min-free-gib)"]
    rooms = iter([True, True, False])
    filling = some_clips(tmp_path, has_room=lambda: next(rooms))
    for copy in copies:
        filling.add(copy)
        filling.follow(told(an_event(2.0, 9.0), is_open=True))
    assert finish(filling, at_once=True) == ["the disk is nearly full (--min-free-gib)"]
    assert no_leftovers(tmp_path)

    def refuse(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(clip_writer, "write_excerpts", refuse)
    broken = some_clips(tmp_path)
    for copy in copies:
        broken.add(copy)
    broken.follow(told(an_event(2.0, 4.0)))
    assert finish(broken) == ["it cannot be written (No space left on device)"]
    assert no_leftovers(tmp_path)
    assert not list(tmp_path.rglob("*.mp4"))


def test_nothing_ends_the_writer_of_clips(tmp_path, copies, monkeypatch, caplog):
    """Results wait for it."""

    def fail(cuts):
        for cut in cuts:
            cut.source.path.unlink()
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(clip_writer, "write_excerpts", fail)
        broken = some_clips(tmp_path)
        for copy in copies:
            broken.add(copy)
        broken.follow(told(an_event(2.0, 4.0)))
        (reason,) = finish(broken)
    assert reason == "it cannot be written (RuntimeError: can't start new thread)"
    assert "Traceback" in caplog.text
    again = some_clips(tmp_path, writer=broken._settings.writer)
    for copy in copies:
        again.add(copy)
    again.follow(told(an_event(2.0, 4.0)))
    (clip,) = finish(again)
    assert (tmp_path / clip.path).exists()


def test_packets_that_cannot_be_kept_are_said_once(tmp_path, caplog):
    clips = some_clips(tmp_path)
    for _ in range(3):
        clips.add(LiveCopy(b"", (), True, "no such codec", PacketRing(8)))
    clips.follow(told(an_event(2.0, 4.0)))
    (reason,) = finish(clips)  # at once: nothing more will come
    assert reason == "the packets of the stream cannot be kept (no such codec)"
    assert caplog.text.count("front: no clips, since") == 1


def test_what_a_kill_leaves_is_removed_by_the_next_run(tmp_path, copies):
    clips = some_clips(tmp_path)
    for copy in copies:
        clips.add(copy)
        clips.follow(told(an_event(2.0, 4.0)))
    (path,) = (tmp_path / "clips").glob(".*.partial")
    assert remove_leftovers(tmp_path) == [path]
    clips.close()
    assert clips._clips[0].outcome == "vigil was stopped"


def test_a_stop_leaves_no_packets_of_clips_that_are_waiting(tmp_path, copies):
    clips = some_clips(tmp_path, writer=Prompt(is_prompt=False))
    for copy in copies:
        clips.add(copy)
        clips.follow(told(an_event(2.0, 4.0)))
    clips.write(np.inf, a_stretch)
    assert clips._clips[0].job
    clips.close()
    assert no_leftovers(tmp_path)


class Prompt:
    """A writer of clips that writes none, and says it did, at once or when it is told to."""

    def __init__(self, is_prompt=True):
        self.jobs, self.is_prompt = [], is_prompt

    def submit(self, cut):
        self.jobs.append(ClipJob(cut, Written(cut.excerpt.seconds[0], True)))
        if self.is_prompt:
            self.jobs[-1]._over.set()
        return self.jobs[-1]


class KeptScene(Scene):
    """A follower of cameras whose packets are kept."""

    def __init__(self, checkpoint, rule, folder, **changes):
        super().__init__(checkpoint, rule, folder)
        self.noted, self.writer = [], changes.pop("writer", Prompt())
        note = lambda camera, video: self.noted.append((camera, video))  # noqa: E731
        how = {"writer": self.writer, "note": note} | changes
        clips = ClipSettings(folder, 1.0, 64, **how)
        self.follower._settings = replace(self.follower._settings, clips=clips)

    def play(self, video, camera="front", piece=0, begun=BEGUN, ended=True):
        """As the camera's worker tells of it: packets after the clip that shows them."""
        hear, known, ring = self.follower._hear, 0, PacketRing(1 << 16)
        hear((camera, piece), begun)
        for index, (_, stop) in enumerate(video.clip_frames.tolist()):
            seconds = video.frame_seconds[known:stop]
            arrived = begun.began_at + seconds[-1]
            hear((camera, piece), SeenClip(index, seconds, video.clip_features[index], arrived))
            cluster = Cluster(ring.append(b"packets"), 7, float(seconds[0]), float(seconds[0]))
            hear((camera, piece), LiveCopy(b"header", (cluster,), True, ring=ring))
            self.follower.check()
            known = stop
        if ended:
            hear((camera, piece), PieceEnded("the stream ended", video.num_frames_decoded))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("run")))
    return made._replace(config=replace(made.config, training_lengths=LENGTHS))


@pytest.fixture(scope="module")
def rule(checkpoint):
    timeline = score_video(checkpoint, "a", a_video(4000), span="auto")
    return EventRule(threshold=float(np.quantile(timeline.scores.scores, 0.9)), keep_share=0.999)


def test_results_name_the_clips_in_their_own_folders(checkpoint, rule, tmp_path, monkeypatch):
    monkeypatch.setattr(piece_scorer, "STRETCH_SECONDS", 60.0)
    scene = KeptScene(checkpoint, rule, tmp_path)
    scene.play(a_video(12_000))
    assert len(scene.results) > 3
    named = 0
    for _, result in scene.results:
        clips = [event.clip for event in result.events]
        assert all(clips), "each event has one"
        assert [clip.path for clip in clips] == [
            f"clips/{result.video}/{number + 1}.mp4" for number in range(len(clips))
        ]
        for event in result.events:
            assert event.clip.start_seconds == pytest.approx(event.start_seconds - 1.0)
        named += len(clips)
    told = [one.clip for one in scene.messages if one.clip is not None]
    assert len(told) == len(set(told)) >= named > 5, "each has a message"
    ids = [one.event for one in scene.messages if one.clip is not None]
    assert set(ids) <= {one.event for one in scene.messages if one.clip is None}
    assert {video for _, video in scene.noted} == {r.video for _, r in scene.results if r.events}
    last = {one.event: one for one in scene.messages}
    assert not any(one.is_open for one in last.values())
    scene.ledger.close()


def test_a_result_waits_for_its_clips_and_a_stop_does_not(checkpoint, rule, tmp_path):
    slow = Prompt(is_prompt=False)
    scene = KeptScene(checkpoint, loud(rule), tmp_path, writer=slow)
    scene.play(a_video(2000))
    assert scene.results == [], "its clip is being written"
    (job,) = slow.jobs
    job._over.set()
    scene.follower.check()
    ((_, result),) = scene.results
    assert result.events[0].clip.path == f"clips/{result.video}/1.mp4"
    later = replace(BEGUN, began_at=BEGUN.began_at + 2000 / FPS + 10)
    scene.play(a_video(2000), piece=1, begun=later)
    scene.follower.finish(0.01)
    (_, (_, unfinished)) = scene.results
    assert unfinished.events[0].clip is None
    assert "Without a clip: 1 event, since vigil was stopped." in unfinished.warnings
    scene.ledger.close()


def test_an_interrupted_event_has_a_clip_of_each_piece(checkpoint, rule, tmp_path):
    scene = KeptScene(checkpoint, loud(rule), tmp_path)
    scene.play(a_video(2000))
    later = replace(BEGUN, began_at=BEGUN.began_at + 2000 / FPS + 10)
    scene.play(a_video(2000), piece=1, begun=later)
    (event,) = {one.event for one in scene.messages}
    paths = [one.clip for one in scene.messages if one.clip]
    assert len(set(paths)) == 2
    assert scene.messages[-1].is_open, "it may go on"
    assert [one.clip for one in scene.ledger.open_events("front")] == [paths[-1]]
    again = KeptScene(checkpoint, loud(rule), tmp_path)
    again.play(a_video(2000), begun=replace(BEGUN, began_at=later.began_at + 1000))
    closed = [one for one in again.messages if one.event == event and not one.is_open]
    assert [one.clip for one in closed] == [None], "the message that it is over is no other clip"
    again.ledger.close()
    scene.ledger.close()


def test_the_index_knows_of_clips_before_they_are_there(tmp_path, monkeypatch):
    """So retention counts and removes them, whenever a kill comes."""
    seen = {}

    def note_and_die(cuts):
        with closing(sqlite3.connect(tmp_path / "out" / "seen.sqlite")) as database:
            seen.update(database.execute("SELECT name, result_bytes FROM files").fetchall())
        return iter([(cuts[0], "no")])

    monkeypatch.setattr(clip_writer, "write_excerpts", note_and_die)
    (result,) = watch_stream(tmp_path, monkeypatch, 4, EVENTFUL, clips=True)
    assert [*seen] == [result.video.encode()]
    assert "Without a clip: 1 event, since no." in result.warnings


@pytest.mark.slow
def test_a_watched_stream_has_clips_and_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(clip_writer, "write_excerpts", WRITE_EXCERPTS)
    folders = tmp_path / "with", tmp_path / "without"
    how = {"clips": True, "clip_margin": 0.5}
    (result,) = watch_stream(folders[0], monkeypatch, 5, EVENTFUL, **how)
    (other,) = watch_stream(folders[1], monkeypatch, 5, EVENTFUL, **how | {"clip_memory_mib": 0})
    assert result.segments == other.segments
    assert not (folders[1] / "out" / "clips").exists()
    assert "clip" not in json.dumps([event.clip for event in other.events])
    out = folders[0] / "out"
    (event,) = result.events
    shown = greys(out / event.clip.path)
    assert shown[-1][0] == pytest.approx(5 - 1 / 25, abs=2e-3)
    for seconds, grey in shown:
        assert grey == pytest.approx(grey_of(int(seconds + 1e-3)), abs=MAX_ERROR)
    *before, last = sent_alarms(folders[0])
    assert last["clip"] == event.clip.path
    assert not any("clip" in one for one in before)
    schema = files("vigil.pipeline.watching").joinpath("schema/alarm.json").read_bytes()
    pytest.importorskip("jsonschema").validate(last, json.loads(schema))
    details = (out / "report" / "videos" / "0.js").read_text()
    assert event.clip.path in details
    size = sum(path.stat().st_size for path in clips_of(out, result.video))
    assert result_bytes(out, out / "features", result.video) > size > 0
    assert main(["report", str(out), "--clips"]) == 0
    assert read_result(result_path(out, result.video)) == result, "it cannot be cut again"
    assert (out / event.clip.path).exists()
    remove_results(out, out / "features", result.video)
    assert not (out / "clips" / "front").exists()


@pytest.mark.parametrize("size", [-1, 70_000])
def test_a_memory_that_is_none_is_refused(tmp_path, size):
    with pytest.raises(UserError, match=r"--clip-memory-mib .*0 for no clips of streams"):
        check_options(WatchOptions(tmp_path, ("rtsp://a",), clip_memory_mib=size))
