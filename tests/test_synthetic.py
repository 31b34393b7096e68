"""The generated corpus: `data.synthetic.corpus` and its drawing code."""

from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.data.annotations import Interval, load_annotations
from vigil.data.matching import match_videos
from vigil.data.synthetic.corpus import (
    ANNOTATION_FILE,
    EXPLOSION,
    FIGHTING,
    SyntheticConfig,
    draw_frames,
    generate,
    random_interval,
    write_video,
)
from vigil.data.synthetic.explosion import explosion
from vigil.data.synthetic.objects import bird, car, light
from vigil.data.synthetic.people import Blast, pair, walker
from vigil.data.synthetic.scene import Shot, draw_scene
from vigil.extract.errors import UserError

TINY = SyntheticConfig(
    num_normal=1, num_per_anomaly=1, min_frames=20, max_frames=26, width=160, height=120, seed=3
)


def decode(path):
    """Stream and RGB frames (N, H, W, 3) of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return stream, np.stack(frames)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def paint_alone(actor, scene, num_frames):
    """Return frames (N, 3, H, W) with one actor, and the mean change of each frame (N,)."""
    frames = np.stack([scene.background.astype(np.float32)] * num_frames)
    for time, frame in enumerate(frames):
        actor.paint(frame, time)
    return frames, abs(frames - scene.background).mean(axis=(1, 2, 3))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    return root, generate(TINY, root)


@pytest.fixture(scope="module")
def scene():
    return draw_scene(np.random.default_rng(0), 160, 120)


def shoot(scene, num_frames, seed):
    return Shot(np.random.default_rng(seed), scene, num_frames, fps=25)


class TestCorpus:
    def test_files_are_the_annotated_ones(self, corpus):
        root, annotations = corpus
        assert [(a.video, a.class_name) for a in annotations] == [
            ("Normal/Normal_Videos_000_x264.mp4", "Normal"),
            ("Explosion/Explosion000_x264.mp4", EXPLOSION),
            ("Fighting/Fighting000_x264.mp4", FIGHTING),
        ]
        videos = [path.relative_to(root).as_posix() for path in root.rglob("*.mp4")]
        matching = match_videos(load_annotations([root / ANNOTATION_FILE]), videos)
        assert matching.annotations == {a.video: a for a in annotations}
        assert (matching.missing, matching.extra) == ((), ())

    def test_videos_are_h264_of_the_stated_kind(self, corpus):
        root, annotations = corpus
        for annotation in annotations:
            stream, frames = decode(root / annotation.video)
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            assert stream.average_rate == TINY.fps
            assert frames.shape[1:] == (TINY.height, TINY.width, 3)
            assert TINY.min_frames <= len(frames) <= TINY.max_frames
            assert annotation.num_frames_needed <= len(frames)
            # Like a camera's picture, neither flat nor frozen.
            assert frames.std(axis=(1, 2)).min() > 5
            assert abs(np.diff(frames.astype(float), axis=0)).mean() > 0.1

    def test_equal_settings_give_equal_bytes(self, corpus, tmp_path):
        generate(TINY, tmp_path)
        assert contents(tmp_path) == contents(corpus[0])

    def test_more_videos_leave_the_others_as_they_are(self, corpus, tmp_path):
        generate(replace(TINY, num_normal=2, num_per_anomaly=0), tmp_path)
        name = "Normal/Normal_Videos_000_x264.mp4"
        assert contents(tmp_path)[name] == contents(corpus[0])[name]
        assert contents(tmp_path)[name.replace("000", "001")] != contents(corpus[0])[name]

    def test_another_seed_gives_other_videos(self, corpus, tmp_path):
        generate(replace(TINY, seed=4, num_per_anomaly=0), tmp_path)
        name = "Normal/Normal_Videos_000_x264.mp4"
        assert contents(tmp_path)[name] != contents(corpus[0])[name]

    @given(st.integers(16, 1000), st.integers(0, 1000))
    def test_anomalies_last_15_to_50_percent(self, num_frames, seed):
        interval = random_interval(np.random.default_rng(seed), num_frames)
        assert 0.15 * num_frames <= interval.stop - interval.start <= 0.5 * num_frames
        assert interval.stop <= num_frames

    def test_anomalies_start_anywhere(self):
        rng = np.random.default_rng(0)
        starts = [random_interval(rng, 100).start for _ in range(2000)]
        assert min(starts) == 0
        assert max(starts) > 75

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"num_normal": -1}, "-1 normal videos and 1 of each anomaly: .* 0 or more"),
            ({"min_frames": 15}, "15 to 26 frames: the shortest video must have at least 16"),
            ({"max_frames": 19}, "20 to 19 frames: .*no more than the longest"),
            ({"width": 161}, "161x120 pixels: both sides must be even, 160x120 or more"),
            ({"height": 118}, "160x118 pixels"),
            ({"fps": 0}, "0 frames a second: at least 1 is needed, 25 is usual"),
        ],
    )
    def test_invalid_settings_are_refused(self, changes, match):
        with pytest.raises(UserError, match=match):
            replace(TINY, **changes)


class TestAnomalies:
    def test_explosion_is_visible_only_in_its_frames(self, scene):
        bang = explosion(shoot(scene, 50, seed=1), Interval(10, 40))
        frames, changed = paint_alone(bang, scene, 50)
        assert (np.flatnonzero(changed) == np.arange(10, 40)).all()
        # The flash is by far the brightest moment.
        brightness = frames.mean(axis=(1, 2, 3))
        assert brightness.argmax() == 10
        assert brightness[10] > brightness[9] + 30

    def test_a_fight_moves_far_more_than_a_talk(self, scene):
        def motion(fighting):
            people = pair(shoot(scene, 100, seed=2), Interval(20, 80), fighting, None)
            painted = sum(paint_alone(person, scene, 100)[0] for person in people)
            return abs(np.diff(painted, axis=0)).mean(axis=(1, 2, 3))

        fight, talk = motion(True), motion(False)
        assert fight[25:75].mean() > 3 * talk[25:75].mean()
        # Before they meet and after they part they walk in the same way.
        assert fight[:10].mean() == pytest.approx(talk[:10].mean(), rel=0.25)
        assert fight[90:].mean() == pytest.approx(talk[90:].mean(), rel=0.25)

    def test_people_run_from_an_explosion(self, scene):
        for seed in range(10):
            x = walker(shoot(scene, 100, seed), Blast(40, 80.0)).x
            distance = abs(x - 80)
            steps = abs(np.diff(x))
            assert (np.diff(distance[60:]) > 0).all()
            assert steps[60:].min() > 2 * steps[:40].max()

    def test_nothing_is_different_before_an_explosion(self):
        """Scene and light are the same; only the walking people differ."""
        videos = [
            np.stack(list(draw_frames(np.random.default_rng(5), TINY, name, 16, Interval(8, 12))))
            for name in ("Normal", EXPLOSION)
        ]
        difference = abs(videos[0].astype(int) - videos[1]).mean(axis=(1, 2, 3))
        assert difference[8] > 5 * difference[:8].max()


@pytest.mark.parametrize("make", [bird, car, light])
def test_harmless_events_are_visible(make, scene):
    changed = [paint_alone(make(shoot(scene, 150, seed)), scene, 150)[1] for seed in range(6)]
    assert all((track > 0).any() and (track == 0).any() for track in changed)


class TestWriteVideo:
    FRAMES = np.stack([np.full((48, 64, 3), 20 * index + 30, np.uint8) for index in range(8)])

    @pytest.mark.parametrize(
        ("name", "codec", "pixel_format"),
        [
            ("a.mp4", "libx264", "yuv420p"),
            ("a.mov", "libx264", "yuv420p"),
            ("a.mkv", "libx264", "yuv420p10le"),
            ("a.avi", "mpeg4", "yuv420p"),
        ],
    )
    def test_frames_come_back(self, tmp_path, name, codec, pixel_format):
        write_video(iter(self.FRAMES), tmp_path / "folder" / name, 10, codec, pixel_format)
        stream, frames = decode(tmp_path / "folder" / name)
        assert stream.average_rate == 10
        assert stream.pix_fmt == pixel_format
        assert frames.shape == self.FRAMES.shape
        assert abs(frames.astype(int) - self.FRAMES).max() <= 6

    def test_nothing_is_left_when_drawing_fails(self, tmp_path):
        def frames():
            yield self.FRAMES[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_video(frames(), tmp_path / "a.mp4", 25)
        assert list(tmp_path.iterdir()) == []

    def test_unknown_names_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"a.gif: the name must end in .mp4, .mov, .mkv, .avi"):
            write_video(self.FRAMES, tmp_path / "a.gif", 25)
        with pytest.raises(ValueError, match="aac is not a video codec: use one, such as"):
            write_video(self.FRAMES, tmp_path / "a.mp4", 25, codec="aac")
