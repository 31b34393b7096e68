"""The extraction engine, against recomputing every feature by brute force."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_backbone import BACKBONE, SPEC, MeanColour, make_engine, mean_colours
from torch import nn

from vigil.extract.clips import ClipGrid
from vigil.extract.damage import Damage
from vigil.extract.decode import worker
from vigil.extract.decode.decoder import VideoInfo
from vigil.extract.decode.reader import Clip, Finished, Restart
from vigil.extract.engine import device, dispatch, writer
from vigil.extract.engine.activity import Activity
from vigil.extract.engine.cutting import cut_view
from vigil.extract.errors import FailedVideo, UserError, VideoError
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.combinations import Network
from vigil.extract.networks.placement import place
from vigil.extract.networks.weights import load_weights
from vigil.extract.source import SourceVideo, VideoIdentity
from vigil.extract.store import feature_path, list_features, verify_features
from vigil.extract.versions import installed_versions
from vigil.extract.views import VIEW_SETS

GRID = ClipGrid(64, SPEC.clip_stride)
HEIGHT, WIDTH = 226, 231


def draw(num_frames, seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 200, (HEIGHT, WIDTH, 3), np.uint8)
    return np.stack([picture + rng.integers(0, 56, 3, np.uint8) for _ in range(num_frames)])


def messages_of(name, frames, **changes):
    finished = Finished(
        info=VideoInfo(WIDTH, HEIGHT, 25.0, len(frames)),
        identity=VideoIdentity(name, 10, 20, "a" * 64),
        decoder="decord",
        timestamps=np.arange(len(frames)) / 25,
        damage=Damage(),
    )
    return [*map(Clip, GRID.cut(frames)), replace(finished, **changes)]


@pytest.fixture
def script(monkeypatch):
    """Video name -> the messages that the reader yields for it, or an error that it raises."""
    script = {}

    def read_video(video, _options, _decoder, new_clip, **_):
        for message in script[video.name]:
            if isinstance(message, Exception):
                raise message
            if isinstance(message, Clip):
                new_clip(message.pixels.shape)[:] = message.pixels
            yield message

    monkeypatch.setattr(worker, "read_video", read_video)
    return script


def run(engine, store, *names, **options):
    videos = [SourceVideo(Path("videos", name), name) for name in names]
    return list(engine.extract(videos, store, **options))


def features_of(store, name):
    return verify_features(feature_path(store, name))


def expected_features(frames, names):
    """(V, S, 6) and (N_clips, V, 6), the contract read literally."""
    size, tops = 224, {"top": 0, "bottom": HEIGHT - 224}
    lefts = {"left": 0, "right": WIDTH - 224}

    def corner(name):
        if name == "center":
            return (HEIGHT - 224) // 2, (WIDTH - 224) // 2
        top, left = name.split("_")[:2]
        return tops[top], lefts[left]

    ranges = GRID.frame_ranges(len(frames))
    clips = []
    for start, stop in ranges:
        clip = frames[np.minimum(np.arange(start, start + 64), stop - 1)]
        views = []
        for name in names:
            top, left = corner(name)
            views.append(mean_colours(clip[:, top : top + size, left : left + size]))
        clips.append(views)
    clips, num_frames = np.array(clips), len(frames)
    centres = ranges.sum(axis=1) - 1 >> 1
    segments = []
    for k in range(SPEC.num_segments):
        start, stop = k * num_frames // SPEC.num_segments, (k + 1) * num_frames // SPEC.num_segments
        mine = (start <= centres) & (centres < stop)
        nearest = np.abs(centres - ((start + stop - 1) // 2)).argmin()
        segments.append(clips[mine].max(axis=0) if mine.any() else clips[nearest])
    return np.array(segments).transpose(1, 0, 2), clips


@pytest.mark.parametrize("num_frames", [1, 5, 64, 65, 200])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_features_are_those_of_a_literal_recomputation(tmp_path, script, num_frames, batch_size):
    frames = draw(num_frames, 0)
    script["a.mp4"] = messages_of("a.mp4", frames)
    views = VIEW_SETS["five"]
    engine = make_engine(views=views, keep_clips=True, batch_size=batch_size)
    (extracted,) = run(engine, tmp_path, "a.mp4")
    assert extracted.video == "a.mp4"
    video = features_of(tmp_path, "a.mp4")
    segments, clips = expected_features(frames, views)
    np.testing.assert_allclose(video.features, segments, rtol=1e-5)
    np.testing.assert_allclose(video.clip_features, clips, rtol=1e-5)
    np.testing.assert_array_equal(video.clip_frames, GRID.frame_ranges(num_frames))
    np.testing.assert_array_equal(video.segment_seconds, video.segment_frames / 25)
    np.testing.assert_array_equal(video.frame_seconds, np.arange(num_frames + 1) / 25)


def test_a_file_records_how_it_was_made(tmp_path, script):
    script["b/a.mp4"] = messages_of(
        "b/a.mp4",
        draw(70, 0),
        info=VideoInfo(WIDTH, HEIGHT, 12.5, 90, 7.2),
        decoder="pyav",
        damage=Damage(np.array([[4, 6]]), num_lost=1),
    )
    (extracted,) = run(make_engine(), tmp_path, "b/a.mp4")
    video = features_of(tmp_path, "b/a.mp4")
    said = extracted.features
    assert (extracted.video, said.video, said.features.size) == ("b/a.mp4", video.video, 0)
    assert (said.num_frames_damaged, said.num_frames_lost) == (3, 1)
    assert (video.num_frames_container, video.num_frames_decoded) == (90, 70)
    assert (video.num_frames_damaged, video.decoder, video.fps) == (3, "pyav", 12.5)
    assert (video.num_frames_lost, video.duration_container) == (1, 7.2)
    assert video.damage_frames.tolist() == [[4, 6]]
    np.testing.assert_allclose(video.damage_seconds, [[4 / 25, 6 / 25]])
    assert (video.width, video.height) == (WIDTH, HEIGHT)
    assert (video.time_positions, video.channels) == (2, 3)
    assert (video.views, video.spec) == (("center",), SPEC)
    assert (video.weights_name, video.weights_trained) == ("random:0", False)
    assert (video.precision, video.device.split()[0]) == ("fp32", "cpu")
    assert video.video == VideoIdentity("b/a.mp4", 10, 20, "a" * 64)
    assert video.versions == installed_versions()
    assert {"python", "torch", "numpy", "decord", "av", "h5py"} <= set(video.versions)
    assert video.clip_features is None
    assert video.frame_seconds is None
    assert video.features.dtype == np.float32


def test_the_mean_over_time_is_computed_per_clip(tmp_path, script):
    frames = draw(100, 0)
    script["a.mp4"] = messages_of("a.mp4", frames)
    engine = make_engine(spec=replace(SPEC, time_pool="mean"), keep_clips=True)
    run(engine, tmp_path, "a.mp4")
    video = features_of(tmp_path, "a.mp4")
    _, clips = expected_features(frames, ["center"])
    assert (video.time_positions, video.channels) == (1, 3)
    np.testing.assert_allclose(
        video.clip_features, clips.reshape(-1, 1, 2, 3).mean(axis=2), rtol=1e-5
    )


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("bf16", np.float16)])
def test_the_precision_decides_what_is_stored(tmp_path, script, precision, dtype):
    script["a.mp4"] = messages_of("a.mp4", draw(64, 0))
    run(make_engine(precision=precision), tmp_path, "a.mp4")
    video = features_of(tmp_path, "a.mp4")
    assert (video.precision, video.features.dtype) == (precision, dtype)
    expected, _ = expected_features(draw(64, 0), ["center"])
    np.testing.assert_allclose(video.features, expected, rtol=0.01 if precision == "bf16" else 1e-5)


def convolution():
    torch.manual_seed(0)
    patches = nn.Conv3d(3, 3, (1, 16, 16), stride=(1, 16, 16))
    return nn.Sequential(patches, nn.ReLU(), MeanColour())


@pytest.mark.parametrize("network", [MeanColour(), convolution()], ids=["exact", "convolution"])
def test_a_result_does_not_depend_on_its_neighbours(tmp_path, script, network):
    lengths = {"a.mp4": 70, "b.mp4": 3, "c.mp4": 130, "d.mp4": 64}
    for seed, (name, num_frames) in enumerate(lengths.items()):
        script[name] = messages_of(name, draw(num_frames, seed))
    engine = make_engine(
        network, batch_size=3, views=("center", "top_right_mirrored"), keep_clips=True
    )
    assert len(run(engine, tmp_path / "together", *lengths)) == 4
    assert len(run(engine, tmp_path / "backwards", *reversed(lengths))) == 4
    for name in lengths:
        run(engine, tmp_path / "alone", name)
        alone = features_of(tmp_path / "alone", name)
        for other in ("together", "backwards"):
            video = features_of(tmp_path / other, name)
            np.testing.assert_array_equal(video.features, alone.features)
            np.testing.assert_array_equal(video.clip_features, alone.clip_features)


def test_a_result_does_not_depend_on_the_size_of_the_batch(tmp_path, script):
    names = ("a.mp4", "b.mp4")
    for seed, name in enumerate(names):
        script[name] = messages_of(name, draw(100 - 97 * seed, seed))
    for batch_size in (1, 2, 7):
        engine = make_engine(batch_size=batch_size, views=VIEW_SETS["five"])
        run(engine, tmp_path / str(batch_size), *names)
    for name in names:
        first, *others = (features_of(tmp_path / size, name).features for size in "127")
        for other in others:
            np.testing.assert_array_equal(other, first)


def test_every_batch_has_the_same_shape(tmp_path, script):
    shapes = []

    class Recording(nn.Module):
        def forward(self, x):
            shapes.append(tuple(x.shape))
            return x.mean(dim=(3, 4)).transpose(1, 2)

    script["a.mp4"] = messages_of("a.mp4", draw(100, 0))
    script["b.mp4"] = messages_of("b.mp4", draw(64, 1))
    run(make_engine(Recording(), batch_size=8, views=VIEW_SETS["five"]), tmp_path, "a.mp4", "b.mp4")
    assert shapes == [(8, 3, 2, 224, 224)] * 3  # 4 clips of 5 views


def test_a_restart_discards_earlier_clips(tmp_path, script):
    right, wrong = draw(100, 0), draw(100, 1)
    for batch_size in (1, 4):
        script["a.mp4"] = [
            *messages_of("a.mp4", wrong)[:-1],
            Restart("damaged"),
            *messages_of("a.mp4", right),
        ]
        script["b.mp4"] = messages_of("b.mp4", draw(70, 2))
        engine = make_engine(batch_size=batch_size, keep_clips=True)
        outcomes = run(engine, tmp_path / str(batch_size), "a.mp4", "b.mp4")
        assert [outcome.video for outcome in outcomes] == ["a.mp4", "b.mp4"]
        expected, clips = expected_features(right, ["center"])
        video = features_of(tmp_path / str(batch_size), "a.mp4")
        np.testing.assert_allclose(video.features, expected, rtol=1e-5)
        np.testing.assert_allclose(video.clip_features, clips, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_video_that_fails_in_the_middle_leaves_the_others_alone(tmp_path, script, batch_size):
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        script[name] = messages_of(name, draw(100, seed))
    script["b.mp4"][1:] = [VideoError("it broke", "pyav", 64)]
    script["d.mp4"] = [VideoError("no video")]
    outcomes = run(make_engine(batch_size=batch_size), tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedVideo)]
    assert failed == [
        FailedVideo("b.mp4", "it broke", "pyav", 64),
        FailedVideo("d.mp4", "no video", "", 0),
    ]
    assert list(list_features(tmp_path)) == ["a.mp4", "c.mp4"]
    for seed, name in ((0, "a.mp4"), (2, "c.mp4")):
        expected, _ = expected_features(draw(100, seed), ["center"])
        np.testing.assert_allclose(features_of(tmp_path, name).features, expected, rtol=1e-5)


def test_float16_overflow_fails_only_its_video(tmp_path, script):
    class Loud(nn.Module):
        def forward(self, x):
            means = x.float().mean(dim=(3, 4)).transpose(1, 2)
            return torch.where(means > 250, 1e6, means)

    script["a.mp4"] = messages_of("a.mp4", np.full((10, HEIGHT, WIDTH, 3), 255, np.uint8))
    script["b.mp4"] = messages_of("b.mp4", draw(64, 0))
    failed, extracted = run(make_engine(Loud(), precision="fp16"), tmp_path, "a.mp4", "b.mp4")
    assert failed.reason == "features overflow float16: compute in fp32"
    assert extracted.video == "b.mp4"
    assert list(list_features(tmp_path)) == ["b.mp4"]
    run(make_engine(Loud()), tmp_path, "a.mp4")
    assert features_of(tmp_path, "a.mp4").features.max() == 1e6


def test_a_device_out_of_memory_suggests_what_to_do(tmp_path, script):
    class Large(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError

    script["a.mp4"] = messages_of("a.mp4", draw(64, 0))
    with pytest.raises(
        UserError, match="lacks memory for batches of 2 clip-views: lower batch_size"
    ):
        run(make_engine(Large(), batch_size=2), tmp_path, "a.mp4")


ANY_SIZE = replace(BACKBONE, pixels=replace(BACKBONE.pixels, any_size=True))


def any_size_engine(network=None, **changes):
    (fake,) = make_engine(network).networks
    return make_engine(networks=(replace(fake, backbone=ANY_SIZE),), **changes)


def draw_sized(num_frames, height, width):
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (num_frames, height, width, 3), np.uint8)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("views", [("whole",), ("center", "squeeze", "whole")])
def test_frames_of_several_sizes_in_one_run(tmp_path, script, batch_size, views):
    """What a feature is does not depend on the videos around it, nor on the other views."""
    sizes = {"a.mp4": (256, 341), "b.mp4": (301, 225), "c.mp4": (224, 224), "d.mp4": (256, 455)}
    for name, size in sizes.items():
        script[name] = messages_of(name, draw_sized(100, *size))
    engine = any_size_engine(views=views, batch_size=batch_size, keep_clips=True)
    assert len(run(engine, tmp_path, *sizes)) == len(sizes)
    for name, size in sizes.items():
        video, frames = features_of(tmp_path, name), draw_sized(100, *size)
        assert video.views == views
        for features, (start, stop) in zip(video.clip_features, video.clip_frames, strict=True):
            clip = frames[np.minimum(np.arange(start, start + 64), stop - 1)]
            expected = [mean_colours(np.asarray(cut_view(torch.tensor(clip), v))) for v in views]
            np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_i3d_sees_whole_frames_in_an_extraction(tmp_path, script):
    """In 224 x 224 the view whole is the center, bit for bit; elsewhere it is all of the frame."""
    backbone, endpoint = BACKBONES["i3d"], "MaxPool3d_2a_3x3"
    module = backbone.build(endpoint).eval().requires_grad_(False)
    weights = load_weights(module, "random", backbone.sources)
    sizes = {"small.mp4": (224, 224), "odd.mp4": (225, 261)}
    for name, size in sizes.items():
        script[name] = messages_of(name, draw_sized(64, *size))
    network = Network(backbone, endpoint, module, weights)
    engine = make_engine(networks=(network,), views=("center", "whole"), keep_clips=True)
    run(engine, tmp_path, *sizes)
    center, whole = features_of(tmp_path, "small.mp4").clip_features[0]
    np.testing.assert_array_equal(center, whole)
    center, whole = features_of(tmp_path, "odd.mp4").clip_features[0]
    frames = torch.from_numpy(draw_sized(64, 225, 261)[None, :, :224, :260]).contiguous()
    expected = place(module, backbone, torch.device("cpu"), "fp32", rungs=["plain"]).run(frames)
    np.testing.assert_allclose(whole, expected.numpy().ravel(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(whole, center, rtol=1e-3)


def test_frames_too_large_for_the_view_whole_are_refused(tmp_path, script, monkeypatch):
    monkeypatch.setattr(device, "MAX_BATCH_PIXELS", 2 * 226 * 230)
    script["a.mp4"] = messages_of("a.mp4", draw(64, 0))
    assert run(any_size_engine(views=("whole",)), tmp_path, "a.mp4")
    message = r"a\.mp4: frames of 230x226 pixels, 2 in a batch, are too large .* short_side to 256"
    with pytest.raises(UserError, match=message):
        run(any_size_engine(views=("whole",), batch_size=2), tmp_path / "2", "a.mp4")


def test_memory_for_whole_frames_also_depends_on_their_size(tmp_path, script):
    class Large(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError

    script["a.mp4"] = messages_of("a.mp4", draw(64, 0))
    with pytest.raises(UserError, match="lower batch_size or short_side"):
        run(any_size_engine(Large(), views=("whole",)), tmp_path, "a.mp4")


def test_a_network_of_fixed_size_is_refused_the_view_whole():
    with pytest.raises(UserError, match="fake cannot use the view 'whole'"):
        make_engine(views=("center", "whole"))


def test_progress_is_reported_clip_by_clip(tmp_path, script):
    script["a.mp4"] = messages_of("a.mp4", draw(100, 0))
    script["b.mp4"] = messages_of("b.mp4", draw(3, 0))
    told = []

    def watch(activity):
        told.append((activity.num_clips, activity.num_frames, activity.num_workers))
        assert activity.num_clips <= activity.num_clips_decoded
        assert 0 <= activity.device_share <= 1

    run(make_engine(views=VIEW_SETS["five"]), tmp_path, "a.mp4", "b.mp4", watch=watch)
    assert told == [(clip, clip * SPEC.clip_stride, 1) for clip in (1, 2, 3, 4)]


def test_during_a_run_the_store_holds_only_whole_files(tmp_path, script):
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        script[name] = messages_of(name, draw(100, seed))
    seen = set()

    def look(_activity):
        seen.update(path.name for path in tmp_path.iterdir())
        for path in tmp_path.rglob("*.h5"):
            verify_features(path)

    run(make_engine(), tmp_path, "a.mp4", "b.mp4", watch=look)
    assert {name for name in seen if not name.endswith(".partial")} <= {"a.mp4.h5", "b.mp4.h5"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4.h5", "b.mp4.h5"]


def test_a_disk_error_ends_the_run_and_keeps_finished_files(tmp_path, script, monkeypatch):
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        script[name] = messages_of(name, draw(64, seed))
    write = writer.write_features

    def full_from_b_on(path, video):
        if video.video.path != "a.mp4":
            raise OSError(28, "No space left on device")
        write(path, video)

    monkeypatch.setattr(writer, "write_features", full_from_b_on)
    with pytest.raises(OSError, match="No space left"):
        run(make_engine(), tmp_path, "a.mp4", "b.mp4", "c.mp4")
    assert list(list_features(tmp_path)) == ["a.mp4"]
    assert not own_threads()


def test_stopping_early_leaves_no_threads_or_partial_files(tmp_path, script):
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        script[name] = messages_of(name, draw(64, seed))
    videos = [SourceVideo(Path("videos", name), name) for name in script]
    outcomes = make_engine().extract(videos, tmp_path)
    assert next(outcomes).video == "a.mp4"
    outcomes.close()
    assert not own_threads()
    assert {path.suffix for path in tmp_path.iterdir()} == {".h5"}


def test_videos_that_come_while_it_runs_are_extracted_by_the_same_devices(
    tmp_path, script, monkeypatch
):
    monkeypatch.setattr(dispatch, "WATCH_SECONDS", 0.01)
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        script[name] = messages_of(name, draw(64, seed))
    a, b, c = (SourceVideo(Path("videos", name), name) for name in script)
    answers = iter([[], [b], [], [c], None])
    outcomes = [one.video for one in make_engine().extract([a], tmp_path, more=answers.__next__)]
    assert sorted(outcomes) == ["a.mp4", "b.mp4", "c.mp4"]
    assert list(answers) == [], "it was asked until there were no more, and never again"
    assert not own_threads()


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("vigil")]


def test_a_slow_disk_blocks_the_run_and_is_the_bottleneck(tmp_path, script, monkeypatch):
    names = [f"{number:02}.mp4" for number in range(12)]
    for name in names:
        script[name] = messages_of(name, draw(1, 0))
    seen: list[Activity] = []
    num_seen_at_rest = []
    write = writer.write_features

    def slow(path, video):
        deadline = time.monotonic() + 60
        while not num_seen_at_rest and time.monotonic() < deadline:
            num_seen = len(seen)
            time.sleep(0.5)
            if num_seen == len(seen) > writer.MAX_WAITING:
                num_seen_at_rest.append(num_seen)
        write(path, video)

    monkeypatch.setattr(writer, "write_features", slow)
    outcomes = run(
        make_engine(), tmp_path, *names, watch=lambda activity: seen.append(replace(activity))
    )
    assert [outcome.video for outcome in outcomes] == names
    assert num_seen_at_rest == [writer.MAX_WAITING + 1]
    assert seen[-1].disk_seconds > 0
    assert seen[-1].bottleneck == "disk"


def test_the_fake_backbone_fits_its_layout():
    network = BACKBONE.build("colour")
    assert network(torch.zeros(2, 3, 2, 224, 224)).shape == (2, *BACKBONE.layout["colour"])
    assert BACKBONE.layout["colour"] == make_engine().provenance.feature_layout
