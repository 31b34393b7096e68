"""A run that is killed ten times, a receiver that fails, hangs and restarts; a full disk."""

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
from watch_builders import Receiver, make_alarm, make_video, serve
from watch_sender import CAMERAS

from bench.reliability.disks import small_disk
from vigil.pipeline.watching.delivery import start_delivery
from vigil.pipeline.watching.ledger import LEDGER_NAME, Ledger
from vigil.pipeline.watching.sinks.webhook import Webhook

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


@pytest.mark.slow
def test_a_disk_that_is_full_again_and_again_loses_nothing(tmp_path):
    receiver, recorded = Receiver(), []
    with serve(receiver) as port, small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("mounting a small disk is not allowed here")
        ledger = Ledger(disk.folder / LEDGER_NAME, ["hook"])
        running = start_delivery(ledger, [Webhook("hook", ("127.0.0.1", port, "/"), False)])
        num_held = 0
        for number in range(200):
            if number % 20 == 5:
                disk.leave(0 if number % 40 == 5 else 20_000)
            if number % 20 == 15:
                num_held += ledger.num_unwritten
                disk.resize()
            camera = CAMERAS[number % 3]
            recorded.append((camera, make_alarm(camera, number).event, 1))
            ledger.record_video(make_video(camera, number), [make_alarm(camera, number)])
            time.sleep(0.02)
        assert num_held
        while ledger.num_unwritten or ledger.outbox.waiting():
            ledger.wait(ledger.num_changes, 0.1)
        running.close(grace_seconds=60)
        ledger.close()
        text = (disk.folder / "events.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    logged = [(line["camera"], line["event"], line["sequence"]) for line in lines]
    assert Counter(logged) == Counter(recorded)
    for camera in CAMERAS:
        expected = [one for one in recorded if one[0] == camera]
        assert [one for one in logged if one[0] == camera] == expected
        sent = dict.fromkeys(one for one in receiver.messages if one[0] == camera)
        assert list(sent) == expected
