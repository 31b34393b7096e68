"""Where in the frames a score comes from: class activation, laid over the frames of clips.

Legend: n clips of a bag, V views, T time positions of a feature, C channels, t, h, w a map's sides,
H, W a frame's sides.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from vigil.extract.clips import VIEW_SIZE
from vigil.extract.decode.chosen_clips import read_clips
from vigil.extract.decode.decoder_table import AUTO, DECODER_NAMES
from vigil.extract.decode.reader import ReadingOptions
from vigil.extract.engine.cutting import cut_view
from vigil.extract.errors import UserError, VideoError
from vigil.extract.networks.class_activation import Activations
from vigil.extract.source import SourceVideo
from vigil.extract.store import VideoFeatures
from vigil.extract.views import SQUEEZE, VIEWS, WHOLE
from vigil.pipeline.explaining.attribution import Attribution
from vigil.pipeline.explaining.moment import Bag
from vigil.pipeline.scores.spans import seconds_at

FloatArray = npt.NDArray[np.float64]

MAX_CLIPS = 3
MAX_PICTURES = 12
LARGEST_ERROR = 0.2
"""By which a clip's feature, computed anew in float32, may differ from the stored one (L2,
relative): above what 16 bits cost, and far below what another clip would make."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame of a video with the activation around its time."""

    seconds: float
    pixels: npt.NDArray[np.uint8]
    """(H, W, 3)."""
    places: FloatArray
    """(H, W), 0 and up; not finite where no view sees."""


def find_pictures(
    video: SourceVideo,
    features: VideoFeatures,
    bag: Bag,
    views: Sequence[str],
    attribution: Attribution,
    activations: Activations,
) -> list[Picture]:
    """The frames with most activation, in order of time, from the clips around the segment.

    Args:
        video: is read again from its beginning up to these clips.
        features: of the video.
        bag: that was explained.
        views: that were scored.
        attribution: of the bag.
        activations: of the network that made the features.

    Raises:
        UserError: the frames no longer give the stored features, or nothing speaks for the score.
    """
    chosen = clips_around(bag, attribution)
    clips = clips_of(video, features, {bag.first_clip + clip for clip in chosen})
    found: list[tuple[float, Picture]] = []
    for clip in chosen:
        pixels = clips[bag.first_clip + clip]
        maps = [
            on_frame(
                _checked(activations, pixels, view, attribution, features, bag, clip, row),
                view,
                pixels.shape[1:3],
            )
            for row, view in enumerate(views)
        ]
        found += _pictures(pixels, np.stack(maps), features, bag.first_clip + clip)
    if not any(total > 0 for total, _ in found):
        raise UserError("no place in the frames speaks for the score: explain another moment")
    found.sort(key=lambda one: -one[0])
    return sorted((one for _, one in found[:MAX_PICTURES]), key=lambda one: one.seconds)


def clips_around(bag: Bag, attribution: Attribution) -> list[int]:
    """The clips of a bag to look into: of those at most a clip from its segment, the weightiest.

    Evidence farther away comes from what a model compares a segment with, such as the mean of the
    scene: what is there does not show what the segment is.
    """
    content = bag.features
    assert content.clip_frames is not None
    start, stop = content.segment_frames[bag.segment]
    reach = int(np.diff(content.clip_frames).max())
    starts, stops = content.clip_frames.T
    (near,) = np.nonzero((starts < stop + reach) & (stops > start - reach))
    favour = np.maximum(attribution.evidence[near], 0).sum(axis=1)
    return sorted(near[np.argsort(-favour, kind="stable")[:MAX_CLIPS]].tolist())


def clips_of(
    video: SourceVideo, features: VideoFeatures, wanted: Collection[int]
) -> dict[int, npt.NDArray[np.uint8]]:
    """The clips (64, H, W, 3) with these numbers, decoded as when features were extracted.

    Raises:
        UserError: the video cannot be read, or ends before one of them.
    """
    spec = features.spec
    options = ReadingOptions(
        spec.grid, spec.short_side, deinterlace=spec.deinterlace, frame_rate=spec.frame_rate
    )
    decoder = features.decoder if features.decoder in DECODER_NAMES else AUTO
    try:
        return read_clips(video, options, decoder, wanted)
    except VideoError as error:
        raise UserError(
            f"{video.name} can no longer be read as when its features were extracted "
            f"({error.reason}): extract it again with --overwrite"
        ) from error


def _checked(
    activations: Activations,
    pixels: npt.NDArray[np.uint8],
    view: str,
    attribution: Attribution,
    features: VideoFeatures,
    bag: Bag,
    clip: int,
    row: int,
) -> FloatArray:
    """The activation (t, h, w) of a view of a clip whose feature is the stored one."""
    seen = cut_view(torch.from_numpy(pixels), view)
    activation = activations.of(seen, attribution.gradient[clip, row])
    assert features.clip_features is not None
    number = bag.first_clip + clip
    stored = features.clip_features[number : number + 1][0, features.views.index(view)]
    stored = stored.astype(np.float64)  # squares of 16-bit values overflow
    error = np.linalg.norm(activation.features.ravel() - stored)
    if not error <= LARGEST_ERROR * np.linalg.norm(stored):
        raise UserError(
            f"{features.video.path}: clip {number} no longer gives its stored feature (it differs "
            f"by {error:.2g}, its length is {np.linalg.norm(stored):.2g}): extract it again with "
            "--overwrite"
        )
    return activation.places


def on_frame(places: FloatArray, view: str, size: tuple[int, ...]) -> FloatArray:
    """Lay a view's activation (t, h, w) over its part of the frame, without what is negative.

    Returns:
        (t, H, W), bilinear between the places of the map; NaN where the view does not see.
    """
    height, width = size
    top = left = 0
    rows, columns = height, width
    if view in VIEWS:
        top, left = VIEWS[view].corner(height, width)
        rows = columns = VIEW_SIZE
        places = places[:, :, ::-1] if VIEWS[view].mirrored else places
    elif view == WHOLE:
        rows, columns = height - height % 2, width - width % 2
    elif view != SQUEEZE:
        raise UserError(f"the view {view!r} has no known place in the frame: use center")
    positive = torch.from_numpy(np.maximum(places, 0))[None]
    resized = functional.interpolate(positive, (rows, columns), mode="bilinear")[0].numpy()
    frame = np.full((len(places), height, width), np.nan)
    frame[:, top : top + rows, left : left + columns] = resized
    return frame


def _pictures(
    pixels: npt.NDArray[np.uint8], maps: FloatArray, features: VideoFeatures, clip: int
) -> list[tuple[float, Picture]]:
    """Each frame that stands for a position of a clip, with its total activation.

    Args:
        pixels: (64, H, W, 3) of the clip.
        maps: (V, t, H, W), of which the mean over the views that see a place is drawn.
        features: of the video.
        clip: its number.
    """
    assert features.clip_frames is not None
    sees = np.isfinite(maps[:, 0])
    with np.errstate(invalid="ignore"):
        mean = np.nansum(maps, axis=0) / np.where(sees.any(axis=0), sees.sum(axis=0), np.nan)
    length = int(features.clip_lengths[clip])
    start, stop = features.clip_frames[clip].tolist()
    found = []
    for position, places in enumerate(mean):
        index = int((position + 0.5) * len(pixels) / len(mean))
        if index >= length:  # it fills up the video's last clip
            break
        frame = start + index * (stop - start) // length
        seconds = float(seconds_at(features, np.array([frame]))[0])
        found.append((float(np.nansum(places)), Picture(seconds, pixels[index], places)))
    return found
