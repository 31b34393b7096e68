"""Every example of docs/python.md runs, and so does the notebook."""

import ast
import json
import os
import re
import shutil

import pytest
from commands import ROOT, run_python

import vigil
from vigil.data.synthetic.corpus import SyntheticConfig, generate

PAGE = (ROOT / "docs" / "python.md").read_text()
NOTEBOOK = json.loads((ROOT / "docs" / "vigil.ipynb").read_text())
CODE = ["".join(one["source"]) for one in NOTEBOOK["cells"] if one["cell_type"] == "code"]


def run_in(folder, *programs):
    """Run programs one after the other in one namespace, in a process that works in a folder."""
    script = folder / "program.py"
    script.write_text("\n".join([f"import os; os.chdir({str(folder)!r})", *programs]))
    places = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    return run_python(script, env=os.environ | places)


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    generate(SyntheticConfig(2, 2, 20, 30, 160, 120), tmp_path / "videos")
    features = tmp_path / "features"
    made_with = {"weights": "random", "endpoint": "MaxPool3d_2a_3x3", "keep_clips": True}
    vigil.extract(tmp_path / "videos", features, device="cpu", workers=0, **made_with)
    vigil.train(features, None, tmp_path / "runs" / "mine", epochs=1, lstm_size=4, device="cpu")
    shutil.copytree(features, tmp_path / "results" / "features")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == PAGE.count("```") / 2 == 6
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks), {})
    said = capsys.readouterr().out
    assert "please correct: " in said
    assert "six" in said.splitlines()[-1]
    assert "(1, 32, " in said


def test_the_page_names_every_function_and_nothing_else():
    assert set(re.findall(r"vigil\.(\w+)\(", PAGE)) <= {*vigil.__all__}
    for name in vigil.__all__:
        if name[0].islower():
            assert re.search(rf"`{name}\(", PAGE), name


def test_the_notebook_is_one_without_outputs():
    cells = NOTEBOOK["cells"]
    assert (NOTEBOOK["nbformat"], len(cells)) == (4, 10)
    assert len({one["id"] for one in cells}) == 10
    for cell in cells:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    for code in CODE:
        ast.parse(code)
        assert max(map(len, code.splitlines())) <= 100


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    last = "assert len(results.videos) == 3 and not results.failures and shares[-1] == 1"
    ran = run_in(tmp_path, *CODE, last)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "runs" / "notebook" / "results" / "report.html").is_file()
