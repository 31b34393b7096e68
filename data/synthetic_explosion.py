"""The explosion of a generated video: a flash, a fireball, fire, and smoke that drifts away.

Pictures as in `data.synthetic_scene`. Sizes are in body heights of a person who would stand there.
"""

from dataclasses import dataclass

import numpy as np

from data.synthetic_scene import Floats, Scene, box_around, rgb, smooth_noise, soft_disc

TEXTURE_SIZE = 64
FADE_SECONDS = 0.8

_FLASH = (1.0, 0.9, 0.65, 0.4, 0.2, 0.1)


@dataclass(frozen=True)
class Stuff:
    """What puffs are made of; each range is drawn from evenly."""

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
    """By how many pixels when it ends."""
    radii: tuple[float, float]
    colors: Floats
    """(steps, 3) from birth to the end."""
    opacity: float
    texture: Floats

    def paint(self, frame: Floats, time: int, fading: float) -> None:
        """Paint it while it lives."""
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
    """An explosion on the ground; nothing of it is seen before start or from stop on."""

    depth: float
    start: int
    stop: int
    x: float
    size: float
    """Height of a person there, pixels."""
    fade_frames: float
    puffs: tuple[Puff, ...]

    def paint(self, frame: Floats, time: int) -> None:
        """Paint the light of the flash and of the fire, then the puffs, the old ones first."""
        if not self.start <= time < self.stop:
            return
        age = time - self.start
        fading = min((self.stop - time) / self.fade_frames, 1)
        center = (self.x, self.depth - 0.5 * self.size)
        if age < len(_FLASH):
            _brighten(frame, center, 7 * self.size, 230 * _FLASH[age])
        _brighten(frame, center, 2.5 * self.size, 35 * fading * (1 + 0.3 * np.sin(1.7 * age)))
        for puff in self.puffs:
            puff.paint(frame, time, fading)


def explosion(
    rng: np.random.Generator, scene: Scene, interval: tuple[int, int], fps: int
) -> Explosion:
    """An explosion on the road, lasting the half-open range of frames."""
    start, stop = interval
    ground = scene.ground
    y = rng.uniform(ground.road_top, ground.road_bottom)
    x = rng.uniform(0.2, 0.8) * scene.background.shape[2]
    size = ground.place(y).person_height
    source = _Source(rng, scene, (x, y), size, fps)
    puffs = []
    for time in range(start, stop):
        seconds = (time - start) / fps
        if seconds < 0.3:
            puffs += [source.puff(FIRE, time, strength=2.0) for _ in range(3)]
        else:
            remaining = (stop - time) / (stop - start)
            puffs.append(source.puff(FIRE, time, strength=0.7 + 0.5 * remaining))
        if time % max(fps // 8, 1) == 0 and seconds > 0.15:
            puffs.append(source.puff(SMOKE, time, strength=1.0))
    return Explosion(y, start, stop, x, size, FADE_SECONDS * fps, tuple(puffs))


class _Source:
    """Where puffs come from."""

    def __init__(
        self,
        rng: np.random.Generator,
        scene: Scene,
        place: tuple[float, float],
        size: float,
        fps: int,
    ) -> None:
        self._rng, self._place, self._size, self._fps = rng, place, size, fps
        self._wind = rng.uniform(-0.6, 0.6)
        self._textures = [_texture(rng) for _ in range(4)]
        # Fire shines by itself, so only its colour depends on the camera, not its brightness.
        self._colors = {
            FIRE: scene.seen(np.transpose(FIRE.colors)).T / np.float32(scene.brightness),
            SMOKE: scene.seen(np.transpose(SMOKE.colors)).T,
        }

    def puff(self, stuff: Stuff, time: int, strength: float) -> Puff:
        """A puff that is born at a time."""
        rng, size = self._rng, self._size
        seconds = rng.uniform(*stuff.life_seconds)
        spread = 0.3 * size * min(strength, 1.5)
        return Puff(
            birth=time,
            life=max(round(seconds * self._fps), 2),
            start=(
                self._place[0] + rng.normal(0, spread),
                self._place[1] - rng.uniform(0.1, 0.4) * size,
            ),
            moved=(
                self._wind * size * seconds,
                -rng.uniform(*stuff.rise_per_second) * size * seconds,
            ),
            radii=(stuff.radii[0] * size * strength, stuff.radii[1] * size * strength),
            colors=self._colors[stuff],
            opacity=stuff.opacity,
            texture=self._textures[rng.integers(len(self._textures))],
        )


def _texture(rng: np.random.Generator) -> Floats:
    """(TEXTURE_SIZE, TEXTURE_SIZE) cover of a billow, 0..1, 0 at its rim."""
    axis = np.linspace(-1, 1, TEXTURE_SIZE, dtype=np.float32)
    ragged = smooth_noise(rng, TEXTURE_SIZE, TEXTURE_SIZE, cell=20)
    disc = soft_disc(axis[None, :], axis[:, None], (0, 0), (1, 1))
    return np.clip(disc * (1.6 + 1.2 * ragged), 0, 1)


def _brighten(frame: Floats, center: tuple[float, float], reach: float, amount: float) -> None:
    box, xs, ys = box_around(frame, center, (reach, reach))
    box += np.float32(amount) * soft_disc(xs, ys, center, (reach, reach))
