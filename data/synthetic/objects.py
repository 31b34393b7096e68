"""Other moving or changing things in a generated video: cars, birds, lights and a clock.

Legend: T frames of the video. Pictures are as in `data.synthetic.scene`.
"""

from dataclasses import dataclass

import numpy as np

from vigil.data.synthetic.figures import paint_limbs
from vigil.data.synthetic.scene import Box, Floats, Shot, irregular, rgb, soft_disc

# 3x5 pixels per glyph, row by row from the top.
_GLYPHS = {
    "0": "111101101101111",
    "1": "010110010010111",
    "2": "111001111100111",
    "3": "111001111001111",
    "4": "101101111001001",
    "5": "111100111001111",
    "6": "111100111101111",
    "7": "111001010010010",
    "8": "111101111101111",
    "9": "111101111001111",
    ":": "000010000010000",
    " ": "000000000000000",
    "C": "111100100100111",
    "A": "010101111101101",
    "M": "101111111101101",
}


@dataclass(frozen=True, eq=False)
class Sprite:
    """A picture that slides along a line: a car."""

    depth: float
    lefts: Floats
    """(T,) x of its left edge."""
    picture: Floats
    """(3, h, w)."""
    cover: Floats
    """(h, w), 0 where it is transparent."""

    def paint(self, frame: Floats, time: int) -> None:
        """Paint the part of it that is inside the frame."""
        height, width = self.cover.shape
        left, top = round(float(self.lefts[time])), round(self.depth) - height
        first, last = max(-left, 0), min(frame.shape[2] - left, width)
        if first < last:
            box = frame[:, top : top + height, left + first : left + last]
            box += self.cover[:, first:last] * (self.picture[:, :, first:last] - box)


@dataclass(frozen=True, eq=False)
class Bird:
    """Something small and dark that flits through the picture, close to the camera."""

    depth: float
    start: int
    path: Floats
    """(frames, 2)."""
    size: float

    def paint(self, frame: Floats, time: int) -> None:
        """Paint two wings while it is in the picture."""
        if self.start <= time < self.start + len(self.path):
            body = self.path[time - self.start]
            rise = self.size * np.sin(1.9 * time)
            wings = body + np.array([[-self.size, -rise], [self.size, -rise]])
            segments = np.stack([[body, body], wings], axis=1).astype(np.float32)
            radii = np.full(2, 0.3 * self.size, dtype=np.float32)
            paint_limbs(frame, segments, radii, np.full((2, 3), 24, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class Light:
    """A light that is switched on for a while: behind a window, or a lamp on the wall."""

    depth: float
    start: int
    stop: int
    box: Box
    gain: Floats
    """Factors that broadcast to (3, h, w)."""

    def paint(self, frame: Floats, time: int) -> None:
        """Brighten its part of the frame while it is on."""
        if self.start <= time < self.stop:
            left, top, right, bottom = self.box
            frame[:, top:bottom, left:right] *= self.gain


@dataclass(frozen=True, eq=False)
class Clock:
    """The camera's name and the time of day, written into the picture."""

    depth: float
    fps: int
    texts: tuple[Floats, ...]
    """(h, w) cover of the text, second by second."""

    def paint(self, frame: Floats, time: int) -> None:
        """Write the text of this second."""
        text = self.texts[time // self.fps]
        box = frame[:, 6 : 6 + text.shape[0], 6 : 6 + text.shape[1]]
        box += text[:, : box.shape[2]] * (235 - box)


def car(shot: Shot) -> Sprite:
    """A car that passes in one of the two lanes."""
    rng, ground = shot.rng, shot.scene.ground
    to_right = bool(rng.random() < 0.5)
    lane = 0.92 if to_right else 0.42
    y, person_height = ground.place(ground.road_top + lane * (ground.road_bottom - ground.road_top))
    picture, cover = _draw_car(shot, 2.4 * person_height, 0.8 * person_height)
    if not to_right:
        picture, cover = picture[..., ::-1], cover[:, ::-1]
    speed = person_height / shot.fps * rng.uniform(2.5, 5) * (1 if to_right else -1)
    passing = rng.uniform(0.1, 0.9) * shot.num_frames
    middle = (shot.scene.width - cover.shape[1]) / 2
    return Sprite(y, middle + speed * (np.arange(shot.num_frames) - passing), picture, cover)


def _draw_car(shot: Shot, length: float, height: float) -> tuple[Floats, Floats]:
    """(3, h, w) colours and (h, w) cover of a car that drives to the right."""
    xs = np.linspace(0, 1, 3 * int(length), dtype=np.float32)[None, :]
    ys = np.linspace(1, 0, 3 * int(height), dtype=np.float32)[:, None]
    slant = 0.22 * (ys - 0.55) / 0.45
    cabin = (ys > 0.5) & (xs > 0.16 + 0.6 * slant) & (xs < 0.76 - slant)
    glass = (ys > 0.6) & (ys < 0.92) & (xs > 0.2 + 0.6 * slant) & (xs < 0.72 - slant)
    glass &= abs(xs - 0.46) > 0.012
    body = (ys > 0.2) & (ys < 0.6 - 0.07 * xs**6) & (xs > 0.01) & (xs < 0.99)
    color = shot.rng.uniform(40, 210) * shot.rng.uniform(0.6, 1.2, 3)
    picture = rgb(color) * (0.75 + 0.45 * ys) * np.ones_like(xs)
    parts = [
        (glass, (48, 58, 70)),
        ((xs > 0.955) & (ys > 0.4) & body, (250, 240, 200)),
        ((xs < 0.035) & (ys > 0.4) & body, (190, 30, 24)),
    ]
    cover = body | cabin
    for center in (0.2, 0.8):
        radius = np.hypot((xs - center) * length, (ys - 0.19) * height) / height
        parts += [(radius < 0.19, (24, 24, 26)), (radius < 0.09, (130, 130, 132))]
        cover = cover | (radius < 0.19)
    for part, part_color in parts:
        picture = np.where(part, rgb(part_color), picture)
    small = (int(height), 3, int(length), 3)
    return (
        shot.scene.seen(picture).reshape(3, *small).mean(axis=(2, 4)),
        cover.astype(np.float32).reshape(small).mean(axis=(1, 3)),
    )


def bird(shot: Shot) -> Bird:
    """A bird that crosses the picture in a second or two, somewhere in the video."""
    rng, scene = shot.rng, shot.scene
    length = min(int(shot.fps * rng.uniform(0.8, 1.8)) + 1, shot.num_frames)
    start = int(rng.integers(0, shot.num_frames - length + 1))
    x = np.linspace(-0.1, 1.1, length)[:: rng.choice([-1, 1])] * scene.width
    y = (rng.uniform(0.15, 0.6) + 0.12 * irregular(shot, 0.3)[:length]) * scene.height
    return Bird(np.inf, start, np.stack([x, y], axis=1), size=rng.uniform(2.5, 4.5))


def light(shot: Shot) -> Light:
    """A window that lights up, or a lamp over the pavement, for at least a second."""
    rng, scene = shot.rng, shot.scene
    start = int(rng.uniform(0.05, 0.8) * shot.num_frames)
    stop = start + int(rng.uniform(1, 8) * shot.fps)
    if scene.windows and rng.random() < 0.5:
        window = scene.windows[rng.integers(len(scene.windows))]
        gain = 1 + np.float32(rng.uniform(0.8, 1.8)) * rgb(scene.seen((1.0, 0.9, 0.6)))
        return Light(-1, start, stop, window, gain)
    xs = np.arange(scene.width, dtype=np.float32)[None, :]
    ys = np.arange(scene.height, dtype=np.float32)[:, None]
    center = (rng.uniform(0.1, 0.9) * scene.width, scene.ground.road_top)
    pool = soft_disc(xs, ys, center, (0.3 * scene.width, 0.22 * scene.height))
    box = (0, 0, scene.width, scene.height)
    return Light(-1, start, stop, box, 1 + np.float32(0.6) * pool)


def clock(shot: Shot) -> Clock:
    """A clock that starts at a random time of day, or of night if the picture is dark."""
    rng, night = shot.rng, shot.scene.saturation == 0
    camera, start = rng.integers(1, 10), 3600 * (7 + 12 * night) + rng.integers(11 * 3600)
    texts = []
    for second in range(start, start + shot.num_frames // shot.fps + 1):
        hours, minutes, seconds = second // 3600 % 24, second // 60 % 60, second % 60
        texts.append(_written(f"CAM {camera}  {hours:02}:{minutes:02}:{seconds:02}"))
    return Clock(np.inf, shot.fps, tuple(texts))


def _written(text: str) -> Floats:
    """(10, w) cover of a line of text."""
    glyphs = [np.array(list(_GLYPHS[letter]), np.float32).reshape(5, 3) for letter in text]
    line = np.concatenate([np.pad(glyph, ((0, 0), (0, 1))) for glyph in glyphs], axis=1)
    return line.repeat(2, axis=0).repeat(2, axis=1)
