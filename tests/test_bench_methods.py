"""A table of methods: trained, evaluated, resumed, and open about what is missing."""

import json
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
from builders import make_features, write_store

from vigil.extract.errors import UserError
from vigil.pipeline import cli
from vigil.pipeline.evaluation.command import run_evaluate
from vigil.pipeline.options import BenchMethodsOptions, EvaluateOptions
from vigil.pipeline.recipe import read_toml
from vigil.pipeline.tables.command import run_bench_methods
from vigil.pipeline.tables.method_table import load_table, recipe_of_row

# The figures of `trained` are drawn in full, since it is made before a test's own fixtures.
pytestmark = pytest.mark.usefixtures("rough_figures")
CONFIGS = Path(__file__).parent.parent / "configs"

RECIPE = """
[model]
lstm_size = 4
attention_size = 4
detection_size = 4
second_attention_size = 2
classification_size = 4
[training]
epochs = 1
learning_rate = 1e-2
"""
TABLE = """
title = "Two methods"
seeds = 2
reference = "joint"
[[rows]]
name = "joint"
recipe = "recipe.toml"
published = {frame_auc = 0.8212}
[[rows]]
name = "joint without LSTM"
recipe = "recipe.toml"
[rows.changes.model]
temporal = false
"""


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features, labels, a recipe and a table."""
    folder = tmp_path_factory.mktemp("untrained")
    rows, videos = [], []
    for name in ("Normal", "Fighting"):
        for index in range(12):
            video = make_features(f"{name}/{index}.mp4", seed=index + 100 * (name == "Normal"))
            if name == "Fighting":
                video.features[:, 3, 0] += 4
            videos.append(video)
            rows.append(f"{name}/{index}.mp4,{name}" + (",30,40" if name == "Fighting" else ",,"))
    write_store(folder / "features", *videos)
    (folder / "labels.csv").write_text(
        "video,class,start_frame,end_frame\n" + "\n".join(rows) + "\n"
    )
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "table.toml").write_text(TABLE)
    return folder


@pytest.fixture(scope="module")
def trained(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder with all runs, the table and the printed output."""
    folder = tmp_path_factory.mktemp("trained") / "all"
    shutil.copytree(untrained, folder)
    with redirect_stdout(StringIO()) as said:
        assert run_bench_methods(options_in(folder)) == 0
    (folder / "said").write_text(said.getvalue())
    return folder


@pytest.fixture
def options(untrained: Path, tmp_path: Path) -> BenchMethodsOptions:
    """Options for a copy of `untrained` in which a test may make the table."""
    return options_in(Path(shutil.copytree(untrained, tmp_path / "table")))


@pytest.fixture
def done(trained: Path, tmp_path: Path) -> BenchMethodsOptions:
    """Options for a copy of `trained` that a test may change."""
    return options_in(Path(shutil.copytree(trained, tmp_path / "table")))


def options_in(folder: Path) -> BenchMethodsOptions:
    return BenchMethodsOptions(
        folder / "features",
        folder / "table.toml",
        folder / "out",
        (folder / "labels.csv",),
        test_share=0.4,
        device="cpu",
        bootstrap=20,
    )


def test_every_row_and_seed_is_trained_evaluated_and_shown(trained: Path) -> None:
    options = options_in(trained)
    text = (trained / "said").read_text()
    assert text == (options.out / "table.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "# Two methods"
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["joint", "joint without LSTM"]
    assert "0.821" in lines[4]
    content = json.loads((options.out / "table.json").read_text())
    assert [row["num_runs"] for row in content["rows"]] == [2, 2]
    for row in ("joint", "joint-without-lstm"):
        for seed in ("0", "1"):
            run = options.out / "runs" / row / seed
            names = {video["video"] for video in read(run / "judged" / "best" / "scores.json")}
            splits = json.loads((run / "splits.json").read_text())
            assert len(names) == 10
            assert not names & (splits["train"].keys() | splits["validation"].keys())


def test_other_measures_are_shown_without_a_new_training(done: BenchMethodsOptions) -> None:
    before = (done.out / "table.md").read_text().splitlines()
    shown = 'measures = ["frame_ap", "frame_auc"]\nreference'
    table = TABLE.replace("reference", shown).replace("0.8212}", "0.8212, frame_ap = 0.7781}")
    done.config.write_text(table)
    with patch("vigil.pipeline.tables.runs.train_model", side_effect=AssertionError):
        run_bench_methods(done)
    after = (done.out / "table.md").read_text().splitlines()
    heads, _, row, other = (line.split(" | ") for line in after[2:])
    assert heads[2:8] == [
        "frame AP",
        "95 %",
        "last epoch",
        "frame AUC",
        "95 %",
        "published frame AP",
    ]
    assert row[5:7] == before[4].split(" | ")[2:4]
    assert row[7:9] == ["0.778", "0.821"]
    assert other[-1] != " |"
    content = json.loads((done.out / "table.json").read_text())
    assert content["rows"][0]["best"].keys() == {"frame_ap", "frame_auc"}


def test_alarms_are_shown_and_counted_in_scores_of_an_earlier_version(
    done: BenchMethodsOptions,
) -> None:
    paths = sorted((done.out / "runs").rglob("judged/*/scores.json"))
    for path in paths:
        content = json.loads(path.read_text())
        for video in content["videos"]:
            assert video.pop("alarms")["seconds"] > 0
        path.write_text(json.dumps(content))
    shown = 'measures = ["false_alarms_per_hour", "event_recall", "frame_auc"]\nreference'
    done.config.write_text(TABLE.replace("reference", shown))
    with patch("vigil.pipeline.tables.runs.train_model", side_effect=AssertionError):
        run_bench_methods(done)
    assert all("alarms" in video for path in paths for video in read(path))
    heads, _, *rows = (
        line.split(" | ") for line in (done.out / "table.md").read_text().splitlines()[2:]
    )
    assert heads[2] == "false alarms per hour (lower is better)"
    own, other = (float(row[2].split()[0]) for row in rows)
    reference = next(row for row in rows if row[-1] == " |")
    sign = 1 if reference is rows[0] else -1
    step = next(row[-1] for row in rows if row[-1] != " |")
    assert float(step.split()[0]) == pytest.approx(sign * (other - own), abs=0.002)


def test_the_tables_that_come_with_vigil_can_be_made() -> None:
    tables = [path for path in CONFIGS.glob("*.toml") if "rows" in read_toml(path)]
    assert len(tables) >= 5
    for path in tables:
        config = load_table(path)
        for row in config.rows:
            recipe_of_row(config, row, path)


def read(path: Path) -> list[dict[str, object]]:
    videos: list[dict[str, object]] = json.loads(path.read_text())["videos"]
    return videos


def test_features_in_a_file_give_the_same_table(done: BenchMethodsOptions) -> None:
    streamed = replace(done, out=done.out.with_name("streamed"), memory_gib=0)
    run_bench_methods(streamed)
    assert (streamed.out / "table.md").read_text() == (done.out / "table.md").read_text()


def test_it_resumes_where_it_stopped(done: BenchMethodsOptions) -> None:
    shutil.rmtree(done.out / "runs" / "joint-without-lstm")
    config = done.out / "runs" / "joint" / "0" / "last" / "config.json"
    written = config.stat().st_mtime_ns
    for only, rows in ((("joint",), ["joint"]), ((), ["joint", "joint without LSTM"])):
        run_bench_methods(replace(done, only=only))
        table = json.loads((done.out / "table.json").read_text())
        assert [row["name"] for row in table["rows"]] == rows
        assert config.stat().st_mtime_ns == written


def test_changed_settings_are_refused_or_trained_anew(done: BenchMethodsOptions) -> None:
    recipe = done.config.with_name("recipe.toml")
    recipe.write_text(RECIPE.replace("epochs = 1", "epochs = 2"))
    with pytest.raises(UserError, match="has other settings: train it again with --overwrite"):
        run_bench_methods(done)
    run_bench_methods(replace(done, overwrite=True, only=("joint",)))
    config = json.loads((done.out / "runs" / "joint" / "1" / "last" / "config.json").read_text())
    assert config["epoch"] == 2


def test_changed_labels_or_features_are_detected(done: BenchMethodsOptions) -> None:
    labels = done.annotations[0]
    labels.write_text(labels.read_text().replace("30,40", "30,50"))
    with pytest.raises(UserError, match="was made from other features, labels or views: train it"):
        run_bench_methods(done)
    with pytest.raises(UserError, match="was made from other features, labels or views: train it"):
        run_bench_methods(replace(done, test_share=0.5))


def test_an_interrupted_training_does_not_count_as_done(done: BenchMethodsOptions) -> None:
    recipe = done.config.with_name("recipe.toml")
    recipe.write_text(RECIPE.replace("epochs = 1", "epochs = 3"))
    with (
        patch("vigil.pipeline.training.loop.train_epoch", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        run_bench_methods(replace(done, overwrite=True))
    run_bench_methods(replace(done, overwrite=True, only=("joint",)))
    config = json.loads((done.out / "runs" / "joint" / "0" / "last" / "config.json").read_text())
    assert config["epoch"] == 3


def test_a_diverged_training_affects_only_its_own_row(done: BenchMethodsOptions) -> None:
    shutil.rmtree(done.out / "runs" / "joint-without-lstm")
    done.config.write_text(TABLE + "[rows.changes.training]\nlearning_rate = 1e30\nepochs = 3\n")
    assert run_bench_methods(done) == 3
    rows = json.loads((done.out / "table.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["joint"]
    alone = replace(done, out=done.config.parent / "alone", only=("joint without LSTM",))
    with pytest.raises(UserError, match="nothing to tabulate, because every training failed"):
        run_bench_methods(alone)


def test_training_on_test_videos_is_refused(options: BenchMethodsOptions) -> None:
    same = replace(
        options,
        test_share=None,
        test_features=options.features,
        test_annotations=options.annotations,
    )
    with pytest.raises(UserError, match=r"24 test videos would be trained on, .*name the train"):
        run_bench_methods(same)
    assert not (options.out / "runs").exists()


def test_an_evaluation_does_not_disturb_the_table(done: BenchMethodsOptions) -> None:
    table = (done.out / "table.md").read_text()
    run = done.out / "runs" / "joint" / "0"
    run_evaluate(EvaluateOptions(run, done.features, done.annotations, which="last", bootstrap=5))
    run_bench_methods(done)
    assert (done.out / "table.md").read_text() == table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "title"),
        ('title = "a"', "a table needs rows whose names differ"),
        (TABLE + '[[rows]]\nname = "Joint"\nrecipe = "recipe.toml"', "rows whose names differ"),
        (TABLE.replace('reference = "joint"', 'reference = "x"'), "'x' is not a row: use one of"),
        (TABLE.replace("temporal", "temporary"), "temporary is unknown: the settings are"),
        (TABLE + "colour = 3", "colour"),
        (
            TABLE.replace("frame_auc =", "auc ="),
            "'auc' is not a measure: use frame_auc, frame_ap",
        ),
        (
            TABLE.replace("frame_auc =", "frame_ap ="),
            "'joint' has a published frame_ap: add it to measures",
        ),
        ("measures = []" + TABLE, "measures needs at least one of frame_auc, frame_ap"),
    ],
)
def test_errors_in_a_table_are_located(
    options: BenchMethodsOptions, table: str, message: str
) -> None:
    options.config.write_text(table)
    with pytest.raises(UserError, match=message):
        run_bench_methods(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_share": None}, "give --test-features with --test-annotations, or --test-share"),
        ({"test_share": 1.0}, "--test-share 1 is not a share: use one above 0 and below 1"),
        ({"annotations": ()}, "--test-share needs --annotations"),
        ({"bootstrap": 0}, "bootstrap 0 is below 1: give a number of resamples"),
        ({"only": ("svm",)}, "the table has no row svm: use joint, joint without LSTM"),
    ],
)
def test_wrong_usage_is_reported(
    options: BenchMethodsOptions, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        cli.run(replace(options, **change))  # type: ignore[arg-type]
