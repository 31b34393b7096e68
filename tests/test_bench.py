"""Benchmarks: every section at a tiny size, and the measuring tools."""

import sys
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from builders import make_features, write_store
from torch import nn

from bench import __main__ as program
from bench import (
    calibration,
    combination,
    decode,
    end_to_end,
    machine,
    memory,
    network,
    standin,
    start,
    table,
    training,
    views,
)
from bench.arithmetic import layers
from bench.end_to_end import least_cosine
from bench.naive import plain_features
from bench.options import Options
from bench.processes import own_memory, peak_memory, run_python
from bench.table import Row, figure, render, shortest_seconds
from bench.videos import chosen_videos, draw_video, repeat_video
from vigil.extract.errors import UserError
from vigil.extract.networks.backbones import BACKBONES, find_backbone
from vigil.model.settings import InputShape

CHEAP = Options(backbone=standin.NAME, device="cpu", precisions=("fp32",), repeats=1)


@pytest.fixture(autouse=True)
def _cheap_backbone(monkeypatch):
    """Register the stand-in backbone instead of I3D, and restore the table after the test."""
    monkeypatch.setitem(BACKBONES, standin.NAME, None)
    monkeypatch.setattr(standin, "SECONDS_PER_VIEW", 0)
    standin.register()


def require_ratios(rows, num_rows):
    rows = list(rows)
    assert len(rows) == num_rows
    assert rows[0].ratio == 1
    assert all(row.value > 0 and row.ratio > 0 for row in rows)
    return rows


class TestSections:
    def test_network(self, tmp_path, monkeypatch):
        for name in ("product_rate", "convolution_rate", "copy_rate"):
            monkeypatch.setattr(machine, name, lambda *_arguments: 1e9)
        rows = list(network.measure(CHEAP, tmp_path))
        exact = [row for row in rows if "cosine 1.00000, relative L2 0.0e+00" in row.note]
        usual = [row for row in rows if row.what.startswith("usual way") and row.ratio == 1]
        assert exact
        assert len(usual) == len({1, torch.get_num_threads()})
        assert all(row.value > 0 and row.ratio > 0 for row in rows)

    def test_training(self, tmp_path):
        rows = list(training.measure(CHEAP, tmp_path, InputShape(4, 1, 8, 3)))
        assert [row.ratio == 1 for row in rows] == [True, False, False] * 2
        assert all(row.value > 0 for row in rows)

    def test_views(self, tmp_path, monkeypatch):
        rows = require_ratios(views.measure(CHEAP, tmp_path), 2)
        assert [row.what for row in rows] == ["center", "squeeze"]
        pixels = replace(BACKBONES[standin.NAME].pixels, any_size=True)
        backbone = replace(BACKBONES[standin.NAME], pixels=pixels)
        monkeypatch.setitem(BACKBONES, standin.NAME, backbone)
        again = tmp_path / "again"
        again.mkdir()
        rows = require_ratios(views.measure(CHEAP, again), 3)
        assert rows[-1].note.startswith("340x256, ")

    @pytest.mark.slow
    def test_combination(self, tmp_path):
        options = replace(CHEAP, backbone="standin+instant")
        rows = list(combination.measure(options, tmp_path, num_frames=20))
        assert [row.what for row in rows[1:]] == [
            "instant",
            "start and decoding",
            "standin+instant",
        ]
        assert all(row.value > 0 for row in rows)

    def test_calibration(self):
        options = calibration.Options(2, 2, later_days=2, long_days=3, alarms_per_day=(5, 20))
        found = calibration.measure(options, num_days=2, day_effect=0)
        assert [len(counted) for counted in found.values()] == [4, 4]
        assert all(one.events > 0 for one in found[20])
        assert [row[2] for row in calibration.rows("alike", 2, found)] == ["5", "20"]

    def test_decode(self, tmp_path, monkeypatch):
        monkeypatch.setattr(decode, "SIZES", ((64, 48),))
        require_ratios(decode.measure(CHEAP, tmp_path, num_frames=5), 2 * len(decode.WAYS))

    @pytest.mark.slow
    def test_end_to_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr(end_to_end, "NUM_DRAWN", 1)
        rows = require_ratios(end_to_end.measure(CHEAP, tmp_path), 6)
        assert rows[-1].note.endswith("at least 1.00000")

    def test_memory(self, tmp_path, monkeypatch):
        hold = "import sys, time; from pathlib import Path; time.sleep(0.5)"
        hold += "; held = Path(sys.argv[1]).read_bytes() * 1000; time.sleep(0.5)"
        monkeypatch.setattr(
            memory, "vigil_extract", lambda _options, video, _out: ["-c", hold, str(video)]
        )
        rows = require_ratios(memory.measure(CHEAP, tmp_path, lengths_seconds=(1, 3)), 2)
        assert rows[1].ratio > 2  # growth with the video is detected

    def test_start(self, tmp_path, monkeypatch):
        calls = []

        def program(_options, videos, out, views):
            calls.append((sorted(path.name for path in videos.iterdir()), out, views))
            return ["-c", "pass"]

        monkeypatch.setattr(start, "vigil_extract", program)
        monkeypatch.setattr(start, "naive_extract", program)
        rows = require_ratios(start.measure(CHEAP, tmp_path), 4)
        assert rows[1].what == "vigil --help"
        assert [(videos, views) for videos, _, views in calls] == [(["short.mp4"], "center")] * 2
        assert len({out for _, out, _ in calls}) == 2  # each run starts with an empty folder

    def test_results_before_a_failure_are_printed_and_written(self, tmp_path, capsys, monkeypatch):
        def fail(_options, _folder):
            yield Row("decode", "a figure", 12.345, "frames/s", 1, "a note")
            raise UserError("no more")

        monkeypatch.setattr(decode, "measure", fail)
        monkeypatch.setattr(sys, "argv", ["bench", "--device", "cpu"])
        out = tmp_path / "results" / "table.txt"
        with pytest.raises(UserError, match="no more"):
            program.main(Options(sections=("decode",), device="cpu", out=out))
        printed = capsys.readouterr().out
        assert printed == out.read_text()
        assert printed.startswith("command: python -m bench --device cpu\n")
        assert "| decode  | a figure |  12.3 | frames/s |  1.00 | a note |" in printed


class TestDecode:
    @pytest.mark.parametrize("way", decode.WAYS)
    def test_every_method_decodes_every_frame(self, tmp_path, way):
        video = draw_video(tmp_path / "a.mp4", 320, 240, 70)
        assert decode.WAYS[way](video, (341, 256)) == 70


class TestVideos:
    def test_bit_rate_matches_real_videos(self, tmp_path):
        video = draw_video(tmp_path / "a.mp4", 320, 240, 150)
        assert video.stat().st_size * 8 / 5 == pytest.approx(1.8e6, rel=0.2)

    @pytest.mark.parametrize("fps", [30, 5])
    def test_repeated_packets_decode_to_repeated_frames_in_time(self, tmp_path, fps):
        once = draw_video(tmp_path / "once.mp4", 64, 48, 12, fps=fps)
        thrice = repeat_video(once, tmp_path / "thrice.mp4", 3)
        contents = []
        for path in (once, thrice):
            with av.open(str(path)) as container:
                frames = list(container.decode(video=0))
            contents.append(np.stack([frame.to_ndarray(format="rgb24") for frame in frames]))
        assert np.array_equal(contents[1], np.concatenate([contents[0]] * 3))
        assert len({frame.pts for frame in frames}) == 36
        assert np.ptp(np.diff([frame.pts for frame in frames])) == 0
        assert frames[-1].time == pytest.approx(35 / fps + frames[0].time)

    def test_chosen_videos_are_spread_evenly(self, tmp_path):
        source = tmp_path / "source"
        source.mkdir()
        for number in range(7):
            (source / f"{number}.mp4").touch()
        options = Options(videos=source, max_videos=3)
        chosen = sorted(chosen_videos(options, tmp_path, [], 0).iterdir())
        assert [path.resolve().name for path in chosen] == ["0.mp4", "2.mp4", "4.mp4"]


class TestArithmetic:
    def test_flop_are_those_of_the_convolutions(self):
        """Twice the products of a 7x7x7 kernel on 3 channels, for 64 channels of 32x112x112."""
        expected = 2 * 7**3 * 3 * 64 * 32 * 112 * 112
        assert find_backbone("i3d").count_flop("Conv3d_1a_7x7") == expected

    def test_layers_add_up(self):
        backbone = find_backbone("i3d")
        works = layers(backbone, "Mixed_3b")
        assert [work.layer for work in works] == list(backbone.layout)[: len(works)]
        assert sum(work.flop for work in works) == backbone.count_flop("Mixed_3b")
        pool = works[1]  # reads and writes 64 channels
        assert pool.num_bytes == 2 * 64 * 32 * (112 * 112 + 56 * 56)


class TestMeasuring:
    def test_variants_run_in_turn(self):
        calls = []
        seconds = shortest_seconds(
            {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2
        )
        assert "".join(calls) == "ab" + "ab" * 2
        assert set(seconds) == {"a", "b"}

    def test_the_shortest_time_counts(self, monkeypatch):
        now = iter([0.0, 5.0, 5.0, 7.0, 7.0, 11.0])
        monkeypatch.setattr(table.time, "perf_counter", lambda: next(now))
        assert shortest_seconds({"a": list}, repeats=3, warm_up=False) == {"a": 2.0}

    def test_the_least_cosine_of_all_videos_is_returned(self, tmp_path):
        views = make_features("a.mp4").features
        write_store(tmp_path, make_features("a.mp4"), make_features("b.mp4"))
        np.save(tmp_path / "a.mp4.npy", views)
        other = views.copy()
        other[..., 0] += 3
        np.save(tmp_path / "b.mp4.npy", other)
        expected = (views * other).sum() / np.linalg.norm(views) / np.linalg.norm(other)
        least = least_cosine(tmp_path, tmp_path, ["a.mp4", "b.mp4"])
        assert least == pytest.approx(expected, rel=1e-5)
        assert least < 0.99

    def test_a_program_with_much_output_is_not_blocked(self):
        code = "import sys, time; sys.stderr.write('x' * 1_000_000); print('y' * 1_000_000)"
        code += "; time.sleep(1)"  # so that it is measured on a busy machine, too
        assert own_memory(peak_memory(["-c", code])) > 0

    def test_memory_of_descendants_counts(self):
        """A small process starts one that holds 100 MB for a while."""
        child = "import time; held = bytearray(b'x') * 100_000_000; time.sleep(0.8)"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
        assert 100e6 < own_memory(peak_memory(["-c", code])) < 160e6

    @pytest.mark.parametrize("run", [run_python, peak_memory])
    def test_a_program_that_fails_is_quoted(self, run):
        with pytest.raises(UserError, match="ValueError: of this kind"):
            run(["-c", "raise ValueError('of this kind')"])

    def test_plain_features_use_the_backbones_frames(self):
        class Times(nn.Module):
            def forward(self, x):
                return x.mean(dim=(1, 3, 4))

        backbone = find_backbone(standin.NAME)
        views = torch.arange(64, dtype=torch.uint8)[None, :, None, None, None].expand(
            1, 64, 2, 2, 3
        )
        seen = plain_features(Times(), backbone, views)[0]
        assert torch.allclose(seen * 127.5 + 127.5, torch.arange(0, 56, 8).float(), atol=1e-4)

    @pytest.mark.parametrize(
        ("value", "text"), [(1234.5, "1234"), (99.94, "99.9"), (0.01234, "0.0123"), (0, "0")]
    )
    def test_figures_have_three_digits(self, value, text):
        assert figure(value) == text

    def test_table_lines_up(self):
        rows = [Row("a", "b", 1, "s", 1, "c"), Row("aa", "[b]", 1000, "m/s", 0.5)]
        lines = render(rows).splitlines()
        bars = [[i for i, character in enumerate(line) if character == "|"] for line in lines]
        assert bars.count(bars[0]) == len(lines) == 4
        assert "[b]" in lines[-1]
