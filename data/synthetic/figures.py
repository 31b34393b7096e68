"""The people in a generated video as limbs: poses, and how they are painted.

Legend: T frames of the video, L limbs. Pictures are as in `data.synthetic.scene`. Body lengths
are in body heights; angles are in radians, 0 is straight down, positive is forwards.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vigil.data.synthetic.scene import Floats, Place, Shot, box_around, soft_disc

_SKIN = ((224, 184, 156), (186, 140, 108), (120, 84, 62))


class Pose(NamedTuple):
    """The joints over time: near side, then far side."""

    lean: Floats
    """(T,) of the trunk, 0 is upright."""
    hips: Floats
    """(2, T) of the thighs."""
    knees: Floats
    """(2, T), 0 is straight."""
    shoulders: Floats
    """(2, T) of the upper arms."""
    elbows: Floats
    """(2, T), 0 is straight."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A person to be painted."""

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


def figure(shot: Shot, place: Place, x: Floats, facing: Floats, pose: Pose) -> Figure:
    """A person with random clothes.

    Args:
        shot: the video.
        place: where the feet are.
        x: (T,) pixels.
        facing: (T,): 1 to the right, -1 to the left, between the two while turning.
        pose: the joints.
    """
    # Points are complex numbers, x forwards and y up: (T,), or (2, T) for both sides.
    hip = np.full(len(x), 0.5j)
    neck = hip + 0.31 * _direction(np.pi - pose.lean)
    head = neck + 0.11 * _direction(np.pi - 1.2 * pose.lean)
    knees = hip + 0.25 * _direction(pose.hips)
    feet = knees + 0.25 * _direction(pose.hips - pose.knees)
    elbows = neck + 0.16 * _direction(pose.shoulders)
    hands = elbows + 0.16 * _direction(pose.shoulders + pose.elbows)
    skin, top, trousers, hair = _clothes(shot)

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


def _direction(angle: Floats) -> npt.NDArray[np.complex128]:
    unit: npt.NDArray[np.complex128] = np.exp(1j * (angle - np.pi / 2))
    return unit


def _clothes(shot: Shot) -> Floats:
    """(4, 3) colours: skin, top, trousers, hair and shoes."""
    rng = shot.rng
    skin = np.array(_SKIN[rng.integers(len(_SKIN))], dtype=np.float64)
    top = rng.uniform(30, 220) * rng.uniform(0.6, 1.2, 3)
    trousers = rng.uniform(25, 110) * rng.uniform(0.8, 1.15, 3)
    hair = rng.uniform(15, 70) * np.array([1.1, 0.95, 0.8])
    return shot.scene.seen(np.stack([skin, top, trousers, hair], axis=1)).T
