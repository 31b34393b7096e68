"""`vigil features export`: what other programs read from it, and importing it back."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from builders import SPEC, make_features, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.extract.clips import ClipGrid
from vigil.extract.segments import pool_clips, segment_ranges
from vigil.extract.store import list_features, read_features, write_features
from vigil.extract.views import VIEW_SETS, VIEWS
from vigil.pipeline.cli import main
from vigil.pipeline.exchange.foreign_files import CROP_ORDERS

WIDTH = 6


def make_video(name, num_frames, views="ten", stride=64, clip_frames=64, seed=0, dtype=np.float16):
    """A video as extracted with --keep-clips."""
    views, frames = VIEW_SETS[views], ClipGrid(clip_frames, stride).frame_ranges(num_frames)
    shape = (len(frames), len(views), WIDTH)
    clips = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    segment_frames = segment_ranges(num_frames, SPEC.num_segments)
    return make_features(
        name,
        num_frames,
        features=pool_clips(clips, frames, segment_frames).swapaxes(0, 1),
        clip_features=clips,
        clip_frames=frames,
        views=views,
        spec=replace(SPEC, clip_frames=clip_frames, clip_stride=stride),
        precision="fp16" if dtype == np.float16 else "fp32",
    )


def export(store, out, *arguments):
    return main(["features", "export", str(store), "--out", str(out), *map(str, arguments)])


class RtfmReader:
    """The features and labels of a list, as the public programs for this layout read them."""

    def __init__(self, path, num_anomalous):
        self.paths, self.num_anomalous = path.read_text().splitlines(), num_anomalous

    def __getitem__(self, index):
        rows = np.asarray(np.load(self.paths[index]), np.float32).transpose(1, 0, 2)
        edges = np.linspace(0, rows.shape[1], 33, dtype=int)
        pieces = [rows[:, a : max(b, a + 1)].mean(1) for a, b in pairwise(edges)]
        return np.stack(pieces, axis=1), float(index < self.num_anomalous)


@pytest.fixture
def store(tmp_path):
    videos = [make_video("Normal/n.mp4", 300), make_video("Arson/a.mp4", 130, seed=1)]
    return write_store(tmp_path / "store", *videos)


class TestLayout:
    def test_rtfm_reads_it(self, store, tmp_path, capsys):
        out = tmp_path / "out"
        assert export(store, out) == 0
        said = capsys.readouterr().out
        assert said == f"exported 2\nanomalous 1\nnormal 1\nlist {out / 'rgb.list'}\n"
        dataset = RtfmReader(out / "rgb.list", num_anomalous=1)
        for index, (name, label) in enumerate([("Arson/a.mp4", 1.0), ("Normal/n.mp4", 0.0)]):
            assert dataset.paths[index] == f"{out}/features/{name}_i3d.npy"
            features, read_label = dataset[index]
            assert (features.shape, features.dtype) == ((10, 32, WIDTH), np.float32)
            assert read_label == label
            assert np.isfinite(features).all()

    def test_a_row_is_the_clip_of_its_frames(self, store, tmp_path):
        export(store, tmp_path / "out")
        rows = np.load(tmp_path / "out/features/Arson/a.mp4_i3d.npy")
        video = read_features(store / "Arson/a.mp4.h5")
        assert rows.shape == (9, 10, WIDTH)  # 130 frames: the last row has 2
        owners = [0, 0, 0, 0, 1, 1, 1, 1, 2]  # clips of 64, 64 and 2 frames
        for index, name in enumerate(CROP_ORDERS["rtfm"]):
            expected = video.clip_features[owners, video.views.index(name)]
            np.testing.assert_array_equal(rows[:, index], expected)

    def test_the_truth_has_a_value_for_every_frame_of_every_row(self, store, tmp_path):
        labels, out = tmp_path / "labels.csv", tmp_path / "out"
        labels.write_text("Normal/n.mp4,Normal\nArson/a.mp4,Arson,5,20,120,130\n")
        assert export(store, out, "--annotations", labels) == 0
        truth = np.load(out / "gt.npy")
        rows = [len(np.load(path)) for path in (out / "rgb.list").read_text().splitlines()]
        assert (len(truth), truth.dtype) == (16 * sum(rows), np.float64)
        anomalous = [*range(5, 20), *range(120, 144)]  # the last frame pads the last row
        np.testing.assert_array_equal(np.flatnonzero(truth), anomalous)
        labels.write_text("Normal/n.mp4,Normal\nArson/a.mp4,Arson\n")
        assert export(store, out, "--annotations", labels) == 0
        assert not (out / "gt.npy").exists()

    def test_segments(self, store, tmp_path, capsys):
        assert export(store, tmp_path / "out", "--pooled") == 0
        assert "these files suit training" in capsys.readouterr().err
        rows = np.load(tmp_path / "out/features/Arson/a.mp4_i3d.npy")
        video = read_features(store / "Arson/a.mp4.h5")
        center = CROP_ORDERS["rtfm"].index("center")
        np.testing.assert_array_equal(rows[:, center], video.features[0])

    def test_what_cannot_be_exported_is_named_and_the_rest_exported(self, store, tmp_path, capsys):
        write_features(store / "Arson/b.mp4.h5", make_features("Arson/b.mp4"))
        (store / "Arson/c.mp4.h5").write_bytes(b"vigil-features")
        write_features(store / "Arson/d.mp4.h5", make_video("Arson/d.mp4", 20, "center"))
        assert export(store, tmp_path / "out") == 3
        said = capsys.readouterr()
        assert said.out.startswith("exported 2\n")
        assert "Arson/b.mp4: its features hold the views center, top_left, not" in said.err
        assert "c.mp4.h5 is damaged" in said.err
        assert "d.mp4: its features hold the views center, not top_left" in said.err
        assert len((tmp_path / "out/rgb.list").read_text().splitlines()) == 2

    def test_clips_that_were_not_kept(self, store, tmp_path, capsys):
        video = replace(make_video("Arson/b.mp4", 20), clip_features=None, clip_frames=None)
        write_features(store / "Arson/b.mp4.h5", video)
        assert export(store, tmp_path / "out") == 3
        said = capsys.readouterr().err
        assert "b.mp4: its clips were not kept: extract it with --keep-clips" in said

    def test_a_store_without_any_clips_is_one_error_of_usage(self, tmp_path, capsys):
        videos = make_features("Arson/a.mp4"), make_features("Normal/b.mp4")
        store = write_store(tmp_path / "store", *videos)
        assert export(store, tmp_path / "out") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "store holds no clips, only segments: extract with --keep-clips, or export" in line
        assert not (tmp_path / "out").exists()

    def test_rows_of_0_frames_are_refused(self, store, tmp_path, capsys):
        assert export(store, tmp_path / "out", "--frames-per-snippet", 0) == 2
        assert "--frames-per-snippet 0 is below 1: use 16" in capsys.readouterr().err

    def test_views_without_a_center(self, tmp_path, capsys):
        video = make_features("Arson/b.mp4", views=("top_left", "top_right"))
        assert export(write_store(tmp_path / "store", video), tmp_path / "out", "--pooled") == 4
        assert (
            "an export needs the center, or all of top_left, top_right" in capsys.readouterr().err
        )


class UrDmuReader:
    """The videos of a test list, as UR-DMU and DeepMIL read and group them."""

    def __init__(self, path, num_crops=10):
        paths = [line.split()[0] for line in path.read_text().splitlines()]
        crops = [np.load(path).astype(np.float32) for path in paths]
        self.names = [path.split("/")[-1].split("_x264")[0] for path in paths[::num_crops]]
        self.videos = [crops[i : i + num_crops] for i in range(0, len(crops), num_crops)]


class TestFilePerCrop:
    @pytest.fixture
    def store(self, tmp_path):
        names = "Normal/Normal_001_x264", "Arson/Arson001_x264"
        videos = [make_video(name, 300 + seed, seed=seed) for seed, name in enumerate(names)]
        return write_store(tmp_path / "store", *videos)

    def test_ur_dmu_reads_it(self, store, tmp_path):
        out = tmp_path / "out"
        assert export(store, out, "--file-per-crop") == 0
        dataset = UrDmuReader(out / "rgb.list")
        assert dataset.names == ["Arson001", "Normal_001"]
        video = read_features(store / "Arson/Arson001_x264.h5")
        owners = np.minimum(np.arange(19) // 4, 4)
        for crop, name in enumerate(VIEWS):  # the center, the corners, and both mirrored
            expected = video.clip_features[owners, video.views.index(name)]
            np.testing.assert_array_equal(dataset.videos[0][crop], expected)
        first = str(out / "features/Arson/Arson001_x264__0.npy")
        assert (out / "rgb.list").read_text().splitlines()[0] == first
        assert not list(out.rglob("*_i3d.npy"))

    @pytest.mark.parametrize(
        ("chosen", "order"), [((), "vigil"), (("--crops", "oversample"), "oversample")]
    )
    def test_it_imports_back_unchanged(self, store, tmp_path, chosen, order):
        out, back = tmp_path / "out", tmp_path / "back"
        length = "--frames-per-snippet", "64"
        assert export(store, out, "--file-per-crop", *chosen, *length) == 0
        command = ["features", "import", str(out / "features"), "--out", str(back), *length]
        frames = "--num-frames", str(out / "num_frames.csv")
        assert main([*command, *frames, "--crops", order, "--segments", "8"]) == 0
        for name, path in list_features(store).items():
            video, again = read_features(path), read_features(list_features(back)[name])
            assert again.views == video.views
            np.testing.assert_array_equal(again.clip_features, video.clip_features)
            np.testing.assert_array_equal(again.features, video.features)

    def test_a_path_with_a_blank_is_refused(self, store, tmp_path, capsys):
        write_features(store / "Arson/a b.h5", make_video("Arson/a b", 20))
        assert export(store, tmp_path / "out", "--file-per-crop") == 3
        assert "a b_i3d.npy contains a space, at which UR-DMU splits" in capsys.readouterr().err
        assert export(store, tmp_path / "out") == 0


class TestThereAndBack:
    @settings(max_examples=8)
    @given(
        num_frames=st.integers(1, 400),
        length=st.sampled_from([1, 16, 64]),
        views=st.sampled_from(["center", "five", "ten"]),
        order=st.sampled_from(["rtfm", "oversample"]),
        dtype=st.sampled_from([np.float16, np.float32]),
    )
    def test_clips_side_by_side_come_back(
        self, tmp_path_factory, num_frames, length, views, order, dtype
    ):
        folder = tmp_path_factory.mktemp("exchange")
        video = make_video("Arson/a.b.mp4", num_frames, views, length, length, 3, dtype)
        write_store(folder / "store", video)
        crops = "--crops", order, "--frames-per-snippet", str(length)
        assert export(folder / "store", folder / "out", *crops) == 0
        foreign = str(folder / "out" / "features")
        command = ["features", "import", foreign, "--out", str(folder / "back"), *crops]
        frames = "--num-frames", str(folder / "out" / "num_frames.csv")
        assert main([*command, *frames, "--segments", str(SPEC.num_segments)]) == 0
        ((name, path),) = list_features(folder / "back").items()
        back = read_features(path)
        assert (name, back.views, back.precision) == ("Arson/a.b.mp4", video.views, video.precision)
        for array in ("features", "clip_features", "clip_frames", "segment_frames"):
            np.testing.assert_array_equal(getattr(back, array), getattr(video, array))
        np.testing.assert_allclose(back.segment_seconds, video.segment_seconds)

    def test_an_import_exports_back_unchanged(self, tmp_path):
        rows = np.random.default_rng(0).standard_normal((7, 10, WIDTH)).astype(np.float32)
        (tmp_path / "Arson").mkdir()
        np.save(tmp_path / "Arson" / "a_i3d.npy", rows)
        store = str(tmp_path / "store")
        command = ["features", "import", str(tmp_path / "Arson"), "--crops", "unnamed"]
        assert main([*command, "--out", store + "/Arson"]) == 0
        assert export(store, tmp_path / "out", "--crops", "unnamed") == 0
        np.testing.assert_array_equal(np.load(tmp_path / "out/features/Arson/a_i3d.npy"), rows)

    def test_what_is_lost_is_reported(self, store, tmp_path, capsys):
        export(store, tmp_path / "out")
        errors = capsys.readouterr().err
        assert "clips have 64 frames, every 64: a row is the clip around its 16 frames" in errors
        assert "these files lack spec, weights, identity and damage of the videos" in errors
        export(store, tmp_path / "out", "--frames-per-snippet", 64)
        assert "a row is the clip around" not in capsys.readouterr().err

    def test_rows_are_frames_of_the_video_whatever_the_frame_rate_of_clips(self, tmp_path, capsys):
        samples = np.arange(300) // 3
        video = make_video("Arson/a.mp4", 300, "center")
        ranges = video.spec.grid.source_ranges(samples, 100)
        slow = replace(
            make_video("Arson/a.mp4", 100, "center"),
            spec=replace(video.spec, frame_rate=75.0),
            num_frames_sampled=300,
            clip_features=video.clip_features,
            clip_frames=ranges,
        )
        store = write_store(tmp_path / "store", slow)
        assert export(store, tmp_path / "out", "--frames-per-snippet", 64) == 0
        assert "clips have 75 frames a second: a row is the clip around its 64" in " ".join(
            capsys.readouterr().err.split()
        )
        rows = np.load(tmp_path / "out/features/Arson/a.mp4_i3d.npy")
        centres = (ranges[:, 0] + ranges[:, 1] - 1) // 2
        expected = [video.clip_features[(centres // 64) == row].max(axis=0) for row in (0, 1)]
        np.testing.assert_array_equal(rows, expected)

    @pytest.mark.parametrize("length", [16, 24])
    def test_rows_of_overlapping_clips(self, tmp_path, length):
        video = make_video("Arson/a.mp4", 300, "center", stride=16)
        store = write_store(tmp_path / "store", video)
        export(store, tmp_path / "out", "--frames-per-snippet", length)
        rows = np.load(tmp_path / "out/features/Arson/a.mp4_i3d.npy")
        centres = [(start + stop - 1) // 2 for start, stop in video.clip_frames]
        for index, row in enumerate(rows):
            start, stop = index * length, min(index * length + length, 300)
            inside = [i for i, centre in enumerate(centres) if start <= centre < stop]
            around = [
                (abs(centre - (start + stop - 1) // 2), i)
                for i, (centre, (first, end)) in enumerate(
                    zip(centres, video.clip_frames, strict=True)
                )
                if first <= (start + stop - 1) // 2 < end
            ]
            nearest = min(around)[1]
            expected = video.clip_features[inside or [nearest]].max(axis=0)
            np.testing.assert_array_equal(row, expected)
