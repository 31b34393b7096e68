"""Locks: one run at a time in a folder, however the previous one ended."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest
from commands import ROOT, run_python

from vigil.extract import locks
from vigil.extract.files import LOCK_NAME
from vigil.extract.locks import LockedError, locked
from vigil.pipeline.cli import main

HOLD = """
import sys, time; from pathlib import Path; from vigil.extract.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a folder's lock, and that folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process, tmp_path
    process.kill()
    process.communicate()


def test_another_run_is_refused_and_told_the_holder(holder):
    process, folder = holder
    message = rf"is writing to {folder} \(pid {process.pid} on .* since 20.*: -c .*\): wait for it"
    with pytest.raises(LockedError, match=message), locked(folder):
        raise AssertionError
    # A refused attempt does not change the message.
    with pytest.raises(LockedError, match=message), locked(folder):
        raise AssertionError


def test_the_lock_of_a_killed_run_does_not_block(holder):
    process, folder = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert f"pid {process.pid} on" in (folder / LOCK_NAME).read_text()
    with locked(folder):
        assert (folder / LOCK_NAME).read_text().startswith(f"pid {os.getpid()} on ")


def test_it_is_released_after_the_block_and_after_an_error(tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(folder):
            raise ZeroDivisionError
    with locked(folder), locked(tmp_path), pytest.raises(LockedError), locked(folder):
        raise AssertionError


def test_a_folder_inside_a_locked_one_is_locked_too(holder):
    process, folder = holder
    inside = folder / "Abuse" / "deep"
    message = rf"is writing to {folder} \(pid {process.pid} on "
    with pytest.raises(LockedError, match=message), locked(inside):
        raise AssertionError
    assert not inside.exists()
    process.kill()
    process.wait()
    with locked(inside):
        pass


def test_one_run_may_lock_nested_folders(tmp_path):
    with locked(tmp_path, tmp_path / "features"):
        for folder in (tmp_path, tmp_path / "features", tmp_path / "other"):
            with pytest.raises(LockedError), locked(folder):
                raise AssertionError


def test_leftovers_in_an_inner_folder_with_its_own_lock_are_removed_too(tmp_path):
    leftover = tmp_path / "Abuse" / f".{'0' * 16}.partial"
    with locked(leftover.parent):
        leftover.touch()
        with locked(tmp_path):
            assert leftover.exists()
    with locked(tmp_path):
        assert not leftover.exists()


def test_the_lock_holder_removes_leftovers_of_killed_runs(tmp_path):
    leftover = tmp_path / "deep" / f".{'0' * 16}.partial"
    leftover.parent.mkdir()
    leftover.touch()
    with locked(tmp_path):
        assert not leftover.exists()
        leftover.touch()
        with pytest.raises(LockedError), locked(tmp_path):
            raise AssertionError
        assert leftover.exists()


def test_a_read_only_lock_file_can_be_locked(tmp_path, monkeypatch):
    (tmp_path / LOCK_NAME).write_text("pid 1 on another")
    with monkeypatch.context() as patch:
        patch.setattr(locks, "open_lock", lambda folder: (folder / LOCK_NAME).open("rb"))
        with locked(tmp_path), pytest.raises(LockedError, match="pid 1 on another"):
            locked(tmp_path).__enter__()
    assert (tmp_path / LOCK_NAME).read_text() == "pid 1 on another"


def test_an_owner_of_any_name_is_shown_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vigil", "a\nb\x1b[31m\udcff" + "ä" * 1000])
    with locked(tmp_path), pytest.raises(LockedError) as caught, locked(tmp_path):
        raise AssertionError
    assert str(caught.value).isprintable()
    assert r"a\nb\x1b[31m\udcff\xe4\xe4" in str(caught.value)
    assert len(str(caught.value)) < 800
    with (tmp_path / LOCK_NAME).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"\x1b[2J\xff")
        file.flush()
        with pytest.raises(LockedError, match=r"\(\?\): wait for it"), locked(tmp_path):
            raise AssertionError


def test_addresses_of_an_owner_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vigil", "watch", "rtsp://a/b", "--on-event=http://c", "d"])
    with locked(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text().endswith(": vigil watch ... ... d")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, caplog, number):
    def refuse(_file, _flags):
        raise OSError(number, os.strerror(number))

    leftover = tmp_path / f".{'0' * 16}.partial"
    leftover.touch()
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locked(tmp_path):
        pass
    assert f"{tmp_path} is on a file system without locks ({os.strerror(number)})" in caplog.text
    assert leftover.exists()  # another run may be writing it


def test_other_system_errors_are_not_hidden(tmp_path, monkeypatch):
    def refuse(_file, _flags):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path):
        raise AssertionError


def test_a_link_in_place_of_the_lock_changes_no_other_file(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / LOCK_NAME).symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path):
        raise AssertionError
    assert other.read_text() == "mine"


def test_a_read_only_folder_is_reported(tmp_path):
    (tmp_path / "a.mp4").touch()
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o ro none {disk}"
    if shutil.which("unshare") is None or subprocess.run([*inside, mount]).returncode:
        pytest.skip("no disk can be mounted here")
    vigil = f"{sys.executable} -m vigil.pipeline.cli extract {tmp_path} --out {disk}/f"
    script = f"{mount}; {vigil} --weights random --endpoint Conv3d_1a_7x7"
    run = subprocess.run([*inside, script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert "f cannot be read or written (Read-only file system): choose another" in run.stderr
    assert len(run.stderr.splitlines()) == 1


TERMINATED = """
import os, signal, sys, time
from vigil.pipeline import cli
from vigil.pipeline.extraction import show
def work(options):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        if "again" in sys.argv:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        print("cleaned up")
show.run_show = work
sys.exit(cli.main(["features", "show", sys.executable]))
"""


def test_sigterm_ends_a_command_as_ctrl_c_does():
    run = run_python("-c", TERMINATED)
    assert (run.returncode, run.stdout) == (130, "cleaned up\n")
    assert run.stderr.startswith("ERROR: terminated: finished work is kept; run the same command")
    assert run.stderr.count("\n") == 1


def test_a_second_sigterm_ends_it_at_once():
    run = run_python("-c", TERMINATED, "again")
    assert (run.returncode, run.stdout) == (-signal.SIGTERM, "")


def test_main_restores_its_callers_signal_handling(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert main(["features", "show", str(tmp_path)]) == 2
    assert signal.getsignal(signal.SIGTERM) is before
