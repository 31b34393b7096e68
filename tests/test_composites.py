"""Long recordings that benchmarks join of short videos: their features, labels and truth."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from builders import SPEC, make_features, write_checkpoint, write_store

from bench import calibrated_composites, long_training
from bench.composites import Piece, compose, fill, pieces_of
from vigil.data.spans import cut
from vigil.extract.errors import UserError
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.store import VideoFeatures, list_features, read_features
from vigil.pipeline.checkpoint import TrainingLengths, load_checkpoint
from vigil.pipeline.training.training_data import load_labelled_features

CLIP = SPEC.clip_frames
FPS = 25.0
NUM_FRAMES = {
    "Fighting/Fighting1.mp4": 7 * CLIP + 20,
    "Fighting/Fighting2.mp4": 5 * CLIP,
    "Normal/Normal1.mp4": 9 * CLIP + 1,
    "Normal/Normal2.mp4": 4 * CLIP,
}
ANOMALOUS = {"Fighting/Fighting1.mp4": (70, 7 * CLIP + 9), "Fighting/Fighting2.mp4": (0, 100)}
CLASSES = {video: video.split("/")[0] for video in NUM_FRAMES}


def with_clips(video: str, num_frames: int, numbers: "count[int]") -> VideoFeatures:
    """A video each of whose clips is told by the number in its features."""
    clip_frames = SPEC.grid.frame_ranges(num_frames)
    clips = np.array([np.full((2, 6), next(numbers)) for _ in clip_frames], np.float32)
    segments = segment_ranges(num_frames, SPEC.num_segments)
    return replace(
        make_features(video, num_frames),
        features=np.moveaxis(pool_clips(clips, clip_frames, segments), 0, 1),
        clip_features=clips,
        clip_frames=clip_frames,
        frame_seconds=np.arange(num_frames + 1) / FPS,
    )


@pytest.fixture
def features(tmp_path: Path) -> Path:
    numbers = count(1)
    videos = [with_clips(video, *one, numbers) for video, *one in NUM_FRAMES.items()]
    return write_store(tmp_path / "features", *videos)


@pytest.fixture
def pieces(features: Path, tmp_path: Path) -> list[Piece]:
    rows = [
        f"{Path(video).name} {CLASSES[video]} {start} {stop} -1 -1"
        for video in NUM_FRAMES
        for start, stop in [ANOMALOUS.get(video, (-1, -1))]
    ]
    (tmp_path / "annotation.txt").write_text("\n".join(rows))
    return pieces_of(features, tmp_path / "annotation.txt")


def clips_of(features: VideoFeatures) -> Sequence[int]:
    """The numbers of a recording's clips, in order."""
    assert features.clip_features is not None
    return [int(one) for one in features.clip_features[:, 0, 0]]


def require_whole(features: VideoFeatures) -> None:
    """A recording's ranges and segments are those of a video of its clips."""
    num_frames = CLIP * len(clips_of(features))
    assert features.num_frames_decoded == num_frames
    np.testing.assert_array_equal(features.clip_frames, SPEC.grid.frame_ranges(num_frames))
    np.testing.assert_array_equal(
        features.segment_frames, segment_ranges(num_frames, SPEC.num_segments)
    )
    pooled = pool_clips(features.clip_features, features.clip_frames, features.segment_frames)
    np.testing.assert_array_equal(features.features, np.moveaxis(pooled, 0, 1))


def test_a_composed_recording_has_whole_videos_and_their_anomalous_frames(
    pieces: list[Piece],
) -> None:
    recording, truth = compose(pieces, 2.0, 90.0, np.random.default_rng(0))  # 3 events
    require_whole(recording)
    assert 2.0 <= recording.num_frames_decoded / FPS / 60 < 2.0 + 9 * CLIP / FPS / 60
    clips = list(clips_of(recording))
    expected = []
    while clips:
        [piece] = [one for one in pieces if clips_of(one.features)[0] == clips[0]]
        own = clips_of(piece.features)
        assert clips[: len(own)] == own
        begun = CLIP * (recording.num_frames_decoded // CLIP - len(clips))
        expected += [((begun + a) / FPS, (begun + b) / FPS) for a, b in piece.anomalous]
        del clips[: len(own)]
    assert truth == expected
    assert len(truth) == 3


def test_the_truth_of_a_video_ends_with_its_last_whole_clip(pieces: list[Piece]) -> None:
    for piece in pieces:
        video = piece.features.video.path
        end = NUM_FRAMES[video] // CLIP * CLIP
        assert piece.features.num_frames_decoded == end
        known = [ANOMALOUS[video]] if video in ANOMALOUS else []
        assert list(piece.anomalous) == [(start, min(stop, end)) for start, stop in known]


def test_a_training_recording_has_its_video_one_time_and_ordinary_ones_around_it(
    pieces: list[Piece], tmp_path: Path
) -> None:
    options = replace(long_training.Options(*[Path()] * 5), shortest=1.0, longest=1.5)
    long_training.make_recordings(pieces, tmp_path / "long", options)
    files = list_features(tmp_path / "long")
    ordinary = {clip for one in pieces if not one.anomalous for clip in clips_of(one.features)}
    assert set(files) == set(NUM_FRAMES)
    for piece in pieces:
        recording = read_features(files[piece.features.video.path])
        require_whole(recording)
        assert recording.video == piece.features.video
        assert 1.0 <= recording.num_frames_decoded / FPS / 60 < 1.5 + 9 * CLIP / FPS / 60
        clips, own = clips_of(recording), clips_of(piece.features)
        assert any(list(clips[at : at + len(own)]) == own for at in range(len(clips)))
        if piece.anomalous:
            assert sorted(clip for clip in clips if clip not in ordinary) == own
        else:
            assert set(clips) <= ordinary
    labelled = load_labelled_features(tmp_path / "long", (), ["center"])
    assert {video: one.class_name for video, one in labelled.annotations.items()} == CLASSES
    written = {path: path.stat().st_mtime_ns for path in files.values()}
    long_training.make_recordings(pieces, tmp_path / "long", options)
    assert written == {path: path.stat().st_mtime_ns for path in files.values()}


def test_videos_that_cannot_be_joined_are_refused(features: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("Normal1.mp4 Normal -1 -1 -1 -1")
    with pytest.raises(UserError, match="need anomalous and normal videos"):
        pieces_of(features, tmp_path / "one.txt")
    write_store(features, make_features("Normal/Normal1.mp4"))
    with pytest.raises(UserError, match=r"Normal1.mp4 has no clips: extract with --keep-clips"):
        pieces_of(features, tmp_path / "one.txt")


class TestCalibrated:
    """Recordings whose thresholds are calibrated."""

    @pytest.mark.parametrize("halve", calibrated_composites.SCENES.values())
    def test_what_is_counted_has_no_clip_of_the_other_half(self, pieces, halve) -> None:
        ordinary = [one for one in pieces if not one.anomalous]
        halves = [
            sorted(clip for one in half for clip in clips_of(one.features))
            for half in halve(ordinary, np.random.default_rng(0))
        ]
        everything = sorted(clip for one in ordinary for clip in clips_of(one.features))
        if halve is calibrated_composites.repeat:
            assert halves == [everything, everything]
        else:
            assert sorted(halves[0] + halves[1]) == everything
            assert all(halves)

    def test_halves_of_a_video_are_cut_in_the_middle(self, pieces) -> None:
        ordinary = [one for one in pieces if not one.anomalous]
        halves = calibrated_composites.halve_by_time(ordinary, np.random.default_rng(0))
        for one, *parts in zip(ordinary, *halves, strict=True):
            first, second = sorted(list(clips_of(part.features)) for part in parts)
            assert first + second == list(clips_of(one.features))
            assert len(second) - len(first) in (0, 1)
        short = Piece(cut(ordinary[0].features, 0, CLIP), ())
        with pytest.raises(UserError, match="has one clip and cannot be halved: leave it out"):
            calibrated_composites.halve_by_time([short], np.random.default_rng(0))

    def test_alarms_asked_and_got(self, pieces, tmp_path, monkeypatch) -> None:
        """On footage that is the calibrated one, at most k blocks of n have an alarm."""
        run = write_checkpoint(tmp_path, training_lengths=TrainingLengths(100, 200, 400, FPS))
        options = calibrated_composites.Options(
            *[Path()] * 3, (30, 120, 360), block_seconds=5, hours=0.1, minutes=3
        )

        def same(_, ordinary, minutes, generator):
            return fill([], ordinary, minutes, np.random.default_rng(0))

        monkeypatch.setattr(calibrated_composites, "fill", same)
        found = calibrated_composites.measure(
            load_checkpoint(run), pieces, calibrated_composites.repeat, 0, options
        )
        assert list(found) == [30, 120, 360]
        hours = 2 * 3 / 60
        for asked, one in found.items():
            assert one.blocks <= asked
            assert one.promised
            assert one.ordinary.seconds / 3600 == pytest.approx(hours, rel=0.2)
            assert one.eventful.num_events >= 2
            assert one.shares[0] >= one.shares[1] >= 0
        assert found[360].blocks >= found[120].blocks >= found[30].blocks
        row = calibrated_composites.row("again", 30, [found[30], found[30]])
        assert row.startswith(f"| again | 30 | {found[30].blocks:.1f} | ")
        assert row.count("|") == len(calibrated_composites.COLUMNS) + 1
