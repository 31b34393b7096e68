"""Divide videos among processes, each of which loads only the features of its own share.

Legend: N videos, R bags.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vigil.data.annotations import Annotation
from vigil.data.bags import BagSet, check_same_kind


def deal(
    annotations: Mapping[str, Annotation], share: int, num_shares: int
) -> dict[str, Annotation]:
    """The videos of one share: every so many of each class, so that all shares are alike."""
    in_order = sorted(annotations, key=lambda video: (annotations[video].class_name, video))
    return {video: annotations[video] for video in in_order[share::num_shares]}


def without_features(bags: BagSet) -> BagSet:
    """All that is known of bags, to be told to another process."""
    return replace(bags, features=bags.features[:0].copy())


def join_shares(shares: Sequence[BagSet], index: int, own: BagSet) -> BagSet:
    """The bags of all shares as if one process had loaded them, with the features of one share.

    Args:
        shares: what is known of each share.
        index: of the share whose features are here.
        own: that share.

    Raises:
        BagError: the features of two shares were extracted with different settings.
    """
    for other in shares[1:]:
        check_same_kind(shares[0], other, shares[0].videos[0], other.videos[0])
    videos = [video for share in shares for video in share.videos]
    order = np.array(sorted(range(len(videos)), key=videos.__getitem__))
    num_spans = np.concatenate([share.num_spans for share in shares])
    stops = num_spans.cumsum()
    rows = np.concatenate([np.arange(stops[i] - num_spans[i], stops[i]) for i in order])  # (R,)
    places = rows - sum(len(share.num_frames) for share in shares[:index])
    is_here = (places >= 0) & (places < len(own.num_frames))
    dtype = np.result_type(*(share.features.dtype for share in shares))
    return replace(
        own,
        features=own.storage.widened(own.features, len(own.features), dtype),
        held=np.where(is_here, places, -1),
        segment_frames=np.concatenate([share.segment_frames for share in shares])[rows],
        num_frames=np.concatenate([share.num_frames for share in shares])[rows],
        fps=np.concatenate([share.fps for share in shares])[rows],
        class_indices=np.concatenate([share.class_indices for share in shares])[order],
        videos=tuple(videos[i] for i in order),
        num_spans=num_spans[order],
        weights_name=min(shares, key=lambda share: share.videos[0]).weights_name,
        weights_trained=all(share.weights_trained for share in shares),
        precision="+".join(sorted({p for share in shares for p in share.precision.split("+")})),
    )
