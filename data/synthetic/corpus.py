"""The generated corpus of the demo and the tests: CCTV-like videos with known anomalies.

Every video is from one of a few fixed cameras and shows a street with walkers, two people who meet,
sensor noise, slow changes of light and harmless events: a passing car, a light switched on, a bird.
In an anomalous video something explodes, or the two who meet fight instead of talking, for 15 to
50 % of its frames. Everything else is generated in the same way for every class, so only those
frames distinguish the classes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Protocol
from zlib import crc32

import av
import numpy as np
import numpy.typing as npt

from vigil.data.annotations import Annotation, Interval
from vigil.data.classes import NORMAL
from vigil.data.synthetic.explosion import explosion
from vigil.data.synthetic.objects import bird, car, clock, light
from vigil.data.synthetic.people import Blast, pair, walker
from vigil.data.synthetic.scene import Floats, Shot, draw_scene, irregular
from vigil.extract.errors import UserError
from vigil.extract.files import replace_file

EXPLOSION = "Explosion"
FIGHTING = "Fighting"
ANNOTATION_FILE = "annotations.txt"

_ANOMALOUS_SHARE = (0.15, 0.5)
_NAME_PREFIXES = {NORMAL: "Normal_Videos_", EXPLOSION: EXPLOSION, FIGHTING: FIGHTING}
_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}
# With x264's macroblock tree the same frames gave different bytes from run to run.
_ENCODER_OPTIONS = {"libx264": {"preset": "ultrafast", "crf": "26", "x264-params": "mbtree=0"}}


@dataclass(frozen=True)
class SyntheticConfig:
    """The settings of a corpus."""

    num_normal: int = 20
    num_per_anomaly: int = 10
    """Videos of each of the two anomalous classes."""
    min_frames: int = 240
    max_frames: int = 360
    width: int = 320
    height: int = 240
    fps: int = 25
    seed: int = 0
    """Seed of the events in the videos."""
    num_cameras: int = 4
    """Number of scenes; each video has a random one, independent of its class."""
    camera_seed: int = 0
    """Seed of the scenes; the same one with another ``seed`` gives new videos of these scenes."""

    def __post_init__(self) -> None:
        """Reject settings that would not give usable videos.

        Raises:
            UserError: names the setting, its value and what is allowed.
        """
        if self.num_normal < 0 or self.num_per_anomaly < 0:
            raise UserError(
                f"{self.num_normal} normal videos and {self.num_per_anomaly} of each anomaly: "
                "the numbers of videos must be 0 or more"
            )
        if not 16 <= self.min_frames <= self.max_frames:
            raise UserError(
                f"{self.min_frames} to {self.max_frames} frames: the shortest video must have "
                "at least 16 frames, and no more than the longest"
            )
        if self.width < 160 or self.height < 120 or self.width % 2 or self.height % 2:
            raise UserError(
                f"{self.width}x{self.height} pixels: both sides must be even, 160x120 or more"
            )
        if self.num_cameras < 1:
            raise UserError(f"{self.num_cameras} cameras: at least 1 is needed")
        if self.fps < 1:
            raise UserError(f"{self.fps} frames a second: at least 1 is needed, 25 is usual")


class Actor(Protocol):
    """Something that is painted into the frames."""

    @property
    def depth(self) -> float:
        """The foot's y; distant actors are painted first."""
        ...

    def paint(self, frame: Floats, time: int) -> None:
        """Paint what is visible of it into the frame with index ``time``."""
        ...


def generate(config: SyntheticConfig, out: Path) -> list[Annotation]:
    """Write videos as ``<out>/<class>/<name>.mp4`` and return their annotations.

    ``<out>/annotations.txt`` holds these in UCF-Crime's temporal format. Equal settings give equal
    videos, and a video does not depend on the number of others.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    counts = {
        NORMAL: config.num_normal,
        EXPLOSION: config.num_per_anomaly,
        FIGHTING: config.num_per_anomaly,
    }
    annotations = []
    for class_name, count in counts.items():
        for number in range(count):
            name = f"{_NAME_PREFIXES[class_name]}{number:03}_x264.mp4"
            rng = np.random.default_rng([config.seed, crc32(name.encode())])
            num_frames = int(rng.integers(config.min_frames, config.max_frames + 1))
            interval = random_interval(rng, num_frames)
            frames = draw_frames(rng, config, class_name, num_frames, interval)
            video = f"{class_name}/{name}"
            write_video(frames, out / video, config.fps)
            intervals = () if class_name == NORMAL else (interval,)
            annotations.append(Annotation(video, class_name, intervals, source="generated"))
    with replace_file(out / ANNOTATION_FILE) as partial:
        partial.write_text("".join(map(_temporal_line, annotations)))
    return annotations


def draw_frames(
    rng: np.random.Generator,
    config: SyntheticConfig,
    class_name: str,
    num_frames: int,
    interval: Interval,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames (H, W, 3) of a video; a normal video ignores the interval."""
    camera = np.random.default_rng([config.camera_seed, int(rng.integers(config.num_cameras))])
    scene = draw_scene(camera, config.width, config.height)
    shot = Shot(rng, scene, num_frames, config.fps)
    actors = _cast(shot, class_name, interval)
    exposure = 1 + 0.05 * irregular(shot, 4.0)
    noises = rng.normal(0, rng.uniform(3, 6), (8, 3, config.height, config.width))
    noises = noises.astype(np.float32)
    for time in range(num_frames):
        frame = scene.background.astype(np.float32)
        for actor in actors:
            actor.paint(frame, time)
        frame *= np.float32(exposure[time])
        frame += noises[rng.integers(len(noises))]
        yield np.stack(list(np.clip(frame, 0, 255).astype(np.uint8)), axis=-1)


def write_video(
    frames: Iterable[npt.NDArray[np.uint8]],
    path: Path,
    fps: int,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
) -> None:
    """Encode RGB frames (H, W, 3) of one even size; the path's extension selects the container.

    Raises:
        ValueError: the extension is not .mp4, .mov, .mkv or .avi, or the codec is not for video.
        OSError: the disk is full or the folder cannot be written.
    """
    if path.suffix not in _CONTAINERS:
        raise ValueError(f"cannot write {path}: the name must end in {', '.join(_CONTAINERS)}")
    with (
        replace_file(path) as partial,
        av.open(str(partial), "w", format=_CONTAINERS[path.suffix]) as container,
    ):
        stream = container.add_stream(codec, fps, options=_ENCODER_OPTIONS.get(codec, {}))
        if not isinstance(stream, av.VideoStream):
            raise ValueError(f"{codec} is not a video codec: use one, such as libx264")
        stream.pix_fmt = pixel_format
        stream.thread_count = 1  # More threads give different bytes.
        for index, frame in enumerate(frames):
            if index == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def random_interval(rng: np.random.Generator, num_frames: int) -> Interval:
    """A random interval of 15 to 50 % of the frames, anywhere in the video."""
    shortest, longest = (share * num_frames for share in _ANOMALOUS_SHARE)
    length = int(rng.integers(ceil(shortest), floor(longest) + 1))
    start = int(rng.integers(0, num_frames - length + 1))
    return Interval(start, start + length)


def _cast(shot: Shot, class_name: str, interval: Interval) -> list[Actor]:
    """Everything that moves, the most distant first."""
    rng = shot.rng
    actors: list[Actor] = [clock(shot)]
    blast = None
    if class_name == EXPLOSION:
        bang = explosion(shot, interval)
        blast = Blast(interval.start, bang.x)
        actors.append(bang)
    fighting = class_name == FIGHTING
    together = interval if fighting else random_interval(rng, shot.num_frames)
    actors += pair(shot, together, fighting, blast)
    actors += [walker(shot, blast) for _ in range(rng.integers(1, 4))]
    actors += [make(shot) for make in (car, light, bird) if rng.random() < 0.3]
    return sorted(actors, key=lambda actor: actor.depth)


def _temporal_line(annotation: Annotation) -> str:
    frames = [f"{interval.start}  {interval.stop}" for interval in annotation.intervals or ()]
    frames += ["-1  -1"] * (2 - len(frames))
    return "  ".join([Path(annotation.video).name, annotation.class_name, *frames]) + "\n"
