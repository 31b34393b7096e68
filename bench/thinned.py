"""`python -m bench.thinned VIDEOS OUT --fps 5`: videos as recorders with few frames write them.

Frames are dropped, and the length stays. With annotations, the same intervals are written in frames
of the thinned videos, so that features with and without a frame rate can be compared.
"""

import csv
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import nan
from pathlib import Path, PurePosixPath

import av
import numpy as np
import numpy.typing as npt
import tyro
from av.video.frame import VideoFrame
from tyro.conf import Positional

from vigil.data.annotations import Annotation, load_annotations
from vigil.data.matching import match_videos
from vigil.extract.decode.decoder import best_stream, open_container, probe
from vigil.extract.decode.sampling import nearest_frames
from vigil.extract.decode.videos import find_videos
from vigil.extract.errors import UserError
from vigil.extract.files import path_below, replace_file
from vigil.extract.source import SourceVideo
from vigil.pipeline.options import VIDEO_EXTENSIONS

CRF = "18"


@dataclass(frozen=True)
class Options:
    """Write videos with fewer frames a second, in H.264, and their annotation."""

    videos: Positional[Path]
    """Folder of videos."""
    out: Positional[Path]
    """Folder for the thinned ones, as .mp4 at the same relative paths."""
    fps: float
    """Frames per second to keep, of those nearest to a regular clock; at most the videos' own."""
    annotations: tuple[Path, ...] = ()
    """Files with anomalous frame ranges; those of the thinned videos are written to OUT, under the
    name of the first file."""


def main(options: Options) -> int:
    """Thin every video; print how many frames are left."""
    samples: dict[str, npt.NDArray[np.int64]] = {}
    for video in find_videos([str(options.videos)], VIDEO_EXTENSIONS).videos:
        path = path_below(options.out, thinned_name(video.name))
        samples[video.name] = _write(path, video, options.fps)
        print(f"{video.name} {len(samples[video.name])} frames")
    if options.annotations:
        annotations = match_videos(load_annotations(options.annotations), samples).annotations
        path = options.out / options.annotations[0].name
        with replace_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("video", "class", "start_frame", "end_frame"))
            for name, annotation in annotations.items():
                writer.writerow(annotation_row(annotation, samples[name]))
    return 0


def thinned_name(name: str) -> str:
    """Return the relative path of a thinned video."""
    return str(PurePosixPath(name).with_suffix(".mp4"))


def annotation_row(annotation: Annotation, samples: npt.NDArray[np.int64]) -> tuple[str | int, ...]:
    """Return the row of a thinned video: its frames whose originals are in an interval.

    An interval between two frames that were kept is the one that follows.

    Args:
        annotation: of the original.
        samples: (M,) the frames of the original that were kept, in order.
    """
    frames: list[int] = []
    for interval in annotation.intervals or ():
        start, stop = np.searchsorted(samples, [interval.start, interval.stop]).tolist()
        start = min(start, len(samples) - 1)
        frames += [start, max(stop, start + 1)]
    return (thinned_name(annotation.video), "+".join(annotation.class_names), *frames)


def _kept(video: SourceVideo, fps: float) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the frames that are kept, with their indices.

    Raises:
        UserError: the video has fewer frames a second.
    """
    info = probe(video.path)
    if fps > info.fps:
        raise UserError(
            f"{video.name} has {info.fps:g} frames a second: use fewer than --fps {fps:g}"
        )
    with open_container(video.path) as container:
        decoded = container.decode(best_stream(container))
        timed = ((nan if frame.time is None else frame.time, frame) for frame in decoded)
        yield from nearest_frames(timed, fps, lambda: info)


def _write(path: Path, video: SourceVideo, fps: float) -> npt.NDArray[np.int64]:
    """Write a thinned video, and return (M,) the frames of the original that it has."""
    samples = array("q")
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with replace_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate, options={"crf": CRF})
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", 1 / rate
        for number, (index, frame) in enumerate(_kept(video, fps)):
            samples.append(index)
            if number == 0:
                stream.width, stream.height = frame.width // 2 * 2, frame.height // 2 * 2
            picture = frame.reformat(stream.width, stream.height, "yuv420p")
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return np.array(samples)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, prog="python -m bench.thinned")))
    except UserError as error:
        sys.exit(f"error: {error}")
