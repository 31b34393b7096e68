"""`import vigil`: the Python API."""

import ast
import inspect
import json
import os
import re
import shutil
import tempfile
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from builders import CLASS_NAMES, make_features, write_checkpoint, write_store, write_toy_store
from commands import ROOT, run_python

import vigil
from vigil.data.synthetic.corpus import SyntheticConfig, generate
from vigil.extract.errors import FailedVideo
from vigil.extract.store import list_features
from vigil.pipeline import api, cli, keywords
from vigil.pipeline.arguments import parse
from vigil.pipeline.checkpoint import load_checkpoint
from vigil.pipeline.commands import defaults_of, option_types
from vigil.pipeline.keywords import in_keywords, options_of, parameters_of
from vigil.pipeline.options import (
    EvaluateOptions,
    ExplainOptions,
    ExtractOptions,
    LogOptions,
    ScoreOptions,
    TrainOptions,
)
from vigil.pipeline.progress import Progress
from vigil.pipeline.recipe import Recipe, load_recipe
from vigil.pipeline.scoring.results import read_results
from vigil.pipeline.text_files import read_csv
from vigil.pipeline.usage import HELP_FLAGS, SHORT_FLAGS, Accepted

OPTIONS = {
    "score": ScoreOptions,
    "extract": ExtractOptions,
    "train": TrainOptions,
    "evaluate": EvaluateOptions,
    "explain": ExplainOptions,
}
NUM_VIDEOS = 6
CPU = {"device": "cpu", "workers": 0}
RANDOM = {"weights": "random", "endpoint": "MaxPool3d_2a_3x3", **CPU}
TINY = {"lstm_size": 4, "attention_size": 4, "epochs": 2, "device": "cpu", "num_anomalous": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    generate(SyntheticConfig(2, 2, 20, 30, 160, 120), folder)
    return folder


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    """A run trained on the features of the corpus, in `features` beside it."""
    folder = tmp_path_factory.mktemp("run")
    seen: list[Progress] = []
    features = folder / "features"
    report = vigil.extract(corpus, features, keep_clips=True, progress=seen.append, **RANDOM)
    assert len(report.extracted) == NUM_VIDEOS
    assert {one.stage for one in seen} == {"extracting"}
    assert (seen[-1].done, seen[-1].total, seen[-1].share) == (NUM_VIDEOS, NUM_VIDEOS, 1)
    vigil.train(features, None, folder / "run", validation_folds=0, **TINY)
    return folder / "run"


@pytest.fixture
def results_folder(run, tmp_path) -> Path:
    """A folder of results that holds the features already."""
    shutil.copytree(run.parent / "features", tmp_path / "results" / "features")
    return tmp_path / "results"


def test_importing_it_is_cheap():
    script = (
        "import sys, vigil; print(dir(vigil))\n"
        "names = {'torch', 'numpy', 'h5py', 'rich', 'tyro', 'dacite', 'vigil.pipeline'}\n"
        "print(names & set(sys.modules))"
    )
    run = run_python("-c", script)
    assert run.stdout.splitlines() == [str(vigil.__all__), "set()"]
    assert run.stderr == ""


def test_every_name_is_there():
    assert vigil.__all__ == api.__all__ == sorted(api.__all__)
    for name in vigil.__all__:
        if name != "extract":
            assert getattr(vigil, name) is getattr(api, name)
    assert inspect.getdoc(vigil.score)
    with pytest.raises(AttributeError, match="module 'vigil' has no attribute 'scor'"):
        _ = vigil.scor


def test_the_names_are_typed(tmp_path):
    assert (ROOT / "vigil" / "py.typed").is_file()
    program = tmp_path / "program.py"
    program.write_text(
        "import vigil\n"
        "from vigil import extract\n"
        "reveal_type(vigil.score('videos', 'run').videos[0].events[0].start_seconds)\n"
        "reveal_type(vigil.extract('videos', 'features').failures)\n"
        "reveal_type(extract('videos', 'features').failures)\n"
        "reveal_type(vigil.evaluate('run', 'features', 'labels').measures['maa'].low)\n"
    )
    # With the settings of `make types`, what that has checked is not checked again.
    checked = run_python("-m", "mypy", program, env=os.environ | {"MYPYPATH": str(ROOT)})
    types = [line.split('"')[1] for line in checked.stdout.splitlines() if '"' in line]
    failures = "list[vigil.extract.errors.FailedVideo]"
    expected = ["float", failures, failures, "float | None"]
    assert [one.replace("builtins.", "") for one in types] == expected, checked.stdout


# What a function takes


@pytest.mark.parametrize("name", OPTIONS)
def test_the_keywords_are_the_fields_of_the_options(name):
    """The same names and defaults as on the command line, whose sections have no prefix there."""

    def leaves(kind):
        for one in fields(kind):
            hint = get_type_hints(kind)[one.name]
            if hint is Recipe:
                recipe = Recipe()
                yield "method", recipe.method
                for section in (recipe.model, recipe.loss, recipe.training, recipe.features):
                    yield from asdict(section).items()
            elif is_dataclass(hint):
                yield from () if hint is LogOptions else leaves(hint)
            elif one.name != "dry_run":
                yield one.name, inspect.Parameter.empty if one.default is MISSING else one.default

    signature = inspect.signature(getattr(api, name))
    expected = dict(leaves(OPTIONS[name]))
    assert signature.parameters.keys() - {"progress"} == expected.keys()
    named = {"videos", "video", "checkpoint", "out", "run", "progress"}
    named |= {"features", "annotations"} if name != "explain" else set()
    for keyword, parameter in signature.parameters.items():
        if keyword not in named:
            assert parameter.default == expected[keyword]
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


def test_keywords_and_flags_make_the_same_options():
    def flags(line):
        return parse(line.split())

    assert options_of(
        ScoreOptions,
        {
            "videos": (path for path in [Path("a")]),
            "checkpoint": "run",
            "out": Path("out"),
            "threshold": 0.7,
            "span": 30,
            "workers": 2,
            "max_damage": 0.1,
            "weights": Path("w.pt"),
            "min_seconds": 2,
        },
        "score",
    ) == flags(
        "score a --checkpoint run --out out --threshold 0.7 --span 30 --workers 2 "
        "--max-damage 0.1 --weights w.pt --min-seconds 2"
    )
    config = ROOT / "configs" / "small.toml"
    given = {"features": "f", "out": "o", "annotations": ["a", "b"], "config": str(config)}
    assert options_of(TrainOptions, {**given, "epochs": 3, "seed": 1}, "train") == flags(
        f"train f --out o --annotations a b --config {config} --epochs 3 --seed 1"
    )
    given = {"features": "f", "out": "o", "annotations": None, "method": "svm"}
    assert options_of(TrainOptions, given, "train") == flags("train f --out o --method svm")
    assert load_recipe(config) != Recipe()


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        ("score", {"treshold": 1}, r"score\(\) .* argument 'treshold': did you mean threshold\?"),
        ("extract", {"segment": 8}, "did you mean segments"),
        ("extract", {"xyz": 8}, "it takes videos, out, backbone, .*input_fps$"),
        ("extract", {"dry_run": True}, "no dry_run, .* what a command prints"),
        ("score", {"quiet": True}, 'messages go to logging.getLogger."vigil".'),
        ("train", {"epoch": 1}, "did you mean epochs"),
        ("train", {"method": "svm", "lstm_size": 1}, "argument 'lstm_size': it takes features"),
        ("evaluate", {"boostrap": 1}, "did you mean bootstrap"),
        ("explain", {"class": 1}, "did you mean class_name"),
    ],
)
def test_an_unknown_keyword_is_refused(function, given, said):
    with pytest.raises(TypeError, match=said):
        options_of(OPTIONS[function], given, function)


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        ("score", {"which": "first"}, "score: which = 'first' .* Literal.'best', 'last'."),
        ("score", {"overwrite": "no"}, "overwrite = 'no' is not allowed: it must be bool"),
        ("score", {"join_seconds": True}, "join_seconds = .* must be float"),
        ("score", {"workers": 1.5}, "workers = 1.5 "),
        ("score", {"checkpoint": 3}, "checkpoint = 3 .*Path"),
        ("extract", {"segments": True}, "segments = .* must be int"),
        ("train", {"config": 3}, "config = 3 "),
        ("train", {"config": "none.toml"}, "none.toml cannot be read"),
        ("train", {"config": "a.toml", "method": "svm"}, "already determines the method"),
        ("train", {"method": "none"}, "method 'none' is unknown"),
        ("train", {"epochs": 1.5}, "train, section .training.: epochs = 1.5 .* whole number"),
        ("train", {"dropout": 3}, "dropout"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(function, given, said):
    required = {
        name: "x"
        for name, one in parameters_of(OPTIONS[function]).items()
        if one.default is inspect.Parameter.empty
    }
    with pytest.raises(vigil.UserError, match=said):
        options_of(OPTIONS[function], {**required, **given}, function)


def test_only_what_a_command_prints_is_not_a_keyword():
    names = {one.name for kind in OPTIONS.values() for one in fields(kind)}
    assert set(keywords.ONLY_COMMANDS) <= names


# What a function says


@pytest.mark.parametrize("name", OPTIONS)
def test_every_flag_is_said_as_a_keyword(name):
    accepted = Accepted.by(defaults_of(OPTIONS[name], Recipe())).flags
    of_commands = {f"--{one.name}".replace("_", "-") for one in fields(LogOptions)}
    of_commands |= {*HELP_FLAGS, *SHORT_FLAGS.values(), "--dry-run"}
    for flag in accepted.keys() - of_commands:
        keyword = flag.removeprefix("--no-").removeprefix("--").replace("-", "_")
        assert keyword in inspect.signature(getattr(api, name)).parameters
        said = keyword if accepted[flag] else f"{keyword}={not flag.startswith('--no-')}"
        assert in_keywords(f"{flag} 3 is ({flag}): {flag}.", api.KEYWORDS) == (
            f"{said} 3 is ({said}): {said}."
        )


@pytest.mark.parametrize(
    "message",
    [
        "give the numbers with --num-frames",  # of vigil features import
        "'--out' would be read as a flag",
        "/videos/--out/a.mp4 and b--out and --out/a.mp4 and --out.mp4 and --out-of-place",
    ],
)
def test_what_is_no_flag_of_a_function_is_said_as_it_is(message):
    assert in_keywords(message, api.KEYWORDS) == message


def test_messages_name_flags_that_exist():
    known = {flag for kind in option_types() for flag in Accepted.by(defaults_of(kind[1])).flags}
    of_recipes = {f"--{one}".replace("_", "-") for one in parameters_of(TrainOptions)}
    found = set()
    for folder in ("data", "extract", "model", "pipeline"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error"):
                    ours = re.sub("pip install [^'\"]*", "", ast.unparse(node))
                    found |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours))
    assert len(found) > 20
    assert found <= known | of_recipes


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        ("score", {"keep_share": 2}, "keep_share 2 is not a share: use 0 to 1, such as 0.5"),
        ("score", {"compile": True, "views": "whole"}, "compile=True compiles .* out for views wh"),
        ("extract", {"stall_seconds": 0.5}, "stall_seconds 0.5 is less than 1"),
        ("extract", {"max_damage": 10}, "max_damage '10' is not a share of frames: use 10% or 0.1"),
        ("train", {"resume": True, "overwrite": True}, "resume=True .* overwrite=True starts ove"),
        ("train", {"config": "small", "method": "svm"}, "config already .*: leave out method$"),
        ("train", {"memory_gib": -1}, "memory_gib -1 is not in"),
        ("evaluate", {"bootstrap": -1}, "bootstrap -1 is negative"),
    ],
)
def test_a_message_names_what_the_caller_typed(function, given, said, tmp_path):
    (tmp_path / "a.h5").touch()
    places = {"score": 1, "extract": 2, "train": 2, "evaluate": 3}[function]
    arguments = [tmp_path, None, tmp_path / "out"] if function == "train" else [tmp_path] * places
    with pytest.raises(vigil.UserError, match=f"^{said}"):
        getattr(vigil, function)(*arguments, **given)


# What a function does


def test_it_scores_as_the_command_does(corpus, run, results_folder, capsys):
    seen: list[Progress] = []
    results = vigil.score(corpus, run, results_folder, progress=seen.append, threshold=0.4, **CPU)
    assert capsys.readouterr() == ("", "")
    assert [(one.stage, one.done) for one in seen] == [
        ("scoring", number) for number in range(NUM_VIDEOS + 1)
    ]
    by_function = vigil.load_results(results_folder)
    assert by_function.videos == results.videos
    words = ["score", corpus, "--checkpoint", run, "--out", results_folder, "--threshold", "0.4"]
    assert cli.main([*map(str, words), "--device", "cpu", "--workers", "0"]) == 0
    by_command = read_results(results_folder)
    assert by_function.videos == by_command.videos
    assert by_function.failures == by_command.failures == ()
    assert by_function.manifest["settings"] == by_command.manifest["settings"]


def test_without_a_folder_it_keeps_no_files(corpus, run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (video,) = (corpus / "Explosion").glob("*000*")
    results = vigil.score(video, run, threshold="0", **CPU)
    assert [one.video for one in results.videos] == [video.name]
    assert results.videos[0].source == str(video)
    assert results.manifest["settings"]["thumbnails"] is False
    assert list(tmp_path.iterdir()) == []


def test_the_tables_are_those_of_the_files(corpus, run, results_folder):
    results = vigil.score(corpus, run, results_folder, threshold=0, **CPU)
    rows = read_csv(results_folder / "summary.csv")
    assert len(rows) == len(results.table()) == NUM_VIDEOS
    for ours, theirs in zip(results.table(), rows, strict=True):
        for name in ("label_probability", "peak_score", "event_seconds", "duration_seconds"):
            assert ours[name] == pytest.approx(float(theirs[name]), abs=1e-3)
        assert (ours["video"], ours["label"]) == (theirs["video"], theirs["label"])
        assert ours["num_events"] == int(theirs["num_events"])
        assert "; ".join(ours["warnings"]) == theirs["warnings"]
        assert ours["failure"] is None
    events = read_csv(results_folder / "events.csv")
    assert len(events) == len(results.event_table()) > 0
    for ours, theirs in zip(results.event_table(), events, strict=True):
        assert (ours["video"], ours["class_name"]) == (theirs["video"], theirs["class"])
        assert ours["start_frame"] == int(theirs["start_frame"])
        assert ours["stop_seconds"] == pytest.approx(float(theirs["stop_seconds"]), abs=1e-3)
    json.dumps([results.table(), results.event_table()])


def test_videos_that_fail_are_in_the_result(corpus, run, results_folder, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    report = vigil.extract([broken], tmp_path / "features", **RANDOM)
    assert [one.video for one in report.failures] == ["broken.mp4"]
    results = vigil.score([corpus, broken], run, results_folder, **CPU)
    assert len(results.videos) == NUM_VIDEOS
    (failed,) = results.failures
    assert isinstance(failed, FailedVideo)
    assert results.table()[-1].keys() == results.table()[0].keys()
    assert results.table()[-1] == dict.fromkeys(results.table()[0]) | {
        "video": "broken.mp4",
        "failure": failed.reason,
    }
    alone = vigil.score(broken, run, **CPU)
    assert (alone.videos, alone.failures) == ((), (failed,))
    assert alone.table()[0].keys() == results.table()[0].keys()


def test_it_trains_and_evaluates_as_the_commands_do(tmp_path, capsys):
    features = write_toy_store(tmp_path / "features", {"Normal": 4, "Arson": 3, "Fighting": 3})
    labels = tmp_path / "labels.csv"
    lines = ["video,class,start_frame,end_frame"]
    lines += [f"{name},{name.split('/')[0]},30,50" for name in list_features(features)]
    labels.write_text("\n".join(line.replace("Normal,30,50", "Normal,,") for line in lines) + "\n")
    seen: list[Progress] = []
    trained = vigil.train(features, labels, tmp_path / "a", progress=seen.append, **TINY)
    assert [(one.stage, one.done, one.share) for one in seen] == [
        ("training", 1, 0.5),
        ("training", 2, 1.0),
    ]
    evaluated = vigil.evaluate(tmp_path / "a", str(features), labels, bootstrap=10, device="cpu")
    assert capsys.readouterr() == ("", "")

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    words = ["train", features, "--out", tmp_path / "b", "--annotations", labels, *flags]
    assert cli.main(list(map(str, words))) == 0
    by_command = load_checkpoint(tmp_path / "b")
    assert trained.model_digest == by_command.model_digest
    assert trained.config.metrics == by_command.config.metrics
    capsys.readouterr()
    words = ["evaluate", tmp_path / "b", features, "--annotations", labels, "--bootstrap", "10"]
    assert cli.main([*map(str, words), "--device", "cpu"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    for name, measure in evaluated.measures.items():
        shown = "undefined" if measure.value is None else f"{measure.value:.4f}"
        assert printed[name] == shown
    assert evaluated.class_names == CLASS_NAMES
    assert len(evaluated.videos) == 10
    assert (evaluated.folder / "metrics.json").is_file()


def test_files_are_read(tmp_path):
    store = write_store(tmp_path / "features", make_features("a.mp4"))
    features = vigil.load_features(str(store / "a.mp4.h5"))
    assert features.features.shape == make_features("a.mp4").features.shape
    run = write_checkpoint(tmp_path / "run", threshold=0.25)
    assert vigil.load_checkpoint(str(run)).config.threshold == 0.25
    for load in (vigil.load_features, vigil.load_checkpoint, vigil.load_results):
        with pytest.raises(vigil.UserError, match="nothing"):
            load(tmp_path / "nothing")


def test_what_can_be_put_right_is_a_user_error(tmp_path, run):
    with pytest.raises(vigil.UserError, match="none"):
        vigil.score(tmp_path / "none", run)
    with pytest.raises(vigil.UserError, match="holds no checkpoint"):
        vigil.score(tmp_path, tmp_path)
    with pytest.raises(vigil.UserError, match="keep_share 2"):
        vigil.score(tmp_path, run, keep_share=2)
    with pytest.raises(vigil.UserError, match="is not a folder of features"):
        vigil.train(tmp_path / "none", None, tmp_path / "out")


def test_an_error_of_the_listener_reaches_the_caller(corpus, run, results_folder):
    def stop(progress):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        vigil.score(corpus, run, results_folder, progress=stop, **CPU)
    assert vigil.score(corpus, run, results_folder, **CPU).failures == ()


def test_a_script_scores_in_silence_unless_it_asks_for_messages(corpus, run, tmp_path):
    """Its top level calls vigil: the decoding processes must not run it again."""
    script = tmp_path / "script.py"
    path = next((corpus / "Explosion").glob("*.mp4"))
    call = f"vigil.score({str(path)!r}, {str(run)!r}, device='cpu', workers=1)"
    program = f"import vigil\nassert len({call}.videos) == 1\n"
    ask = "import logging, sys\nprint('asked', file=sys.stderr)\nlogging.basicConfig(level=20)\n"
    script.write_text(program + ask + program)
    ran = run_python(script, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    before, after = ran.stderr.split("asked\n")
    assert before == ""
    assert "1 extracted" in after
    assert "weights are RANDOM" in after
