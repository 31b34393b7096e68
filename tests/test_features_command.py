"""`vigil features`: verify and show."""

from dataclasses import replace

import numpy as np
import pytest
from builders import SPEC, make_features, write_store
from video_files import truncate

from vigil.pipeline.cli import main


@pytest.fixture
def store(tmp_path):
    videos = [make_features("a.mp4"), make_features("Fighting/b.mp4", num_frames=50)]
    return write_store(tmp_path, *videos)


def run(capsys, *arguments):
    code = main(["features", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_whole_files_verify(store, capsys):
    assert run(capsys, "verify", store) == (0, "verified 2\ndamaged 0\n", "")
    assert run(capsys, "verify", store / "a.mp4.h5") == (0, "verified 1\ndamaged 0\n", "")


def test_damaged_files_are_named(store, capsys):
    truncate(store / "a.mp4.h5", 0.5)
    code, said, errors = run(capsys, "verify", store)
    assert (code, said) == (3, "verified 2\ndamaged 1\n")
    assert errors.startswith(f"ERROR: {store / 'a.mp4.h5'} is damaged")
    assert errors.count("\n") == 1
    truncate(store / "Fighting/b.mp4.h5", 0.5)
    assert run(capsys, "verify", store)[0] == 4


def test_a_file_is_shown_in_full(store, capsys):
    code, said, _ = run(capsys, "show", store / "a.mp4.h5")
    shown = dict(line.split(" ", 1) for line in said.splitlines())
    assert code == 0
    assert shown["video"] == "a.mp4"
    assert shown["features"] == "2 views x 8 segments x 6"
    assert shown["clips"] == "not kept"
    assert shown["num_frames_decoded"] == "80"
    assert (shown["num_frames_lost"], shown["damage_frames"]) == ("0", "none")
    assert shown["spec"] == SPEC.to_json()
    assert shown["spec_digest"] == SPEC.digest


def test_kept_clips_are_counted(tmp_path, capsys):
    clips = {"clip_features": np.zeros((2, 2, 6)), "clip_frames": np.array([[0, 64], [64, 80]])}
    store = write_store(tmp_path, make_features("a.mp4", **clips))
    assert "\nclips 2\n" in run(capsys, "show", store / "a.mp4.h5")[1]


def test_static_clips_are_counted(tmp_path, capsys):
    skipped = {"spec": replace(SPEC, static="skip"), "clip_computed": np.array([True, False])}
    store = write_store(tmp_path, make_features("a.mp4", **skipped))
    shown = run(capsys, "show", store / "a.mp4.h5")[1]
    assert "\nclips_computed 1 of 2, the others are static\n" in shown


def test_a_store_is_shown_as_a_table_and_its_settings(store, capsys):
    code, said, _ = run(capsys, "show", store)
    lines = said.splitlines()
    assert code == 0
    assert [line.split()[1] for line in lines if ".mp4" in line] == ["Fighting/b.mp4", "a.mp4"]
    assert lines[-1] == SPEC.to_json()


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_folder_without_feature_files_is_reported(tmp_path, capsys, command):
    code, _, errors = run(capsys, command, tmp_path)
    assert (code, errors) == (
        2,
        f"ERROR: {tmp_path} holds no feature files: run vigil extract first\n",
    )
    code, _, errors = run(capsys, command, tmp_path / "nowhere")
    assert code == 2
    assert "is not a folder of features: run vigil extract first" in errors


def test_a_damaged_file_is_named_and_the_others_are_shown(store, capsys):
    truncate(store / "a.mp4.h5", 0.5)
    code, said, errors = run(capsys, "show", store)
    assert code == 3
    assert "a.mp4" not in said
    assert "Fighting/b.mp4" in said
    assert "a.mp4.h5 is damaged" in errors
    code, said, _ = run(capsys, "show", store / "a.mp4.h5")
    assert (code, said) == (4, "")
