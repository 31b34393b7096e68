"""The HDF5 feature file: one per video, written atomically, verified when read.

h5py alone can read it: ``/segments/features`` (V, S, D), ``/segments/frames`` (S, 2),
``/segments/seconds`` (S, 2); if clips are kept, ``/clips/features`` (N_clips, V, D),
``/clips/frames`` and ``/frames/seconds`` (N + 1,); if static clips are skipped,
``/clips/computed`` (N_clips,); for damaged videos, ``/damage/frames`` (n, 2) and
``/damage/seconds`` (n, 2). Everything else is in the attributes of the root group.
`extract.sealed` describes how its bytes are protected.
Legend: V views, S segments, D = time positions x channels, time-major.
"""

import json
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vigil.extract.damage import damaged_share
from vigil.extract.files import path_below
from vigil.extract.sealed import (
    COMPRESSED,
    FeatureFileError,
    check_unsealed,
    checked,
    damaged,
    open_sealed,
    reading,
    write_sealed,
)
from vigil.extract.segments import ClipFeatures, segment_ranges, slices
from vigil.extract.source import VideoIdentity
from vigil.extract.spec import FeaturePart, FeatureSpec
from vigil.extract.versions import installed_versions

SUFFIX = ".h5"
DATASETS = {
    "features": "segments/features",
    "segment_frames": "segments/frames",
    "segment_seconds": "segments/seconds",
    "clip_features": "clips/features",
    "clip_frames": "clips/frames",
    "clip_computed": "clips/computed",
    "frame_seconds": COMPRESSED,
    "damage_frames": "damage/frames",
    "damage_seconds": "damage/seconds",
}
"""Field of `VideoFeatures` -> the dataset that holds it, if there is anything to hold."""
FRAMES_PER_CHUNK = 1 << 16
"""Times of frames that are compressed together."""
LACKING: dict[str, Any] = {
    "rung": "",
    "num_frames_lost": 0,
    "duration_container": 0,
    "rotation_ignored": 0,
    "num_clock_jumps": 0,
    "first_jump_seconds": 0,
    "rate_source": "",
    "num_bytes_unread": 0,
    "num_frames_sampled": 0,
    "parts": "[]",
}
"""What it means if a file lacks an attribute, as older ones do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoFeatures:
    """Everything in one feature file; numbers and texts are attributes of the same names."""

    features: npt.NDArray[np.floating]
    """(V, S, D) float16 or float32."""
    segment_frames: npt.NDArray[np.int64]
    """(S, 2) half-open ranges of decoded frames."""
    segment_seconds: npt.NDArray[np.float64]
    """(S, 2) from the frames' own timestamps; the first frame is at 0."""
    clip_features: ClipFeatures | None = None
    """(N_clips, V, D), only if clips are kept; an array, or what loads the slices asked for."""
    clip_frames: npt.NDArray[np.int64] | None = None
    """(N_clips, 2) half-open ranges of decoded frames, only if clips are kept."""
    clip_computed: npt.NDArray[np.bool_] | None = None
    """(N_clips,) whether each clip was computed; if not, it is static and has the feature of the
    last one before it that was. Only if the spec lets static clips be skipped."""
    frame_seconds: npt.NDArray[np.float64] | None = None
    """(N + 1,) seconds at which each frame starts and the last one ends, only if clips are kept;
    None in older and imported files."""
    views: tuple[str, ...]
    spec: FeatureSpec
    time_positions: int
    channels: int
    weights_name: str
    weights_trained: bool
    """False for random weights, which make the features meaningless."""
    precision: str
    rung: str = ""
    """Form of the network that computed them, such as folded or plain; empty in older files."""
    device: str
    decoder: str
    video: VideoIdentity
    fps: float
    width: int
    height: int
    num_frames_container: int = 0
    """Number that the container states, without hidden ones; 0 if it states none."""
    num_frames_decoded: int
    """0 if unknown, as for some imported features; the segments then hold no frames."""
    num_frames_sampled: int = 0
    """With a frame rate in the spec, number of frames of which clips are made, repeated ones too; 0
    without one: each decoded frame once."""
    num_frames_damaged: int = 0
    """Frames that are lost, or were decoded with errors."""
    num_frames_lost: int = 0
    """Only those that are lost; 0 in files of version 1."""
    damage_frames: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    """(n, 2) damaged ranges, as in `Damage.frames`; empty in files of version 1."""
    damage_seconds: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    """(n, 2) the same, from the frames' own timestamps."""
    duration_container: float = 0
    """Seconds that the container states for the video stream; 0 if it states none."""
    rotation_ignored: float = 0
    """Degrees, clockwise, by which the file asks to turn frames beyond a multiple of 90."""
    num_clock_jumps: int = 0
    """How often the clock of the video jumps; times are continuous all the same."""
    first_jump_seconds: float = 0
    """Time of the first frame after the first jump."""
    rate_source: str = ""
    """Empty: the file states its times or its frame rate. Otherwise times follow from `fps`, which
    was given or assumed, or of which the file knows more than of single times (unknown times)."""
    num_bytes_unread: int = 0
    """Size of another recording that follows in the same file and was not read."""
    versions: dict[str, str] = field(default_factory=installed_versions)
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    parts: tuple[FeaturePart, ...] = ()
    """For a combination of backbones, where in D each one's values lie."""

    @property
    def damaged_share(self) -> float:
        """Share of the expected frames that are lost or damaged, 0..1."""
        return damaged_share(self.num_frames_damaged, self.num_frames_lost, self.num_frames_decoded)

    @property
    def static_share(self) -> float | None:
        """Share of the clips that were not computed, 0..1; None if the spec skips none."""
        return None if self.clip_computed is None else float(1 - self.clip_computed.mean())

    @property
    def num_frames_seen(self) -> int:
        """Number of frames that the clips show: those sampled, or all decoded ones."""
        return self.num_frames_sampled or self.num_frames_decoded

    @property
    def clip_lengths(self) -> npt.NDArray[np.int64]:
        """(N_clips,) number of frames in each clip that do not only fill it up."""
        return np.diff(self.spec.grid.frame_ranges(self.num_frames_seen))[:, 0]

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
                f"{segment}): let vigil features verify repair them"
            )
        return features


SCALARS: dict[str, Any] = {
    one.name: one.type for one in fields(VideoFeatures) if one.type in (bool, int, float, str)
}
"""Field of `VideoFeatures` that is an attribute of the same name -> its type."""


def feature_path(root: Path, video: str) -> Path:
    """Return the feature file of a video: ``<root>/<video path relative to its root>.h5``."""
    return path_below(root, video + SUFFIX)


def list_features(root: Path) -> dict[str, Path]:
    """Map relative video paths (forward slashes) to their feature files, sorted by name.

    Raises:
        FeatureFileError: the folder does not exist, or holds none.
    """
    if not root.is_dir():
        raise FeatureFileError(f"{root} is not a folder of features: run vigil extract first")
    files = {
        path.relative_to(root).as_posix().removesuffix(SUFFIX): path
        for path in root.rglob(f"*{SUFFIX}")
        if not path.name.startswith(".")
    }
    if not files:
        raise FeatureFileError(f"{root} holds no feature files: run vigil extract first")
    return dict(sorted(files.items()))


def write_features(path: Path, video: VideoFeatures) -> None:
    """Write a feature file atomically.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    write_sealed(path, lambda file: _fill(file, video))


def _fill(file: h5py.File, video: VideoFeatures) -> Iterator[None]:
    """Write the content of a feature file, and yield after each piece of it."""
    for field_name, dataset in DATASETS.items():
        array = getattr(video, field_name)
        if array is None or not len(array):
            continue
        chunks = (1, *array.shape[1:]) if "features" in field_name else array.shape
        filters: dict[str, Any] = {"fletcher32": True}
        if dataset == COMPRESSED:
            chunks = (min(len(array), FRAMES_PER_CHUNK),)
            filters |= {"compression": "gzip", "shuffle": True}
        there = file.create_dataset(dataset, array.shape, array.dtype, chunks=chunks, **filters)
        for some in slices(array):
            there[some] = array[some]
            yield
        del there  # closed now, a dataset is not mixed with the next one in the file
    file.attrs.update(_attributes(video))
    yield


def _attributes(video: VideoFeatures) -> dict[str, Any]:
    parts = json.dumps([asdict(part) for part in video.parts])
    return {
        **{name: getattr(video, name) for name in SCALARS if name != "num_frames_sampled"},
        **({"num_frames_sampled": video.num_frames_sampled} if video.num_frames_sampled else {}),
        **({"parts": parts} if video.parts else {}),
        "spec": video.spec.to_json(),
        "spec_digest": video.spec.digest,
        "backbone": video.spec.backbone,
        "weights_digest": video.spec.weights_digest,
        "views": list(video.views),
        "video_path": video.video.path.encode(errors="backslashreplace").decode(),
        "video_bytes": video.video.num_bytes,
        "video_modified_ns": video.video.modified_ns,
        "video_digest": video.video.digest,
        "versions": json.dumps(video.versions, sort_keys=True),
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


@contextmanager
def open_features(path: Path, every_byte: bool = False) -> Iterator[VideoFeatures]:
    """Yield the content of a feature file that `read_features` accepts, but load no clip features.

    While the block runs, slices of ``clip_features`` load what they cover, and nothing else.

    Args:
        path: of the file.
        every_byte: check the digest of files of version 1, too.

    Raises:
        FeatureFileError: as in `read_features`; also when a slice is loaded.
    """
    with ExitStack() as stack:
        with reading(path):
            file = stack.enter_context(checked(path))
            if every_byte:
                check_unsealed(file)
            video = _read(file, DATASETS.keys() - {"clip_features"})
            if video.clip_features is not None:
                stored = _StoredClips(path, file[DATASETS["clip_features"]])
                video = replace(video, clip_features=stored)
            _check_fit(video)
        yield video


@dataclass(frozen=True, eq=False)
class _StoredClips:
    """Clip features (N_clips, V, D) in an open feature file; slices are loaded."""

    path: Path
    dataset: h5py.Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.shape)

    @property
    def dtype(self) -> np.dtype[np.floating]:
        kind: np.dtype[np.floating] = self.dataset.dtype
        return kind

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, clips: slice, /) -> npt.NDArray[np.floating]:
        with reading(self.path):
            values: npt.NDArray[np.floating] = self.dataset[clips]
        return values


def read_identity(path: Path) -> VideoFeatures:
    """Read a feature file, leaving the feature arrays empty, to plan a run."""
    with open_sealed(path) as file:
        return _read(file, DATASETS.keys() - {"features", "clip_features", "frame_seconds"})


def verify_features(path: Path, load_clips: bool = True) -> VideoFeatures:
    """Read a feature file, checking every byte of it.

    Args:
        path: of the file.
        load_clips: return the clip features, too; otherwise none of them, as `read_identity` does.

    Raises:
        FeatureFileError: as in `read_features`; also if a value is not finite.
    """
    with open_features(path, every_byte=True) as video:
        clips = video.features[:0] if video.clip_features is None else video.clip_features
        for values in (video.features, clips):
            if not all(np.isfinite(values[some]).all() for some in slices(values)):
                raise damaged(path, "it holds values that are not finite")
        loaded = clips[:] if load_clips else clips[:0]
    return replace(video, clip_features=None if video.clip_features is None else loaded)


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
        if video.clip_features.shape != (len(video.clip_lengths), num_views, size):
            raise ValueError(f"clip features have the shape {video.clip_features.shape}")
        if not _covers(video.clip_frames, video):
            raise ValueError("clips do not match the decoded frames")
    elif video.clip_features is not None or video.clip_frames is not None:
        raise ValueError("it holds clip features without frames, or the reverse")
    if (video.clip_computed is not None) != (video.spec.static == "skip"):
        raise ValueError("what it says of static clips does not fit its spec")
    if video.clip_computed is not None:
        is_known = video.clip_computed.shape == (len(video.clip_lengths),)
        if not is_known or not video.clip_computed[0]:
            raise ValueError("the clips that were computed do not match the decoded frames")
    if video.frame_seconds is not None:
        _check_frame_seconds(video, video.frame_seconds)
    if (video.num_frames_sampled > 0) != (video.spec.frame_rate is not None):
        raise ValueError("its number of sampled frames does not fit its spec")
    edges = np.concatenate([[0], video.damage_frames.ravel(), [num_frames]])
    if video.damage_seconds.shape != video.damage_frames.shape or (np.diff(edges) < 0).any():
        raise ValueError("its damaged ranges do not fit the decoded frames")
    times = np.concatenate([video.segment_seconds, video.damage_seconds]).ravel()
    single = video.fps, video.duration_container, video.first_jump_seconds, video.rotation_ignored
    if not np.isfinite([*times, *single]).all():
        raise ValueError("it holds times that are not finite")


def _covers(clip_frames: npt.NDArray[np.int64], video: VideoFeatures) -> bool:
    """Whether ranges are those of the video's clips, as far as that can be known."""
    num_frames = video.num_frames_decoded
    if not video.num_frames_sampled:
        return np.array_equal(clip_frames, video.spec.grid.frame_ranges(num_frames))
    if clip_frames.shape != (len(video.clip_lengths), 2):
        return False
    starts, stops = clip_frames.T
    is_in_order = (np.diff(starts) >= 0).all() and (np.diff(stops) >= 0).all()
    has_no_gap = starts[0] == 0 and stops[-1] == num_frames and (starts[1:] <= stops[:-1]).all()
    return bool(is_in_order and has_no_gap and (starts < stops).all())


def _check_frame_seconds(video: VideoFeatures, edges: npt.NDArray[np.float64]) -> None:
    if video.clip_frames is None or edges.shape != (video.num_frames_decoded + 1,):
        raise ValueError(f"times of frames have the shape {edges.shape}")
    if not np.isfinite(edges).all() or (np.diff(edges) < 0).any():
        raise ValueError("times of frames decrease, or are not finite")
    if not np.array_equal(edges[video.segment_frames], video.segment_seconds):
        raise ValueError("times of frames do not match those of segments")


def _read(file: h5py.File, loaded: Set[str] = DATASETS.keys()) -> VideoFeatures:
    """Return a file's content; of the fields that are not in ``loaded``, the first 0 rows."""
    attributes = LACKING | dict(file.attrs)
    spec = FeatureSpec.from_json(attributes["spec"])
    if spec.digest != attributes["spec_digest"]:
        raise ValueError("its spec does not match the spec's digest")
    return VideoFeatures(
        **{
            field_name: file[dataset][: None if field_name in loaded else 0]
            for field_name, dataset in DATASETS.items()
            if dataset in file
        },
        **{name: kind(attributes[name]) for name, kind in SCALARS.items()},
        spec=spec,
        views=tuple(str(view) for view in attributes["views"]),
        video=VideoIdentity(
            path=str(attributes["video_path"]),
            num_bytes=int(attributes["video_bytes"]),
            modified_ns=int(attributes["video_modified_ns"]),
            digest=str(attributes["video_digest"]),
        ),
        versions=json.loads(attributes["versions"]),
        parts=tuple(
            FeaturePart(
                str(part["name"]),
                *(int(part[size]) for size in ("offset", "time_positions", "channels")),
            )
            for part in json.loads(attributes["parts"])
        ),
    )
