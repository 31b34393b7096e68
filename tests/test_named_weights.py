"""Which weights auto, a name and a path mean, and how those used before are found again."""

import logging
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import save_file

from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import BACKBONES
from vigil.extract.networks.download import (
    UnreachableWeightsError,
    WeightsError,
    WeightsSource,
    cached_weights,
)
from vigil.extract.networks.i3d import I3D
from vigil.extract.networks.named_weights import find_weights
from vigil.extract.networks.weights import load_weights
from vigil.pipeline.chains import demo
from vigil.pipeline.cli import main
from vigil.pipeline.extraction.same_weights import load_same_networks

ENDPOINT = "Conv3d_1a_7x7"


@dataclass(frozen=True, kw_only=True)
class Local(WeightsSource):
    """Weights that come from nowhere: random ones of a seed."""

    seed: int
    fault: Exception | None = None
    address = by_hand = "nowhere"
    is_checkable = True

    def obtain(self, path, progress):
        if self.fault:
            raise self.fault
        network = I3D(ENDPOINT)
        load_weights(network, f"random:{self.seed}", [])
        save_file(network.state_dict(), path)

    def check(self, path):
        if path.read_bytes() == b"damaged":
            raise WeightsError(f"{path} is damaged")


def local(name, seed, fault=None):
    return Local(name=name, file_name=f"{name}.safetensors", licence="none", seed=seed, fault=fault)


BEST, SECOND = local("best", 1), local("second", 2)
AWAY = replace(BEST, fault=OSError("no network"))
BOTH = [BEST, SECOND]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, logger="vigil")
    return tmp_path / "cache"


def use_sources(monkeypatch, *sources):
    monkeypatch.setitem(BACKBONES, "i3d", replace(BACKBONES["i3d"], sources=sources))


class TestAuto:
    def test_the_best_is_fetched_and_named(self, caplog):
        assert find_weights("auto", BOTH) == cached_weights(BEST)
        assert caplog.messages == [f"weights best: {cached_weights(BEST)}"]

    def test_what_is_cached_comes_first_and_the_better_one_is_named(self, caplog):
        path = find_weights("second", BOTH)
        caplog.clear()
        assert find_weights("auto", BOTH) == path
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage() == (
            f"weights second: {path}, because they are in the cache and best are not"
        )

    def test_the_next_one_replaces_what_is_out_of_reach_with_a_warning(self, caplog):
        path = find_weights("auto", [AWAY, SECOND])
        assert path == cached_weights(SECOND)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage() == (
            f"weights second: {path}, because best could not be downloaded (no network)"
        )

    def test_nothing_replaces_what_is_damaged(self, cache):
        cache.mkdir()
        cached_weights(BEST).write_bytes(b"damaged")
        with pytest.raises(WeightsError, match=r"best\.safetensors is damaged"):
            find_weights("auto", BOTH)
        assert not cached_weights(SECOND).exists()
        refused = replace(BEST, file_name="other.pt", fault=WeightsError("not the official file"))
        with pytest.raises(WeightsError, match="not the official file"):
            find_weights("auto", [refused, SECOND])

    def test_all_that_is_out_of_reach_is_named(self):
        far = replace(SECOND, fault=OSError("no index"))
        with pytest.raises(
            UnreachableWeightsError, match=r"\(no network; no index\): nowhere, or nowhere, give "
        ):
            find_weights("auto", [AWAY, far])


class TestNamesAndPaths:
    def test_a_name_means_its_sources_only(self, caplog):
        assert find_weights("second", BOTH) == cached_weights(SECOND)
        assert caplog.messages == [f"weights second: {cached_weights(SECOND)}"]
        with pytest.raises(UnreachableWeightsError, match="no network"):
            find_weights("best", [AWAY, SECOND])

    def test_a_second_source_of_the_same_weights_replaces_the_first(self, caplog):
        mirror = replace(SECOND, name="best")
        assert find_weights("best", [AWAY, mirror]) == cached_weights(mirror)
        assert caplog.records[0].levelno == logging.INFO

    def test_a_file_of_the_same_name_needs_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "second").touch()
        (tmp_path / "mine").touch()
        assert find_weights("second", BOTH) == cached_weights(SECOND)
        assert str(find_weights("./second/../second", BOTH)) == "second/../second"
        assert str(find_weights("mine", BOTH)) == "mine"

    @pytest.mark.parametrize("path", ["a/b", "b.pt", "second.safetensors"])
    def test_a_folder_or_an_extension_makes_a_path(self, path):
        assert str(find_weights(path, BOTH)) == path

    def test_an_unknown_name_is_refused(self):
        with pytest.raises(WeightsError, match=r"no weights 'secnd': use auto, random, one of b"):
            find_weights("secnd", BOTH)


class TestUsedBefore:
    def used(self, source):
        weights = load_weights(I3D(ENDPOINT), source.name, [source])
        return replace(weights, name=f"/elsewhere/{source.file_name}")

    def load(self, used, weights=None):
        [network] = load_same_networks("i3d", ENDPOINT, used, weights, None)
        return network.weights

    @pytest.mark.parametrize("cached", [(), (BEST,), (SECOND,)])
    @pytest.mark.parametrize("source", BOTH)
    @pytest.mark.parametrize("name", [None, "/elsewhere/renamed.pt"])
    @pytest.mark.parametrize("weights", [None, "auto"])
    def test_the_digest_decides(self, monkeypatch, source, cached, name, weights):
        use_sources(monkeypatch, *BOTH)
        used = self.used(source)
        cached_weights(source).unlink()
        for one in cached:
            find_weights(one.name, [one])
        used = replace(used, name=name or used.name)
        found = self.load(used, weights)
        assert (found.digest, found.name) == (used.digest, str(cached_weights(source)))

    def test_others_are_never_used_instead(self, monkeypatch):
        used = self.used(BEST)
        cached_weights(BEST).unlink()
        use_sources(monkeypatch, AWAY, SECOND)
        for weights in (None, "auto", "second"):
            unreached = "" if weights == "second" else "; best are out of reach"
            with pytest.raises(
                UserError,
                match=rf"second\.safetensors are not those that the features were made with "
                rf"\(/elsewhere/best\.safetensors, digest {used.digest[:12]}{unreached}\): give",
            ):
                self.load(used, weights)

    def test_an_existing_file_is_used_or_refused(self, monkeypatch, tmp_path):
        use_sources(monkeypatch, *BOTH)
        used = replace(self.used(BEST), name=str(tmp_path / "mine.safetensors"))
        cached_weights(BEST).rename(used.name)
        assert self.load(used) == used
        network = I3D(ENDPOINT)
        load_weights(network, "random:7", [])
        save_file(network.state_dict(), used.name)
        with pytest.raises(UserError, match=r"mine\.safetensors are not those that the features"):
            self.load(used)

    def test_nothing_within_reach_is_told(self, monkeypatch):
        used = self.used(BEST)
        cached_weights(BEST).unlink()
        use_sources(monkeypatch, AWAY)
        with pytest.raises(UnreachableWeightsError, match="could not be downloaded \\(no network"):
            self.load(used)


class TestCommands:
    def test_fetch_takes_a_backbone_a_name_or_both(self, monkeypatch, capsys):
        use_sources(monkeypatch, *BOTH)
        for arguments, source in (
            (["second"], SECOND),
            (["i3d", "second"], SECOND),
            (["i3d", "best"], BEST),
            (["i3d"], BEST),
        ):
            assert main(["weights", "fetch", *arguments]) == 0
            assert capsys.readouterr().out == f"{cached_weights(source)}\n"

    def test_verify_takes_what_is_cached(self, monkeypatch, capsys):
        use_sources(monkeypatch, *BOTH)
        verify = ["weights", "verify", "i3d", "--endpoint", ENDPOINT]
        assert main(verify) == 2
        assert "best.safetensors does not exist" in capsys.readouterr().err
        path = find_weights("second", BOTH)
        assert main(verify) == 0
        assert f"weights {path}\n" in capsys.readouterr().out
        find_weights("best", BOTH)
        assert main([*verify, "second"]) == 0
        assert f"weights {path}\n" in capsys.readouterr().out
        path.write_bytes(b"damaged")
        assert main([*verify, "second"]) == 2

    def test_the_demo_says_which_weights_it_takes(self, monkeypatch, caplog):
        use_sources(monkeypatch, AWAY, SECOND)
        assert demo._available("auto") == "second"
        assert "best could not be downloaded" in caplog.text
        use_sources(monkeypatch, AWAY)
        assert demo._available("auto") == "random"
        assert "the demo continues with RANDOM weights" in caplog.text
        assert demo._available("random:3") == "random:3"


def test_weights_of_the_network_do_not_depend_on_their_source():
    one, other = I3D(ENDPOINT), I3D(ENDPOINT)
    load_weights(one, "second", BOTH)
    load_weights(other, "random:2", [])
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=0)
