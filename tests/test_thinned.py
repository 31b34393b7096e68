"""`bench.thinned`: fewer frames, the same length, and intervals that follow."""

import av
import numpy as np
import pytest
from video_files import draw_frames, encode

from bench.thinned import Options, annotation_row, main
from vigil.data.annotations import Annotation, Interval, load_annotations
from vigil.extract.errors import UserError


def frames_of(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in frames]


def test_every_fifth_frame_stays_at_its_time(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    pictures = draw_frames(103)
    encode(videos / "Fighting" / "a.mkv", pictures)
    encode(videos / "Normal" / "b.mp4", pictures[:50])
    truth = videos / "truth.txt"
    truth.write_text("a.mkv  Fighting  20  61  100  103\nb.mp4  Normal  -1  -1  -1  -1\n")
    assert main(Options(videos, out, fps=5.0, annotations=(truth,))) == 0
    found = frames_of(out / "Fighting" / "a.mp4")
    assert [time for time, _ in found] == pytest.approx(np.arange(21) / 5)
    for index, (_, pixels) in enumerate(found):
        assert np.abs(pixels.astype(int) - pictures[5 * index]).mean() < 8
    assert len(frames_of(out / "Normal" / "b.mp4")) == 10
    one, other = sorted(load_annotations([out / "truth.txt"]), key=lambda known: known.video)
    assert (one.video, one.class_name) == ("Fighting/a.mp4", "Fighting")
    assert one.intervals == (Interval(4, 13), Interval(20, 21))
    assert (other.class_name, other.intervals) == ("Normal", ())


def test_an_interval_between_the_frames_that_stay_is_not_lost():
    truth = Annotation("a.avi", "Fighting", (Interval(6, 8), Interval(98, 99)), num_frames=99)
    row = annotation_row(truth, np.arange(0, 99, 5))
    assert row == ("a.mp4", "Fighting", 2, 3, 19, 20)


def test_more_frames_than_there_are_is_refused(tmp_path):
    encode(tmp_path / "videos" / "a.mp4", draw_frames(5))
    with pytest.raises(UserError, match=r"a\.mp4 has 25 frames a second: use fewer than --fps 30"):
        main(Options(tmp_path / "videos", tmp_path / "out", fps=30.0))
