"""Batches on their way to the device: `pipeline.training.feeding`."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing

import pytest
import torch
from torch import Tensor

from vigil.pipeline.training.feeding import fetch, gather

CPU = torch.device("cpu")
FEATURES = torch.randn(20, 4, 6, generator=torch.Generator().manual_seed(0))
ROWS = torch.stack([torch.randperm(20)[:5] for _ in range(9)])


def fetchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch")]


class AtOnce:
    """Runs work on submission, which is the earliest that a thread could."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> "AtOnce":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[[int], Tensor], batch: int) -> Future[Tensor]:
        done: Future[Tensor] = Future()
        done.set_result(work(batch))
        return done


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("num_batches", [1, len(ROWS)])
def test_batches_come_in_order(num_batches: int, dtype: torch.dtype) -> None:
    features, rows = FEATURES.to(dtype), ROWS[:num_batches]
    for batches in (gather(features, rows), fetch(features, rows, CPU)):
        assert torch.equal(torch.stack([batch.clone() for batch in batches]), features[rows])
    assert not fetchers()


def test_gathering_the_next_batch_leaves_the_current_one_intact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vigil.pipeline.training.feeding.ThreadPoolExecutor", AtOnce)
    for batch, rows in zip(fetch(FEATURES, ROWS, CPU), ROWS, strict=True):
        assert torch.equal(batch, FEATURES[rows])


def test_errors_reach_the_caller_in_order() -> None:
    rows = ROWS.clone()
    rows[2, 3] = 20
    batches = fetch(FEATURES, rows, CPU)
    assert torch.equal(next(batches), FEATURES[rows[0]])
    assert torch.equal(next(batches), FEATURES[rows[1]])
    with pytest.raises(IndexError, match="out of bounds"):
        next(batches)
    assert not fetchers()


def test_the_thread_ends_if_iteration_stops_early() -> None:
    with closing(fetch(FEATURES, ROWS, CPU)) as batches:
        next(batches)
        assert fetchers()
    assert not fetchers()
