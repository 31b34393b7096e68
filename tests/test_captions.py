"""Clips with a caption: what the strip shows, and that the picture is as it was."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import av
import matplotlib as mpl
import numpy as np
import pytest
from test_excerpts import BEEPS, EVENT, RATE, beeps, cut, plays_in_browsers, video, with_sound
from test_geometry import INTERLACED, combing, weave
from test_result_formats import make_result, of_all
from video_files import draw_frames, encode

from vigil.extract.decode.captions import Caption, strip_height, write_captioned
from vigil.extract.errors import VideoError
from vigil.pipeline.cli import main
from vigil.pipeline.progress import told_to
from vigil.pipeline.scoring.clips import add_clips
from vigil.pipeline.scoring.results import read_result, write_result
from vigil.pipeline.scoring.writers import write_overview

FONT = str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
WIDTH, HEIGHT, SECONDS = 256, 240, 4
CELLS = tuple((float(start), start + 1.0) for start in range(SECONDS))
CAPTION = Caption(Path(), "Fighting", CELLS, (0.1, 0.9, 0.5, 0.2), 0.6, None, FONT)


def frames_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)
        ]
        return np.array([time for time, _ in found]), np.array([pixels for _, pixels in found])


def captioned(tmp_path, caption=CAPTION, start=0.0, clip=None):
    clip = clip or encode(tmp_path / "clip.mp4", draw_frames(SECONDS * RATE, WIDTH, HEIGHT))
    out = tmp_path / "captioned.mp4"
    write_captioned(clip, start, replace(caption, path=out))
    return clip, out


def test_the_picture_and_its_times_stay_and_a_strip_is_added(tmp_path):
    clip, out = captioned(tmp_path)
    (times, before), (found_times, after) = frames_of(clip), frames_of(out)
    np.testing.assert_allclose(found_times, times, atol=1e-3)
    strip = strip_height(HEIGHT)
    assert after.shape == (SECONDS * RATE, HEIGHT + strip, WIDTH, 3)
    loss = np.abs(after[:, :HEIGHT].astype(float) - before)
    assert loss.mean() < 3  # of the codec, with colours that change from pixel to pixel
    assert plays_in_browsers(out) == pytest.approx(plays_in_browsers(clip), abs=1e-3)


def test_the_strip_shows_the_scores_the_threshold_and_the_moment(tmp_path):
    _, out = captioned(tmp_path)
    _, frames = frames_of(out)
    strip = frames[:, HEIGHT:].astype(int)
    bottom = strip[:, -3]
    red = (bottom[..., 0] > bottom[..., 2] + 40)[0]
    quarter = WIDTH // SECONDS
    assert red[quarter + 4 : 2 * quarter - 4].all()  # the second with a score above the threshold
    assert not red[2 * quarter + 4 :].any()
    white = bottom.min(axis=2) > 180
    for index in (30, 55, 80):  # the cursor, where no other line is white
        (columns,) = np.nonzero(white[index])
        assert columns.mean() == pytest.approx(index / (SECONDS * RATE) * WIDTH, abs=3)
    heights = [(strip[5, :, x].sum(axis=1) > 250)[20:].sum() for x in (120, 140, 200)]
    assert heights[0] > heights[1] > heights[2]  # 0.9, 0.5 and 0.2


def test_the_title_has_the_colour_of_an_alarm_only_above_the_threshold(tmp_path):
    _, out = captioned(tmp_path)
    _, frames = frames_of(out)
    title = frames[:, HEIGHT + 2 : HEIGHT + 16, :60].astype(int)
    is_red = [(one[..., 0] > one[..., 2] + 60).any() for one in title]
    assert not any(is_red[:RATE])
    assert all(is_red[RATE + 1 : 2 * RATE])
    assert not any(is_red[2 * RATE + 1 :])


def test_scores_and_times_are_those_of_the_video():
    assert [CAPTION.score_at(time) for time in (0, 0.99, 1.0, 3.5, 9.0)] == [
        0.1,
        0.1,
        0.9,
        0.2,
        0.2,
    ]
    assert CAPTION.time_at(3725.25) == "1:02:05.2"
    assert CAPTION.time_at(59.99) == "0:00:59.9"
    known = replace(CAPTION, recorded_at=datetime(2024, 5, 31, 23, 59, 50))
    assert known.time_at(15.0) == "2024-06-01 00:00:05  (0:00:15.0)"


def test_sound_stays_where_it_was(tmp_path):
    source = with_sound(video(tmp_path / "silent.mp4"), tmp_path / "a.mp4", "aac")
    clip, written = cut(source, replace(EVENT, margin_seconds=2.0))
    _, out = captioned(tmp_path, start=written.start_seconds, clip=clip)
    assert beeps(out) == pytest.approx(beeps(clip), abs=0.01)
    heard = [beep for beep in BEEPS if 2.0 <= beep < 8.0]
    assert np.array(beeps(out)) + written.start_seconds == pytest.approx(heard, abs=0.1)


def test_interlaced_frames_are_deinterlaced(tmp_path):
    clip = encode(tmp_path / "clip.mp4", weave(), **INTERLACED["tff.mp4"])
    height = weave()[0].shape[0]
    _, before = frames_of(clip)
    _, after = frames_of(captioned(tmp_path, clip=clip)[1])
    assert len(after) == len(before)
    assert combing(before) > 1 > combing(after[:, :height])


@pytest.mark.parametrize("width", [64, 1280])
def test_the_text_fits_any_width(tmp_path, width):
    clip = encode(tmp_path / "clip.mp4", draw_frames(10, width, 64))
    known = replace(CAPTION, recorded_at=datetime(2024, 5, 31), title="Дорожное происшествие")
    _, after = frames_of(captioned(tmp_path, known, clip=clip)[1])
    assert after.shape[2] == width
    text = after[0, 64 : 64 + 16].max(axis=(0, 2))
    assert text[-1] < 100  # nothing reaches the border


def test_a_clip_that_is_none(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match="not a video"):
        captioned(tmp_path, clip=tmp_path / "clip.mp4")
    assert not (tmp_path / "captioned.mp4").exists()


@pytest.fixture
def results(tmp_path):
    """Results of a video with two events, and its clips."""
    source = encode(tmp_path / "a.mp4", draw_frames(25, 96, 64))
    result = make_result((0.2, 0.4), (0.6, 0.8), video="a.mp4", source=str(source))
    place = tmp_path / "results"
    write_result(place, result)
    return place, result


def test_annotated_clips_lie_beside_the_others_and_are_named(results):
    place, result = results
    (with_both,) = add_clips(place, [result], 0.1, annotate=True)
    for number, event in enumerate(with_both.events, start=1):
        assert event.clip.annotated == f"clips/a.mp4/{number}-annotated.mp4"
        _, plain = frames_of(place / event.clip.path)
        _, annotated = frames_of(place / event.clip.annotated)
        assert len(annotated) == len(plain)
        assert annotated.shape[1] > plain.shape[1]
    assert read_result(place / "a.mp4.json") == with_both
    (with_plain,) = add_clips(place, [result], 0.1)
    assert with_plain.events[0].clip.annotated is None
    assert "annotated" not in json.loads((place / "a.mp4.json").read_text())["events"][0]["clip"]
    assert not list((place / "clips").rglob("*annotated*"))


def test_the_flag_implies_clips(results):
    place, result = results
    write_overview(place, of_all(result), ["json"])
    assert main(["report", str(place), "--format", "csv", "--annotate"]) == 0
    assert len(list((place / "clips").rglob("*-annotated.mp4"))) == 2
    assert len(list((place / "clips").rglob("[12].mp4"))) == 2


def test_progress_is_told(results):
    place, result = results
    seen = []
    with told_to(seen.append):
        add_clips(place, [result], 0.1)
    assert [(one.stage, one.done, one.total) for one in seen] == [
        ("cutting", 1, 2),
        ("cutting", 2, 2),
    ]
