"""A table whose runs are made by the nodes of a Ray cluster, or by what stands in for them."""

import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from commands import ROOT
from test_bench_methods import TABLE, options_in, trained, untrained  # noqa: F401

from vigil.extract.errors import UserError
from vigil.pipeline.cluster.tasks import LostJobError, finished_jobs
from vigil.pipeline.option_checks import check_options
from vigil.pipeline.options import BenchMethodsOptions
from vigil.pipeline.tables import cluster_runs
from vigil.pipeline.tables.command import run_bench_methods


class FakeRay:
    """Runs a task when its result is asked for, the last one first; has up to 4 cores a node."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self) -> None:
        self.lost = 0
        self.cancelled: list[Any] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": 2.0}},
            {"Alive": True, "Resources": {"CPU": 4.0}},
            {"Alive": False, "Resources": {"CPU": 400.0}},
        ]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 6.0}

    def remote(self, **needs: Any) -> Callable[..., Any]:
        self.needs = needs

        class Task:
            def __init__(self, function: Callable[..., Any]) -> None:
                self.function = function

            def remote(self, job: Callable[[], Any]) -> Callable[[], Any]:
                sent = pickle.dumps(job)
                return lambda: pickle.dumps(self.function(pickle.loads(sent)))

        return Task

    def wait(self, waiting: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return waiting[-1:], waiting[:-1]

    def get(self, call: Callable[[], bytes]) -> Any:
        if self.lost:
            self.lost -= 1
            raise self.exceptions.RayError("the node died")
        return pickle.loads(call())

    def cancel(self, call: Any, force: bool) -> None:
        assert force
        self.cancelled.append(call)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()

    @contextmanager
    def joined(address: str):  # type: ignore[no-untyped-def]
        assert address == "auto"
        yield fake

    monkeypatch.setattr(cluster_runs, "joined", joined)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    cluster_runs._load_on_node.cache_clear()
    return fake


@pytest.fixture
def options(untrained: Path, tmp_path: Path) -> BenchMethodsOptions:  # noqa: F811
    folder = Path(shutil.copytree(untrained, tmp_path / "table"))
    return replace(options_in(folder), cluster="auto")


def texts(out: Path) -> dict[str, bytes]:
    names = ("table.md", "table.json")
    scores = {str(path.relative_to(out)): path for path in out.rglob("scores.json")}
    return {name: path.read_bytes() for name, path in scores.items()} | {
        name: (out / name).read_bytes() for name in names
    }


def test_nodes_make_the_same_table(
    ray: FakeRay,
    options: BenchMethodsOptions,
    trained: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        assert run_bench_methods(options) == 0
    assert ray.needs == {"num_cpus": 2, "num_gpus": 0, "max_retries": 3}
    host = re.escape(socket.gethostname())
    said = rf"joint, seed 1: trained in \d+ s, evaluated in \d+ s on {host}"
    assert re.search(said, caplog.text)
    assert texts(options.out) == texts(trained / "out")
    with patch.object(cluster_runs, "joined", side_effect=AssertionError):  # all are recognised
        assert run_bench_methods(options) == 0


def test_lost_and_diverged_runs_do_not_stop_the_others(
    ray: FakeRay, options: BenchMethodsOptions, caplog: pytest.LogCaptureFixture
) -> None:
    options.config.write_text(TABLE + "[rows.changes.training]\nlearning_rate = 1e30\nepochs = 3\n")
    ray.lost = 1
    assert run_bench_methods(options) == 3
    assert "joint without LSTM, seed 1: 4 nodes were lost with it (the node died)" in caplog.text
    assert "joint without LSTM, seed 0: training diverged" in caplog.text
    assert (options.out / "table.md").read_text().count("\n| joint") == 1


def test_a_node_that_does_not_fit_is_refused_before_it_trains(
    ray: FakeRay, options: BenchMethodsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as watched:
        given = Mock(return_value=())
        watched.setattr(cluster_runs, "finished_jobs", given)
        with pytest.raises(UserError, match="nothing to tabulate"):
            run_bench_methods(options)
        given.return_value = [("joint, seed 1", cluster_runs._Made("far", problem="it is full"))]
        with pytest.raises(UserError, match="joint, seed 1, on far: it is full"):
            run_bench_methods(options)
    _, jobs, *_ = given.call_args.args
    make, run, order = (job := next(iter(jobs.values()))).func, *job.args

    def problem(run: Any = run, **changes: Any) -> str:
        made = make(run, replace(order, **changes))
        assert made.host == socket.gethostname()
        return str(made.problem)

    assert problem(versions={**order.versions, "torch": "1.0"}).startswith(
        "this node has other versions (torch "
    )
    assert problem(lock=b"another").startswith(f"this node has another {options.out}: the folders")
    assert problem(replace(run, made_of="other")).startswith("this node has other features: the")
    missing = options.out / "missing"
    assert problem(folder=missing).startswith(f"this node lacks {missing} (No such file")
    options.annotations[0].write_text(
        options.annotations[0].read_text().replace("Fighting", "Arson")
    )
    assert "this node has another label for Fighting/" in problem()
    assert not (options.out / "runs").exists()


def test_jobs_too_wide_for_every_node_are_refused(
    ray: FakeRay, options: BenchMethodsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 5)
    with pytest.raises(
        UserError, match=r"computes with 5 threads, .* more than 4 cores: set OMP_N"
    ):
        run_bench_methods(options)


def test_jobs_that_no_node_can_do_any_more_do_not_wait_forever(
    ray: FakeRay, options: BenchMethodsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no node of the cluster has a GPU: start one that has, or"):
        run_bench_methods(replace(options, device="cuda"))
    ray.cluster_resources = lambda: {"CPU": 6.0, "GPU": 1.0}  # type: ignore[method-assign]
    small = {"Alive": True, "Resources": {"CPU": 1.0, "GPU": 1.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [*FakeRay.nodes(ray), small])
    with pytest.raises(UserError, match="no node of the cluster with a GPU has more than 1 core"):
        run_bench_methods(replace(options, device="auto"))
    monkeypatch.setattr(ray, "wait", lambda waiting, timeout: ([], waiting))
    with pytest.raises(UserError, match=r"2 threads, .* with a GPU has more than 1 core"):
        list(finished_jobs(ray, {"only": int}, 2, on_gpu=True))
    assert len(ray.cancelled) == 1


def test_a_full_disk_of_a_node_is_told_in_a_line(
    ray: FakeRay, options: BenchMethodsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(28, "No space left on device", "model.safetensors")
    monkeypatch.setattr(cluster_runs, "_load_on_node", Mock(side_effect=full))
    with pytest.raises(UserError, match=r"joint.*, seed 1, on .*No space left on device: 'mod"):
        run_bench_methods(options)


def test_an_error_of_a_job_ends_all() -> None:
    ray = FakeRay()
    jobs = {"first": int, "second": str}
    assert list(finished_jobs(ray, jobs, 1, on_gpu=True)) == [("second", ""), ("first", 0)]
    assert ray.needs["num_gpus"] == 1
    ray.get = lambda _: (_ for _ in ()).throw(ray.exceptions.RayTaskError("bug"))  # type: ignore
    with pytest.raises(ray.exceptions.RayTaskError, match="bug"):
        list(finished_jobs(ray, jobs, 1, on_gpu=False))
    assert len(ray.cancelled) == 1
    ray = FakeRay()
    ray.lost = 2
    assert all(isinstance(lost, LostJobError) for _, lost in finished_jobs(ray, jobs, 1, False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": "here"}, "--cluster 'here' is not an address: give HOST:PORT"),
        (
            {"device": "cuda:1"},
            "--device cuda:1 is of one machine: with --cluster, use one of auto",
        ),
    ],
)
def test_wrong_options_are_refused(
    options: BenchMethodsOptions, changes: dict[str, str], message: str
) -> None:
    check_options(options)
    with pytest.raises(UserError, match=message):
        check_options(replace(options, **changes))


def test_without_ray_the_extra_is_named(options: BenchMethodsOptions) -> None:
    with (
        patch("vigil.pipeline.option_checks.find_spec", return_value=None),
        pytest.raises(UserError, match=r"not installed here: run pip install 'vigil-video\[clust"),
    ):
        check_options(options)


def test_an_address_where_nobody_listens_is_refused_at_once(options: BenchMethodsOptions) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        UserError, match=rf"--cluster 127.0.0.1:{port} does not answer \(.*: give the"
    ):
        run_bench_methods(replace(options, cluster=f"127.0.0.1:{port}"))


@pytest.mark.slow
def test_a_real_cluster_makes_the_same_table_though_its_driver_is_killed(
    options: BenchMethodsOptions,
    trained: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "vigil.pipeline.cli", "bench-methods", str(options.features)]
    command += ["--config", str(options.config), "--out", str(options.out), "--device", "cpu"]
    command += ["--annotations", str(options.annotations[0]), "--test-share", "0.4"]
    command += ["--bootstrap", "20", "--cluster", "auto"]
    own = tmp_path_factory.mktemp("ray")
    short = own.parent.parent / f"ray{os.getpid()}"  # sockets may have names of 107 bytes
    short.symlink_to(own)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["RAY_TMPDIR"] = str(short)
    given: dict[str, Any] = {"env": environment, "cwd": ROOT, "text": True}
    driver = subprocess.Popen(command, **given)
    while not (done := list(options.out.rglob("judged/last/scores.json"))):
        assert driver.poll() is None
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    written = done[0].stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, check=False, **given)
    assert again.returncode == 0, again.stderr
    assert again.stdout == (trained / "said").read_text()
    assert texts(options.out) == texts(trained / "out")
    assert done[0].stat().st_mtime_ns == written
