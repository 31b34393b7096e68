"""Videos from a server that speaks S3, is busy now and then, and outlives a killed run."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from commands import ROOT
from video_files import draw_frames, encode

from vigil.extract.store import list_features, read_features
from vigil.pipeline.extraction.fetched import COPIES_FOLDER

pytestmark = [
    pytest.mark.slow,
    # Of libraries, as they import each other and leave connections to the end of the process.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

NUM_VIDEOS = 12
BUSY_SHARE = 0.05
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>busy</Message></Error>"
PROGRAM = """
import sys, time
sys.path.insert(0, "tests")
from fake_backbone import BACKBONE, MeanColour
from vigil.extract.networks.backbones import BACKBONES
from vigil.pipeline.cli import main
BACKBONES["fake"] = BACKBONE
pause, forward = float(sys.argv[1]), MeanColour.forward
def slowly(self, x):
    time.sleep(pause)
    return forward(self, x)
MeanColour.forward = slowly
main_arguments = sys.argv[2:]
if __name__ == "__main__":
    sys.exit(main(main_arguments))
"""
SETTINGS = ["--backbone", "fake", "--weights", "random", "--precision", "fp32", "--device", "cpu"]


class Busy:
    """A server that refuses a share of all requests, and counts which it took."""

    def __init__(self, application):
        self.application, self.random = application, random.Random(0)
        self.share, self.num_refused, self.taken = 0.0, 0, []

    def __call__(self, environ, start_response):
        if self.random.random() < self.share:
            self.num_refused += 1
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [BUSY]
        self.taken.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return self.application(environ, start_response)


@pytest.fixture
def busy(monkeypatch):
    """The server; the environment leads to it."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Busy(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "only-for-this-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield application
    server.shutdown()
    server.server_close()


@pytest.fixture
def videos(busy, tmp_path):
    """The videos as files; they are in s3://cctv/archive, too."""
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="cctv")
    for seed in range(NUM_VIDEOS):
        name = f"class {seed % 2}/{seed} a+b.mp4"
        encode(tmp_path / "videos" / name, draw_frames(80 + seed, seed=seed))
        client.upload_file(tmp_path / "videos" / name, "cctv", f"archive/{name}")
    busy.share = BUSY_SHARE
    return tmp_path / "videos"


def start(place, out, pause=0.0):
    command = [sys.executable, "-c", PROGRAM, str(pause), "extract", str(place), "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = ["--workers", "0"]
    return subprocess.Popen([*command, *SETTINGS, *workers], cwd=ROOT, env=environment, **pipes)


def digests(store):
    files = {name: read_features(path) for name, path in list_features(store).items()}
    return {name: (one.video.digest, one.features.tobytes()) for name, one in files.items()}


def test_a_killed_run_on_a_busy_server_ends_with_the_same_features(busy, videos, tmp_path):
    assert start(videos, tmp_path / "here").wait() == 0
    store = tmp_path / "there"
    killed = start("s3://cctv/archive", store, pause=0.3)
    while len(list(store.rglob("*.h5"))) < 3:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    num_there = len(list(store.rglob("*.h5")))
    assert num_there < NUM_VIDEOS
    assert any((store / COPIES_FOLDER).iterdir())
    again = start("s3://cctv/archive", store)
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert digests(store) == digests(tmp_path / "here")
    assert not (store / COPIES_FOLDER).exists()
    assert "only-for-this-test" not in said
    num_taken = len(busy.taken)
    third = start("s3://cctv/archive", store)
    assert f"{NUM_VIDEOS} already extracted" in third.communicate()[0]
    assert not any(method == "GET" and ".mp4" in path for method, path in busy.taken[num_taken:])
    assert busy.num_refused > 0
