"""The people of a generated video: how they walk, talk, run away and fight.

Legend: T frames of the video, L limbs. Pictures as in `data.synthetic_scene`. Lengths of a body
are in body heights; angles are in radians, 0 hanging straight down, positive forwards.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.synthetic_scene import Floats, Place, Scene, box_around, soft_disc

STEP_LENGTH = 0.45
RUNNING = 2.4
"""Times the speed of walking."""

_SKIN = ((224, 184, 156), (186, 140, 108), (120, 84, 62))


class Pose(NamedTuple):
    """The joints over time: near side, then far side."""

    lean: Floats
    """(T,) of the trunk, 0 upright."""
    hips: Floats
    """(2, T) of the thighs."""
    knees: Floats
    """(2, T), 0 stretched."""
    shoulders: Floats
    """(2, T) of the upper arms."""
    elbows: Floats
    """(2, T), 0 stretched."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A person, ready to be painted."""

    depth: float
    """The feet's y."""
    height: float
    """Pixels."""
    x: Floats
    """(T,) of the hip."""
    limbs: Floats
    """(T, L, 2, 2): both ends of each limb as x, y in pixels, the far limbs first."""
    radii: Floats
    """(L,) pixels."""
    colors: Floats
    """(L, 3)."""

    def paint(self, frame: Floats, time: int) -> None:
        """Paint the shadow and the limbs."""
        foot = (float(self.x[time]), self.depth)
        radii = (0.3 * self.height, 0.07 * self.height)
        box, xs, ys = box_around(frame, foot, radii)
        box *= 1 - np.float32(0.4) * soft_disc(xs, ys, foot, radii)
        paint_limbs(frame, self.limbs[time], self.radii, self.colors)


def figure(
    rng: np.random.Generator, scene: Scene, place: Place, x: Floats, facing: Floats, pose: Pose
) -> Figure:
    """A person with random clothes.

    Args:
        rng: decides the clothes.
        scene: where.
        place: where the feet are.
        x: (T,) pixels.
        facing: (T,): 1 to the right, -1 to the left, between the two while turning.
        pose: the joints.
    """
    # Points are complex numbers: x forwards, y up, (T,) or (2, T) of both sides.
    hip = np.full(len(x), 0.5j)
    neck = hip + 0.31 * _direction(np.pi - pose.lean)
    head = neck + 0.11 * _direction(np.pi - 1.2 * pose.lean)
    knees = hip + 0.25 * _direction(pose.hips)
    feet = knees + 0.25 * _direction(pose.hips - pose.knees)
    elbows = neck + 0.16 * _direction(pose.shoulders)
    hands = elbows + 0.16 * _direction(pose.shoulders + pose.elbows)
    skin, top, trousers, hair = _clothes(rng, scene)

    def arm(side: int, light: float) -> list[tuple[Any, ...]]:
        return [
            (neck, elbows[side], 0.042, top * light),
            (elbows[side], hands[side], 0.034, skin * light),
        ]

    def leg(side: int, light: float) -> list[tuple[Any, ...]]:
        return [
            (hip, knees[side], 0.058, trousers * light),
            (knees[side], feet[side], 0.044, trousers * light),
            (feet[side], feet[side] + 0.05, 0.03, hair * light),
        ]

    trunk = [
        (hip, neck, 0.088, top),
        (head, head, 0.068, skin),
        (head - 0.02 + 0.03j, head - 0.02 + 0.03j, 0.055, hair),
    ]
    parts = [*arm(1, 0.75), *leg(1, 0.75), *leg(0, 1.0), *trunk, *arm(0, 1.0)]
    starts, ends, radii, colors = zip(*parts, strict=True)
    points = np.stack([np.stack(starts), np.stack(ends)], axis=1).transpose(2, 0, 1)
    ups = points.imag - points.imag.min(axis=(1, 2), keepdims=True) + 0.03
    limbs = np.stack(
        [
            x[:, None, None] + place.person_height * facing[:, None, None] * points.real,
            place.y - place.person_height * ups,
        ],
        axis=-1,
    )
    return Figure(
        depth=place.y,
        height=place.person_height,
        x=x,
        limbs=limbs.astype(np.float32),
        radii=np.array(radii, dtype=np.float32) * np.float32(place.person_height),
        colors=np.array(colors, dtype=np.float32),
    )


def paint_limbs(frame: Floats, segments: Floats, radii: Floats, colors: Floats) -> None:
    """Paint rounded segments (L, 2, 2) with their radii (L,) and colours, the last on top."""
    low, high = segments.min(axis=(0, 1)), segments.max(axis=(0, 1))
    (x, y), (width, height) = (low + high) / 2, (high - low) / 2 + radii.max() + 1
    box, xs, ys = box_around(frame, (x, y), (width, height))
    if not box.size:
        return
    start = segments[:, 0, :, None, None]
    delta = segments[:, 1, :, None, None] - start
    radius = radii[:, None, None]
    from_x, from_y = xs - start[:, 0], ys - start[:, 1]
    squared_length = np.maximum((delta**2).sum(axis=1), 1e-6)
    along = np.clip((from_x * delta[:, 0] + from_y * delta[:, 1]) / squared_length, 0, 1)
    off_x, off_y = from_x - along * delta[:, 0], from_y - along * delta[:, 1]
    distance = np.sqrt(off_x * off_x + off_y * off_y)
    cover = np.clip(radius + 0.5 - distance, 0, 1)
    # The last limb that covers at least half of a pixel, else the one that covers most of it.
    order = np.arange(1, len(radii) + 1, dtype=np.float32)[:, None, None]
    top = np.where(cover > 0.5, order, cover).argmax(axis=0)
    off_axis = np.take_along_axis(distance, top[None], axis=0)[0] / radii[top]
    roundness = 1.08 - 0.3 * np.minimum(off_axis, 1) ** 2
    box += cover.max(axis=0) * (colors.T[:, top] * roundness - box)


def walker(
    rng: np.random.Generator,
    scene: Scene,
    num_frames: int,
    fps: int,
    blast: tuple[int, float] | None = None,
) -> Figure:
    """Somebody who crosses the picture, perhaps stopping on the way, and runs from a blast.

    Args:
        rng: decides everything.
        scene: where.
        num_frames: T.
        fps: frames a second.
        blast: frame and x of an explosion.
    """
    place = scene.pavement(rng)
    height = place.person_height
    speed = height / fps * rng.uniform(0.6, 0.95) * rng.choice([-1, 1])
    velocity = np.full(num_frames, speed)
    if rng.random() < 0.4:
        pause = int(rng.integers(num_frames))
        velocity[pause : pause + int(rng.uniform(1, 4) * fps)] = 0
    x = np.cumsum(velocity)
    x += rng.uniform(0.1, 0.9) * scene.background.shape[2] - x[num_frames // 2]
    if blast is not None:
        flee = min(blast[0] + int(rng.uniform(0.2, 0.5) * fps), num_frames - 1)
        velocity[flee:] = np.copysign(RUNNING * speed, x[flee] - blast[1])
        x[flee:] = x[flee] + np.cumsum(velocity[flee:])
    facing = _smooth(np.sign(np.where(velocity == 0, speed, velocity)), fps // 4)
    return figure(rng, scene, place, x, facing, _walking(velocity / height, fps))


def pair(
    rng: np.random.Generator,
    scene: Scene,
    num_frames: int,
    fps: int,
    together: tuple[int, int],
    fighting: bool,
    blast: tuple[int, float] | None = None,
) -> tuple[Figure, Figure]:
    """Two people who walk up to each other, talk or fight for some frames, and part again.

    Args:
        rng: decides everything.
        scene: where.
        num_frames: T.
        fps: frames a second.
        together: half-open range of frames.
        fighting: whether they fight or talk.
        blast: frame and x of an explosion, from which they run apart.
    """
    place = scene.pavement(rng)
    height = place.person_height
    times, (start, stop) = np.arange(num_frames), together
    hurry = 1.0
    if blast is not None:
        stop, hurry = min(stop, blast[0] + fps // 3), RUNNING
        start = min(start, stop)
    apart = np.maximum(start - times, 0) + hurry * np.maximum(times - stop + 1, 0)
    meeting = _smooth((apart == 0).astype(float), 5)
    center = rng.uniform(0.2, 0.8) * scene.background.shape[2] + np.zeros(num_frames)
    distance = 0.27 * height + np.zeros(num_frames)
    if fighting:
        center += 0.4 * height * meeting * irregular(rng, num_frames, 0.6 * fps)
        distance += 0.12 * height * meeting * irregular(rng, num_frames, 0.2 * fps)
    figures = []
    for side in (-1, 1):
        walked = height / fps * rng.uniform(0.6, 0.95) * apart
        act = (_fighting if fighting else _talking)(rng, num_frames, fps)
        walking = _walking(np.gradient(walked) / height, fps)
        pose = Pose(*(w + meeting * (a - w) for w, a in zip(walking, act, strict=True)))
        facing = _smooth(np.where(times < stop, -side, side), fps // 4)
        x = center + side * (distance + walked)
        figures.append(figure(rng, scene, place, x, facing, pose))
    return figures[0], figures[1]


def _direction(angle: Floats) -> npt.NDArray[np.complex128]:
    unit: npt.NDArray[np.complex128] = np.exp(1j * (angle - np.pi / 2))
    return unit


def irregular(rng: np.random.Generator, num_frames: int, period: float) -> Floats:
    """(T,) of aimless motion within -1..1 that turns about every ``period`` frames."""
    gaps = period * rng.uniform(0.5, 1.5, int(2 * num_frames / period) + 4)
    turns = np.cumsum(gaps) - gaps[0]
    return np.interp(np.arange(num_frames), turns, rng.uniform(-1, 1, len(gaps)))


def _walking(velocity: Floats, fps: int) -> Pose:
    """Walking, running or standing, by the velocity (T,) in body heights a frame."""
    speed = abs(velocity)
    hurry = np.maximum(speed * fps - 1, 0)
    stride = (0.45 + 0.2 * hurry) * np.minimum(2 * speed * fps, 1)
    phase = np.cumsum(np.pi * speed / (STEP_LENGTH + 0.2 * hurry))
    phases = np.stack([phase, phase + np.pi])
    forward_swing = np.maximum(np.cos(phases), 0)
    return Pose(
        lean=0.04 + 0.12 * hurry,
        hips=stride * np.sin(phases),
        knees=0.05 + stride * (0.2 + 1.1 * forward_swing),
        shoulders=-0.9 * stride * np.sin(phases),
        elbows=0.2 + 0.6 * hurry + 0.3 * stride * forward_swing,
    )


def _talking(rng: np.random.Generator, num_frames: int, fps: int) -> Pose:
    def calm(low: float, high: float) -> Floats:
        waves = [irregular(rng, num_frames, fps) for _ in range(2)]
        return low + (high - low) * (np.stack(waves) + 1) / 2

    return Pose(calm(0, 0.08)[0], calm(-0.06, 0.06), calm(0, 0.1), calm(-0.1, 0.6), calm(0.1, 1.4))


def _fighting(rng: np.random.Generator, num_frames: int, fps: int) -> Pose:
    def wild(low: float, high: float, period_seconds: float) -> Floats:
        waves = [irregular(rng, num_frames, period_seconds * fps) for _ in range(2)]
        return low + (high - low) * (np.stack(waves) + 1) / 2

    return Pose(
        lean=wild(-0.35, 0.8, 0.24)[0],
        hips=wild(-0.6, 0.8, 0.26),
        knees=wild(0, 0.9, 0.24),
        shoulders=wild(-0.3, 2.4, 0.14),
        elbows=wild(0, 1.8, 0.14),
    )


def _smooth(track: npt.ArrayLike, width: int) -> Floats:
    """The mean over ``width`` neighbours, the ends repeated."""
    width += 1 - width % 2
    padded = np.pad(np.asarray(track, dtype=np.float64), width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def _clothes(rng: np.random.Generator, scene: Scene) -> Floats:
    skin = np.array(_SKIN[rng.integers(len(_SKIN))], dtype=np.float64)
    top = rng.uniform(30, 220) * rng.uniform(0.6, 1.2, 3)
    trousers = rng.uniform(25, 110) * rng.uniform(0.8, 1.15, 3)
    hair = rng.uniform(15, 70) * np.array([1.1, 0.95, 0.8])
    return scene.seen(np.stack([skin, top, trousers, hair], axis=1)).T
