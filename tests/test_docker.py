"""The image of docker/Dockerfile consists of what is here, in the versions that are tested."""

import configparser
import json
import re
import shlex

import pytest
from commands import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]  # type: ignore[misc]


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def arguments_of(name: str, instructions: list[tuple[str, str]]) -> list[str]:
    return [arguments for one, arguments in instructions if one == name]


def sent() -> set[str]:
    """What .dockerignore leaves of the checkout."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    return {rule[1:] for rule in rules if rule.startswith("!")}


def test_what_is_copied_exists(instructions):
    copied = [shlex.split(one)[:-1] for one in arguments_of("COPY", instructions)]
    assert ["."] in copied
    for name in (*sent(), *(name for names in copied for name in names)):
        assert (ROOT / name).exists(), name
        assert name in (".", *sent())


def test_the_package_is_sent_and_nothing_else(setup_cfg):
    folders = {link.readlink().name for link in (ROOT / "vigil").iterdir() if link.is_symlink()}
    metadata = setup_cfg["metadata"]
    files = {metadata["license_files"], metadata["long_description"].removeprefix("file: ")}
    files |= {"setup.cfg", "pyproject.toml", "constraints.txt"}
    assert sent() == {"vigil", *folders, *files}


def test_the_python_is_one_that_is_tested(instructions, setup_cfg):
    (base,) = arguments_of("FROM", instructions)
    python = re.match(r"python:(3\.\d+)-slim-\w+$", base)
    assert python
    assert Version(python[1]) in SpecifierSet(setup_cfg["options"]["python_requires"])
    assert python[1] in (ROOT / "constraints.txt").read_text().splitlines()[0]


def test_every_version_is_pinned(instructions, setup_cfg):
    installs = [one for one in arguments_of("RUN", instructions) if "pip install" in one]
    assert len(installs) == 3
    for one in installs:
        is_vigil_alone = "--no-deps" in one and " . " in one
        assert is_vigil_alone or "--constraint constraints.txt" in one
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    pins = {name.lower(): version for name, version in (line.split("==") for line in lines)}
    for text in setup_cfg["options"]["install_requires"].split():
        required = Requirement(text)
        assert Version(pins[required.name.lower()]) in required.specifier


def test_it_runs_vigil_without_privileges(instructions):
    (user,) = arguments_of("USER", instructions)
    (entry,) = arguments_of("ENTRYPOINT", instructions)
    (volume,) = arguments_of("VOLUME", instructions)
    (environment,) = arguments_of("ENV", instructions)
    assert json.loads(entry) == ["vigil"]
    assert int(user.split(":")[0]) > 0
    assert f"VIGIL_CACHE={volume}" in environment.split()
