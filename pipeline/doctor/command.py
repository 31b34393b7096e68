"""`vigil doctor`: what is found on this machine, with a remedy for whatever is wrong."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from vigil.extract.errors import counted
from vigil.extract.versions import installed_versions
from vigil.pipeline.camera_addresses import is_stream, shown
from vigil.pipeline.doctor.children import run_checks
from vigil.pipeline.doctor.finding import PROBLEM, WARNING, Check, Finding
from vigil.pipeline.logs import print_table
from vigil.pipeline.options import DoctorOptions
from vigil.pipeline.starter import checkpoint_folder

HEADER = ("", "check", "found", "remedy")
HERE = "vigil.pipeline.doctor"
SPEED_SECONDS = 300.0

log = logging.getLogger(__name__)


def run_doctor(options: DoctorOptions) -> int:
    """Check everything that options name, and print what is found.

    Returns:
        The exit code: 0, or 1 if there is a problem.
    """
    findings = run_checks(list(_checks(options)))
    if options.speed:
        findings += run_checks([_speed(options)])  # alone, or it would not be the speed
    if options.format == "json":
        _print_json(findings)
    else:
        print_table(HEADER, ((one.state, one.check, one.found, one.remedy) for one in findings))
    problems = [one for one in findings if one.state == PROBLEM]
    num_warnings = sum(one.state == WARNING for one in findings)
    log.info("%s, %s", counted(len(problems), "problem"), counted(num_warnings, "warning"))
    return 1 if problems else 0


def _checks(options: DoctorOptions) -> Iterator[Check]:
    folder, which = checkpoint_folder(options.checkpoint), options.which
    yield Check("software", f"{HERE}.software:check_software")
    yield Check("limits", f"{HERE}.software:check_limits", seconds=10)
    yield Check("clock", f"{HERE}.software:check_clock", seconds=10)
    yield Check("decoders", f"{HERE}.decoders:check_decoders")
    restart = "run nvidia-smi; if it hangs, too, restart the machine"
    yield Check("devices", f"{HERE}.devices:check_devices", (options.device,), 120, restart)
    yield Check("checkpoint", f"{HERE}.detector:check_detector", (folder, which), 120)
    if options.out is not None:
        mount = f"df {options.out}; if that hangs, too, the file server does not answer"
        yield Check("--out", f"{HERE}.output_folder:check_output", (options.out,), 30, mount)
    for number, source in enumerate(options.sources, start=1):
        yield _source(source, number, options.source_seconds)


def _source(source: str, number: int, seconds: float) -> Check:
    if is_stream(source):
        name = shown(source, number)
        remedy = "check that the camera can be reached, or give --source-seconds 60"
        return Check(
            name, f"{HERE}.camera_streams:check_stream", (source, name, seconds), seconds, remedy
        )
    remedy = "check that its file server answers, or give --source-seconds 60"
    return Check(source, f"{HERE}.recordings:check_recordings", (source,), seconds, remedy)


def _speed(options: DoctorOptions) -> Check:
    num_streams = sum(map(is_stream, options.sources))
    arguments = checkpoint_folder(options.checkpoint), options.which, options.device, num_streams
    return Check(
        "speed",
        f"{HERE}.detector:check_speed",
        arguments,
        SPEED_SECONDS,
        "leave it out: --no-speed",
    )


def _print_json(findings: Sequence[Finding]) -> None:
    states = [one.state for one in findings]
    content = {
        "vigil": installed_versions().get("vigil-video"),
        "problems": states.count(PROBLEM),
        "warnings": states.count(WARNING),
        "findings": [asdict(one) for one in findings],
    }
    print(json.dumps(content, indent=2))
