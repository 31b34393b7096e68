"""`vigil demo`: the commands that it runs and logs."""

import json
import re
import shlex

import pytest

from vigil.pipeline import cli
from vigil.pipeline.arguments import parse
from vigil.pipeline.chains import demo
from vigil.pipeline.evaluation.command import METRICS_NAME
from vigil.pipeline.options import (
    DemoOptions,
    EvaluateOptions,
    ExtractOptions,
    ScoreOptions,
    TrainOptions,
)

STEPS = (ExtractOptions, TrainOptions, ScoreOptions, EvaluateOptions)


def generate(config, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(config.num_normal):
        (folder / f"{number}.mp4").touch()


@pytest.fixture
def run_demo(monkeypatch, tmp_path, capsys):
    """Run the command without its steps; return (exit code, lines, standard error, steps)."""

    def run(*flags, failing=None):
        ran = []

        def step(options):
            if isinstance(options, DemoOptions):
                return demo.run_demo(options)
            ran.append(options)
            return 4 if type(options) is failing else 0

        monkeypatch.setattr(cli, "run", step)
        monkeypatch.setattr(demo, "generate", generate)
        folder = tmp_path / "it's here"
        metrics = folder / "run" / "evaluation" / METRICS_NAME
        metrics.parent.mkdir(parents=True, exist_ok=True)
        measures = {name: {"value": 0.5} for name in demo.VERDICT}
        metrics.write_text(json.dumps({"measures": measures}))
        code = cli.main(["demo", "--out", str(folder), "--weights", "random", *flags])
        said, noted = capsys.readouterr()
        return code, said.splitlines(), noted, ran

    return run


@pytest.mark.parametrize("flags", [(), ("--seed", "3"), ("--verbose",)])
def test_the_logged_commands_are_those_that_ran(run_demo, flags):
    code, lines, noted, ran = run_demo(*flags)
    assert code == 0
    assert lines[:2] == ["frame_auc 0.5000", "video_accuracy 0.5000"]
    logged = [
        parse([*shlex.split(line), *(one for one in flags if one == "--verbose")])
        for line in re.findall(r"\$ vigil (.*)", noted)
    ]
    assert logged == ran
    assert tuple(map(type, ran)) == STEPS


@pytest.mark.parametrize(
    ("weights", "endpoint"),
    [
        ("kinetics400", "AvgPool"),
        ("random", "MaxPool3d_2a_3x3"),
        ("a.pt", "MaxPool3d_2a_3x3"),
    ],
)
def test_only_trained_weights_of_the_whole_network_are_used_to_its_end(run_demo, weights, endpoint):
    _, lines, noted, ran = run_demo("--weights", weights)
    if weights == "kinetics400":  # those of the starter, which comes first
        assert (type(ran[0]), ran.pop(0).checkpoint) == (ScoreOptions, None)
    else:
        assert "the starter that ships with vigil is not shown: it needs kinetics400" in noted
    assert (ran[0].weights, ran[0].endpoint) == (weights, endpoint)
    assert f"weights {weights}" + (" (untrained)" if weights == "random" else "") in lines


@pytest.mark.parametrize("failing", STEPS)
def test_it_ends_with_the_first_step_that_fails(run_demo, failing):
    code, lines, _, ran = run_demo(failing=failing)
    assert (code, lines) == (4, [])
    assert type(ran[-1]) is failing
