"""The work done by the stages of an extraction, and the bottleneck among them."""

import math
from dataclasses import dataclass, fields, replace

SPARE = 1.25
"""Workers are started to decode this many times the clips that the devices consume."""
BUSY = 0.9
"""Share of its time from which a busy device counts as the bottleneck."""

MIN_CLIPS = 8
"""Number of clips below which the rates are not reliable."""


@dataclass
class Activity:
    """The work done so far."""

    num_devices: int = 1
    num_frames: int = 0
    """Frames of the clips that have been through a device, or need not; a video's last clip counts
    as full."""
    num_clips: int = 0
    """Clips, all their views, that have been through a device."""
    num_clips_kept: int = 0
    """Those of them whose features are used: not if the video failed later, or is read again. Also
    those that an earlier run had computed."""
    num_clips_static: int = 0
    """Clips that need not go through a device, since nothing moves in them."""
    num_clips_decoded: int = 0
    num_workers: int = 0
    decode_seconds: float = 0.0
    """Summed over the workers, without the time they waited."""
    busy_seconds: float = 0.0
    """Time that devices spent on clips, summed over the devices."""
    waited_seconds: float = 0.0
    """Time that devices had no clip, after their first one."""
    disk_seconds: float = 0.0
    """Time that all stages waited for features to be written to feature or temporary files."""

    @property
    def num_clips_done(self) -> int:
        """Clips that have been through a device, or need not."""
        return self.num_clips + self.num_clips_static

    @property
    def device_share(self) -> float:
        """Share of its time, 0..1, that a device spends on clips."""
        total = self.busy_seconds + self.waited_seconds
        return self.busy_seconds / total if total else 0.0

    @property
    def bottleneck(self) -> str:
        """The stage that the others wait for: device, disk or decode."""
        if self.device_share >= BUSY:
            return "device"
        waited = self.waited_seconds / self.num_devices
        return "disk" if 2 * self.disk_seconds > waited else "decode"

    @property
    def workers_needed(self) -> int:
        """Workers that decode as fast as the devices compute, with some to spare."""
        if not self.num_clips or self.num_clips_done < MIN_CLIPS:
            return 1
        decode = self.decode_seconds / self.num_clips_decoded
        compute = self.busy_seconds / self.num_clips_done / self.num_devices
        return math.ceil(SPARE * decode / compute)

    def since(self, earlier: "Activity") -> "Activity":
        """The work done since an earlier moment."""
        changes = {
            counter.name: getattr(self, counter.name) - getattr(earlier, counter.name)
            for counter in fields(self)
            if counter.name not in ("num_devices", "num_workers")
        }
        return replace(self, **changes)

    def describe(self) -> str:
        """The load and the bottleneck, in a few words."""
        return (
            f"device busy {self.device_share:.0%}, {self.num_workers} decoding, "
            f"waiting for {self.bottleneck}"
        )
