"""How many cameras a machine follows: what `bench.sizing` counts, and a run of it."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from test_live import BEGUN, OPTIONS, NoPool, in_thread

from bench import sizing, standin
from bench.sizing import Enough, Meter, Options, SparseStreams
from vigil.extract.decode.live import LiveSource
from vigil.extract.decode.ring import Slot
from vigil.extract.decode.worker import ClipReady, StreamNews
from vigil.extract.engine import live as following
from vigil.extract.engine.live import SeenClip
from vigil.extract.engine.pool import WorkerLimits
from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import BACKBONES


def seen(is_computed=True):
    return SeenClip(0, np.zeros(1), np.zeros((1, 2)) if is_computed else None, 0.0)


def test_clips_are_counted_after_the_warm_up_dropped_ones_too(monkeypatch):
    ticks = itertools.count(0, 0.5)
    monkeypatch.setattr(sizing, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    meter = Meter(seconds=10.0)
    with pytest.raises(UserError, match="ended too soon"):
        _ = meter.rate
    for number in range(24):
        meter.hear(("a", 0), seen(number % 4 == 0))
    with pytest.raises(Enough):
        meter.hear(("a", 0), seen())  # the sixth that counts and is computed
    assert meter.rate == pytest.approx(2.0)
    assert meter.times[0] == sizing.WARM_UP_SECONDS
    assert meter.times[-1] - meter.times[0] == pytest.approx(10.5), "longer than asked for"
    assert meter.num_computed == sizing.MIN_CLIPS


def test_one_clip_of_so_many_is_computed(monkeypatch):
    monkeypatch.setattr(following, "WorkerPool", NoPool)
    live = SparseStreams([LiveSource("a", "file://nowhere")], lambda *_: None)
    live.step = 4
    live.start(OPTIONS, WorkerLimits(), 0, np.float32)
    live.watch()
    live.receive(StreamNews(0, BEGUN))
    for index in range(9):
        live.receive(ClipReady(0, index, Slot(index, 0, ()), 0, "pyav", np.arange(4) / 25))
    assert [work.key[2] for work in iter(live.next_clip, None)] == [0, 4, 8]
    assert live._pool.released == [1, 2, 3, 5, 6, 7]


def test_it_prints_a_table(monkeypatch, capsys):
    in_thread(monkeypatch)
    monkeypatch.setitem(BACKBONES, standin.INSTANT, None)
    for name, value in {"WARM_UP_SECONDS": 0.0, "MIN_CLIPS": 1, "NUM_REPEATS": 2}.items():
        monkeypatch.setattr(sizing, name, value)
    monkeypatch.setattr(sizing, "num_cores", lambda: 1)
    sizing.main(Options(device="cpu", seconds=0.01, dry=True))
    *_, head, _, decoding, nothing = capsys.readouterr().out.splitlines()
    assert "96x64: clips/s" in head
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (decoding, nothing)]
    assert [one[:2] for one in cells] == [["decoding alone", ""], ["nothing", "fp32"]]
    assert cells[0][-1] == "", "without a network there is nothing to leave out"
    assert all(float(cell) > 0 for cell in (*cells[0][2:-1], *cells[1][2:]))
