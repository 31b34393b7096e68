"""The program that gets alarms: its input, its environment, its time, and what it leaves behind."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from test_watch_webhook import LETTER

from vigil.pipeline.watching.sinks.program import PASSED_ON, Program
from vigil.pipeline.watching.sinks.sink import NotDelivered


def program(code, *arguments, variables=None, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return Program("exec:python", command, variables or {}, **options)


def refused(sink):
    with pytest.raises(NotDelivered) as caught:
        sink.deliver(LETTER)
    assert not caught.value.is_final
    return caught.value.reason


def test_it_gets_the_message_and_no_other_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMERA_PASSWORD", "hunter2")
    code = """
import json, os, sys
json.dump([sys.stdin.read(), dict(os.environ), sys.argv[2:]], open(sys.argv[1], "w"))
print("noise" * 100000)
"""
    words = ["a b", "$HOME", ";touch x", "*"]
    program(code, tmp_path / "got", *words, variables={"TOKEN": "t"}).deliver(LETTER)
    message, environment, arguments = json.loads((tmp_path / "got").read_bytes())
    assert message == LETTER.message + "\n"
    assert arguments == words
    assert environment["TOKEN"] == "t"
    assert environment["PATH"] == os.environ["PATH"]
    assert "hunter2" not in str(environment)
    # Python adds the second one itself where there is no locale.
    assert set(environment) <= {"TOKEN", "LC_CTYPE", *PASSED_ON}


def test_an_exit_code_is_a_failure_with_its_last_words():
    code = "import sys; sys.stderr.write('no route\\nto host\\n'); sys.exit(3)"
    assert refused(program(code)) == "exit code 3: no route to host"
    assert refused(program("import os; os.kill(os.getpid(), 9)")).startswith("exit code -9")


def test_it_need_not_read_its_input():
    program("import os; os.close(0)").deliver(LETTER)


def test_one_that_does_not_start(tmp_path):
    sink = Program("exec:x", [str(tmp_path / "gone")], {})
    assert refused(sink) == "it does not start: No such file or directory"


def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path):
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(600)
"""
    reason = refused(program(code, tmp_path / "pid", limit_seconds=3))
    assert reason == "it runs longer than 3 s, and was killed"
    child = int((tmp_path / "pid").read_text())
    for _ in range(3000):  # init takes its time to collect it
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("the program's child is still running")
