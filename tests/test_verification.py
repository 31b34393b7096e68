"""`vigil features verify`: what it finds, and that a repair replaces only that."""

import csv
import errno
import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from builders import SPEC, make_features, write_store
from fake_backbone import BACKBONE
from video_files import draw_frames, encode, truncate

from vigil.extract import sealed
from vigil.extract.errors import FailedVideo
from vigil.extract.locks import locked
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.store import feature_path, list_features, read_features, verify_features
from vigil.extract.store import write_features as write
from vigil.pipeline.cli import main
from vigil.pipeline.failures import write_failures

LENGTHS = {"Fighting/a.mp4": 70, "Fighting/b.mp4": 20, "c.avi": 30, "d.mp4": 9}
EXTRACT = (
    "--backbone fake --weights random --precision fp32 --device cpu --workers 0 --segments 8 "
    "--views five --keep-clips --quiet"
)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(list(map(str, arguments)))
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return run


@pytest.fixture
def verify(run, videos, store):
    def verify(*arguments):
        flags = ["--device", "cpu", "--workers", "0", *arguments]
        return run("features", "verify", store, "--videos", videos, *flags)

    return verify


@pytest.fixture(scope="module")
def _originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for seed, (name, num_frames) in enumerate(LENGTHS.items()):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        encode(folder / "videos" / name, draw_frames(num_frames, seed=seed), codec=codec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "fake", BACKBONE)
        flags = ["--out", str(folder / "store"), *EXTRACT.split()]
        assert main(["extract", str(folder / "videos"), *flags]) == 0
    return folder


@pytest.fixture
def _copies(_originals, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "fake", BACKBONE)
    for name in ("videos", "store"):
        shutil.copytree(_originals / name, tmp_path / name)


@pytest.fixture
def videos(_copies, tmp_path):
    return tmp_path / "videos"


@pytest.fixture
def store(_copies, tmp_path):
    return tmp_path / "store"


def snapshot(store):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in store.rglob("*.h5")}


def change(store, name, **changes):
    """Write other content into a feature file, with matching digests."""
    path = feature_path(store, name)
    write(path, replace(read_features(path), **changes))


def harm(store, videos):
    """Truncate one feature file, spoil the values of another, and delete a third."""
    truncate(feature_path(store, "Fighting/a.mp4"), 0.7)
    features = read_features(feature_path(store, "Fighting/b.mp4")).features
    change(store, "Fighting/b.mp4", features=features * np.float32("nan"))
    feature_path(store, "c.avi").unlink()


class TestWithoutRepair:
    def test_a_whole_store_verifies(self, verify, store):
        before = snapshot(store)
        said = ["verified 4", "damaged 0", "missing 0", "changed 0"]
        assert verify() == (0, said, "")
        assert snapshot(store) == before

    def test_every_fault_is_named_and_counted(self, verify, store, videos):
        harm(store, videos)
        encode(videos / "d.mp4", draw_frames(11, seed=9))
        encode(videos / "new.mp4", draw_frames(9))
        (videos / "link.mp4").symlink_to("nowhere.mp4")
        before = snapshot(store)
        code, said, errors = verify()
        assert code == 4
        assert said == ["verified 3", "damaged 2", "missing 3", "changed 1"]
        assert re.search(r"a\.mp4\.h5 is damaged \(its bytes do not match their digest\)", errors)
        assert re.search(r"b\.mp4\.h5 is damaged \(it holds values that are not finite\)", errors)
        assert "ERROR: c.avi has no features\n" in errors
        assert "ERROR: link.mp4: the link is broken" in errors
        assert f"{videos / 'd.mp4'} has changed since {store / 'd.mp4.h5'} was extracted" in errors
        assert len(errors.splitlines()) == 6
        assert snapshot(store) == before

    def test_some_faults_end_with_3(self, verify, store):
        feature_path(store, "c.avi").unlink()
        assert verify()[:2] == (3, ["verified 3", "damaged 0", "missing 1", "changed 0"])

    def test_features_of_other_videos_are_not_faults(self, run, store, videos):
        code, said, errors = run("features", "verify", store, "--videos", videos / "c.avi")
        assert (code, said[2]) == (0, "missing 0")
        assert "features without a video: 3 files, such as Fighting/a.mp4" in errors

    def test_a_mixture_of_specs_is_reported(self, tmp_path, run):
        other = replace(SPEC, clip_stride=32)
        names = {"a.mp4": SPEC, "b.mp4": SPEC, "c.mp4": other}
        write_store(tmp_path, *(make_features(name, spec=spec) for name, spec in names.items()))
        code, said, errors = run("features", "verify", tmp_path)
        assert (code, said) == (0, ["verified 3", "damaged 0"])
        assert (
            f"2 files of spec {SPEC.digest[:8]}, 1 file of spec {other.digest[:8]} "
            "(clip_stride: 64 != 32)" in errors
        )


class TestRepair:
    def test_faulty_files_are_replaced_and_nothing_else_is_touched(self, verify, store, videos):
        whole = snapshot(store)
        harm(store, videos)
        kept = snapshot(store)
        code, said, _ = verify("--repair")
        assert said == ["verified 3", "damaged 2", "missing 1", "changed 0", "repaired 3"]
        assert code == 0
        after = snapshot(store)
        assert after.keys() == whole.keys()
        assert after[feature_path(store, "d.mp4")] == kept[feature_path(store, "d.mp4")]
        assert_same_features(after, whole)
        assert verify()[0] == 0

    def test_a_changed_video_is_extracted_as_it_is_now(self, verify, store, videos):
        encode(videos / "d.mp4", draw_frames(11, seed=9))
        assert verify("--repair")[:2] == (
            0,
            ["verified 4", "damaged 0", "missing 0", "changed 1", "repaired 1"],
        )
        repaired = verify_features(feature_path(store, "d.mp4"))
        assert repaired.num_frames_decoded == 11
        assert repaired.clip_features.shape == (1, 5, 6)

    def test_a_whole_store_is_left_alone(self, verify, store):
        before = snapshot(store)
        assert verify("--repair")[1][-1] == "repaired 0"
        assert snapshot(store) == before

    def test_files_that_cannot_be_repaired_are_kept_and_reported(self, verify, store, videos):
        truncate(feature_path(store, "Fighting/a.mp4"), 0.5)
        (videos / "Fighting" / "a.mp4").unlink()  # no video to make it from
        (videos / "Fighting" / "b.mp4").write_bytes(b"")
        with h5py.File(feature_path(store, "c.avi"), "w") as file:
            file["mine"] = 1
        before = snapshot(store)
        code, said, errors = verify("--repair")
        assert (code, said) == (
            3,
            ["verified 4", "damaged 2", "missing 0", "changed 1", "repaired 0"],
        )
        assert "b.mp4: the file is empty" in errors
        assert "c.avi.h5 is an HDF5 file of another kind: move it out" in errors
        assert snapshot(store) == before
        failures = (store / "failures.csv").read_text()
        assert [line.split(",")[0] for line in failures.splitlines()] == [
            "video",
            "Fighting/a.mp4",
            "Fighting/b.mp4",
            "c.avi",
        ]

    def test_without_a_whole_file_the_settings_are_unknown(self, verify, store):
        for path in list_features(store).values():
            truncate(path, 0.5)
        code, _, errors = verify("--repair")
        assert code == 2
        assert "is intact, so their settings are unknown: run vigil extract with the or" in errors

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"views": ("center", "top_left", "top_right", "bottom_left", "center_mirrored")},
                "vi",
            ),
            ({"precision": "bf16"}, r"precision: (bf16 != fp32|fp32 != bf16)"),
            (
                {"clip_features": None, "clip_frames": None, "frame_seconds": None},
                "has_clips: (True|False) != ",
            ),
        ],
    )
    def test_files_with_different_settings_are_refused(self, verify, store, changes, message):
        change(store, "c.avi", **changes)
        feature_path(store, "d.mp4").unlink()
        code, _, errors = verify("--repair")
        assert code == 2
        assert re.search(rf"have different settings \({message}", errors)

    def test_a_requested_precision_decides(self, verify, store):
        change(store, "c.avi", precision="bf16")
        feature_path(store, "d.mp4").unlink()
        assert verify("--repair", "--precision", "fp32")[0] == 0
        assert read_features(feature_path(store, "d.mp4")).precision == "fp32"

    def test_a_precision_is_required_if_devices_used_several(self, verify, store):
        for path in list_features(store).values():
            write(path, replace(read_features(path), precision="bf16, fp32"))
        feature_path(store, "d.mp4").unlink()
        code, _, errors = verify("--repair")
        assert code == 2
        assert (
            "were computed in bf16, fp32, on several devices: choose one of these with --" in errors
        )
        assert verify("--repair", "--precision", "fp32")[0] == 0

    def test_failures_of_other_videos_stay_in_the_list(self, verify, store, videos):
        earlier = [FailedVideo("Fighting/a.mp4", "old"), FailedVideo("z.mp4", "other", "av", 3)]
        write_failures(store, earlier)
        truncate(feature_path(store, "Fighting/a.mp4"), 0.5)
        (videos / "new.mp4").write_bytes(b"")
        assert verify("--repair")[0] == 3
        with (store / "failures.csv").open(newline="") as file:
            _, *rows = csv.reader(file)
        assert [row[0] for row in rows] == ["new.mp4", "z.mp4"]
        assert rows[1] == ["z.mp4", "other", "av", "3"]

    @pytest.mark.parametrize(
        ("root", "name"), [("Fighting", "a.mp4"), ("..", "videos/Fighting/a.mp4")]
    )
    def test_videos_under_other_names_than_at_extraction_are_refused(
        self, run, store, videos, root, name
    ):
        given = videos / root
        before = snapshot(store)
        code, _, errors = run("features", "verify", store, "--videos", given, "--repair")
        assert code == 2
        assert f" {name} already has features under the name Fighting/a.mp4: give the" in errors
        assert snapshot(store) == before

    def test_a_copy_of_a_video_is_another_video(self, verify, store, videos):
        shutil.copy(videos / "d.mp4", videos / "copy.mp4")
        assert verify("--repair")[:2] == (
            0,
            ["verified 4", "damaged 0", "missing 1", "changed 0", "repaired 1"],
        )

    def test_an_unreadable_file_is_named_and_not_replaced(self, verify, store, monkeypatch):
        unreadable, real = feature_path(store, "c.avi"), sealed._check_bytes

        def check(path, content):
            if path == unreadable:
                raise OSError(errno.EIO, "Input/output error")
            return real(path, content)

        before = snapshot(store)
        monkeypatch.setattr(sealed, "_check_bytes", check)
        code, said, errors = verify("--repair")
        assert (code, said[1], said[-1]) == (3, "damaged 1", "repaired 0")
        assert "c.avi.h5 cannot be read (Input/output error): check its disk" in errors
        assert snapshot(store) == before

    def test_other_weights_are_refused(self, verify, store):
        feature_path(store, "d.mp4").unlink()
        for path in list_features(store).values():
            there = read_features(path)
            write(path, replace(there, spec=replace(there.spec, weights_digest="1" * 64)))
        code, _, errors = verify("--repair")
        assert code == 2
        assert "weights random:0 are not those that the features were made with (random:0" in errors

    def test_repairing_beside_another_run_is_refused(self, verify, store):
        with locked(store):
            code, _, errors = verify("--repair")
            assert verify()[0] == 0  # verifying alone is always allowed
        assert code == 2
        assert f"another run is writing to {store} (" in errors

    def test_wrong_usage_is_reported(self, run, store, videos):
        code, _, errors = run("features", "verify", store, "--repair")
        assert (code, errors) == (
            2,
            "ERROR: --repair extracts videos again: give the videos with --videos\n",
        )
        code, _, errors = run("features", "verify", store / "c.avi.h5", "--videos", videos)
        assert code == 2
        assert "c.avi.h5 is not a folder: --videos checks a whole folder" in errors


def assert_same_features(left, right):
    """Compare every array bit for bit, and every attribute except the time."""
    for path, (_, content) in left.items():
        other = path.with_suffix(".other")
        other.write_bytes(right[path][1])
        assert path.read_bytes() == content
        with h5py.File(path) as a, h5py.File(other) as b:
            names = []
            a.visit(names.append)
            for name in names:
                if isinstance(a[name], h5py.Dataset):
                    assert a[name][()].tobytes() == b[name][()].tobytes()
            for name in set(a.attrs) - {"created_at"}:
                np.testing.assert_array_equal(a.attrs[name], b.attrs[name], name)
        other.unlink()
