"""`vigil doctor`: every kind of problem is found, told with a remedy, and stops nothing else."""

import configparser
import errno
import json
import os
import socket
import time
from dataclasses import replace

import pytest
from commands import ROOT, run_python
from http_streams import PASSWORD, http_server
from video_files import draw_frames, encode

from vigil.extract.networks.backbones import find_backbone
from vigil.extract.networks.download import cached_weights
from vigil.extract.networks.placement import Placed
from vigil.pipeline import camera_addresses as addresses
from vigil.pipeline.arguments import parse
from vigil.pipeline.checkpoint import load_config
from vigil.pipeline.cli import main
from vigil.pipeline.doctor import (
    camera_streams,
    command,
    decoders,
    detector,
    devices,
    output_folder,
    recordings,
    software,
)
from vigil.pipeline.doctor.children import run_checks
from vigil.pipeline.doctor.devices import GpuFacts
from vigil.pipeline.doctor.finding import OK, PROBLEM, WARNING, Check, Finding
from vigil.pipeline.starter import STARTER


def states(findings) -> dict[str, str]:
    return {one.check: one.state for one in findings}


# Processes of their own


def test_a_check_that_hangs_crashes_or_fails_stops_no_other():
    checks = [
        Check("hang", "doctor_checks:hang", seconds=6, remedy="look there"),
        Check("crash", "doctor_checks:crash"),
        Check("fail", "doctor_checks:fail"),
        Check("missing", "no_such_module:check"),
        Check("answer", "doctor_checks:answer", ("answer",)),
    ]
    begun = time.monotonic()
    before, hung, _, crashed, _, failed, missing, answered = run_checks(checks)
    assert time.monotonic() - begun < 60
    assert before == Finding("before", OK, "fine"), "what was found before counts"
    assert hung == Finding("hang", PROBLEM, "no answer within 6 s", "look there")
    assert (crashed.state, "signal 11" in crashed.found) == (PROBLEM, True)
    assert failed.found == "ValueError: rtsp://10.0.0.5/main does not answer"
    assert "no_such_module" in missing.found
    assert answered == Finding("answer", OK, "fine")


def test_more_checks_than_run_at_once_are_told_in_their_order(monkeypatch):
    monkeypatch.setattr("vigil.pipeline.doctor.children.MAX_AT_ONCE", 2)
    names = [f"check {number}" for number in range(4)]
    found = run_checks([Check(name, "doctor_checks:answer", (name,)) for name in names])
    assert [one.check for one in found] == names


# The command


@pytest.fixture
def few_checks(monkeypatch):
    """Only checks that take no time."""

    def checks(options):
        yield Check("software", f"{command.HERE}.software:check_software")
        if options.out is not None:
            yield Check("--out", f"{command.HERE}.output_folder:check_output", (options.out,))

    monkeypatch.setattr(command, "_checks", checks)


def test_the_exit_code_tells_problems_from_warnings(few_checks, tmp_path, capsys, monkeypatch):
    assert main(["doctor", "--no-speed", "--out", str(tmp_path / "results")]) == 0
    table = capsys.readouterr().out
    assert "Python" in table
    assert "SQLite" in table
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
    (tmp_path / "file").touch()
    arguments = ["doctor", "--no-speed", "--format", "json", "--out", str(tmp_path / "file")]
    assert main(arguments) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["problems"] == 1
    (problem,) = (one for one in content["findings"] if one["state"] == PROBLEM)
    assert problem == {
        "check": "--out",
        "state": "problem",
        "found": f"{tmp_path / 'file'} is a file",
        "remedy": "give a folder as --out",
    }


def test_everything_asked_for_is_checked_and_named_without_its_password():
    address = f"rtsp://viewer:{PASSWORD}@10.0.0.5:554/user={PASSWORD}_main?p={PASSWORD}"
    chosen = parse(["doctor", "/srv/nvr", address, "--out", "results"])
    checks = list(command._checks(chosen))
    names = [one.name for one in checks]
    assert names[-3:] == ["--out", "/srv/nvr", "source 2: rtsp://10.0.0.5:554"]
    assert command._speed(chosen).arguments[-1] == 1, "stream to keep up with"
    for check in checks:
        module, _, name = check.target.partition(":")
        assert hasattr(__import__(module, fromlist=[name]), name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source-seconds", "1"], "--source-seconds 1 is not in 2..3600"),
        (["--device", "gpu"], "device 'gpu' is unknown"),
        (["--checkpoint", "nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_values_are_told_before_anything_is_checked(arguments, said, capsys):
    assert main(["doctor", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_command_itself_loads_neither_torch_nor_a_decoder():
    found = run_python(
        "-c",
        "import sys, vigil.pipeline.doctor.command\n"
        "print({'torch', 'av', 'decord', 'h5py'} & set(sys.modules))",
    )
    assert found.stdout == "set()\n", found.stderr


# Software, limits, clock


def test_pythons_are_told_apart():
    assert software.python_finding((3, 10), "1").state == PROBLEM
    assert software.python_finding((3, 12), "1").state == OK
    assert software.python_finding((3, 99), "1").state == WARNING


def test_missing_extras_are_told_with_their_command(monkeypatch):
    monkeypatch.setattr(software, "find_spec", lambda name: None if name == "paho" else name)
    found = software.extras_finding()
    assert found.state == OK
    assert "not there: watch (alarms over MQTT)" in found.found
    assert found.remedy == "if you need them: pip install 'vigil-video[watch]'"


def test_every_extra_of_the_package_is_known():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert set(parser["options.extras_require"]) - {"dev"} <= set(software.EXTRAS)


@pytest.mark.parametrize(("soft", "state"), [(100, PROBLEM), (1000, WARNING), (4096, OK)])
def test_limits_of_open_files_are_told(monkeypatch, soft, state):
    monkeypatch.setattr(software.resource, "getrlimit", lambda _: (soft, 1 << 20))
    (files, _) = software.check_limits()
    assert (files.state, bool(files.remedy)) == (state, state != OK)


def test_limits_of_processes_are_told():
    assert software.processes_finding({}).state == OK
    found = software.processes_finding({"ulimit": 4096, "cgroup": 64})
    assert found.state == WARNING
    assert "--pids-limit" in found.remedy


def test_clocks_are_judged():
    now, installed = time.time(), time.time() - 1000
    assert software.clock_finding(now, installed, True).state == OK
    assert software.clock_finding(now, installed, False).state == WARNING
    unknown = software.clock_finding(now, installed, None)
    assert (unknown.state, "unknown" in unknown.found) == (WARNING, True)
    for wrong in (0.0, 1e10):
        assert software.clock_finding(wrong, installed, True).state == PROBLEM
    assert software.is_synchronised() in (True, False, None)


# Devices

GPU = GpuFacts(1, "580.10", (13, 0), "13.2", None, ("NVIDIA H200",))


@pytest.mark.parametrize(
    ("facts", "device", "state", "said", "remedy"),
    [
        (GPU, "auto", OK, "H200", ""),
        (GpuFacts(0), "auto", OK, "none", ""),
        (replace(GPU, usable=(), torch_cuda=None), "auto", PROBLEM, "for CPUs only", "pip inst"),
        (replace(GPU, usable=(), torch_cuda=None), "cpu", OK, "--device cpu", ""),
        (
            replace(GPU, usable=(), driver="470.1", driver_cuda=(11, 4)),
            *("auto", PROBLEM, "driver 470.1 is too old: it supports CUDA 11.4", "CUDA 13 or"),
        ),
        (GpuFacts(2, torch_cuda="13.2"), "auto", PROBLEM, "2 GPUs, but no driver", "apt-get"),
        (
            replace(GPU, usable=(), driver_cuda=None),
            *("auto", PROBLEM, "library of driver 580.10 is not here", "--gpus all"),
        ),
        (
            replace(GPU, usable=(), error="no kernel image is available"),
            *("auto", PROBLEM, "no kernel image", "nvidia-smi"),
        ),
        (replace(GPU, usable=(), visible=""), "auto", WARNING, "hidden", "unset CUDA_VISIBLE"),
    ],
)
def test_a_gpu_that_is_there_is_used_or_told_why_not(facts, device, state, said, remedy):
    found = devices.gpu_finding(facts, device)
    assert found.state == state
    assert said in found.found
    assert remedy in found.remedy


def test_this_machine_has_a_device():
    found = states(devices.check_devices("cpu"))
    assert found["torch"] == OK
    assert found["device"] == OK
    wrong = list(devices.check_devices("cuda:99"))
    assert states(wrong)["device"] == PROBLEM


def test_threads_and_memory_are_judged(monkeypatch):
    assert devices.threads_finding(4, 4, None).state == OK
    found = devices.threads_finding(64, 64, 2.0)
    assert (found.state, found.remedy) == (WARNING, "export OMP_NUM_THREADS=2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert devices.threads_finding(1, 8, None).remedy.startswith("unset OMP_NUM_THREADS")
    assert devices.memory_finding(1, 8).state == PROBLEM
    assert devices.memory_finding(3, 8).state == WARNING
    assert devices.memory_finding(7, 8).state == OK


def test_decoders_that_do_not_load_are_told(monkeypatch):
    assert set(states(decoders.check_decoders()).values()) == {OK}
    broken = replace(decoders.DECODERS[0], opener="no_such_module:Decoder")
    monkeypatch.setattr(decoders, "DECODERS", (broken,))
    monkeypatch.setattr(decoders, "CODECS", ("h264", "no_such_codec"))
    first, codecs, _ = decoders.check_decoders()
    assert (first.state, "--force-reinstall" in first.remedy) == (PROBLEM, True)
    assert "no_such_codec" in codecs.found


# The detector


def test_missing_weights_are_told_with_the_command_that_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path))
    checkpoint, weights = detector.check_detector(STARTER, "best")
    assert (checkpoint.state, weights.state) == (OK, PROBLEM)
    assert str(tmp_path) in weights.found
    assert weights.remedy == "vigil weights fetch i3d kinetics400"
    parse(weights.remedy.split()[1:])
    assert list(tmp_path.iterdir()) == [], "nothing is downloaded"
    gone = detector.missing_weights(find_backbone("i3d"), "/old/mine.pt")
    assert "not published" in gone.found


def test_weights_that_are_others_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path))
    source = find_backbone("i3d").sources[1]
    cached_weights(source).write_bytes(b"damaged")
    assert detector.find_here(find_backbone("i3d"), source.name) == str(cached_weights(source))
    _, weights = detector.check_detector(STARTER, "best")
    assert weights.state == PROBLEM
    assert "cannot be read as weights" in weights.found


def test_speed_is_told_in_cameras():
    spec = load_config(STARTER).spec
    stride = spec.clip_stride
    found = detector.speed_finding(100 / stride, spec, "how", 4)
    assert (found.state, found.found.split(",")[0]) == (
        OK,
        "4.0 cameras of 25 frames a second in real time",
    )
    assert detector.speed_finding(100 / stride, spec, "how", 5).state == WARNING
    sampled = replace(spec, frame_rate=12.5)
    assert detector.speed_finding(100 / stride, sampled, "how", 5).found.startswith("8.0 cameras")


def test_speed_is_the_median_after_a_run_that_does_not_count(monkeypatch):
    seconds = iter([100.0, *range(1, 8)])
    placed = [Placed(lambda views: views, "folded", "fp32")]
    monkeypatch.setattr(detector, "_placed", lambda *_: placed)
    monkeypatch.setattr(detector, "_seconds", lambda *_: next(seconds))
    monkeypatch.setattr(detector, "_busy_seconds", iter([0.0, 1e9]).__next__)
    (found,) = detector.check_speed(STARTER, "best", "cpu", 0)
    assert "(0.25 clips a second; i3d on cpu, folded, fp32; median of 7; other " in found.found
    assert found.state == WARNING
    assert next(seconds, None) is None


# The folder of results


def test_a_folder_that_works_has_no_problem(tmp_path):
    found = list(output_folder.check_output(tmp_path / "new" / "results"))
    assert [one.check for one in found] == ["--out", "space", "locks", "SQLite"]
    assert PROBLEM not in states(found).values()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EACCES, "sudo chown"), (errno.EROFS, "mount it"), (errno.ENOSPC, "remove files")],
)
def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch, number, remedy):
    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(output_folder.tempfile, "mkdtemp", refuse)
    (found,) = output_folder.check_output(tmp_path)
    assert found.state == PROBLEM
    assert os.strerror(number) in found.found
    assert remedy in found.remedy
    (found,) = output_folder.check_output(tmp_path / "new")
    assert "sudo chown" not in found.remedy, "of the folder above"


@pytest.mark.parametrize(
    ("gib", "files", "state"), [(0.5, 1e6, PROBLEM), (5, 1e6, WARNING), (50, 9, WARNING)]
)
def test_a_disk_that_is_nearly_full_is_told(tmp_path, monkeypatch, gib, files, state):
    class Status:
        f_frsize, f_bavail, f_files, f_favail = 1 << 20, int(gib * 1024), 10**7, int(files)

    monkeypatch.setattr(output_folder.os, "statvfs", lambda _: Status)
    found = output_folder.space_finding(tmp_path)
    assert found.state == state
    assert "--keep-days" in found.remedy


def test_file_systems_without_locks_or_shared_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "file_system", lambda _: "nfs4")
    monkeypatch.setattr(output_folder.fcntl, "flock", lambda *_: None)  # grants all
    found = {one.check: one for one in output_folder.check_output(tmp_path)}
    assert "grants one lock twice" in found["locks"].found
    assert found["SQLite"].state == WARNING

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(output_folder.fcntl, "flock", none)
    assert states(output_folder.check_output(tmp_path))["locks"] == WARNING


# Recordings


def test_a_video_is_described(tmp_path):
    path = encode(tmp_path / "front_20240501_083015.mp4", draw_frames(30))
    (found,) = recordings.check_recordings(str(path))
    assert found.state == OK
    assert found.found == (
        "256x240, 25 frames a second, 0:00:01, first frame decoded by decord, "
        "begins 2024-05-01 08:30:15 by its name"
    )
    turned = encode(tmp_path / "a.mp4", draw_frames(5), rotation=90)
    (found,) = recordings.check_recordings(str(turned))
    assert "shown turned by" in found.found
    assert "--clock" in found.remedy


def test_a_source_that_is_none_or_no_video_is_told(tmp_path):
    (missing,) = recordings.check_recordings(str(tmp_path / "none" / "a.mp4"))
    assert (missing.state, missing.remedy) == (PROBLEM, f"ls {tmp_path}")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    (broken,) = recordings.check_recordings(str(tmp_path / "a.mp4"))
    assert broken.state == PROBLEM
    (tmp_path / "a.mp4").unlink()
    (empty,) = recordings.check_recordings(str(tmp_path))
    assert (empty.state, empty.found) == (PROBLEM, "a folder without videos")


def test_a_folder_tells_its_newest_video_and_whether_it_grows(tmp_path, monkeypatch):
    older = encode(tmp_path / "cam1" / "20240501_083015.mp4", draw_frames(5))
    newest = tmp_path / "cam1" / "20240501_084015.mp4"
    newest.write_bytes(older.read_bytes()[:1000])
    os.utime(older, (time.time() - 600,) * 2)
    grow = lambda _: newest.write_bytes(older.read_bytes())  # noqa: E731
    monkeypatch.setattr(recordings.time, "sleep", grow)
    folder, video = recordings.check_recordings(str(tmp_path))
    assert "2 videos, the newest cam1/20240501_084015.mp4" in folder.found
    assert folder.found.endswith(" growing)")
    assert video.check == str(older), "the newest one that is complete"
    os.utime(newest, (time.time() + 3600,) * 2)
    assert states(recordings.check_recordings(str(tmp_path)))[str(tmp_path)] == WARNING


# Streams


def only_stream(address, seconds=8.0):
    """The finding of a stream, after the warning of its password."""
    warned, found = camera_streams.check_stream(address, "source 1", seconds)
    assert "every user of this machine" in warned.found
    assert not any(PASSWORD in text for one in (warned, found) for text in vars(one).values())
    return found


def test_a_stream_is_described(tmp_path):
    path = encode(tmp_path / "a.ts", draw_frames(75), container_format="mpegts")

    def play(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(path.stat().st_size))
        handler.end_headers()
        handler.wfile.write(path.read_bytes())

    with http_server(play) as address:
        found = only_stream(address)
    assert found.state == OK
    assert found.found.startswith("h264 256x240, ")
    assert "25 frames a second of 25 stated" in found.found
    assert "faster than real time" in found.found


def test_a_stream_that_refuses_is_told_with_what_to_check():
    with http_server(lambda handler: handler.send_error(401)) as address:
        refused = only_stream(address)
    assert (refused.state, "user and password" in refused.remedy) == (PROBLEM, True)
    gone = only_stream(address)
    assert gone.found == "no picture: 127.0.0.1: Connection refused"
    assert (gone.state, "nc -vz 127.0.0.1" in gone.remedy) == (PROBLEM, True)


def test_a_stream_that_hangs_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls, and never answers
        port = server.getsockname()[1]
        found = only_stream(f"rtsp://viewer:{PASSWORD}@127.0.0.1:{port}/main", seconds=2)
    assert (found.state, found.found) == (PROBLEM, "no picture: nothing came for too long")


def test_a_host_without_an_address_is_told():
    assert "nowhere.invalid: " in camera_streams.why_unreachable("rtsp://u:p@nowhere.invalid/a")
    assert camera_streams.why_unreachable("udp://127.0.0.1:1") == "", "has no connections"


def test_what_is_no_stream_or_lacks_its_variable_is_told(monkeypatch):
    monkeypatch.delenv("CAMERA_PASSWORD", raising=False)
    (found,) = camera_streams.check_stream("rtsp://a:${CAMERA_PASSWORD}@b/c", "source 1", 2)
    assert "CAMERA_PASSWORD is not set" in found.found
    (found,) = camera_streams.check_stream(f"rtsp://a:b/{PASSWORD}@c/d", "source 1", 2)
    assert "write / as %2F" in found.found
    assert PASSWORD not in str(found)
    (found,) = camera_streams.check_stream("ftp://b/c", "source 1", 2)
    assert "ftp:// is not a stream" in found.found


def test_addresses_are_named_without_what_may_be_secret():
    assert addresses.shown(f"http://u:{PASSWORD}@h:80/{PASSWORD}?p={PASSWORD}", 1) == (
        "source 1: http://h:80"
    )
    assert addresses.shown(f"rtsp://u:p/{PASSWORD}@h/a", 2) == "source 2"
    assert addresses.shown("/dev/video0", 3) == "/dev/video0"
    assert addresses.shown("${CAMERA}", 4) == "source 4"
    assert addresses.filled_in("rtsp://u:${P}@h", {"P": PASSWORD}) == f"rtsp://u:{PASSWORD}@h"
    assert addresses.filled_in("rtsp://u:${P}@h/${Q}", {"P": "a/b@c", "Q": "x/y"}) == (
        "rtsp://u:a%2Fb%40c@h/x/y"
    )
    assert addresses.filled_in("rtsp://${L}@h", {"L": "me:a:b"}) == "rtsp://me:a%3Ab@h"


@pytest.mark.parametrize(
    ("place", "is_told"),
    [
        ("u:${P}@h/a", False),
        ("u:p@h/a", True),
        ("h/user=admin&password=p&channel=1.sdp", True),
        ("h/user=admin_password=p_channel=1_stream=0.sdp", True),
        ("h/cgi?usr=admin&PWD=p", True),
        ("h/live?access_token=p#a", True),
        ("h/live;apikey=p", True),
        ("h/cgi?user=${U}&pwd=${P}&key=p", True),
        ("h/user=admin&password=${P}&channel=1.sdp", False),
        ("h/live?token=${P}", False),
        ("h/live?token=&channel=1", False),
        ("h/Streaming/Channels/101?keyframes=1", False),
    ],
)
def test_passwords_are_found_wherever_cameras_have_them(place, is_told):
    assert addresses.has_password(f"rtsp://{place}") == is_told


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, OK, "in real time"),
        ({"video_seconds": 3.0}, WARNING, "only 0.50 s of video a second"),
        ({"video_seconds": None}, WARNING, "without times"),
        ({"num_errors": 7}, WARNING, "7 errors in 125 frames"),
        ({"broken": "Connection reset"}, WARNING, "it broke off (Connection reset)"),
    ],
)
def test_the_pace_of_a_stream_is_judged(changes, state, said):
    seen = camera_streams.Watched(0.5, 125, 0, "", 5.0, 4.96, settled=(1.0, 1.0))
    found = camera_streams.pace_finding("source 1", "h264", replace(seen, **changes), 25.0)
    assert found.state == state
    assert said in found.found
