"""`--cluster` on three nodes of Ray: nodes and drivers that are killed, videos that kill."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import write_checkpoint
from commands import ROOT
from fake_backbone import SPEC, MeanColour
from test_extraction import assert_equal_stores, failures_in, snapshot
from video_files import draw_frames, encode

from vigil.extract.files import LOCK_NAME
from vigil.extract.networks.weights import state_digest
from vigil.extract.store import list_features
from vigil.pipeline.cluster.video_queue import MAX_TRIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = ["--backbone", "fake", "--weights", "random"]
COMPUTE = ["--precision", "fp32", "--device", "cpu"]
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


def start(sources, out, *arguments, command="extract", settings=SETTINGS):
    program = [sys.executable, ROOT / "tests" / "cluster_program.py", command, *sources]
    return subprocess.Popen(
        [*program, "--out", out, *settings, *COMPUTE, *arguments],
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
    lost = [line for line in said.splitlines() if line.startswith("WARNING: node ")]
    assert len(lost) == MAX_TRIES
    assert all(": its process died (" in line for line in lost)


def test_scores_are_those_of_one_machine(videos, cluster, tmp_path):
    spec = replace(SPEC, weights_digest=state_digest(MeanColour()))
    run = write_checkpoint(tmp_path / "run", spec=spec, weights_name="random:0")
    score = {"command": "score", "settings": ["--checkpoint", run]}
    alone, far = tmp_path / "alone", tmp_path / "far"
    finish(start([videos / "a"], alone, **score))
    finish(start([videos / "a"], far, "--cluster", cluster.address, **score))
    assert_equal_stores(alone / "features", far / "features")
    results = sorted(path.relative_to(alone) for path in alone.glob("*.json"))
    assert len(results) == 1 + NUM_VIDEOS // 2
    sheets = sorted(path.relative_to(alone) for path in alone.rglob("*.jpg"))
    assert sheets
    for path in [*results, *sheets, Path("summary.csv"), Path("events.csv")]:
        if path.name != "manifest.json":
            assert (alone / path).read_bytes() == (far / path).read_bytes(), path
