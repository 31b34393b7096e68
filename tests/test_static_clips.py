"""Static clips: which are, and that their features are those of the last computed clip."""

from dataclasses import replace

import numpy as np
import pytest
from fake_backbone import SPEC, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from test_live import NoPool, file_source, follow, in_thread
from test_store import WITH_CLIPS
from video_files import encode

from vigil.extract.clips import ClipGrid
from vigil.extract.decode import parts, reader, static_clips
from vigil.extract.decode.live import LiveSource, PieceBegun
from vigil.extract.decode.reader import Clip, ReadingOptions, SplitVideo, read_part, read_video
from vigil.extract.decode.ring import Slot
from vigil.extract.decode.static_clips import MAX_LIGHT, StaticClips, block_means, is_same
from vigil.extract.decode.worker import ClipReady, StreamNews
from vigil.extract.engine import live as following
from vigil.extract.engine.device import ClipDone
from vigil.extract.engine.live import LiveStreams, SeenClip
from vigil.extract.engine.pool import WorkerLimits
from vigil.extract.errors import UserError
from vigil.extract.sealed import FeatureFileError
from vigil.extract.source import SourceVideo
from vigil.extract.store import feature_path, verify_features, write_features

HEIGHT, WIDTH = 224, 240
SCENE = np.random.default_rng(1).integers(40, 200, (28, 30, 3)).repeat(8, 0).repeat(8, 1)
RESTART = 4


def clip_of(scene=SCENE, noise=0.0, num_frames=4, seed=0):
    grain = np.random.default_rng(seed).normal(0, noise, (num_frames, *scene.shape[:2], 1))
    return np.clip(np.round(scene + grain), 0, 255).astype(np.uint8)


def with_figure(clip, top, left, height=10, width=4, contrast=40, frames=slice(None)):
    changed = clip.astype(int)
    changed[frames, top : top + height, left : left + width] += contrast
    return np.clip(changed, 0, 255).astype(np.uint8)


def test_blocks_are_means_of_grey():
    clip = np.random.default_rng(0).integers(0, 256, (2, 226, 345, 3), np.uint8)
    expected = clip[:, :224, :343].reshape(2, 32, 7, 49, 7, 3).mean(axis=(2, 4, 5))
    np.testing.assert_allclose(block_means(clip), expected)


@pytest.mark.parametrize("noise", [0.2, 1.0, 1.6])
def test_of_clips_that_show_noise_no_more_than_the_given_share_is_computed(noise):
    """With one in a hundred, more than 10 of 300 have a probability of 0.0003."""
    rng = np.random.default_rng(0)
    reference = rng.uniform(20, 220, (32, 42))
    num_moved = sum(
        not is_same(reference + rng.normal(0, noise, (8, 32, 42)), reference) for _ in range(300)
    )
    assert num_moved <= 10


@pytest.mark.parametrize("noise", [0, 4, 8])
def test_noise_light_and_keyframes_are_no_motion(noise):
    static = StaticClips()
    assert not static.is_static(clip_of(noise=noise))
    assert static.is_static(clip_of(noise=noise, seed=1))
    for light in (0.96, 1.04):
        assert static.is_static(clip_of(SCENE * light, noise, seed=2)), "it is dimmed a little"
    steps = np.random.default_rng(3).normal(0, 1.5, (28, 30, 1)).repeat(8, 0).repeat(8, 1)
    coded_anew = np.concatenate([clip_of(noise=noise, seed=4), clip_of(SCENE + steps, noise)])
    assert static.is_static(coded_anew), "at a keyframe, each block changes a little"


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, HEIGHT - 10),
    st.integers(0, WIDTH - 4),
    st.sampled_from([-60, 60]),
    st.integers(0, 3),
)
def test_a_small_figure_in_one_frame_is_motion(top, left, contrast, frame):
    static = StaticClips()
    static.is_static(clip_of(noise=3))
    moved = with_figure(clip_of(SCENE, 3, seed=1), top, left, 10, 4, contrast, frame)
    assert not static.is_static(moved)


@pytest.mark.parametrize(
    "change",
    [
        lambda scene: np.roll(scene, 3, axis=1),  # the camera is pushed
        lambda scene: 255 - scene,
        lambda scene: scene * (1 + 1.5 * MAX_LIGHT),  # a lamp goes on
        lambda scene: np.where(np.arange(WIDTH)[:, None] < WIDTH * 0.7, scene + 30, scene),
    ],
)
def test_a_change_of_all_the_picture_is_motion(change):
    static = StaticClips()
    static.is_static(clip_of())
    assert not static.is_static(clip_of(change(SCENE)))


def test_what_stays_at_a_new_place_is_computed_once():
    static = StaticClips()
    there = with_figure(clip_of(), 100, 100)
    assert [static.is_static(clip) for clip in (clip_of(), there, there)] == [False, False, True]


def test_a_slow_change_is_computed_again_and_again():
    """The reference is the last computed clip, so what changes slowly does not go on unnoticed."""
    static, source, differences = StaticClips(), None, []
    for step in range(30):
        clip = with_figure(clip_of(), 96, 96, 16, 16, step)
        if static.is_static(clip):
            differences.append(step - source)
        else:
            source = step
    assert 2 <= max(differences) <= 6


KINDS = {
    "a": clip_of(),
    "b": with_figure(clip_of(), 100, 100),
    "moves": with_figure(clip_of(), 100, 100, frames=slice(2)),
}


def literal(kinds):
    """Which clips of these kinds are static, by the rule read literally."""
    answers, computed = [], None
    for index, kind in enumerate(kinds):
        is_static = index % RESTART > 0 and kind == computed and kind != "moves"
        answers.append(is_static)
        computed = computed if is_static else kind
    return answers


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=12))
def test_a_clip_is_static_if_it_looks_like_the_last_computed_one(kinds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_clips, "RESTART_CLIPS", RESTART)
        static = StaticClips()
        assert [static.is_static(KINDS[kind]) for kind in kinds] == literal(kinds)


NUM_FRAMES = 240


def draw_night(num_frames=NUM_FRAMES):
    """A still scene with noise, through which somebody runs now and then."""
    frames = []
    for index in range(num_frames):
        picture = clip_of(noise=2, num_frames=1, seed=index)
        if index % 240 in range(100, 116):
            picture = with_figure(picture, 90, 10 * (index % 240) - 960, 24, 8, 50)
        frames.append(picture[0])
    return frames


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "night.mp4"
    encode(path, draw_night(), codec_options={"g": "8", "bf": "2"})
    return SourceVideo(path, "night.mp4")


@pytest.fixture
def _restarts(monkeypatch):
    for module in (static_clips, reader):
        monkeypatch.setattr(module, "RESTART_CLIPS", RESTART)
    monkeypatch.setattr(parts, "MIN_LEAD_FRAMES", 8)
    monkeypatch.setattr(parts, "SEEK_MARGIN_SECONDS", 0.7)


@pytest.mark.usefixtures("_restarts")
@pytest.mark.parametrize("clips_per_part", [4, 5, 9])
def test_parts_find_what_the_whole_video_shows(night, clips_per_part, monkeypatch):
    options = ReadingOptions(ClipGrid(8, 6), None, clips_per_part, finds_static=True)
    *whole, _ = read_video(night, options, "pyav")
    assert 10 < sum(clip.is_static for clip in whole) < len(whole) - 10
    (split,) = read_video(night, options, "pyav", may_split=True)
    assert isinstance(split, SplitVideo)
    assert all(part.first_clip % RESTART == 0 for part in split.parts)
    flags = []
    for part in split.parts:
        clips = (one for one in read_part(night, part, options) if isinstance(one, Clip))
        flags += [clip.is_static for clip in clips]
    assert flags == [clip.is_static for clip in whole]


def skipping_engine(**changes):
    spec = replace(SPEC, static="skip", clip_stride=changes.pop("clip_stride", 8))
    return make_engine(spec=spec, **{"keep_clips": True, **changes})


def extract(engine, video, store, watch=lambda _: None):
    list(engine.extract([video], store, watch))
    return verify_features(feature_path(store, video.name))


def assert_alike(found, expected):
    for name in ("features", "clip_features", "clip_computed", "segment_seconds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


@pytest.mark.usefixtures("_restarts")
def test_static_clips_have_the_features_of_the_last_computed_one(night, tmp_path):
    activities = []
    found = extract(
        skipping_engine(),
        night,
        tmp_path / "skip",
        lambda activity: activities.append((activity.num_clips, activity.num_clips_static)),
    )
    every = extract(
        make_engine(spec=replace(SPEC, clip_stride=8), keep_clips=True), night, tmp_path
    )
    computed = found.clip_computed
    assert computed[::RESTART].all()
    assert 0.2 < found.static_share < 0.7
    assert activities[-1] == (computed.sum(), (~computed).sum())
    sources = np.maximum.accumulate(np.where(computed, np.arange(len(computed)), 0))
    np.testing.assert_array_equal(found.clip_features, every.clip_features[sources])
    assert every.clip_computed is None
    assert every.static_share is None


def stop_after(num_clips, engine, video, store):
    def stop(activity):
        if activity.num_clips_done >= num_clips:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(engine, video, store, stop)


@pytest.mark.usefixtures("_restarts")
def test_a_run_that_was_stopped_goes_on_with_static_clips(night, tmp_path):
    expected = extract(skipping_engine(), night, tmp_path / "undisturbed")
    for most in (4, 9):
        stop_after(most, skipping_engine(journal_clips=2), night, tmp_path / "killed")
    computed = []
    found = extract(
        skipping_engine(journal_clips=2),
        night,
        tmp_path / "killed",
        lambda activity: computed.append(activity.num_clips),
    )
    assert computed[-1] < expected.clip_computed.sum(), "some were there"
    assert_alike(found, expected)


@pytest.mark.slow
def test_features_do_not_depend_on_workers_parts_or_interruptions(tmp_path):
    path = encode(tmp_path / "night.mp4", draw_night(600), codec_options={"g": "25", "bf": "2"})
    video = SourceVideo(path, "night.mp4")
    views = ("center", "bottom_right")
    expected = extract(skipping_engine(views=views), video, tmp_path / "0")
    assert 0.2 < expected.static_share < 0.8
    for number, batch_size in ((1, 3), (2, 1), (3, 2)):
        engine = skipping_engine(
            views=views,
            num_workers=number,
            clips_per_part=32,
            batch_size=batch_size,
            journal_clips=2,
        )
        for num_clips in (20, 45):
            stop_after(num_clips, engine, video, tmp_path / str(number))
        assert_alike(extract(engine, video, tmp_path / str(number)), expected)


@pytest.mark.usefixtures("_restarts")
def test_a_stream_has_the_features_of_its_file(night, tmp_path, monkeypatch):
    in_thread(monkeypatch)
    engine = skipping_engine()
    expected = extract(engine, night, tmp_path)
    heard, _ = follow(engine, tmp_path / "live", [file_source(night.path)])
    _, *clips, _ = [news for _, news in heard["front"]]
    assert [clip.is_static for clip in clips] == (~expected.clip_computed).tolist()
    np.testing.assert_array_equal([clip.features for clip in clips], expected.clip_features)


def test_the_features_of_a_dropped_clip_are_not_taken(monkeypatch):
    """A static clip whose reference is dropped, while it waits, is computed itself."""
    monkeypatch.setattr(following, "WorkerPool", NoPool)
    heard = []
    live = LiveStreams([LiveSource("a", "rtsp://a")], lambda _, news: heard.append(news))
    live.start(ReadingOptions(ClipGrid(8, 8), None), WorkerLimits(), 0, np.float32)
    live.watch()
    live.receive(StreamNews(0, PieceBegun(0.0, 25.0, 320, 240)))

    def arrive(index, is_static):
        slot, seconds = Slot(index, 0, ()), np.arange(8) / 25
        live.receive(ClipReady(0, index, slot, 0, "pyav", seconds, is_static))

    def compute(work):
        live.release(work.worker, work.slot.index)
        live.keep(ClipDone(work.key, np.full((1, 2), work.key[2]), 0, 0))

    arrive(0, False)
    arrive(1, True)  # waits for clip 0
    busy = live.next_clip()
    arrive(2, False)
    arrive(3, True)  # waits for clip 2, which waits for the device
    arrive(4, False)  # takes its place
    arrive(5, True)
    compute(busy)
    compute(live.next_clip())
    arrive(6, True)  # its features are there already
    arrive(7, False)
    live._drop(live._cameras["a"])
    arrive(8, True)  # so this one is computed
    compute(live.next_clip())
    arrive(9, True)
    clips = [one for one in heard if isinstance(one, SeenClip)]
    features = [None if one.features is None else one.features[0, 0] for one in clips]
    assert features == [0, 0, None, None, 4, 4, 4, None, 8, 8]
    static = [index for index, one in enumerate(clips) if one.is_static]
    assert static == [1, 5, 6, 9]
    assert sorted(live._pool.released) == list(range(10)), "each slot is free once"


SKIPPED = replace(
    WITH_CLIPS,
    spec=replace(WITH_CLIPS.spec, static="skip"),
    clip_computed=np.array([True, False]),
)


def test_a_feature_file_records_which_clips_were_computed(tmp_path):
    write_features(tmp_path / "a.h5", SKIPPED)
    found = verify_features(tmp_path / "a.h5")
    np.testing.assert_array_equal(found.clip_computed, [True, False])
    assert found.static_share == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_computed": None}, "does not fit its spec"),
        ({"spec": WITH_CLIPS.spec}, "does not fit its spec"),
        ({"clip_computed": np.ones(3, bool)}, "do not match the decoded frames"),
        ({"clip_computed": np.zeros(2, bool)}, "do not match the decoded frames"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, change, message):
    write_features(tmp_path / "a.h5", replace(SKIPPED, **change))
    with pytest.raises(FeatureFileError, match=message):
        verify_features(tmp_path / "a.h5")


def test_an_unknown_way_is_refused():
    with pytest.raises(UserError, match="static clips 'drop' is unknown: use compute or skip"):
        replace(SPEC, static="drop")
