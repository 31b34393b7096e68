"""What `make` runs."""

import os
import subprocess

import pytest
from commands import ROOT


@pytest.fixture
def dry_run(tmp_path):
    """Return a function that returns what a target would run in a folder, with joined lines."""
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()

    def call(*arguments, **environment):
        command = ["make", "--dry-run", "--file", str(ROOT / "Makefile"), *arguments]
        given = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
        ran = subprocess.run(
            command, cwd=tmp_path, env=given | environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        return " ".join(ran.stdout.replace("\\\n", " ").split())

    return call


def test_scoring_takes_the_run_that_is_named(dry_run):
    for given in (("RUN=runs/mine",), ()):
        said = dry_run("score", *given, **({} if given else {"RUN": "runs/mine"}))
        assert said.endswith("score videos --out results --checkpoint runs/mine")


def test_scoring_takes_the_default_run_if_it_was_trained_and_else_the_starter(dry_run, tmp_path):
    assert dry_run("score").endswith("score videos --out results")
    (tmp_path / "runs" / "default").mkdir(parents=True)
    assert dry_run("score").endswith("score videos --out results --checkpoint runs/default")


def test_every_target_is_phony():
    lines = (ROOT / "Makefile").read_text().splitlines()
    targets = {line.split(":")[0] for line in lines if line[:1].islower() and ": " in line}
    (phony,) = (line.split()[1:] for line in lines if line.startswith(".PHONY"))
    assert targets == set(phony)
