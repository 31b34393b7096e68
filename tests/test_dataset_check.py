"""`vigil dataset`: which subsets of a published dataset exist, and the label files made from it."""

import csv
import re

import av
import numpy as np
import pytest
from PIL import Image
from video_files import draw_frames, encode

from vigil.data.annotations import frame_truth, load_annotations
from vigil.data.published_datasets import DATASETS, PublishedDataset, Subset, place_videos
from vigil.extract.decode import frame_counts
from vigil.extract.decode.frame_counts import count_frames
from vigil.extract.source import SourceVideo
from vigil.pipeline.cli import main

SMALL = PublishedDataset(
    "Small",
    "https://nowhere/",
    (
        Subset("train", 1, 1, ("train.txt",)),
        Subset("test", 1, 1, ("test.txt",), ("masks",)),
    ),
)
NUMBERED = PublishedDataset(
    "Numbered",
    "https://nowhere/",
    (Subset("train", 2, 0), Subset("test", 0, 2, truths=("truth.m", "truth*.npz"))),
    is_numbered=True,
)
NAMED = PublishedDataset(
    "Named",
    "https://nowhere/",
    (Subset("test", 1, 1, truths=("annotations.txt",)), Subset("train", 1, 1)),
    metric="frame_ap",
)


def pictures(folder, num_frames):
    folder.mkdir(parents=True)
    for index in range(num_frames):
        Image.new("L", (8, 8)).save(folder / f"{index + 1:03}.tif")


@pytest.fixture
def check(monkeypatch, tmp_path, capsys):
    """Run the command; return (exit code, rows by subset and kind of video, all output)."""
    for name, dataset in (("small", SMALL), ("numbered", NUMBERED), ("named", NAMED)):
        monkeypatch.setitem(DATASETS, name, dataset)

    def run(name, *arguments):
        code = main(["dataset", "check", name, str(tmp_path / "root"), *map(str, arguments)])
        said = capsys.readouterr()
        rows = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in said.out.splitlines()]
        table = {(row[0], row[1]): row[2:] for row in rows if len(row) == 8}
        return code, table, said.out + said.err

    return run


class TestCheck:
    @pytest.fixture
    def root(self, tmp_path):
        """A faultless dataset of lists, videos, folders of pictures and masks."""
        root = tmp_path / "root"
        encode(root / "training" / "Normal" / "a.mp4", draw_frames(5))
        encode(root / "training" / "Arson" / "b.mkv", draw_frames(7))
        pictures(root / "testing" / "Normal" / "c", 4)
        pictures(root / "testing" / "Arson" / "d", 6)
        (root / "train.txt").write_text("Normal/a.mp4\nArson/b.mp4\n")
        (root / "test.txt").write_text("Normal/c\nArson/d\n")
        (root / "masks").mkdir()
        np.save(root / "masks" / "d.npy", np.array([0, 1, 1, 0, 0, 1]))
        return root

    def test_a_whole_dataset(self, root, check):
        code, table, said = check("small")
        assert code == 0, said
        assert table == {
            ("part", "videos"): [
                *("published", "found", "missing", "without frames", "wrong", "frames")
            ],
            ("train", "normal"): ["1", "1", "0", "0", "0", "5"],
            ("train", "anomalous"): ["1", "1", "0", "0", "0", "7"],
            ("test", "normal"): ["1", "1", "0", "0", "0", "4"],
            ("test", "anomalous"): ["1", "1", "0", "0", "0", "6"],
        }
        assert "problems 0" in said

    def test_label_files_can_be_read_by_train_and_evaluate(self, root, check, tmp_path):
        check("small", "--write", tmp_path / "labels")
        (normal, anomalous) = load_annotations([tmp_path / "labels" / "test.csv"])[::-1]
        assert (normal.video, normal.class_name) == ("testing/Normal/c", "Normal")
        assert (anomalous.video, anomalous.class_name) == ("testing/Arson/d", "Arson")
        assert frame_truth(anomalous, 6).tolist() == [False, True, True, False, False, True]
        train = load_annotations([tmp_path / "labels" / "train.csv"])
        assert {a.video for a in train} == {"training/Normal/a.mp4", "training/Arson/b.mkv"}

    def test_every_fault_is_named(self, root, check, tmp_path):
        (root / "training" / "Normal" / "a.mp4").unlink()
        (root / "training" / "Arson" / "b.mkv").write_bytes(b"no video")
        (root / "testing" / "Arson" / "d" / "004.tif").unlink()
        pictures(root / "other" / "x", 2)
        code, table, said = check("small", "--write", tmp_path / "labels")
        assert code == 3
        assert table["train", "normal"] == ["1", "0", "1", "0", "0", "0"]
        assert table["train", "anomalous"] == ["1", "1", "0", "0", "1", "0"]
        assert table["test", "anomalous"] == ["1", "1", "0", "0", "1", "5"]
        assert "in no part 1: other/x" in said
        with (tmp_path / "labels" / "problems.csv").open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        assert [row[:3] for row in rows] == [
            ["missing", "train", "Normal/a.mp4"],
            ["length", "test", "testing/Arson/d"],
            ["unreadable", "train", "training/Arson/b.mkv"],
        ]
        assert "annotated with 6 frames, has 5" in said
        assert "not a video that FFmpeg can open" in said
        assert "unpack" in said

    def test_missing_annotations_are_named(self, root, check, tmp_path):
        (root / "train.txt").rename(tmp_path / "train.txt")
        (root / "masks" / "d.npy").rename(tmp_path / "d.npy")
        (root / "masks").rmdir()
        code, _, said = check("small")
        assert code == 3
        assert "annotations train: no train.txt (from https://nowhere/)" in said
        assert "annotations test: no masks" in said
        assert "truth test testing/Arson/d: its anomalous frames are not annotated" in said
        code, _, said = check("small", "--annotations", tmp_path / "train.txt")
        assert "no train.txt" not in said

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (["nosuch"], r"no dataset 'nosuch': use one of ucf_crime, "),
            (
                ["small", "--annotations", "/no/train.txt"],
                r"train\.txt does not exist: check --ann",
            ),
            (
                ["small", "--annotations", __file__],
                r"is not an annotation file of Small: those are train",
            ),
        ],
    )
    def test_wrong_use(self, root, check, arguments, match):
        code, _, said = check(*arguments)
        assert code == 2
        assert re.search(match, said)

    def test_no_video_at_all(self, tmp_path, check):
        (tmp_path / "root").mkdir()
        code, _, said = check("small")
        assert (code, "no videos in" in said) == (2, True)


def test_videos_are_numbered_within_the_folders_of_the_parts(tmp_path, check):
    root = tmp_path / "root"
    for name in ("Train/Train001", "Train/Train002", "Test/Test001", "Test/Test002", "x/Test/03"):
        pictures(root / name, 8)
    (root / "Test" / "truth.m").write_text(
        "TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [2:4];\n"
        "TestVideoFile{end+1}.gt_frame = [1:9];\n"
    )
    code, table, said = check("numbered", "--write", tmp_path / "labels")
    assert code == 3
    assert table["train", "normal"] == ["2", "2", "0", "0", "0", "16"]
    assert table["test", "anomalous"] == ["2", "2", "0", "0", "1", "16"]
    assert "length test Test/Test002: annotated up to frame 9, has 8" in said
    content = (tmp_path / "labels" / "test.csv").read_text().splitlines()[1:]
    assert content == ["Test/Test001,Anomaly,1,4", "Test/Test002,Anomaly,0,9"]


def test_copies_in_deeper_folders_are_extra(tmp_path):
    np.savez(tmp_path / "truth.npz", **{"01": np.ones(3), "02": np.ones(3)})
    videos = ["training_videos/01.avi", "testing_videos/01.avi", "truth/testing_videos/01.avi"]
    files = {"truth.m": [], "truth*.npz": [tmp_path / "truth.npz"]}
    placement = place_videos(NUMBERED, videos, files)
    assert {one.video: one.subset.name for one in placement.placed} == {
        "training_videos/01.avi": "train",
        "testing_videos/01.avi": "test",
    }
    assert placement.extra == ["truth/testing_videos/01.avi"]
    assert [(subset.name, name) for subset, name in placement.missing] == [
        ("train", "02"),
        ("test", "02"),
    ]


def test_classes_are_read_from_names(tmp_path):
    path = tmp_path / "annotations.txt"
    path.write_text("a__#1_label_B1-G-0 3 5\n")
    videos = [
        "test_videos/a__#1_label_B1-G-0.mp4",
        "test_videos/b__#1_label_A.mp4",
        "1-1004/c__#1_label_A.mp4",
        "1-1004/d__#1_label_G-0-0.mp4",
        "1-1004/e.mp4",
    ]
    placement = place_videos(NAMED, videos, {"annotations.txt": [path]})
    placed = {one.video[:-4].split("/")[1][0]: one for one in placement.placed}
    assert {name: one.subset.name for name, one in placed.items()} == {
        "a": "test",
        "b": "test",
        "c": "train",
        "d": "train",
    }
    assert placed["a"].annotation.class_names == ("Fighting", "Explosion")
    assert [i.start for i in placed["a"].annotation.intervals] == [3]
    assert [(subset.name, video) for subset, video in placement.unlabelled] == [
        ("train", "1-1004/e.mp4")
    ]


def test_a_subset_that_names_only_its_anomalous_videos(tmp_path, check):
    """XD-Violence with only its training videos, so the annotated videos are missing."""
    root = tmp_path / "root"
    pictures(root / "1-1004" / "c__#1_label_A", 3)
    pictures(root / "1-1004" / "d__#1_label_G-0-0", 3)
    (root / "annotations.txt").write_text("a__#1_label_B1-G-0 1 2\n")
    code, table, said = check("named")
    assert code == 3
    assert table["train", "anomalous"][:3] == table["train", "normal"][:3] == ["1", "1", "0"]
    assert "missing test a__#1_label_B1-G-0: no such video" in said
    assert "count test: 0 of 1 normal videos" in said
    assert "problems 3" in said  # the third is that the subset lacks an anomalous one


class TestFrameCounts:
    def test_containers_folders_and_invalid_files(self, tmp_path):
        pictures(tmp_path / "a", 3)
        encode(tmp_path / "b.mp4", draw_frames(4))
        encode(tmp_path / "c.mkv", draw_frames(5))  # its header has no number of frames
        (tmp_path / "d.mp4").write_text("no video")
        with av.open(str(tmp_path / "c.mkv")) as container:
            assert container.streams.video[0].frames == 0
        names = ["a", "b.mp4", "d.mp4", "c.mkv", "e.mp4"]
        counts = [count for _, count in count_frames([video(tmp_path, name) for name in names])]
        assert counts[:2] == [3, 4]
        assert counts[2].startswith("not a video that FFmpeg can open")
        assert counts[3:] == [5, "there is no such file"]

    def test_a_file_that_kills_or_stalls_its_reader_is_named_and_the_rest_counted(
        self, tmp_path, monkeypatch
    ):
        encode(tmp_path / "b.mp4", draw_frames(4))
        monkeypatch.setattr(frame_counts, "_read_all", die_or_hang)
        monkeypatch.setattr(frame_counts, "STALL_SECONDS", 4.0)
        names = ["b.mp4", "kill.mp4", "b.mp4", "hang.mp4", "b.mp4"]
        counts = [count for _, count in count_frames([video(tmp_path, name) for name in names])]
        assert counts[0] == counts[2] == counts[4] == 4
        assert counts[1] == "the process reading it died"
        assert counts[3] == "reading it made no progress for 4 s"


def video(folder, name):
    return SourceVideo(folder / name, name)


def die_or_hang(connection, paths, read):
    import os
    import time

    for path in paths:
        if path.stem == "kill":
            os._exit(1)
        if path.stem == "hang":
            time.sleep(100)
        connection.send(4)


class TestPublished:
    @pytest.fixture
    def annotations(self, shared_data):
        return shared_data / "annotations"

    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("ucf_crime", "ucf"),
            *((f"ucf_crime_actions_{number}", "ucf/action_splits") for number in range(1, 5)),
            ("shanghaitech", "shanghaitech"),
            ("ubnormal", "ubnormal"),
        ],
    )
    def test_the_lists_match_the_numbers_of_the_table(self, annotations, name, folder):
        for subset in DATASETS[name].subsets:
            found = load_annotations([annotations / folder / file for file in subset.lists])
            assert sum(not one.is_anomalous for one in found) == subset.num_normal
            assert sum(one.is_anomalous for one in found) == subset.num_anomalous

    def test_real_ped2(self, shared_data, capsys):
        assert main(["dataset", "check", "ucsd_ped2", str(shared_data / "ucsd_ped2")]) == 3
        said = capsys.readouterr().out
        assert re.search(r"train *│ normal *│ 16 *│ 16 *│ 0 *│ 0 *│ 0 *│ 2550", said)
        assert re.search(r"test *│ anomalous *│ 12 *│ 6 *│ 6 *│ 0 *│ 0 *│ 960", said)
        assert "problems 6" in said

    def test_the_list_names_every_dataset(self, capsys):
        assert main(["dataset", "list"]) == 0
        said = capsys.readouterr().out
        assert all(name in said for name in DATASETS)
