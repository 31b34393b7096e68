"""The explosion of a generated video: a flash, a fireball, fire, and smoke that drifts away.

Pictures are as in `data.synthetic.scene`. Sizes are in heights of a person standing there.
"""

from dataclasses import dataclass

import numpy as np

from vigil.data.annotations import Interval
from vigil.data.synthetic.scene import Floats, Shot, box_around, rgb, smooth_noise, soft_disc

TEXTURE_SIZE = 64
FADE_SECONDS = 0.8

_FLASH = (1.0, 0.9, 0.65, 0.4, 0.2, 0.1)


@dataclass(frozen=True)
class Stuff:
    """The material of puffs; values are drawn uniformly from each range."""

    colors: tuple[tuple[int, int, int], ...]
    """From birth to the end."""
    life_seconds: tuple[float, float]
    rise_per_second: tuple[float, float]
    radii: tuple[float, float]
    """At birth and at the end."""
    opacity: float


FIRE = Stuff(
    colors=((255, 250, 215), (255, 190, 70), (240, 105, 25), (110, 40, 20)),
    life_seconds=(0.3, 0.55),
    rise_per_second=(1.4, 2.6),
    radii=(0.18, 0.42),
    opacity=0.95,
)
SMOKE = Stuff(
    colors=((50, 48, 46), (88, 86, 84), (104, 102, 100)),
    life_seconds=(2.0, 3.6),
    rise_per_second=(0.7, 1.2),
    radii=(0.3, 0.95),
    opacity=0.85,
)


@dataclass(frozen=True, eq=False)
class Puff:
    """A ball of fire or smoke that rises, grows and fades."""

    birth: int
    life: int
    start: tuple[float, float]
    moved: tuple[float, float]
    """Displacement at the end, pixels."""
    radii: tuple[float, float]
    colors: Floats
    """(steps, 3) from birth to the end."""
    opacity: float
    texture: Floats

    def paint(self, frame: Floats, time: int, fading: float) -> None:
        """Paint it if it is alive."""
        done = (time - self.birth) / self.life
        if not 0 <= done < 1:
            return
        slowing = 1 - (1 - done) ** 2
        x = self.start[0] + done * self.moved[0]
        y = self.start[1] + slowing * self.moved[1]
        radius = self.radii[0] + done**0.5 * (self.radii[1] - self.radii[0])
        box, xs, ys = box_around(frame, (x, y), (radius, radius))
        scale = TEXTURE_SIZE / (2 * radius)
        columns = np.clip((xs[0] - x + radius) * scale, 0, TEXTURE_SIZE - 1).astype(int)
        rows = np.clip((ys[:, 0] - y + radius) * scale, 0, TEXTURE_SIZE - 1).astype(int)
        color = self.colors[int(done * len(self.colors))]
        opacity = self.opacity * fading * min(0.3 + 8 * done, 1) * (1 - done**2)
        cover = np.float32(opacity) * self.texture[rows][:, columns]
        box += cover * (rgb(color) - box)


@dataclass(frozen=True, eq=False)
class Explosion:
    """An explosion on the ground, visible only within its interval."""

    depth: float
    interval: Interval
    x: float
    size: float
    """Height of a person there, pixels."""
    fade_frames: float
    puffs: tuple[Puff, ...]

    def paint(self, frame: Floats, time: int) -> None:
        """Paint the light of the flash and of the fire, then the puffs, the oldest first."""
        age, remaining = time - self.interval.start, self.interval.stop - time
        if age < 0 or remaining <= 0:
            return
        fading = min(remaining / self.fade_frames, 1)
        center = (self.x, self.depth - 0.5 * self.size)
        if age < len(_FLASH):
            _brighten(frame, center, 7 * self.size, 230 * _FLASH[age])
        _brighten(frame, center, 2.5 * self.size, 35 * fading * (1 + 0.3 * np.sin(1.7 * age)))
        for puff in self.puffs:
            puff.paint(frame, time, fading)


def explosion(shot: Shot, interval: Interval) -> Explosion:
    """An explosion on the road during the interval."""
    rng, scene, fps = shot.rng, shot.scene, shot.fps
    place = scene.ground.place(rng.uniform(scene.ground.road_top, scene.ground.road_bottom))
    x, size = rng.uniform(0.2, 0.8) * scene.width, place.person_height
    wind = rng.uniform(-0.6, 0.6)
    textures = [_texture(rng) for _ in range(4)]
    # Fire emits light, so the scene affects its colour but not its brightness.
    brightness = {FIRE: scene.brightness, SMOKE: 1.0}

    def puff(stuff: Stuff, birth: int, strength: float) -> Puff:
        seconds = rng.uniform(*stuff.life_seconds)
        aside = 0.3 * min(strength, 1.5) * rng.normal()
        rise = seconds * rng.uniform(*stuff.rise_per_second)
        return Puff(
            birth=birth,
            life=max(round(seconds * fps), 2),
            start=(x + aside * size, place.y - rng.uniform(0.1, 0.4) * size),
            moved=(wind * seconds * size, -rise * size),
            radii=(stuff.radii[0] * strength * size, stuff.radii[1] * strength * size),
            colors=scene.seen(np.transpose(stuff.colors)).T / np.float32(brightness[stuff]),
            opacity=stuff.opacity,
            texture=textures[rng.integers(len(textures))],
        )

    puffs = []
    for time in range(interval.start, interval.stop):
        seconds = (time - interval.start) / fps
        if seconds < 0.3:
            puffs += [puff(FIRE, time, strength=2.0) for _ in range(3)]
        else:
            remaining = (interval.stop - time) / (interval.stop - interval.start)
            puffs.append(puff(FIRE, time, strength=0.7 + 0.5 * remaining))
        if time % max(fps // 8, 1) == 0 and seconds > 0.15:
            puffs.append(puff(SMOKE, time, strength=1.0))
    return Explosion(place.y, interval, x, size, FADE_SECONDS * fps, tuple(puffs))


def _texture(rng: np.random.Generator) -> Floats:
    """(TEXTURE_SIZE, TEXTURE_SIZE) cover of a puff, 0..1, 0 at its rim."""
    axis = np.linspace(-1, 1, TEXTURE_SIZE, dtype=np.float32)
    ragged = smooth_noise(rng, TEXTURE_SIZE, TEXTURE_SIZE, cell=20)
    disc = soft_disc(axis[None, :], axis[:, None], (0, 0), (1, 1))
    return np.clip(disc * (1.6 + 1.2 * ragged), 0, 1)


def _brighten(frame: Floats, center: tuple[float, float], reach: float, amount: float) -> None:
    box, xs, ys = box_around(frame, center, (reach, reach))
    box += np.float32(amount) * soft_disc(xs, ys, center, (reach, reach))
