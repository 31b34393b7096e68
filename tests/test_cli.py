"""The command line: commands, help, options, messages and exit codes."""

import errno
import importlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from builders import make_features, write_store
from commands import ROOT, run_python

from vigil.extract.networks.backbones import BACKBONES
from vigil.pipeline.cli import COMMANDS, main, parse
from vigil.pipeline.extraction import pretrained as weights
from vigil.pipeline.extraction import verification
from vigil.pipeline.recipe import Recipe, load_recipe

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
        ["extrct"],
        ["extract"],
        ["extract", "a"],
        ["extract", "a", "--out", "b", "--fast"],
        ["extract", "a", "--out", "b", "--segments", "x"],
        ["features"],
        ["train", "--seed"],
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

        monkeypatch.setattr(verification, "run_verify", talk)
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

        monkeypatch.setattr(verification, "run_verify", fail)
        assert main(["features", "verify", str(store)]) == code
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert re.search(message, said)

    def test_a_verbose_system_error_has_a_traceback(self, store, monkeypatch, capsys):
        def fail(_options):
            raise OSError("odd")

        monkeypatch.setattr(verification, "run_verify", fail)
        assert main(["features", "verify", str(store), "--verbose"]) == 1
        assert "Traceback" in capsys.readouterr().err

    def test_internal_errors_are_not_hidden(self, store, monkeypatch):
        def fail(_options):
            raise ZeroDivisionError

        monkeypatch.setattr(verification, "run_verify", fail)
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
        assert cells[:6] == ["c3d", "64", "112", "4 x 4096", "308", "Apache-2.0"]
        assert cells[7] == "no"

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
        assert main(["weights", "fetch", "i3d"]) == 2
        said = capsys.readouterr().err
        assert "could not be downloaded (no network): fetch https://" in said
        assert len(said.splitlines()) == 1
        assert main(["weights", "fetch", "clip"]) == 2


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
