"""Formats, matching and ground truth: `data.annotations`, `data.matching`, `data.classes`."""

import contextlib
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from vigil.data.annotations import (
    Annotation,
    AnnotationError,
    Interval,
    class_names_of,
    frame_truth,
    labels_from_folders,
    load_annotations,
    merge,
)
from vigil.data.classes import (
    UCF_CRIME,
    XD_VIOLENCE,
    UnknownClassError,
    canonical_class,
    class_index,
    doubtful_classes,
)
from vigil.data.matching import match_videos

TEMPORAL_COUNTS = {
    "Normal": 150,
    "Abuse": 2,
    "Arrest": 5,
    "Arson": 9,
    "Assault": 3,
    "Burglary": 13,
    "Explosion": 21,
    "Fighting": 5,
    "RoadAccidents": 23,
    "Robbery": 5,
    "Shooting": 23,
    "Shoplifting": 21,
    "Stealing": 5,
    "Vandalism": 5,
}

NORMAL_NAMES = (
    *("Normal", "NORMAL", "normals", "Training-Normal-Videos-Part-1", "Normal_Videos_event"),
    *("Training_Normal_Videos_Anomaly", "Testing_Normal_Videos_Anomaly", "Testing_Normal_Videos"),
    *("Normal_Videos_for_Event_Recognition", "NormalVideos", "normalvideos", "0_Normal"),
    *("Normal_1", "train_normal", "normal.clips", "validation-normal"),
)
OTHER_NAMES = (
    *("Abnormal", "AbnormalVideos", "Abnormal_1", "Testing_Abnormal_Videos", "Anomaly"),
    *("Normal_Anomaly", "Normal_and_Abnormal", "NonNormal", "Not-Normal", "Paranormal"),
    *("NormalDriving", "Anomaly-Videos-Part-1", "Event", "Videos", "Test"),
)


@pytest.fixture
def load(tmp_path):
    """Write texts into files and load them all."""

    def write_and_load(*texts):
        paths = []
        for number, text in enumerate(texts):
            paths.append(tmp_path / f"file{number}.dat")
            content = text if isinstance(text, bytes) else text.encode()
            paths[-1].write_bytes(content)
        return load_annotations(paths)

    return write_and_load


def as_tuples(annotations):
    return [
        (a.video, a.class_name, a.intervals and [(i.start, i.stop) for i in a.intervals])
        for a in annotations
    ]


class TestOfficialFiles:
    """UCF-Crime's published totals, computed from its own files."""

    @pytest.fixture
    def ucf(self, shared_data):
        return shared_data / "annotations" / "ucf"

    @pytest.mark.parametrize(
        ("name", "num_anomalous", "num_normal"),
        [
            ("Anomaly_Train.txt", 810, 800),
            ("Abnormal_Train_UCF.txt", 810, 0),
            ("Normal_Train_UCF.txt", 0, 800),
            ("Anomaly_Test.txt", 140, 150),
        ],
    )
    def test_lists(self, ucf, name, num_anomalous, num_normal):
        annotations = load_annotations([ucf / name])
        assert Counter(a.is_anomalous for a in annotations) == Counter(
            {True: num_anomalous, False: num_normal}
        )
        assert {a.intervals for a in annotations if a.is_anomalous} <= {None}

    def test_temporal_annotation(self, ucf):
        annotations = load_annotations([ucf / "Temporal_Anomaly_Annotation.txt"])
        assert Counter(a.class_name for a in annotations) == TEMPORAL_COUNTS
        assert all(bool(a.intervals) == a.is_anomalous for a in annotations)
        by_video = {a.video: a.intervals for a in annotations}
        assert by_video["Vandalism028_x264.mp4"] == (Interval(1830, 1980), Interval(2400, 2670))

    def test_temporal_annotation_fits_the_official_frame_counts(self, ucf):
        names = np.load(ucf / "Test_video_name_UCF.npy")
        counts = np.load(ucf / "Test_frame_number_UCF.npy")
        matching = match_videos(
            load_annotations([ucf / "Temporal_Anomaly_Annotation.txt"]), map(str, names)
        )
        assert (matching.missing, matching.extra) == ((), ())
        # Independent of the parser: columns of the file, one set of frame numbers per video.
        expected = 0
        frames = dict(zip(map(str, names), map(int, counts), strict=True))
        for line in (ucf / "Temporal_Anomaly_Annotation.txt").read_text().splitlines():
            video, _, *columns = line.split()
            start1, stop1, start2, stop2 = map(int, columns)
            marked = {*range(start1, stop1), *range(start2, stop2)} - {-1}
            expected += len({f for f in marked if f < frames[video.removesuffix(".mp4")]})
        truths = [frame_truth(a, frames[video]) for video, a in matching.annotations.items()]
        assert sum(map(len, truths)) == 1_112_032
        assert sum(int(truth.sum()) for truth in truths) == expected

    def test_lists_and_temporal_annotation_name_the_same_videos(self, ucf):
        lists = load_annotations([ucf / "Anomaly_Test.txt"])
        temporal = load_annotations([ucf / "Temporal_Anomaly_Annotation.txt"])
        matching = match_videos([*lists, *temporal], [a.video for a in lists])
        assert (matching.missing, matching.extra) == ((), ())
        assert Counter(a.class_name for a in matching.annotations.values()) == TEMPORAL_COUNTS
        assert all(a.intervals is not None for a in matching.annotations.values())

    def test_second_temporal_file_with_blank_line(self, ucf):
        annotations = load_annotations([ucf / "BKU_Temporal_RoadAccidents_Annotation.txt"])
        assert Counter(a.class_name for a in annotations) == {"RoadAccidents": 31, "Normal": 18}

    def test_action_splits(self, ucf):
        official = load_annotations([ucf / "Anomaly_Train.txt", ucf / "Anomaly_Test.txt"])
        for number in range(1, 5):
            parts = [
                load_annotations([ucf / "action_splits" / f"{part}_{number:03}.txt"])
                for part in ("train", "test")
            ]
            assert [len(part) for part in parts] == [532, 168]
            assert class_names_of(parts[0]) == class_names_of(parts[1]) == UCF_CRIME
            matching = match_videos([*parts[0], *parts[1]], [a.video for a in official])
            assert (len(matching.annotations), matching.missing) == (700, ())
        assert Counter(a.class_name for a in parts[1])["Normal"] == 12

    def test_shanghaitech(self, shared_data):
        folder = shared_data / "annotations" / "shanghaitech"
        for name, counts in (("SH_Train.txt", (175, 63)), ("SH_Test.txt", (155, 44))):
            found = Counter(a.class_name for a in load_annotations([folder / name]))
            assert (found["Normal"], found["Anomaly"]) == counts
        (joined,) = load_annotations([folder / "gt-sh.npy"])
        assert joined.num_frames == 142_912
        assert int(frame_truth(joined, 142_912).sum()) == 8_028

    def test_avenue(self, shared_data):
        annotations = load_annotations([shared_data / "annotations/avenue/avenue_frame_gt.npz"])
        truths = [frame_truth(a, a.num_frames) for a in annotations]
        assert [a.video for a in annotations] == [f"{number:02}" for number in range(1, 22)]
        assert (sum(map(len, truths)), sum(t.sum() for t in truths)) == (15_324, 3_712)

    def test_ucsd_ped2(self, shared_data):
        told = load_annotations([shared_data / "annotations/ped2/ped2_STARGA.mat"])
        assert len(told) == 12
        assert (told[0].video, told[0].intervals) == ("01", (Interval(60, 180),))
        ours = load_annotations([shared_data / "ucsd_ped2/test_intervals.txt"])
        assert [a.num_frames for a in ours] == [180, 150, 150, 180, 120, 180]
        by_name = {a.video: a.intervals for a in told}
        assert all(by_name[a.video.removesuffix(".mp4")] == a.intervals for a in ours)

    @pytest.mark.parametrize("name", ["annotations.txt", "XD_Annotation.txt"])
    def test_xd_violence(self, shared_data, name):
        path = shared_data / "annotations" / "xd" / name
        annotations = load_annotations([path])
        assert class_names_of(annotations) == ("Normal", *sorted(XD_VIOLENCE[1:]))
        assert Counter(1 + len(a.other_classes) for a in annotations) == {1: 453, 2: 43, 3: 4}
        # Independent of the parser: sets of frame numbers.
        for line, annotation in zip(path.read_text().splitlines(), annotations, strict=True):
            video, *numbers = line.split()
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            frames = {f for start, stop in pairs for f in range(int(start), int(stop))}
            assert annotation.video == video
            assert sum(i.stop - i.start for i in annotation.intervals) == len(frames)

    def test_ubnormal(self, shared_data):
        folder = shared_data / "annotations" / "ubnormal"
        counts = {
            path.name.removesuffix("_video_names.txt"): Counter(
                a.class_name for a in load_annotations([path])
            )
            for path in folder.glob("*_video_names.txt")
        }
        assert counts == {
            "abnormal_test": {"Anomaly": 158},
            "abnormal_training": {"Anomaly": 82},
            "abnormal_validation": {"Anomaly": 38},
            "normal_test": {"Normal": 53},
            "normal_training": {"Normal": 186},
            "normal_validation": {"Normal": 26},
        }

    def test_real_cameras(self, shared_data):
        root = shared_data / "cctv" / "dev"
        annotations = load_annotations([root / "temporal_annotation.txt"])
        videos = [path.relative_to(root).as_posix() for path in root.rglob("*.mp4")]
        matching = match_videos(annotations, videos)
        assert (len(matching.annotations), matching.missing, matching.extra) == (48, (), ())
        assert all(a.class_name == v.split("/")[0] for v, a in matching.annotations.items())


class TestFormats:
    def test_list(self, load):
        text = "Abuse/a.mp4 \r\n\r\nTraining_Normal_Videos_Anomaly/b.mp4\r\nx/Arson/my c.mp4\n"
        assert as_tuples(load(text)) == [
            ("Abuse/a.mp4", "Abuse", None),
            ("Training_Normal_Videos_Anomaly/b.mp4", "Normal", ()),
            ("x/Arson/my c.mp4", "Arson", None),
        ]

    @pytest.mark.parametrize(
        "folder",
        ["Normal", "normal", "Testing_Normal_Videos_Anomaly", "Normal_Videos_event"],
    )
    def test_folders_of_normal_videos(self, load, folder):
        assert as_tuples(load(f"{folder}/a.mp4")) == [(f"{folder}/a.mp4", "Normal", ())]
        assert as_tuples(labels_from_folders([f"x/{folder}/a.mp4"])) == [
            (f"x/{folder}/a.mp4", "Normal", ())
        ]

    def test_temporal(self, load):
        text = (
            "my video.mp4\tFighting  3   9 -1\t-1 \n"
            "b.mp4 Normal -1 -1 -1 -1\n"
            "c.mp4 Arson 5 6 1 3 2 4 -1 -1\n"
            "d.mp4 Arson -1 -1\n"
        )
        assert as_tuples(load(text)) == [
            ("my video.mp4", "Fighting", [(3, 9)]),
            ("b.mp4", "Normal", ()),
            ("c.mp4", "Arson", [(1, 4), (5, 6)]),
            ("d.mp4", "Arson", None),
        ]

    def test_csv(self, load):
        text = (
            "\ufeffVideo,Class,start_frame,end_frame\r\n"
            '"a, b.mp4", Fighting, 10, 20, 40, 50\r\n'
            "c.mp4,normal,,\r\n"
            "\r\n"
            "d\\e.mp4,Arson\r\n"
            '"a, b.mp4",Fighting,15,30\r\n'
            "f.mp4,Normal,-1,-1\r\n"
        )
        assert as_tuples(load(text)) == [
            ("a, b.mp4", "Fighting", [(10, 30), (40, 50)]),
            ("c.mp4", "Normal", ()),
            ("d/e.mp4", "Arson", None),
            ("f.mp4", "Normal", ()),
        ]

    def test_csv_without_header_and_with_semicolons(self, load):
        assert as_tuples(load("a.mp4;Weapon 2;1;2\nb.mp4;Normal")) == [
            ("a.mp4", "Weapon 2", [(1, 2)]),
            ("b.mp4", "Normal", ()),
        ]

    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    @pytest.mark.parametrize(
        "header", ["", "video,class\n", "\nVideo,Class,start_frame,end_frame\n"]
    )
    def test_any_delimiter_with_and_without_header(self, load, mark, header):
        rows = "a.mp4,Road Accident,1,2\n\nb,Normal\nc d.mp4,Arson,-1,-1\n"
        if header:
            rows += "e,f;g.mp4,Arson,3,4\n" if mark == "\t" else ""
            header = header.replace(",", mark)
        text = rows if mark == "," else rows.replace(",", mark).replace(f"e{mark}f;g", "e,f;g")
        assert as_tuples(load(header + text))[:3] == [
            ("a.mp4", "Road Accident", [(1, 2)]),
            ("b", "Normal", ()),
            ("c d.mp4", "Arson", None),
        ]
        if header and mark == "\t":
            assert as_tuples(load(header + text))[3] == ("e,f;g.mp4", "Arson", [(3, 4)])

    @pytest.mark.parametrize(
        "header", ["filename;label", "Video Name;Category;Start Frame;End Frame", "path;class"]
    )
    def test_headers_of_other_programs_are_no_videos(self, load, header):
        assert as_tuples(load(f"{header}\na.mp4;Arson;1;2")) == [("a.mp4", "Arson", [(1, 2)])]

    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    @pytest.mark.parametrize(
        ("header", "column"),
        [
            ("video,class,start_seconds,end_seconds", "start_seconds"),
            ("video,class,num_frames,fps", "num_frames"),
            ("file,start,end,class", "start"),
        ],
    )
    def test_headers_with_other_columns_are_refused(self, load, mark, header, column):
        message = f"1: cannot use the column '{column}' there: the columns are video, class, sta"
        with pytest.raises(AnnotationError, match=message):
            load(f"{header}\na.mp4,Arson,1,2".replace(",", mark))

    def test_the_real_table_with_tabs(self, shared_data):
        assert as_tuples(load_annotations([shared_data / "trouble" / "tab_header.csv"])) == [
            ("f0.mp4", "Fighting", [(32, 64)]),
            ("n0.mp4", "Normal", ()),
        ]

    def test_rows_without_frames_do_not_hide_those_with_frames(self, load):
        assert as_tuples(load("a,Arson\na,Arson,1,2\na,Arson")) == [("a", "Arson", [(1, 2)])]

    def test_files_add_to_each_other(self, load):
        annotations = load("Arson/a.mp4\n", "Arson/a.mp4,Arson,1,2\n", "b.mp4,Normal\n")
        assert as_tuples(annotations) == [
            ("Arson/a.mp4", "Arson", [(1, 2)]),
            ("b.mp4", "Normal", ()),
        ]

    @given(
        st.lists(
            st.tuples(st.booleans(), st.sets(st.integers(0, 40), max_size=8)),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(["  ", "\t", ","]),
    )
    def test_frames_survive_any_spelling(self, tmp_path_factory, videos, separator):
        lines, expected = [], []
        for index, (touching, frames) in enumerate(videos):
            pairs = [(f, f + 1 + touching) for f in sorted(frames, reverse=True)] or [(-1, -1)]
            numbers = [str(number) for pair in pairs for number in pair]
            lines.append(separator.join([f"{index}.mp4", "Arson", *numbers]))
            expected.append({g for f in frames for g in range(f, f + 1 + touching)})
        path = tmp_path_factory.mktemp("a") / "a.txt"
        path.write_text("\n".join(lines))
        for annotation, frames in zip(load_annotations([path]), expected, strict=True):
            intervals = annotation.intervals or ()
            assert {f for i in intervals for f in range(i.start, i.stop)} == frames
            assert all(a.stop <= b.start for a, b in pairwise(intervals))

    def test_classes_are_read_from_names(self, load):
        text = (
            "01_0014\n13_007\nnormal_scene_1_scenario1_9\nabnormal_scene_7_scenario_3_fog\n"
            "City.of.God.2002__#00-10_01-10_label_B2-B6-G.mp4\nx/v=a__#1_label_A\n"
        )
        annotations = load(text)
        assert [a.class_names for a in annotations] == [
            ("Anomaly",),
            ("Normal",),
            ("Normal",),
            ("Anomaly",),
            ("Shooting", "CarAccident", "Explosion"),
            ("Normal",),
        ]
        assert [a.intervals for a in annotations] == [None, (), (), None, None, ()]
        # Inside a class folder, a camera's number says nothing about the class.
        assert as_tuples(load("Arson/01_0014")) == [("Arson/01_0014", "Arson", None)]

    def test_frame_numbers_in_front_of_pairs(self, load):
        annotations = load("01.mp4  180  60 180\nmy b.mp4 90 -1 -1\nc 200 5 6 1 2")
        assert as_tuples(annotations) == [
            ("01.mp4", "Anomaly", [(60, 180)]),
            ("my b.mp4", "Normal", ()),
            ("c", "Anomaly", [(1, 2), (5, 6)]),
        ]
        assert [a.num_frames for a in annotations] == [180, 90, 200]

    def test_ucsd(self, load):
        text = (
            "TestVideoFile = {};\n\nTestVideoFile{end+1}.gt_frame = [5:90, 140:200];\n"
            "TestVideoFile{end+1}.gt_frame = [1:100];  % a bicycle\n"
            "TestVideoFile{end+1}.gt_frame = [];\n"
        )
        assert as_tuples(load(text)) == [
            ("Test001", "Anomaly", [(4, 90), (139, 200)]),
            ("Test002", "Anomaly", [(0, 100)]),
            ("Test003", "Normal", ()),
        ]

    def test_several_classes(self, load):
        annotations = load("a.mp4,Fighting+Riot,1,2\nb.mp4,normal", "a.mp4,Fighting\n")
        assert [a.class_names for a in annotations] == [("Fighting", "Riot"), ("Normal",)]
        assert class_names_of(annotations) == ("Normal", "Fighting", "Riot")

    def test_a_named_class_wins_over_anomaly(self, load):
        for texts in (("a 9 1 2", "a,Chasing"), ("a,Chasing", "a 9 1 2")):
            (annotation,) = load(*texts)
            assert (annotation.class_names, annotation.num_frames) == (("Chasing",), 9)
            assert annotation.intervals == (Interval(1, 2),)
        with pytest.raises(AnnotationError, match=r"a is Anomaly at .* but Normal at"):
            load("a 9 1 2", "a,Normal")


def wrapped(array):
    """A MATLAB cell of one array."""
    cells = np.empty((1, 1), object)
    cells[0, 0] = array
    return cells


class TestArrays:
    """Truth as arrays, masks and tracks."""

    TRUTH = np.array([0, 1, 1, 0, 0, 1], np.uint8)

    @pytest.mark.parametrize(
        "array",
        [TRUTH, TRUTH.astype(bool), TRUTH[None], 255.0 * TRUTH[:, None], TRUTH[:, None, None]],
    )
    def test_npy(self, tmp_path, array):
        np.save(tmp_path / "01_0014.npy", array)
        expected = [("01_0014", "Anomaly", [(1, 3), (5, 6)])]
        for path in (tmp_path / "01_0014.npy", tmp_path):
            (annotation,) = annotations = load_annotations([path])
            assert as_tuples(annotations) == expected
            assert annotation.num_frames == 6

    def test_masks_add_to_the_list(self, tmp_path):
        (tmp_path / "masks").mkdir()
        np.save(tmp_path / "masks" / "01_0014.npy", self.TRUTH)
        (tmp_path / "list.txt").write_text("01_0014\n01_001\n")
        videos = ["testing/frames/01_0014", "training/videos/01_001.avi"]
        annotations = load_annotations([tmp_path / "list.txt", tmp_path / "masks"])
        matched = match_videos(annotations, videos).annotations
        assert [matched[video].is_anomalous for video in videos] == [True, False]
        assert matched[videos[0]].intervals == (Interval(1, 3), Interval(5, 6))

    def test_avenue_masks(self, tmp_path):
        cells = np.empty((1, 6), object)
        for index, value in enumerate(self.TRUTH):
            cells[0, index] = np.full((2, 3), value)
        savemat(tmp_path / "7_label.mat", {"volLabel": cells})
        assert as_tuples(load_annotations([tmp_path])) == [("07", "Anomaly", [(1, 3), (5, 6)])]

    def test_mask_pictures(self, tmp_path):
        (tmp_path / "Test003_gt").mkdir()
        for index, value in enumerate(self.TRUTH):
            pixels = np.zeros((4, 5), np.uint8)
            pixels[1, 2] = 255 * value
            Image.fromarray(pixels).save(tmp_path / "Test003_gt" / f"{index + 8}.bmp")
        (tmp_path / "Test003_gt" / "._001.bmp").write_text("hidden")
        expected = [("Test003", "Anomaly", [(1, 3), (5, 6)])]
        assert as_tuples(load_annotations([tmp_path])) == expected

    def test_tracks(self, tmp_path):
        folder = tmp_path / "Scene1" / "abnormal_scene_1_scenario_2_annotations"
        folder.mkdir(parents=True)
        path = folder / "abnormal_scene_1_scenario_2_tracks.txt"
        path.write_text("1,3,5\n2.0,5.0,9.0\n")
        # UBnormal's corrections for other measures, which are not part of its frame-level truth.
        (folder / "abnormal_scene_1_scenario_2_new_tracks.txt").write_text("1,3,99\n")
        for given_path in (tmp_path, path):
            assert as_tuples(load_annotations([given_path])) == [
                ("abnormal_scene_1_scenario_2", "Anomaly", [(3, 10)])
            ]

    def test_refused(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
        np.save(tmp_path / "b.npy", np.zeros((3, 4)))
        np.save(tmp_path / "c.npy", np.array(["a"]))
        np.savez(tmp_path / "d.npz", x=np.zeros(0))
        savemat(tmp_path / "e.mat", {"other": 1})
        (tmp_path / "f_tracks.txt").write_text("1,2\n")
        (tmp_path / "g.npz").write_bytes(b"PK")
        (tmp_path / "h.mat").write_bytes(b"x" * 200)
        (tmp_path / "i.npy").write_bytes(b"")
        np.save(tmp_path / "k.npy", np.array([0, np.nan, 1]))
        np.save(tmp_path / "l.npy", np.array([[[0.5, -0.1]], [[0.2, 0.3]]]))
        savemat(tmp_path / "m.mat", {"gt": wrapped(np.array([[1, 4], [7, 9], [11, 20]]))})
        expected = {
            "a.npy": "cannot be read as frame-level truth.*check the file",
            "b.npy": r"not frame-level truth \(shape \(3, 4\)\): it needs \(frames,\) or a mask",
            "c.npy": "not frame-level truth .*it needs a number per frame",
            "d.npz": "not frame-level truth .*it needs a number per frame",
            "e.mat": "holds other: it must hold gt or volLabel",
            "f_tracks.txt": "not a list of tracks",
            "g.npz": "cannot be read as frame-level truth",
            "h.mat": "cannot be read as frame-level truth",
            "i.npy": "cannot be read as frame-level truth",
            "j.npy": "cannot be read .*check the file",
            "k.npy": "not frame-level truth, because it holds negative values or NaN",
            "l.npy": "not frame-level truth, because it holds negative values",
            "m.mat": r"gt 1 has the shape \(3, 2\), not \(2, n\)",
        }
        for name, match in expected.items():
            with pytest.raises(AnnotationError, match=f"{name}.*{match}"):
                load_annotations([tmp_path / name])

    def test_a_matlab_file_that_crashes_its_reader_is_refused(self, tmp_path):
        cells = np.empty((1, 3), object)
        cells[:] = [[np.ones((2, 2))] * 3]
        savemat(tmp_path / "gt.mat", {"gt": cells})
        content = bytearray((tmp_path / "gt.mat").read_bytes())
        for position in range(200, len(content), 8):  # an array class that does not exist
            content[position] = 75
        (tmp_path / "gt.mat").write_bytes(content)
        with pytest.raises(AnnotationError, match=r"gt\.mat .*check the file"):
            load_annotations([tmp_path / "gt.mat"])

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=60)
    def test_corrupt_arrays_are_read_or_refused(self, tmp_path_factory, seed):
        rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("a")
        np.save(folder / "a.npy", self.TRUTH)
        np.savez_compressed(folder / "b.npz", x=self.TRUTH, y=self.TRUTH)
        for path in (folder / "a.npy", folder / "b.npz"):
            content = bytearray(path.read_bytes())
            for _ in range(rng.integers(1, 5)):
                content[rng.integers(len(content))] = rng.integers(256)
            path.write_bytes(content)
            with contextlib.suppress(AnnotationError):
                load_annotations([path])


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "file0.dat lists no videos: give a file"),
            ("video,class\n", "lists no videos"),
            (b"\x00\x00\x00\x20ftypisom", "binary: give a text file"),
            ("a.mp4,Straßen-Überfall".encode("latin-1"), "not UTF-8 text.*save this one as UTF-8"),
            ("A/a.mp4\nb.mp4\n", r"file0.dat:2: b.mp4 has no class: put the video into a folder"),
            ("A/a.mp4\nA/b.mp4 A x\n", r"file0.dat:2: cannot read 'A/b.mp4 A x': write"),
            ("A 1\nB 2\n", r"file0.dat:1: '1' is not a class for A"),
            ("a.mp4 Arson 1 2\nb.mp4 Arson 3\n", r"dat:2: an end is missing: write pairs"),
            ("a.mp4 Arson 1 2\nb.mp4 Arson 3 x\n", r"dat:2: cannot read"),
            ("a.mp4 Arson 1 2\nb.mp4 Arson x 3 4\n", r"dat:2: cannot read"),
            ("a.mp4 60 180\n", r"dat:1: '60' is not a class for a.mp4: write video, class"),
            ("a.mp4 150\n", r"dat:1: '150' is not a class for a.mp4"),
            ("a.mp4,Arson+150,1,2\n", r"dat:1: '150' is not a class for a.mp4"),
            ("a.mp4,Arson+Normal\n", r"dat:1: a.mp4 is both Arson and Normal: leave one"),
            ("a.mp4,Arson\na.mp4 ,Abuse+Arson", r"is Arson at .*dat:1 but Abuse\+Arson at"),
            ("a.mp4 9 1 2\na.mp4 8 1 2", r"a.mp4 has different numbers of frames at .*:1 and at"),
            ("TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [1-2];", r":2: cannot read 'T"),
            # A single frame, a step, and a second row on the line must not be ignored.
            ("TestVideoFile{end+1}.gt_frame = [5, 61:180];", r":1: cannot read 'T"),
            ("TestVideoFile{end+1}.gt_frame = [1:2:180];", r":1: cannot read 'T"),
            (2 * "TestVideoFile{end+1}.gt_frame = [1:2]; ", r":1: cannot read 'T"),
            ("A.b__#1_label_B9-0-0 1 2\n", r"dat:1: '1' is not a class for A.b__#1_label_B9-0-0"),
            ("a.mp4 Arson 9 9 -1 -1", r"dat:1: frames 9 to 9 are not an interval: write start"),
            ("a.mp4 Arson 9 3 -1 -1", r"frames 9 to 3 are not an interval"),
            ("a.mp4 Arson -1 3 -1 -1", r"frames -1 to 3 are not an interval"),
            ("a.mp4 Arson 3 -1", r"frames 3 to -1 are not an interval"),
            ("a.mp4 Normal 3 9", r"dat:1: a.mp4 is Normal but has anomalous frames: give"),
            ("video,class\na.mp4,Arson,1.5,2", r"dat:2: frame '1.5' is not an integer"),
            ("video,class\na.mp4,Arson,1", r"dat:2: an end is missing"),
            ("video,class\na.mp4", r"dat:2: a.mp4 has no class"),
            ("video,class\n,Arson", r"dat:2: the row has no video"),
            ("video,class\na.mp4,,3,4", r"dat:2: '' is not a class for a.mp4"),
            ("Abuse/a, b.mp4\n", r"dat:1: 'b.mp4' is not a class for Abuse/a"),
            ('video,class\n"a.mp4,Arson\n', r"dat:2: broken CSV .*check the quotation marks"),
            ("a.mp4,Arson\na.mp4,Abuse", r"a.mp4 is Arson at .*dat:1 but Abuse at .*dat:2: corr"),
            ("a.mp4,arson\nb.mp4,Arson", r"'arson' \(.*dat:1\) and 'Arson' \(.*dat:2\) differ on"),
        ],
    )
    def test_content(self, load, text, match):
        with pytest.raises(AnnotationError, match=match):
            load(text)

    def test_contradicting_files(self, load):
        with pytest.raises(
            AnnotationError, match=r"is Arson at .*file0.dat:1 but Abuse at .*file1"
        ):
            load("A/a.mp4,Arson", "A/a.mp4,Abuse")
        with pytest.raises(
            AnnotationError, match=r"different anomalous frames at .*0.dat:1 and at"
        ):
            load("a.mp4,Arson,1,2", "a.mp4,Arson,1,3")

    def test_paths(self, tmp_path):
        with pytest.raises(AnnotationError, match=r"cannot be read .*: check the path"):
            load_annotations([tmp_path / "absent.txt"])
        with pytest.raises(
            AnnotationError, match=r"holds no frame-level truth .*: give the annotation f"
        ):
            load_annotations([tmp_path])

    def test_video_without_folder(self):
        with pytest.raises(AnnotationError, match=r"a.mp4 has no class: put the video into a fol"):
            labels_from_folders(["Normal/b.mp4", "a.mp4"])

    def test_unknown_class(self):
        with pytest.raises(
            UnknownClassError, match=r"class 'Flood' of a.mp4 .* Normal, Abuse, Arr"
        ):
            class_index(UCF_CRIME, "Flood", "a.mp4")


class TestClasses:
    def test_normal_is_always_the_first(self):
        annotations = labels_from_folders(["B/1", "Abnormal/2", "Normal/3", "B/4"])
        assert class_names_of(annotations) == ("Normal", "Abnormal", "B")
        assert class_names_of(annotations[:1]) == ("Normal", "B")
        assert class_index(UCF_CRIME, "Normal") == 0
        assert class_index(UCF_CRIME, "Vandalism") == 13

    @pytest.mark.parametrize(
        "name",
        [
            "Normal",
            "NORMAL",
            "normals",
            "Training-Normal-Videos-Part-1",
            "Training-Normal-Videos-Part-2",
            "Training_Normal_Videos_Anomaly",
            "Testing_Normal_Videos_Anomaly",
            "Testing_Normal_Videos",
            "Normal_Videos_event",
            "Normal_Videos_for_Event_Recognition",
            "NormalVideos",
            "normalvideos",
            "0_Normal",
            "Normal_1",
            "train_normal",
            "normal.clips",
            "validation-normal",
        ],
    )
    def test_names_that_mean_normal(self, name):
        assert canonical_class(name) == "Normal"
        assert canonical_class(name.replace("_", " ")) == "Normal"

    @pytest.mark.parametrize(
        "name",
        [
            "Abnormal",
            "AbnormalVideos",
            "Abnormal_1",
            "Testing_Abnormal_Videos",
            "Anomaly",
            "Normal_Anomaly",
            "Normal_and_Abnormal",
            "NonNormal",
            "Not-Normal",
            "Paranormal",
            "NormalDriving",
            "Anomaly-Videos-Part-1",
            "Event",
            "Videos",
            "Test",
        ],
    )
    def test_names_that_do_not(self, name):
        assert canonical_class(name) == name

    def test_published_classes_are_beyond_doubt(self):
        for names in (UCF_CRIME, XD_VIOLENCE, ("B1", "B2", "Type 1", "Type 2", "Abnormal")):
            assert doubtful_classes(names) == []
            assert {canonical_class(name) for name in names} == set(names)

    def test_classes_that_sound_normal_or_alike_are_named(self, caplog):
        folders = "Normal NormalDriving RoadAccidents Road_Accident Arson Shooting-Part-1 Shooting"
        with caplog.at_level("WARNING", "vigil"):
            labels_from_folders([f"{folder}/a.mp4" for folder in folders.split()])
        assert [message.split(":")[0] for message in caplog.messages] == [
            "the class 'NormalDriving' counts as an anomaly, although its name sounds normal",
            "'RoadAccidents' and 'Road_Accident' count as different classes, although their names "
            "are alike",
            "'Shooting' and 'Shooting-Part-1' count as different classes, although their names "
            "are alike",
        ]

    def test_a_class_in_two_normal_forms_is_one_class(self):
        names = [unicodedata.normalize(form, "Überfall") for form in ("NFC", "NFD")]
        assert names[0] != names[1]
        labels = labels_from_folders([f"{name}/a.mp4" for name in names])
        assert class_names_of(labels) == ("Normal", names[0])
        assert class_index(("Normal", names[1]), names[0]) == 1


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\."), min_size=1
)


class TestMatching:
    @given(
        st.lists(st.tuples(st.sampled_from("ab"), NAMES), min_size=1, max_size=4),
        st.sampled_from(["NFC", "NFD"]),
        st.sampled_from(["NFC", "NFD"]),
        st.booleans(),
    )
    def test_names_match_in_any_normal_form(self, paths, form, other_form, with_extension):
        paths = {unicodedata.normalize("NFC", name): (folder, name) for folder, name in paths}
        ending = ".mp4" if with_extension else ""
        videos = [unicodedata.normalize(form, f"{a}/{name}.mp4") for a, name in paths.values()]
        names = [unicodedata.normalize(other_form, f"{name}{ending}") for _, name in paths.values()]
        matching = match_videos([Annotation(name, "Arson", None) for name in names], videos)
        assert sorted(matching.annotations) == sorted(videos)
        assert matching.missing == matching.extra == ()

    def test_a_name_that_is_the_same_to_the_byte_comes_first(self):
        videos = [unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD")]
        labels = [Annotation(v, c, None) for v, c in zip(videos, ("Arson", "Abuse"), strict=True)]
        matching = match_videos(labels, videos)
        assert [matching.annotations[v].class_name for v in videos] == ["Arson", "Abuse"]

    def test_the_real_label_in_another_form(self, shared_data):
        labels = load_annotations([shared_data / "trouble" / "nfc.csv"])
        video = unicodedata.normalize("NFC", labels[0].video)
        matching = match_videos(labels, [video, "UPPER.MP4"])
        assert matching.annotations[video].class_name == "Fighting"
        assert matching.missing == matching.extra == ()

    @staticmethod
    def match(annotated, videos):
        annotations = [Annotation(video, name, None) for video, name in annotated.items()]
        return match_videos(annotations, videos)

    @pytest.mark.parametrize(
        ("annotated", "video"),
        [
            ("Arson/a.mp4", "Arson/a.mp4"),
            ("a.mp4", "Arson/a.mp4"),
            ("a", "Arson/a.mp4"),
            ("a.2021.01", "Arson/a.2021.01.mp4"),
            ("Arson/a.mp4", "a.mp4"),
            ("Arson/a.mp4", "a.avi"),
            ("Arson/a.mp4", "test/Arson/a.mp4"),
            ("/home/me/Arson/a.mp4", "Arson/a.mp4"),
            ("Arson/a.mp4", "somewhere/a.mp4"),
        ],
    )
    def test_spellings_of_one_name(self, annotated, video):
        matching = self.match({annotated: "Arson"}, [video, "b.mp4"])
        assert matching.annotations == {video: Annotation(video, "Arson", None)}
        assert (matching.missing, matching.extra) == ((), ("b.mp4",))

    def test_equal_base_names_are_distinguished_by_folder(self):
        annotated = {"Arson/1.mp4": "Arson", "Normal/1.mp4": "Normal", "x/1.mp4": "Normal"}
        videos = ["in/Normal/1.mp4", "in/Arson/1.mp4", "in/x/1.mp4"]
        matching = self.match(annotated, videos)
        assert {v: a.class_name for v, a in matching.annotations.items()} == {
            "in/Arson/1.mp4": "Arson",
            "in/Normal/1.mp4": "Normal",
            "in/x/1.mp4": "Normal",
        }

    def test_a_missing_video_never_matches_one_of_another_class(self):
        matching = self.match({"Arson/1.mp4": "Arson", "2.mp4": "Arson"}, ["Normal/1.mp4", "2.mp4"])
        assert list(matching.annotations) == ["2.mp4"]
        assert (matching.missing, matching.extra) == (("Arson/1.mp4",), ("Normal/1.mp4",))

    def test_frames_without_a_class_match_any_folder_except_normal(self):
        annotations = [Annotation("Arson/1.mp4", "Arson", None), Annotation("1", "Anomaly", None)]
        matching = match_videos(annotations, ["x/Arson/1.mp4", "x/Normal/1.mp4"])
        assert list(matching.annotations) == ["x/Arson/1.mp4"]
        assert (matching.missing, matching.extra) == ((), ("x/Normal/1.mp4",))

    def test_the_worse_match_of_two_annotations_is_missing(self):
        annotated = {"x/1.mp4": "Arson", "y/1.mp4": "Abuse"}
        matching = self.match(annotated, ["in/y/1.mp4"])
        assert matching.annotations["in/y/1.mp4"].class_name == "Abuse"
        assert matching.missing == ("x/1.mp4",)

    def test_name_without_folder_adds_to_the_path(self):
        annotations = [
            Annotation("Arson/a.mp4", "Arson", None, "list:1"),
            Annotation("a.mp4", "Arson", (Interval(1, 2),), "temporal:1"),
        ]
        matching = match_videos(annotations, ["Arson/a.mp4"])
        assert matching.annotations["Arson/a.mp4"].intervals == (Interval(1, 2),)
        assert matching.missing == ()

    def test_contradicting_names(self):
        annotations = [
            Annotation("cam/a.mp4", "Arson", None, "list:1"),
            Annotation("a.mp4", "Abuse", None, "temporal:7"),
        ]
        with pytest.raises(AnnotationError, match=r"is Arson at list:1 but Abuse at temporal:7"):
            match_videos(annotations, ["cam/a.mp4"])

    def test_names_with_dots_are_not_cut(self):
        name = "City.of.God.2002__#{}_label_A"
        matching = self.match(
            {name.format(1): "Normal", name.format(2): "Normal"}, [name.format(1)]
        )
        assert matching.missing == (name.format(2),)

    def test_ambiguous_names(self):
        with pytest.raises(AnnotationError, match=r"\(a.mp4 matches x/a.mp4, y/a.mp4\): annotate"):
            self.match({"a.mp4": "Arson"}, ["y/a.mp4", "x/a.mp4"])
        named_twice = {"a.mp4": "Arson", "x/a.mp4": "Arson", "y/a.mp4": "Arson"}
        with pytest.raises(AnnotationError, match=r"\(a.mp4 matches x/a.mp4, y/a.mp4\): annotate"):
            self.match(named_twice, ["y/a.mp4", "x/a.mp4"])
        with pytest.raises(AnnotationError, match=r"x/a.mp4 is Abuse at .* but Arson at"):
            self.match({"a.mp4": "Arson", "x/a.mp4": "Abuse"}, ["y/a.mp4", "x/a.mp4"])

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_duplicate_name_resolves_to_the_path_in_another_list(self, reverse):
        name = "Normal_Videos_003_x264.mp4"
        tested, other = f"Testing_Normal_Videos_Anomaly/{name}", f"Normal_Videos_event/{name}"
        annotations = [
            Annotation(name, "Normal", (), "Temporal_Anomaly_Annotation.txt:1"),
            Annotation(tested, "Normal", (), "Anomaly_Test.txt:1"),
        ]
        matching = match_videos(annotations[:: -1 if reverse else 1], [other, tested])
        assert list(matching.annotations) == [tested]
        assert (matching.missing, matching.extra) == ((), (other,))
        assert matching.problems == [
            f"skipped 1 video with features but without an annotation: {other}"
        ]

    def test_nothing_fits(self):
        with pytest.raises(AnnotationError, match=r"none of the annotated videos \(a, b\).*\(c\)"):
            self.match({"a": "Arson", "b": "Arson"}, ["c"])

    def test_long_lists_of_names_are_cut(self):
        with pytest.raises(AnnotationError, match=r"\(0, 1, 2, 3 and 6 more\)"):
            self.match({str(number): "Arson" for number in range(10)}, ["x"])


class TestTruth:
    @given(
        st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=4),
        st.integers(0, 50),
    )
    def test_a_frame_is_anomalous_if_an_interval_contains_it(self, ranges, num_frames):
        intervals = tuple(Interval(start, start + length) for start, length in ranges)
        annotation = Annotation("a.mp4", "Arson", intervals)
        truth = frame_truth(annotation, num_frames)
        expected = [any(i.start <= f < i.stop for i in intervals) for f in range(num_frames)]
        assert truth.dtype == np.bool_
        assert truth.tolist() == expected
        needed = annotation.num_frames_needed
        assert frame_truth(annotation, needed).sum() == frame_truth(annotation, needed + 9).sum()

    def test_normal(self):
        assert not frame_truth(Annotation("a.mp4", "Normal", None), 5).any()

    def test_unknown(self):
        annotation = Annotation("a.mp4", "Arson", None, "list.txt:3")
        with pytest.raises(
            AnnotationError, match=r"Arson but has no annotated frames \(list.txt:3\): use"
        ):
            frame_truth(annotation, 5)

    def test_merge_keeps_what_is_known(self):
        unknown, known = (Annotation("a", "Arson", i) for i in (None, (Interval(1, 2),)))
        assert merge(unknown, known) == merge(known, unknown) == merge(known, known) == known


class TestVerdicts:
    """A reviewer's verdicts on events, as a report exports them, say what videos are."""

    HEADER = "video,start_frame,stop_frame,peak_score,class,events_in_video,verdict,true_class,note"

    def read(self, tmp_path, *lines):
        path = tmp_path / "verdicts.csv"
        path.write_text("\r\n".join([self.HEADER, *lines]) + "\r\n")
        return load_annotations([path])

    def test_a_right_event_gives_its_class_and_frames_if_all_are_reviewed(self, tmp_path):
        assert self.read(
            tmp_path,
            "in/a.mp4,10,20,0.7,Fighting,3,right,Fighting,",
            "in/a.mp4,30,40,0.9,Fighting,3,right,Arson,",
            'in/a.mp4,50,60,0.8,Fighting,3,wrong,,"a note, of\r\ntwo lines"',
            "b.mp4,10,20,0.7,Fighting,2,right,,",
        ) == [
            Annotation(
                "in/a.mp4",
                "Arson",
                (Interval(10, 20), Interval(30, 40)),
                other_classes=("Fighting",),
            ),
            Annotation("b.mp4", "Fighting", None),
        ]

    def test_a_video_is_normal_only_if_every_event_is_wrong(self, tmp_path, caplog):
        assert self.read(
            tmp_path,
            "a.mp4,10,20,0.7,Fighting,2,wrong,,",
            "a.mp4,30,40,0.7,Fighting,2,wrong,,",
            "b.mp4,10,20,0.7,Fighting,2,wrong,,",
            "c.mp4,10,20,0.7,Fighting,1,,,only a note",
        ) == [Annotation("a.mp4", "Normal", ())]
        assert "left out 2 videos without a right event" in caplog.text

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("a.mp4,10,20,0.7,Fighting,1,good,,", r":2: verdict 'good' is not right, wrong, or"),
            ("a.mp4,10,20,0.7,Fighting,1,right,Normal,", ":2: an event that is Normal is wrong"),
            (
                "a.mp4,x,20,0.7,Fighting,1,right,,",
                ":2: invalid literal .*export the verdicts",
            ),
            ("a.mp4,10,20", ":2: has more or fewer cells than the header"),
            ("a.mp4,10,20,0.7,Fighting,1,,,", "says of no video what it is"),
            ("a.mp4,20,20,0.7,Fighting,1,right,,", ":2: frames 20 to 20 are not an interval"),
        ],
    )
    def test_what_it_refuses(self, tmp_path, line, message):
        with pytest.raises(AnnotationError, match=message):
            self.read(tmp_path, line)

    def test_an_event_has_one_verdict(self, tmp_path):
        with pytest.raises(AnnotationError, match=r":3: repeats the event of .*:2"):
            self.read(tmp_path, *["a.mp4,1,2,0.7,Fighting,1,wrong,,"] * 2)

    def test_a_file_without_its_columns_is_refused(self, tmp_path):
        path = tmp_path / "verdicts.csv"
        path.write_text("video,verdict,events_in_video\na.mp4,right,1\n")
        with pytest.raises(AnnotationError, match="has no column start_frame"):
            load_annotations([path])
