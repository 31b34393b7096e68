"""bench/gpu/run.sh: what it refuses, and that no step stops the others."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "gpu" / "run.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def run(*arguments: str, python: Path) -> subprocess.CompletedProcess[str]:
    """Run the script with another program in the place of Python."""
    environment = {**os.environ, "PYTHON": str(python), "SECONDS_IN_ALL": "60"}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A program that fails at decoding, and writes the table of any other section."""
    path = tmp_path / "python"
    path.write_text(
        "#!/bin/bash\n"
        'echo "ran $*"\n'
        '[[ $* != *" decode "* ]] || exit 3\n'
        '[[ $* != *"--out "* ]] || echo "table of $3" > "${@: -1}"\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("arguments", [(), ("--dry",), ("out", "--fast"), ("out", "--dry", "more")])
def test_other_arguments_are_answered_with_the_help(arguments, python):
    result = run(*arguments, python=python)
    assert result.returncode == 2
    assert "bench/gpu/run.sh RESULTS [--dry]" in result.stdout


def test_without_a_gpu_nothing_is_measured(tmp_path):
    result = run(str(tmp_path / "out"), python=Path(shutil.which("false") or "false"))
    assert result.returncode == 2
    assert "use --dry" in result.stderr


def test_a_step_that_fails_does_not_stop_the_others(tmp_path, python):
    result = run(str(tmp_path / "out"), "--dry", python=python)
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert result.returncode == 1
    assert "decode: failed with 3: see decode.log" in summary
    for name, section in [("network-1", "network"), ("training", "training")]:
        assert f"{name}: ok" in summary
        assert f"table of {section}" in summary
    assert summary.count("ran -m pytest") == 1
