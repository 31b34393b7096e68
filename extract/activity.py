"""What the stages of an extraction have done, and which of them the others wait for."""

import math
from dataclasses import dataclass, fields, replace

SPARE = 1.25
"""Workers are wanted for this many times the clips that the devices take."""
BUSY = 0.9
"""A device that works for this part of its time is what the others wait for."""

MIN_CLIPS = 8
"""Clips before which the rates are not believed."""


@dataclass
class Activity:
    """What has been done so far."""

    num_devices: int = 1
    num_frames: int = 0
    """Frames of the clips that have been through a device; a video's last clip counts as full."""
    num_clips: int = 0
    """Clips, all their views, that have been through a device."""
    num_clips_decoded: int = 0
    num_workers: int = 0
    decode_seconds: float = 0.0
    """Summed over the workers; not what they waited."""
    busy_seconds: float = 0.0
    """Time that devices spent on clips, summed over them."""
    waited_seconds: float = 0.0
    """Time that devices had no clip, from their first one on."""
    disk_seconds: float = 0.0
    """Time that everything waited for features to be written or put aside."""

    @property
    def device_share(self) -> float:
        """The part of its time, 0..1, that a device spends on clips."""
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
        if self.num_clips < MIN_CLIPS:
            return 1
        decode = self.decode_seconds / self.num_clips_decoded
        compute = self.busy_seconds / self.num_clips / self.num_devices
        return math.ceil(SPARE * decode / compute)

    def since(self, earlier: "Activity") -> "Activity":
        """What has been done after an earlier moment."""
        changes = {
            counter.name: getattr(self, counter.name) - getattr(earlier, counter.name)
            for counter in fields(self)
            if counter.name not in ("num_devices", "num_workers")
        }
        return replace(self, **changes)

    def describe(self) -> str:
        """Who waits for whom, in a few words."""
        return (
            f"device busy {self.device_share:.0%}, {self.num_workers} decoding, "
            f"waiting for {self.bottleneck}"
        )
