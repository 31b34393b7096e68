"""`vigil reproduce` and the page of a table: everything in one command, on generated features."""

import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from builders import make_features, write_store
from video_files import draw_frames, encode

from bench import rehearsal
from vigil.data.annotations import load_annotations
from vigil.data.published_datasets import DATASETS, PublishedDataset, Subset
from vigil.extract.errors import UserError
from vigil.extract.store import verify_features
from vigil.pipeline import cli
from vigil.pipeline.arguments import parse
from vigil.pipeline.chains import reproduction
from vigil.pipeline.cli import main
from vigil.pipeline.options import BenchMethodsOptions, DatasetCheckOptions, ExtractOptions
from vigil.pipeline.tables.method_table import load_table, recipe_of_row
from vigil.pipeline.text_files import read_json

ROOT = Path(__file__).parent.parent
TABLE_1 = ROOT / "configs" / "table1.toml"
SMALL = PublishedDataset(
    "Small",
    "https://nowhere/",
    (Subset("train", 6, 6, ("train.txt",)), Subset("test", 3, 3, ("test.txt",), ("truth.txt",))),
)
RECIPE = """
[model]
lstm_size = 4
attention_size = 4
detection_size = 4
second_attention_size = 2
classification_size = 4
[training]
epochs = 1
"""
HOSTILE = '<script src="http://x/">alert(1)</script>{{ 7 * 7 }}'
TABLE = f"""
title = "Small & simple"
seeds = 2
reference = "joint"
[[rows]]
name = "joint"
recipe = "recipe.toml"
published = {{frame_auc = 0.8212, maa = 0.341}}
[[rows]]
name = '{HOSTILE}'
recipe = "recipe.toml"
[rows.changes.model]
temporal = false
"""
TRAIN = [f"{name}/{name}{index}.mp4" for name in ("Normal", "Arson") for index in range(6)]
TEST = [f"{name}/{name}{index}.mp4" for name in ("Normal", "Arson") for index in range(6, 9)]


def set_up(folder, monkeypatch):
    """Write a small dataset's lists, a table and a recipe into a folder, and change to it."""
    monkeypatch.setitem(DATASETS, "small", SMALL)
    monkeypatch.chdir(folder)
    Path("train.txt").write_text("\n".join(TRAIN))
    Path("test.txt").write_text("\n".join(TEST))
    truth = [f"{Path(n).name} {Path(n).parent} 20 40 -1 -1" for n in TEST[3:]]
    truth += [f"{Path(n).name} Normal -1 -1 -1 -1" for n in TEST[:3]]
    Path("truth.txt").write_text("\n".join(truth))
    Path("table.toml").write_text(TABLE)
    Path("recipe.toml").write_text(RECIPE)


@pytest.fixture(autouse=True)
def lists(monkeypatch, tmp_path, rough_figures):
    set_up(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("drawn") / "features", TRAIN + TEST)


@pytest.fixture
def features(generated, tmp_path):
    return Path(shutil.copytree(generated, tmp_path / "features"))


def generate(folder, names):
    videos = [make_features(name, seed=index) for index, name in enumerate(names)]
    for video in videos:
        if video.video.path.startswith("Arson"):
            video.features[:, 2:4, 0] += 4
    return write_store(folder, *videos)


@pytest.fixture
def reproduce(capsys):
    """Run the command; return (exit code, standard output, standard error)."""

    def run(*arguments, source=("--features", "features")):
        return main(command(*source, *arguments)), *capsys.readouterr()

    return run


def command(*arguments):
    words = (
        "reproduce small --annotations train.txt test.txt truth.txt --config table.toml --out out"
    )
    words += " --views center,top_left --bootstrap 20 --device cpu"
    return [*words.split(), *arguments]


@pytest.fixture(scope="module")
def done(generated, tmp_path_factory):
    """A folder in which the command ran; its files `said` and `noted` are stdout and stderr."""
    folder = tmp_path_factory.mktemp("done") / "all"
    folder.mkdir()
    shutil.copytree(generated, folder / "features")
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        redirect_stdout(StringIO()) as said,
        redirect_stderr(StringIO()) as noted,
    ):
        set_up(folder, monkeypatch)
        assert main(command("--features", "features")) == 0
    (folder / "said").write_text(said.getvalue())
    (folder / "noted").write_text(noted.getvalue())
    return folder


@pytest.fixture
def out(done):
    """The output folder of `done`."""
    return done / "out"


class TestReproduce:
    def test_from_features_to_the_page(self, done, out):
        said = (done / "said").read_text()
        assert said.startswith((out / "table.md").read_text())
        assert f"page {Path('out/table.html')}" in said
        assert re.findall(r"^(\w+)_seconds \d+$", said, re.MULTILINE) == ["check", "table"]
        commands = re.findall(r"\$ vigil (\S+ \S+)", (done / "noted").read_text())
        assert commands == ["dataset check", "bench-methods features"]
        for row in ("joint", "script-src-http-x-alert-1-script-7-7"):
            for seed in "01":
                run = out / "runs" / row / seed
                splits = read_json(run / "splits.json")
                assert splits["train"].keys() | splits["validation"].keys() == set(TRAIN)
                scores = read_json(run / "judged" / "best" / "scores.json")
                assert {video["video"] for video in scores["videos"]} == set(TEST)
            assert (out / "figures" / row / "roc.png").is_file()

    def test_it_resumes_where_it_stopped(self, done, reproduce, tmp_path):
        shutil.copytree(done, tmp_path, dirs_exist_ok=True)
        shutil.rmtree(Path("out/runs/script-src-http-x-alert-1-script-7-7"))
        assert reproduce("--only", "joint")[0] == 0
        done = Path("out/runs/joint/0/last/config.json")
        written = done.stat().st_mtime_ns
        assert "Not trained yet: &lt;script" in Path("out/table.html").read_text()
        assert reproduce()[0] == 0
        assert done.stat().st_mtime_ns == written
        assert "Not trained yet" not in Path("out/table.html").read_text()

    def test_missing_videos_stop_it_unless_they_are_allowed(self, reproduce, tmp_path):
        generate(tmp_path / "features", TRAIN[1:] + TEST)
        code, _, err = reproduce()
        assert code == 3
        assert "missing train Normal/Normal0.mp4: no such video" in err
        assert "--allow-missing" in err
        assert not Path("out/runs").exists()
        assert reproduce("--allow-missing", "--only", "joint")[0] == 0
        assert "The dataset was incomplete: missing 1 (see" in Path("out/table.html").read_text()

    def test_the_logged_commands_are_those_that_ran(self, features, reproduce, monkeypatch):
        ran = []
        run = cli.run
        monkeypatch.setattr(cli, "run", lambda options: ran.append(options) or run(options))
        Path("features").rename("all 'features'")
        code, _, err = reproduce("--only", HOSTILE, source=("--features", "all 'features'"))
        assert code == 0
        lines = re.findall(r"\$ vigil (.*)", err)
        assert [parse(shlex.split(line)) for line in lines] == ran[1:]
        assert [type(one) for one in ran[1:]] == [DatasetCheckOptions, BenchMethodsOptions]

    def test_damaged_features_are_named(self, features, reproduce):
        (features / "Arson" / "Arson7.mp4.h5").write_bytes(b"nothing")
        code, _, err = reproduce()
        assert code == 3
        assert "unreadable test Arson/Arson7.mp4" in err

    def test_from_videos(self, reproduce, monkeypatch, tmp_path):
        encode(tmp_path / "one.mp4", draw_frames(80))
        for name in TRAIN + TEST:
            (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "one.mp4", tmp_path / "videos" / name)
        asked = []

        def extract(options, logs):
            if not isinstance(options, ExtractOptions):
                return run_step(options, logs)
            asked.append(options)
            generate(Path("out/features"), TRAIN + TEST[1:])
            return 3  # one of them failed

        run_step = reproduction.run_step
        monkeypatch.setattr(reproduction, "run_step", extract)
        source = ("--videos", "videos")
        code, _, err = reproduce("--weights", "random", source=source)
        assert code == 3, err
        assert not Path("out/runs").exists()
        flags = "--weights random --allow-missing --only joint --memory-gib 0"
        code, out, err = reproduce(*flags.split(), source=source)
        assert code == 0, err
        assert "--memory-gib 0.0" in err
        flags = "--out out/features --views center,top_left --weights random --device cpu"
        assert asked == 2 * [parse(["extract", "videos", *flags.split()])]
        assert "1 of its videos have no features" in Path("out/table.html").read_text()
        assert re.findall(r"^(\w+)_seconds", out, re.MULTILINE) == ["check", "extract", "table"]


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ((), "give either --videos or --features"),
            (("--videos", "a", "--features", "features"), "give either --videos or --features"),
            (("--features", "nowhere"), "nowhere is not a folder of features"),
            (("--videos", "nowhere"), "nowhere"),
        ],
    )
    def test_the_source(self, features, reproduce, source, message):
        code, _, err = reproduce(source=source)
        assert code == 2
        assert message in err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--views", "five"), "lacks the views bottom_left, bottom_right, top_right"),
            (("--train-views", "top_right"), "top_right of --train-views is not among --views"),
            (("--only", "svm"), "the table has no row svm"),
        ],
    )
    def test_flags(self, features, reproduce, arguments, message):
        code, _, err = reproduce(*arguments)
        assert code == 2
        assert message in err
        assert not Path("out/runs").exists()

    def test_missing_lists(self, features, capsys):
        command = ["reproduce", "small", "--features", "features", "--config", "table.toml"]
        assert main([*command, "--views", "center", "--annotations", "truth.txt"]) == 3
        err = capsys.readouterr().err
        assert "annotations train: no train.txt (from https://nowhere/)" in err
        command += ["--views", "center", "--annotations", "test.txt", "truth.txt"]
        assert main([*command, "--allow-missing"]) == 2
        err = capsys.readouterr().err
        assert "no list states which videos are in the train part: name its official list" in err

    def test_an_unknown_dataset(self, features, capsys):
        assert main(["reproduce", "large", "--features", "features"]) == 2
        assert "no dataset 'large': use one of ucf_crime" in capsys.readouterr().err

    def test_a_missing_recipe(self, features, reproduce):
        Path("table.toml").write_text(TABLE.replace('"recipe.toml"', '"svm.toml"', 1))
        code, _, err = reproduce()
        assert code == 2
        assert "the recipe of row 'joint' of table.toml: svm.toml cannot be read" in err
        assert not Path("out").exists()

    def test_rows_that_need_clips(self, features, reproduce):
        Path("recipe.toml").write_text(RECIPE + '[features]\npooling = "positions"\n')
        code, _, err = reproduce()
        assert code == 2
        assert "was extracted without --keep-clips, which joint, <script" in err


class Page(HTMLParser):
    """What a browser would load, and the cells of all tables."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags, self.rows = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


class TestPage:
    @pytest.fixture
    def page(self, out):
        return (out / "table.html").read_text()

    def test_it_loads_nothing_and_escapes_names(self, page):
        read = Page(page)
        outside = [one for one in read.addresses if not one.startswith(("data:image/png;", "#"))]
        assert outside == []
        assert not read.tags & {"script", "link", "iframe", "object", "base"}
        assert "url(" not in page
        assert "@import" not in page
        assert "default-src 'none'" in page
        assert "{{ 7 * 7 }}" in page
        assert sum(one.startswith("data:image/png") for one in read.addresses) == 1 + 2 * 2

    def test_templates_escape_all_text(self):
        for template in (ROOT / "pipeline" / "templates").glob("*.html"):
            assert "safe" not in re.findall(r"\|\s*(\w+)", template.read_text()), template
            assert "autoescape" not in template.read_text()

    def test_every_row_with_its_figures(self, out, page):
        rows = {row[0]: row for row in Page(page).rows}
        for row in read_json(out / "table.json")["rows"]:
            cells = rows[row["name"]]
            assert cells[1] == "2"
            assert cells[2].startswith(f"{row['best']['frame_auc']['mean']:.3f}")
            assert cells[4] == f"{row['last']['frame_auc']['mean']:.3f}"
            assert cells[5].startswith(f"{row['best']['maa']['mean']:.3f}")
        assert [rows["joint"][3], rows["joint"][6]] == ["0.821", "0.341"]
        assert [rows[HOSTILE][3], rows[HOSTILE][6]] == ["", ""]

    def test_recalls_are_those_of_the_scores(self, out, page):
        shares = []
        for seed in "01":
            videos = read_json(out / "runs" / "joint" / seed / "judged" / "best" / "scores.json")[
                "videos"
            ]
            labels = [video["label"] for video in videos if video["class_name"] == "Arson"]
            shares.append(labels.count("Arson") / len(labels))
        (row,) = [row for row in Page(page).rows if row[0] == "Arson"]
        assert row[1:3] == ["3", f"{np.mean(shares):.3f}"]

    def test_it_describes_how_it_was_made(self, page):
        assert "Each checkpoint was evaluated on the test videos once" in " ".join(page.split())
        assert "trained on " in page
        assert "6 videos, 3 of them anomalous, 480 frames, views center,top_left" in page
        assert "loss.detection_weight = 0.9" in page
        assert "torch" in page


class TestPublishedTable:
    def test_the_figures_are_the_published_ones(self):
        rows = {row.name.split(":")[0]: row for row in load_table(TABLE_1).rows}
        assert {name: tuple(row.published.values()) for name, row in rows.items()} == {
            "SVM": (0.50,),
            "Hasan": (0.506,),
            "Lu": (0.6551,),
            "Sultani": (0.7541, 0.139),
            "Dubey": (0.7667,),
            "Zhang": (0.7866,),
            "Zhu": (0.79,),
            "Zhong": (0.8212,),
            "l1": (0.7862, 0.1466),
            "l2": (0.8014, 0.2002),
            "l3": (0.8039, 0.2768),
            "l4": (0.8212, 0.341),
            "RTFM": (0.843,),
            "UR-DMU": (0.8697,),
            "BN-WVAD": (0.8724,),
        }

    def test_the_ablation_adds_one_part_after_the_other(self):
        config = load_table(TABLE_1)
        parts = []
        for row in config.rows:
            if row.name.startswith("l"):
                model = recipe_of_row(config, row, TABLE_1).model
                names = ("temporal", "second_attention", "first_attention")
                parts.append([getattr(model, name) for name in names])
        yes, no = True, False
        assert parts == [[no, no, no], [yes, no, no], [yes, yes, no], [yes, yes, yes]]


class TestRehearsal:
    @pytest.fixture
    def options(self, tmp_path):
        folder = tmp_path / "lists"
        normal = "Normal_Videos_event/Normal_Videos_003_x264.mp4"
        content = {
            "Anomaly_Train.txt": "Abuse/Abuse001_x264.mp4\n"
            "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n",
            "Anomaly_Test.txt": "Vandalism/Vandalism007_x264.mp4\n"
            "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\n",
            "Temporal_Anomaly_Annotation.txt": "Vandalism007_x264.mp4 Vandalism 96 192 -1 -1\n"
            "Normal_Videos_003_x264.mp4 Normal -1 -1 -1 -1\n",
            "action_splits/test_001.txt": f"{normal}\n",
        }
        for name, text in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        np.save(folder / "Test_video_name_UCF.npy", ["Vandalism007_x264"])
        np.save(folder / "Test_frame_number_UCF.npy", np.array([320], np.int32))
        return rehearsal.Options(folder, tmp_path / "out", TABLE_1)

    def test_files_lie_as_in_the_archives(self, options, tmp_path):
        assert rehearsal.draw(options, tmp_path / "features") == 5
        assert rehearsal.draw(options, tmp_path / "features") == 0
        found = {
            path.relative_to(tmp_path / "features").as_posix(): verify_features(path)
            for path in (tmp_path / "features").rglob("*.h5")
        }
        assert {name: len(one.views) for name, one in found.items()} == {
            "Anomaly-Videos-Part-1/Abuse/Abuse001_x264.mp4.h5": 1,
            "Anomaly-Videos-Part-4/Vandalism/Vandalism007_x264.mp4.h5": 5,
            "Training-Normal-Videos-Part-1/Normal_Videos001_x264.mp4.h5": 1,
            "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4.h5": 5,
            "Normal_Videos_event/Normal_Videos_003_x264.mp4.h5": 5,
        }
        tested = found["Anomaly-Videos-Part-4/Vandalism/Vandalism007_x264.mp4.h5"]
        assert tested.num_frames_decoded == 320
        means = tested.features.astype(np.float64).mean(axis=(0, 2))
        is_higher = means > (means.min() + means.max()) / 2
        assert np.flatnonzero(is_higher).tolist() == list(
            range(10, 19)
        )  # of 10 frames each: 96 to 192
        assert not tested.weights_trained

    def test_its_table_has_the_chosen_rows_and_settings(self, options, tmp_path):
        path = tmp_path / "table.toml"
        path.write_text(rehearsal.table_of(options))
        config = load_table(path)
        assert [row.name for row in config.rows] == list(options.rows)
        assert config.rows[1].published == {"frame_auc": 0.8212, "maa": 0.341}
        recipe = recipe_of_row(config, config.rows[0], path)
        assert (recipe.training.epochs, recipe.model.lstm_size) == (5, 64)
        assert not recipe.model.temporal

    def test_an_unknown_row_is_refused(self, options):
        with pytest.raises(UserError, match="its rows are SVM, "):
            rehearsal.table_of(rehearsal.Options(options.annotations, options.out, TABLE_1, ("x",)))

    def test_all_official_names_are_placed(self, shared_data):
        folder = shared_data / "annotations" / "ucf"
        copies = rehearsal.copied_names(folder)
        assert len(copies) == 50
        names = [
            place
            for part, name in rehearsal.LISTS.items()
            for one in load_annotations([folder / name])
            for place in rehearsal.places(one, part, copies)
        ]
        assert len(set(names)) == 1610 + 290 + 50
        assert len(rehearsal.frame_counts(folder)) == 290
