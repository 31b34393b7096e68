"""`vigil extract --cluster` on three nodes of Ray: nodes, drivers and videos that kill."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import ROOT
from test_extraction import assert_equal_stores, failures_in, snapshot
from video_files import draw_frames, encode

from vigil.extract.files import LOCK_NAME
from vigil.extract.store import list_features
from vigil.pipeline.cluster.video_queue import MAX_TRIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = ["--backbone", "fake", "--weights", "random", "--precision", "fp32", "--device", "cpu"]
BLACK = "black.mp4"
NUM_VIDEOS = 12


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(NUM_VIDEOS):
        frames = draw_frames(64 + 100 * (seed % 4), width=64, height=64, seed=seed)
        encode(folder / f"{'ab'[seed % 2]}/{seed}.mp4", frames)
    return folder


def environment():
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    return os.environ | {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"}


def start(sources, store, *arguments):
    program = [sys.executable, ROOT / "tests" / "cluster_program.py", "extract", *sources]
    return subprocess.Popen(
        [*program, "--out", store, *SETTINGS, *arguments],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(run, code=0):
    said = run.communicate()[1]
    assert run.returncode == code, said
    return said


@pytest.fixture(scope="module")
def local(videos, tmp_path_factory):
    """The features that one machine extracts."""
    store = tmp_path_factory.mktemp("local")
    finish(start([videos], store))
    assert len(list_features(store)) == NUM_VIDEOS
    return store


@pytest.fixture
def cluster(monkeypatch):
    pytest.importorskip("ray")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def wait_for(store, num_files, run):
    while len([*store.rglob("*.h5")]) < num_files:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.1)


def test_a_killed_driver_and_a_lost_node_cost_nothing(videos, local, cluster, tmp_path):
    store = tmp_path / "features"
    first = start([videos], store, "--cluster", cluster.address)
    wait_for(store, 2, first)
    first.kill()
    first.communicate()
    finished = snapshot(store)

    second = start([videos], store, "--cluster", cluster.address)
    wait_for(store, len(finished) + 1, second)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    said = finish(second)
    assert f"{NUM_VIDEOS - len(finished)} extracted" in said
    assert re.search(r": its node is lost|: it is out of reach", said), said
    assert finished.items() <= snapshot(store).items()
    assert_equal_stores(store, local)
    assert failures_in(store) == []
    assert [path.name for path in store.rglob(".*")] == [LOCK_NAME]


def test_ctrl_c_ends_cleanly_and_a_video_that_kills_is_listed(videos, local, cluster, tmp_path):
    black = encode(tmp_path / BLACK, [np.zeros((64, 64, 3), np.uint8)] * 80)
    sources, store = [videos, black], tmp_path / "features"
    first = start([videos], store, "--cluster", cluster.address)
    wait_for(store, 2, first)
    os.killpg(first.pid, signal.SIGINT)
    said = finish(first, 130)
    assert "interrupted: finished work is kept; run the same command again" in said
    assert "Traceback" not in said
    assert [path.name for path in store.rglob(".*")] == [LOCK_NAME]
    assert failures_in(store) == []
    finished = snapshot(store)
    assert 2 <= len(finished) < NUM_VIDEOS

    said = finish(start(sources, store, "--cluster", cluster.address), 3)
    assert f"{NUM_VIDEOS - len(finished)} extracted" in said
    assert finished.items() <= snapshot(store).items()
    assert_equal_stores(store, local)
    [[video, reason, *_]] = failures_in(store)
    assert video == BLACK
    assert f"{MAX_TRIES} processes of the cluster ended while they extracted it" in reason
    assert said.count("WARNING: node ") == said.count(": its process died (") == MAX_TRIES, said
