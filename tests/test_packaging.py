"""The package is `vigil` and nothing else, and its names are those of this checkout."""

import ast
import configparser
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import ROOT, run_python
from setuptools import find_packages

REFERENCE = re.compile(r"`((?:extract|data|model|pipeline)\.(?!safetensors)[\w.]+)`")
FOLDERS = ("extract", "data", "model", "pipeline")


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def python_files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_names_resolve_to_this_checkout(name):
    link = ROOT / "vigil" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    module = importlib.import_module(f"vigil.{name}")
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent.relative_to(ROOT) for path in python_files(*FOLDERS)}
    expected = {"vigil", *(".".join(("vigil", *folder.parts)) for folder in folders)}
    assert set(find_packages(str(ROOT), include=["vigil*"])) == expected


@pytest.mark.slow
def test_the_wheel_holds_vigil_and_nothing_else(tmp_path):
    source = tmp_path / "source"  # a copy, since building leaves files beside it
    unwanted = shutil.ignore_patterns(".*", "build", "runs", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    options = ["--no-build-isolation", "--wheel-dir", tmp_path, source]
    subprocess.run([*command, *options], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"vigil/{path.relative_to(ROOT)}" for path in python_files(*FOLDERS)}
    data = "pipeline/**/*.html", "pipeline/starter_checkpoint/*", "configs/*.toml"
    data += ("pipeline/scoring/report_app/*", "pipeline/**/schema/*.json")
    expected |= {f"vigil/{path.relative_to(ROOT)}" for one in data for path in ROOT.glob(one)}
    assert names == {"vigil/__init__.py", "vigil/py.typed"} | expected


def test_no_module_is_imported_by_the_bare_name_of_its_folder():
    bare = re.compile(rf"\b(from|import)\b.*(?<![\w.])({'|'.join(FOLDERS)})\b")
    for path in python_files(*FOLDERS, "bench", "tests"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if bare.search(text) else ():
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names if name} & {*FOLDERS}, path


def test_names_in_docstrings_exist():
    """References such as `extract.locks.locked` are relative to the package."""
    for path in python_files(*FOLDERS, "bench"):
        for name in REFERENCE.findall(path.read_text()):
            pkgutil.resolve_name(f"vigil.{name}")


def test_it_works_beside_packages_of_the_same_names(tmp_path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not vigil's')")
    program = "import vigil.pipeline.cli, vigil.data.splits, vigil.model.methods"
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


def test_the_command_in_setup_cfg_exists(setup_cfg):
    scripts = setup_cfg["options.entry_points"]["console_scripts"].split()
    assert scripts == ["vigil", "=", "vigil.pipeline.cli:main"]
    module, _, function = scripts[-1].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_no_module_has_the_name_of_a_package():
    """`python pipeline/cli.py` puts pipeline/ first on the path, where it would hide that one."""
    files = python_files(*FOLDERS)
    assert not {path.stem for path in files} & {path.parent.name for path in files}


def test_files_that_are_not_python_are_packaged(setup_cfg):
    others = [
        path.relative_to(ROOT / "pipeline").as_posix()
        for path in (ROOT / "pipeline").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    patterns = setup_cfg["options.package_data"]["vigil.pipeline"].split()
    for name in others:
        assert any(Path(name).match(pattern) for pattern in patterns), name


def test_importing_has_no_side_effects(tmp_path):
    """No output, thread, folder or device."""
    script = (
        "import importlib, pkgutil, threading, vigil\n"
        "for module in pkgutil.walk_packages(vigil.__path__, 'vigil.'):\n"
        "    importlib.import_module(module.name)\n"
        "import sys, torch; assert not torch.cuda.is_initialized()\n"
        "assert 'ray' not in sys.modules\n"
        "assert threading.active_count() == 1"
    )
    places = {"VIGIL_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    run = run_python("-c", script, env=os.environ | places)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert [
        path.name for path in tmp_path.iterdir() if path.name not in (".config", ".cache")
    ] == []


def test_decoding_needs_no_torch():
    script = "import sys, vigil.extract.decode.reader; assert 'torch' not in sys.modules"
    assert run_python("-c", script).returncode == 0
