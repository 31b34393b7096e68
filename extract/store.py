"""The HDF5 feature file: one per video, written atomically, verified when read.

h5py alone can read it: ``/segments/features`` (V, S, D), ``/segments/frames`` (S, 2),
``/segments/seconds`` (S, 2); if clips are kept, ``/clips/features`` (N_clips, V, D) and
``/clips/frames``; for damaged videos, ``/damage/frames`` (n, 2) and ``/damage/seconds`` (n, 2).
Everything else is in the attributes of the root group. `extract.sealed` describes how its bytes
are protected.
Legend: V views, S segments, D = time positions x channels, time-major.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vigil.extract.clips import ClipGrid
from vigil.extract.damage import damaged_share
from vigil.extract.files import path_below, replace_file
from vigil.extract.sealed import (
    FORMAT,
    FORMAT_VERSION,
    USER_BLOCK_SIZE,
    FeatureFileError,
    content_digest,
    damaged,
    open_sealed,
    seal,
)
from vigil.extract.segments import segment_ranges
from vigil.extract.source import VideoIdentity
from vigil.extract.spec import FeaturePart, FeatureSpec

SUFFIX = ".h5"


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """Everything in one feature file."""

    features: npt.NDArray[np.floating]
    """(V, S, D) float16 or float32."""
    segment_frames: npt.NDArray[np.int64]
    """(S, 2) half-open ranges of decoded frames."""
    segment_seconds: npt.NDArray[np.float64]
    """(S, 2) from the frames' own timestamps; the first frame is at 0."""
    clip_features: npt.NDArray[np.floating] | None
    """(N_clips, V, D), only if clips are kept."""
    clip_frames: npt.NDArray[np.int64] | None
    """(N_clips, 2) half-open ranges of real frames, only if clips are kept."""
    views: tuple[str, ...]
    spec: FeatureSpec
    time_positions: int
    channels: int
    weights_name: str
    weights_trained: bool
    """False for random weights, which make the features meaningless."""
    precision: str
    rung: str
    """Form of the network that computed them, such as folded or plain; empty in older files."""
    device: str
    decoder: str
    video: VideoIdentity
    fps: float
    width: int
    height: int
    num_frames_container: int
    """Number that the container states; 0 if it states none."""
    num_frames_decoded: int
    """0 if unknown, as for some imported features; the segments then hold no frames."""
    num_frames_damaged: int
    """Frames that are lost, or were decoded with errors."""
    num_frames_lost: int
    """Only those that are lost; 0 in files of version 1."""
    damage_frames: npt.NDArray[np.int64]
    """(n, 2) damaged ranges, as in `Damage.frames`; empty in files of version 1."""
    damage_seconds: npt.NDArray[np.float64]
    """(n, 2) the same, from the frames' own timestamps."""
    duration_container: float
    """Seconds that the container states; 0 if it states none."""
    versions: dict[str, str]
    created_at: str
    parts: tuple[FeaturePart, ...] = ()
    """For a combination of backbones, where in D each one's values lie."""

    @property
    def damaged_share(self) -> float:
        """Share of the expected frames that are lost or damaged, 0..1."""
        return damaged_share(self.num_frames_damaged, self.num_frames_lost, self.num_frames_decoded)

    def select_views(self, names: Sequence[str]) -> npt.NDArray[np.floating]:
        """Return (v, S, D), the features of the named views in the order given.

        Raises:
            FeatureFileError: a view is missing, or a value is not finite; names the views, or the
                first place.
        """
        missing = [name for name in names if name not in self.views]
        if missing:
            raise FeatureFileError(
                f"{self.video.path}: its features hold the views {', '.join(self.views)}, not "
                f"{', '.join(missing)}: extract again with more views, or request fewer"
            )
        features = self.features[[self.views.index(name) for name in names]]
        is_finite = np.isfinite(features).all(axis=2)
        if not is_finite.all():
            view, segment = np.argwhere(~is_finite)[0]
            raise FeatureFileError(
                f"{self.video.path}: its features are not finite (view {names[view]}, segment "
                f"{segment}): repair them with vigil features verify"
            )
        return features


def feature_path(root: Path, video: str) -> Path:
    """Return the feature file of a video: ``<root>/<video path relative to its root>.h5``."""
    return path_below(root, video + SUFFIX)


def list_features(root: Path) -> dict[str, Path]:
    """Map relative video paths (forward slashes) to their feature files, sorted by name.

    Raises:
        FeatureFileError: the folder does not exist.
    """
    if not root.is_dir():
        raise FeatureFileError(f"{root} is not a folder of features: run vigil extract first")
    files = {
        path.relative_to(root).as_posix().removesuffix(SUFFIX): path
        for path in root.rglob(f"*{SUFFIX}")
        if not path.name.startswith(".")
    }
    return dict(sorted(files.items()))


def write_features(path: Path, video: VideoFeatures) -> None:
    """Write a feature file atomically.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    # Built in memory: HDF5 crashes the process, instead of raising, when a disk fills up.
    # With v110, HDF5 adds checksums to its own structures.
    content = io.BytesIO()
    with h5py.File(content, "w", libver="v110", userblock_size=USER_BLOCK_SIZE) as file:
        _write_array(file, "segments/features", video.features, by_view=True)
        _write_array(file, "segments/frames", video.segment_frames)
        _write_array(file, "segments/seconds", video.segment_seconds)
        if video.clip_features is not None and video.clip_frames is not None:
            _write_array(file, "clips/features", video.clip_features, by_view=True)
            _write_array(file, "clips/frames", video.clip_frames)
        if len(video.damage_frames):
            _write_array(file, "damage/frames", video.damage_frames)
            _write_array(file, "damage/seconds", video.damage_seconds)
        file.attrs.update(_attributes(video))
        file.attrs["content_digest"] = content_digest(file)
        file.attrs["complete"] = np.uint8(1)
    seal(content.getbuffer())
    with replace_file(path) as partial:
        partial.write_bytes(content.getbuffer())


def _write_array(
    file: h5py.File, name: str, array: npt.NDArray[Any], by_view: bool = False
) -> None:
    chunks = (1, *array.shape[1:]) if by_view else array.shape
    file.create_dataset(name, data=array, chunks=chunks, fletcher32=True)


def _attributes(video: VideoFeatures) -> dict[str, Any]:
    parts = json.dumps([asdict(part) for part in video.parts])
    return ({"parts": parts} if video.parts else {}) | {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "spec": video.spec.to_json(),
        "spec_digest": video.spec.digest,
        "backbone": video.spec.backbone,
        "views": list(video.views),
        "time_positions": video.time_positions,
        "channels": video.channels,
        "weights_name": video.weights_name,
        "weights_digest": video.spec.weights_digest,
        "weights_trained": video.weights_trained,
        "precision": video.precision,
        "rung": video.rung,
        "device": video.device,
        "decoder": video.decoder,
        "video_path": video.video.path.encode(errors="backslashreplace").decode(),
        "video_bytes": video.video.num_bytes,
        "video_modified_ns": video.video.modified_ns,
        "video_digest": video.video.digest,
        "fps": video.fps,
        "width": video.width,
        "height": video.height,
        "num_frames_container": video.num_frames_container,
        "num_frames_decoded": video.num_frames_decoded,
        "num_frames_damaged": video.num_frames_damaged,
        "num_frames_lost": video.num_frames_lost,
        "duration_container": video.duration_container,
        "versions": json.dumps(video.versions, sort_keys=True),
        "created_at": video.created_at,
    }


def read_features(path: Path) -> VideoFeatures:
    """Read a feature file, checking its checksums, shapes and frame ranges.

    Raises:
        FeatureFileError: it is missing, not a feature file, incomplete, damaged or unreadable.
    """
    with open_sealed(path) as file:
        video = _read(file)
        _check_fit(video)
    return video


def read_identity(path: Path) -> VideoFeatures:
    """Read a feature file, leaving the feature arrays empty, to plan a run."""
    with open_sealed(path) as file:
        return _read(file, arrays=False)


def verify_features(path: Path) -> VideoFeatures:
    """Read a feature file, checking every byte of it.

    Raises:
        FeatureFileError: as in `read_features`; also if the digest of all datasets and attributes
            is wrong, or a value is not finite.
    """
    with open_sealed(path) as file:
        if file.attrs["content_digest"] != content_digest(file):
            raise damaged(path, "its content does not match its digest")
        video = _read(file)
        _check_fit(video)
        clips = video.features[:0] if video.clip_features is None else video.clip_features
        if not (np.isfinite(video.features).all() and np.isfinite(clips).all()):
            raise damaged(path, "it holds values that are not finite")
    return video


def _check_fit(video: VideoFeatures) -> None:
    """Refuse a file with inconsistent parts, even if its bytes are as written.

    Raises:
        ValueError: names the part.
    """
    num_views, num_frames = len(video.views), video.num_frames_decoded
    num_segments, size = video.spec.num_segments, video.time_positions * video.channels
    shape = (num_views, num_segments, size)
    if video.features.shape != shape or video.features.dtype.kind != "f" or not num_views:
        raise ValueError(f"features have the shape {video.features.shape}, {video.features.dtype}")
    ends = [0, *(part.stop for part in video.parts)]
    if video.parts and ends != [*(part.offset for part in video.parts), size]:
        raise ValueError("its parts do not make up a feature")
    ranges = segment_ranges(num_frames, num_segments)
    fewest = 1 if video.spec.origin is None else 0
    if num_frames < fewest or not np.array_equal(video.segment_frames, ranges):
        raise ValueError("segments do not partition the decoded frames")
    if video.segment_seconds.shape != (num_segments, 2):
        raise ValueError(f"segment seconds have the shape {video.segment_seconds.shape}")
    if video.clip_features is not None and video.clip_frames is not None:
        grid = ClipGrid(video.spec.clip_frames, video.spec.clip_stride)
        num_clips = grid.num_clips(num_frames)
        if video.clip_features.shape != (num_clips, num_views, size):
            raise ValueError(f"clip features have the shape {video.clip_features.shape}")
        if not np.array_equal(video.clip_frames, grid.frame_ranges(num_frames)):
            raise ValueError("clips do not match the decoded frames")
    edges = np.concatenate([[0], video.damage_frames.ravel(), [num_frames]])
    if video.damage_seconds.shape != video.damage_frames.shape or (np.diff(edges) < 0).any():
        raise ValueError("its damaged ranges do not fit the decoded frames")
    times = np.concatenate([video.segment_seconds, video.damage_seconds]).ravel()
    if not np.isfinite([*times, video.fps, video.duration_container]).all():
        raise ValueError("it holds times that are not finite")


def _read(file: h5py.File, arrays: bool = True) -> VideoFeatures:
    attributes = dict(file.attrs)
    features = file["segments/features"]
    clips = file.get("clips/features")
    none = {"frames": np.empty((0, 2), np.int64), "seconds": np.empty((0, 2))}
    damage = file.get("damage", none)
    spec = FeatureSpec.from_json(attributes["spec"])
    if spec.digest != attributes["spec_digest"]:
        raise ValueError("its spec does not match the spec's digest")
    return VideoFeatures(
        features=features[()] if arrays else features[:0],
        segment_frames=file["segments/frames"][()],
        segment_seconds=file["segments/seconds"][()],
        clip_features=None if clips is None else clips[()] if arrays else clips[:0],
        clip_frames=None if clips is None else file["clips/frames"][()],
        views=tuple(str(view) for view in attributes["views"]),
        spec=spec,
        time_positions=int(attributes["time_positions"]),
        channels=int(attributes["channels"]),
        weights_name=str(attributes["weights_name"]),
        weights_trained=bool(attributes["weights_trained"]),
        precision=str(attributes["precision"]),
        rung=str(attributes.get("rung", "")),
        device=str(attributes["device"]),
        decoder=str(attributes["decoder"]),
        video=VideoIdentity(
            path=str(attributes["video_path"]),
            num_bytes=int(attributes["video_bytes"]),
            modified_ns=int(attributes["video_modified_ns"]),
            digest=str(attributes["video_digest"]),
        ),
        fps=float(attributes["fps"]),
        width=int(attributes["width"]),
        height=int(attributes["height"]),
        num_frames_container=int(attributes["num_frames_container"]),
        num_frames_decoded=int(attributes["num_frames_decoded"]),
        num_frames_damaged=int(attributes["num_frames_damaged"]),
        num_frames_lost=int(attributes.get("num_frames_lost", 0)),
        damage_frames=damage["frames"][()],
        damage_seconds=damage["seconds"][()],
        duration_container=float(attributes.get("duration_container", 0)),
        versions=json.loads(attributes["versions"]),
        created_at=str(attributes["created_at"]),
        parts=tuple(
            FeaturePart(
                name=str(part["name"]),
                offset=int(part["offset"]),
                time_positions=int(part["time_positions"]),
                channels=int(part["channels"]),
            )
            for part in json.loads(attributes.get("parts", "[]"))
        ),
    )
