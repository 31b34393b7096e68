"""The clip grid: clip index <-> half-open frame range.

A clip is ``clip_frames`` consecutive frames. Clip k starts at frame ``k * stride``. Only the last
one may be short; it is filled up by repeating its last frame.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vigil.extract.errors import UserError

CLIP_FRAMES = 64
"""Length of a clip in frames, and stride of clips that do not overlap."""
VIEW_SIZE = 224
"""Height and width of a view in pixels; neither side of a clip's frames is shorter."""


def new_array(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Allocate memory for a clip, not yet filled."""
    return np.empty(shape, np.uint8)


@dataclass(frozen=True)
class ClipGrid:
    """Clip index <-> frame range, for a clip length and a stride in frames."""

    clip_frames: int = CLIP_FRAMES
    stride: int = CLIP_FRAMES

    def __post_init__(self) -> None:
        """Refuse a grid that would skip frames.

        Raises:
            UserError: the clip length is not positive or the stride lies outside 1..clip_frames.
        """
        if self.clip_frames < 1:
            raise UserError(f"clip length {self.clip_frames} is not positive: use {CLIP_FRAMES}")
        if not 1 <= self.stride <= self.clip_frames:
            raise UserError(
                f"clip stride {self.stride} is not in 1..{self.clip_frames}: a larger stride would "
                f"skip frames; use {CLIP_FRAMES} for clips that do not overlap"
            )

    def num_clips(self, num_frames: int) -> int:
        """Return the number of clips in a video; every frame is in at least one of them."""
        if num_frames < 1:
            return 0
        return -(-max(num_frames - self.clip_frames, 0) // self.stride) + 1

    def frame_range(self, clip_index: int, num_frames: int) -> tuple[int, int]:
        """Return the half-open range of the real frames of a clip.

        Raises:
            IndexError: there is no such clip in a video of that many frames.
        """
        if not 0 <= clip_index < self.num_clips(num_frames):
            raise IndexError(f"there is no clip {clip_index} in a video of {num_frames} frames")
        start = clip_index * self.stride
        return start, min(start + self.clip_frames, num_frames)

    def frame_ranges(self, num_frames: int) -> npt.NDArray[np.int64]:
        """Return (num_clips, 2) int64, the half-open frame range of every clip."""
        starts = np.arange(self.num_clips(num_frames), dtype=np.int64) * self.stride
        return np.stack([starts, np.minimum(starts + self.clip_frames, num_frames)], axis=1)

    def source_ranges(
        self, samples: npt.NDArray[np.int64], num_frames: int
    ) -> npt.NDArray[np.int64]:
        """Return (num_clips, 2) int64, the half-open ranges of a video that its clips stand for.

        Together they cover every frame of the video, those that no clip shows, too; at an edge, two
        clips may show the same frame.

        Args:
            samples: (M,) the frames of the video of which clips are made, in order.
            num_frames: of the video.
        """
        starts, stops = self.frame_ranges(len(samples)).T
        next_samples = np.append(samples, num_frames)[stops]
        stops = np.maximum(samples[stops - 1] + 1, next_samples)
        return np.stack([samples[starts], stops], axis=1)

    def cut(
        self,
        frames: Iterable[npt.NDArray[np.uint8]],
        new_clip: Callable[[tuple[int, ...]], npt.NDArray[np.uint8]] = new_array,
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the clips of a stream of frames, in order.

        Clip k of the result covers ``frame_range(k, N)``, N being the number of frames. Each frame
        is copied into its clip as it arrives, so memory does not grow with the length of the video;
        frames that two clips share are copied from one to the next.

        Args:
            frames: (H, W, 3) uint8, all of one size.
            new_clip: returns the memory (clip_frames, H, W, 3) for a clip when its first frame
                arrives; the previous clip's must not change until the next clip is yielded.

        Yields:
            (clip_frames, H, W, 3) uint8; the last one filled up with its last real frame.
        """
        clip = previous = None
        num_filled = 0
        for frame in frames:
            if clip is None:
                clip = new_clip((self.clip_frames, *frame.shape))
                if previous is not None:
                    num_filled = self.clip_frames - self.stride
                    clip[:num_filled] = previous[self.stride :]
            clip[num_filled] = frame
            num_filled += 1
            if num_filled == self.clip_frames:
                yield clip
                clip, previous, num_filled = None, clip, 0
        if clip is not None:
            clip[num_filled:] = clip[num_filled - 1]
            yield clip
