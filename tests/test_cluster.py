"""`--cluster` without Ray: which nodes may compute, and what is done when they are lost."""

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import make_features
from fake_backbone import SPEC, make_engine
from video_files import encode

from vigil.extract.decode.videos import FoundVideos
from vigil.extract.engine.activity import Activity
from vigil.extract.engine.writer import Extracted
from vigil.extract.errors import FailedVideo, UserError
from vigil.extract.files import LEFTOVERS
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.source import SourceVideo
from vigil.extract.store import list_features
from vigil.pipeline import option_checks
from vigil.pipeline.cli import main
from vigil.pipeline.cluster import cluster_engine, ray_nodes
from vigil.pipeline.cluster import driver as driving
from vigil.pipeline.cluster.admission import Admission
from vigil.pipeline.cluster.driver import Driver
from vigil.pipeline.cluster.node import Job, News, NodeEngine
from vigil.pipeline.cluster.seats import Seat, SeatLost
from vigil.pipeline.cluster.video_queue import MAX_TRIES
from vigil.pipeline.extraction.command import where
from vigil.pipeline.options import ExtractOptions

SEATS = [Seat(name, f"host-{name}", name, "cpu", 2) for name in "abc"]
FOREVER = 1e9


class ScriptedEngine:
    """Extracts the first of its videos whenever it is asked, without a process or a file."""

    def __init__(self, nodes, seat):
        self.nodes, self.seat, self.videos, self.num_done = nodes, seat, [], 0
        self.real = NodeEngine(1)

    def answer(self, asked):
        return self.real.answer(asked)

    def begin(self, _job):
        pass

    def stop(self):
        self.nodes.stopped.append(self.seat.name)

    def exchange(self, videos):
        self.videos += [video.name for video in videos]
        self.nodes.leased.append((self.seat.name, tuple(self.videos)))
        if self.videos and self.nodes.num_ends:
            self.nodes.num_ends -= 1
            raise SeatLost("its process died", is_certain=True)
        if self.nodes.killers & set(self.videos):
            raise SeatLost("its process died", is_certain=True)
        if self.seat.name in self.nodes.failing:
            return News((), Activity(), (), self.nodes.failing[self.seat.name])
        if not self.videos:
            return News((), Activity(num_clips=self.num_done, num_clips_kept=self.num_done), ())
        if self.seat.name in self.nodes.unreachable:
            raise SeatLost("its node is lost", is_certain=False)
        self.num_done += 1
        name = self.videos.pop(0)
        outcome = Extracted(name, make_features(name, spec=SPEC, num_frames=64))
        return News((outcome,), Activity(num_clips=self.num_done, num_clips_kept=self.num_done), ())


@dataclass(frozen=True, eq=False)
class Call:
    seat: str
    method: str
    run: Callable[[], Any]


class ScriptedNodes:
    def __init__(self, seats=SEATS):
        self.there, self.num_ends = list(seats), 0
        self.engines, self.leased, self.stopped = {}, [], []
        self.killers, self.failing, self.unreachable, self.mute = set(), {}, set(), set()

    def seats(self):
        return self.there

    def start(self, seat):
        self.engines[seat.name] = ScriptedEngine(self, seat)

    def share(self, content):
        return content

    def call(self, seat, method, *arguments):
        run = partial(getattr(self.engines[seat.name], method), *arguments)
        if method == "stop":  # nobody asks for the result
            run()
        return Call(seat.name, method, run)

    def wait(self, calls, _seconds):
        return [call for call in calls if call.seat not in self.mute or call.method != "exchange"]

    def result(self, call, _seat):
        return call.run()

    def end(self, seat):
        self.engines.pop(seat.name, None)

    def close(self):
        pass


def make_nothing(_device):
    raise AssertionError("scripted engines have no job")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Extract videos v0 (the largest), v1, ... on scripted nodes; returns outcomes and activity."""
    monkeypatch.setattr(driving, "SEEK_SECONDS", 0)
    monkeypatch.setattr(driving, "MARGIN_SECONDS", 0)

    def run(nodes, num_videos, lease_seconds=FOREVER):
        videos = []
        for number in range(num_videos):
            path = tmp_path / f"v{number}.mp4"
            path.write_bytes(bytes(99 - number))
            videos.append(SourceVideo(path, path.stem))
        activities = []
        admission = Admission(tmp_path, videos, "fp32")
        job = Job(make_nothing, tmp_path, lease_seconds)
        driver = Driver(nodes, admission, job, lambda _: 1)
        assert driver.admit() == "fp32"
        outcomes = list(driver.extract(videos, activities.append, lambda: None))
        driver.close()
        admission.close()
        assert [*tmp_path.glob(LEFTOVERS)] == []
        return outcomes, activities[-1]

    return run


def names_of(outcomes, kind=Extracted):
    return sorted(outcome.video for outcome in outcomes if isinstance(outcome, kind))


def test_every_video_comes_once_and_engines_are_stopped(run):
    nodes = ScriptedNodes()
    outcomes, activity = run(nodes, 10)
    assert names_of(outcomes) == sorted(f"v{number}" for number in range(10))
    assert (activity.num_clips, activity.num_clips_kept, activity.num_devices) == (10, 10, 3)
    assert sorted(nodes.stopped) == ["a", "b", "c"]


def test_the_largest_videos_are_spread_over_the_seats(run):
    nodes = ScriptedNodes()
    run(nodes, 9)
    first = dict(reversed(nodes.leased))
    assert first == {"a": ("v0", "v3", "v6"), "b": ("v1", "v4", "v7"), "c": ("v2", "v5", "v8")}


@pytest.mark.parametrize("num_seats", [1, 3])
def test_a_video_that_kills_is_a_failure_and_the_others_are_extracted(run, num_seats):
    nodes = ScriptedNodes(SEATS[:num_seats])
    nodes.killers = {"v0", "v4"}
    outcomes, activity = run(nodes, 8)
    assert names_of(outcomes, FailedVideo) == ["v0", "v4"]
    assert names_of(outcomes) == ["v1", "v2", "v3", "v5", "v6", "v7"]
    assert activity.num_clips_kept == 6
    reason = outcomes[[one.video for one in outcomes].index("v0")].reason
    assert f"{MAX_TRIES} processes of the cluster ended while they extracted it, the last" in reason
    assert "on node host-" in reason
    assert reason.endswith(": its process died")


def test_videos_are_not_blamed_if_the_driver_has_not_asked_for_longer_than_a_lease(run):
    nodes = ScriptedNodes(SEATS[:1])
    nodes.num_ends = MAX_TRIES + 1
    outcomes, _ = run(nodes, 2, lease_seconds=0)
    assert names_of(outcomes) == ["v0", "v1"]


def test_videos_of_a_node_out_of_reach_are_extracted_after_its_lease(run, monkeypatch):
    nodes = ScriptedNodes()
    nodes.unreachable = {"b"}
    began = time.monotonic()
    outcomes, _ = run(nodes, 6, lease_seconds=0.3)
    assert time.monotonic() - began >= 0.3
    assert names_of(outcomes) == [f"v{number}" for number in range(6)]


def test_an_engine_that_does_not_answer_is_given_up_after_its_lease(run):
    nodes = ScriptedNodes()
    nodes.mute = {"c"}
    outcomes, _ = run(nodes, 6, lease_seconds=0.2)
    assert names_of(outcomes) == [f"v{number}" for number in range(6)]


def test_an_engine_with_an_error_is_used_no_more_and_the_last_one_ends_the_run(run, caplog):
    nodes = ScriptedNodes()
    nodes.failing = {"a": UserError("no memory"), "b": RuntimeError("Traceback\nZeroError: x")}
    outcomes, _ = run(nodes, 6)
    assert names_of(outcomes) == [f"v{number}" for number in range(6)]
    assert "node host-a: no memory" in caplog.text
    assert "node host-b: ZeroError: x" in caplog.text
    nodes = ScriptedNodes(SEATS[:2])
    nodes.failing = {"a": OSError(28, "No space left on device"), "b": OSError(28, "No space")}
    with pytest.raises(OSError, match="No space"):
        run(nodes, 6)


def test_a_lost_engine_is_replaced_though_another_one_ended_with_an_error(run, monkeypatch):
    nodes = ScriptedNodes(SEATS[:2])
    nodes.failing = {"a": UserError("no memory")}
    exchange, lost = ScriptedEngine.exchange, []

    def lose_once(engine, videos):
        if engine.seat.name == "b" and len(nodes.leased) > 4 and not lost:
            lost.append(engine)
            raise SeatLost("its process died", is_certain=True)
        return exchange(engine, videos)

    monkeypatch.setattr(ScriptedEngine, "exchange", lose_once)
    outcomes, _ = run(nodes, 6)
    assert lost
    assert names_of(outcomes) == [f"v{number}" for number in range(6)]


def test_a_node_without_vigil_is_told_of_by_the_last_line_of_its_error():
    error = Exception(
        "The actor died because of an error raised in its creation task, ray::x (pid=1)\n"
        "RuntimeError: The actor failed to import on the worker.\n\nTraceback:\n"
        "ModuleNotFoundError: No module named 'vigil'\n"
    )
    told = "does not start (ModuleNotFoundError: No module named 'vigil'): install the same vigil"
    assert told in ray_nodes._reason(error)


def test_nodes_write_thumbnails_where_the_command_would(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cluster_engine, "on_cluster", lambda *given: seen.append(given[2]))
    monkeypatch.chdir(tmp_path)
    engine = replace(make_engine(), thumbnails=Path("out/thumbnails"))
    options = ExtractOptions(("videos",), Path("out"), cluster="auto")
    where(options, engine, Path("out"), FoundVideos((), 0))
    monkeypatch.chdir("/")
    engine_there = pickle.loads(pickle.dumps(seen[0]))("cpu")
    assert engine_there.thumbnails == tmp_path / "out/thumbnails"


def test_a_node_that_comes_later_helps(run, monkeypatch):
    nodes = ScriptedNodes(SEATS[:1])
    exchange = ScriptedEngine.exchange

    def and_come(engine, videos):
        nodes.there = SEATS
        return exchange(engine, videos)

    monkeypatch.setattr(ScriptedEngine, "exchange", and_come)
    outcomes, _ = run(nodes, 30)
    assert len(outcomes) == 30
    assert {seat for seat, videos in nodes.leased if videos} == {"a", "b", "c"}


def test_without_nodes_it_gives_up(run, monkeypatch):
    monkeypatch.setattr(driving, "START_SECONDS", 0.1)
    with pytest.raises(UserError, match="no node of the cluster has started an engine within"):
        run(ScriptedNodes([]), 3)


def engine_on(_device):
    return make_engine()


def test_an_engine_on_a_node_extracts_what_it_is_given_until_it_is_stopped(tmp_path):
    node = NodeEngine(1)
    node.begin(pickle.dumps(Job(engine_on, tmp_path, FOREVER)))
    videos = [SourceVideo(encode(tmp_path / name), name) for name in ("a.mp4", "b.mp4")]
    given = [[videos[0]], [videos[1], SourceVideo(tmp_path / "none", "none")]]
    outcomes = []
    while len(outcomes) < 3:
        news = node.exchange(given.pop(0) if given else [])
        assert news.error is None
        outcomes += news.outcomes
    node.stop()
    assert names_of(outcomes) == [*list_features(tmp_path)] == ["a.mp4", "b.mp4"]
    assert names_of(outcomes, FailedVideo) == ["none"]
    assert news.activity.num_clips == 2


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_every_backbone_can_be_sent_to_a_node(backbone):
    assert pickle.loads(pickle.dumps(backbone)).name == backbone.name


def broken_engine_on(_device):
    raise UserError("no such device")


def test_an_engine_on_a_node_reports_why_it_ended(tmp_path):
    node = NodeEngine(1)
    node.begin(pickle.dumps(Job(broken_engine_on, tmp_path, FOREVER)))
    while (error := node.exchange([]).error) is None:
        continue
    assert isinstance(error, UserError)
    assert str(error) == "no such device"


@pytest.fixture
def admitted(tmp_path):
    """Ask a node in this process, with some of its answers changed; `check` refuses or not."""
    (tmp_path / "a.mp4").write_bytes(b"1234")
    admission = Admission(tmp_path, [SourceVideo(tmp_path / "a.mp4", "a.mp4")], "fp32")

    def admit(seat=SEATS[0], questions=None, **changes):
        asked = replace(admission.questions(seat), **(questions or {}))
        admission.check(seat, replace(NodeEngine(1).answer(asked), **changes))

    yield admit
    admission.close()


def test_a_node_like_this_machine_is_admitted(admitted):
    admitted()
    admitted(SEATS[1])


@pytest.mark.parametrize(
    ("questions", "changes", "message"),
    [
        ({"token": "x"}, {}, "node host-a has another folder .*: mount it there under the same pa"),
        ({"store": Path("/none")}, {}, "does not see what this machine writes to /none .No such f"),
        ({"videos": ((Path("/none/a"), 1),)}, {}, "does not see /none/a .No such file.*: mount it"),
        ({"answer_file": "none/b"}, {}, "cannot write to .*: let Ray's account there write to it"),
        ({"answer_file": "b"}, {}, "node host-a writes to another folder .*: mount this one there"),
        ({"device": "cuda:9"}, {}, "device 'cuda:9' is not on this machine"),
        ({}, {"versions": {"torch": "1"}}, "has other versions .*torch 1, here .*install the same"),
        (
            {},
            {"precision": "bf16"},
            "node host-a computes in bf16, and node host-b in fp32: choose",
        ),
    ],
)
def test_a_node_that_does_not_fit_is_refused(admitted, questions, changes, message):
    admitted(SEATS[1])
    with pytest.raises(UserError, match=message):
        admitted(questions=questions, **changes)


def test_a_video_that_is_another_one_there_is_noticed(admitted, tmp_path):
    with pytest.raises(
        UserError, match=r"has another .*a\.mp4: mount it there under the same path"
    ):
        admitted(questions={"videos": ((tmp_path / "a.mp4", 5),)})


def test_nodes_that_round_differently_are_told_of(admitted, caplog):
    admitted(arithmetic="AVX2")
    admitted(SEATS[1], arithmetic="AVX512")
    assert "nodes compute on AVX2 and AVX512: their features agree up to rounding" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "ray://a:1"], "--cluster 'ray://a:1' is not an address: give HOST:PORT of"),
        (
            ["--cluster", "auto", "--device", "cuda:1"],
            "--device cuda:1 is of one machine: with --c",
        ),
    ],
)
def test_wrong_usage(tmp_path, capsys, arguments, message):
    (tmp_path / "a.mp4").touch()
    assert main(["extract", str(tmp_path), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(option_checks, "find_spec", lambda name: None)
    (tmp_path / "a.mp4").touch()
    command = ["score", str(tmp_path), "--out", str(tmp_path / "out"), "--cluster", "auto"]
    assert main(command) == 2
    assert "not installed here: run pip install 'vigil-video[cluster]'" in capsys.readouterr().err
