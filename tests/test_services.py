"""The Compose file and the unit of systemd: what they run exists and does no more than it must."""

import configparser
import re
import shlex
import shutil
import subprocess

import pytest
from commands import ROOT, run_python

from vigil.pipeline.arguments import parse
from vigil.pipeline.commands import COMMANDS
from vigil.pipeline.doctor.software import EXTRAS
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.watching.metrics import Gauges, MetricsServer

UNIT = ROOT / "docs" / "vigil-watch.service"
COMPOSE = ROOT / "docker" / "compose.yaml"


def require_command(name):
    if name not in COMMANDS:
        pytest.skip(f"there is no command {name} yet")


@pytest.fixture(scope="module")
def services():
    """Name -> the service, with what it inherits."""
    yaml = pytest.importorskip("yaml", reason="PyYAML, which reads the Compose file, is not there")
    return yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.fixture(scope="module")
def unit():
    """The unit by section; a setting that is repeated counts with its last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(UNIT)
    return parser


@pytest.mark.parametrize("name", ["watch", "watch-cuda", "serve"])
def test_what_compose_runs_can_be_parsed(services, name):
    arguments = services[name]["command"]
    require_command(arguments[0])
    chosen = parse(arguments)
    if name.startswith("watch"):
        volumes = [one.rpartition("}")[2] for one in services[name]["volumes"]]
        assert ":/videos:ro" in volumes, "recordings are never written to"
        assert chosen.sources == ("/videos",)
        assert str(chosen.out) == "/results"
        assert chosen.metrics.startswith("127.0.0.1:")
        (check,) = services[name]["healthcheck"]["test"][3:]
        assert f"http://{chosen.metrics}/healthz" in check


def test_the_health_check_tells_a_camera_without_progress(services):
    (check,) = services["watch"]["healthcheck"]["test"][3:]
    now = [0.0]
    gauges = Gauges(lambda: now[0])
    gauges.expect("front", 60)
    server = MetricsServer("127.0.0.1:0", gauges)
    try:
        code = check.replace(":9108/", f":{server.port}/")
        assert run_python("-c", code).returncode == 0
        now[0] = 61.0
        late = run_python("-c", code)
    finally:
        server.close()
    assert late.returncode == 1
    assert "503" in late.stderr


def test_compose_confines_every_service(services):
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith("0")
        assert "privileged" not in service
        assert service["healthcheck"]["test"][:3] == ["CMD", "python", "-c"]
        compile(service["healthcheck"]["test"][3], "healthcheck", "exec")
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing is open to the network"


def test_compose_has_a_cpu_and_a_cuda_profile(services):
    by_profile = {
        profile: {name for name, one in services.items() if profile in one["profiles"]}
        for profile in ("cpu", "cuda")
    }
    assert by_profile == {"cpu": {"watch", "serve"}, "cuda": {"watch-cuda", "serve"}}
    assert services["watch-cuda"]["build"]["args"] == {"TORCH_INDEX": ""}
    for service in services.values():
        assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_the_image_has_what_the_services_need():
    (names,) = re.findall(r"'\.\[([\w,]+)\]'", (ROOT / "docker" / "Dockerfile").read_text())
    assert {"watch", "serve"} == set(names.split(",")) <= set(EXTRAS)


def test_what_the_unit_runs_can_be_parsed(unit):
    require_command("watch")
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/bin/vigil")
    chosen = parse(arguments)
    assert chosen.sources == (unit["Service"]["ReadOnlyPaths"],)
    assert chosen.sources == (unit["Unit"]["RequiresMountsFor"],)
    state = f"/var/lib/{unit['Service']['StateDirectory']}"
    assert str(chosen.out).startswith(f"{state}/")
    assert chosen.metrics.startswith("127.0.0.1:")
    check_options(chosen)


def test_the_unit_is_confined(unit):
    service = unit["Service"]
    assert service["User"] not in ("", "root")
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""
    assert service["Restart"] == "on-failure"
    assert "Environment" not in service or "PASSWORD" not in service["Environment"]


def test_systemd_understands_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/vigil/bin/vigil", shutil.which("true")))
    found = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
