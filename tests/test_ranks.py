"""Training in several processes: the same batches, losses and weights as in one."""

import csv
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_toy_store
from commands import ROOT
from safetensors.torch import load_file
from test_methods import CLASSES, CPU, SHAPE, bags_for, recipe_of_method
from torch import Tensor

from vigil.data.annotations import labels_from_folders
from vigil.data.bags import BagError, BagSet, load_bags
from vigil.data.shares import deal, join_shares, without_features
from vigil.extract.errors import UserError
from vigil.extract.store import list_features
from vigil.model.losses import class_weights_of
from vigil.model.methods import METHODS, find_method
from vigil.pipeline.training import ranks as ranks_module
from vigil.pipeline.training.global_batch import BagsOfAllRanks, GlobalBatch
from vigil.pipeline.training.learner import Bags, _used_bags, new_learner, train_epoch
from vigil.pipeline.training.ranks import ALONE, Ranks, SharedError, find_ranks
from vigil.pipeline.training.refusals import require_ranks
from vigil.pipeline.training.training_data import load_labelled_features, select

BY_EPOCHS = [name for name in METHODS if find_method(name).detector.has_epochs]
WITH_CHANCE = {"ur_dmu", "distribution"}
"""They draw noise, or what they fit; threads share one generator."""
TOLERANCE = 1e-5
WITHOUT_GRADIENT = {
    "temporal.non_local.out.0.bias",
    "temporal.non_local.out.1.running_mean",
    "hidden.0.bias",
    "hidden.1.bias",
    "norms.0.running_mean",
    "norms.1.running_mean",
    "attention.4.bias",
}
"""Biases that a normalization or a softmax takes away again, and the means that do it. Their
gradient is rounding error, which Adam scales to whole steps; no output depends on them."""


@dataclass(frozen=True)
class Threads(Ranks):
    """Ranks that are threads of this process, which can do all but draw random numbers."""

    sums: list[Any] = field(default_factory=list)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    @classmethod
    def run(cls, number: int, work: Callable[[Ranks], Any]) -> list[Any]:
        barrier, sums = threading.Barrier(number), [torch.empty(0)] * number
        results: list[Any] = [None] * number

        def run(index: int) -> None:
            try:
                results[index] = work(cls(index, number, sums=sums, barrier=barrier))
            except BaseException:
                barrier.abort()
                raise

        threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def add(self, tensor: Tensor) -> Tensor:
        self.sums[self.index] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(torch.stack(self.sums).sum(dim=0))
        self.barrier.wait()
        return tensor

    def of_all(self, compute: Callable[[], Any]) -> list[Any]:
        self.sums[self.index] = compute()
        self.barrier.wait()
        results = list(self.sums)
        self.barrier.wait()
        return results


def dealt(bags: Bags, ranks: Ranks) -> Bags:
    """A rank's share of bags: every so many."""
    own = torch.arange(len(bags.features)) % ranks.number == ranks.index
    held = torch.where(own, own.cumsum(0) - 1, -1)
    return bags._replace(features=bags.features[own], held=held)


def without_chance(name: str):  # type: ignore[no-untyped-def]
    recipe = recipe_of_method(name)
    rates = [one.name for one in fields(recipe.model) if one.name.endswith("dropout")]
    return replace(recipe, model=replace(recipe.model, **dict.fromkeys(rates, 0.0)))


@pytest.mark.parametrize("name", [one for one in BY_EPOCHS if one not in WITH_CHANCE])
@pytest.mark.parametrize("number", [2, 7])
def test_losses_and_gradients_are_those_of_one_process(name: str, number: int) -> None:
    """Seven ranks share six bags, so that one has none."""
    bags = bags_for(find_method(name).detector)
    shape = replace(SHAPE, num_classes=int(bags.class_indices.max()) + 1)
    batch = torch.tensor([8, 6, 11, 4, 0, 3])
    weights = class_weights_of(bags.class_indices, shape.num_classes)

    def gradients(ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model = models[ranks.index].train()
        own = dealt(bags, ranks)
        model.fit(own.stored(ranks), bags.class_indices)
        (rows,), (places,) = own.own(batch.unsqueeze(0))
        assert len(rows) == len(places)
        output = GlobalBatch(ranks, places, len(batch)).output(model, own.features[rows])
        parts = model.losses(output, bags.class_indices[batch], weights)
        parts["total"].backward()
        found = {one: weight.grad for one, weight in model.named_parameters()}
        return {one: part.detach() for one, part in parts.items()}, found | dict(
            model.named_buffers()
        )

    models = [new_learner(without_chance(name), shape, 0, CPU).model for _ in range(number + 1)]
    alone = models.pop().train()
    alone.fit(bags.features, bags.class_indices)
    expected = alone.losses(alone(bags.features[batch]), bags.class_indices[batch], weights)
    expected["total"].backward()
    results = Threads.run(number, gradients)
    for parts, _ in results:
        torch.testing.assert_close(parts, {k: v.detach() for k, v in expected.items()})
    for key, weight in alone.named_parameters():
        mean = torch.stack([found[key] for _, found in results]).mean(dim=0)
        torch.testing.assert_close(mean, weight.grad, rtol=1e-4, atol=1e-5, msg=key)
    for key, buffer in alone.named_buffers():
        torch.testing.assert_close(results[0][1][key], buffer, msg=key)


@pytest.mark.parametrize("draw", [torch.rand_like, torch.randn_like])
def test_chance_is_that_of_the_whole_batch(draw: Callable[[Tensor], Tensor]) -> None:
    batch, places = torch.randn(6, 5, 40), torch.tensor([1, 4])
    dropout = torch.nn.Dropout(0.6)

    def drawn(values: Tensor) -> list[Tensor]:
        torch.manual_seed(3)
        return [dropout(values), draw(values), dropout(values[:, 0])]

    whole = drawn(batch)
    with GlobalBatch(Ranks(1, 3), places, 6):
        own = drawn(batch[places])
    assert all(torch.equal(mine, of_all[places]) for mine, of_all in zip(own, whole, strict=True))


def test_bags_are_read_from_whoever_has_them() -> None:
    bags = bags_for(find_method("joint").detector)

    def read(ranks: Ranks) -> Tensor:
        stored = dealt(bags, ranks).stored(ranks)
        assert isinstance(stored, BagsOfAllRanks)
        assert len(stored) == len(CLASSES)
        return stored[torch.tensor([5, 0, 11])]

    for read_here in Threads.run(3, read):
        assert torch.equal(read_here, bags.features[[5, 0, 11]])


def test_the_same_spans_are_chosen() -> None:
    """Six videos of one to five spans, each with two views and in one place."""
    num_spans = np.array([1, 3, 1, 5, 2, 4])
    bounds = np.concatenate([[0], np.cumsum(num_spans)])
    features = torch.randn(2 * bounds[-1], 8, 12, generator=torch.Generator().manual_seed(1))
    classes = torch.arange(6).repeat_interleave(torch.from_numpy(2 * num_spans)) % 2
    whole = Bags(features, classes, bounds=bounds, num_views=2)
    model = new_learner(recipe_of_method("sultani"), replace(SHAPE, num_classes=2), 0, CPU).model

    def chosen(ranks: Ranks) -> Tensor:
        videos = torch.arange(6).repeat_interleave(torch.from_numpy(2 * num_spans))
        own = videos % ranks.number == ranks.index
        held = torch.where(own, own.cumsum(0) - 1, -1)
        bags = whole if ranks.is_alone else whole._replace(features=features[own], held=held)
        return _used_bags(deepcopy(model), bags, np.random.default_rng(0), ranks)

    expected = chosen(ALONE)
    assert len(expected) == 12
    assert all(torch.equal(found, expected) for found in Threads.run(4, chosen))


def load(folder: Path, videos: dict[str, Any]) -> BagSet:
    return load_bags(list_features(folder), videos, ["Normal", "Arson", "Fighting"], ["center"])


@pytest.mark.parametrize("number", [2, 5])
def test_joined_shares_are_the_whole_and_stay_so_when_selected(tmp_path: Path, number: int) -> None:
    folder = write_toy_store(tmp_path, {"Normal": 5, "Arson": 3, "Fighting": 2})
    labels = {one.video: one for one in labels_from_folders(list_features(folder))}
    whole = load(folder, labels)
    shares = [load(folder, deal(labels, index, number)) for index in range(number)]
    some = sorted(whole.videos)[2:9:2]
    for index, own in enumerate(shares):
        joined = join_shares([without_features(share) for share in shares], index, own)
        for expected, bags in ((whole, joined), (select(whole, some), select(joined, some))):
            assert bags.videos == expected.videos
            for name in ("class_indices", "num_frames", "fps", "num_spans", "segment_frames"):
                np.testing.assert_array_equal(getattr(bags, name), getattr(expected, name))
            assert bags.held is not None
            here = bags.held >= 0
            assert len(bags.features) == here.sum()
            np.testing.assert_array_equal(bags.features[bags.held[here]], expected.features[here])
    other = replace(shares[1], spec=replace(shares[1].spec, num_segments=9))
    with pytest.raises(BagError, match=r"different settings \(num_segments: 8 != 9\)"):
        join_shares([shares[0], other], 0, shares[0])


def test_each_class_is_dealt_evenly(tmp_path: Path) -> None:
    folder = write_toy_store(tmp_path, {"Normal": 9, "Arson": 4})
    labels = {one.video: one for one in labels_from_folders(list_features(folder))}
    shares = [deal(labels, index, 3) for index in range(3)]
    assert sorted(video for share in shares for video in share) == sorted(labels)
    of_arson = [sum(video.startswith("Arson") for video in share) for share in shares]
    assert max(of_arson) - min(of_arson) <= 1
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_what_several_processes_cannot_train_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Ranks(1, 2, 1, 2)
    for name in sorted(METHODS.keys() - BY_EPOCHS):
        require_ranks(recipe_of_method(name), ALONE)
        with pytest.raises(UserError, match=f"'{name}' is not trained by epochs, .* use one of"):
            require_ranks(recipe_of_method(name), two)
    recipe = recipe_of_method("joint")
    compiled = replace(recipe, training=replace(recipe.training, compile=True))
    with pytest.raises(UserError, match="compile = true does not work in 2 processes"):
        require_ranks(compiled, two)
    with pytest.raises(UserError, match="7 processes cannot share batches of 6 videos: start at"):
        require_ranks(recipe, Ranks(0, 7))
    require_ranks(recipe, Ranks(0, 6))
    with pytest.raises(UserError, match="--device cuda:1 is one GPU, but 2 processes train"):
        two.device("cuda:1")
    monkeypatch.setattr(ranks_module, "select_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes on a machine with 1 GPU: start one for"):
        two.device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert two.device("auto") == torch.device("cuda", 1)


def test_ranks_are_those_of_torchrun() -> None:
    assert find_ranks({}) == ALONE
    assert find_ranks({"WORLD_SIZE": "1", "RANK": "0"}) == ALONE
    told = dict(zip(ranks_module.VARIABLES, ("3", "4", "1", "2", "host", "1"), strict=True))
    assert find_ranks(told) == Ranks(3, 4, 1, 2)
    with pytest.raises(UserError, match=r"WORLD_SIZE=4 asks for .*\('RANK'\): start it with torch"):
        find_ranks({"WORLD_SIZE": "4"})


def test_ranks_that_see_other_videos_are_refused(tmp_path: Path) -> None:
    folder = write_toy_store(tmp_path, {"Normal": 2, "Arson": 1})

    class Unlike(Ranks):
        def of_all(self, compute: Callable[[], Any]) -> list[Any]:
            seen = compute()
            return [seen, [*seen, ("Arson/more.mp4", "Arson")]]

    with pytest.raises(SharedError, match=r"rank 1 sees other .* as Arson/more\.mp4: all"):
        load_labelled_features(folder, [], ["center"], ranks=Unlike(0, 2))

    class Alike(Ranks):
        def of_all(self, compute: Callable[[], Any]) -> list[Any]:
            return [compute()] * self.number

    with pytest.raises(SharedError, match="4 processes cannot share 3 videos: start at most 3"):
        load_labelled_features(folder, [], ["center"], ranks=Alike(0, 4))


# From here on: real processes.


def trained(name: str, ranks: Ranks) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Losses of eight epochs, and the state after them."""
    bags = bags_for(find_method(name).detector)
    recipe = recipe_of_method(name)
    recipe = replace(recipe, training=replace(recipe.training, learning_rate=1e-2))
    shape = replace(SHAPE, num_classes=int(bags.class_indices.max()) + 1)
    bags = bags if ranks.is_alone else dealt(bags, ranks)
    learner = new_learner(recipe, shape, 0, CPU, ranks)
    learner.model.fit(bags.stored(ranks), bags.class_indices)
    losses = [train_epoch(learner, bags, recipe, 0, epoch) for epoch in range(1, 9)]
    return losses, learner.model.state_dict()


def train_all(index: int, number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=index, world_size=number
    )
    results = {name: trained(name, Ranks(index, number)) for name in BY_EPOCHS}
    if index == 0:
        torch.save(results, folder / "results.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_every_method_learns_the_same_in_several_processes(tmp_path: Path, number: int) -> None:
    torch.multiprocessing.spawn(train_all, (number, tmp_path), number)
    results = torch.load(tmp_path / "results.pt")
    for name in BY_EPOCHS:
        losses, state = results[name]
        expected_losses, expected = trained(name, ALONE)
        for one, other in zip(losses, expected_losses, strict=True):
            assert one == pytest.approx(other, rel=TOLERANCE, abs=TOLERANCE), name
        for key in expected.keys() - WITHOUT_GRADIENT:
            torch.testing.assert_close(
                state[key], expected[key], rtol=TOLERANCE, atol=TOLERANCE, msg=f"{name} {key}"
            )


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")
RECIPES = {
    "joint": ["--lstm-size", "8", "--standardize", "--validation-fraction", "0.3"],
    "joint_plus": ["--hidden-size", "8", "--validation-folds", "3"],
    "rtfm": ["--branch-size", "8", "--hidden-size", "8", "--validation-fraction", "0.3"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "features"
    return write_toy_store(folder, {"Normal": 12, "Arson": 6, "Fighting": 6})


def arguments(store: Path, out: Path, name: str = "joint", epochs: int = 8) -> list[str]:
    common = ["--num-anomalous", "5", "--num-normal", "5", "--learning-rate", "1e-3"]
    command = ["train", str(store), "--out", str(out), "--method", name, "--device", "cpu"]
    return [*command, *common, *RECIPES[name], "--epochs", str(epochs)]


def start(*command: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, cwd=ROOT)


def vigil(*given: str, processes: int = 1) -> tuple[int, str, str]:
    prefix = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
    process = start(*prefix, "-m", "vigil.pipeline.cli", *given)
    out, errors = process.communicate()
    return process.returncode, out, errors


def log_of(run: Path) -> np.ndarray:
    with (run / "log.csv").open(newline="") as file:
        return np.array([[float(value) for value in row] for row in list(csv.reader(file))[1:]])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_run_of_torchrun_is_that_of_one_process(store: Path, tmp_path: Path, name: str) -> None:
    code, said, _ = vigil(*arguments(store, tmp_path / "one", name))
    assert code == 0
    code, said_by_two, errors = vigil(*arguments(store, tmp_path / "two", name), processes=2)
    assert code == 0, errors
    assert said_by_two.count("best_epoch") == 1
    assert said_by_two.splitlines()[:3] == said.splitlines()[:3]
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    np.testing.assert_allclose(two, one, rtol=TOLERANCE, atol=TOLERANCE)
    for which in ("best", "last"):
        state, expected = (
            load_file(tmp_path / run / which / "model.safetensors") for run in ("two", "one")
        )
        for key in expected.keys() - WITHOUT_GRADIENT:
            torch.testing.assert_close(state[key], expected[key], rtol=TOLERANCE, atol=TOLERANCE)
    of_both = [json.loads((tmp_path / run / "splits.json").read_text()) for run in ("one", "two")]
    assert of_both[0] == of_both[1]


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_run_resumes_to_the_same_weights(
    store: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert vigil(*arguments(store, whole, epochs=60), processes=2)[0] == 0
    command = [*arguments(store, killed, epochs=60)]
    process = start(*TORCHRUN, "2", "-m", "vigil.pipeline.cli", *command)
    while not (killed / "log.csv").is_file() or len(log_of(killed)) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    kill_rank(process.pid, 1)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert "rank 0 lost its connection to another one of the 2" in errors or "terminated" in errors
    assert (killed / "last" / "config.json").is_file()
    code, _, errors = vigil(*command, "--resume", processes=2)
    assert code == 0
    assert "resuming after epoch" in errors
    np.testing.assert_array_equal(log_of(killed), log_of(whole))
    states = [load_file(run / "last" / "model.safetensors") for run in (killed, whole)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


def kill_rank(parent: int, rank: int) -> None:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            os.kill(int(child), 9)


@pytest.mark.slow
def test_an_error_of_one_rank_is_reported_once(store: Path, tmp_path: Path) -> None:
    features = tmp_path / "features"
    write_toy_store(features, {"Normal": 12, "Arson": 6})
    damaged = features / "Arson" / "Arson1.mp4.h5"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    code, _, errors = vigil(*arguments(features, tmp_path / "run"), processes=2)
    assert code != 0
    said = [line for line in errors.splitlines() if line.startswith("ERROR")]
    assert len(said) == 1
    assert f"{damaged} is damaged" in said[0]
    assert not (tmp_path / "run").exists()
