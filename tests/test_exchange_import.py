"""`vigil features import`: what other programs' files hold, or why they cannot be used."""

import io
import re
import unicodedata
from zipfile import ZIP_LZMA, ZIP_STORED, ZipFile

import h5py
import numpy as np
import pytest
import torch
from builders import score_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hostile_files import answers_or_refuses, spoilt
from torchvision.transforms.functional import ten_crop

from vigil.extract.engine.cutting import cut_view
from vigil.extract.errors import UserError
from vigil.extract.source import SourceVideo
from vigil.extract.store import list_features, verify_features
from vigil.extract.views import VIEWS, in_stored_order, view_names
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.cli import main
from vigil.pipeline.exchange.foreign_files import CROP_ORDERS, ExchangeError, crop_names, read_rows
from vigil.pipeline.exchange.sources import FrameCount, files_by_video, find_count, read_counts
from vigil.pipeline.options import CropOrder
from vigil.pipeline.scores.events import held_segments

fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def values(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, feat=array)
    elif path.suffix == ".txt":
        np.savetxt(path, array, fmt="%f")
    else:
        with h5py.File(path, "w") as file:
            file["features"] = array
    return path


@pytest.fixture
def source(tmp_path):
    return tmp_path / "foreign"


@pytest.fixture
def run(tmp_path, source, capsys):
    """Import the folder `source` into `store`; return (exit code, stdout, stderr)."""

    def run_import(*arguments):
        code = main(
            ["features", "import", str(source), "--out", str(tmp_path / "store"), *arguments]
        )
        said = capsys.readouterr()
        return code, said.out, said.err

    return run_import


def imported(tmp_path):
    return {name: verify_features(path) for name, path in list_features(tmp_path / "store").items()}


def brute_force(clips, num_frames, frames_per_row, num_segments):
    """Segment features (V, S, D) from rows (T, V, D), one segment after the other."""
    centres = [
        (start + min(start + frames_per_row, num_frames) - 1) // 2
        for start in range(0, num_frames, frames_per_row)
    ]
    segments = []
    for k in range(num_segments):
        start, stop = k * num_frames // num_segments, (k + 1) * num_frames // num_segments
        inside = [i for i, centre in enumerate(centres) if start <= centre < stop]
        nearest = min(
            range(len(centres)), key=lambda i: (abs(centres[i] - (start + stop - 1) // 2), i)
        )
        segments.append(np.max([clips[i] for i in inside or [nearest]], axis=0))
    return np.stack(segments, axis=1)


class TestCropOrders:
    def test_rtfm_has_torchvisions_order(self):
        frame = torch.arange(256 * 340 * 3).reshape(1, 256, 340, 3)
        crops = ten_crop(frame.movedim(3, 1), [224, 224])
        for name, crop in zip(CROP_ORDERS["rtfm"], crops, strict=True):
            torch.testing.assert_close(cut_view(frame, name), crop.movedim(1, 3), msg=name)

    def test_oversample_has_the_center_third_and_mirrors_the_whole_picture(self):
        frame = torch.arange(256 * 340 * 3).reshape(1, 256, 340, 3)
        places = [
            (slice(None, 224), slice(None, 224)),
            (slice(None, 224), slice(-224, None)),
            (slice(16, 240), slice(58, 282)),
            (slice(-224, None), slice(None, 224)),
            (slice(-224, None), slice(-224, None)),
        ]
        crops = [
            picture[:, down, right] for picture in (frame, frame.flip(2)) for down, right in places
        ]
        for name, crop in zip(CROP_ORDERS["oversample"], crops, strict=True):
            torch.testing.assert_close(cut_view(frame, name), crop, msg=name)

    @pytest.mark.parametrize("order", CROP_ORDERS)
    def test_each_has_ten_names_that_are_views(self, order):
        names = CROP_ORDERS[order]
        assert len(set(names)) == 10
        assert set(view_names(",".join(names), unnamed=True)) == set(names)
        assert CROP_ORDERS.keys() == set(CropOrder.__args__)

    def test_several_crops_without_an_order_are_refused(self):
        assert crop_names(None, 1, "a.npy") == ("center",)
        with pytest.raises(Exception, match=r"a\.npy holds 10 crops without names: .*--crops: rtf"):
            crop_names(None, 10, "a.npy")

    def test_unnamed_crops_follow_the_views(self):
        names = ["crop_10", "center_mirrored", "crop_2", "center"]
        assert in_stored_order(names) == ("center", "center_mirrored", "crop_2", "crop_10")
        assert in_stored_order(VIEWS) == tuple(VIEWS)
        with pytest.raises(Exception, match="unknown view 'crop_1'"):
            view_names("crop_1")


class TestFormats:
    def test_rtfm(self, run, source, tmp_path):
        clips = values(7, 10, 6)
        save(source / "Abuse" / "Abuse001_x264_i3d.npy", clips)
        arguments = "--crops", "rtfm", "--backbone", "i3d_r50", "--segments", "4"
        assert run(*arguments) == (0, "imported 1\n", "")
        (video,) = imported(tmp_path).values()
        assert video.video.path == "Abuse/Abuse001_x264"
        assert video.views == tuple(VIEWS)
        for name, index in zip(CROP_ORDERS["rtfm"], range(10), strict=True):
            stored = video.clip_features[:, video.views.index(name)]
            np.testing.assert_array_equal(stored, clips[:, index])
        expected = brute_force(video.clip_features, 112, 16, 4)
        np.testing.assert_array_equal(video.features, expected)
        np.testing.assert_array_equal(video.clip_frames, [(16 * i, 16 * i + 16) for i in range(7)])
        assert (video.num_frames_decoded, video.fps) == (112, 30)
        assert (video.time_positions, video.channels, video.precision) == (1, 6, "fp32")
        spec = video.spec
        assert (spec.backbone, spec.weights_digest) == ("i3d_r50", "unknown")
        assert (spec.clip_frames, spec.clip_stride, spec.num_segments) == (16, 16, 4)
        assert spec.origin == "imported from snippets"
        assert (video.video.num_bytes, video.video.digest) == (0, "")

    def test_five_crops_are_the_first_five(self, run, source, tmp_path):
        clips = values(3, 5, 2)
        save(source / "a.npy", clips)
        assert run("--crops", "deepmil")[0] == 0
        video = imported(tmp_path)["a"]
        assert video.views == ("center", "crop_1", "crop_2", "crop_3", "crop_4")
        np.testing.assert_array_equal(video.clip_features, clips)

    def test_crops_first(self, run, source, tmp_path):
        save(source / "a_i3d.npy", values(10, 7, 6))
        code, _, errors = run("--crops", "oversample")
        assert code == 4
        assert "shape (10, 7, 6), but its second axis must be the crops" in errors
        assert run("--crops", "oversample", "--crops-first")[0] == 0
        video = imported(tmp_path)["a"]
        center = video.clip_features[:, video.views.index("center")]
        np.testing.assert_array_equal(center, values(10, 7, 6)[2])

    def test_a_file_for_each_crop(self, run, source, tmp_path):
        crops = values(10, 4, 6)
        for index in range(10):
            save(source / f"B.2__#0_label_A__{index}.npy", crops[index])
        save(source / "only__5.npy", crops[5])
        assert run("--crops", "deepmil")[:2] == (0, "imported 2\n")
        videos = imported(tmp_path)
        video, only = videos["B.2__#0_label_A"], videos["only"]
        assert video.num_frames_decoded == 64
        for index, name in enumerate(CROP_ORDERS["deepmil"]):
            stored = video.clip_features[:, video.views.index(name)]
            np.testing.assert_array_equal(stored, crops[index])
        assert only.views == ("center_mirrored",)

    def test_a_video_that_lacks_crops_of_the_others_is_named(self, run, source):
        for name in ("a__0", "a__1", "b__0"):
            save(source / f"{name}.npy", values(4, 6))
        code, _, errors = run("--crops", "deepmil")
        assert code == 0
        assert "crops differ from those of a: 1 video, such as b, which has center" in errors

    def test_ur_dmus_own_files_divided_by_crop(self, run, source, tmp_path):
        for index in (2, 7):
            save(source / f"a_x264_i3d_{index}.npy", values(4, 6, seed=index))
        assert run("--crops", "oversample")[0] == 0
        video = imported(tmp_path)["a_x264"]
        assert video.views == ("center", "center_mirrored")
        np.testing.assert_array_equal(video.clip_features[:, 1], values(4, 6, seed=7))

    def test_crops_of_one_video_must_agree(self, run, source):
        save(source / "a__0.npy", values(4, 6))
        save(source / "a__1.npy", values(5, 6))
        code, _, errors = run("--crops", "deepmil")
        assert code == 4
        assert "a__1.npy differs in shape from the file of the video's first crop" in errors

    def test_rows_without_crops_need_their_frames(self, run, source, tmp_path):
        save(source / "a.npy", values(4, 6))
        code, _, errors = run()
        assert code == 2
        assert "a.npy does not specify how many frames a row covers: give --frames-per" in errors
        assert run("--frames-per-snippet", "8")[0] == 0
        assert imported(tmp_path)["a"].num_frames_decoded == 32
        assert run("--pooled", "--segments", "4", "--overwrite")[0] == 0
        video = imported(tmp_path)["a"]
        np.testing.assert_array_equal(video.features[0], values(4, 6))
        assert (video.clip_features, video.num_frames_decoded) == (None, 0)

    @pytest.mark.parametrize("name", ["Arson010_x264_C.txt", "Arson010_x264.npz"])
    def test_sultani(self, run, source, tmp_path, name):
        segments = np.abs(values(32, 40)).round(6)
        save(source / name, segments)
        code, _, errors = run("--backbone", "c3d")
        assert code == 0
        assert "unknown number of frames: 1 video can be used" in errors
        video = imported(tmp_path)["Arson010_x264"]
        np.testing.assert_array_equal(video.features, segments[None])
        assert video.views == ("center",)
        assert video.spec.origin == "imported from segments"
        assert not video.segment_frames.any()

    def test_the_joint_models_own(self, run, source, tmp_path):
        features = values(1, 3, 7, 1, 1, 5)
        save(source / "Abuse" / "a.h5", features)
        assert run("--segments", "2")[0] == 0
        video = imported(tmp_path)["Abuse/a"]
        assert (video.time_positions, video.channels) == (7, 5)
        assert video.num_frames_decoded == 3 * 64
        np.testing.assert_array_equal(
            video.clip_features.reshape(3, 1, 7, 5)[:, 0], features[0, :, :, 0, 0]
        )

    def test_values_are_stored_as_half_or_single_precision(self, run, source, tmp_path):
        for name, dtype in (("half", np.float16), ("double", ">f8")):
            save(source / f"{name}.npy", values(2, 1, 3).astype(dtype))
        assert run() == (0, "imported 2\n", "")  # float32 holds these values of float64
        videos = imported(tmp_path)
        assert (videos["half"].precision, videos["half"].features.dtype) == ("fp16", np.float16)
        assert videos["double"].features.dtype == np.float32
        np.testing.assert_array_equal(videos["double"].clip_features, values(2, 1, 3))

    def test_files_whose_values_are_rounded_are_counted(self, run, source, tmp_path):
        double = values(4, 6, dtype=np.float64)
        for name in ("a__0", "a__1", "b__0", "b__1"):
            save(source / f"{name}.npy", double if name != "b__1" else np.float32(double))
        code, _, errors = run("--crops", "deepmil")
        assert code == 0
        assert "rounded values from float64 to float32: 3 files" in errors
        rounded = np.float32(double)
        assert (rounded != double).any()
        np.testing.assert_array_equal(imported(tmp_path)["a"].clip_features[:, 0], rounded)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def written_by(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def npy(array):
    return written_by(lambda file: np.save(file, array, allow_pickle=True))


def claiming(*shape):
    """An archive whose header claims an array of that shape, but which holds no values."""
    header = io.BytesIO()
    content = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, content)
    return written_by(lambda file: zipped(file, header.getvalue()))


def damaged_lzma():
    content = bytearray(written_by(lambda file: zipped(file, npy(values(32, 400)), ZIP_LZMA)))
    content[200:260] = b"\xff" * 60
    return bytes(content)


def zipped(file, content, compression=ZIP_STORED):
    with ZipFile(file, "w", compression) as archive:
        archive.writestr("feat.npy", content)


def npz(**arrays):
    return written_by(lambda file: np.savez(file, **arrays))


def hdf5(write):
    def to(file):
        with h5py.File(file, "w") as content:
            write(content)

    return written_by(to)


def external(content):
    content["features"] = h5py.ExternalLink("other.h5", "/features")


NOT_FINITE = values(3, 10, 2)
NOT_FINITE[1, 4, 0] = np.nan
UNUSABLE = {
    "pickled.npy": (npy(np.array([Evil()])), "Python objects|pickled|memory-mapped"),
    "pickled.npz": (npz(feat=np.array([Evil()])), "allow_pickle=False"),
    "empty.npy": (b"", "cannot be used"),
    "header.npy": (npy(values(3, 10, 2))[:40], "cannot be used"),
    "truncated.npy": (npy(values(3, 10, 2))[:-1], "cannot be used"),
    "nan.npy": (npy(NOT_FINITE), "row 1, crop 4, value 0 is not finite"),
    "huge.npy": (npy(np.full((2, 1, 2), 1e300)), "row 0, crop 0, value 0 is not finite"),
    "whole.npy": (npy(np.ones((3, 10, 2), int)), "of type int64, not floating-point"),
    "none.npy": (npy(np.empty((0, 10, 2))), "which is empty"),
    "line.npy": (npy(values(3)), r"shape \(3,\)"),
    "crops.npy": (npy(values(3, 4, 2)), "--crops-first"),
    "archive.npy": (npz(feat=values(2, 2)), "cannot be used"),
    "truncated.npz": (npz(feat=values(32, 2))[:-30], "not a zip file"),
    "memory.npz": (claiming(1 << 40, 1 << 10), "cannot be used .Unable to allocate"),
    "lzma.npz": (damaged_lzma(), "cannot be used .Corrupt input data"),
    "which.npz": (npz(a=values(32, 2), b=values(32, 2)), "it holds a, b, but no array features"),
    "shape.npz": (npz(feat=values(2, 2, 2)), r"shape \(2, 2, 2\), not \(segments, values\)"),
    "rows.npz": (npz(feat=values(31, 2)), "it has 31 rows, not one for each of 32 segments"),
    "text.txt": (b"a list of things\n", "cannot be used"),
    "ragged.txt": (b"1 2 3\n1 2\n", "number of columns changed"),
    "nan.txt": (b"1 nan\n" * 32, "row 0, crop 0, value 1 is not finite"),
    "group.h5": (hdf5(lambda content: content.create_group("features")), "a group, not an array"),
    "none.h5": (
        hdf5(lambda content: content.create_group("other")),
        "holds no array named features",
    ),
    "link.h5": (hdf5(external), "holds no array named features"),
    "flat.h5": (hdf5(lambda c: c.create_dataset("features", data=values(3, 4))), r"not \(1, T, P"),
    "text.h5": (b"features", "cannot be used"),
}


class TestUnusableFiles:
    @pytest.mark.parametrize("name", UNUSABLE)
    def test_one_is_named_and_the_rest_imported(self, run, source, tmp_path, name):
        content, reason = UNUSABLE[name]
        save(source / "good.npy", values(2, 10, 2))
        (source / name).write_bytes(content)
        code, said, errors = run("--crops", "unnamed")
        assert (code, said) == (3, "imported 1\n")
        assert imported(tmp_path).keys() == {"good"}
        (line,) = [line for line in errors.splitlines() if line.startswith("ERROR")]
        assert line.startswith(f"ERROR: {name.split('.')[0]}: ")
        assert re.search(reason, line)
        assert name.split(".")[0] in (tmp_path / "store" / "failures.csv").read_text()

    @fuzz
    @given(st.data())
    def test_any_bytes(self, tmp_path, data):
        # No .h5: HDF5 may crash on damaged bytes (see docs/security.md).
        path = tmp_path / data.draw(st.sampled_from(["a.npy", "a.npz", "a.txt"]))
        whole = {
            ".npy": npy(values(3, 10, 2)),
            ".npz": npz(feat=values(4, 2)),
            ".txt": b"1 0.5\n2e3 -1\n",
        }
        path.write_bytes(data.draw(st.one_of(st.binary(), spoilt(whole[path.suffix]))))
        rows = answers_or_refuses(read_rows, path)
        assert rows is None or np.isfinite(rows.features).all()

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_a_truncated_hdf5_file(self, tmp_path, share):
        path = save(tmp_path / "a.h5", values(1, 3, 7, 1, 1, 5))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ExchangeError, match=r"a\.h5 cannot be used"):
            read_rows(path)

    def test_a_vigil_feature_file_is_recognized(self, run, source, tmp_path):
        save(source / "a.npy", values(2, 10, 2))
        run("--crops", "unnamed")
        with pytest.raises(ExchangeError, match="already is a feature file of vigil"):
            read_rows(tmp_path / "store" / "a.h5")

    def test_values_of_a_different_size_than_the_first(self, run, source, tmp_path):
        save(source / "a.npy", values(2, 1, 3))
        save(source / "b.npy", values(2, 1, 4))
        code, said, errors = run()
        assert (code, said) == (3, "imported 1\n")
        assert "b: it differs in kind from a (channels: 3 != 4): import each kind in" in errors


class TestNames:
    def test_two_files_of_one_video(self, tmp_path):
        sources = [SourceVideo(tmp_path / name, name) for name in ("a.npy", "a_i3d.npy")]
        with pytest.raises(
            UserError, match=r"a_i3d\.npy and .*a\.npy belong to one video: import only"
        ):
            files_by_video(sources)

    def test_a_list_chooses_by_file_name(self, run, source, tmp_path):
        for name in ("a_i3d.npy", "b_i3d.npy"):
            save(source / "here" / name, values(2, 1, 3))
        chosen = tmp_path / "ucf.list"
        chosen.write_text("G:\\UCF_Train\\b_i3d.npy\r\n")
        assert run("--list-file", str(chosen))[:2] == (0, "imported 1\n")
        assert imported(tmp_path).keys() == {"here/b"}
        chosen.write_text("\n")
        code, _, errors = run("--list-file", str(chosen))
        assert (code, "ucf.list lists no files: write one path" in errors) == (2, True)
        chosen.write_text("/home/yu/c_i3d.npy\n/home/yu/b_i3d.npy\n")
        code, _, errors = run("--list-file", str(chosen))
        assert code == 2
        assert "lists 1 file missing from the given folders, such as 'c_i3d.npy'" in errors


class TestFrames:
    # XD-Violence's programs drop one frame and then the remainder: 64 frames give 3 snippets.
    @pytest.mark.parametrize(("counted", "covered"), [(33, 33), (48, 48), (49, 48), (64, 48)])
    def test_an_incomplete_last_snippet_may_be_padded_or_dropped(
        self, run, source, tmp_path, counted, covered
    ):
        save(source / "Abuse" / "a.npy", values(3, 1, 2))
        frames = tmp_path / "frames.csv"
        frames.write_text(f"video,frames,fps\na.mp4,{counted},24\n")
        assert run("--num-frames", str(frames))[0] == 0
        (video,) = imported(tmp_path).values()
        assert (video.num_frames_decoded, video.fps) == (covered, 24)
        assert video.clip_frames[-1].tolist() == [32, covered]
        assert video.segment_seconds[-1, 1] == covered / 24

    @pytest.mark.parametrize("counted", [32, 65])
    def test_an_unexpected_number_of_snippets_is_refused(self, run, source, tmp_path, counted):
        save(source / "a.npy", values(3, 1, 2))
        (tmp_path / "frames.csv").write_text(f"a,{counted}\n")
        code, _, errors = run("--num-frames", str(tmp_path / "frames.csv"))
        assert code == 4
        assert f"3 snippets of 16 frames, but the video has {counted} frames" in errors

    @pytest.mark.parametrize("line", ["a", "a,0", "a,1.5", "a,9,0", "a,9,nan", "a,9,30,1"])
    def test_a_line_without_a_count_is_refused(self, tmp_path, line):
        path = tmp_path / "frames.csv"
        path.write_text(f"video,frames\nb,5\n{line}\n")
        with pytest.raises(UserError, match=r"frames\.csv, line 3: write video,frames"):
            read_counts(path)

    def test_a_count_is_found_by_path_then_by_file_name(self, tmp_path):
        path = tmp_path / "frames.csv"
        path.write_text("x/a.mp4,5\ny/a.mp4,6\nb.mp4,7\n")
        counts = read_counts(path)
        assert find_count("x/a.mp4", counts) == find_count("x/a", counts) == FrameCount(5)
        assert find_count("z/b", counts) == FrameCount(7)
        with pytest.raises(ExchangeError, match="z/a: --num-frames has 2 different counts for it"):
            find_count("z/a", counts)
        with pytest.raises(ExchangeError, match="c: --num-frames has no count for it"):
            find_count("c", counts)

    def test_a_count_is_found_in_another_normal_form(self, tmp_path):
        names = [unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD")]
        path = tmp_path / "frames.csv"
        for listed, stored in (names, reversed(names)):
            path.write_text(f"{listed},5\n")
            assert find_count(stored, read_counts(path)) == FrameCount(5)

    def test_without_known_frames_every_segment_counts(self):
        assert held_segments(np.zeros((3, 2), np.int64)).tolist() == [0, 1, 2]
        assert held_segments(np.array([[0, 0], [0, 1]])).tolist() == [1]


class TestStore:
    def test_the_same_import_again_changes_nothing_and_another_is_refused(self, run, source):
        save(source / "a.npy", values(2, 1, 3))
        assert run()[0] == run()[0] == 0
        code, _, errors = run("--backbone", "c3d")
        assert code == 2
        assert "already has other settings (backbone: unknown != c3d): choose another" in errors
        assert run("--backbone", "c3d", "--overwrite")[0] == 0


SMALL = [
    *("--lstm-size", "4", "--attention-size", "4", "--detection-size", "4"),
    *("--second-attention-size", "2", "--classification-size", "4", "--epochs", "1"),
]


class TestUse:
    """Imported features can be used like others, except that some have no known frames."""

    @pytest.fixture
    def train(self, source, tmp_path, run):
        """Import six videos of two classes and train on them; return the store and the run."""
        for index, folder in enumerate(["Normal", "Arson"] * 3):
            save(source / folder / f"v{index}.npz", values(32, 6, seed=index))

        def import_and_train(*arguments):
            assert run(*arguments)[0] == 0
            store, folder = tmp_path / "store", tmp_path / "run"
            share = ["--validation-fraction", "0.4"]
            assert main(["train", str(store), "--out", str(folder), *share, *SMALL]) == 0
            return store, folder

        return import_and_train

    @pytest.fixture
    def truth(self, tmp_path):
        rows = [f"Normal/v{i},Normal\nArson/v{i + 1},Arson,10,60\n" for i in (0, 2, 4)]
        (tmp_path / "truth.csv").write_text("".join(rows))
        return str(tmp_path / "truth.csv")

    def test_without_frames(self, train, truth, tmp_path, capsys):
        store, folder = train()
        capsys.readouterr()
        assert main(["evaluate", str(folder), str(store), "--annotations", truth]) == 2
        errors = capsys.readouterr().err
        assert "its number of frames is unknown" in errors
        assert "import its features again with --num-frames" in errors

    def test_with_frames(self, train, truth, tmp_path, capsys):
        frames = tmp_path / "frames.csv"
        frames.write_text("".join(f"v{index},100\n" for index in range(6)))
        store, folder = train("--num-frames", str(frames))
        capsys.readouterr()
        assert main(["evaluate", str(folder), str(store), "--annotations", truth]) == 0
        assert "frame_auc " in capsys.readouterr().out
        results = tmp_path / "results"
        checkpoint = load_checkpoint(folder)
        scored = score_store(checkpoint, list_features(store), results, threshold=0.5)
        assert (len(scored.results), scored.failures) == (6, [])
        assert scored.results[0].segments[-1].stop_frame == 100
        assert scored.results[0].duration_seconds == pytest.approx(100 / 30)

    def test_videos_cannot_be_scored(self, train, tmp_path, capsys):
        _, folder = train("--backbone", "c3d")
        (tmp_path / "a.mp4").write_bytes(b"video")
        command = ["score", str(tmp_path / "a.mp4"), "--checkpoint", str(folder)]
        capsys.readouterr()
        assert main([*command, "--out", str(tmp_path / "results")]) == 2
        errors = capsys.readouterr().err
        assert "the features 'c3d' were imported from segments: vigil cannot extract them" in errors

    def test_real_c3d_features(self, shared_data, tmp_path, capsys):
        store, labels = tmp_path / "store", tmp_path / "labels.csv"
        foreign = shared_data / "features_c3d"
        assert main(["features", "import", str(foreign), "--out", str(store)]) == 0
        assert capsys.readouterr().out == "imported 25\n"
        videos = {name: verify_features(path) for name, path in list_features(store).items()}
        assert {video.features.shape for video in videos.values()} == {(1, 32, 4096)}
        with np.load(foreign / "bku_extra" / "RoadAccidents319_x264.npz") as file:
            stored = videos["bku_extra/RoadAccidents319_x264"].features[0]
            np.testing.assert_array_equal(stored, file["feat"])
        kinds = {name: "Normal" if "Normal" in name else "RoadAccidents" for name in videos}
        labels.write_text("".join(f"{name},{kind}\n" for name, kind in kinds.items()))
        command = [
            "train",
            str(store),
            "--annotations",
            str(labels),
            "--out",
            str(tmp_path / "run"),
        ]
        assert main([*command, *SMALL]) == 0
        assert "validation_auc " in capsys.readouterr().out
