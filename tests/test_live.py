"""Running streams: read in pieces, like files, and followed by the engine."""

import itertools
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from fake_backbone import SPEC, MeanColour, make_engine
from http_streams import PASSWORD, http_server
from video_files import draw_frames, encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import live as reading
from vigil.extract.decode import ring as ring_module
from vigil.extract.decode.live import (
    LiveClip,
    LiveSource,
    PieceBegun,
    PieceEnded,
    read_stream,
    require_stream,
)
from vigil.extract.decode.reader import Clip, ReadingOptions, read_video
from vigil.extract.decode.ring import LIVE_SLOTS, ClipRing, Slot
from vigil.extract.decode.worker import ClipReady, StreamNews
from vigil.extract.engine import device_group
from vigil.extract.engine import live as following
from vigil.extract.engine.device import ClipDone, ClipWork, Flush, _Device
from vigil.extract.engine.device_group import Devices
from vigil.extract.engine.dispatch import _Run
from vigil.extract.engine.live import LiveStreams, SeenClip
from vigil.extract.engine.pool import WorkerLimits
from vigil.extract.errors import VideoError
from vigil.extract.source import SourceVideo
from vigil.extract.store import feature_path, verify_features

OPTIONS = ReadingOptions(ClipGrid(8, 4), None)


def file_source(path, name="front"):
    return LiveSource(name, f"file://{path}")


@pytest.fixture
def video(tmp_path):
    return encode(tmp_path / "a.mp4", draw_frames(30))


def http_stream(*answers):
    """Serve one body after the other to whoever asks; then nothing but errors."""
    left = list(answers)

    def answer(handler):
        if not left:
            handler.send_error(503)
            return
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(left.pop(0))

    return http_server(answer)


def transport_stream(path, frames, times=None):
    options = {"container_format": "mpegts", "times": times}
    return encode(path, frames, codec="mpeg2video", **options).read_bytes()


def test_a_file_read_as_a_stream_has_the_clips_and_times_of_the_file(video):
    begun, *clips, ended = read_stream(file_source(video), OPTIONS)
    *expected, finished = read_video(SourceVideo(video, "a"), OPTIONS)
    assert isinstance(begun, PieceBegun)
    assert (begun.width, begun.height, begun.fps) == (256, 240, 25)
    assert begun.began_at == pytest.approx(time.time(), abs=60)
    assert all(isinstance(clip, Clip) for clip in expected)
    for live, clip in zip(clips, expected, strict=True):
        np.testing.assert_array_equal(live.pixels, clip.pixels)
    seconds = np.concatenate([clip.seconds for clip in clips])
    np.testing.assert_allclose(seconds, finished.timestamps, atol=1e-6)
    assert ended == PieceEnded(reading.ENDED, 30)


def test_a_piece_ends_where_the_clock_jumps(tmp_path):
    times = [*range(0, 400, 40), *range(60_000, 60_400, 40)]
    path = encode(tmp_path / "a.mkv", draw_frames(20), times=times)
    news = list(read_stream(file_source(path), OPTIONS))
    begun, again = (n for n, one in enumerate(news) if isinstance(one, PieceBegun))
    *clips, ended = news[begun + 1 : again]
    assert "jumped by +59.6 s" in ended.reason
    assert ended.num_frames == 10
    assert ended.goes_on
    assert isinstance(clips[-1], LiveClip), "the frames before it count"
    *others, last = news[again + 1 :]
    assert last == PieceEnded(reading.ENDED, 10), "the rest is another piece"
    for part in (clips, others):
        seconds = np.concatenate([clip.seconds for clip in part])
        np.testing.assert_allclose(seconds, np.arange(10) / 25, atol=1e-6)
    whole = encode(tmp_path / "whole.mkv", draw_frames(20))
    _, first, _, third, *_ = read_stream(file_source(whole), OPTIONS)
    np.testing.assert_array_equal(clips[0].pixels, first.pixels)
    np.testing.assert_array_equal(others[0].pixels[:6], third.pixels[2:])


def test_a_piece_ends_where_the_picture_changes_its_size(tmp_path):
    small = transport_stream(tmp_path / "a.ts", draw_frames(20))
    large = transport_stream(tmp_path / "b.ts", draw_frames(20, 320, 256))
    both = tmp_path / "both.ts"
    both.write_bytes(small + large)
    news = list(read_stream(file_source(both), OPTIONS))
    first, last = (one for one in news if isinstance(one, PieceEnded))
    assert first.reason == "the picture changed to 320x256 pixels"
    assert 15 <= first.num_frames <= 20
    assert (last.reason, last.goes_on) == (reading.ENDED, False)
    assert 15 <= last.num_frames <= 20
    _, begun = (one for one in news if isinstance(one, PieceBegun))
    assert (begun.width, begun.height) == (320, 256)
    shapes = {one.pixels.shape[1:3] for one in news[news.index(begun) + 1 : -1]}
    assert shapes == {(256, 320)}


def test_a_camera_whose_clock_jumps_all_the_time_is_hung_up_on(tmp_path):
    """It is called again after pauses that grow; one that has worked for a while goes on."""
    unsteady = [*range(0, 400, 40), *range(60_000, 60_400, 40)]
    steady = [*range(0, 6000, 300), *range(60_000, 60_400, 40)]
    for times, expected in ((unsteady, [False]), (steady, [True, False])):
        frames = draw_frames(len(times))
        body = encode(tmp_path / f"{len(times)}.mkv", frames, times=times).read_bytes()
        with http_stream(body) as address:
            news = list(read_stream(LiveSource("front", address), OPTIONS))
        assert [one.goes_on for one in news if isinstance(one, PieceEnded)] == expected


def test_what_cannot_be_read_never_begins_and_names_no_password(tmp_path):
    with http_stream() as address:
        (refused,) = read_stream(LiveSource("front", address), OPTIONS)
        assert PASSWORD not in repr(LiveSource("front", address))
    (gone,) = read_stream(LiveSource("front", address, connect_seconds=2), OPTIONS)
    for ended in (refused, gone):
        assert ended.num_frames == 0
        assert PASSWORD not in ended.reason
        assert "127.0.0.1" not in ended.reason
    assert "refused" in gone.reason
    (tmp_path / "a.txt").write_text("no video")
    (nothing,) = read_stream(file_source(tmp_path / "a.txt"), OPTIONS)
    assert nothing.num_frames == 0


@pytest.mark.parametrize("address", ["ftp://a/b", "concat:a|b", "/etc/passwd", "", "data:video"])
def test_only_addresses_of_streams_are_opened(address):
    with pytest.raises(VideoError, match="rtsp://"):
        require_stream(address)


def test_http_never_leads_to_a_file(tmp_path, video):
    """A playlist on a server must not make vigil open files of this machine."""
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{video}\n#EXT-X-ENDLIST\n"
    with http_stream(playlist.encode(), playlist.encode()) as address:
        news = list(read_stream(LiveSource("front", address, silence_seconds=2), OPTIONS))
    assert [type(one) for one in news] == [PieceEnded]


def follow(engine, store, sources, videos=()):
    """Everything heard of cameras, camera by camera."""
    heard = {source.name: [] for source in sources}
    live = LiveStreams(sources, lambda piece, news: heard[piece[0]].append((piece[1], news)))
    outcomes = list(engine.extract(videos, store, live=live))
    return heard, outcomes


def test_cameras_and_videos_share_an_engine(tmp_path, video):
    other = encode(tmp_path / "b.mp4", draw_frames(90, seed=1))
    engine = make_engine(spec=replace(SPEC, short_side=None), keep_clips=True, num_workers=1)
    videos = [SourceVideo(path, path.name) for path in (video, other)]
    sources = [file_source(video, "a"), file_source(other, "b"), file_source(other, "a.mp4")]
    heard, outcomes = follow(engine, tmp_path / "f", sources, videos)
    assert {one.video for one in outcomes} == {"a.mp4", "b.mp4"}
    for name, file in (("a", "a.mp4"), ("b", "b.mp4"), ("a.mp4", "b.mp4")):
        (_, begun), *clips, (_, ended) = heard[name]
        assert isinstance(begun, PieceBegun)
        assert isinstance(ended, PieceEnded)
        assert [clip.index for _, clip in clips] == list(range(len(clips)))
        expected = verify_features(feature_path(tmp_path / "f", file)).clip_features
        np.testing.assert_array_equal([clip.features for _, clip in clips], expected)


class SlowColour(MeanColour):
    def __init__(self, seconds=0.06):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return super().forward(x)


@pytest.fixture
def paced(monkeypatch):
    """Streams with a clip every 5 ms, which a slow device cannot keep up with."""

    def stream(source, options, new_clip, pulse, packets):
        yield PieceBegun(time.time(), 25.0, 256, 240)
        for number in range(24):
            time.sleep(0.005)
            new_clip((64, 240, 256, 3))[:] = number
            yield LiveClip(np.empty(0), np.arange(32) / 25 + number)
        yield PieceEnded("the camera hung up", 24 * 32)

    monkeypatch.setattr("vigil.extract.decode.worker.read_stream", stream)
    monkeypatch.setattr(following, "FIRST_PAUSE", 1000.0)


@pytest.mark.parametrize("when_late", ["drop-oldest", "sparser", "keep-all"])
def test_a_late_device_gets_what_the_rule_says(tmp_path, paced, monkeypatch, when_late):
    heard = []
    source = LiveSource("front", "rtsp://nowhere", when_late=when_late)
    live = LiveStreams([source], lambda _, news: heard.append(news))
    in_thread(monkeypatch)
    engine = make_engine(SlowColour())
    follow_until(
        lambda: heard and isinstance(heard[-1], PieceEnded), engine, tmp_path, live, monkeypatch
    )
    clips = [news for news in heard if isinstance(news, SeenClip)]
    assert [clip.index for clip in clips] == list(range(24)), "every clip is told, in order"
    seen = [clip.index for clip in clips if clip.features is not None]
    for index in seen:
        assert (clips[index].features == index).all(), "features are those of the clip"
    if when_late == "keep-all":
        assert len(seen) == 24
    if when_late == "drop-oldest":
        assert seen[-1] == 23, "the newest are kept"


class Enough(Exception):  # noqa: N818 - it is not an error
    """Ends a run, as Ctrl-C does."""


def follow_until(is_enough, engine, store, live, monkeypatch, seconds=0.02):
    """Follow cameras until a condition holds, which is looked at every so many seconds."""

    def more():
        if is_enough():
            raise Enough
        return ()

    monkeypatch.setattr("vigil.extract.engine.dispatch.WATCH_SECONDS", seconds)
    with pytest.raises(Enough), closing(engine.extract((), store, more=more, live=live)) as run:
        next(run)


class NoPool:
    """A pool of workers that only notes which slots are free again."""

    rings = connections = ()

    def __init__(self, *_, **__):
        self.released = []

    def assign(self, _task):
        return True

    def watch(self):
        pass

    def release(self, _worker, slot):
        self.released.append(slot)

    def receive(self, message):
        return 0, message


def computed(monkeypatch, when_late, num_clips, clips_per_result):
    """Which clips a device computes that is done with one for every so many that arrive.

    What it computes when no more arrive does not count.
    """
    monkeypatch.setattr(following, "WorkerPool", NoPool)
    heard = []
    source = LiveSource("a", "rtsp://a", when_late=when_late)
    live = LiveStreams([source], lambda _, news: heard.append(news))
    live.start(OPTIONS, WorkerLimits(), 0, np.float32)
    live.watch()
    live.receive(StreamNews(0, PieceBegun(0.0, 25.0, 320, 240)))
    busy = None
    for index in range(num_clips):
        if busy and index % clips_per_result == 0:
            assert live.keep(ClipDone(busy.key, np.full((1, 2), busy.key[2]), 0, 0))
            busy = None
        live.receive(ClipReady(0, index, Slot(index, 0, ()), 0, "pyav", np.arange(4) / 25))
        if not busy and (busy := live.next_clip()):
            live.release(busy.worker, busy.slot.index)
    live.receive(StreamNews(0, PieceEnded("it hung up", 0)))
    rest = []
    while busy:  # and now the device has time
        live.keep(ClipDone(busy.key, np.full((1, 2), busy.key[2]), 0, 0))
        if busy := live.next_clip():
            live.release(busy.worker, busy.slot.index)
            rest.append(busy.key[2])
    _, *clips, ended = heard
    assert isinstance(ended, PieceEnded)
    assert [clip.index for clip in clips] == list(range(num_clips)), "each is told, in order"
    seen = [clip.index for clip in clips if clip.features is not None]
    assert all((clips[index].features == index).all() for index in seen)
    assert sorted(live._pool.released) == list(range(num_clips)), "each slot is free once"
    return [index for index in seen if index not in rest]


def test_in_time_every_clip_is_computed(monkeypatch):
    for rule in ("drop-oldest", "sparser", "keep-all"):
        assert len(computed(monkeypatch, rule, 50, 1)) == 50


def test_a_late_device_gets_the_newest_clips(monkeypatch):
    seen = computed(monkeypatch, "drop-oldest", 60, 3)
    assert set(np.diff(seen)[2:]) == {3}


def test_a_late_device_gets_clips_at_regular_distances(monkeypatch):
    seen = computed(monkeypatch, "sparser", 80, 3)
    steps = np.diff(seen)[4:]
    assert np.median(steps) == 4, "the least power of two that leaves time enough"
    assert set(steps) <= {2, 4}, "now and then, less is tried"


def test_cameras_take_turns(monkeypatch):
    monkeypatch.setattr(following, "WorkerPool", NoPool)
    names = ["a", "b", "c"]
    live = LiveStreams([LiveSource(name, "rtsp://a") for name in names], lambda *_: None)
    live.start(OPTIONS, WorkerLimits(), 0, np.float32)
    live.watch()
    for task in range(3):
        live.receive(StreamNews(task, PieceBegun(0.0, 25.0, 320, 240)))
    served = []
    for index in range(12):
        for task in range(3):
            live.receive(ClipReady(task, index, Slot(index, 0, ()), 0, "pyav", np.arange(4) / 25))
        work = live.next_clip()
        live.release(work.worker, work.slot.index)
        served.append(work.key[0])
    assert served == names * 4, "a late device leaves no camera out"


def test_a_camera_is_thinned_less_when_there_is_time_again(monkeypatch):
    monkeypatch.setattr(following, "CALM_CLIPS", 4)
    seen = computed(monkeypatch, "sparser", 400, 2)
    assert 150 <= len(seen) <= 200


@pytest.mark.parametrize("when_late", ["drop-oldest", "sparser"])
def test_a_worker_never_waits_for_a_device(monkeypatch, when_late):
    """Not even with large frames, and a device that takes nothing, or takes clips now and then."""
    monkeypatch.setattr(following, "WorkerPool", NoPool)
    monkeypatch.setattr(ring_module, "BUDGET_BYTES", 1)
    ring = ClipRing(min_slots=LIVE_SLOTS)
    source = LiveSource("a", "rtsp://a", when_late=when_late)
    live = LiveStreams([source], lambda *_: None)
    live.start(OPTIONS, WorkerLimits(), 0, np.float32)
    live.watch()
    live.receive(StreamNews(0, PieceBegun(0.0, 25.0, 320, 240)))
    at_device = None
    for index in range(60):
        assert ring.next_clip((10_000,)) is not None, "a slot is free"
        live.receive(ClipReady(0, index, ring.take(), 0, "pyav", np.arange(4) / 25))
        if at_device and index > 20 and index % 3 == 0:
            live.release(at_device.worker, at_device.slot.index)
            at_device = None
        at_device = at_device or live.next_clip()
        assert live.next_clip() is None, "the device has one already"
        while live._pool.released:
            ring.release(live._pool.released.pop())
    ring.close()


def test_videos_have_their_turn_beside_cameras(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "WorkerPool", NoPool)
    live = LiveStreams([LiveSource("a", "rtsp://a", when_late="keep-all")], lambda *_: None)
    live.start(OPTIONS, WorkerLimits(), 0, np.float32)
    live.watch()
    live.receive(StreamNews(0, PieceBegun(0.0, 25.0, 320, 240)))
    for index in range(12):
        live.receive(ClipReady(0, index, Slot(index, 0, ()), 0, "pyav", np.arange(4) / 25))
    sent = []

    class Device:
        num_clips, have_room = 0, True

        def send(self, work):
            sent.append(work.key[0])

        def flush(self):
            pass

    run = _Run(make_engine(), NoPool(), live, Device(), None, lambda _: None)
    run._clips.extend(ClipWork(("v.mp4", 0, index), 0, Slot(0, 0, ())) for index in range(20))
    run._feed_devices()
    assert sent == ["a", "a", "a", "v.mp4"] * 4 + ["v.mp4"] * 16


class GatedRuns:
    """Notes how many clips each batch holds; the first one waits until the gate is open."""

    def __init__(self, monkeypatch):
        self.sizes, self.has_begun, self.gate = [], threading.Event(), threading.Event()
        run = _Device._run_batch

        def gated(device):
            if device._owners:
                self.sizes.append(len(device._owners))
                self.has_begun.set()
                assert self.gate.wait(30)
            run(device)

        monkeypatch.setattr(_Device, "_run_batch", gated)


def test_clips_that_come_during_a_batch_are_the_next_one(monkeypatch):
    runs, flushes = GatedRuns(monkeypatch), []
    send = device_group._send

    def noting(device, message):
        flushes.extend([message] * isinstance(message, Flush))
        send(device, message)

    monkeypatch.setattr(device_group, "_send", noting)
    ring = ClipRing()
    ring.next_clip((64, 224, 224, 3))[:] = 7
    slot = ring.take()
    (job,) = make_engine(batch_size=8)._jobs()
    with closing(Devices([job], [ring])) as devices:
        for index in range(6):
            devices.send(ClipWork(("a", -1, index), 0, slot))
            for _ in range(100):
                devices.flush()
            assert runs.has_begun.wait(30)
        assert len(flushes) == 6, "one is enough until there are more clips"
        runs.gate.set()
        while devices.num_clips:
            devices.receive(devices.connections[0])
    assert runs.sizes == [1, 5]
    ring.close()


@pytest.fixture
def silent(monkeypatch):
    """Streams that begin, and show nothing until the event is set, or for half a minute."""
    over = threading.Event()

    def stream(source, options, new_clip, pulse, packets):
        yield PieceBegun(time.time(), 25.0, 256, 240)
        over.wait(30)
        yield PieceEnded("stopped", 0)

    monkeypatch.setattr("vigil.extract.decode.worker.read_stream", stream)
    monkeypatch.setattr(following, "FIRST_PAUSE", 1000.0)
    in_thread(monkeypatch)
    yield over
    over.set()


@pytest.mark.parametrize("views", [("center",), ("center", "top_left", "center_mirrored")])
def test_videos_go_on_beside_a_silent_camera(tmp_path, silent, views):
    video = SourceVideo(encode(tmp_path / "a.mp4", draw_frames(400)), "a")
    heard = []
    live = LiveStreams([file_source("nowhere", "front")], lambda _, news: heard.append(news))
    engine = make_engine(SlowColour(0.3), batch_size=5, views=views, keep_clips=True)
    for outcome in engine.extract([video], tmp_path, live=live):
        assert outcome.video == "a"
        assert [type(news) for news in heard] == [PieceBegun], "the camera was silent"
        silent.set()
    assert len(verify_features(feature_path(tmp_path, "a")).clip_features) > 8


def test_no_more_clips_of_cameras_are_sent_than_a_pipe_holds(tmp_path, paced, monkeypatch):
    monkeypatch.setattr(device_group, "MAX_UNREAD", 2)
    in_thread(monkeypatch)
    sources = [LiveSource(name, "rtsp://nowhere") for name in "abcd"]
    heard = []
    live = LiveStreams(sources, lambda _, news: heard.append(news))

    def are_over():
        return sum(isinstance(news, PieceEnded) for news in heard) == len(sources)

    follow_until(are_over, make_engine(batch_size=64), tmp_path, live, monkeypatch)
    assert sum(isinstance(news, SeenClip) for news in heard) == 24 * len(sources)


def in_thread(monkeypatch):
    """Run the workers of streams in threads of this process."""
    make = following.WorkerPool
    monkeypatch.setattr(
        following,
        "WorkerPool",
        lambda *arguments, **settings: make(*arguments, **settings | {"in_thread": True}),
    )


def test_a_camera_that_hangs_up_is_called_again(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.01)
    in_thread(monkeypatch)
    bodies = [transport_stream(tmp_path / f"{n}.ts", draw_frames(70, seed=n)) for n in range(2)]
    heard = []
    with http_stream(*bodies) as address:
        live = LiveStreams(
            [LiveSource("front", address)], lambda piece, news: heard.append((piece, news))
        )

        def are_over():
            return sum(isinstance(news, PieceEnded) for _, news in heard) == 2

        follow_until(are_over, make_engine(), tmp_path, live, monkeypatch)
    begun = [piece for piece, news in heard if isinstance(news, PieceBegun)]
    assert begun == [("front", 0), ("front", 1)]
    for number in range(2):
        indices = [
            n.index for (_, piece), n in heard if piece == number and isinstance(n, SeenClip)
        ]
        assert indices == list(range(len(indices)))
        assert indices


def test_pauses_grow_while_a_camera_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.004)
    in_thread(monkeypatch)
    calls = []

    def nothing(source, *_):
        calls.append(time.monotonic())
        yield PieceEnded("Connection refused", 0)

    monkeypatch.setattr("vigil.extract.decode.worker.read_stream", nothing)
    monkeypatch.setattr(following, "LAST_PAUSE", 0.064)
    live = LiveStreams([LiveSource("front", "rtsp://nowhere")], pytest.fail)
    follow_until(lambda: len(calls) >= 8, make_engine(), tmp_path, live, monkeypatch, 0.001)
    pauses = np.diff(calls)
    assert pauses[-1] >= 0.032
    assert pauses[:2].min() >= 0.002


@pytest.fixture
def called(monkeypatch):
    """A camera that the test plays, without pauses, and a clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(following, "WorkerPool", NoPool)
    monkeypatch.setattr(following.time, "monotonic", lambda: now[0])
    live = LiveStreams([LiveSource("yard", "rtsp://a")], lambda *_: None)
    live.start(OPTIONS, WorkerLimits(), 0, np.float32)
    numbers = itertools.count()

    def play(*news, seconds=0.0):
        live._cameras["yard"].try_at = now[0]
        live.watch()
        task = next(numbers)
        for one in news:
            now[0] += seconds
            live.receive(StreamNews(task, one))

    return play


REFUSED = PieceEnded("Connection refused", 0)
BEGUN = PieceBegun(0.0, 25.0, 320, 240)


def test_a_camera_that_stays_away_is_logged_less_and_less_often(called, caplog):
    caplog.set_level("INFO")
    for _ in range(100):
        called(REFUSED, seconds=60.0)
    called(BEGUN, PieceEnded("it hung up", 100), seconds=60.0)
    called(BEGUN, seconds=2.0)
    assert caplog.messages == [
        "yard: no connection: Connection refused",
        "yard: no connection for 60 s: Connection refused",
        "yard: no connection for 6 min: Connection refused",
        "yard: no connection for 36 min: Connection refused",
        "yard: no connection for 66 min: Connection refused",
        "yard: no connection for 96 min: Connection refused",
        "yard: it is back after 1.7 h",
        "yard: it is back after 2 s",
    ]


def test_a_stream_that_ends_right_after_a_jump_had_a_connection(called, caplog):
    jumped = PieceEnded("the clock of the stream jumped by +59.6 s", 100, goes_on=True)
    called(BEGUN, jumped, PieceEnded("the stream ended", 0))
    assert caplog.messages == ["yard: the stream ended"]
