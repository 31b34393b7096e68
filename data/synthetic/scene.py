"""The static part of a generated video: the street in front of a fixed camera.

Pictures are float32 (3, H, W), RGB, 0..255; x runs to the right and y down, in pixels. The ground
is seen in perspective: the smaller y, the farther away.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Color = tuple[float, float, float]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_WALLS: tuple[Color, ...] = ((146, 98, 84), (178, 168, 150), (136, 138, 140), (120, 134, 130))
_DARK_GLASS: Color = (52, 60, 70)
_LIT_GLASS: Color = (214, 196, 142)
_FRAME: Color = (186, 184, 178)


class Place(NamedTuple):
    """A place to stand, and the scale there."""

    y: float
    """y of the feet."""
    person_height: float
    """Height of a person there, in pixels."""


@dataclass(frozen=True)
class Ground:
    """The layout of the ground, as y of the picture."""

    horizon: float
    """Where the ground would vanish; at or above the top of the picture."""
    wall_foot: float
    """Where the wall starts, the farthest place to stand."""
    road_top: float
    road_bottom: float

    def place(self, y: float) -> Place:
        """The place where feet are at y."""
        return Place(y, 0.36 * (y - self.horizon))


@dataclass(frozen=True, eq=False)
class Scene:
    """A camera's view, and how to place and colour things in it."""

    background: Floats
    ground: Ground
    brightness: float
    """Factor for colours in this light, from about 0.6 at night to 1."""
    saturation: float
    """Factor for the saturation of colours; 0 for a camera in infrared mode."""
    windows: tuple[Box, ...]

    @property
    def width(self) -> int:
        """Width of the picture."""
        return int(self.background.shape[2])

    @property
    def height(self) -> int:
        """Height of the picture."""
        return int(self.background.shape[1])

    def seen(self, colors: npt.ArrayLike) -> Floats:
        """Colours (3, ...) as this camera shows them."""
        return _seen(np.asarray(colors, dtype=np.float32), self.brightness, self.saturation)

    def pavement(self, rng: np.random.Generator) -> Place:
        """A random place to stand, more often on the near pavement than on the far one."""
        far = (self.ground.wall_foot + 5, self.ground.road_top - 1)
        near = (self.ground.road_bottom + 4, 0.97 * self.height)
        return self.ground.place(rng.uniform(*(near if rng.random() < 0.9 else far)))


@dataclass(frozen=True, eq=False)
class Shot:
    """The video being generated, as passed to everything that is placed in it."""

    rng: np.random.Generator
    """The source of all randomness."""
    scene: Scene
    num_frames: int
    fps: int


def draw_scene(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A random street: a wall with windows and a door, pavements, road, lamp posts and bushes."""
    wall_foot = height * rng.uniform(0.26, 0.36)
    road_top = wall_foot + height * rng.uniform(0.08, 0.14)
    road_bottom = road_top + height * rng.uniform(0.24, 0.32)
    ground = Ground(-height * rng.uniform(0.0, 0.1), wall_foot, road_top, road_bottom)
    # Drawn at twice the size and averaged, so that edges are smooth.
    xs = ((np.arange(2 * width, dtype=np.float32) + 0.5) / 2)[None, :]
    ys = ((np.arange(2 * height, dtype=np.float32) + 0.5) / 2)[:, None]
    large = _draw_ground(rng, ground, xs, ys)
    windows = _paint_wall(rng, ground, large)
    _paint_posts(rng, ground, large, xs, ys)
    picture = large.reshape(3, height, 2, width, 2).mean(axis=(2, 4))
    for _ in range(rng.integers(0, 3)):
        _paint_bush(rng, picture, rng.uniform(0, width), wall_foot)
    picture += 14 * smooth_noise(rng, height, width, cell=90)
    night = rng.random() < 0.3
    brightness = rng.uniform(0.6, 0.72) if night else rng.uniform(0.85, 1.05)
    saturation = 0.0 if night else rng.uniform(0.45, 0.75)
    background = _seen(picture, brightness, saturation) * _light(rng, width, height, night)
    return Scene(np.clip(background, 0, 255), ground, brightness, saturation, windows)


def irregular(shot: Shot, period_seconds: float) -> Floats:
    """Irregular motion (T,) within -1..1 that turns about once in a period."""
    period = period_seconds * shot.fps
    gaps = period * shot.rng.uniform(0.5, 1.5, int(2 * shot.num_frames / period) + 4)
    heights = shot.rng.uniform(-1, 1, len(gaps))
    return np.interp(np.arange(shot.num_frames), np.cumsum(gaps) - gaps[0], heights)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Floats:
    """Smooth noise (height, width) around 0, about -1..1, with blobs of ``cell`` pixels."""
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(3):
        rows, columns = np.arange(height) * 2**octave / cell, np.arange(width) * 2**octave / cell
        top, left = rows.astype(int), columns.astype(int)
        down = (rows - top).astype(np.float32)[:, None]
        right = (columns - left).astype(np.float32)[None, :]
        grid = rng.uniform(-1, 1, (top[-1] + 2, left[-1] + 2)).astype(np.float32)
        across = grid[:, left] * (1 - right) + grid[:, left + 1] * right
        total += (across[top] * (1 - down) + across[top + 1] * down) / 2**octave
    return total


def box_around(
    frame: Floats, center: tuple[float, float], radii: tuple[float, float]
) -> tuple[Floats, Floats, Floats]:
    """The part of a frame around a point, possibly empty, and its x (1, w) and y (h, 1)."""
    (x, y), (radius_x, radius_y) = center, radii
    left, right = max(int(x - radius_x), 0), max(int(x + radius_x) + 2, 0)
    top, bottom = max(int(y - radius_y), 0), max(int(y + radius_y) + 2, 0)
    box = frame[:, top:bottom, left:right]
    xs = np.arange(left, left + box.shape[2], dtype=np.float32)[None, :]
    ys = np.arange(top, top + box.shape[1], dtype=np.float32)[:, None]
    return box, xs, ys


def soft_disc(
    xs: Floats, ys: Floats, center: tuple[float, float], radii: tuple[float, float]
) -> Floats:
    """1 in the centre of an ellipse, falling smoothly to 0 at its rim and beyond."""
    across: Floats = np.square((xs - center[0]) / radii[0])
    down: Floats = np.square((ys - center[1]) / radii[1])
    disc: Floats = np.square(np.maximum(1 - across - down, 0)).astype(np.float32, copy=False)
    return disc


def rgb(color: npt.ArrayLike) -> Floats:
    """A colour as (3, 1, 1), which broadcasts to a picture."""
    return np.asarray(color, dtype=np.float32)[:, None, None]


def _seen(colors: Floats, brightness: float, saturation: float) -> Floats:
    grey: Floats = colors.mean(axis=0)
    return np.float32(brightness) * (grey + np.float32(saturation) * (colors - grey))


def _draw_ground(rng: np.random.Generator, ground: Ground, xs: Floats, ys: Floats) -> Floats:
    depth = 100 / np.maximum(ys - ground.horizon, 8)
    side = (xs - xs.mean()) * depth / 100
    grain = smooth_noise(rng, 256, 256, cell=3)
    texture = grain[(depth * 90).astype(int) % 256, (side * 150).astype(int) % 256]
    asphalt, paving = rng.uniform(74, 100), rng.uniform(122, 150)
    on_road = (ys > ground.road_top) & (ys < ground.road_bottom)
    joints = ((side * 6) % 1 < 0.05) | ((depth * 16) % 1 < 0.1)
    grey = np.where(on_road, asphalt, paving - 14 * joints) + 9 * texture
    for edge in (ground.road_top, ground.road_bottom):
        grey = np.where(abs(ys - edge) < 1.4, 168, grey)
    middle = (ground.road_top + ground.road_bottom) / 2
    painted = (abs(ys - middle) < 1) & ((side * 2.2) % 1 < 0.5)
    if rng.random() < 0.5:
        across = side - rng.uniform(-0.8, 0.3)
        stripes = (across > 0) & (across < 0.6) & ((across * 8) % 1 < 0.5)
        painted |= stripes & (ys > ground.road_top + 4) & (ys < ground.road_bottom - 4)
    grey = np.where(painted, 188 + 12 * texture, grey)
    ground_picture: Floats = grey.astype(np.float32) * rgb((1.02, 1.0, 0.96))
    return ground_picture


def _paint_wall(rng: np.random.Generator, ground: Ground, large: Floats) -> tuple[Box, ...]:
    """Paint the wall, windows and a door; return the windows in the finished picture's pixels."""
    foot, width = round(ground.wall_foot), large.shape[2] // 2
    wall = large[:, : 2 * foot]
    wall[:] = rgb(_WALLS[rng.integers(len(_WALLS))]) * np.float32(rng.uniform(0.85, 1.05))
    wall += 7 * smooth_noise(rng, 2 * foot, 2 * width, cell=24)
    if rng.random() < 0.6:
        wall[:, ::7] -= 15
        for row in range(0, 2 * foot, 14):
            wall[:, row : row + 7, ::14] -= 12
            wall[:, row + 7 : row + 14, 7::14] -= 12
    wall[:, -12:] *= 0.72
    size, pitch = int(rng.integers(18, 26)), int(rng.integers(38, 58))
    lefts = range(int(rng.integers(4, 16)), width - size, pitch)
    _paint_door(rng, wall, 2 * int(rng.choice(lefts)))
    bottoms = [bottom for bottom in (foot - 34, foot - 48 - size) if bottom - size > 2]
    windows = tuple((left, low - size, left + size, low) for low in bottoms for left in lefts)
    for window in windows:
        _paint_window(rng, wall, window)
    return windows


def _paint_window(rng: np.random.Generator, wall: Floats, window: Box) -> None:
    left, top, right, bottom = (2 * value for value in window)
    glass = _LIT_GLASS if rng.random() < 0.15 else _DARK_GLASS
    shine = np.linspace(1.25, 0.85, bottom - top, dtype=np.float32)[:, None]
    wall[:, top - 3 : bottom + 5, max(left - 3, 0) : right + 3] = rgb(_FRAME)
    wall[:, top:bottom, left:right] = rgb(glass) * shine
    wall[:, top:bottom, (left + right) // 2 - 1 : (left + right) // 2 + 2] = 0.8 * rgb(_FRAME)
    wall[:, bottom : bottom + 2, left:right] *= 0.6


def _paint_door(rng: np.random.Generator, wall: Floats, left: int) -> None:
    panel = wall[:, -56:, left + 4 : left + 42]
    panel[:] = rgb(_FRAME)
    panel[:, 3:, 3:-3] = rgb(rng.uniform(40, 120, 3))
    panel[:, 3::6, 3:-3] *= 0.8


def _paint_posts(
    rng: np.random.Generator, ground: Ground, large: Floats, xs: Floats, ys: Floats
) -> None:
    foot = ground.road_top - 2
    for x in rng.uniform(0.05, 0.95, rng.integers(1, 3)) * xs.max():
        post = (abs(xs - x) < 1.6) & (ys < foot)
        large *= 1 - np.float32(0.35) * soft_disc(xs, ys, (x + 9, foot + 1), (12, 2.2))
        large[:] = np.where(post, 66 + 20 * np.clip(xs - x + 1, 0, 2), large)


def _paint_bush(rng: np.random.Generator, picture: Floats, x: float, wall_foot: float) -> None:
    green = rng.uniform(45, 75)
    for _ in range(45):
        spot = (x + rng.normal(0, 8), wall_foot - 5 + rng.normal(0, 3.5))
        box, xs, ys = box_around(picture, spot, (5, 4))
        leaf = np.minimum(2 * soft_disc(xs, ys, spot, (5, 4)), 1)
        box += leaf * (rgb((0.7 * green, green * rng.uniform(0.9, 1.5), 0.5 * green)) - box)


def _light(rng: np.random.Generator, width: int, height: int, night: bool) -> Floats:
    """(H, W) factors: darker corners, and a lamp's pool of light at night."""
    xs = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    ys = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = np.float32(1.04) - np.float32(0.16) * (xs**2 + ys**2)
    if night:
        pool = soft_disc(xs, ys, (rng.uniform(-0.6, 0.6), rng.uniform(-0.2, 0.4)), (1.2, 1.0))
        light *= 0.85 + 0.8 * pool
    return light
