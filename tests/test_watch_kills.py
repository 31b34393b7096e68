"""A run that is killed ten times, and a receiver that fails, hangs and restarts meanwhile."""

import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from itertools import chain

import pytest
from commands import ROOT
from watch_builders import Receiver, make_alarm, serve
from watch_sender import CAMERAS

NUM_KILLS = 10
NUM_ALARMS = 40


def start(folder, port):
    command = [sys.executable, ROOT / "tests/watch_sender.py", folder, str(port), str(NUM_ALARMS)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_ten_kills_lose_nothing_and_keep_the_order(tmp_path):
    chance, receiver = random.Random(0), Receiver()
    answered = []
    """(camera, event) of every message that got a 200, in order."""

    def answers(handler):
        fate = chance.random()
        if fate < 0.1:
            time.sleep(0.5)
            return
        status = 500 if fate < 0.2 else 200
        message = json.loads(receiver.requests[-1][1])
        handler.send_response(status)
        handler.end_headers()
        if status == 200:
            answered.append((message["camera"], message["event"]))

    receiver.answer = answers
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as stack:
        stack.enter_context(serve(receiver, port))
        for _ in range(NUM_KILLS):
            process = start(tmp_path, port)
            assert process.stdout.readline() == "running\n"
            time.sleep(chance.uniform(0, 0.4))
            process.kill()
            process.communicate()
            if chance.random() < 0.4:  # the receiver is away for a while
                stack.close()
                stack.enter_context(serve(receiver, port))
        process = start(tmp_path, port)
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    expected = {
        camera: [make_alarm(camera, k).event for k in range(NUM_ALARMS)] for camera in CAMERAS
    }
    for camera in CAMERAS:
        got = [event for name, event in answered if name == camera]
        assert list(dict.fromkeys(got)) == expected[camera]
        # A message is repeated only where a kill or a timeout came before its acknowledgement.
        assert got == sorted(got, key=expected[camera].index)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert Counter(line["event"] for line in lines) == Counter(chain(*expected.values()))
    for camera in CAMERAS:
        assert [line["event"] for line in lines if line["camera"] == camera] == expected[camera]
    assert not (tmp_path / "dead_letters.jsonl").exists()
