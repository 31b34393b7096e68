"""Streams of cameras: alarms while they run, results in stretches, and what interruptions do."""

import json
from dataclasses import replace
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
from builders import SPEC, make_features, write_checkpoint

from vigil.extract.decode.live import LiveSource, PieceBegun, PieceEnded
from vigil.extract.engine.assembly import Provenance
from vigil.extract.engine.live import SeenClip
from vigil.extract.errors import UserError
from vigil.extract.networks.weights import Weights
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.spec import FeaturePart
from vigil.pipeline.checkpoint import TrainingLengths, load_checkpoint
from vigil.pipeline.scores.events import EventRule
from vigil.pipeline.scores.rolling import RollingTimeline
from vigil.pipeline.scores.video_scoring import score_video
from vigil.pipeline.scoring.results import result_content
from vigil.pipeline.scoring.score_store import video_result
from vigil.pipeline.watching import piece_scorer
from vigil.pipeline.watching.alarm import read_alarm
from vigil.pipeline.watching.ledger import Ledger
from vigil.pipeline.watching.metrics import Gauges
from vigil.pipeline.watching.stream_album import AlbumSettings
from vigil.pipeline.watching.streams import StreamFollower, StreamSettings

FPS = 25.0
BEGUN = PieceBegun(1_796_000_000.0, FPS, 320, 240)
SOURCES = (LiveSource("front", "rtsp://nowhere"), LiveSource("file", "file:///nowhere"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("run")))
    config = replace(made.config, training_lengths=TrainingLengths(100, 512, 900, FPS))
    return made._replace(config=config)


@pytest.fixture
def rule(checkpoint):
    """A rule that finds some events in random footage, and none in the rest."""
    timeline = score_video(checkpoint, "a", a_video(4000), span="auto")
    return EventRule(threshold=float(np.quantile(timeline.scores.scores, 0.8)), keep_share=0.999)


def an_engine(**changes):
    weights = Weights("none", SPEC.weights_digest, True)
    shape = make_features().features.shape
    part = FeaturePart("i3d", 0, 2, shape[2] // 2)
    spec = replace(SPEC, **changes)
    made = Provenance(spec, weights, ("center",), (part,), np.float32, True, 1)
    return SimpleNamespace(spec=spec, provenance=made, precision="fp32")


def a_video(num_frames, seed=0):
    clip_frames = SPEC.grid.frame_ranges(num_frames)
    shape = len(clip_frames), 1, make_features().features.shape[2]
    clips = np.random.default_rng(seed).random(shape, np.float32)
    segments = segment_ranges(num_frames, SPEC.num_segments)
    return replace(
        make_features("a.mp4", num_frames),
        features=np.moveaxis(pool_clips(clips, clip_frames, segments), 0, 1),
        views=("center",),
        clip_features=clips,
        clip_frames=clip_frames,
        frame_seconds=np.arange(num_frames + 1) / FPS,
        fps=FPS,
    )


class Scene:
    """A follower whose cameras are played by the test."""

    def __init__(self, checkpoint, rule, folder):
        self.ledger = Ledger(folder / "watch.sqlite", ())
        self.gauges, self.results = Gauges(), []
        self.follower = StreamFollower(
            checkpoint,
            an_engine(),
            SOURCES,
            StreamSettings(lambda _camera: (rule, "given")),
            self.ledger,
            lambda camera, result, _: self.results.append((camera, result)),
            self.gauges,
        )

    @property
    def figures(self):
        """(name, camera) -> value."""
        return {(one.name, *dict(one.labels).values()): one.value for one in self.gauges.samples()}

    def play(self, video, camera="front", piece=0, begun=BEGUN, dropped=(), static=(), ended=True):
        hear = self.follower._hear
        hear((camera, piece), begun)
        num_known = 0
        for index, (_, stop) in enumerate(video.clip_frames.tolist()):
            features = None if index in dropped else video.clip_features[index]
            seconds = video.frame_seconds[num_known:stop]
            arrived = begun.began_at + seconds[-1]
            clip = SeenClip(index, seconds, features, arrived, index in static)
            hear((camera, piece), clip)
            num_known = stop
        if ended:
            reason = PieceEnded("the stream ended", video.num_frames_decoded)
            hear((camera, piece), reason)

    @property
    def messages(self):
        rows = self.ledger._file.rows("SELECT message FROM alarms ORDER BY number")
        return [read_alarm(row[0]) for row in rows]


@pytest.fixture
def scene(checkpoint, rule, tmp_path):
    made = Scene(checkpoint, rule, tmp_path)
    yield made
    made.ledger.close()


@pytest.mark.parametrize("num_frames", [50, 700, 4000])
def test_a_stream_has_the_result_of_its_recording(scene, checkpoint, rule, num_frames):
    video = a_video(num_frames)
    scene.play(video, "file")
    ((camera, result),) = scene.results
    timeline = score_video(checkpoint, "a", video, span="auto")
    expected = video_result(checkpoint, "a", video, timeline, rule)
    assert camera == "file"
    assert result.video.startswith("file/2026-")
    assert (result.label, result.span_frames) == (expected.label, expected.span_frames)
    assert [one.start_frame for one in result.segments] == [
        one.start_frame for one in expected.segments
    ]
    np.testing.assert_allclose(
        [one.score for one in result.segments], [one.score for one in expected.segments], atol=1e-6
    )
    ranges = [(one.start_frame, one.stop_frame) for one in expected.events]
    assert [(one.start_frame, one.stop_frame) for one in result.events] == ranges
    told = {one.event: one for one in scene.messages}.values()
    assert {(one.start_seconds, one.stop_seconds) for one in told} >= {
        (start / FPS, stop / FPS) for start, stop in ranges
    }
    assert not any(one.is_open for one in told), "a file that ends ends its events"
    assert result.recorded_at is not None
    schema = files("vigil.pipeline.scoring").joinpath("schema/result.json").read_bytes()
    content = json.loads(json.dumps(result_content(result)))
    pytest.importorskip("jsonschema").validate(content, json.loads(schema))


def test_a_long_stream_has_results_in_stretches_that_join(scene, monkeypatch):
    monkeypatch.setattr(piece_scorer, "STRETCH_SECONDS", 40.0)
    video = a_video(10_000)
    scene.play(video)
    results = [result for _, result in scene.results]
    assert len(results) > 3
    assert len({result.video for result in results}) == len(results)
    assert sum(result.num_frames_decoded for result in results) == 10_000
    assert all(result.segments[0].start_frame == 0 for result in results)
    assert min(result.duration_seconds for result in results[:-1]) > 10


def test_a_stretch_waits_for_its_thumbnails(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(piece_scorer, "STRETCH_SECONDS", 40.0)
    settings = replace(scene.follower._settings, thumbnails=AlbumSettings(tmp_path / "thumbnails"))
    scene.follower._settings = settings
    video = a_video(10_000)
    scene.play(video, ended=False)
    assert scene.results == [], "none has come, so its album would lack them"
    scene.follower.finish()
    ((_, result),) = scene.results
    assert result.num_frames_decoded == 10_000


def test_dropped_clips_are_counted_and_said(scene):
    scene.play(a_video(4000), dropped=set(range(10, 20)))
    ((_, result),) = scene.results
    assert any("of it was not looked at" in warning for warning in result.warnings)
    figures = scene.figures
    assert figures["vigil_clips_dropped_total", "front"] == 10
    assert figures["vigil_clips_total", "front"] == 63


def test_static_clips_are_counted_and_told_of_each_stretch(scene, monkeypatch):
    monkeypatch.setattr(piece_scorer, "STRETCH_SECONDS", 40.0)
    scene.follower._engine = an_engine(static="skip")
    scene.play(a_video(10_000), static=set(range(1, 157, 2)))
    results = [result for _, result in scene.results]
    assert len(results) > 3
    assert [one.static_share for one in results] == [pytest.approx(0.5, abs=0.1) for _ in results]
    assert scene.figures["vigil_clips_static_total", "front"] == 78


def test_whether_a_camera_is_up_and_its_errors_are_figures_from_the_start(scene, caplog):
    rules = {("vigil_when_late", "front", "drop-oldest"): 1}  # a file can wait
    assert scene.figures == rules | {
        (name, camera): 0
        for name in ("vigil_camera_up", "vigil_stream_errors_total")
        for camera in ("front", "file")
    }
    scene.play(a_video(700), ended=False)
    assert scene.figures["vigil_camera_up", "front"] == 1
    for number in (2, 1, 0):
        scene.follower._hear(("front", 0), PieceEnded("it hung up", 700, number))
    assert scene.figures["vigil_camera_up", "front"] == 0
    assert scene.figures["vigil_stream_errors_total", "front"] == 3
    said = [one.message for one in caplog.records if "hung up" in one.message]
    assert said == [
        "front: it hung up; 2 packets could not be decoded, or not well",
        "front: it hung up; 1 packet could not be decoded, or not well",
        "front: it hung up",
    ]


def loud(rule):
    return replace(rule, threshold=0.0, keep_share=0.0)


def test_an_event_goes_on_after_an_interruption_and_a_restart(checkpoint, rule, tmp_path):
    first = Scene(checkpoint, loud(rule), tmp_path)
    video = a_video(2000)
    first.play(video)
    later = replace(BEGUN, began_at=BEGUN.began_at + 2000 / FPS + 10)
    first.play(video, piece=1, begun=later, ended=False)
    first.follower.finish()
    (event,) = {one.event for one in first.messages}
    assert first.messages[-1].is_open
    first.ledger.close()

    second = Scene(checkpoint, loud(rule), tmp_path)
    again = replace(later, began_at=later.began_at + 2000 / FPS + 10)
    second.play(video, begun=again)
    assert {one.event for one in second.messages} == {event}, "one alarm, however often it restarts"
    second.follower.check()
    assert not second.messages[-1].is_open, "nothing came back in time"
    second.ledger.close()


def test_a_clip_whose_features_overflow_is_left_out_and_said(scene, caplog):
    video = a_video(2000)
    clips = video.clip_features.copy()
    clips[3] = np.inf
    scene.play(replace(video, clip_features=clips))
    assert "compute in fp32" in caplog.text
    ((_, result),) = scene.results
    assert result.num_frames_decoded == 2000, "everything after it is scored"
    assert any("not looked at" in warning for warning in result.warnings)


def test_a_piece_that_cannot_be_scored_is_given_up_and_its_event_goes_on(
    checkpoint, rule, tmp_path, caplog, monkeypatch
):
    def fail(*_):
        raise UserError("it does not fit")

    scene = Scene(checkpoint, loud(rule), tmp_path)
    video = a_video(2000)
    scene.play(video, ended=False)
    clip = SeenClip(32, video.frame_seconds[:64] + 80, video.clip_features[0], BEGUN.began_at)
    with monkeypatch.context() as patch:
        patch.setattr(RollingTimeline, "add", fail)
        scene.follower._hear(("front", 0), clip)
    assert "front: it does not fit" in caplog.text
    scene.follower._hear(("front", 0), clip)
    scene.follower._hear(("front", 0), PieceEnded("the stream ended", 4000))
    later = replace(BEGUN, began_at=BEGUN.began_at + 2000 / FPS + 20)
    scene.play(video, piece=1, begun=later)
    assert len({one.event for one in scene.messages}) == 1
    scene.ledger.close()


def test_a_full_disk_loses_no_alarm_and_the_result_comes_later(scene, rule, monkeypatch, caplog):
    monkeypatch.setattr(piece_scorer, "STRETCH_SECONDS", 40.0)
    keep, refused = scene.follower._keep, []

    def full(camera, result, write_album):
        if len(refused) < 5:
            refused.append(result.video)
            raise OSError(28, "No space left on device")
        keep(camera, result, write_album)

    scene.follower._keep = full
    scene.play(a_video(10_000))
    assert len(refused) == 5
    assert caplog.text.count("cannot be written") == 1
    assert sum(result.num_frames_decoded for _, result in scene.results) == 10_000
    told = {one.event: one for one in scene.messages}
    assert len(told) >= sum(result.num_events for _, result in scene.results) > 0


def test_times_follow_the_clock_of_the_camera_and_steps_of_this_machine(scene, monkeypatch):
    video = a_video(4000)
    now = [1000.0]
    monkeypatch.setattr(piece_scorer.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(piece_scorer.time, "time", lambda: now[0] + BEGUN.began_at - 1000 + step[0])
    step, num_known = [0.0], 0
    hear = scene.follower._hear
    hear(("front", 0), BEGUN)
    for index, (_, stop) in enumerate(video.clip_frames.tolist()):
        seconds = video.frame_seconds[num_known:stop]
        now[0] = 1000 + seconds[-1] * 1.0001  # 100 ppm slow
        step[0] = 3600.0 if index > 30 else 0.0
        hear(("front", 0), SeenClip(index, seconds, video.clip_features[index], now[0]))
        num_known = stop
    lag = {one.name: one.value for one in scene.gauges.samples()}["vigil_lag_seconds"]
    assert lag == pytest.approx(0, abs=0.05)
    began = scene.follower._pieces["front"].events.began_at
    assert began == pytest.approx(BEGUN.began_at + 3600 + 160 * 1e-4, abs=0.05)


def test_what_streams_need_is_said_before_a_camera_is_called(checkpoint, rule, tmp_path):
    ledger = Ledger(tmp_path / "watch.sqlite", ())
    settings = StreamSettings(lambda _camera: (rule, "given"))
    how = settings, ledger, lambda *_: None, Gauges()
    config = replace(checkpoint.config, training_lengths=None)
    unknown = checkpoint._replace(config=config)
    with pytest.raises(UserError, match="--span SECONDS"):
        StreamFollower(unknown, an_engine(), SOURCES, *how)
    whole = replace(settings, span="whole"), *how[1:]
    with pytest.raises(UserError, match=r"cannot be scored as a whole.*--span SECONDS"):
        StreamFollower(checkpoint, an_engine(), SOURCES, *whole)
    with pytest.raises(UserError, match="without --frame-rate"):
        StreamFollower(checkpoint, an_engine(frame_rate=10.0), SOURCES, *how)
    assert StreamFollower(unknown, an_engine(), (), *how).cameras == set()
    ledger.close()
