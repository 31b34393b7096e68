"""Finding, downloading, verifying and loading weights; nothing is unpickled."""

import errno
import hashlib
import json
import os
import pickle
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vigil.extract import files
from vigil.extract.files import LEFTOVERS, LOCK_NAME
from vigil.extract.networks import download
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.download import (
    OfficialWeights,
    WeightsError,
    cache_folder,
    cached_weights,
    fetch_weights,
    git_blob_sha1,
)
from vigil.extract.networks.i3d import I3D
from vigil.extract.networks.weights import load_state, load_weights, read_state, state_digest

SOURCES = BACKBONES["i3d"].sources
PLACED = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
SMALL = "Conv3d_2b_1x1"
"""The third endpoint: two layers with weights."""


def full_state(endpoint=SMALL, seed=1):
    network = I3D(endpoint)
    load_weights(network, f"random:{seed}", SOURCES)
    return network.state_dict()


def load(path, endpoint=SMALL):
    network = I3D(endpoint)
    return network, load_weights(network, str(path), SOURCES)


def published(url, name="one", file_name="a.pt", **known):
    return OfficialWeights(name=name, file_name=file_name, licence="none", url=url, **known)


def saved(path, content):
    torch.save(content, path)
    return path


class TestLoading:
    def test_a_state_dict_fills_the_network(self, tmp_path):
        state = full_state()
        network, weights = load(saved(tmp_path / "a.pt", state))
        assert (weights.name, weights.trained) == (str(tmp_path / "a.pt"), True)
        assert weights.digest == state_digest(network)
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)

    @pytest.mark.parametrize("suffix", [".pt", ".pyth", ".safetensors"])
    @pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state", "model"])
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_wrapping_and_file_format_do_not_change_the_digest(
        self, tmp_path, suffix, wrapper, prefix
    ):
        _, plain = load(saved(tmp_path / "plain.pt", full_state()))
        state = {prefix + name: tensor for name, tensor in full_state().items()}
        path = tmp_path / f"a{suffix}"
        if suffix == ".safetensors":
            save_file(state, path)
        else:
            saved(path, {wrapper: state, "epoch": 3} if wrapper else state)
        assert load(path)[1].digest == plain.digest

    def test_any_other_value_changes_the_digest(self, tmp_path):
        digests = set()
        for change in (None, *full_state()):
            state = full_state()
            if change is not None:
                state[change] = state[change] + 1
            digests.add(load(saved(tmp_path / "a.pt", state))[1].digest)
        counters = [name for name in full_state() if name.endswith("num_batches_tracked")]
        assert len(digests) == 1 + len(full_state()) - len(counters)

    def test_layers_beyond_the_endpoint_do_not_matter(self, tmp_path):
        more = full_state("Mixed_3b") | {"logits.conv3d.bias": torch.zeros(400)}
        few = {name: more[name] for name in full_state()}
        assert load(saved(tmp_path / "more.pt", more))[1].digest == (
            load(saved(tmp_path / "few.pt", few))[1].digest
        )

    def test_missing_layers_are_named_once_each(self, tmp_path):
        state = full_state("Mixed_3b")
        for name in list(state):
            if name.startswith(("Mixed_3b.b1a.", "Conv3d_2c_3x3.bn.running_var")):
                del state[name]
        path = saved(tmp_path / "a.pt", state)
        with pytest.raises(
            WeightsError,
            match=r"a\.pt lacks the layers Conv3d_2c_3x3, Mixed_3b\.b1a: give complete weights, "
            "or choose an endpoint before them",
        ):
            load(path, "Mixed_3b")
        load(path, SMALL)

    def test_the_real_partial_weights_reach_to_mixed_4d(self, shared_data):
        path = shared_data / "weights" / "i3d_rgb_imagenet_partial.pt"
        load(path, "Mixed_4d")
        with pytest.raises(
            WeightsError,
            match=r"lacks the layers Mixed_4e\.b1b, Mixed_4f\.b1b, Mixed_5b\.b1b, Mixed_5c\.b1b:",
        ):
            load(path, "AvgPool")

    def test_weights_of_another_shape_are_refused(self, tmp_path):
        state = full_state()
        state["Conv3d_1a_7x7.conv3d.weight"] = torch.zeros(64, 2, 7, 7, 7)
        with pytest.raises(
            WeightsError, match=r"\(64, 2, 7, 7, 7\), but the network needs \(64, 3, 7"
        ):
            load(saved(tmp_path / "flow.pt", state))

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_weights_that_are_not_finite_are_refused(self, tmp_path, value):
        state = full_state()
        state["Conv3d_1a_7x7.bn.bias"][3] = value
        with pytest.raises(WeightsError, match=r"Conv3d_1a_7x7\.bn\.bias holds values that are no"):
            load(saved(tmp_path / "a.pt", state))

    def test_nothing_is_loaded_from_weights_that_are_refused(self):
        network = I3D(SMALL)
        before = state_digest(network)
        state = full_state()
        state["Conv3d_2b_1x1.bn.bias"][0] = torch.nan
        with pytest.raises(WeightsError, match="not finite"):
            load_state(network, state, "a")
        assert state_digest(network) == before


class TestFilesThatAreRefused:
    def test_a_pickle_that_would_run_a_program_is_not_run(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        path = saved(tmp_path / "a.pt", full_state() | {"extra": Malicious()})
        plain = tmp_path / "b.pt"
        plain.write_bytes(pickle.dumps(Malicious(), protocol=2))
        for refused in (path, plain):
            with pytest.raises(WeightsError, match="have to be unpickled, which can execute any"):
                load(refused)
        assert not (tmp_path / "ran").exists()

    def test_a_zip_bomb_is_refused(self, tmp_path):
        plain = saved(tmp_path / "a.pt", {"a": torch.zeros(1 << 20)})
        bomb = tmp_path / "bomb.pt"
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(bomb, "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
        assert bomb.stat().st_size < 1 << 16
        with pytest.raises(WeightsError, match=r"bomb\.pt cannot be read .* unpack to 419\d{4}\)"):
            read_state(bomb)

    @pytest.mark.parametrize(
        ("length", "header"),
        [
            (1 << 62, {}),
            (None, {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
            (None, {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 16]}}),
            (None, dict.fromkeys("ab", PLACED)),
            (None, {"a": PLACED | {"data_offsets": [16, 0]}}),
            (None, {"a": PLACED | {"data_offsets": [-16, 0]}}),
            (None, {"a": PLACED | {"dtype": "OBJECT"}}),
        ],
    )
    def test_a_false_header_is_refused(self, tmp_path, length, header):
        path = tmp_path / "a.safetensors"
        text = json.dumps(header).encode()
        path.write_bytes((length or len(text)).to_bytes(8, "little") + text + bytes(16))
        with pytest.raises(WeightsError, match=r"a\.safetensors cannot be read as weights \(Saf"):
            read_state(path)

    def test_a_storage_that_claims_more_than_the_file_holds_is_refused(self, tmp_path):
        path = saved(tmp_path / "a.pt", {"a": torch.zeros(4)})
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                if name.endswith("data.pkl"):  # K: the next byte is a number; J: the next four
                    content = content.replace(b"K\x04", b"J" + (1 << 30).to_bytes(4, "little"))
                archive.writestr(name, content)
        with pytest.raises(WeightsError, match=r"a\.pt cannot be read as weights"):
            read_state(path)

    def test_anything_but_plain_float_tensors_is_refused(self):
        network, key = I3D(SMALL), "Conv3d_2b_1x1.bn.bias"
        for convert in (Tensor.to_sparse, Tensor.long, lambda tensor: tensor.to(torch.complex64)):
            state = full_state()
            state[key] = convert(state[key])
            with pytest.raises(WeightsError, match=rf"a: {key} is not a plain tensor of floats"):
                load_state(network, state, "a")

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    @pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
    def test_a_truncated_file_is_refused(self, tmp_path, suffix, share):
        path = tmp_path / f"a{suffix}"
        if suffix == ".pt":
            saved(path, full_state())
        else:
            save_file(full_state(), path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(WeightsError, match=r"a\.\w+ (cannot be read as weights|is not a pl)"):
            load(path)

    def test_a_file_of_any_bytes_is_refused_with_its_name(self, tmp_path):
        path = tmp_path / "a.pt"
        rng = np.random.default_rng(0)
        for _ in range(200):
            path.write_bytes(rng.bytes(rng.integers(1, 100)))
            with pytest.raises(
                WeightsError, match=r"a\.pt (cannot be read as weights|is not a plain)"
            ):
                read_state(path)

    def test_a_file_without_weights_is_refused(self, tmp_path):
        path = tmp_path / "a.pt"
        with pytest.raises(WeightsError, match=r"a\.pt does not exist: give another file"):
            read_state(path)
        for content, message in (
            ([torch.zeros(1)], "holds a list, not a state dict"),
            ({}, "holds no tensors: give a state dict"),
            ({"epoch": 3}, "holds no tensors"),
        ):
            with pytest.raises(WeightsError, match=message):
                read_state(saved(path, content))
        path.write_text("<html>404</html>")
        with pytest.raises(WeightsError, match=r"a\.pt"):
            read_state(path)


class TestRandomWeights:
    def test_they_are_the_same_every_time_and_at_every_endpoint(self):
        small, large = full_state(SMALL), full_state("Mixed_3b")
        assert set(small) < set(large)
        for name, tensor in small.items():
            torch.testing.assert_close(tensor, large[name], rtol=0, atol=0)
        torch.manual_seed(99)
        assert state_digest(I3D(SMALL)) != state_digest(I3D(SMALL))
        digests = [load_weights(I3D(SMALL), "random", SOURCES).digest for _ in range(2)]
        assert digests[0] == digests[1]

    def test_the_seed_matters_and_is_recorded_with_untrained(self):
        seeds = [load_weights(I3D(SMALL), name, SOURCES) for name in ("random", "random:7")]
        assert [weights.name for weights in seeds] == ["random:0", "random:7"]
        assert not any(weights.trained for weights in seeds)
        assert seeds[0].digest != seeds[1].digest

    def test_they_leave_the_global_generator_alone(self):
        network = I3D(SMALL)
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        load_weights(network, "random", SOURCES)
        assert torch.rand(1) == expected

    def test_an_invalid_seed_is_refused(self):
        for seed in ("x", "1" * 5000):
            with pytest.raises(WeightsError, match=f"seed '{seed}' of random weights is not a wh"):
                load_weights(I3D(SMALL), f"random:{seed}", SOURCES)


CONTENT = hashlib.sha512(b"weights").digest() * 1000


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.paths.append(self.path)
        if server.leads_to is not None:
            self.send_response(302)
            self.send_header("Location", server.leads_to)
            self.end_headers()
            return
        if server.status is not None:
            self.send_error(server.status)
            return
        self.send_response(200)
        if server.tells_length:
            self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.breaks_after])
        server.may_end.wait()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.content, server.paths, server.status = CONTENT, [], None
    server.breaks_after, server.leads_to, server.tells_length = None, None, True
    server.may_end = threading.Event()
    server.may_end.set()
    monkeypatch.setattr(download, "SCHEME", "http")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def source(server):
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/a.pt"
    return published(url, git_blob_sha1=blob)


class TestDownload:
    def test_weights_are_downloaded_once(self, server, source, tmp_path):
        told = []
        path = fetch_weights(source, lambda done, total: told.append((done, total)))
        assert path == cached_weights(source) == tmp_path / "cache" / "a.pt"
        assert path.read_bytes() == CONTENT
        assert told[-1] == (len(CONTENT), len(CONTENT))
        assert fetch_weights(source) == path
        assert server.paths == ["/a.pt"]
        assert {file.name for file in path.parent.iterdir()} == {"a.pt", LOCK_NAME}

    def test_of_two_concurrent_runs_one_downloads_and_the_other_waits(self, server, source):
        with ThreadPoolExecutor() as both:
            paths = set(both.map(fetch_weights, [source] * 4))
        assert paths == {cached_weights(source)}
        assert server.paths == ["/a.pt"]
        assert cached_weights(source).read_bytes() == CONTENT

    def test_a_cache_that_cannot_be_locked_is_still_used(self, server, source, monkeypatch):
        def refuse(_file, _flags):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(files.fcntl, "flock", refuse)
        assert fetch_weights(source).read_bytes() == CONTENT

    def test_a_broken_connection_is_reported_and_leaves_nothing_behind(self, server, source):
        server.breaks_after = 1000
        with pytest.raises(WeightsError, match="was lost after 1000 of 64000 bytes; run again"):
            fetch_weights(source)
        assert list(cache_folder().iterdir()) == [cache_folder() / LOCK_NAME]
        server.breaks_after = None
        told = []
        path = fetch_weights(source, lambda done, total: told.append((done, total)))
        assert path.read_bytes() == CONTENT
        assert server.paths == ["/a.pt", "/a.pt"]
        assert told[-1] == (len(CONTENT), len(CONTENT))

    def test_an_interrupted_download_starts_again(self, server, source):
        seen = []

        def interrupt(_done, _total):
            seen.extend(cache_folder().glob(LEFTOVERS))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch_weights(source, interrupt)
        assert list(cache_folder().iterdir()) == [cache_folder() / LOCK_NAME]
        (partial,) = seen
        partial.write_bytes(CONTENT * 2)  # as a killed run leaves it
        path = fetch_weights(source)
        assert path.read_bytes() == CONTENT
        assert {file.name for file in path.parent.iterdir()} == {"a.pt", LOCK_NAME}

    def test_a_download_that_stalls_is_ended(self, server, source, monkeypatch):
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
        server.breaks_after = 1000
        server.may_end.clear()
        with pytest.raises(WeightsError, match=r"could not be downloaded \(timed out\): fetch"):
            fetch_weights(source)
        server.may_end.set()
        assert list(cache_folder().iterdir()) == [cache_folder() / LOCK_NAME]

    def test_unexpected_content_is_refused_and_removed(self, server, source):
        server.content = CONTENT[:-1] + b"x"
        with pytest.raises(WeightsError, match="is not the file published at http"):
            fetch_weights(source)
        assert list(cache_folder().iterdir()) == [cache_folder() / LOCK_NAME]
        server.content = CONTENT
        assert fetch_weights(source).read_bytes() == CONTENT

    def test_the_digest_in_a_public_name_is_compared(self, server, source):
        prefix = hashlib.sha256(CONTENT).hexdigest()[:8]
        url = source.url.replace("a.pt", f"a-{prefix}.pth")
        named = replace(source, url=url, git_blob_sha1=None)
        assert (named.sha256_prefix, named.is_checkable) == (prefix, True)
        assert fetch_weights(named).read_bytes() == CONTENT
        cached_weights(named).unlink()
        server.content = CONTENT[:-1] + b"x"
        with pytest.raises(WeightsError, match=f"is not the file .* not {prefix}\\): remove it"):
            fetch_weights(named)
        assert list(cache_folder().iterdir()) == [cache_folder() / LOCK_NAME]

    def test_without_a_published_digest_any_content_is_accepted(self, server, source):
        server.content = b"anything"
        source = replace(source, git_blob_sha1=None)
        assert not source.is_checkable
        assert fetch_weights(source).read_bytes() == b"anything"

    @pytest.mark.parametrize("status", [404, 500])
    def test_a_failed_download_suggests_what_to_do(self, server, source, status):
        server.status = status
        with pytest.raises(
            WeightsError,
            match=r"could not be downloaded \(.*fetch http://127.*a\.pt on another machine and "
            r"save it as .*cache/a\.pt, give the path of another weights file, "
            "or use random weights",
        ):
            load_weights(I3D(SMALL), "auto", [source])

    @pytest.mark.parametrize("url", ["http://a.b/c.pt", "ftp://a.b/c.pt", "file:///etc/passwd"])
    def test_only_https_is_fetched(self, tmp_path, monkeypatch, url):
        monkeypatch.setenv("VIGIL_CACHE", str(tmp_path))
        with pytest.raises(WeightsError, match=f"{url} is not https: weights are fetched over htt"):
            fetch_weights(published(url))
        assert list(tmp_path.iterdir()) == [tmp_path / LOCK_NAME]

    @pytest.mark.parametrize(
        "url", ["ftp://a.b/c.pt", "https://a.b/c.pt", "file:///etc/passwd", "data:,x"]
    )
    def test_no_redirect_leads_to_another_scheme(self, server, source, url):
        server.leads_to = url
        with pytest.raises(WeightsError, match=r"is not http: weights are f|is not allowed"):
            fetch_weights(source)
        assert not cached_weights(source).exists()

    @pytest.mark.parametrize("tells_length", [True, False])
    def test_a_download_that_is_too_large_is_not_kept(
        self, server, source, tells_length, monkeypatch
    ):
        monkeypatch.setattr(download, "MAX_DOWNLOAD_BYTES", len(CONTENT) - 1)
        server.tells_length = tells_length
        with pytest.raises(WeightsError, match="larger than 63999 bytes: that cannot be the offi"):
            fetch_weights(source)
        assert list(cache_folder().iterdir()) == [cache_folder() / LOCK_NAME]

    def test_without_a_network_the_same_is_suggested(self, server, source):
        away = replace(source, url="http://127.0.0.1:9/a.pt")
        with pytest.raises(WeightsError, match=r"could not be downloaded \(.*refused.*another"):
            fetch_weights(away)

    def test_auto_uses_the_cached_file(self, server, source):
        path = cached_weights(source)
        path.parent.mkdir(parents=True)
        saved(path, full_state())
        with pytest.raises(WeightsError, match=r"a\.pt is not the file published at .*remove it"):
            load_weights(I3D(SMALL), "auto", [source])
        source = replace(source, git_blob_sha1=git_blob_sha1(path))
        weights = load_weights(I3D(SMALL), "auto", [source])
        assert (weights.name, weights.trained) == (str(path), True)
        assert server.paths == []


def test_environment_variables_choose_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("VIGIL_CACHE")
    assert cache_folder() == tmp_path / "b" / "vigil"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "vigil"


def test_the_digest_is_gits(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"")
    assert git_blob_sha1(path) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    path.write_bytes(b"hello\n")
    assert git_blob_sha1(path) == "ce013625030ba8dba906f756967f9e9ca394464a"
