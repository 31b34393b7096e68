"""`FeatureSpec`: every setting that determines a feature's value, and its digest."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import dacite

from vigil.extract.clips import CLIP_FRAMES, VIEW_SIZE, ClipGrid
from vigil.extract.errors import UserError

MAX_FRAME_RATE = 240
"""Frames per second."""


@dataclass(frozen=True)
class FeatureSpec:
    """The settings that change what a feature means.

    Two feature files may be used together only if these agree. A feature file also records views,
    decoder, device and precision, but they are not part of its meaning.
    """

    backbone: str
    """For a combination, the names joined by plus signs; the same goes for the endpoint."""
    endpoint: str
    weights_digest: str
    """sha256 of the tensors the endpoint uses, independent of the file they came from."""
    time_pool: str = "none"
    """none: one value per time position and channel; mean: averaged over the time positions."""
    clip_frames: int = CLIP_FRAMES
    clip_stride: int = CLIP_FRAMES
    num_segments: int = 32
    short_side: int | None = 256
    """Short side of the decoded frames in pixels; None keeps the native size."""
    interpolation: str = "bilinear"
    apply_rotation: bool = True
    deinterlace: str = "auto"
    """auto: frames that are flagged as interlaced; on: all; off: none, as before there was this
    setting."""
    frame_rate: float | None = None
    """Frames per second of which clips are made: for each tick of a clock the nearest frame of the
    video, which may repeat some and leave out others. None: every frame once."""
    static: str = "compute"
    """compute: every clip; skip: a static clip has the feature of the last computed clip before it,
    as `decode.static_clips` describes."""
    origin: str | None = None
    """Kind of foreign file the features were imported from; None: extracted by this program.
    In an imported spec only the backbone's name, the grid and the segments have a meaning."""

    def __post_init__(self) -> None:
        """Refuse invalid settings.

        Raises:
            UserError: names the setting, its value and what is allowed.
        """
        _ = self.grid  # refuses an invalid one
        if self.time_pool not in ("none", "mean"):
            raise UserError(f"time pool {self.time_pool!r} is unknown: use none or mean")
        if self.deinterlace not in ("auto", "on", "off"):
            raise UserError(f"deinterlace {self.deinterlace!r} is unknown: use auto, on or off")
        if self.frame_rate is not None and not 0 < self.frame_rate <= MAX_FRAME_RATE:
            raise UserError(
                f"frame rate {self.frame_rate:g} is not above 0 and at most {MAX_FRAME_RATE}: use "
                "25, or native for the frames as they are"
            )
        if self.static not in ("compute", "skip"):
            raise UserError(f"static clips {self.static!r} is unknown: use compute or skip")
        if self.num_segments < 1:
            raise UserError(f"{self.num_segments} segments are too few: use 1 or more, such as 32")
        if self.short_side is not None and self.short_side < VIEW_SIZE:
            raise UserError(
                f"short side {self.short_side} is smaller than the {VIEW_SIZE} pixel views: "
                "use 256, a larger number, or native"
            )

    @property
    def grid(self) -> ClipGrid:
        """Clip index <-> frame range."""
        return ClipGrid(self.clip_frames, self.clip_stride)

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the settings as JSON with sorted keys.

        Those that older files lack are left out at their defaults, so that digests do not change.
        """
        settings = asdict(self)
        for name in ("origin", "deinterlace", "frame_rate", "static"):
            if settings[name] == getattr(FeatureSpec, name):
                del settings[name]
        return json.dumps(settings, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "FeatureSpec":
        """Parse a spec that `to_json` wrote.

        Raises:
            ValueError: the text is not JSON, or not exactly these settings.
        """
        try:
            return dacite.from_dict(cls, json.loads(text), dacite.Config(strict=True))
        except (dacite.DaciteError, AttributeError, TypeError, UserError) as error:
            raise ValueError(f"not a feature spec: {error}") from error


@dataclass(frozen=True)
class FeaturePart:
    """The values in a feature that come from one backbone of a combination."""

    name: str
    """The backbone's name."""
    offset: int
    """Index of its first value."""
    time_positions: int
    channels: int

    @property
    def stop(self) -> int:
        """Index after its last value."""
        return self.offset + self.time_positions * self.channels


SETTINGS = tuple(setting.name for setting in fields(FeatureSpec))


def difference(left: object, right: object, names: Iterable[str] = SETTINGS) -> list[str]:
    """List the attributes in which two objects differ, each as ``name: left != right``.

    Args:
        left: a spec, or whatever has the attributes.
        right: an object of the same kind.
        names: the attributes to compare; by default all settings of a spec.
    """
    pairs = ((name, getattr(left, name), getattr(right, name)) for name in names)
    return [f"{name}: {one} != {other}" for name, one, other in pairs if one != other]
