"""The actions of people in a generated video: walking, meeting and talking, fleeing, fighting.

Legend: T frames of the video. Speeds and body lengths are in body heights.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vigil.data.annotations import Interval
from vigil.data.synthetic.figures import Figure, Pose, figure
from vigil.data.synthetic.scene import Floats, Shot, irregular

STEP_LENGTH = 0.45
RUNNING = 2.4
"""Speed relative to walking."""


class Blast(NamedTuple):
    """Time and place of an explosion, for the people who flee from it."""

    time: int
    """Frame."""
    x: float


def walker(shot: Shot, blast: Blast | None) -> Figure:
    """A person who crosses the picture, perhaps stopping on the way, and flees from a blast."""
    rng, fps = shot.rng, shot.fps
    place = shot.scene.pavement(rng)
    speed = _walking_speed(shot) * place.person_height * rng.choice([-1, 1])
    velocity = np.full(shot.num_frames, speed)
    if rng.random() < 0.4:
        pause = int(rng.integers(shot.num_frames))
        velocity[pause : pause + int(rng.uniform(1, 4) * fps)] = 0
    x = np.cumsum(velocity)
    x += rng.uniform(0.1, 0.9) * shot.scene.width - x[shot.num_frames // 2]
    if blast is not None:
        flee = min(blast.time + int(rng.uniform(0.2, 0.5) * fps), shot.num_frames - 1)
        velocity[flee:] = np.copysign(RUNNING * speed, x[flee] - blast.x)
        x[flee:] = x[flee] + np.cumsum(velocity[flee:])
    facing = _smooth(np.sign(np.where(velocity == 0, speed, velocity)), fps // 4)
    return figure(shot, place, x, facing, _walking(shot, velocity / place.person_height))


def pair(shot: Shot, together: Interval, fighting: bool, blast: Blast | None) -> list[Figure]:
    """Two people who walk up to each other, talk or fight, and part again.

    Args:
        shot: the video.
        together: when they talk or fight.
        fighting: whether they fight.
        blast: an explosion that they flee from, each their own way.
    """
    rng, fps = shot.rng, shot.fps
    place = shot.scene.pavement(rng)
    times, start, stop, hurry = np.arange(shot.num_frames), together.start, together.stop, 1.0
    if blast is not None:
        stop, hurry = min(stop, blast.time + fps // 3), RUNNING
        start = min(start, stop)
    apart = np.maximum(start - times, 0) + hurry * np.maximum(times - stop + 1, 0)
    meeting = _smooth(apart == 0, 5)
    center: Floats = np.full(shot.num_frames, rng.uniform(0.2, 0.8) * shot.scene.width)
    distance: Floats = np.full(shot.num_frames, 0.27)
    if fighting:
        center += 0.4 * place.person_height * meeting * irregular(shot, 0.6)
        distance += 0.12 * meeting * irregular(shot, 0.2)
    figures = []
    for side in (-1, 1):
        walked = _walking_speed(shot) * apart
        x = center + side * place.person_height * (distance + walked)
        facing = _smooth(np.where(times < stop, -side, side), fps // 4)
        walking = _walking(shot, np.gradient(walked))
        act = _fighting(shot) if fighting else _talking(shot)
        pose = Pose(*(w + meeting * (a - w) for w, a in zip(walking, act, strict=True)))
        figures.append(figure(shot, place, x, facing, pose))
    return figures


def _walking_speed(shot: Shot) -> float:
    """A random speed of walking, per frame."""
    return shot.rng.uniform(0.6, 0.95) / shot.fps


def _walking(shot: Shot, velocity: Floats) -> Pose:
    """Walking, running or standing, depending on the velocity (T,) per frame."""
    speed = abs(velocity) * shot.fps
    hurry = np.maximum(speed - 1, 0)
    stride = (0.45 + 0.2 * hurry) * np.minimum(2 * speed, 1)
    phase = np.cumsum(np.pi / shot.fps * speed / (STEP_LENGTH + 0.2 * hurry))
    phases = np.stack([phase, phase + np.pi])
    swinging_forwards = np.maximum(np.cos(phases), 0)
    return Pose(
        lean=0.04 + 0.12 * hurry,
        hips=stride * np.sin(phases),
        knees=0.05 + stride * (0.2 + 1.1 * swinging_forwards),
        shoulders=-0.9 * stride * np.sin(phases),
        elbows=0.2 + 0.6 * hurry + 0.3 * stride * swinging_forwards,
    )


def _talking(shot: Shot) -> Pose:
    return Pose(
        lean=_between(shot, 0, 0.08, 1)[0],
        hips=_between(shot, -0.06, 0.06, 1),
        knees=_between(shot, 0, 0.1, 1),
        shoulders=_between(shot, -0.1, 0.6, 1),
        elbows=_between(shot, 0.1, 1.4, 1),
    )


def _fighting(shot: Shot) -> Pose:
    return Pose(
        lean=_between(shot, -0.35, 0.8, 0.24)[0],
        hips=_between(shot, -0.6, 0.8, 0.26),
        knees=_between(shot, 0, 0.9, 0.24),
        shoulders=_between(shot, -0.3, 2.4, 0.14),
        elbows=_between(shot, 0, 1.8, 0.14),
    )


def _between(shot: Shot, low: float, high: float, period_seconds: float) -> Floats:
    """Irregular motion (2, T) of both sides between two angles."""
    waves = np.stack([irregular(shot, period_seconds), irregular(shot, period_seconds)])
    return low + (high - low) * (waves + 1) / 2


def _smooth(track: npt.ArrayLike, width: int) -> Floats:
    """The mean over about ``width`` neighbours, with the ends repeated."""
    width += 1 - width % 2
    padded = np.pad(np.asarray(track, dtype=np.float64), width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")
