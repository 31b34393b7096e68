"""Malicious names, links and files, through whole commands.

docs/security.md describes each threat.
"""

import csv
import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import make_features, write_checkpoint, write_store
from commands import ROOT
from fake_backbone import BACKBONE
from report_files import read_index
from test_report import read_page
from video_files import draw_frames, encode

from vigil.data.annotations import Annotation
from vigil.data.splits import hold_out
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.store import feature_path, list_features, read_features, verify_features
from vigil.pipeline.cli import main
from vigil.pipeline.logs import printable, set_up_logging
from vigil.pipeline.options import LogOptions
from vigil.pipeline.scores.plots import plot_video
from vigil.pipeline.scoring.report.page import SCRIPTS
from vigil.pipeline.scoring.results import read_result, result_path

NAMES = [
    "-rf.mp4",
    "two\nlines.mp4",
    "cr\rlf\r\n.mp4",
    "\x1b[31mred\x1b[0m\x07.mp4",
    "[bold red]x[/].mp4",
    ":smile:.mp4",
    "<script>alert(1)<\\script>.mp4",
    '\'" onload=alert(1) x=".mp4',
    "javascript:alert(1).mp4",
    "file:a|b.mp4",
    "$(touch x);`id`&.mp4",
    "{{ 7 * 7 }}%s%(a)s{0}.mp4",
    "frame%03d.mp4",
    "=cmd(),\t+1.mp4",
    "☃ ünï\u202egpj.mp4",
    "half \ud83d.mp4".encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape"),
    "latin \udce4.mp4",
    " space .mp4",
    "a...mp4",
    "a..b/~/c....mp4",
    "manifest.mp4",
    "x" * 246 + ".mp4",
]
TOO_LONG = {"y" * 247 + ".mp4", "z" * 251 + ".mp4"}
"""The first is too long for a result file, the second for a feature file, too."""


@pytest.fixture
def vigil(monkeypatch, capfd):
    """Run a command with the fake backbone; return (exit code, stdout, stderr)."""
    monkeypatch.setitem(BACKBONES, "fake", BACKBONE)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


EXTRACT = ["--backbone", "fake", "--weights", "random", "--segments", "8"]
COMPUTE = ["--precision", "fp32", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("video") / "a.mp4", draw_frames(3))


def failures_in(folder):
    with (folder / "failures.csv").open(newline="", errors="surrogateescape") as file:
        return {row["video"]: row["reason"] for row in csv.DictReader(file)}


def lines_of(text):
    """Return the lines, all of which must be printable."""
    lines = text.split("\n")
    assert all(map(str.isprintable, lines))
    return lines


def copies(folder, video, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path)
    return folder


def test_hostile_names_go_through_every_command_unharmed(tmp_path, video, vigil):
    store, results, log = (tmp_path / name for name in ("features", "results", "log.json"))
    videos = copies(tmp_path / "videos", video, [*NAMES, *TOO_LONG])
    code, out, _ = vigil("extract", videos, "--out", store, *EXTRACT, *COMPUTE, "--dry-run")
    assert code == 0
    assert {f"extract {printable(name)}" for name in [*NAMES, *TOO_LONG]} < set(lines_of(out))
    logging = ("--verbose", "--log-json", log)
    code, _, said = vigil(
        "extract", videos, "--out", store, *EXTRACT, *COMPUTE, "--workers", 1, *logging
    )
    assert code == 3
    assert lines_of(said)
    assert all(map(json.loads, log.read_text(encoding="ascii").splitlines()))
    assert set(failures_in(store)) == {"z" * 251 + ".mp4"}
    assert sorted(list_features(store)) == sorted({*NAMES, "y" * 247 + ".mp4"})

    run = checkpoint_for(store, tmp_path)
    code, out, said = vigil("score", videos, "--checkpoint", run, "--out", results, *COMPUTE)
    assert code == 3
    assert lines_of(out + said)
    assert set(failures_in(results)) == TOO_LONG
    for name in NAMES:
        assert read_result(result_path(results, name)).video == name
        assert verify_features(feature_path(results / "features", name))
    page = read_page(Path(out.splitlines()[-1]))
    assert page.tags.count("script") == len(SCRIPTS) + 1
    index = read_index(results)
    shown = {row["video"] for row in [*index["videos"], *index["failures"]]}
    assert shown == {*NAMES, *TOO_LONG}

    for command in ("show", "verify"):
        code, out, said = vigil("features", command, store)
        assert code == 0
        assert lines_of(out + said)
    assert vigil("report", results)[0] == 0
    folders = (videos, store, results, run)
    others = {path for path in tmp_path.rglob("*") if not any(map(path.is_relative_to, folders))}
    assert others == {log}


def checkpoint_for(store, folder):
    spec = read_features(next(iter(list_features(store).values()))).spec
    random = {"weights_name": "random:0", "weights_trained": False}
    return write_checkpoint(folder / "run", spec=spec, **random)


def test_conflicting_names_stop_no_other_video(tmp_path, video, vigil):
    names = ["a.mp4", "a.mp4.h5/b.mp4", "a.mp4.json/c.mp4", "manifest", "d.mp4"]
    videos = copies(tmp_path / "videos", video, names)
    store, results = tmp_path / "features", tmp_path / "results"
    given = (videos, videos / "manifest")
    code, _, _ = vigil("extract", *given, "--out", store, *EXTRACT, *COMPUTE)
    assert code == 3
    ((first, reason),) = failures_in(store).items()
    assert first in names[:2]
    assert reason.endswith(": rename the video")
    arguments = ("--checkpoint", checkpoint_for(store, tmp_path), "--out", results, *COMPUTE)
    code, _, _ = vigil("score", *given, *arguments)
    failures = failures_in(results)
    assert code == 3
    assert (results / "d.mp4.json").is_file()
    assert failures["manifest"].endswith(
        "is reserved for the list of all results: rename the video"
    )
    assert {name for name in names if (results / f"{name}.json").is_file()} == (
        set(names) - set(failures) | {"manifest"}
    )
    assert vigil("report", results)[0] == 0


def test_links_and_pipes_are_failures_that_stop_no_other_video(tmp_path, video, vigil):
    videos = copies(tmp_path / "videos", video, ["a.mp4"])
    (videos / "out.mp4").symlink_to(video)
    (videos / "folder").symlink_to(video.parent)
    os.mkfifo(videos / "pipe.mp4")
    store = tmp_path / "features"
    extract = ("extract", videos, "--out", store, *EXTRACT, *COMPUTE)
    code, _, said = vigil(*extract)
    assert code == 3
    assert set(failures_in(store)) == {"out.mp4", "pipe.mp4"}
    assert "WARNING: skipped 1 linked folder" in said
    assert "ERROR: out.mp4: the link leads out of" in said
    assert vigil(*extract, "--follow-links")[0] == 3
    assert set(failures_in(store)) == {"pipe.mp4"}
    assert sorted(list_features(store)) == ["a.mp4", "out.mp4"]
    (videos / "a.mp4").unlink()
    (videos / "out.mp4").unlink()
    assert vigil(*extract)[0] == 4


@pytest.mark.parametrize("is_terminal", [False, True])
def test_messages_escape_control_characters_and_markup(is_terminal, monkeypatch, capsys):
    name = "[bold red]x[/] :smile:\x1b]0;title\x07\x1b[2J\r\nINFO: all is well\u202e \udcff"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    set_up_logging(LogOptions())
    logging.getLogger("vigil.test").error("%s: no video", name)
    said = capsys.readouterr().err
    if is_terminal:  # our own colours, and lines as wide as the terminal
        said = re.sub(r"\x1b\[[\d;]*m", "", said)
    assert "".join(printable(name).split()) in "".join(said.split())
    assert lines_of(said)
    assert is_terminal or said.count("\n") == 1


def test_printable_loses_nothing():
    text = "".join(map(chr, range(0x3000))) + "\udcff\U0001f600"
    shown = printable(text)
    assert shown.isprintable()
    plain = text.replace("\\", "")  # an original backslash looks like one of an escape
    assert printable(plain).encode("raw_unicode_escape").decode("unicode_escape") == plain


def test_text_from_a_feature_file_is_shown_escaped(tmp_path, vigil):
    hostile = {"decoder": "\x1b[31m", "precision": ":x:[b]", "versions": {"a\nb": "\x9b2J"}}
    path = feature_path(write_store(tmp_path, make_features("a.mp4", **hostile)), "a.mp4")
    for argument in (tmp_path, path):
        code, out, _ = vigil("features", "show", argument)
        assert code == 0
        assert r"\x1b[31m" in "".join(lines_of(out))
        assert ":x:[b]" in out


def test_a_video_of_any_name_can_be_held_out_and_plotted(tmp_path):
    names = [f"{name}/{number}" for name in NAMES for number in range(2)]
    split = hold_out([Annotation(name, "Normal", ()) for name in names], 0.5, seed=0)
    assert {*split.train, *split.validation} == set(names)
    curves, frames = {"score": np.array([0.1, 0.2])}, np.array([[0, 5], [5, 10]])
    plot_video(tmp_path / "a.png", "".join(NAMES[:-1]), curves, frames, None)
    assert (tmp_path / "a.png").is_file()


def test_no_shell_no_program_from_files():
    """The list below names the exceptions, and docs/security.md explains them."""
    suspicious = r"os\.(system|popen|exec)|subprocess|(?<!\.)\b(eval|exec)\(|allow_pickle"
    suspicious += r"|pickle\.(?:load|Unpickler)"
    suspicious += r"|torch\.load(?!\(path, map_location=\"cpu\", weights_only=True\))|shell="
    found = [
        (path.name, match[0])
        for package in ("extract", "data", "model", "pipeline")
        for path in sorted((ROOT / package).rglob("*.py"))
        for match in re.finditer(suspicious, path.read_text())
    ]
    assert list(dict.fromkeys(found)) == [
        ("device.py", "pickle.load"),
        ("package_weights.py", "subprocess"),
        ("package_weights.py", "pickle.Unpickler"),
        ("node.py", "pickle.load"),
        ("program.py", "subprocess"),
    ]
    assert "| safe" not in (ROOT / "pipeline/templates/report.html").read_text()
