"""Read every real file of the development data and check for the right answer."""

import numpy as np
import pytest

from vigil.extract.clips import ClipGrid
from vigil.extract.decode.decoder import best_stream, open_container
from vigil.extract.decode.reader import Clip, Finished, ReadingOptions, Restart, read_video
from vigil.extract.decode.timeline import frame_edges
from vigil.extract.segments import segment_ranges
from vigil.extract.source import SourceVideo

FILES = {
    "containers/corrupted.mp4": (49, 1280, 720),
    "containers/flipping_a_pancake.mkv": (310, 426, 240),
    "containers/iio_realshort.mp4": (36, 320, 240),
    "containers/intel_again.mkv": (77, 640, 480),
    "containers/intel_bottle-detection.mp4": (1189, 640, 360),
    "containers/intel_car-detection.mp4": (377, 768, 432),
    "containers/mm_S001C001P001R001A001_rgb.avi": (103, 1920, 1080),
    "containers/mm_demo.mp4": (280, 340, 256),
    "containers/mm_demo_spatiotemporal_det.mp4": (57, 340, 256),
    "containers/mm_part_0.mp4": (32, 340, 256),
    "containers/mm_test.avi": (164, 320, 240),
    "containers/mm_test.mp4": (300, 340, 256),
    "containers/mm_test_video_structuralize.mp4": (300, 426, 240),
    "containers/tc_av1_video.mkv": (125, 640, 360),
    "containers/tc_bt709_full_range.mp4": (30, 1280, 720),
    "containers/tc_h264_10bits.mp4": (30, 200, 200),
    "containers/tc_h265_10bits.mp4": (30, 200, 200),
    "containers/tc_h265_video.mp4": (10, 128, 128),
    "containers/tc_nasa_13013.mp4": (390, 480, 270),
    "containers/tc_var_fps_video.mp4": (300, 128, 128),
    "containers/unordered.mov": (4, 50, 50),
    "containers/vf_v_GGSY1Qvo990.mp4": (355, 320, 240),
    "containers/video_0.mov": (3, 568, 320),
    "containers/video_180.mov": (3, 568, 320),
    "containers/video_270.mov": (3, 320, 568),
    "containers/video_90.mov": (3, 320, 568),
    "containers/yj_fi205.avi": (150, 640, 360),
    "short/fi019.mp4": (42, 626, 360),
    "short/fi034.mp4": (39, 640, 360),
    "short/fi049.mp4": (58, 640, 360),
    "short/fi076.mp4": (93, 586, 480),
    "short/fi094.mp4": (50, 512, 288),
    "short/fi099.mp4": (60, 640, 314),
    "short/fi109.mp4": (54, 640, 352),
    "short/fi110.mp4": (50, 640, 360),
    "short/fi113.mp4": (31, 400, 216),
    "short/fi115.mp4": (50, 480, 360),
    "short/fi124.mp4": (60, 636, 360),
    "short/fi149.mp4": (30, 1280, 720),
    "short/fi150.mp4": (50, 352, 240),
    "short/nofi009.mp4": (60, 848, 480),
    "short/nofi078.mp4": (57, 320, 240),
    "short/nofi084.mp4": (36, 320, 240),
    "short/nofi148.mp4": (60, 480, 360),
    "short/nofi150.mp4": (40, 640, 360),
}
"""File -> its number of frames, and their displayed width and height."""
TURNED = {"containers/video_90.mov", "containers/video_270.mov"}
SHOWN_WIDTHS = {
    "containers/mm_demo.mp4": 427,
    "containers/mm_part_0.mp4": 455,
    "containers/mm_test.mp4": 455,
}
"""File whose pixels are not square -> width in square pixels: the stored one times SAR."""
LEFT_TO_PYAV = {
    **dict.fromkeys(SHOWN_WIDTHS, "decord may not show its frames"),
    "containers/corrupted.mp4": "decord stopped",
    "containers/tc_av1_video.mkv": "decord cannot open it",
    "containers/intel_bottle-detection.mp4": "too long for decord",
    "containers/intel_car-detection.mp4": "too long for decord",
    "containers/mm_S001C001P001R001A001_rgb.avi": "too long for decord",
}
"""File -> why decord does not read it."""
DAMAGED = "containers/corrupted.mp4"


@pytest.fixture
def fixtures(shared_data):
    return shared_data / "fixtures"


def read(path, decoder):
    """Return the number of clips, the reasons for restarts, and the final message."""
    *messages, finished = read_video(
        SourceVideo(path, path.name), ReadingOptions(ClipGrid(), None), decoder
    )
    assert isinstance(finished, Finished)
    reasons = [message.reason for message in messages if isinstance(message, Restart)]
    if reasons:
        messages = messages[[type(message) for message in messages].index(Restart) + 1 :]
    assert all(isinstance(message, Clip) for message in messages)
    return len(messages), reasons, finished


def packet_seconds(path):
    """Return the sorted packet times of the best stream, and its stored width and height."""
    with open_container(path) as container:
        stream = best_stream(container)
        packets = [packet for packet in container.demux(stream) if packet.size]
        seconds = np.sort([float(packet.pts * stream.time_base) for packet in packets])
        return seconds, (stream.width, stream.height)


def test_every_file_is_in_the_table(fixtures):
    assert {path.relative_to(fixtures).as_posix() for path in fixtures.glob("*/*")} == set(FILES)


@pytest.mark.parametrize(
    ("name", "decoder"),
    [(name, "auto") for name in FILES]
    + [(name, "pyav") for name in sorted(FILES.keys() - LEFT_TO_PYAV)],
)
def test_the_reader_gives_the_right_answer(fixtures, name, decoder):
    num_frames, width, height = FILES[name]
    path = fixtures / name
    num_clips, reasons, finished = read(path, decoder)

    seconds, size = packet_seconds(path)
    assert len(finished.timestamps) == num_frames == len(seconds) - (name == DAMAGED)
    assert num_clips == -(-num_frames // 64)
    assert finished.info.num_frames_container in (0, len(seconds))
    shown = (SHOWN_WIDTHS.get(name, width), height)
    assert (finished.info.width, finished.info.height) == shown
    assert (width, height) == (size[::-1] if name in TURNED else size)

    uses_pyav = name in LEFT_TO_PYAV or decoder == "pyav"
    assert finished.decoder == ("pyav" if uses_pyav else "decord")
    assert len(reasons) == (name in LEFT_TO_PYAV)
    assert all(reason.startswith(LEFT_TO_PYAV[name]) for reason in reasons)

    if name == DAMAGED:
        # One packet does not decode, which damages the frames that refer to its frame.
        assert finished.damage.num_lost == 1
        assert finished.damage.frames[0].tolist() == [30, 30]
        assert finished.damage.frames.max() <= 34
        seconds = np.delete(seconds, 30)
    else:
        assert finished.damage.num_damaged == 0
    if finished.info.has_timestamps:
        frames = segment_ranges(num_frames, 32)
        edges = np.append(seconds, seconds[-1] + 1 / finished.info.fps) - seconds[0]
        actual = frame_edges(finished.timestamps, finished.info)[frames]
        np.testing.assert_allclose(actual, edges[frames], atol=1e-5)
        assert abs(finished.info.duration_seconds - edges[-1]) < 0.06
