"""Videos behind addresses: what is accepted, listed, fetched and recognised."""

import csv
import hashlib
import http.server
import os
import threading
from base64 import b64encode
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from builders import VIEWS, fake_extraction, make_features, write_checkpoint, write_store
from fake_backbone import BACKBONE
from video_files import draw_frames, encode

from vigil.extract.decode.videos import find_videos
from vigil.extract.engine import dispatch
from vigil.extract.errors import UserError, VideoError
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.remote import addresses, stores
from vigil.extract.remote.fetching import copy_path, fetch
from vigil.extract.store import feature_path, read_features
from vigil.pipeline.cli import main
from vigil.pipeline.extraction.command import ExtractionReport
from vigil.pipeline.extraction.fetched import COPIES_FOLDER
from vigil.pipeline.options import ScoreOptions
from vigil.pipeline.scoring import command as scoring
from vigil.pipeline.scoring.results import read_results

fsspec = pytest.importorskip("fsspec")

LENGTHS = {"Fighting/a.mp4": 70, "Fighting/b.mp4": 20, "c.mp4": 130}
SECRET = "hunter2hunter2"
SETTINGS = ["--weights", "random", "--precision", "fp32", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The videos as files."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, num_frames) in enumerate(LENGTHS.items()):
        encode(folder / name, draw_frames(num_frames, seed=seed))
    return folder


@pytest.fixture
def memory(monkeypatch, local):
    """A bucket with the videos, in the memory of this process."""
    monkeypatch.setitem(addresses.PACKAGES, "memory", "fsspec")
    monkeypatch.setattr(stores, "FIRST_PAUSE_SECONDS", 0.001)
    files = fsspec.filesystem("memory")
    files.store.clear()
    for name in LENGTHS:
        files.pipe(f"/bucket/cctv/{name}", (local / name).read_bytes())
    files.pipe("/bucket/cctv/notes.txt", b"no video")
    files.pipe("/bucket/cctv/.hidden/d.mp4", b"not looked at")
    yield files
    files.store.clear()


@pytest.fixture
def store(tmp_path):
    return tmp_path / "features"


@pytest.fixture
def extract(monkeypatch, store, capsys):
    """Run the command with the fake backbone; return (exit code, its messages)."""
    monkeypatch.setitem(BACKBONES, "fake", BACKBONE)
    monkeypatch.setattr(dispatch, "WATCH_SECONDS", 0.02)

    def run(*arguments, out=store):
        settings = ["--out", str(out), "--backbone", "fake", *SETTINGS]
        code = main(["extract", *settings, *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.err + said.out

    return run


def failures_in(store):
    with (store / "failures.csv").open(newline="") as file:
        return {row["video"]: row["reason"] for row in csv.DictReader(file)}


def counting(monkeypatch, files):
    """Count the transfers of a file system, by key."""
    keys = []
    original = type(files).get_file

    def get_file(self, key, *arguments, **settings):
        keys.append(key)
        return original(self, key, *arguments, **settings)

    monkeypatch.setattr(type(files), "get_file", get_file)
    return keys


class TestExtract:
    def test_features_are_those_of_local_files_and_nothing_is_left(
        self, extract, memory, local, store, tmp_path
    ):
        assert extract(local, out=tmp_path / "here")[0] == 0
        code, said = extract("memory://bucket/cctv")
        assert code == 0, said
        for name in LENGTHS:
            there, here = (
                read_features(feature_path(one, name)) for one in (store, tmp_path / "here")
            )
            assert (there.features == here.features).all()
            assert there.video.digest == here.video.digest
            assert there.video.path == name
        assert not (store / COPIES_FOLDER).exists()

    def test_a_second_run_fetches_nothing(self, extract, memory, monkeypatch):
        extract("memory://bucket/cctv")
        keys = counting(monkeypatch, memory)
        code, said = extract("memory://bucket/cctv/")
        assert code == 0
        assert "0 to extract, 3 already extracted" in said
        assert keys == []

    def test_same_bytes_under_another_time_are_fetched_and_recognised(
        self, extract, memory, monkeypatch, local, store
    ):
        """As after a copy from bucket to bucket; nothing is extracted again."""
        assert extract(local)[0] == 0
        before = feature_path(store, "c.mp4").stat().st_mtime_ns
        keys = counting(monkeypatch, memory)
        code, said = extract("memory://bucket/cctv")
        assert code == 0
        assert "3 to fetch and compare" in said
        assert "0 extracted, 3 already extracted, 0 failed" in said
        assert len(keys) == 3
        assert feature_path(store, "c.mp4").stat().st_mtime_ns == before
        assert not (store / COPIES_FOLDER).exists()

    def test_another_version_is_refused_unless_overwritten(self, extract, memory, store, local):
        extract("memory://bucket/cctv")
        changed = bytearray((local / "c.mp4").read_bytes())
        changed[-1] ^= 1  # the same size
        memory.pipe("/bucket/cctv/c.mp4", bytes(changed))
        memory.store["/bucket/cctv/c.mp4"].created = memory.created("/bucket/cctv/c.mp4").replace(
            year=2020
        )
        code, _ = extract("memory://bucket/cctv")
        assert code == 3
        assert "memory://bucket/cctv/c.mp4 differs from the video" in failures_in(store)["c.mp4"]
        assert extract("memory://bucket/cctv", "--overwrite")[0] == 0
        digest = read_features(feature_path(store, "c.mp4")).video.digest
        assert digest == hashlib.sha256(changed).hexdigest()

    def test_one_after_another_if_copies_have_little_room(
        self, extract, memory, monkeypatch, store, local
    ):
        largest = max((local / name).stat().st_size for name in LENGTHS)
        code, said = extract("memory://bucket/cctv", "--fetch-gib", largest / 2**30)
        assert code == 0, said
        assert extract("memory://bucket", "--fetch-gib", (largest - 1) / 2**30, out=store / "2")[0]
        reasons = failures_in(store / "2")
        assert len(reasons) == 1
        assert "raise fetch_gib" in next(iter(reasons.values()))

    def test_broken_connections_are_tried_again_and_then_a_row(
        self, extract, memory, monkeypatch, store
    ):
        failing = {"/bucket/cctv/c.mp4": 2, "/bucket/cctv/Fighting/a.mp4": 99}
        original = type(memory).get_file

        def get_file(self, key, path, **settings):
            original(self, key, path, **settings)
            if failing.get(key, 0):
                failing[key] -= 1
                os.truncate(path, 100)
                if failing[key] % 2:
                    raise ConnectionResetError(f"https://u:{SECRET}@host/a?X-Signature={SECRET}")

        monkeypatch.setattr(type(memory), "get_file", get_file)
        code, said = extract("memory://bucket/cctv")
        assert code == 3
        assert failures_in(store).keys() == {"Fighting/a.mp4"}
        assert "6 tries" in failures_in(store)["Fighting/a.mp4"]
        assert SECRET not in said
        assert SECRET not in (store / "failures.csv").read_text()

    def test_a_dry_run_fetches_nothing(self, extract, memory, monkeypatch, store):
        keys = counting(monkeypatch, memory)
        code, said = extract("memory://bucket/cctv", "--dry-run")
        assert code == 0
        assert said.count("extract ") >= 3
        assert keys == []
        assert not store.exists()

    def test_remote_and_local_together(self, extract, memory, local, store):
        memory.rm("/bucket/cctv/c.mp4")
        assert extract("memory://bucket/cctv", local / "c.mp4")[0] == 0
        assert all(feature_path(store, name).exists() for name in LENGTHS)

    def test_what_a_killed_run_left_is_used_or_removed(self, extract, memory, store, monkeypatch):
        (video,) = find_videos(["memory://bucket/cctv/c.mp4"], ".mp4", may_fetch=True).videos
        folder = store / COPIES_FOLDER
        copy = fetch(video.remote, folder, threading.Event())
        (folder / "other.mp4").write_bytes(b"of another run")
        keys = counting(monkeypatch, memory)
        assert copy == copy_path(video.remote, folder)
        assert extract("memory://bucket/cctv/c.mp4")[0] == 0
        assert keys == []
        assert not folder.exists()


class TestFinding:
    def test_names(self, memory, tmp_path):
        below = find_videos(["memory://bucket"], ".mp4", may_fetch=True)
        assert [one.name for one in below.videos] == [f"cctv/{name}" for name in LENGTHS]
        assert below.num_other_files == 1
        (single,) = find_videos(["memory://bucket/cctv/c.mp4"], ".mp4", may_fetch=True).videos
        assert (single.name, single.origin) == ("c.mp4", "memory://bucket/cctv/c.mp4")

    def test_lines_of_a_list(self, memory, tmp_path, local):
        lines = ["memory://bucket/cctv/c.mp4", "memory://bucket/cctv/Fighting/a.mp4"]
        lines += ["memory://bucket/cctv/gone/x.mp4", "b.mp4"]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        (tmp_path / "b.mp4").write_bytes((local / "Fighting/b.mp4").read_bytes())
        found = find_videos([str(tmp_path / "list.txt")], ".mp4", may_fetch=True)
        assert [one.name for one in found.videos] == ["b.mp4", "cctv/Fighting/a.mp4", "cctv/c.mp4"]
        assert [one.video for one in found.failures] == ["cctv/gone/x.mp4"]

    def test_names_that_lead_elsewhere_fail(self, memory):
        memory.store["/bucket/odd/../up.mp4"] = memory.store["/bucket/cctv/c.mp4"]
        memory.store["/bucket/odd//empty.mp4"] = memory.store["/bucket/cctv/c.mp4"]
        memory.store["/bucket/odd/fine.mp4"] = memory.store["/bucket/cctv/c.mp4"]
        found = find_videos(["memory://bucket/odd"], ".mp4", may_fetch=True)
        assert [one.name for one in found.videos] == ["fine.mp4"]
        assert len(found.failures) == 2

    @pytest.mark.parametrize(
        "address",
        [
            f"s3://AKIA:{SECRET}@bucket/a.mp4",
            f"s3://AKIA:{SECRET}/x@bucket/a.mp4",
            f"https://user:{SECRET}@host/a.mp4",
            f"https://user:{SECRET}/x@host/a.mp4",
            f"https://host/a.mp4?X-Amz-Signature={SECRET}",
            f"https://host/a.mp4#{SECRET}",
            f"https://{SECRET}@host/a.mp4",
        ],
    )
    def test_secrets_are_refused_and_not_repeated(self, address):
        with pytest.raises(UserError) as refused:
            addresses.check_address(address)
        assert SECRET not in str(refused.value)

    @pytest.mark.parametrize(
        ("argument", "said"),
        [
            ("rtsp://host/stream", "record it into files first"),
            ("ftp://host/a.mp4", "record it into files first"),
            ("memory://bucket/nothing", "there is no such file in the store"),
            ("memory://bucket/cctv/*.mp4", "name a folder, or a video"),
            ("memory://bucket/a/../b", "name a folder, or a video"),
            ("https://host/folder/", "one video per line"),
            ("gs://bucket/a", "pip install 'vigil-video[remote]' gcsfs"),
        ],
    )
    def test_what_is_refused(self, memory, argument, said, extract):
        if argument.startswith("gs:"):
            said = said if addresses.find_spec("gcsfs") is None else ""
        code, message = extract(argument)
        assert code == 2
        assert said in " ".join(message.split())

    def test_without_the_package(self, monkeypatch, extract):
        monkeypatch.setattr(addresses, "find_spec", lambda name: None)
        code, said = extract("s3://bucket/a")
        assert code == 2
        assert "need fsspec and s3fs" in " ".join(said.split())
        assert "pip install 'vigil-video[remote]'" in " ".join(said.split())

    def test_other_commands_say_what_to_do(self, memory, capsys, tmp_path):
        for command in (["explain"], ["calibrate", "--checkpoint", tmp_path]):
            out = ["--out", tmp_path / "out"] if command[0] == "explain" else []
            code = main([*map(str, (*command, "memory://bucket/cctv/c.mp4", *out))])
            said = " ".join(capsys.readouterr().err.split())
            assert code == 2
            assert "copy it to this machine" in said or command[0] == "calibrate", said

    def test_a_cluster_is_refused(self, memory, extract):
        pytest.importorskip("ray")
        code, said = extract("memory://bucket/cctv", "--cluster", "auto")
        assert code == 2
        assert "--cluster does not fetch videos" in " ".join(said.split())


class TestScore:
    @pytest.fixture
    def options(self, memory, monkeypatch, tmp_path):
        """Options of a command that scores one remote video, whose features are there."""
        engine = SimpleNamespace(views=VIEWS, devices=(torch.device("cpu"),))
        report = ExtractionReport(present=["a.mp4"])
        monkeypatch.setattr(scoring, "scoring_engine", lambda config, options: engine)
        monkeypatch.setattr(scoring, "extract_videos", fake_extraction(report))
        write_store(tmp_path / "results" / "features", make_features("a.mp4"))
        run = write_checkpoint(tmp_path / "run", threshold=0.0)
        return ScoreOptions(("memory://bucket/cctv/Fighting/a.mp4",), tmp_path / "results", run)

    def test_results_name_the_address_and_clips_say_what_to_do(self, options):
        assert scoring.run_score(options) == 0
        (result,) = read_results(options.out).videos
        assert result.source == "memory://bucket/cctv/Fighting/a.mp4"
        assert main(["report", str(options.out), "--clips"]) == 3
        (result,) = read_results(options.out).videos
        assert "is not here: copy it, and score the copy with --clips" in result.warnings[-1]

    @pytest.mark.parametrize("changes", [{"clips": True}, {"clock": "creation"}])
    def test_what_needs_the_video_is_refused(self, options, changes):
        with pytest.raises(UserError, match="score that folder into the same OUT"):
            scoring.run_score(replace(options, **changes))


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and fails as often as its server wants."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        if server.busy:
            server.busy -= 1
            self.send_error(503)
            return
        if server.cuts:
            server.cuts -= 1
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"x" * 100)
            self.close_connection = True
            return
        super().do_GET()

    def end_headers(self):
        for name, value in self.server.more_headers.items():
            self.send_header(name, value)
        super().end_headers()

    def send_header(self, keyword, value):
        if keyword not in self.server.left_out:
            super().send_header(keyword, value)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def web(tmp_path, local, monkeypatch):
    """A web server with the videos; its attributes say how it misbehaves."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(stores, "FIRST_PAUSE_SECONDS", 0.001)

    def handle(*arguments):
        return Handler(*arguments, directory=local)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handle) as server:
        server.requests, server.busy, server.cuts = [], 0, 0
        server.more_headers, server.left_out = {}, ()
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class TestWeb:
    def test_a_video_after_503_and_a_cut(self, web, extract, store, local):
        web.busy, web.cuts = 1, 1
        code, said = extract(f"{web.address}/c.mp4")
        assert code == 0, said
        digest = read_features(feature_path(store, "c.mp4")).video.digest
        assert digest == hashlib.sha256((local / "c.mp4").read_bytes()).hexdigest()
        num_requests = len(web.requests)
        code, said = extract(f"{web.address}/c.mp4")
        assert "1 already extracted" in said
        assert len(web.requests) == num_requests

    def test_without_a_time_it_is_fetched_to_compare(self, web, extract):
        web.left_out = ("Last-Modified",)
        assert extract(f"{web.address}/c.mp4")[0] == 0
        code, said = extract(f"{web.address}/c.mp4")
        assert code == 0
        assert "1 to fetch and compare" in said

    def test_without_a_size_it_is_a_row(self, web, extract, store, tmp_path):
        web.left_out = ("Content-Length",)
        (tmp_path / "list.txt").write_text(f"{web.address}/c.mp4\n")
        code, said = extract(tmp_path / "list.txt")
        assert code == 4, said
        assert "does not tell its size" in next(iter(failures_in(store).values()))

    def test_a_checksum_that_does_not_fit(self, web, tmp_path, local):
        right = b64encode(hashlib.md5((local / "c.mp4").read_bytes()).digest()).decode()
        web.more_headers = {"Content-MD5": right}
        file = stores.look_up(f"{web.address}/c.mp4")
        assert fetch(file, tmp_path, threading.Event()).is_file()
        web.more_headers = {"Content-MD5": right[::-1]}
        file = stores.look_up(f"{web.address}/c.mp4")
        with pytest.raises(VideoError, match="MD5"):
            fetch(file, tmp_path / "2", threading.Event())
        assert list((tmp_path / "2").iterdir()) == []

    def test_a_missing_one_is_not_tried_again(self, web):
        with pytest.raises(VideoError, match="no such file"):
            stores.look_up(f"{web.address}/nothing.mp4")


def test_versions_within_a_second_differ():
    infos = [{"size": 1, "LastModified": 1e9, "ETag": tag} for tag in ('"a"', '"b"', 'W/"a"')]
    first, second, third = (stores.described("s3", "b/k", one).modified_ns for one in infos)
    assert first != second
    assert first == third
    assert first // 10**9 == second // 10**9 == 10**9


def test_nothing_of_fsspec_is_loaded_for_local_videos(local, tmp_path):
    from commands import run_python

    program = (
        "import sys; from vigil.extract.decode.videos import find_videos; "
        f"find_videos([{str(local)!r}], '.mp4', may_fetch=True); print('fsspec' in sys.modules)"
    )
    assert run_python("-c", program).stdout.strip() == "False"
